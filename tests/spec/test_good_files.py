"""What a good study file becomes."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from hpo import spec
from hpo.errors import StudyFileError
from hpo.spec import Choice, Float, FromStudy, Int, StudySpec
from hpo.spec import sections as spec_sections

QUICKSTART = """\
study: quickstart
trainer: image_classifier
data: {source: digits, validation: 0.2, test: 0.2}
model: {name: mlp, hidden: [64]}
train: {epochs: 20, lr: 0.05, batch_size: 32, optimizer: sgd}
search:                                   # a path into this file → where to search
  train.lr:           {low: 1e-3, high: 1.0, log: true}
  train.batch_size:   [16, 32, 64, 128]
  train.weight_decay: {low: 1e-6, high: 1e-2, log: true}
  train.optimizer:    [sgd, adamw]
  train.momentum:     {low: 0.5, high: 0.99, when: {train.optimizer: sgd}}
objective: {metric: val/f1_macro, goal: maximize}
sampler: tpe
pruner: hyperband
budget: {trials: 40, wall: 10m}
"""

OWN = """\
study: own
trainer: my_module:train
data: {source: ./table.csv}
train: {epochs: 4, x: 0.5, layers: [8, {width: 4}], 2: two}
search:
  train.x: {low: 0.0, high: 1.0}
  train.n: {low: 1, high: 9}
  train.f: {low: 1, high: 9, type: float}
  train.layers.1.width: {low: 4, high: 64, step: 4}
  model.deep.er: [null, true, one, 1.5]
objective: {metric: quality, goal: maximize}
"""


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(text: str, **overrides: Any) -> StudySpec:
        file = tmp_path / "study.yaml"
        file.write_text(text)
        return spec.load(file, overrides)

    return load


def test_the_quickstart(load: Any) -> None:
    study = load(QUICKSTART)
    assert study.warnings == ()
    assert dict(study.search) == {
        "train.lr": Float(1e-3, 1.0, log=True),
        "train.batch_size": Choice((16, 32, 64, 128)),
        "train.weight_decay": Float(1e-6, 1e-2, log=True),
        "train.optimizer": Choice(("sgd", "adamw")),
        "train.momentum": Float(0.5, 0.99, when={"train.optimizer": "sgd"}),
    }
    assert study.objective[0].metric == "val/f1_macro"
    assert study.objective[0].maximize
    assert (study.sampler.name, study.pruner.name) == ("tpe", "hyperband")
    assert (study.budget.trials, study.budget.wall_s) == (40, 600)
    assert study.train["lr"] == 0.05
    assert study.train["nesterov"] is False  # a default
    assert study.folder == study.file.parent


def test_own_trainers_have_what_they_like(load: Any) -> None:
    study = load(OWN)
    assert study.train == {"epochs": 4, "x": 0.5, "layers": [8, {"width": 4}], "2": "two"}
    assert study.data == {"source": "./table.csv"}  # nothing is there
    assert dict(study.search) == {
        "train.x": Float(0.0, 1.0),
        "train.n": Int(1, 9),
        "train.f": Float(1.0, 9.0),
        "train.layers.1.width": Int(4, 64, step=4),
        "model.deep.er": Choice((None, True, "one", 1.5)),
    }


def test_the_option_says_what_is_whole(load: Any) -> None:
    text = QUICKSTART.replace(
        "train.momentum: ", "model.dropout: {low: 0, high: 0}\n  train.mom: "
    )
    study = load(
        QUICKSTART,
        search={
            "model.dropout": {"low": 0, "high": 0.5, "step": 0.25},
            "model.hidden.0": {"low": 16, "high": 64, "step": 16},
            "train.epochs": {"low": 1, "high": 8, "log": True},
            "train.weight_decay": [0, 1],
        },
    )
    assert text != QUICKSTART
    assert dict(study.search) == {
        "model.dropout": Float(0.0, 0.5, step=0.25),
        "model.hidden.0": Int(16, 64, step=16),
        "train.epochs": Int(1, 8, log=True),
        "train.weight_decay": Choice((0.0, 1.0)),
    }
    assert all(type(c) is float for c in study.search["train.weight_decay"].choices)


def test_parameters_come_after_those_they_depend_on(load: Any) -> None:
    study = load(
        QUICKSTART,
        search={
            "train.nesterov": {"choices": [True, False], "when": {"train.momentum": [0.5, 1e-1]}},
            "train.momentum": {"choices": [0.1, 0.5], "when": {"train.optimizer": ["sgd"]}},
            "train.lr": [0.1, 0.2],
            "train.optimizer": ["sgd", "adamw"],
        },
    )
    order = list(study.search)
    assert order.index("train.optimizer") < order.index("train.momentum")
    assert order.index("train.momentum") < order.index("train.nesterov")
    assert study.search["train.nesterov"].when == {"train.momentum": (0.5, 0.1)}
    assert study.search["train.momentum"].when == {"train.optimizer": ("sgd",)}


def test_a_trial_s_config_has_its_values_and_else_the_file_s(load: Any) -> None:
    study = load(QUICKSTART)
    config = study.config({"train.lr": 0.5, "train.optimizer": "adamw"})
    assert config["train"]["lr"] == 0.5
    assert config["train"]["optimizer"] == "adamw"
    assert config["train"]["momentum"] == 0.9  # inactive: the default
    config["model"]["hidden"].append(1)
    config["train"]["lr"] = None
    assert study.config({})["model"]["hidden"] == [64]
    assert study.config({})["train"]["lr"] == 0.05


def test_a_trial_s_config_reaches_any_depth(load: Any) -> None:
    own = load(OWN)
    config = own.config({"train.layers.1.width": 12, "model.deep.er": None, "train.n": 3})
    assert config["train"]["layers"] == [8, {"width": 12}]
    assert config["model"] == {"deep": {"er": None}}
    assert "n" not in own.config({})["train"]
    nested = load(QUICKSTART, search={"train.early_stopping.patience": [2, 4]})
    assert nested.config({})["train"]["early_stopping"] is None
    assert nested.config({"train.early_stopping.patience": 2})["train"]["early_stopping"] == {
        "patience": 2,
        "min_delta": 0.0,
        "metric": "val/loss",
    }
    item = load(QUICKSTART, search={"model.hidden.0": [2, 4]})
    assert item.config({"model.hidden.0": 2})["model"]["hidden"] == [2]


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (QUICKSTART, {}),
        (OWN, {}),
        (QUICKSTART, {"search": None}),
        (QUICKSTART, {"sampler": {"name": "tpe", "n_startup_trials": 3}}),
        (QUICKSTART, {"pruner": {"name": "percentile", "percentile": 25}, "timeout": "1.5h"}),
        (QUICKSTART, {"start_from": [{"train.lr": 0.1}, {"study": "before"}]}),
        (QUICKSTART, {"budget": {"device_hours": 0.1, "patience": 3, "target": 1e-7}}),
        (
            OWN,
            {
                "train.texts": [
                    "no",
                    "1e-3",
                    "017",
                    "0x1f",
                    "~",
                    "",
                    "12:30",
                    "a: b",
                    "<<",
                    "é\n",
                    "#",
                ]
            },
        ),
        (OWN, {"train.numbers": [1e-7, 1.0, 1e300, -0.0, 123456789012345678, 1e16]}),
        (
            OWN,
            {
                "objective": [
                    {"metric": "a", "goal": "minimize"},
                    {"metric": "b", "goal": "maximize"},
                ],
                "pruner": "successive_halving",
            },
        ),
    ],
)
def test_the_resolved_file_says_the_same(load: Any, text: str, overrides: dict[str, Any]) -> None:
    study = load(text, **overrides)
    again = load(study.resolved())
    assert again.model_dump() == study.model_dump()
    assert again.identity() == study.identity()
    assert again.resolved() == study.resolved()


def test_the_resolved_file_has_every_default(load: Any) -> None:
    text = load("study: s\ntrainer: tabular\ndata: {source: wine}\n").resolved()
    for line in (
        "  task: auto",
        "  batch_size: 32",
        "objective:\n  metric: val/loss\n  goal: minimize",
        "sampler: auto",
        "pruner: auto",
        "budget:\n  trials: 1",
        "seed: 0",
        "workers: auto",
        "lanes: auto",
        "storage: journal",
    ):
        assert f"{line}\n" in text


def test_identity_is_what_makes_trials_comparable(load: Any) -> None:
    identity = load(QUICKSTART).identity()
    same = {
        "budget": {"trials": 99}, "sampler": "random", "pruner": "none", "workers": 1,
        "lanes": "off", "retries": 3, "timeout": "1h", "device": "cpu", "study": "other",
        "keep_models": 0,
    }  # fmt: skip
    assert load(QUICKSTART, **same).identity() == identity
    for key, value in {
        "seed": 1,
        "train.epochs": 3,
        "data.test": 0.1,
        "objective.goal": "minimize",
        "search.train.lr.low": 0.01,
        "search.train.momentum.low": 0.6,
    }.items():
        changed = load(QUICKSTART, **{key: value}).identity()
        assert {k.split(".")[0] for k in changed if changed[k] != identity.get(k)} <= {
            key.split(".")[0]
        }
        assert changed != identity


def test_identity_outlives_json_and_a_move(load: Any, tmp_path: Path) -> None:
    import json

    (tmp_path / "photos").mkdir()
    study = load(QUICKSTART, **{"data.source": "photos"})
    identity = study.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert study.data["source"] == str(tmp_path / "photos")
    assert identity["data.source"] == "photos"


@pytest.mark.parametrize(
    ("lines", "trials"),
    [
        ("", 50),
        ("search:\n", 1),
        ("budget: {wall: 1h}", None),
        ("budget: {patience: 3}", None),
        ("budget: {device_hours: 1}", None),
        ("budget: {target: 1}", 50),
        ("budget: {wall: 1h, trials: 7}", 7),
        ("budget: {wall: 1h}\nsearch:\n", 1),
    ],
)
def test_the_default_budget(load: Any, lines: str, trials: int | None) -> None:
    text = "study: s\ntrainer: tabular\ndata: {source: wine}\n"
    if "search" not in lines:
        text += "search: {train.lr: [0.1, 0.2]}\n"
    assert load(f"{text}{lines}\n").budget.trials == trials


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1.5h", 5400),
        ("1d2h3m4s", 93_784),
    ],
)
def test_durations(load: Any, text: str, seconds: float) -> None:
    study = load(QUICKSTART, timeout=text)
    assert study.timeout_s == seconds
    written = {"90s": "1m30s", "1.5h": "1h30m"}.get(text, text)
    assert f"\ntimeout: {written}\n" in study.resolved()


def test_start_from_takes_the_parameters_types(load: Any) -> None:
    study = load(QUICKSTART, start_from=[{"train.lr": 1, "train.batch_size": 32}, {"study": "a"}])
    assert study.start_from == ({"train.lr": 1.0, "train.batch_size": 32}, FromStudy(study="a"))
    assert type(study.start_from[0]["train.lr"]) is float
    assert load(QUICKSTART, start_from={"study": "a"}).start_from == (FromStudy(study="a"),)


# -- paths and addresses


def test_paths_are_relative_to_the_file(load: Any, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "w.pt").touch()
    monkeypatch.setenv("PHOTOS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    here = str(tmp_path / "photos")
    for source in ("photos", "./photos/", "photos/../photos", "~/photos", "${PHOTOS}/photos",
                   "${NOT_SET:-photos}", here):  # fmt: skip
        assert load(QUICKSTART, **{"data.source": source}).data["source"] == here
        own = {"trainer": "my:train", "data.source": source}
        assert load(QUICKSTART, **own).data["source"] == here
    weights = str(tmp_path / "w.pt")
    assert load(QUICKSTART, **{"model.weights": "w.pt"}).model["weights"] == weights
    searched = load(QUICKSTART, search={"model.weights": ["w.pt", None]})
    assert searched.search["model.weights"] == Choice(("w.pt", None))
    assert searched.config({"model.weights": "w.pt"})["model"]["weights"] == weights


def test_built_in_data_is_no_path(load: Any, tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    assert load(QUICKSTART).data["source"] == "digits"
    assert load(QUICKSTART, trainer="my:train").data["source"] == "digits"


def test_the_built_in_sources_are_those_of_the_trainers() -> None:
    from trainers.data import BUILT_IN_TABLES

    assert spec_sections.BUILT_IN_SOURCES["tabular"] == BUILT_IN_TABLES


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_source_that_may_not_be_read(load: Any, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir(mode=0)
    with pytest.raises(StudyFileError, match="may not be read"):
        load(QUICKSTART, **{"data.source": "photos"})


def test_secrets_come_from_the_environment_and_stay_there(load: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("PASSWORD", "hunter2")
    study = load(
        QUICKSTART
        + "storage: postgresql://me:${PASSWORD}@host/db\n"
        + "tracking: {uri: 'https://me:${PASSWORD}@host:5000'}\n"
    )
    assert study.storage == "postgresql://me:hunter2@host/db"
    assert study.tracking.uri == "https://me:hunter2@host:5000"
    assert "hunter2" not in study.resolved()
    assert "postgresql://me:${PASSWORD}@host/db" in study.resolved()
    assert "hunter2" not in str(study.identity())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("journal", "journal"),
        ("sqlite:///optuna.db", "sqlite:////optuna.db"),
        ("sqlite:///./a b.db", "sqlite:////a b.db"),
        ("sqlite:////tmp/optuna.db", None),
        ("postgresql://host/db", None),
        ("postgresql://postgres:@/postgres?host=/tmp/socket", None),
        ("postgresql+psycopg://me@host:5432/db?sslmode=require", None),
    ],
)
def test_storages(load: Any, tmp_path: Path, written: str, meant: str | None) -> None:
    found = load(QUICKSTART, storage=written).storage
    assert found == (meant or written).replace("sqlite:////", f"sqlite:///{tmp_path}/") or (
        found == written and meant is None
    )


@pytest.mark.parametrize(
    "uri", ["http://localhost:5000", "https://host/mlflow", "sqlite:////tmp/mlflow.db",
            "postgresql://host/mlflow"],
)  # fmt: skip
def test_tracking_addresses(load: Any, uri: str) -> None:
    assert load(QUICKSTART, tracking={"uri": uri}).tracking.uri == uri


# -- afterwards


def test_later_problems_are_placed_in_the_file(load: Any) -> None:
    study = load(QUICKSTART)
    for key, line, column in (
        ("data.source", 3, 16),
        ("data.target", 3, 1),
        ("search.train.lr.low", 7, 29),
        ("trainer", 2, 10),
        ("workers", 1, 1),
        ("", 1, 1),
    ):
        problem = study.problem(key, "message", "hint")
        assert (problem.key, problem.line, problem.column) == (key, line, column)
    assert (
        load(QUICKSTART, **{"train.lr": 1}).problem("train.lr", "m").message
        == "m (--set train.lr)"
    )


SUMMARY = {
    "task": "classification",
    "train": 100,
    "classes": ["cat", "dog"],
}


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        ({"objective.metric": "val/r2"}, "objective.metric", "val/r2 is not reported for classif"),
        ({}, "search.train.batch_size.3", "expected at most 100, the rows to train on; got 128"),
        (
            {"search.train.batch_size": {"low": 1, "high": 512}},
            "search.train.batch_size.high",
            "got 512",
        ),
        ({"search": None, "train.batch_size": 101}, "train.batch_size", "got 101"),
        (
            {"train.early_stopping": {"metric": "val/r2"}, "search": None},
            "train.early_stopping.metric",
            "val/r2 is not reported",
        ),
        (
            {"search.train.loss": ["auto", "focal", "huber"]},
            "search.train.loss.2",
            "huber is for values; what is predicted here are classes",
        ),
        ({"objective.metric": "val/f1/dig"}, "objective.metric", "val/f1/dig is not reported"),
    ],
)
def test_the_file_and_its_data(
    load: Any, overrides: dict[str, Any], key: str, message: str
) -> None:
    found = spec.check_data(load(QUICKSTART, **overrides), SUMMARY)
    (problem,) = [p for p in found if p.key == key]
    assert message in problem.message


def test_data_that_fits_has_no_problems(load: Any) -> None:
    fits = {**SUMMARY, "train": 1000}
    assert spec.check_data(load(QUICKSTART), fits) == []
    searched = load(QUICKSTART, **{"search.train.loss": ["auto", "focal"]})
    assert spec.check_data(searched, fits) == []
    assert spec.check_data(load(QUICKSTART, **{"objective.metric": "val/f1/dog"}), fits) == []


def test_smoothing_that_is_searched_where_values_are_predicted_has_no_effect(load: Any) -> None:
    searched = load(QUICKSTART, **{"search.train.label_smoothing": {"low": 0.0, "high": 0.2}})
    values = {"task": "regression", "train": 1000, "classes": None}
    (problem,) = [p for p in spec.check_data(searched, values) if "smoothing" in p.key]
    assert "has no effect: values are predicted" in problem.message
    assert spec.check_data(searched, {**SUMMARY, "train": 1000}) == []


def test_an_objective_is_asked_for_by_itself(load: Any) -> None:
    objectives = [
        {"metric": "val/f1/dog", "goal": "maximize"},
        {"metric": "cost/parameters", "goal": "minimize"},
        {"metric": "val/loss", "goal": "minimize"},
    ]
    several = {"objective": objectives, "train.metrics": ["mcc", "f1"], "pruner": None}
    assert load(QUICKSTART, **several).train["metrics"] == ["mcc", "f1", "cost/parameters"]
    assert load(QUICKSTART).train["metrics"] == []


def test_a_spec_is_frozen_and_goes_to_other_processes(load: Any) -> None:
    study = load(QUICKSTART)
    with pytest.raises(ValueError, match="frozen"):
        study.seed = 3
    assert pickle.loads(pickle.dumps(study)).resolved() == study.resolved()


def test_a_data_set_of_torchvision_is_a_name_and_its_root_a_path(
    load: Any, tmp_path: Path
) -> None:
    (tmp_path / "sets").mkdir()
    data = "{source: 'torchvision:MNIST', root: sets, validation: 0.2, test: 0.2}"
    text = QUICKSTART.replace("{source: digits, validation: 0.2, test: 0.2}", data)
    study = load(text)
    assert study.data["source"] == "torchvision:MNIST"
    assert study.data["root"] == str(tmp_path / "sets")
    assert study.identity()["data.root"] == "sets"
    with pytest.raises(StudyFileError, match="there is no nowhere"):
        load(text.replace("root: sets", "root: nowhere"))
