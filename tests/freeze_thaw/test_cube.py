"""Configurations as points, and back."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.freeze_thaw.cube import Cube
from hpo.spec import Choice, Float, Int
from hpo.spec.space import contains, is_active

SEARCH: dict[str, Any] = {
    "model.name": Choice(("mlp", "cnn", "linear")),
    "model.layers": Int(1, 5, when={"model.name": ("mlp", "cnn")}),
    "model.skip": Choice((True, False), when={"model.name": "cnn"}),
    "train.lr": Float(1e-5, 1e-1, log=True),
    "train.momentum": Float(0.0, 0.9, step=0.1),
    "train.batch_size": Int(16, 512, log=True),
    "train.warmup": Float(0.5, 0.5),
}


@given(st.lists(st.floats(0, 1), min_size=10, max_size=10))
def test_the_nearest_configuration_is_one_and_stays(place: list[float]) -> None:
    cube = Cube(SEARCH)
    point = cube.nearest(np.array([place]))[0]
    params = cube.decode(point)
    for path, parameter in SEARCH.items():
        assert (path in params) == is_active(parameter, params)
        assert path not in params or contains(parameter, params[path])
    np.testing.assert_allclose(cube.encode(params), point, atol=1e-9)


def test_different_choices_are_one_apart_and_numbers_as_their_scale_says() -> None:
    cube = Cube(SEARCH)
    linear: dict[str, Any] = {"model.name": "linear", "train.lr": 1e-3, "train.momentum": 0.3}
    linear |= {"train.batch_size": 64, "train.warmup": 0.5}
    mlp = {**linear, "model.name": "mlp", "model.layers": 3}
    columns = cube.group == 0
    apart = np.subtract(cube.encode(mlp), cube.encode(linear))[columns]
    assert math.isclose(float(apart @ apart), 1.0)
    assert cube.encode(linear)[cube.group == 3] == pytest.approx(0.5)
    # Five layers have a fifth of the range each; none is where there are none.
    assert cube.encode(mlp)[cube.group == 1] == pytest.approx(0.5)
    assert cube.encode({**mlp, "model.layers": 1})[cube.group == 1] == pytest.approx(0.1)


def test_draws_are_even() -> None:
    cube = Cube(SEARCH)
    for points in (cube.random(np.random.default_rng(0), 600), cube.sobol(0, 600)):
        drawn = [cube.decode(point) for point in points]
        for name in ("mlp", "cnn", "linear"):
            assert sum(p["model.name"] == name for p in drawn) == pytest.approx(200, abs=45)
        layers = [p["model.layers"] for p in drawn if "model.layers" in p]
        assert min(layers.count(n) for n in range(1, 6)) > 45
        assert np.median([p["train.lr"] for p in drawn]) == pytest.approx(1e-3, rel=0.5)


def test_a_step_from_a_configuration_is_small_and_choices_change_now_and_then() -> None:
    cube = Cube(SEARCH)
    start = cube.random(np.random.default_rng(1), 1).repeat(400, axis=0)
    near = cube.near(start, np.random.default_rng(2), 0.02)
    lr = cube.group == 3
    assert 0.01 < np.std(near[:, lr]) < 0.03
    changed = (near != start)[:, cube.group == 0].any(axis=1).mean()
    assert 0.02 < changed < 0.3


def test_a_small_space_is_listed() -> None:
    cube = Cube({"a": Choice((1, 2)), "b": Int(0, 4, when={"a": 2})})
    assert cube.listed is not None
    assert len(cube.listed) == 6
    assert Cube(SEARCH).listed is None
