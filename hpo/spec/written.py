"""A study as text again: the resolved file, and what identifies a study on disk."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpo.spec import effects, sections
from hpo.spec.document import redacted
from hpo.spec.space import Choice, Float, Parameter, When
from hpo.spec.yaml_text import dump
from trainers.registry import TRAINERS

if TYPE_CHECKING:
    from hpo.spec.study import Named, StudySpec


def to_yaml(spec: StudySpec, as_written: Mapping[str, str]) -> str:
    """The study file with every default written out that has an effect.

    Args:
        as_written: Key → address as it stands in the file, before ``${…}`` was replaced.
    """
    # What comes from the environment stays there; other addresses are absolute now.
    secret = {key: text for key, text in as_written.items() if "${" in text}
    tracking = secret.get("tracking.uri", spec.tracking.uri)
    budget = spec.budget.model_dump(by_alias=True, exclude_none=True)
    if spec.budget.wall_s is not None:
        budget["wall"] = duration(spec.budget.wall_s)
    content = {
        "study": spec.study,
        **({"command": list(spec.command)} if spec.command else {"trainer": spec.trainer}),
        **{name: effects.effective(spec, name) for name in sections.NAMES},
        "search": {path: parameter(p) for path, p in spec.search.items()},
        "objective": objectives(spec),
        **_methods(spec),
        "budget": budget,
        "start_from": [
            dict(item) if isinstance(item, Mapping) else {"study": item.study}
            for item in spec.start_from
        ],
        "seed": spec.seed,
        "executor": _method(spec.executor),
        "workers": spec.workers,
        "lanes": spec.lanes,
        "device": spec.device,
        "gpus_per_trial": spec.gpus_per_trial,
        "parallel": spec.parallel,
        "retries": spec.retries,
        "timeout": None if spec.timeout_s is None else duration(spec.timeout_s),
        "fresh_process": spec.fresh_process,
        "keep_models": spec.keep_models,
        "tracking": {
            **({} if tracking is None else {"uri": redacted(tracking)}),
            "examples": spec.tracking.examples,
        },
        "storage": redacted(secret.get("storage", spec.storage)),
    }
    return dump({key: v for key, v in content.items() if v not in (None, {}, [])})


def identity(spec: StudySpec, as_written: Mapping[str, str]) -> dict[str, Any]:
    """Flat key → value, as JSON has it.

    The data's path is as it stands in the file, so that a folder with its studies can be moved;
    whether the data has changed, its fingerprint says.
    """
    content: dict[str, Any] = {
        "trainer": spec.trainer,
        **({"command": list(spec.command)} if spec.command else {}),
        **{name: copy.deepcopy(dict(getattr(spec, name))) for name in sections.NAMES},
        "search": {path: parameter(p) for path, p in spec.search.items()},
        "objective": objectives(spec),
        "seed": spec.seed,
    }
    # Other checkpoints than those of one device, and other last digits.
    if spec.devices > 1 and spec.trainer in TRAINERS:
        content["gpus_per_trial"] = spec.devices
        content["parallel"] = spec.parallel or "ddp"
    for key, text in as_written.items():
        section, _, option = key.partition(".")
        if section in sections.NAMES:
            content[section][option] = text
    return flat(content)


def parameter(parameter: Parameter) -> dict[str, Any]:
    """A searched parameter as the file has it."""
    form: dict[str, Any]
    if isinstance(parameter, Choice):
        form = {"choices": list(parameter.choices)}
    else:
        form = {"type": "float" if isinstance(parameter, Float) else "int"}
        form |= {"low": parameter.low, "high": parameter.high}
        if parameter.log:
            form["log"] = True
        if parameter.step is not None:
            form["step"] = parameter.step
    if parameter.when:
        form["when"] = _when(parameter.when)
    return form


def objectives(spec: StudySpec) -> Any:
    """One as a mapping, several as a list."""
    listed = [objective.model_dump() for objective in spec.objective]
    return listed[0] if len(listed) == 1 else listed


def duration(seconds: float) -> str:
    """5400.0 → ``1h30m``"""
    text, left = "", round(seconds, 6)
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        whole, left = divmod(left, size)
        text += f"{whole:.0f}{unit}" if whole else ""
    left = round(left, 6)
    return f"{text}{left:.6f}".rstrip("0").rstrip(".") + "s" if left or not text else text


def _when(when: When) -> dict[str, Any]:
    return {path: list(v) if isinstance(v, tuple) else v for path, v in when.items()}


def _methods(spec: StudySpec) -> dict[str, Any]:
    if spec.strategy is not None:
        return {"strategy": _method(spec.strategy)}
    return {"sampler": _method(spec.sampler), "pruner": _method(spec.pruner)}


def _method(method: Named) -> Any:
    return {"name": method.name, **method.options} if method.options else method.name


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings, and lists of mappings, as dotted key → value; other lists stay whole."""
    found: dict[str, Any] = {}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, dict) or (isinstance(value, list) and _has_mappings(value)):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _has_mappings(items: list[Any]) -> bool:
    return any(isinstance(item, dict) for item in items)
