"""From a study's finished trials to an ensemble: which trials, what came out, and is it real."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.ensemble.calibration import SHARPNESS
from hpo.ensemble.criterion import Singles, for_metric
from hpo.ensemble.fitting import Fitted, Variant
from hpo.ensemble.judging import estimate, gain
from hpo.ensemble.library import FOLDS, Library, open_library, rows_digest
from hpo.ensemble.methods import Method
from hpo.ensemble.nested import Nested, nested
from hpo.errors import UserError
from hpo.paths import Home
from hpo.results.catalog import UNREADABLE
from hpo.results.predicted import Predicted, read_predictions
from hpo.results.scores import asked_metric, goal_of, task_of
from hpo.results.tables import StudyTables
from trainers.diversity import Diversity, diversity

MOST = 500  # of the best trials are candidates
LEAST_ROWS = 4 * FOLDS
SAY_EVERY_S = 5.0

Say = Callable[[str], None]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Built:
    """An ensemble over a study's trials.

    Attributes:
        study: Its name.
        library: The trials that could be members.
        top: So many of the best were candidates.
        variants: The ways that were tried.
        made: What came out.
        diversity: Of the members, in their order.
        left_out: Why complete trials could not be members: reason → how many.
        best: The study's best trial by `Library.metric` on all rows, a place in the library.
    """

    study: str
    library: Library
    top: int
    variants: Sequence[Variant]
    made: Nested
    diversity: Diversity
    left_out: Mapping[str, int]
    best: int

    @property
    def fitted(self) -> Fitted:
        return self.made.fitted

    @property
    def predicted(self) -> Predicted:
        """Of each row by an ensemble that was made without its fold."""
        return self.library.predicted(self.made.output)

    def facts(self) -> Facts:
        """All that is recorded of it, as JSON has it: see `hpo.results.ensemble`."""
        library, fitted = self.library, self.fitted
        best = library.output(self.best)
        against: list[tuple[str, Singles, int | None]] = [("best in fold", self.made.single, None)]
        if self.made.calibrated_single is not None:
            against.append(("best in fold, calibrated", self.made.calibrated_single, None))
        against.append(("best", best, library.trials[self.best]))
        return {
            "method": fitted.variant.method,
            "calibrated": fitted.variant.calibrated,
            "non_negative": fitted.variant.non_negative,
            "metric": library.metric,
            "goal": goal_of(library.metric),
            "fitted_by": library.criterion.name,
            "rows": len(library.ids),
            "folds": FOLDS,
            "trials": len(library.trials),
            "candidates": min(self.top, len(library.trials)),
            "left_out": dict(self.left_out),
            "members": self._members(),
            "diversity": {name: self.diversity.mean(name) for name in self.diversity.measures},
            "estimate": estimate(library, self.made.output),
            "against": [
                {
                    "what": what,
                    "trial": trial,
                    **estimate(library, output),
                    **gain(library, self.made.output, output),
                }
                for what, output, trial in against
            ],
            "tried": [
                {**vars(variant), "value": float(scores.mean())}
                for variant, scores in zip(self.variants, self.made.scores, strict=True)
            ],
            "sizes": [
                {"members": size, "value": estimate(library, output)["value"]}
                for size, output in self.made.sizes
            ],
        }

    def _members(self) -> list[Facts]:
        library, fitted = self.library, self.fitted
        return [
            {
                "trial": library.trials[place],
                "weight": float(fitted.weights[at]),
                "temperature": float(1 / SHARPNESS[fitted.sharpness[at]])
                if fitted.variant.calibrated
                else None,
                "value": library.score(library.output(place)),
                **{name: self.diversity.of(at, name) for name in self.diversity.measures},
            }
            for at, place in enumerate(fitted.places)
        ]


def build(
    tables: StudyTables,
    home: Home,
    methods: Sequence[Method],
    *,
    top: int = MOST,
    metric: str | None = None,
    non_negative: bool = False,
    kept: bool = False,
    say: Say = lambda text: None,
) -> Built:
    """Make an ensemble of a study's complete trials, from their predictions.

    Args:
        tables: The study, which lies in `home`.
        methods: Among which the best is chosen, by cross-validation.
        top: So many of the best trials are candidates, at least 2.
        metric: As a trainer or `hpo.results.scores` calls it; by default the first objective, or
            what is nearest to it.
        non_negative: Of stacking: weights, none below 0, instead of coefficients.
        kept: Only trials whose weights are kept, so that the ensemble can predict new rows.
        say: Told what takes long.

    Raises:
        UserError: The trials' predictions do not make an ensemble, or do not give the metric.
    """
    say = _seldom(say)
    trials, left_out = _usable(tables, home, kept)

    def read(trial: int) -> Predicted:
        classes = tables.dataset.get("classes")
        return read_predictions(_path(home, tables.name, trial), classes)

    first = read(trials[0])
    if len(first.ids) < LEAST_ROWS:
        raise UserError(
            f"study '{tables.name}' has {len(first.ids)} validation rows; an ensemble that is "
            f"made and judged on different ones of them needs {LEAST_ROWS} or more"
        )
    name = asked_metric(metric, tables.objective[0]["metric"], first)
    library, unusable = open_library(
        trials,
        read,
        name,
        for_metric(name, task_of(first)),
        lambda done: say(f"read the predictions of {done} of {len(trials)} trials"),
    )
    left_out += unusable
    _need_two(tables.name, library.trials, left_out)
    variants = variants_of(methods, first.has_probabilities, non_negative)
    made = nested(library, variants, top, say)
    places = made.fitted.places
    return Built(
        tables.name,
        library,
        top,
        variants,
        made,
        diversity([library.output(place) for place in places], library.target),
        dict(left_out),
        library.single(range(FOLDS)),
    )


def variants_of(
    methods: Sequence[Method], of_probabilities: bool, non_negative: bool
) -> list[Variant]:
    """Each method with and without calibration, where that makes a difference: a stack's
    coefficients are temperatures, too, and values have none."""
    found = []
    for method in methods:
        for calibrated in (False, True):
            sensible = of_probabilities and (method != "stack" or non_negative)
            if sensible or not calibrated:
                found.append(Variant(method, calibrated, method == "stack" and non_negative))
    return found


def _usable(tables: StudyTables, home: Home, kept: bool) -> tuple[list[int], Counter[str]]:
    """The complete trials that predicted the same rows, and why the others are left out."""
    complete = sorted(map(int, tables.complete()["number"]))
    if not complete:
        raise UserError(f"study '{tables.name}' has no complete trial yet; `hpo run` makes some")
    left_out: Counter[str] = Counter()
    groups: dict[str, list[int]] = {}
    for trial in complete:
        if kept and not home.study(tables.name).model(trial).is_file():
            left_out["kept no weights"] += 1
            continue
        path = _path(home, tables.name, trial)
        if not path.is_file():
            left_out["kept no predictions"] += 1
            continue
        try:
            groups.setdefault(rows_digest(path), []).append(trial)
        except UNREADABLE:
            left_out["have predictions that cannot be read"] += 1
    if left_out["kept no weights"] == len(complete):
        raise UserError(
            f"--kept: no complete trial of study '{tables.name}' has weights; of how many they "
            "are kept, keep_models in the study file says"
        )
    if not groups:
        raise UserError(
            f"of study '{tables.name}' no complete trial has predictions, of which ensembles are "
            f"made ({_listed(left_out)}); a trainer gives them with "
            "trial.report(epoch, metrics, predictions)"
        )
    largest = max(groups.values(), key=len)
    others = sum(map(len, groups.values())) - len(largest)
    if others:
        left_out["predicted other rows"] += others
    _need_two(tables.name, largest, left_out)
    return largest, left_out


def _need_two(study: str, trials: Sequence[int], left_out: Counter[str]) -> None:
    if len(trials) >= 2:
        return
    why = f" ({_listed(left_out)})" if left_out else ""
    what = f"only trial {trials[0]} can be a member" if trials else "no trial can be a member"
    hint = f"`hpo run` with --trials +10 adds trials, `hpo trials {study}` shows those there are"
    if left_out["predicted other rows"]:
        hint = "search nothing that changes the split, so that trials predict the same rows"
    raise UserError(f"an ensemble needs two complete trials or more; {what}{why}.\n{hint}.")


def _path(home: Home, study: str, trial: int) -> Path:
    return home.study(study).trial(trial) / "predictions.npz"


def _listed(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)


def _seldom(say: Say) -> Say:
    """The same, told at most every SAY_EVERY_S seconds, and nothing of what is quick."""
    last_s = time.monotonic()

    def told(text: str) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > SAY_EVERY_S:
            last_s = time.monotonic()
            say(text)

    return told
