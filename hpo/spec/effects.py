"""Settings without effect: what a file gives that nothing looks at, with what else it says.

A field of a built-in trainer's options may say ``needs``: under which values of other settings it
has an effect (`trainers.options`). Of the user's own trainer nothing is known.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from hpo.spec import sections
from hpo.spec.estimators import NAME
from hpo.spec.explain import shown
from hpo.spec.space import Choice, Float, Int, Scalar, allowed
from hpo.spec.yaml12 import Path
from trainers.options import ABOVE_0, GIVEN

if TYPE_CHECKING:
    from hpo.spec.study import StudySpec

# Of a setting, by the path of the other one, the values, or patterns of names, under which it has
# an effect; or `ABOVE_0`, `GIVEN`.
Needs = Mapping[str, Sequence[Scalar]]

Found = Iterator[tuple[Path, str, str | None]]


def problems(spec: StudySpec, content: Mapping[str, Any]) -> Found:
    """Of settings that the file gives, and of those that are searched.

    Args:
        content: The whole file.
    """
    for section in sections.NAMES:
        for path, found in _below(spec, (section,), content.get(section)):
            yield from _fixed(spec, path, found)
    for path, own in sections.members(spec.trainer, spec.ensemble):
        yield from _of_member(spec, path, own)
    for searched in spec.search:
        yield from _searched(spec, searched)


def effective(spec: StudySpec, section: str) -> dict[str, Any]:
    """A section without the settings that have no effect in any trial."""
    made = copy.deepcopy(dict(getattr(spec, section)))
    for path, found in list(_below(spec, (section,), made)):
        if any(True for _ in _fixed(spec, path, found)):
            at = made
            for part in path[1:-1]:
                at = at[str(part)]
            del at[str(path[-1])]
    return made


def needs(trainer: str, path: Path) -> Needs:
    """Of the option at a path, and of the groups that it is in."""
    model, found = sections.options(trainer, str(path[0])), dict[str, Sequence[Scalar]]()
    for end in range(1, len(path)):
        option = None if model is None else sections.field(model, path[1 : end + 1])
        extra = None if option is None else option[1].json_schema_extra
        if isinstance(extra, dict) and "needs" in extra:
            own: Any = extra["needs"]
            found |= own
    return found


def text(found: Needs) -> str:
    """A sentence for the documentation."""
    each = [f"`{path}` {_listed(map(_quoted, known))}" for path, known in found.items()]
    return f"Only with {' and '.join(each)}."


def _quoted(value: Scalar) -> str:
    words = {ABOVE_0: "above 0", GIVEN: "given", "null": "absent"}
    return words.get(_plain(value), f"`{_plain(value)}`")


def _below(spec: StudySpec, path: Path, at: Any) -> Iterator[tuple[Path, Needs]]:
    """What is given below a path, with what it needs; of a group that needs something, only it."""
    for key, below in at.items() if isinstance(at, Mapping) else ():
        if found := needs(spec.trainer, (*path, key)):
            yield (*path, key), found
        else:
            yield from _below(spec, (*path, key), below)


def _fixed(spec: StudySpec, path: Path, found: Needs) -> Found:
    for other, known in found.items():
        possible = _possible(spec, other)
        among = any(_is_among(value, known) for value in possible)
        if not among and not _a_member_has(spec, other, known):
            yield path, _message(other, possible), _hint(other, known)


def _of_member(spec: StudySpec, path: Path, own: Mapping[str, Any]) -> Found:
    """Of settings of the model that a member of an ensemble has of its own."""
    names = [own["name"]] if "name" in own else _possible(spec, NAME)
    for key in own:
        known = needs(spec.trainer, ("model", key)).get(NAME, names)
        if not any(_is_among(name, known) for name in names):
            yield (*path, key), _message(NAME, names), _hint(NAME, known)


def _a_member_has(spec: StudySpec, other: str, known: Sequence[Scalar]) -> bool:
    """Whether a member of an ensemble has of its own what is needed, such as a weight decay."""
    key = str(sections.as_path(other)[-1])
    every = sections.members(spec.trainer, spec.ensemble)
    return any(_is_among(own[key], known) for _, own in every if key in own)


def _searched(spec: StudySpec, path: str) -> Found:
    when = _when(spec, path)
    for other, known in needs(spec.trainer, sections.as_path(path)).items():
        possible = when.get(other) or _possible(spec, other, when)
        without = [value for value in possible if not _is_among(value, known)]
        rest = [value for value in possible if _is_among(value, known)]
        if not without or _a_member_has(spec, other, known):
            continue
        hint = _hint(other, known) if not rest else f"when: {{{_condition(spec, other, rest)}}}"
        yield ("search", path), _message(other, without), hint


def _condition(spec: StudySpec, other: str, rest: Sequence[Scalar]) -> str:
    """Under which another setting is one of `rest`; a range is where it is searched at all."""
    parameter = spec.search.get(other)
    conditions: dict[str, Sequence[Scalar]] = {other: rest}
    if isinstance(parameter, Float | Int):
        conditions = {parent: allowed(own) for parent, own in (parameter.when or {}).items()}
    each = {parent: [*map(_plain, own)] for parent, own in conditions.items()}
    return ", ".join(
        f"{parent}: {own[0] if len(own) == 1 else '[' + ', '.join(own) + ']'}"
        for parent, own in each.items()
    )


def _is_among(value: Scalar, known: Sequence[Scalar]) -> bool:
    """Names may be patterns, ``sklearn.*``."""
    if ABOVE_0 in known:
        return isinstance(value, int | float) and value > 0
    if GIVEN in known:
        return value is not None
    names = [name for name in known if isinstance(name, str)] if isinstance(value, str) else []
    return value in known or any(fnmatchcase(str(value), name) for name in names)


def _when(spec: StudySpec, path: str) -> dict[str, Sequence[Scalar]]:
    """What the conditions of a parameter let pass, and the conditions of what they name."""
    found: dict[str, Sequence[Scalar]] = {}
    for parent, condition in (spec.search[path].when or {}).items():
        found |= {**_when(spec, parent), parent: allowed(condition)}
    return found


def _possible(
    spec: StudySpec, path: str, when: Mapping[str, Sequence[Scalar]] | None = None
) -> Sequence[Scalar]:
    """What a setting can be in a trial; of a range its end, as no other number matters.

    Args:
        when: What other parameters are in it, by `_when`.
    """
    parameter = spec.search.get(path)
    fixed = _value(spec, sections.as_path(path))
    if parameter is None:
        return [fixed]
    searched = parameter.choices if isinstance(parameter, Choice) else (parameter.high,)
    when = when or {}
    always = all(
        parent in when and set(when[parent]) <= set(allowed(condition))
        for parent, condition in (parameter.when or {}).items()
    )
    return [*searched, *([] if always or fixed in searched else [fixed])]


def _value(spec: StudySpec, path: Path) -> Any:
    """What holds where nothing is searched; in a group that is not given, its default."""
    at: Any = getattr(spec, str(path[0]))
    for part in path[1:]:
        at = at.get(part) if isinstance(at, Mapping) else None
    if at is None:
        model = sections.options(spec.trainer, str(path[0]))
        found = None if model is None else sections.field(model, path[1:])
        at = None if found is None or found[1].is_required() else found[1].default
    return at


def _message(other: str, without: Sequence[Scalar]) -> str:
    if list(without) == [None]:
        return f"has no effect without {other}"
    return f"has no effect with {other} {_listed([_plain(value) for value in without])}"


def _hint(other: str, known: Sequence[Scalar]) -> str:
    if list(known) == [None]:
        return f"it has one without {other}"
    if GIVEN in known:
        return f"give {other} a value"
    return f"it has one with {_listed(map(_plain, known))}"


def _plain(value: Scalar) -> str:
    if value is None:
        return "null"
    return value if isinstance(value, str) else shown(value)


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
