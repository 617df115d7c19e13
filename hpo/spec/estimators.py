"""scikit-learn's estimators in a study file: what of ``train`` has no effect on them."""

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


def problems(spec: StudySpec) -> Iterator[tuple[Path, str, str | None]]:
    """Settings of ``train`` that no trial, or not every trial that searches them, can use."""
    searched, model = spec.search.get(NAME), sections.options(spec.trainer, "train")
    names = searched.choices if isinstance(searched, Choice) else [spec.model.get("name")]
    networks = [str(name) for name in names if not is_estimator(str(name))]
    if model is None or len(networks) == len(names):
        return
    estimator = next(str(name) for name in names if is_estimator(str(name)))
    defaults, _ = sections.check(model, {})
    for key, value in spec.train.items() if not networks and defaults else ():
        if key not in USED and value != defaults[key]:
            yield ("train", key), f"has no effect on {estimator}, which has no epochs", None
    for path, parameter in spec.search.items():
        section, _, key = path.partition(".")
        if section != "train" or key.split(".")[0] in USED:
            continue
        when = (parameter.when or {}).get(NAME)
        chosen = when if isinstance(when, tuple) else names if when is None else (when,)
        if without := [str(name) for name in chosen if is_estimator(str(name))]:
            hint = f"when: {{{NAME}: {networks[0]}}}" if networks else None
            yield ("search", path), f"has no effect where {NAME} is {without[0]}", hint
