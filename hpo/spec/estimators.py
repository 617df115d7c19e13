"""scikit-learn's estimators in a study file: what of a network's settings they ignore."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hpo.spec import sections
from hpo.spec.space import Choice
from trainers.models import is_estimator

if TYPE_CHECKING:
    from hpo.spec.study import StudySpec
    from hpo.spec.yaml12 import Path

NAME = "model.name"
USED = ("metrics", "repeats")  # of `train`, by all models


def has_networks(spec: StudySpec) -> bool:
    """Whether any trial trains something else than an estimator."""
    return any(not is_estimator(name) for name in _names(spec))


def problems(spec: StudySpec) -> Iterator[tuple[Path, str, str | None]]:
    """Settings that no trial, or not every trial that searches them, can use.

    Beside those of which `trainers.options` says so.
    """
    for place, own in sections.members(spec.trainer, spec.ensemble):
        if is_estimator(own.get("name", "")):
            yield (*place, "name"), f"members are networks; {own['name']} is none", None
    model, names = sections.options(spec.trainer, "train"), _names(spec)
    networks = [name for name in names if not is_estimator(name)]
    if model is None or len(networks) == len(names):
        return
    estimator = next(name for name in names if is_estimator(name))
    defaults = sections.check(model, {})[0] or {}
    for key, value in spec.train.items() if not networks else ():
        if key not in USED and value != defaults.get(key):
            yield ("train", key), f"has no effect on {estimator}, which has no epochs", None
    if not networks and spec.model.get("init") != "default":
        yield ("model", "init"), f"has no effect on {estimator}, whose weights are not drawn", None
    for path, parameter in spec.search.items():
        section, key = path.split(".")[:2]
        if path != "model.init" and (section != "train" or key in USED):
            continue
        when = (parameter.when or {}).get(NAME)
        chosen = when if isinstance(when, tuple) else names if when is None else (when,)
        if without := [str(name) for name in chosen if is_estimator(str(name))]:
            hint = f"when: {{{NAME}: {networks[0]}}}" if networks else None
            yield ("search", path), f"has no effect where {NAME} is {without[0]}", hint


def _names(spec: StudySpec) -> list[str]:
    searched = spec.search.get(NAME)
    names = searched.choices if isinstance(searched, Choice) else [spec.model.get("name")]
    return [str(name) for name in names]
