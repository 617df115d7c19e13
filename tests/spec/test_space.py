"""Search spaces: what they contain, and all of it listed."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec.space import Choice, Float, Int, Parameter, contains, grid, grid_size, values


@pytest.mark.parametrize(
    ("parameter", "listed"),
    [
        (Choice(("a", None, True, 1.5)), ["a", None, True, 1.5]),
        (Int(1, 7, step=3), [1, 4, 7]),
        (Int(2, 4, log=True), [2, 3, 4]),
        (Float(0.0, 0.3, step=0.1), [0.0, 0.1, 0.2, 0.3]),
        (Float(0.1, 0.7, step=0.2), [0.1, 0.3, 0.5, 0.7]),
        (Float(1e-05, 3e-05, step=1e-05), [1e-05, 2e-05, 3e-05]),
        (Float(0.5, 0.5), [0.5]),
    ],
)
def test_the_values_of_a_parameter(parameter: Parameter, listed: list[Any]) -> None:
    found = list(values(parameter) or ())
    assert found == listed
    assert all(contains(parameter, value) for value in found)


def test_a_range_without_a_step_is_endless() -> None:
    endless = {"x": Float(0, 1)}
    assert values(endless["x"]) is None
    assert grid_size(endless) is None
    with pytest.raises(ValueError, match="x has no step"):
        grid(endless)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Choice((1, 2)), True),
        (Choice((True, False)), 1),
        (Choice(("a",)), "b"),
        (Int(1, 9), 1.5),
        (Int(1, 9), 10),
        (Int(1, 9), True),
        (Int(1, 9), "5"),
        (Int(1, 9, step=2), 2),
        (Float(0, 1), 1.1),
        (Float(0, 1), None),
        (Float(0, 1), float("nan")),
        (Float(0, 1, step=0.25), 0.3),
    ],
)
def test_what_a_parameter_cannot_take(parameter: Parameter, value: Any) -> None:
    assert not contains(parameter, value)


def test_conditions_leave_out_what_is_not_there() -> None:
    search = {
        "optimizer": Choice(("sgd", "adamw")),
        "momentum": Choice((0.1, 0.9), when={"optimizer": "sgd"}),
        "nesterov": Choice((True, False), when={"momentum": (0.9,)}),
    }
    assert grid(search) == [
        {"optimizer": "sgd", "momentum": 0.1},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": False},
        {"optimizer": "adamw"},
    ]


def test_a_huge_grid_is_counted_without_being_listed() -> None:
    search: dict[str, Parameter] = {f"x{i}": Int(1, 10**6) for i in range(5)}
    search["y"] = Choice((1, 2), when={"x0": (1, 10**6)})
    assert grid_size(search) == 10**24 * (10**6 + 2)


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Parameter]:
    search: dict[str, Parameter] = {}
    for i in range(draw(st.integers(1, 5))):
        when = {}
        for parent in draw(st.lists(st.sampled_from(list(search) or [""]), max_size=2)):
            if parent:
                listed = list(values(search[parent]) or ())
                wanted = draw(st.lists(st.sampled_from(listed), min_size=1, max_size=2))
                when[parent] = wanted[0] if len(wanted) == 1 else tuple(wanted)
        kind = draw(st.sampled_from(["choice", "int", "float"]))
        if kind == "choice":
            choices = draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
            search[f"p{i}"] = Choice(tuple(choices), when)
        elif kind == "int":
            search[f"p{i}"] = Int(1, 1 + 2 * draw(st.integers(0, 3)), step=2, when=when)
        else:
            search[f"p{i}"] = Float(0.1, 0.5, step=0.2, when=when)
    return search


@given(spaces())
def test_the_grid_has_its_size_and_no_configuration_twice(search: dict[str, Parameter]) -> None:
    listed = grid(search)
    assert len(listed) == grid_size(search)
    assert len({tuple(sorted(params.items(), key=str)) for params in listed}) == len(listed)


@given(spaces())
def test_optuna_takes_every_value_as_it_is(search: dict[str, Parameter]) -> None:
    from hpo.search import distribution

    for parameter in search.values():
        for value in values(parameter) or ():
            there: optuna.distributions.BaseDistribution = distribution(parameter)
            internal = there.to_internal_repr(value)
            assert there._contains(internal)
            assert there.to_external_repr(internal) == value
