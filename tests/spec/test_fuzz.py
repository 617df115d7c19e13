"""Whatever a study file says: it is good, or every problem in it is told. Nothing else happens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import fuzz
import pytest
from fuzz import BASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo import spec
from hpo.errors import StudyFileError
from hpo.spec import yaml12
from hpo.spec.yaml_text import dump

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 1, -1, 10**12, 0.5, -1e308, 1e308, float("inf"), float("nan"), "", "a",
     "auto", "sgd", "train.lr", "train.x", "${HOME}", "${", "~", "../x", "a:b", "é" * 300, "1h",
     "grid", "sqlite:///x", "postgresql://a:b@c/d", "http://", "val/loss", [], {}, [[]], [1],
     ["a"], {"a": 1}, {"low": 0, "high": 1}, {"low": 1, "high": 1e308, "step": 1e-300},
     {"low": -(2**63), "high": 2**63 - 1, "log": True}, {"choices": [1, 2]}, {"when": {}},
     {"choices": [1, 2], "when": {"train.lr": 1, "train.x": [2]}}, {"study": "x"}, {"name": "gp"},
     {"metric": "a", "goal": "minimize"}, {"metric": 1}, [{"metric": "a", "goal": "minimize"}]]
).map(copy.deepcopy)  # fmt: skip
KEYS = st.sampled_from(
    ["study", "trainer", "data", "model", "train", "search", "objective", "sampler", "pruner",
     "budget", "start_from", "storage", "tracking", "timeout", "train.lr", "train.x", "model.name",
     "train.optimizer", "data.size", "low", "high", "step", "log", "when", "choices", "type",
     "name", "x", "0", "train.list.1", "a.b", "", " ", "train.early_stopping.patience"]
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, below in items:
        found.append((*path, key))
        if isinstance(below, dict | list):
            found += places(below, (*path, key))
    return found


@st.composite
def changed_values(draw: st.DrawFn) -> bytes:
    """A good file with some values, or whole parts, replaced, added or left out."""
    value = yaml12.read(draw(st.sampled_from(BASES)).encode()).value
    for _ in range(draw(st.integers(1, 4))):
        listed = places(value)
        if not listed:
            break
        path = draw(st.sampled_from(listed))
        holder = value
        for part in path[:-1]:
            holder = holder[part]
        action = draw(st.sampled_from(["replace", "remove", "add", "move"]))
        if action == "replace":
            holder[path[-1]] = draw(ODD)
        elif action == "remove":
            del holder[path[-1]]
        elif isinstance(holder, dict):
            holder[draw(KEYS)] = draw(ODD) if action == "add" else holder.pop(path[-1])
        else:
            holder.append(draw(ODD))
    return dump(value).encode()


@st.composite
def changed_text(draw: st.DrawFn) -> bytes:
    """A good file with some characters replaced, added or left out."""
    text = draw(st.sampled_from(BASES))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 6)))
        new = draw(st.text("[]{}:,-?&*!|>'\"%@` \n\t#ab01.<=~$\x00é", max_size=4))
        text = text[:start] + new + text[end:]
    return text.encode()


def check(folder: Path, data: bytes) -> None:
    file = folder / "study.yaml"
    file.write_bytes(data)
    lines = data.decode("utf-8", "replace").splitlines()
    try:
        loaded = spec.load(file)
    except StudyFileError as error:
        explained(error, lines=len(lines))
        return
    loaded.config({})
    loaded.identity()
    file.write_text(loaded.resolved())
    assert spec.load(file).resolved() == loaded.resolved()


def explained(error: StudyFileError, lines: int) -> None:
    assert error.problems
    assert str(error)
    for problem in error.problems:
        assert problem.message
        assert not problem.warning
        assert problem.line is None or 1 <= problem.line <= lines + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(changed_values() | changed_text())
def test_a_changed_file_is_good_or_explained(folder: Path, data: bytes) -> None:
    check(folder, data)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(changed_values() | changed_text())
def test_many_changed_files_are_good_or_explained(folder: Path, data: bytes) -> None:
    check(folder, data)


# -- spoilt by bytes and tokens, with values of --set


def spoilt_files_are_told(folder: Path, count: int) -> None:
    results = fuzz.run(count, folder)
    assert results.failures == []
    assert results.good + results.told == count
    assert min(results.good, results.told) > count / 50  # neither all good nor all beyond reading
    assert results.slowest_s < fuzz.MOST_S
    assert results.grown_mb < fuzz.MOST_MB


def test_spoilt_files_and_values_are_good_or_explained(folder: Path) -> None:
    spoilt_files_are_told(folder, 100)


@pytest.mark.slow
def test_many_spoilt_files_and_values_are_good_or_explained(folder: Path) -> None:
    spoilt_files_are_told(folder, 2000)


def test_what_fails_is_found_and_can_be_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: Any) -> None:
        raise ValueError("a bug")

    def hangs(*_: Any) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz, "MOST_S", 0.05)
    for bug, said in ((raises, "ValueError: a bug"), (hangs, "TookTooLong")):
        monkeypatch.setattr(fuzz, "_load", bug)
        ((number, traceback),) = fuzz.run(1, folder, first=7).failures
        assert (number, said in traceback) == (7, True)
    assert fuzz.spoilt(7, fuzz.corpus()) == fuzz.spoilt(7, fuzz.corpus())
    assert fuzz.spoilt(7, fuzz.corpus()) != fuzz.spoilt(8, fuzz.corpus())
