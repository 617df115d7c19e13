"""Runs combined on the spot are what `hpo ensemble` would make of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prediction_sets import classifiers, part, regressions
from recorded import Recorded, rising

from hpo import results
from hpo.ensemble import build
from hpo.paths import Home
from hpo.results import UserError
from hpo.results.combined import combine, differing


def test_it_is_the_ensemble_that_would_be_recorded(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    for predicted in classifiers(6):
        recorded.trial(rising(0.8), predicted=predicted)
    recorded.over()
    tables = results.tables("digits", tmp_path)
    built = build(tables, Home(tmp_path), ("greedy", "top")).facts()
    runs = {f"digits/{n}": results.predicted("digits", n, tmp_path) for n in range(6)}
    found = combine(runs, "accuracy")
    for one in (*found["members"], *found["against"]):
        run = one.pop("run")
        one["trial"] = None if run is None else int(run.removeprefix("digits/"))
    assert {name: value for name, value in found.items() if name != "candidates"} == {
        name: value for name, value in built.items() if name != "candidates"
    }


def test_numbers_are_combined_too() -> None:
    runs = {f"s/{i}": one for i, one in enumerate(regressions())}
    found = combine(runs, "rmse")
    assert found["goal"] == "minimize"
    assert found["estimate"]["value"] < found["against"][0]["value"]


def test_runs_on_other_rows_or_without_numbers_are_left_out() -> None:
    sets = classifiers(5)
    broken = replace(sets[3], output=np.full_like(sets[3].output, np.nan))
    fewer = part(sets[4:], slice(0, 200))[0]
    shuffled = np.random.default_rng(0).permutation(len(sets[2].ids))
    (other_order,) = part([sets[2]], shuffled)  # type: ignore[arg-type]
    runs = {"a": sets[0], "b": sets[1], "c": other_order, "broken": broken, "fewer": fewer}
    found = combine(runs, "accuracy")
    assert found["trials"] == 3
    assert sum(found["left_out"].values()) == 2
    assert {member["run"] for member in found["members"]} <= {"a", "b", "c"}
    assert list(differing(runs)["disagreement"]) == ["a", "b", "c"]


def test_chance_is_no_gain() -> None:
    runs = {f"s/{i}": one for i, one in enumerate(classifiers(30, signal=0.0))}
    assert combine(runs, "accuracy")["against"][0]["verdict"] == "cannot tell"


def test_disagreement_is_the_share_of_rows_on_which_one_is_right() -> None:
    a, b = classifiers(2)
    right = [one.output.argmax(axis=1) == one.target for one in (a, b)]
    table = differing({"a": a, "b": b})["disagreement"]
    assert table.loc["a", "b"] == pytest.approx((right[0] != right[1]).mean())
    assert np.isnan(table.loc["a", "a"])


def test_it_says_what_is_missing() -> None:
    with pytest.raises(UserError, match="two runs"):
        combine({"a": classifiers(1)[0]}, "accuracy")
    with pytest.raises(UserError, match="validation rows"):
        combine(dict(zip("ab", classifiers(2, rows=10), strict=True)), "accuracy")
