"""Pruning with several objectives."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpo.ranks import RankHalving, non_dominated_fronts


def test_fronts_of_an_example() -> None:
    points = np.array([[1, 4], [3, 3], [4, 1], [2, 2], [1, 1], [3, 3]])
    assert non_dominated_fronts(points).tolist() == [0, 0, 0, 1, 2, 0]


@given(arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.integers(0, 4)))
def test_every_point_beyond_the_first_front_is_beaten_from_the_one_before(
    points: np.ndarray,
) -> None:
    fronts = non_dominated_fronts(points)

    def beats(a: np.ndarray, b: np.ndarray) -> bool:
        return bool((a >= b).all() and (a > b).any())

    for i, front in enumerate(fronts):
        beaten_by = {int(fronts[j]) for j in range(len(points)) if beats(points[j], points[i])}
        assert (front - 1 in beaten_by) == (front > 0)
        assert all(other < front for other in beaten_by)


def test_a_trial_beaten_in_every_objective_is_pruned_at_a_rung_only() -> None:
    pruner = RankHalving("hyperband", {"max_resource": 8}, [1, -1])
    for number in range(3):
        assert pruner.report(number, 1, [0.9, 1.0]) is None  # equals: all in the first front
    assert pruner.report(3, 2, [0.1, 9.0]) is None  # no rung
    assert pruner.report(3, 1, [0.1, 9.0]) == "front 2 of 4 trials at epoch 1"
    assert pruner.report(4, 1, [0.1, 0.5]) is None  # best in one objective
    assert pruner.report(3, 9, [0.1, 9.0]) is None  # beyond max_resource
