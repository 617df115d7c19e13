"""The paths of searched parameters: what they lead to, and whether that can be searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from hpo.spec import names, sections
from hpo.spec.explain import nearest
from hpo.spec.yaml12 import Path

_NOT_THERE = object()


class NotSearchable(ValueError):
    """A path that leads nowhere, or to what is the same for every trial."""

    def __init__(self, message: str, hint: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def find(content: Mapping[str, Any], trainer: str | None, path: str) -> Any:
    """The type of the option at `path`; None for the user's own trainer, of which none is known.

    Args:
        content: The whole file.
        trainer: As named in the file; None where that is not good.

    Raises:
        NotSearchable: Nothing can be searched there.
    """
    parts = sections.as_path(path)
    section = parts[0]
    if section not in sections.NAMES or len(parts) < 2 or "" in parts:
        into = ", ".join(f"{name}.…" for name in sections.NAMES)
        raise NotSearchable(f"expected a path into {into}", _guess(trainer, path))
    option = f"{section}.{parts[1]}"
    if sections.is_fixed(trainer, option):
        raise NotSearchable(
            f"{option} cannot be searched: it says what is compared",
            f"give it one value in {section}",
        )
    if message := names.wrong_with(path):
        raise NotSearchable(message, None)
    if trainer is None:
        return None
    _check_items(content, trainer, parts)
    model = sections.options(trainer, str(section))
    return None if model is None else _option(model, trainer, path)


def searchable(trainer: str) -> list[str]:
    """Every path that can be searched for a built-in trainer; items of lists as index 0, of
    mappings as NAME."""
    found: list[str] = []

    def collect(model: type[BaseModel], path: Path) -> None:
        for key in sections.keys(model, path[1:]):
            if sections.is_fixed(trainer, ".".join(map(str, (*path, key)))):
                continue
            if sections.keys(model, (*path[1:], key)):
                collect(model, (*path, key))
            else:
                item = sections.field(model, (*path[1:], key, 0))
                below = [] if item is None else ["NAME" if item[0] is Any else "0"]
                found.append(".".join((*map(str, path), key, *below)))

    for section in sections.NAMES:
        model = sections.options(trainer, section)
        if model is not None:
            collect(model, (section,))
    return found


def _option(model: type[BaseModel], trainer: str, path: str) -> Any:
    inner = sections.as_path(path)[1:]
    found = sections.field(model, inner)
    if found is None:
        raise NotSearchable("there is no such option", _guess(trainer, path))
    if keys := sections.keys(model, inner):
        below = ", ".join(f"{path}.{key}" for key in keys)
        raise NotSearchable("this is a group of options, not one", f"known: {below}")
    return None if found[0] is Any else found[0]  # in a mapping of which nothing is known


def _check_items(content: Mapping[str, Any], trainer: str, parts: Path) -> None:
    """A number in a path must be of an item that is there."""
    model = sections.options(trainer, str(parts[0]))
    at = content.get(str(parts[0]))
    if not isinstance(at, dict):
        at = {}  # what is wrong with the section itself is told elsewhere
    for depth, part in enumerate(parts[1:], start=1):
        if isinstance(at, list):
            at = at[part] if isinstance(part, int) and part < len(at) else _NOT_THERE
        elif isinstance(at, dict):
            at = at.get(str(part))
        elif at is not None:
            at = _NOT_THERE
        if at is None and depth == 1 and model is not None:
            info = model.model_fields.get(str(part))
            default = None if info is None or info.is_required() else info.default
            at = list(default) if isinstance(default, tuple) else None
        if at is _NOT_THERE:
            above = ".".join(map(str, parts[:depth]))
            longer = f"give {above} a list with {part + 1} items" if type(part) is int else None
            raise NotSearchable(f"{above} has no {part}", longer)


def _guess(trainer: str | None, path: str) -> str | None:
    """What path may have been meant: a name like this one, in this section or another."""
    known = searchable(trainer) if trainer else []
    above, _, name = path.rpartition(".")
    beside = [each for each in known if each.startswith(f"{above.split('.')[0]}.")]
    for paths in (beside, known):
        close = nearest(name, (each.split(".", 1)[1] for each in paths))
        meant = [each for each in paths if each.split(".", 1)[1] == close]
        if meant:
            return f"did you mean {meant[0]!r}?"
    return f"known: {', '.join(beside or known)}" if known else "e.g. train.lr"
