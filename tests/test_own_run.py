"""What a program has logged to MLflow's file store so far, as epochs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.own_run import OwnRun


class Logged:
    """A run as MLflow's file store has it."""

    def __init__(self, store: Path, name: str, began_ms: int) -> None:
        self.folder = store / "0" / name
        (self.folder / "metrics").mkdir(parents=True)
        (self.folder / "meta.yaml").write_text(f"run_id: {name}\nstart_time: {began_ms}\n")

    def fact(self, kind: str, name: str, text: str) -> None:
        (self.folder / kind).mkdir(exist_ok=True)
        (self.folder / kind / name).write_text(text)

    def log(self, metric: str, text: str) -> None:
        with (self.folder / "metrics" / metric).open("a") as file:
            file.write(text)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "mlflow"


def test_an_epoch_is_told_when_the_next_one_has_begun(store: Path) -> None:
    run, logged = OwnRun(store, ["loss"]), Logged(store, "a", 1)
    assert run.epochs(is_over=False) == []
    logged.log("loss", "1 0.5 0\n")
    logged.log("cost", "1 7 0\n")
    assert run.epochs(is_over=False) == []
    logged.log("loss", "2 0.4 1\n3 0.")  # a torn line is no value
    assert run.epochs(is_over=False) == [(1, {"loss": 0.5, "cost": 7.0})]
    assert run.epochs(is_over=True) == [(2, {"loss": 0.4, "cost": 7.0})]


def test_of_several_runs_it_is_the_first_one_and_no_other_later(store: Path) -> None:
    run = OwnRun(store, ["loss"])
    parent, child = Logged(store, "parent", 1), Logged(store, "child", 2)
    child.log("loss", "3 0.5 0\n3 0.4 1\n")
    assert run.epochs(is_over=False) == [(1, {"loss": 0.5})]
    parent.log("loss", "4 0.1 0\n4 0.1 1\n4 0.1 2\n")
    assert run.epochs(is_over=True) == [(2, {"loss": 0.4})]
    assert OwnRun(store, ["loss"]).epochs(is_over=True)[0] == (1, {"loss": 0.1})


def test_its_parameters_and_tags_are_taken_over_without_secrets(store: Path) -> None:
    run, logged = OwnRun(store, ["loss"]), Logged(store, "a", 1)
    logged.log("loss", "1 0.5 0\n")
    logged.fact("params", "depth", "3")
    logged.fact("params", "uri", "postgresql://ann:s3cret@db/x")
    logged.fact("tags", "team", "birds")
    logged.fact("tags", "mlflow.user", "ann")
    facts = run.facts()
    assert facts["params"]["depth"] == "3"
    assert "s3cret" not in facts["params"]["uri"]
    assert facts["tags"] == {"team": "birds"}
