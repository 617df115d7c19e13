"""The section ``search``: from what the file says to parameters, each checked on its own.

An end of a range, and each choice, is also checked against the option that it is for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from hpo.errors import Problem
from hpo.spec import explain, locations, sections
from hpo.spec.document import Document
from hpo.spec.explain import shown
from hpo.spec.forms import ChoicesForm, Number, RangeForm
from hpo.spec.space import Choice, Float, Int, Parameter, Scalar
from hpo.spec.yaml12 import Path


@dataclass
class Parsed:
    """What the section says.

    Attributes:
        search: The parameters that are good, in the file's order.
        conditions: Path → its ``when``, as the file has it.
        broken: Paths that have problems.
    """

    search: dict[str, Parameter] = field(default_factory=dict)
    conditions: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def parse(document: Document, trainer: str | None, search: Mapping[str, Any]) -> Parsed:
    """Every parameter of the section, without its conditions.

    Args:
        trainer: As named in the file; None where that is not good.
    """
    parsed = Parsed()
    for path, form in search.items():
        reader = _Reader(document, trainer, path)
        parameter = reader.read(form)
        parsed.problems += reader.problems
        if parameter is None:
            parsed.broken.add(path)
        else:
            parsed.search[path] = parameter
        if reader.when:
            parsed.conditions[path] = reader.when
    _refuse_nested(document, parsed, list(search))
    return parsed


class _Reader:
    """Reads one parameter."""

    def __init__(self, document: Document, trainer: str | None, path: str) -> None:
        self.problems: list[Problem] = []
        self.when: Mapping[str, Any] | None = None
        self._document = document
        self._trainer = trainer
        self._path = path
        self._option: Any = None  # the type of the option, for a built-in trainer

    def read(self, form: Any) -> Parameter | None:
        """The parameter; None where it has problems."""
        try:
            self._option = locations.find(self._document.value, self._trainer, self._path)
        except locations.NotSearchable as error:
            self._wrong((), error.message, error.hint, at_key=True)
            return None
        if isinstance(form, list):
            parameter: Parameter | None = self._choices(form, ())
        elif not isinstance(form, dict):
            hint = f"[{form}], or put it into {self._path.split('.')[0]}" if form else None
            self._wrong((), f"expected a range or choices; got {shown(form)}", hint)
            parameter = None
        elif "choices" in form:
            parameter = self._choices_form(form)
        else:
            parameter = self._range_form(form)
        return None if any(not p.warning for p in self.problems) else parameter

    # -- choices

    def _choices_form(self, form: dict[str, Any]) -> Parameter | None:
        checked = self._form(ChoicesForm, form)
        return None if checked is None else self._choices(checked.choices, ("choices",))

    def _choices(self, listed: Sequence[Any], at: Path) -> Parameter | None:
        if len(listed) < 2:
            self._wrong(
                at,
                f"expected at least two choices; got {len(listed)}",
                f"put it into {self._path.split('.')[0]}: it is not searched" if listed else None,
            )
            return None
        choices: list[Scalar] = []
        for i, value in enumerate(listed):
            place = (*at, i)
            if isinstance(value, dict | list | tuple):
                self._wrong(
                    place,
                    f"a choice must be a single value; got {shown(value)}",
                    f"search its items, e.g. {self._path}.0" if isinstance(value, list) else None,
                )
            elif value != value or value in (float("inf"), float("-inf")):
                self._wrong(place, f"expected a finite number; got {shown(value)}")
            else:
                value = self._checked(place, value)
                # Optuna finds a choice by ==, for which true is 1.
                if value in choices:
                    first = choices[choices.index(value)]
                    name = shown(value)
                    self._wrong(
                        place,
                        f"{name} is twice among the choices"
                        if shown(first) == name
                        else f"{name} and {shown(first)} cannot be told apart",
                        "keep one of them",
                    )
                choices.append(value)
        return Choice(tuple(choices))

    # -- ranges

    def _range_form(self, form: dict[str, Any]) -> Parameter | None:
        checked = self._form(RangeForm, form)
        if checked is None:
            return None
        kind = self._kind(checked)
        if kind is None:
            return None
        before = len(self.problems)
        if kind == "int":
            self._check_whole(checked)
        self._check_range(checked, kind)
        flawed = {p.key.rsplit(".", 1)[-1] for p in self.problems[before:] if not p.warning}
        for name in ("low", "high"):
            if name not in flawed:
                self._checked((name,), getattr(checked, name))
        if any(not p.warning for p in self.problems[before:]):
            return None
        low, high = checked.low, checked.high
        if kind == "int":
            whole = None if checked.step is None else int(checked.step)
            return Int(int(low), int(high), checked.log, whole)
        step = None if checked.step is None else float(checked.step)
        return Float(float(low), float(high), checked.log, step)

    def _kind(self, form: RangeForm) -> Literal["int", "float"] | None:
        if self._option is None:
            whole = isinstance(form.low, int) and isinstance(form.high, int)
            return form.type or ("int" if whole and not isinstance(form.step, float) else "float")
        declared = sections.kind(self._option)
        if declared == "other":
            self._wrong((), "this option is not a number: expected choices", "e.g. [a, b]")
            return None
        if form.type not in (None, declared):
            self._wrong(("type",), f"this option is of type {declared}", "leave it out")
            return None
        return declared

    def _check_whole(self, form: RangeForm) -> None:
        for name in ("low", "high", "step"):
            value = getattr(form, name)
            if value is None:
                continue
            if abs(value) > 2**53:  # samplers compute with floats
                self._wrong((name,), f"expected a whole number up to 2^53; got {value}")
            elif value != int(value):
                self._wrong(
                    (name,), f"expected a whole number; got {value}", f"try {round(value)}"
                )

    def _check_range(self, form: RangeForm, kind: str) -> None:
        low, high, step = form.low, form.high, form.step
        if low > high:
            self._wrong(
                ("low",), f"expected at most high; got {low} > {high}", f"low: {high}, high: {low}"
            )
            return
        if low == high:
            self._wrong(
                ("high",), f"low and high are both {low}: nothing is searched", warning=True
            )
        if high - low == float("inf"):
            self._wrong(("high",), f"the range from {low} to {high} is too large")
            return
        if form.log and low <= 0:
            self._wrong(
                ("low",),
                f"expected a number > 0 because log is true; got {low}",
                "try 1" if kind == "int" else "try 1e-5",
            )
        if step is None:
            return
        if form.log:
            self._wrong(("step",), "log and step exclude each other", "remove one of them")
        elif step <= 0:
            self._wrong(("step",), f"expected a number > 0; got {step}")
        else:
            self._check_divides(low, high, step)

    def _check_divides(self, low: Number, high: Number, step: Number) -> None:
        # As Optuna does, in decimals: 0.3 is three times 0.1.
        first, last, width = (Decimal(repr(v)) for v in (low, high, step))
        if (last - first) / width > 10**9:
            self._wrong(("step",), f"{step} is too small a step for the range to {high}")
        elif rest := (last - first) % width:
            below, above = (f"{v.normalize():f}" for v in (last - rest, last - rest + width))
            self._wrong(
                ("step",),
                f"{step} does not divide the range from {low} to {high}",
                f"high: {below} or high: {above}",
            )

    # -- shared

    def _form(self, model: Any, form: dict[str, Any]) -> Any:
        try:
            checked = model.model_validate(form)
        except ValidationError as error:
            self.problems += explain.problems(
                self._document,
                ("search", self._path),
                form,
                error.errors(include_url=False),
                lambda path: [] if path else explain.known_keys(model),
            )
            return None
        self.when = checked.when
        return checked

    def _checked(self, at: Path, value: Any) -> Any:
        """`value` as the option has it, e.g. 1 as 1.0; a problem where it cannot."""
        if self._option is None:
            return value
        try:
            return _adapter(self._option).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            found = explain.problems(
                self._document,
                ("search", self._path, *at),
                value,
                error.errors(include_url=False),
                lambda path: [],
            )
            self.problems += found[:1]
            return value

    def _wrong(
        self,
        at: Path,
        message: str,
        hint: str | None = None,
        *,
        at_key: bool = False,
        warning: bool = False,
    ) -> None:
        path: Path = ("search", self._path, *at)
        self.problems.append(
            self._document.problem(path, message, hint, at_key=at_key, warning=warning)
        )


@cache
def _adapter(option: Any) -> TypeAdapter[Any]:
    return TypeAdapter(option)


def _refuse_nested(document: Document, parsed: Parsed, paths: Sequence[str]) -> None:
    for path in paths:
        above = [other for other in paths if path.startswith(f"{other}.")]
        if above:
            parsed.problems.append(
                document.problem(
                    ("search", path),
                    f"lies within {above[0]}, which is searched too",
                    "search one of them",
                    at_key=True,
                )
            )
            parsed.broken.add(path)
