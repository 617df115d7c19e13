"""Files that others may have written are read without running what is in them."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import pickle
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from payload import Payload
from recorded import finished
from workbench import Workbench

from hpo import spec
from hpo.errors import StudyFileError, UserError
from hpo.results.catalog import Catalog
from trainers.contract import DataError
from trainers.models import build
from trainers.models.estimators import Estimated
from trainers.models.weights import load as load_weights
from trainers.options import ImageModel

ROOT = Path(__file__).parents[2]
PACKAGES = ("hpo", "trainers", "app", "studies")
EVALUATES = {"eval", "exec", "__import__", "compile"}
UNPICKLES = {
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"),
    *("read_pickle", "load_model", "unsafe_load", "full_load", "Unpickler"),
}
# Where such a word stands for something harmless.
KNOWN = {
    ("hpo/cma_es.py", "pickle"),  # which loads numbers alone
    ("hpo/cma_es.py", "Unpickler"),
    ("hpo/checkpoints.py", "pickle"),  # the error that torch.load raises
    ("hpo/executors/processes.py", "pickle"),  # what workers send, by a socket of their own
}


@pytest.fixture
def payload(tmp_path: Path) -> Payload:
    return Payload(tmp_path / "the payload ran")


# -- by reading the code


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def words(tree: ast.AST) -> Iterator[str]:
    """Modules and names that are imported or used as attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names) | ast.ImportFrom(names=names):
                yield from (each.name.partition(".")[0] for each in names)
                if isinstance(node, ast.ImportFrom) and node.module:
                    yield node.module.partition(".")[0]
            case ast.Attribute(attr=attr):
                yield attr


def what_runs_code(path: Path) -> Iterator[str]:
    name, tree = path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())
    for word in UNPICKLES.intersection(words(tree)):
        if (name, word) not in KNOWN:
            yield f"{name}: {word}"
    for function, call in calls(tree):
        given = {each.arg: ast.unparse(each.value) for each in call.keywords}
        of = f"{name}:{call.lineno}: {function}"
        if function.endswith("torch.load") and given.get("weights_only") != "True":
            yield f"{of} without weights_only=True"
        if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
            yield f"{of} with {given}"
        if function == "yaml.load" and "SafeLoader" not in given.get("Loader", ""):
            yield f"{of} without a safe loader"
        if function in EVALUATES or function in ("os.system", "os.popen"):
            yield of
        if "trust_remote_code" in given:
            yield f"{of} with trust_remote_code"


def test_no_code_of_ours_unpickles_or_evaluates() -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(paths) > 150
    assert [found for path in paths for found in what_runs_code(path)] == []


# -- by trying


def written(content: Any, how: str) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer) if how == "torch" else pickle.dump(content, buffer, protocol=2)
    return buffer.getvalue()


def replace_signed(path: Path, content: bytes) -> None:
    """Who can write a file can write its sha256, too."""
    path.write_bytes(content)
    path.with_suffix(".sha256").write_text(hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_trial_that_goes_on_from_a_checkpoint(
    bench: Workbench, payload: Payload, how: str
) -> None:
    told: dict[str, Any] = {
        "train__at": {"0:2": "interrupt once"},
        "train__folder": str(bench.folder),
    }
    told |= {"train__epochs": 50, "train__seconds": 0.01, "budget__trials": 1}
    assert bench.run(**told).state == "interrupted"
    (checkpoint,) = bench.paths.trial(0).glob("epoch-*.pt")
    replace_signed(checkpoint, written({"state": payload, "best": None}, how))
    assert bench.run(**told).state == "complete"  # from its start
    assert not payload.has_run()
    assert payload.works()


@pytest.mark.slow
def test_a_search_that_goes_on_with_cma_es(bench: Workbench, payload: Payload) -> None:
    """Optuna keeps the state of CMA-ES as a pickle in the storage."""
    file = bench.folder / "optuna.db"
    options: dict[str, Any] = {
        "storage": f"sqlite:///{file}",
        "sampler": "cma-es",
        "search": {f"train.{name}": {"low": 0.0, "high": 1.0} for name in "xy"},
        "train__epochs": 1,
    }
    bench.run(**options, budget__trials=10)
    attributes = "trial_system_attributes"
    with contextlib.closing(sqlite3.connect(file)) as store, store:
        states = f"from {attributes} where key like 'cma:optimizer:%'"
        assert store.execute(f"select count(*) {states}").fetchone()[0]
    bench.run(**options, budget__trials=11)  # reads what it has written
    with contextlib.closing(sqlite3.connect(file)) as store, store:
        store.execute(f"delete {states}")
        last = store.execute("select max(trial_id) from trials").fetchone()[0]
        row = (last, "cma:optimizer:0", f'"{pickle.dumps(payload).hex()}"')
        store.execute(f"insert into {attributes} (trial_id, key, value_json) values (?,?,?)", row)
    with pytest.raises(UserError, match=r"the storage holds posix.mkdir as the state of cma-es"):
        bench.run(**options, budget__trials=12)
    assert not payload.has_run()
    assert payload.works()


def test_predictions_and_stacks_that_a_page_or_a_report_shows(
    tmp_path: Path, payload: Payload
) -> None:
    from app.report import write_report
    from app.words import words as in_language

    study = finished(tmp_path, trials=3)
    for number in range(3):
        path = study.paths.trial(number) / "predictions.npz"
        kept = dict(np.load(path))
        np.savez(path, **{**kept, "output": np.array([payload], object)}, allow_pickle=True)
    catalog = Catalog(tmp_path)
    with pytest.raises(UserError, match="its predictions cannot be read"):
        catalog.predicted("digits", 2)
    report = tmp_path / "report.html"
    write_report(catalog, "digits", report, in_language("en"), 3, lambda text: None)
    assert report.stat().st_size > 0
    assert not payload.has_run()
    assert payload.works()


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_weights_to_start_from(tmp_path: Path, payload: Payload, how: str) -> None:
    section = ImageModel(hidden=[4]).model_dump()
    model = build(section, (1, 8, 8), 10)
    (tmp_path / "w.pt").write_bytes(written({**model.state_dict(), "more": payload}, how))
    with pytest.raises(DataError, match="is not a state_dict"):
        load_weights(model, {**section, "weights": str(tmp_path / "w.pt")}, (1, 8, 8))
    assert not payload.has_run()
    assert payload.works()


def of_skops(estimator: Any) -> dict[str, Any]:
    from skops import io as skops

    data = np.frombuffer(skops.dumps(estimator), np.uint8).copy()
    return {"estimator": torch.from_numpy(data), "units": [0.0, 1.0]}


def test_an_estimator_that_calls_a_function_of_numpy() -> None:
    """`numpy.load` unpickles when it is told to."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    call = FunctionTransformer(np.load, kw_args={"allow_pickle": True})
    kept = of_skops(make_pipeline(call, LinearRegression()))
    with pytest.raises(ValueError, match=r"it holds numpy.load, which is no part of an estimator"):
        Estimated(1).set_extra_state(kept)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_checkpoint_of_lightning(tmp_path: Path, payload: Payload) -> None:
    pytest.importorskip("lightning")
    from lightning.pytorch import LightningModule, Trainer
    from recording_trial import RecordingTrial

    from trainers.lightning import Report

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any) -> Any:
            return self.layer(batch[0]).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    content = torch.from_numpy(np.frombuffer(written(payload, "torch"), np.uint8).copy())
    trial: Any = RecordingTrial(
        {"train": {}}, None, saved=written({"lightning": content}, "torch")
    )
    report = Report(trial)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, callbacks=[report], default_root_dir=tmp_path, **quiet)
    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)))
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        trainer.fit(Module(), rows, ckpt_path=report.checkpoint)
    assert not payload.has_run()
    assert payload.works()


# -- whose code is imported


SIDE_EFFECT = "import os; os.makedirs({folder!r}, exist_ok=True)\n"


def test_only_a_run_imports_the_code_that_a_study_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hpo validate`, too, unless it is told; and everything that reads what was recorded."""
    from command import hpo

    bench = Workbench(tmp_path)
    bench.run(budget__trials=3)
    imported = tmp_path / "imported"
    for name in ("told.py", "losses.py"):
        (tmp_path / name).write_text(SIDE_EFFECT.format(folder=str(imported)))
    own = tmp_path / "own.yaml"
    own.write_text(
        "study: own\ntrainer: tabular\ndata: {source: wine}\n"
        "train: {metrics: ['losses:of_mine'], epochs: 1}\n"
        "objective: {metric: val/of_mine, goal: maximize}\nexecutor: inline\n"
    )
    home = ("--home", tmp_path)
    for arguments in (
        ("validate", bench.file),
        ("validate", own),
        ("validate", "--file-only", own),
        *(("status", "s", *home), ("best", "s", *home), ("trials", "s", *home)),
        ("compare", "s/0", "1", *home),
        ("report", "s", *home, "-o", tmp_path / "s.html"),
        ("predict", "s", bench.file, "-o", tmp_path / "p.csv", *home),
        ("ensemble", "s", *home),
        ("stop", "s", *home),
        ("doctor", *home),
    ):
        said = hpo(*arguments)
        assert said.code in (0, 1, 2), said
        assert said.code == 0 or "validate" not in arguments, said
        assert not imported.exists(), arguments
    catalog = Catalog(tmp_path)
    assert len(catalog.study("s").trials) == 3
    assert not imported.exists()
    assert spec.load(bench.file).trainer == "told:train"
    monkeypatch.delitem(sys.modules, "told")
    with pytest.raises(StudyFileError, match="told"):  # which has no `train` any more
        bench.run(budget__trials=4)
    assert imported.exists()
