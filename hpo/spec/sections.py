"""The sections ``data``, ``model``, ``train`` and ``ensemble``: a built-in trainer's options.

Of the user's own trainer nothing is known; its sections may hold anything.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from hpo.spec.explain import known_keys
from hpo.spec.yaml12 import Path
from trainers.registry import TRAINERS

NAMES = ("data", "model", "train", "ensemble")

# These say what is compared; they are the same for every trial of a study.
FIXED = (
    "data.source",
    "data.target",
    "data.task",
    "data.text",
    "data.group",
    "data.time",
    "data.split",
    "data.duplicates",
    "data.root",
    "data.validation",
    "data.test",
    "data.folds",
    "data.fold_repeats",
    "data.split_seed",
    "train.repeats",
    "train.metrics",
)

# Data that comes with the built-in trainers; every other source is a path.
BUILT_IN_SOURCES = {
    "image_classifier": ("digits",),
    "tabular": ("breast_cancer", "wine", "diabetes"),
    "text_classifier": (),
}


def options(trainer: str, section: str) -> type[BaseModel] | None:
    """What `section` may say; None for the user's own trainer."""
    built_in = TRAINERS.get(trainer)
    return None if built_in is None else getattr(built_in, section)


def check(
    model: type[BaseModel], section: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, list[ErrorDetails]]:
    """The section with every default, or what is wrong with it."""
    try:
        # As JSON: strict about numbers and text, but a list may stand for a tuple.
        checked = model.model_validate_json(json.dumps(section), strict=True)
    except ValidationError as error:
        return None, error.errors(include_url=False)
    return checked.model_dump(mode="json"), []


def members(trainer: str, ensemble: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What members of an ensemble have of their own, by where it is in the file.

    Args:
        ensemble: The section; of the user's own trainer nothing is known.
    """
    for place, own in enumerate(ensemble.get("members", ()) if trainer in TRAINERS else ()):
        given = {key: value for key, value in own.items() if value is not None}
        yield ("ensemble", "members", place), given


def is_fixed(trainer: str | None, path: str) -> bool:
    """Whether the option at `path` must be the same for every trial.

    The user's own trainer, too, uses ``data`` as the built-in ones do; the rest is its own affair.
    """
    return path in FIXED and (path.startswith("data.") or trainer in TRAINERS)


def keys(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that may stand at `path` within a section."""
    at: Any = model
    for part in path:
        at = _below(at, part)
    nested = _model(at)
    return known_keys(nested) if nested else []


def field(model: type[BaseModel], path: Path) -> tuple[Any, FieldInfo] | None:
    """The type of the option at `path`, and the field that it belongs to; None: there is none."""
    at: Any = model
    info: FieldInfo | None = None
    for part in path:
        holder = _model(at)
        if holder is not None:
            info = holder.model_fields.get(str(part))
        at = _below(at, part)
        if at is None:
            return None
    return None if info is None else (at, info)


def kind(annotation: Any) -> Literal["int", "float", "other"]:
    """Whether an option is a whole number, a number, or neither."""
    plain = set(_members(annotation)) - {type(None)}
    if plain == {int}:
        return "int"
    return "float" if plain <= {int, float} and float in plain else "other"


def put(trainer: str, config: dict[str, dict[str, Any]], path: str, value: Any) -> None:
    """Set `value` at a searched path of `config`; what lies between is made with its defaults."""
    section, *parts = as_path(path)
    at: Any = config[str(section)]
    model: Any = options(trainer, str(section))
    for part in parts[:-1]:
        model = _below(model, part)
        key = str(part) if isinstance(at, dict) else part
        below = at.get(key) if isinstance(at, dict) else at[key]
        if below is None:
            below = at[key] = _defaults(_model(model))
        at = below
    at[str(parts[-1]) if isinstance(at, dict) else parts[-1]] = value


def as_path(dotted: str) -> Path:
    """``model.hidden.0`` → ``("model", "hidden", 0)``"""
    parts = dotted.split(".")
    return tuple(int(part) if re.fullmatch(r"0|[1-9][0-9]{0,8}", part) else part for part in parts)


def flat(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every scalar below `value`, with its path."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from flat(below, (*path, key))
    elif isinstance(value, list):
        for i, below in enumerate(value):
            yield from flat(below, (*path, i))
    else:
        yield path, value


@cache
def paths_of_files(model: type[BaseModel], form: str = "path") -> tuple[str, ...]:
    """The options of `model` that name a file.

    Args:
        form: ``path``, or ``path-or-name``: a file if there is one, else a name.
    """
    return tuple(
        name
        for name, info in model.model_fields.items()
        if isinstance(info.json_schema_extra, dict)
        and info.json_schema_extra.get("format") == form
    )


def is_file(trainer: str, path: str, form: str = "path") -> bool:
    """Whether the option at a searched path names a file."""
    section, *rest = path.split(".")
    model = options(trainer, section)
    return model is not None and rest[0] in paths_of_files(model, form) and len(rest) == 1


def is_path(value: Any, trainer: str, path: str) -> TypeGuard[str]:
    """Whether `value` of the option at a dotted path names a file, and nothing that the option
    may hold instead."""
    if not isinstance(value, str) or not is_file(trainer, path):
        return False
    section, name = path.split(".")
    model = options(trainer, section)
    extra = model.model_fields[name].json_schema_extra if model else None
    instead = extra.get("unless") if isinstance(extra, dict) else None
    return not (isinstance(instead, str) and re.fullmatch(instead, value))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _defaults(model: type[BaseModel] | None) -> dict[str, Any]:
    if model is None:
        return {}
    fields = model.model_fields.items()
    return {
        name: info.get_default(call_default_factory=True)
        for name, info in fields
        if not info.is_required()
    }


def _below(at: Any, part: str | int) -> Any:
    """The type of what stands at `part` of something of type `at`; None: nothing can."""
    model = _model(at)
    if model is not None:
        info = model.model_fields.get(str(part))
        # The ranges are a field's metadata; with them, the type alone can check a value.
        return None if info is None else Annotated[(info.annotation, *info.metadata, None)]
    for member in _members(at):
        if isinstance(part, int) and get_origin(member) in (tuple, list, Sequence):
            return get_args(member)[0]
        if get_origin(member) in (dict, Mapping):
            return get_args(member)[1]
    return None


def _model(annotation: Any) -> type[BaseModel] | None:
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def _members(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, without Annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation
