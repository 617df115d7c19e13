"""How a study file differs from what its study was begun with, and whether that may be.

Trials compare where they were trained for the same metric, on the same data, by the same code with
the same fixed settings: `StudySpec.identity`. Where only the search space has become wider, the
trials so far lie in the new one; and data may be moved: their content says whether they are the
same. Such a change is offered, and done where it is accepted. All that is not part of the identity
(budget, sampler, pruner, workers, timeout, …) may change as it likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpo import spec as files
from hpo.errors import StudyChanged, StudyFileError
from hpo.paths import StudyPaths
from hpo.spec import Parameter, StudySpec, written, yaml12
from hpo.spec.space import is_wider
from trainers.registry import TRAINERS

Record = Mapping[str, Any]

_IDENTITY = ("trainer", "command", "data", "model", "train", "ensemble", "search", "objective")
_NOT_THERE = "(not there)"
SOURCE = "data.source"


@dataclass(frozen=True)
class Change:
    """One setting that is another one now.

    Attributes:
        key: Of the study file.
        before, now: As they are shown.
        kept: Why the trials so far compare with those to come; None: they do not.
    """

    key: str
    before: str
    now: str
    kept: str | None = None

    def __str__(self) -> str:
        kept = f" ({self.kept}: the trials so far are kept)" if self.kept else ""
        return f"{self.key}: {self.before} → {self.now}{kept}"


def check(study: Record | None, spec: StudySpec, paths: StudyPaths, *, accept: bool) -> None:
    """Refuse to go on with a study whose meaning has changed.

    Args:
        study: The newest ``study`` record; None for a new study.
        paths: Of the study.
        accept: Whether changes that keep the trials comparable are wanted.

    Raises:
        StudyChanged: Its message has every difference, and what can be done.
    """
    found = [] if study is None else differences(study, spec)
    unsafe = [change for change in found if change.kept is None]
    if not found or (accept and not unsafe):
        return
    lines = "\n".join(f"  {change}" for change in found)
    if not unsafe:
        raise StudyChanged(
            f"study '{spec.study}' was begun otherwise:\n{lines}\n"
            "To go on as the file says now, run the same command with --accept-changes."
        )
    name = free_name(spec.study, paths)
    raise StudyChanged(
        f"study '{spec.study}' was begun with other settings; its trials would not compare:\n"
        f"{lines}\nPut {'them' if len(unsafe) > 1 else unsafe[0].key} back to go on with it, "
        f"or run the same command with --set study={name}, which begins another."
    )


def free_name(study: str, paths: StudyPaths) -> str:
    """The name of a study with a number behind it, which is not taken here."""
    number = 2
    while (paths.root.parent / f"{study}-{number}").exists():
        number += 1
    return f"{study}-{number}"


def differences(study: Record, spec: StudySpec) -> list[Change]:
    """What makes a study another one than it was at its last run; in the order of its keys.

    An option that was not there yet at that run has the default of now.
    """
    try:
        earlier = _as_read_now(study, spec)
    except StudyFileError:  # of an earlier version: then what it recorded is all there is
        before, now = study["identity"], spec.identity()
        return _settings(before, now)
    before = {**earlier.identity(), **study["identity"]}
    without_search = (
        {key: value for key, value in settings.items() if not key.startswith("search.")}
        for settings in (before, spec.identity())
    )
    settings = _settings(*without_search)
    if spec.trainer in TRAINERS:  # whose data have a fingerprint
        settings = [
            replace(each, kept="if the content is the same") if each.key == SOURCE else each
            for each in settings
        ]
    return [*settings, *_spaces(earlier.search, spec.search)]


def began_with(study: Record | None, spec: StudySpec) -> dict[str, Any]:
    """The first values of what has been changed since a study was begun, by their keys.

    Args:
        study: The ``study`` record of the run before.
    """
    if study is None:
        return {}
    now = spec.identity()
    changed = {
        key: value for key, value in study["identity"].items() if now.get(key, value) != value
    }
    return {**changed, **study.get("began_with", {})}


def chosen_before(study: Record | None) -> str | None:
    """The sampler that hpo chose for a study's last run, if the choice was left to it.

    Args:
        study: The ``study`` record of that run.
    """
    if study is None or yaml12.read(study["file"].encode()).value.get("sampler") != "auto":
        return None
    return str(study["sampler"])


def free_settings(study: Record, spec: StudySpec) -> list[str]:
    """What else is set otherwise than at the last run, in words."""
    before, now = (
        {key: value for key, value in written.flat(content).items() if _is_free(key)}
        for content in (
            yaml12.read(study["file"].encode()).value,
            yaml12.read(spec.resolved().encode()).value,
        )
    )
    return [f"{change.key}: {change.before} → {change.now}" for change in _settings(before, now)]


def _is_free(key: str) -> bool:
    return key.partition(".")[0] not in (*_IDENTITY, "seed", "study")


def _as_read_now(study: Record, spec: StudySpec) -> StudySpec:
    """The file of a study's last run, as this version of hpo understands it."""
    # Addresses may not be there any more, and are compared as they were written.
    elsewhere: dict[str, Any] = {"tracking": {}, "storage": "journal", **spec.paths_as_written}
    if spec.trainer in TRAINERS and "source" in spec.data:
        elsewhere[SOURCE] = spec.data["source"]
    return files.loads(study["file"].encode(), spec.file, elsewhere, recorded=True)


def _settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    return [
        Change(key, _shown(before, key), _shown(now, key))
        for key in sorted({*before, *now})
        if before.get(key, _NOT_THERE) != now.get(key, _NOT_THERE)
    ]


def _spaces(before: Mapping[str, Parameter], now: Mapping[str, Parameter]) -> list[Change]:
    both = before.keys() & now.keys()
    return [
        Change(
            f"search.{path}",
            _range(before.get(path)),
            _range(now.get(path)),
            kept="wider" if path in both and is_wider(now[path], before[path]) else None,
        )
        for path in sorted({*before, *now})
        if before.get(path) != now.get(path)
    ]


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else _NOT_THERE


def _range(parameter: Parameter | None) -> str:
    if parameter is None:
        return "(not searched)"
    return ", ".join(f"{key}: {value}" for key, value in written.parameter(parameter).items())
