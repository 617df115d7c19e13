"""What must fit together where a trial is trained over several devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hpo.spec import sections
from hpo.spec.space import Choice, Parameter
from hpo.spec.yaml12 import Path
from trainers import over_devices
from trainers.models import is_estimator
from trainers.registry import TRAINERS

if TYPE_CHECKING:
    from hpo.spec.study import StudySpec

Found = Iterator[tuple[Path, str, str | None]]


def problems(spec: StudySpec) -> Found:
    """Every problem of `gpus_per_trial` above 1, and of `parallel`."""
    if spec.devices == 1:
        if spec.parallel is not None:
            hint = "gpus_per_trial: 2, or remove it"
            yield ("parallel",), f"has no effect: a trial has {spec.gpus_per_trial:g} GPU", hint
        return
    if spec.trainer not in TRAINERS:  # whose program sees all of its GPUs
        if spec.parallel is not None:
            what = "a command uses" if spec.command else f"{spec.trainer} uses"
            yield ("parallel",), f"has no effect: {what} its GPUs as it likes", "remove it"
        return
    if spec.lanes not in ("auto", "off"):
        yield ("lanes",), f"has no effect: a trial takes {spec.devices} devices", "remove it"
    yield from _settings(spec)


def _settings(spec: StudySpec) -> Found:
    how = spec.parallel or "ddp"
    paths = {*over_devices.UNKNOWN[how], *over_devices.OFF_ONLY[how]}
    for path in sorted(paths):
        for at, value in _possible(spec, path):
            if (why := over_devices.why_not(how, path, value)) is not None:
                yield at, why, None
    for at, value in _possible(spec, "model.name"):
        if is_estimator(str(value)):
            yield at, f"{value} is trained on one CPU", "gpus_per_trial: 1"
    if how != "pipeline":
        for at, value in _possible(spec, "train.batch_size"):
            if value < spec.devices:
                yield at, f"at least {spec.devices}, a row for each device; got {value}", None


def _possible(spec: StudySpec, path: str) -> list[tuple[Path, Any]]:
    """The values that a setting may have in a trial, of a range its lower end; and where it is."""
    parameter: Parameter | None = spec.search.get(path)
    if parameter is None:
        section, key = path.split(".")
        return [(sections.as_path(path), getattr(spec, section).get(key))]
    values = parameter.choices if isinstance(parameter, Choice) else (parameter.low,)
    return [(("search", path), value) for value in values]
