"""``hpo compare``: which runs are meant, what is printed of them, and whether it is chance."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import hpo
from made_up import classifier
from rich.console import Console
from workbench import Workbench

from hpo import comparison, results, tracking
from hpo.comparison_words import print_comparison
from hpo.errors import UnknownStudy, UserError
from hpo.paths import Home
from hpo.results.catalog import Catalog

GUESSES = '''
import numpy as np
from trainers.contract import Predictions

def train(trial):
    """Right more often the nearer x is to 1; the rows are the same for every trial."""
    skill = trial.params["train"]["x"]
    random = np.random.default_rng(trial.number)
    target = np.random.default_rng(0).integers(0, 2, 120)
    score = np.clip(random.random(120) * (1 - skill) + target * skill, 0, 1)
    output = np.stack([1 - score, score], axis=1).astype(np.float32)
    accuracy = float(((score > 0.5) == target).mean())
    metrics = {"train/loss": 0.1, "val/accuracy": accuracy, "val/speed": 3.0}
    trial.report(1, metrics, Predictions(np.arange(120), target, output))
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Study ``s`` keeps no predictions; ``guess`` does, and its trial 0 is the best."""
    bench = Workbench(tmp_path_factory.mktemp("compared"))
    (bench.folder / "guess_trainer.py").write_text(GUESSES)
    bench.run(budget__trials=2)
    bench.run(
        study="guess",
        trainer="guess_trainer:train",
        objective__metric="val/accuracy",
        start_from=[{"train.x": 0.6}, {"train.x": 0.55}, {"train.x": 0.1}],
        budget__trials=3,
    )
    return bench.folder


def said(home: Path, *runs: str, width: int | None = None, metric: str | None = None) -> str:
    """What the command prints of them."""
    found = comparison.find_runs(runs, Catalog(home))
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=width is not None,
        color_system=None,
        highlight=False,
        markup=False,
    )
    print_comparison(found, comparison.compared(found, metric), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# -- which runs


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (["guess/0", "guess/2"], ["guess/0", "guess/2"]),
        (["guess/0", "2", "1"], ["guess/0", "guess/2", "guess/1"]),
        (["guess", "2"], ["guess/0", "guess/2"]),
        (["guess/0", "s/1", "0"], ["guess/0", "s/1", "s/0"]),
        (["guess/0", "guess/0", "guess/1"], ["guess/0", "guess/1"]),
        (["{home}/study.yaml/1", "0"], ["s/1", "s/0"]),
    ],
)
def test_runs_are_found_by_study_and_number(
    home: Path, written: list[str], meant: list[str]
) -> None:
    names = [name.format(home=home) for name in written]
    assert [run.name for run in comparison.find_runs(names, Catalog(home))] == meant


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (["guess/0"], "only guess/0 to compare; name two runs or more"),
        (["guess/0", "9"], "study 'guess' has no trial 9; there are 0 to 2"),
        (["guess/0", "gess/1"], "did you mean 'guess'?"),
    ],
)
def test_runs_that_are_not_there_are_said(home: Path, written: list[str], says: str) -> None:
    with pytest.raises((UserError, UnknownStudy)) as error:
        comparison.find_runs(written, Catalog(home))
    assert says in str(error.value)


def test_a_study_without_a_best_trial_asks_for_a_number(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    objectives = [
        {"metric": "quality", "goal": "maximize"},
        {"metric": "cost", "goal": "minimize"},
    ]
    bench.run(objective=objectives, budget__trials=2)
    with pytest.raises(UserError, match=r"several objectives, .* name one, e\.g\. s/0"):
        comparison.find_runs(["s", "0"], Catalog(tmp_path))
    assert len(comparison.find_runs(["s/0", "1"], Catalog(tmp_path))) == 2


# -- what is said


def test_a_better_run_is_said_to_be_better_and_a_close_one_not(home: Path) -> None:
    printed = said(home, "guess/0", "1", "2")
    assert "accuracy on 120 validation rows, each against guess/0, the best of 3" in printed
    assert "guess/2: worse; accuracy -0." in printed
    assert "p < 0.0001 (McNemar chi2)" in printed
    assert "guess/1: cannot tell; accuracy" in printed
    assert "guess/0 is better than guess/2, by more than chance" in printed
    assert "from guess/1 it cannot be told" in printed
    assert "corrected for 2 comparisons (Holm)" in printed
    assert "chosen by these very rows" in printed


def test_metrics_stand_beside_each_other_with_intervals(home: Path) -> None:
    lines = said(home, "guess/0", "2").splitlines()
    row = next(line for line in lines if line.strip().startswith("val/accuracy"))
    measured = comparison.find_runs(["guess/0", "2"], Catalog(home))
    for run in measured:
        assert run.measured is not None
        found = run.measured.set_index("metric").loc["accuracy"]
        assert found["value"] == pytest.approx(run.recorded["val/accuracy"])
        assert f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]" in row
    assert any(line.strip().startswith("val/speed") for line in lines)  # as it was recorded
    assert not any("train/loss" in line for line in lines)


def test_only_settings_that_differ_are_shown(home: Path) -> None:
    printed = said(home, "guess/0", "2")
    assert "train.x  0.6      0.1" in printed
    assert "train.epochs" not in printed


def test_another_metric_can_be_tested(home: Path) -> None:
    assert "(DeLong)" in said(home, "guess/0", "2", metric="roc_auc")
    assert "(paired bootstrap)" in said(home, "guess/0", "2", metric="val/f1_macro")
    with pytest.raises(UserError, match="--metric speed: .* there are accuracy, f1_macro"):
        said(home, "guess/0", "2", metric="speed")


def test_runs_without_predictions_are_shown_as_recorded_and_not_tested(home: Path) -> None:
    printed = said(home, "s/0", "1")
    assert "quality" in printed
    assert "No predictions of s/0 and s/1, so no test" in printed
    assert "p =" not in printed
    mixed = said(home, "guess/0", "2", "s/1")
    assert "No predictions of s/1, so no test of it" in mixed
    assert "guess/2: worse" in mixed


def test_an_objective_that_predictions_do_not_give_is_replaced(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "studies", tmp_path / "studies")
    for number in (0, 1):
        put(tmp_path, "s", number, classifier(120, 2, 0.5 + number, seed=number))
    assert "accuracy on 120 validation rows" in said(tmp_path, "s/0", "1")


def test_runs_judged_on_other_rows_are_not_tested(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "studies", tmp_path / "studies")
    put(tmp_path, "s", 0, classifier(50, 2))
    assert "s/0: not comparable; judged on other validation rows" in said(
        tmp_path, "guess/0", "1", "s/0"
    )
    assert "nothing to hold it against" in said(tmp_path, "guess/0", "s/0")


def put(home: Path, study: str, number: int, predicted: results.Predicted) -> None:
    folder = home / "studies" / study / "trials" / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"ids": predicted.ids, "target": predicted.target, "output": predicted.output}
    np.savez(folder / "predictions.npz", **arrays)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\0" * 500])
def test_damaged_predictions_are_said_and_the_others_tested(
    content: bytes, home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / "studies", tmp_path / "studies")
    (tmp_path / "studies" / "guess" / "trials" / "1" / "predictions.npz").write_bytes(content)
    printed = said(tmp_path, "guess/0", "1", "2")
    assert "No test of guess/1: guess/1: its predictions cannot be read" in printed
    assert "trial.report(epoch" not in printed
    assert "guess/2: worse" in printed


def test_a_best_trial_was_chosen_among_all_of_its_study(home: Path) -> None:
    assert "the best of 3 on these rows" in said(home, "guess/0", "2")
    assert "the best of 2 on these rows" in said(home, "guess/1", "2")


@pytest.mark.slow
def test_a_study_that_is_only_in_mlflow_is_compared_alike(home: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    where = Home(home)
    assert tracking.sync(where.study("guess"), where, uri).pending == 0
    command = [sys.executable, "-m", "hpo.cli", "compare", "guess/0", "2", "--json"]
    done = subprocess.run(
        [*command, "--home", str(tmp_path / "elsewhere"), "--tracking-uri", uri],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    here = json.loads(hpo("compare", "guess/0", "2", "--home", home, "--json")[1])
    assert json.loads(done.stdout) == here


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_broken_or_cut_whatever_the_width(home: Path, width: int) -> None:
    printed = said(home, "guess/0", "1", "2", width=width)
    tables = printed.split("Is it real?")[0]
    for run in comparison.find_runs(["guess/0", "1", "2"], Catalog(home)):
        assert run.measured is not None
        found = run.measured.set_index("metric").loc["roc_auc"]
        assert f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]" in tables
    assert "…" not in tables
    if width >= 80:
        assert max(map(len, tables.splitlines())) <= width


def test_what_a_terminal_would_obey_is_not_printed(home: Path) -> None:
    runs = []
    for run in comparison.find_runs(["guess/0", "2"], Catalog(home)):
        long = f"{run.number}{'y' * 5000}"
        settings = {"train.name": f"\x1b[2J[bold]{run.number}[/]", "train.long": long}
        runs.append(replace(run, study=replace(run.study, configs={run.number: settings})))
    console = Console(file=io.StringIO(), highlight=False, markup=False, emoji=False)
    print_comparison(runs, None, console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "\x1b" not in printed
    assert "�[2J[bold]2[/]" in printed
    assert "y" * 41 not in printed


# -- the command


def test_the_command_prints_one_object_as_json(home: Path) -> None:
    code, out, err = hpo("compare", "guess/0", "1", "2", "--home", home, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    assert [run["run"] for run in found["runs"]] == ["guess/0", "guess/1", "guess/2"]
    assert found["differing"]["train.x"] == {"guess/0": 0.6, "guess/1": 0.55, "guess/2": 0.1}
    held = found["comparison"]
    assert (held["metric"], held["reference"], held["best_of"]) == ("accuracy", "guess/0", 3)
    assert held["kind"] == "some"
    assert [run["verdict"] for run in held["runs"]] == ["reference", "cannot tell", "worse"]
    assert held["runs"][0]["p"] is None
    measured = pd.DataFrame(found["runs"][0]["measured"]).set_index("metric")
    assert measured.loc["accuracy", "low"] < measured.loc["accuracy", "value"]


def test_json_without_predictions_has_no_comparison(home: Path) -> None:
    found = json.loads(hpo("compare", "s/0", "s/1", "--home", home, "--json")[1])
    assert found["comparison"] is None
    assert found["runs"][0]["measured"] is None
    assert found["runs"][0]["metrics"]["quality"] < 1


def test_the_command_prints_the_comparison_and_what_is_wrong(home: Path) -> None:
    code, out, _ = hpo("compare", "guess", "2", "--home", home)
    assert code == 0
    assert "Is it real?" in out
    code, _, err = hpo("compare", "guess", "--home", home)
    assert (code, err.splitlines()[0][:10]) == (2, "only guess")
    assert hpo("compare", "--home", home)[0] == 2
