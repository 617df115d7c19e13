"""The section ``search``: from what the file says to parameters, each checked on its own.

An end of a range, and each choice, is also checked against the option that it is for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from hpo.errors import Problem
from hpo.spec import explain, names, sections
from hpo.spec.document import Document
from hpo.spec.explain import nearest, shown, wrong
from hpo.spec.space import Choice, Float, Int, Parameter, Scalar
from hpo.spec.yaml12 import Path

Number = int | float


def _number(value: Any) -> Any:
    if sections.is_number(value):
        return value
    hint = None
    if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", value):
        hint = "remove the quotes"
    raise wrong(f"expected a finite number; got {shown(value)}", hint)


Finite = Annotated[Number, BeforeValidator(_number, json_schema_input_type=float)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RangeForm(_Form):
    """A range of numbers."""

    low: Finite = Field(description="The smallest value.")
    high: Finite = Field(description="The largest value.")
    log: bool = Field(False, description="Search on a logarithmic scale; low must be > 0.")
    step: Finite | None = Field(None, description="Only low, low + step, …, high.")
    type: Literal["int", "float"] | None = Field(
        None,
        description="Absent: as the option's type is; for your own trainer, int if low and high "
        "are whole numbers.",
    )
    when: dict[str, Any] | None = Field(
        None, description="Only where other searched paths have these values."
    )


class ChoicesForm(_Form):
    """Some values. In short, a list of them."""

    choices: list[Any] = Field(description="The values: text, numbers, true, false, null.")
    when: dict[str, Any] | None = Field(
        None, description="Only where other searched paths have these values."
    )


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
        self._check_path()
        if self.problems:
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

    # -- where

    def _check_path(self) -> None:
        parts = sections.as_path(self._path)
        section = parts[0]
        if section not in sections.NAMES or len(parts) < 2 or "" in parts:
            into = ", ".join(f"{name}.…" for name in sections.NAMES)
            self._wrong((), f"expected a path into {into}", self._guess(), at_key=True)
        elif section == "data" and parts[1] in sections.FIXED_DATA:
            self._wrong(
                (),
                f"data.{parts[1]} cannot be searched: it says what is compared",
                "give it one value in data",
                at_key=True,
            )
        elif message := names.wrong_with(self._path):
            self._wrong((), message, at_key=True)
        elif self._trainer is not None:
            self._check_option(parts)

    def _check_option(self, parts: Path) -> None:
        section, path = str(parts[0]), parts[1:]
        self._check_list(parts)
        model = sections.options(self._trainer or "", section)
        if model is None or self.problems:
            return
        found = sections.field(model, path)
        if found is None:
            self._wrong((), "there is no such option", self._guess(), at_key=True)
        elif sections.keys(model, path):
            inner = ", ".join(f"{self._path}.{key}" for key in sections.keys(model, path))
            self._wrong((), "this is a group of options, not one", f"known: {inner}", at_key=True)
        else:
            self._option = found[0]

    def _check_list(self, parts: Path) -> None:
        """An index must be of an item that is there."""
        model = sections.options(self._trainer or "", str(parts[0]))
        at = self._document.value.get(str(parts[0]))
        if not isinstance(at, dict):
            at = {}
        for depth, part in enumerate(parts[1:], start=1):
            if isinstance(at, list):
                at = at[part] if isinstance(part, int) and part < len(at) else _NOT_THERE
            elif isinstance(at, dict):
                at = at.get(part)
            elif at is not None:
                at = _NOT_THERE
            if at is None and depth == 1 and model is not None:
                info = model.model_fields.get(str(part))
                default = None if info is None or info.is_required() else info.default
                at = list(default) if isinstance(default, tuple) else None
            if at is _NOT_THERE:
                above = ".".join(map(str, parts[:depth]))
                longer = isinstance(part, int) and f"give {above} a list with {part + 1} items"
                self._wrong((), f"{above} has no {part}", longer or None, at_key=True)
                return

    def _guess(self) -> str | None:
        """What path may have been meant: a name like this one, in this section or another."""
        known = searchable(self._trainer) if self._trainer else []
        section, _, name = self._path.rpartition(".")
        beside = [path for path in known if path.startswith(f"{section.split('.')[0]}.")]
        for paths in (beside, known):
            close = nearest(name, (path.split(".", 1)[1] for path in paths))
            meant = [path for path in paths if path.split(".", 1)[1] == close]
            if meant:
                return f"did you mean {meant[0]!r}?"
        return f"known: {', '.join(beside or known)}" if known else "e.g. train.lr"

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
            for name in ("low", "high", "step"):
                value = getattr(checked, name)
                if value is not None and value != int(value):
                    self._wrong(
                        (name,), f"expected a whole number; got {value}", f"try {round(value)}"
                    )
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


_NOT_THERE = object()


def searchable(trainer: str) -> list[str]:
    """Every path that can be searched for a built-in trainer; items of lists as index 0."""
    found: list[str] = []

    def collect(model: type[BaseModel], path: Path) -> None:
        for key in sections.keys(model, path[1:]):
            if path == ("data",) and key in sections.FIXED_DATA:
                continue
            if sections.keys(model, (*path[1:], key)):
                collect(model, (*path, key))
            else:
                is_list = sections.field(model, (*path[1:], key, 0)) is not None
                found.append(".".join((*map(str, path), key, *(["0"] if is_list else []))))

    for section in sections.NAMES:
        model = sections.options(trainer, section)
        if model is not None:
            collect(model, (section,))
    return found


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
