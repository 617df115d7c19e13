"""Reading a study file: bytes and overrides in, a `StudySpec` or every problem out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpo.errors import Problem, StudyFileError, UserError
from hpo.paths import is_address
from hpo.spec import (
    addresses,
    checks,
    conditions,
    effects,
    explain,
    names,
    parameters,
    sections,
    starts,
    yaml12,
)
from hpo.spec.addresses import AddressError
from hpo.spec.commands import COMMAND
from hpo.spec.document import Document, read
from hpo.spec.executors import EXECUTORS
from hpo.spec.methods import PRUNERS, SAMPLERS, STRATEGIES, MethodOptions
from hpo.spec.plain import NotPlain, plain
from hpo.spec.space import Parameter
from hpo.spec.study import Named, Objective, StudySpec
from trainers.metrics import COSTS, asked
from trainers.options import TORCHVISION
from trainers.registry import TRAINERS

_EXAMPLES = {
    "study": "study: NAME",
    "trainer": "trainer: image_classifier",
    "command": 'command: [python, train.py, --lr, "{train.lr}"]',
    "data.source": "data: {source: digits}, or a path",
    "objective.metric": "metric: val/loss",
    "objective.goal": "goal: maximize, or minimize",
}
# What stands at the top level of other tools' files, or is their word for it.
_CALLED_OTHERWISE = {
    "retain": "keep_models",
    "n_jobs": "workers",
    "n_trials": "budget.trials",
    "direction": "objective.goal",
}


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """Read and check a study file. Nothing is created, and nothing of the user's is imported.

    Args:
        overrides: Dotted key → value; these win over the file.

    Raises:
        StudyFileError: With every problem in the file, in its order. What only the trainer or the
            data can tell is not among them.
    """
    return loads(_bytes_of(path), path, overrides)


def loads(
    data: bytes,
    path: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    recorded: bool = False,
) -> StudySpec:
    """The same of a file's content.

    Args:
        path: Where the file is, or was: what it names is looked for from its folder.
        recorded: It is one that `StudySpec.resolved` wrote, maybe at another version: settings
            without effect may stand in it.

    Raises:
        StudyFileError: As `load`.
    """
    document, problem = read(data)
    if document is None or problem is not None:
        raise StudyFileError(str(path), [problem] if problem else [])
    found = _override(document, overrides or {})
    spec, problems = _Loading(document, path, recorded).run()
    problems = _in_order([*found, *problems])
    errors = [problem for problem in problems if not problem.warning]
    if errors:
        raise StudyFileError(str(path), errors)
    spec._warnings = tuple(problems)
    return spec


def parse_value(text: str) -> Any:
    """The value of a ``--set KEY=VALUE``: a YAML scalar, ``[…]`` or ``{…}``.

    Raises:
        hpo.errors.UserError: It is not YAML.
    """
    try:
        return yaml12.read(text.encode()).value
    except (yaml12.YamlError, UnicodeEncodeError) as error:
        raise UserError(f"--set: {text!r} is not a YAML value: {error}") from None


class _Loading:
    """One reading of a file, part by part; each part is checked even if another is bad."""

    def __init__(self, document: Document, path: Path, recorded: bool) -> None:
        self._document = document
        self._path = path
        self._recorded = recorded
        self._folder = path.absolute().parent
        self._problems: list[Problem] = []
        self._broken: set[str] = set()  # top-level keys with problems
        self._as_written: dict[str, str] = {}  # addresses before they were replaced
        # `key:` with nothing behind it is as if it were not there.
        self._content = {k: v for k, v in document.value.items() if v is not None}

    def run(self) -> tuple[StudySpec, list[Problem]]:
        """The spec, which is not to be used if there are problems other than warnings."""
        self._addresses()
        self._command()
        spec = self._top_level()
        trainer = None if "trainer" in self._broken else spec.trainer
        changes: dict[str, Any] = {
            "sampler": self._method("sampler", spec.sampler, SAMPLERS),
            "pruner": self._method("pruner", spec.pruner, PRUNERS),
            "executor": self._method("executor", spec.executor, EXECUTORS),
        }
        if spec.strategy is not None:
            changes["strategy"] = self._method("strategy", spec.strategy, STRATEGIES)
            self._in_its_place(spec.strategy.name)
        if trainer is not None:
            changes |= {name: self._section(trainer, name) for name in sections.NAMES}
            self._members(trainer, changes["model"])
        changes["search"] = search = self._search(trainer)
        if "search" not in self._broken:
            changes["start_from"] = self._starts(search, spec.study)
        if "objective" not in self._content and trainer in TRAINERS:
            changes["objective"] = (Objective(metric="val/loss", goal="minimize"),)
        if trainer in TRAINERS and "train" not in self._broken:
            objective = changes.get("objective", spec.objective)
            changes["train"] = _with_objectives(changes["train"], objective)
        changes["budget"] = checks.with_budget(spec.budget, bool(search))
        spec = spec.model_copy(update=changes)
        spec._file, spec._document, spec._as_written = self._path, self._document, self._as_written
        found = checks.run(spec, self._document, self._broken)
        return spec, [*self._problems, *found, *self._without_effect(spec)]

    def _without_effect(self, spec: StudySpec) -> list[Problem]:
        if self._recorded or self._broken.intersection(("trainer", "search", *sections.NAMES)):
            return []
        return [
            self._document.problem(*what, at_key=True)
            for what in effects.problems(spec, self._content)
        ]

    # -- the parts

    def _command(self) -> None:
        """A command stands for the trainer."""
        has_command, trainer = "command" in self._content, self._content.get("trainer")
        if has_command and trainer is None:
            self._content["trainer"] = COMMAND
        elif has_command:
            message = "there is a command, which is the trainer"
            self._add("trainer", [self._document.problem(("trainer",), message, "remove one")])
        elif trainer == COMMAND:
            message = "which command is to be run is missing"
            hint = f"instead of this: {_EXAMPLES[COMMAND]}"
            self._add("trainer", [self._document.problem(("trainer",), message, hint)])

    def _top_level(self) -> StudySpec:
        """The spec as the file has it, without what is broken."""
        try:
            return StudySpec.model_validate(self._content)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        self._broken |= {str(each["loc"][0]) for each in errors}
        self._problems += [
            self._with_hint(problem)
            for problem in explain.problems(self._document, (), self._content, errors, _known_keys)
        ]
        good = {key: v for key, v in self._content.items() if key not in self._broken}
        return StudySpec.model_validate({"study": "broken", "trainer": "broken:broken", **good})

    def _method(self, kind: str, method: Named, table: Mapping[str, type[MethodOptions]]) -> Named:
        """A sampler, a pruner or a strategy with its options checked."""
        if kind in self._broken:
            return method
        checked, errors = sections.check(table[method.name], method.options)
        known = explain.known_keys(table[method.name])
        self._add(
            kind,
            explain.problems(
                self._document, (kind,), dict(method.options), errors, lambda path: known
            ),
        )
        if checked is None:
            return method
        return Named(name=method.name, options={key: checked[key] for key in method.options})

    def _in_its_place(self, strategy: str) -> None:
        """A strategy stands for the sampler and the pruner."""
        for kind in ("sampler", "pruner"):
            if kind in self._content:
                message = f"there is a strategy, {strategy}, which takes its place"
                self._add(kind, [self._document.problem((kind,), message, "remove one")])

    def _section(self, trainer: str, name: str) -> dict[str, Any]:
        raw = self._content.get(name, {})
        if not isinstance(raw, dict):
            return {}
        model = sections.options(trainer, name)
        if model is None:
            self._add(name, names.check(self._document, name, raw))
            return raw
        checked, errors = sections.check(model, raw)
        found = explain.problems(
            self._document, (name,), raw, errors, lambda path: sections.keys(model, path)
        )
        self._add(name, [self._with_hint(problem) for problem in found])
        return raw if checked is None else checked

    def _members(self, trainer: str, section: Mapping[str, Any]) -> None:
        """What members of an ensemble have of their own is checked as the model's section is."""
        model, train = sections.options(trainer, "model"), sections.options(trainer, "train")
        if model is None or train is None or self._broken.intersection(("model", "ensemble")):
            return
        keys = partial(sections.keys, model)
        for place, own in sections.members(trainer, self._content.get("ensemble", {})):
            of_model = {key: value for key, value in own.items() if key not in train.model_fields}
            _, errors = sections.check(model, {**section, **of_model})
            self._add("ensemble", explain.problems(self._document, place, own, errors, keys))

    def _search(self, trainer: str | None) -> dict[str, Parameter]:
        raw = self._content.get("search", {})
        if not isinstance(raw, dict):
            hint = "train.lr: {low: 1e-4, high: 1e-1, log: true}"
            message = f"expected paths with ranges or choices; got {explain.shown(raw)}"
            self._add("search", [self._document.problem(("search",), message, hint)])
            return {}
        parsed = parameters.parse(self._document, trainer, raw)
        search, found = conditions.apply(self._document, parsed)
        self._add("search", [*parsed.problems, *found])
        return search

    def _starts(self, search: Mapping[str, Parameter], study: str) -> tuple[starts.Item, ...]:
        raw = self._content.get("start_from", [])
        found, problems = starts.parse(self._document, raw, search, study)
        self._add("start_from", problems)
        return found

    # -- paths and addresses

    def _addresses(self) -> None:
        """Replace ``${…}`` in paths and addresses, and make paths absolute."""
        trainer = self._content.get("trainer")
        trainer = trainer if isinstance(trainer, str) else ""
        self._replace(("data", "source"), lambda text: self._source(trainer, text))
        for name in sections.NAMES:
            model = sections.options(trainer, name)
            for option in sections.paths_of_files(model) if model else ():
                is_path = partial(sections.is_path, trainer=trainer, path=f"{name}.{option}")
                self._replace((name, option), partial(self._file, is_path))
            for option in sections.paths_of_files(model, "path-or-name") if model else ():
                self._replace((name, option), self._file_or_name)
        self._replace(("tracking", "uri"), lambda text: addresses.tracking(text, self._folder))
        self._replace(("storage",), lambda text: addresses.storage(text, self._folder))

    def _replace(self, path: tuple[str, ...], meaning: Callable[[str], str]) -> None:
        holder: Any = self._content
        for part in path[:-1]:
            holder = holder.get(part) if isinstance(holder, dict) else None
        text = holder.get(path[-1]) if isinstance(holder, dict) else None
        if not isinstance(text, str) or not text:
            return  # what is wrong with it, the types say
        try:
            if path[0] in ("tracking", "storage"):
                addresses.refuse_password(text, bool(self._document.is_overridden(path)))
            value = meaning(addresses.expand(text, os.environ))
        except AddressError as error:
            self._add(path[0], [self._document.problem(path, error.message, error.hint)])
            return
        if value != text:
            self._as_written[".".join(path)] = text
            holder[path[-1]] = value

    def _file(self, is_path: Callable[[str], bool], text: str) -> str:
        if not is_path(text):
            return text
        path = addresses.absolute(text, self._folder)
        addresses.check_readable(path, text)
        return str(path)

    def _file_or_name(self, text: str) -> str:
        return addresses.path_or_name(text, self._folder)

    def _source(self, trainer: str, text: str) -> str:
        """Where the data is: a name that the trainer knows, an address, or an absolute path."""
        text = text.removeprefix("file://")
        if is_address(text):
            addresses.check_data(text, trainer in TRAINERS)
            return text
        built_in = sections.BUILT_IN_SOURCES
        path = addresses.absolute(text, self._folder)
        if trainer not in TRAINERS:
            known = [name for sources in built_in.values() for name in sources]
            return text if text in known or not os.path.exists(path) else str(path)
        of_torchvision = trainer == "image_classifier" and text.startswith(TORCHVISION)
        if text in built_in[trainer] or of_torchvision:
            return text
        for other, sources in built_in.items():
            if text in sources:
                raise AddressError(f"{text} is data for {other}", f"trainer: {other}")
        addresses.check_readable(path, text, built_in[trainer])
        return str(path)

    def _with_hint(self, problem: Problem) -> Problem:
        """Of a missing key an example; of an unknown one where it belongs, if anywhere."""
        if problem.message == "is missing" and problem.hint is None:
            return replace(problem, hint=_EXAMPLES.get(problem.key))
        if problem.message.partition(" (")[0] != "unknown key":
            return problem
        if problem.key in _CALLED_OTHERWISE:
            return replace(problem, hint=f"did you mean {_CALLED_OTHERWISE[problem.key]}?")
        if "did" in (problem.hint or ""):
            return problem
        trainer, key = self._content.get("trainer"), problem.key.split(".")[-1]
        for name in sections.NAMES if isinstance(trainer, str) else ():
            model = sections.options(str(trainer), name)
            if model is not None and key in sections.keys(model, ()):
                return replace(problem, hint=f"did you mean {name}.{key}?")
        home = key in explain.known_keys(StudySpec)
        return replace(problem, hint=f"{key} stands at the top level") if home else problem

    def _add(self, key: str, problems: list[Problem]) -> None:
        self._problems += problems
        if any(not problem.warning for problem in problems):
            self._broken.add(key)


def _with_objectives(
    train: Mapping[str, Any], objectives: Sequence[Objective]
) -> Mapping[str, Any]:
    """A built-in's ``train`` section that asks for the metrics which are objectives, too."""
    if "metrics" not in train:
        return train
    named = [objective.metric for objective in objectives]
    costs = [name for name in named if name in COSTS]
    return {**train, "metrics": list(dict.fromkeys([*train["metrics"], *asked(named), *costs]))}


def _known_keys(path: yaml12.Path) -> list[str]:
    return sections.keys(StudySpec, path) or sections.keys(StudySpec, (*path, 0))


def _override(document: Document, overrides: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for key, value in overrides.items():
        try:
            problem = document.override(key, plain(value))
        except NotPlain as error:
            problem = Problem(key, f"{error} (--set {key})")
        if problem is not None:
            problems.append(problem)
    return problems


def _bytes_of(path: Path) -> bytes:
    """The file's content, or the beginning of a file that is too large.

    Raises:
        StudyFileError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(yaml12.MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = None
        if isinstance(error, FileNotFoundError):
            reason, hint = "there is no such file", addresses.nearest(path.absolute(), str(path))
        elif isinstance(error, IsADirectoryError):
            reason, hint = "this is a folder", "name the .yaml file in it"
        raise StudyFileError(str(path), [Problem("", reason, hint)]) from None


def _in_order(problems: Sequence[Problem]) -> list[Problem]:
    """By place in the file; what comes from the command line last."""
    return sorted(problems, key=lambda p: (p.line is None, p.line or 0, p.column or 0))
