"""Weights are kept, of the best; and predict new rows as their trials did, alone and combined."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command import hpo
from workbench import Workbench

from hpo import checkpoints, results, spec, tracking
from hpo.ensemble import build, record
from hpo.errors import HpoError, UserError
from hpo.history import History, TrialHistory
from hpo.kept_models import KeptModels
from hpo.launch import opened
from hpo.messages import Assignment
from hpo.paths import Home, StudyPaths
from hpo.predict import open_predictor, predict
from hpo.progress import Silent
from hpo.rounds import AssignedTrial
from trainers import registry
from trainers.contract import Epoch, Predictions

# -- which weights are kept


@pytest.fixture
def told(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """Trial 0 is best at epoch 2, trial 1 better, …; its model says of which epoch it is."""
    (bench.folder / "told_models.py").write_text(
        "from trainers.contract import Epoch\n"
        "def train(trial): ...\n"
        "def train_together(trials):\n"
        "    while lanes := list(trials.begin()):\n"
        "        for epoch in (1, 2, 3):\n"
        "            trials.report([\n"
        "                Epoch(t, epoch, {'quality': t.number - abs(epoch - 2)}, None, None,\n"
        "                      epoch == 3, lambda epoch=epoch: {'epoch': epoch})\n"
        "                for t in lanes])\n"
    )
    monkeypatch.setattr(
        registry, "resolve_together", lambda _: __import__("told_models").train_together
    )
    monkeypatch.delitem(sys.modules, "told_models", raising=False)
    return bench


def kept(bench: Workbench) -> dict[int, dict[str, Any]]:
    found = bench.paths.root.glob(f"trials/*/{StudyPaths.MODEL}")
    return {int(path.parent.name): checkpoints.read(path) for path in found}


def test_a_trial_keeps_the_weights_of_its_best_epoch(told: Workbench) -> None:
    told.run(trainer="told_models:train", budget__trials=2)
    assert kept(told) == {
        number: {"trainer": "told_models:train", "trial": number, "epoch": 2} for number in (0, 1)
    }
    assert "model.pt" not in told.records("end")[0]["artifacts"]  # MLflow gets those of ensembles


@pytest.mark.parametrize(("most", "numbers"), [(2, {3, 4}), ("all", set(range(5))), (0, set())])
def test_the_weights_of_the_best_trials_are_kept(
    told: Workbench, most: Any, numbers: set[int]
) -> None:
    told.run(trainer="told_models:train", keep_models="all", budget__trials=4)
    (size,) = {told.paths.model(number).stat().st_size for number in range(4)}
    told.run(trainer="told_models:train", keep_models=most)
    assert set(kept(told)) == numbers
    deleted = [said for said in told.said if "were deleted" in said]
    if numbers == set(range(5)):
        assert deleted == []
    else:
        gone = 5 - len(numbers) if numbers else 4  # trial 4 then did not leave any
        whose = f"the weights of {gone} trials were deleted, {gone * size / 1e6:.1f} MB"
        assert deleted == [f"keep_models: {most}: {whose}; their predictions are kept"]
    left = {path.suffix for path in told.paths.root.glob("trials/*/model.*")}
    assert left == ({".pt", ".sha256"} if numbers else set())


def test_a_trial_that_left_no_weights_takes_no_place_of_one_that_did(told: Workbench) -> None:
    """Trial 4 has the best value on record, and fails after it."""
    file = told.folder / "told_models.py"
    fails = "            if any(t.number == 4 for t in lanes) and epoch == 3: raise ValueError\n"
    lines = file.read_text().splitlines(keepends=True)
    at = next(place for place, line in enumerate(lines) if "for epoch in" in line) + 1
    file.write_text("".join([*lines[:at], fails, *lines[at:]]))
    told.run(trainer="told_models:train", keep_models=1)
    best = max(told.records("end"), key=lambda end: end["values"][0])
    assert (best["number"], best["state"]) == (4, "failed")
    assert set(kept(told)) == {3}


def test_weights_that_somebody_has_deleted_are_not_counted(told: Workbench) -> None:
    history = History.read(told.paths.outbox, ["quality"], maximize=True)
    models = KeptModels(told.paths, 1, history)
    for number, value in enumerate([0.1, 0.2, 0.3]):
        told.paths.trial(number).mkdir(parents=True)
        checkpoints.save(told.paths.model(number), {})
        end = {"values": [value], "state": "complete"}
        models.add(TrialHistory(number, {}, end=end))
        told.paths.model(number).unlink()
    assert models.words() is None


def test_a_study_that_goes_on_keeps_to_the_number_and_what_ensembles_are_made_of(
    told: Workbench,
) -> None:
    told.run(trainer="told_models:train", keep_models="all", budget__trials=3)
    from hpo.tracking.outbox import Outbox

    with Outbox(told.paths.outbox) as log:
        members = [{"trial": 0}]
        log.append({"kind": "ensemble", "time_ms": 0, "ensemble": 0, "members": members})
    told.run(trainer="told_models:train", keep_models=2, budget__trials=5)
    assert set(kept(told)) == {0, 3, 4}


def test_the_best_weights_outlive_an_interruption(tmp_path: Path) -> None:
    worker: Any = SimpleNamespace(
        data=None, setup=SimpleNamespace(device="cpu", trainer="tabular", cache=tmp_path)
    )

    def trial(recorded: int) -> AssignedTrial:
        facts: Any = {"metrics": ["quality"], "maximize": True, "keep_model": True}
        assigned = Assignment(7, {"model": {}}, 0, 1, recorded, tmp_path, **facts)
        return AssignedTrial(assigned, worker, SimpleNamespace())  # type: ignore[arg-type]

    def epoch(of: AssignedTrial, number: int, quality: float) -> Epoch:
        model = {"weights": torch.full((3,), float(number))}
        said = Predictions(*(np.full(2, number, np.float32) for _ in range(3)))
        return Epoch(of, number, {"quality": quality}, said, model=lambda: model)

    first = trial(recorded=0)
    first.take(epoch(first, 1, 0.9))
    first.take(epoch(first, 2, 0.5))
    first.checkpoint({"epoch": 2})
    second = trial(recorded=2)
    assert second.resume() == {"epoch": 2}
    second.take(epoch(second, 3, 0.7))
    second.write_best()
    assert checkpoints.read(tmp_path / "model.pt")["weights"].tolist() == [1, 1, 1]
    second.take(epoch(second, 4, 0.95))
    second.write_best()
    assert checkpoints.read(tmp_path / "model.pt")["weights"].tolist() == [4, 4, 4]


# -- a study that was really trained


@dataclass(frozen=True)
class Trained:
    home: Home
    table: Path

    @property
    def paths(self) -> StudyPaths:
        return self.home.study("left")

    @property
    def frame(self) -> pd.DataFrame:
        return pd.read_csv(self.table)

    def validation(self, trial: int) -> tuple[pd.DataFrame, np.ndarray]:
        """The rows that validated a trial, as they are in the file, and what it said."""
        said = results.predicted("left", trial, self.home)
        return self.frame.iloc[said.ids], said.output


STUDY = """
study: left
trainer: tabular
data: {source: table.csv, target: left}
model: {hidden: [16]}
train: {epochs: 3, batch_size: 16}
search: {train.lr: {low: 1.0e-3, high: 0.05, log: true}}
objective: {metric: val/accuracy, goal: maximize}
sampler: random
executor: inline
workers: 1
lanes: 6
device: cpu
budget: {trials: 6}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    random, rows = np.random.default_rng(0), 240
    frame = pd.DataFrame({"age": random.integers(18, 90, rows).astype(float)})
    frame["city"] = random.choice(["Lima", "Oslo", "Rome"], rows)
    signal = frame["age"] / 20 + 2 * (frame["city"] == "Oslo") + random.normal(size=rows)
    frame["left"] = np.where(signal > signal.median(), "yes", "no")
    frame.loc[::11, "age"] = np.nan
    frame.to_csv(folder / "table.csv", index=False)
    (folder / "study.yaml").write_text(STUDY)
    home = Home(folder)
    with opened(spec.load(folder / "study.yaml", {}), home, Silent()) as orchestrator:
        orchestrator.run()
    return Trained(home, folder / "table.csv")


def test_a_trial_predicts_what_it_said_when_it_was_trained(trained: Trained) -> None:
    for trial in range(6):
        rows, said = trained.validation(trial)
        table = open_predictor(f"left/{trial}", trained.home).predict(rows)
        assert table[["probability.no", "probability.yes"]].to_numpy() == pytest.approx(
            said, abs=1e-5
        )
        assert list(table["predicted"]) == [["no", "yes"][at] for at in said.argmax(axis=1)]


def test_without_a_number_it_is_the_best_trial(trained: Trained) -> None:
    best = results.tables("left", trained.home).best()
    predictor = open_predictor("left", trained.home)
    assert [member.trial for member in predictor.members] == [best]
    assert [member.trial for member in open_predictor("left/3", trained.home).members] == [3]


@pytest.mark.parametrize("methods", [["greedy"], ["top"], ["stack"], ["cma"]])
def test_an_ensemble_predicts_what_its_members_say_together(
    trained: Trained, methods: Any
) -> None:
    tables = results.tables("left", trained.home)
    built = build(tables, trained.home, methods, metric="log_loss")
    number = record(built, trained.home)
    library = built.library
    predictor = open_predictor(f"left/ensemble/{number}", trained.home)
    said = predictor.predict(trained.frame.iloc[library.ids])
    expected = built.fitted.output(library, np.ones(len(library.ids), bool))
    assert said.iloc[:, 1:].to_numpy() == pytest.approx(expected, abs=1e-5)
    newest = open_predictor("left/ensemble", trained.home)
    assert newest.members[0].weight == predictor.members[0].weight
    assert results.ensemble("left", number, trained.home)["without_weights"] == []


def test_the_command_writes_a_table_and_says_how_good_it_is(
    trained: Trained, tmp_path: Path
) -> None:
    to = tmp_path / "out.csv"
    code, said, _ = hpo("predict", "left", trained.table, "-o", to, "--home", trained.home.root)
    assert code == 0
    written = pd.read_csv(to)
    assert list(written) == ["id", "predicted", "probability.no", "probability.yes"]
    assert list(written["id"]) == list(range(240))
    share = (written["predicted"] == trained.frame["left"]).mean()
    assert f"accuracy     {share:.4g} [" in said
    without = tmp_path / "without.csv"
    trained.frame.drop(columns="left").to_csv(without, index=False)
    code, said, _ = hpo(
        "predict", "left", without, "-o", to, "--home", trained.home.root, "--json"
    )
    found = json.loads(said)
    assert (found["rows"], found["judged"], found["metrics"]) == (240, 0, None)
    assert pd.read_csv(to).equals(written)


def test_rows_beyond_a_batch_are_predicted_alike(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = open_predictor("left", trained.home)
    whole = predict(predictor, [trained.table], tmp_path / "whole.csv")
    monkeypatch.setattr("trainers.unseen.MOST_ROWS", 17)
    monkeypatch.setattr("hpo.predict.SAY_EVERY_S", 0.0)
    said: list[str] = []
    parts = predict(predictor, [trained.table], tmp_path / "parts.csv", said.append)
    written = [pd.read_csv(tmp_path / f"{name}.csv") for name in ("parts", "whole")]
    pd.testing.assert_frame_equal(*written, rtol=1e-5)
    assert parts.metrics is not None
    assert whole.metrics is not None
    pd.testing.assert_frame_equal(parts.metrics, whole.metrics)
    assert said[-1] == "predicted 240 rows"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("left/77", "study 'left' has no trial 77"),
        ("left/ensemble/77", "has no ensemble 77; there are"),
        ("right", "no study 'right'"),
    ],
)
def test_a_model_that_is_not_there_is_said_so(trained: Trained, model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_predictor(model, trained.home)


def test_rows_that_do_not_fit_leave_no_file(trained: Trained, tmp_path: Path) -> None:
    bad, to = tmp_path / "bad.csv", tmp_path / "out.csv"
    trained.frame.rename(columns={"city": "town"}).to_csv(bad, index=False)
    code, _, said = hpo("predict", "left", bad, "-o", to, "--home", trained.home.root)
    assert code == 2
    assert "bad.csv lacks 1 of the 2 columns that the model needs: 'city'" in said
    assert list(tmp_path.iterdir()) == [bad]


@contextlib.contextmanager
def changed(path: Path, content: bytes | None) -> Iterator[None]:
    """The file has this content meanwhile, or is not there."""
    before = path.read_bytes()
    try:
        path.unlink() if content is None else path.write_bytes(content)
        yield
    finally:
        path.write_bytes(before)


def test_without_weights_it_says_which_trial_and_what_to_do(trained: Trained) -> None:
    with changed(trained.paths.model(2), None):
        with pytest.raises(UserError, match="no weights of trial 2: .*keep_models: 100") as said:
            open_predictor("left/2", trained.home)
        assert "There are those of trials 0, 1, 3, 4, 5." in str(said.value)
        tables = results.tables("left", trained.home)
        built = build(tables, trained.home, ["top"], top=6)
        without = build(tables, trained.home, ["top"], kept=True)
        assert without.left_out == {"kept no weights": 1}
        assert 2 not in without.library.trials
        assert 2 in built.library.trials


def test_an_ensemble_with_a_member_without_weights_says_so(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "sync", lambda *_: tracking.Shipped(0))
    with contextlib.ExitStack() as stack:
        for trial in range(6):
            stack.enter_context(changed(trained.paths.model(trial), None))
        code, said, _ = hpo("ensemble", "left", "--method", "top", "--home", trained.home.root)
        assert code == 0
        assert "It cannot predict them: there are no weights of trial" in said
        assert "keep_models" in said
        with pytest.raises(UserError, match="no weights of trial"):
            open_predictor("left/ensemble", trained.home)
        code, _, said = hpo("ensemble", "left", "--kept", "--home", trained.home.root)
        assert code == 2
        assert "no complete trial of study 'left' has weights" in said


# -- damage and malice


def test_a_flipped_bit_is_found(trained: Trained) -> None:
    path = trained.paths.model(1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    with changed(path, bytes(content)), pytest.raises(HpoError, match="trial 1 .*sha256"):
        open_predictor("left/1", trained.home)
    open_predictor("left/1", trained.home)


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, ("hostile",)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_reading_weights_runs_no_code(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Whoever can write the file can write its sha256, too."""
    import hashlib

    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    content: Mapping[str, Any] = {"version": 1, "folds": Hostile()}
    torch.save(content, buffer) if how == "torch" else pickle.dump(content, buffer, protocol=2)
    path = trained.paths.model(1)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
    with (
        changed(path, buffer.getvalue()),
        changed(path.with_suffix(".sha256"), digest),
        pytest.raises(HpoError, match="holds more than tensors and plain values"),
    ):
        open_predictor("left/1", trained.home)
    assert not Path("hostile").exists()
    pickle.loads(pickle.dumps(content))  # it would have worked
    assert Path("hostile").is_dir()


# -- MLflow


@pytest.mark.slow
@pytest.mark.parametrize("method", ["greedy", "stack"])
def test_in_mlflow_an_ensemble_is_a_model_that_needs_nothing_of_the_study(
    trained: Trained, tmp_path: Path, method: Any
) -> None:
    tables = results.tables("left", trained.home)
    number = record(build(tables, trained.home, [method], metric="log_loss"), trained.home)
    predictor = open_predictor(f"left/ensemble/{number}", trained.home)
    with warnings.catch_warnings():  # of MLflow's own
        warnings.simplefilter("ignore")
        import mlflow

        from hpo.tracking.replica import Replica

        Replica(trained.paths, trained.home, trained.home.tracking_uri).ship()
        run = results.ensemble("left", number, trained.home)["run_id"]
        mlflow.set_tracking_uri(trained.home.tracking_uri)
        aside = trained.paths.root.rename(tmp_path / "aside")
        try:
            model = mlflow.pyfunc.load_model(f"runs:/{run}/model")
            said = model.predict(trained.frame)
            whole = model.predict(trained.frame.fillna({"age": 0}).astype({"age": int}))
        finally:
            aside.rename(trained.paths.root)
    pd.testing.assert_frame_equal(said, predictor.predict(trained.frame))
    assert len(whole) == 240
    assert model.metadata.signature.inputs.input_names() == ["age", "city"]
    folder = trained.home.artifacts / "left" / run / "artifacts" / "model"
    assert not list(folder.rglob("*.pkl"))
    listed = json.loads((folder / "artifacts" / "members" / "ensemble.json").read_text())
    shipped = tracking.shipped_runs(trained.paths)
    assert {member["trial"]: member["run_id"] for member in listed["members"]} == {
        member.trial: shipped[member.trial] for member in predictor.members
    }


@pytest.mark.slow
def test_a_trial_that_predicts_images_is_a_model_that_takes_arrays(tmp_path: Path) -> None:
    digits = STUDY.replace("tabular", "image_classifier").replace(
        "{source: table.csv, target: left}", "{source: digits}"
    )
    (tmp_path / "study.yaml").write_text(digits)
    home = Home(tmp_path)
    with opened(
        spec.load(tmp_path / "study.yaml", {"budget.trials": 1}), home, Silent()
    ) as orchestrator:
        orchestrator.run()
    member = {"trial": 0, "weight": 1.0, "temperature": None}
    with warnings.catch_warnings():  # of MLflow's own
        warnings.simplefilter("ignore")
        import mlflow

        from hpo.tracking import models

        recipe = {"members": [member], "stack": None}
        models.save(tmp_path / "model", recipe, home.study("left"))
        model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    from sklearn.datasets import load_digits

    validated = results.predicted("left", 0, home)
    images = load_digits().images[validated.ids].astype(np.uint8)[:, None]
    said = model.predict(images)
    assert said.iloc[:, 1:].to_numpy() == pytest.approx(validated.output, abs=1e-5)

    from PIL import Image

    (tmp_path / "new").mkdir()
    Image.fromarray(images[0, 0] * 15).save(tmp_path / "new" / "one.png")
    (tmp_path / "new" / "torn.png").write_bytes(b"torn")
    given = (tmp_path / "new", "-o", tmp_path / "out.csv")
    code, _, told = hpo("predict", "left", *given, "--home", tmp_path)
    assert code == 1  # for one is missing
    assert "torn.png (not a" in told
    assert list(pd.read_csv(tmp_path / "out.csv")["id"]) == [str(tmp_path / "new" / "one.png")]
