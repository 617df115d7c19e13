"""Runs combined on the spot: what an ensemble of them would be worth. Nothing is recorded.

As `hpo ensemble` does it (`hpo.ensemble`), but of runs that somebody chose, of one study or
several, from predictions that are at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hpo.errors import UserError
from hpo.results.predicted import Predicted
from hpo.results.rows import by_id, is_finite, same_rows_key
from hpo.results.scores import task_of

if TYPE_CHECKING:
    from hpo.ensemble.methods import Method

QUICK: tuple[Method, ...] = ("greedy", "top")  # of a second, also for 200 runs


def combine(
    runs: Mapping[str, Predicted], metric: str, methods: Sequence[Method] = QUICK
) -> dict[str, Any]:
    """An ensemble of runs, chosen and judged by nested cross-validation.

    Args:
        runs: Name → predictions. Runs that predicted other rows than most are left out.
        metric: One that they give, as `hpo.results.scores` calls it.
        methods: Among which the best is chosen.

    Returns:
        As `hpo.results.ensemble` has it; members, and what they are held against, have ``run``, a
        name, in place of ``trial``.

    Raises:
        UserError: There are not two runs, or not enough rows, for it.
    """
    from hpo.ensemble.building import LEAST_ROWS, Built, variants_of
    from hpo.ensemble.criterion import for_metric
    from hpo.ensemble.library import FOLDS, open_library
    from hpo.ensemble.nested import nested
    from trainers.diversity import diversity

    usable, left_out = _alike(runs)
    names = list(usable)
    if len(names) < 2:
        raise UserError("an ensemble needs two runs or more that predicted the same rows")
    first = usable[names[0]]
    if len(first.ids) < LEAST_ROWS:
        raise UserError(
            f"there are {len(first.ids)} validation rows; an ensemble that is made and judged on "
            f"different ones of them needs {LEAST_ROWS} or more"
        )
    library, _ = open_library(
        range(len(names)),
        lambda place: usable[names[place]],
        metric,
        for_metric(metric, task_of(first)),
    )
    variants = variants_of(methods, first.has_probabilities, non_negative=False)
    made = nested(library, variants, len(names))
    outputs = [library.output(place) for place in made.fitted.places]
    built = Built(
        study="",
        library=library,
        top=len(names),
        variants=variants,
        made=made,
        diversity=diversity(outputs, library.target),
        left_out=dict(left_out),
        best=library.single(range(FOLDS)),
    )
    facts = built.facts()
    for one in (*facts["members"], *facts["against"]):
        place = one.pop("trial")
        one["run"] = None if place is None else names[place]
    return facts


def differing(members: Mapping[str, Predicted]) -> dict[str, pd.DataFrame]:
    """How differently each two of them err: measure → a table with a row and a column for each.

    The measures are those of `trainers.diversity`; missing on the diagonal. Members that did
    not predict the same rows as most are left out.
    """
    from trainers.diversity import diversity

    alike, _ = _alike(members)
    if len(alike) < 2:
        return {}
    ordered = [by_id(predicted) for predicted in alike.values()]
    found = diversity([each.output for each in ordered], ordered[0].target)
    names = list(alike)
    return {
        measure: pd.DataFrame(np.asarray(values), names, names)
        for measure, values in found.measures.items()
    }


def _alike(runs: Mapping[str, Predicted]) -> tuple[dict[str, Predicted], Counter[str]]:
    """The largest group of runs with numbers for the same rows; why the others are not in it."""
    groups: dict[str, dict[str, Predicted]] = {}
    left_out: Counter[str] = Counter()
    for name, predicted in runs.items():
        if is_finite(predicted):
            groups.setdefault(same_rows_key(predicted), {})[name] = predicted
        else:
            left_out["predicted something that is not a number"] += 1
    largest = max(groups.values(), key=len, default={})
    others = sum(map(len, groups.values())) - len(largest)
    if others:
        left_out["predicted other rows"] += others
    return largest, left_out
