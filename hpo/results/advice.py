"""What a study's trials say about its search: which parameters matter, and what to try next."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from hpo.causes import most_often
from hpo.results.evaluation import sampled
from hpo.results.predicted import Predicted
from hpo.results.ranking import AREAS
from hpo.results.scores import metric_of
from hpo.results.tables import StudyTables

LEAST_TRIALS = 20  # complete ones, below which importances are mostly noise
TRIALS_PER_PARAMETER = 5  # likewise
BEST_SHARE, LEAST_BEST = 0.1, 5  # the best trials, for looking at where they lie
EDGE = 0.05  # of a range, at either end
MOST_AT_EDGE = 0.6  # of the best trials
MORE_AT_EDGE = 2  # times the share of all trials: the sampler alone may prefer the end
LEAST_STEPS = 10  # of a range that has an end to speak of
ALIKE = 1e-2  # relative; probabilities are stored in half precision
IDLE = 0.02  # importance of a parameter that does not matter
STALE = 0.5  # of the trials, since the last improvement


@dataclass(frozen=True)
class Importances:
    """How much each parameter decides whether a trial is among the best tenth.

    Attributes:
        table: ``param``, ``importance`` (they add up to 1), the largest first.
        trials: How many complete trials they rest on.
        few: Too few for so many parameters.
    """

    table: pd.DataFrame
    trials: int
    few: bool


@dataclass(frozen=True)
class Advice:
    """One thing to try, or to beware of.

    Attributes:
        kind: ``edge``: the best trials lie at the end of a range (``param``, ``low`` or ``high``
            as ``side``, ``bound``, ``share``); ``idle``: a parameter does not matter (``param``,
            ``importance``); ``noise``: the best trials differ by less than the validation rows'
            chance (``gain``, ``noise``, ``among``); ``stale``: long without improvement
            (``trials``, ``best``); ``early``: too few trials for more (``trials``);
            ``failing``: many trials fail (``share``, ``reason``).
        facts: What the sentence needs.
    """

    kind: Literal["edge", "idle", "noise", "stale", "failing", "early"]
    facts: Mapping[str, Any] = field(default_factory=dict)


def importances(tables: StudyTables) -> Importances | None:
    """PED-ANOVA importances of the parameters (Watanabe et al., IJCAI 2023) for the first
    objective, over the complete trials; None: fewer than two parameters or four trials.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it greets each study
    done = tables.complete()
    done = done[np.isfinite(done["value"])]
    space = {path: _distribution(said) for path, said in tables.search.items()}
    if len(space) < 2 or len(done) < 4:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(direction="maximize" if tables.maximize else "minimize")
        for row in done.to_dict("records"):
            params = {
                path: _plain(space[path], row[f"params.{path}"])
                for path in space
                if f"params.{path}" in row and not _is_missing(row[f"params.{path}"])
            }
            with contextlib.suppress(ValueError):  # it lies outside a space that was changed since
                study.add_trial(
                    optuna.trial.create_trial(
                        value=row["value"],
                        params=params,
                        distributions={path: space[path] for path in params},
                    )
                )
        if (known := len(study.trials)) < 4:
            return None
        try:
            found = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), normalize=True
            )
        except (ValueError, RuntimeError):  # no two trials share a parameter, or all values equal
            return None
    table = pd.DataFrame({"param": list(found), "importance": list(found.values())})
    table = table.sort_values("importance", ascending=False, ignore_index=True)
    few = known < max(LEAST_TRIALS, TRIALS_PER_PARAMETER * len(space))
    return Importances(table, known, few)


def advice(tables: StudyTables, found: Importances | None, best: Predicted | None) -> list[Advice]:
    """What to try next, or to beware of; the most telling first.

    Args:
        found: What `importances` gave.
        best: The best trial's predictions, for the noise of its metric.
    """
    if len(tables.objective) != 1:
        return []
    done = tables.complete()
    done = done[np.isfinite(done["value"])]
    if len(done) < LEAST_BEST:
        return [*_failing(tables), Advice("early", {"trials": len(done)})]
    return [
        *_failing(tables),
        *_noise(tables, done, best),
        *_edges(tables, done),
        *_idle(found),
        *_stale(tables, done),
    ]


def place(said: Mapping[str, Any], values: pd.Series) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Where numbers lie in their range: 0 at ``low``, 1 at ``high``, on a log scale if so said."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    low, high = float(said["low"]), float(said["high"])
    if said.get("log"):
        numbers, low, high = np.log(numbers), math.log(low), math.log(high)
    return (numbers - low) / (high - low) if high > low else np.full(len(numbers), 0.5)


def _edges(tables: StudyTables, done: pd.DataFrame) -> list[Advice]:
    best = done.head(max(LEAST_BEST, round(BEST_SHARE * len(done))))
    if len(done) < 2 * LEAST_BEST:
        return []
    found = []
    for path, said in tables.search.items():
        column = f"params.{path}"
        said = _as_range(said)
        if column not in best or not _has_edges(said):
            continue
        among, usual = _at_edges(said, best[column]), _at_edges(said, done[column])
        count = int(best[column].notna().sum())
        for side, share in among.items():
            if share >= max(MOST_AT_EDGE, MORE_AT_EDGE * usual[side]) and count >= LEAST_BEST:
                facts = {"param": path, "side": side, "bound": said[side], "share": share}
                found.append(Advice("edge", facts | {"among": count}))
    return found


def _as_range(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Three or more numbers to choose from are a range of their places, whose ends are choices."""
    choices = said.get("choices", ())
    numeric = all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices)
    if len(choices) < 3 or not numeric:
        return said
    return {"type": "numbers", "low": min(choices), "high": max(choices)}


def _has_edges(said: Mapping[str, Any]) -> bool:
    """Not where a step is as wide as an edge: there trials lie on it by chance."""
    if said["type"] == "choice" or said["low"] == said["high"]:
        return False
    if said["type"] == "numbers":
        return True
    step = said.get("step") or (1 if said["type"] == "int" else 0)
    return not step or (said["high"] - said["low"]) / step >= LEAST_STEPS


def _at_edges(said: Mapping[str, Any], values: pd.Series) -> dict[str, float]:
    """The shares of values at either end of their range."""
    at = place(said, values)
    at = at[~np.isnan(at)]
    shares = {"low": at <= EDGE, "high": at >= 1 - EDGE}
    return {side: float(np.mean(there)) if len(at) else 0.0 for side, there in shares.items()}


def _idle(found: Importances | None) -> list[Advice]:
    if found is None or found.few:
        return []
    idle = found.table[found.table["importance"] < IDLE]
    return [
        Advice("idle", {"param": row.param, "importance": row.importance})
        for row in idle.itertuples()
    ]


def _noise(tables: StudyTables, done: pd.DataFrame, best: Predicted | None) -> list[Advice]:
    """Whether three or more lie within one standard error of the best one's metric."""
    if best is None or len(done) < 3:
        return []
    values = done["value"]
    error = _standard_error(best, tables.objective[0]["metric"], float(values.iloc[0]))
    if error is None:
        return []
    tied = values[(values - values.iloc[0]).abs() <= error]
    gain = float(abs(tied.iloc[0] - tied.iloc[-1]))
    facts = {"gain": gain, "noise": error, "among": len(tied)}
    return [Advice("noise", facts)] if len(tied) >= 3 else []


def _stale(tables: StudyTables, done: pd.DataFrame) -> list[Advice]:
    if len(done) < 2 * LEAST_BEST:
        return []
    last = done.loc[done["value"] == done["value"].iloc[0], "number"].min()
    since = int((tables.trials["number"] > last).sum())
    if since < max(2 * LEAST_BEST, STALE * len(tables.trials)):
        return []
    return [Advice("stale", {"trials": since, "best": int(last)})]


def _failing(tables: StudyTables) -> list[Advice]:
    failed = tables.trials[tables.trials["state"] == "failed"]
    share = len(failed) / max(1, len(tables.trials))
    if share < 0.1:
        return []
    reason = most_often(failed["reason"].tolist())
    return [Advice("failing", {"share": share, "count": len(failed), "reason": reason})]


def _standard_error(predicted: Predicted, metric: str, recorded: float) -> float | None:
    """Of a metric of the validation rows, by the bootstrap; None if it cannot be said.

    Args:
        recorded: What the trainer reported. Where predictions give something else it means
            another thing by the metric's name, perhaps in other units.
    """
    name = metric_of(metric, predicted)
    if name is None or name in AREAS:
        return None
    values, samples = sampled(predicted, [name])
    if not math.isclose(values[name], recorded, rel_tol=ALIKE):
        return None
    error = float(np.std(samples[name]))
    return error if error > 0 else None


def _distribution(said: Mapping[str, Any]) -> Any:
    from optuna.distributions import CategoricalDistribution as Choices
    from optuna.distributions import FloatDistribution, IntDistribution

    if said["type"] == "choice":
        return Choices([json.dumps(choice) for choice in said["choices"]])
    log, step = bool(said.get("log")), said.get("step")
    if said["type"] == "int":
        return IntDistribution(int(said["low"]), int(said["high"]), log, int(step or 1))
    return FloatDistribution(float(said["low"]), float(said["high"]), log, step)


def _plain(distribution: Any, value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if hasattr(distribution, "choices"):
        text = json.dumps(value)
        as_whole = json.dumps(int(value)) if isinstance(value, float) and value % 1 == 0 else text
        return text if text in distribution.choices else as_whole
    return int(value) if type(distribution).__name__ == "IntDistribution" else float(value)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
