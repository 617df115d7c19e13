"""A trial trained anew from its record."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest
from workbench import Workbench

from hpo.errors import HpoError, UserError
from hpo.executors import open_executor
from hpo.reproduce import Reproduced, _relative, reproduce
from hpo.tracking.outbox import Outbox, read

SEEDED = """
import os, random

def train(trial):
    draw = random.Random(trial.seed)
    x = trial.params["train"]["x"]
    for epoch in range(1, 4):
        noise = draw.random() * float(os.environ.get("SCALE", 1.0))
        if epoch == int(os.environ.get("FAIL", 0)):
            raise ValueError("as told")
        trial.report(epoch, {"quality": x + noise, "nan": float("nan"), "cost": epoch})
"""


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker within this process, which has imported torch already."""
    monkeypatch.setattr("hpo.anew.open_executor", lambda _: open_executor("inline"))


@pytest.fixture
def seeded(bench: Workbench) -> Workbench:
    (bench.folder / "seeded.py").write_text(SEEDED)
    bench.run(trainer="seeded:train", budget__trials=3)
    return bench


def again(bench: Workbench, trial: int) -> Reproduced:
    return reproduce("s", trial, bench.home, print)


def everything(bench: Workbench) -> dict[str, bytes]:
    return {
        str(f.relative_to(bench.folder)): f.read_bytes()
        for f in bench.folder.rglob("*")
        if f.is_file() and f.suffix != ".pyc"
    }


@pytest.mark.usefixtures("inline")
def test_the_same_comes_out_and_nothing_is_written(seeded: Workbench) -> None:
    before = everything(seeded)
    found = again(seeded, 2)
    assert (found.same, found.largest, found.failure, found.data) == (True, None, None, None)
    assert (found.epochs, found.values) == (3, 9)
    assert found.environment == {}
    assert everything(seeded) == before


@pytest.mark.usefixtures("inline")
def test_the_largest_difference_is_found_and_a_tiny_one_is_none(
    seeded: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALE", "1.00000001")
    close = again(seeded, 1)
    assert close.same
    assert close.largest is not None
    assert 0 < close.largest.relative < 1e-8
    monkeypatch.setenv("SCALE", "1.1")
    far = again(seeded, 1)
    assert not far.same
    assert far.largest is not None
    recorded = {r["epoch"]: r["metrics"] for r in seeded.records("epoch") if r["number"] == 1}
    assert far.largest.metric == "quality"
    assert far.largest.then == recorded[far.largest.epoch]["quality"]
    assert far.largest.relative > 1e-3


@pytest.mark.usefixtures("inline")
def test_a_training_that_breaks_off_is_compared_as_far_as_it_got(
    seeded: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "2")
    found = again(seeded, 0)
    assert not found.same
    assert found.failure == "ValueError: as told"
    assert (found.epochs, found.largest) == (1, None)


@pytest.mark.usefixtures("inline")
def test_it_stops_at_the_last_epoch_on_record(bench: Workbench) -> None:
    (bench.folder / "seeded.py").write_text(SEEDED)
    bench.run(trainer="seeded:train", pruner={"name": "threshold", "upper": -1.0})
    assert bench.records("end")[0]["last_epoch"] == 1
    found = again(bench, 0)
    assert found.same
    assert found.epochs == 1


def rewrite(bench: Workbench, **changed: Any) -> None:
    """Change the study's record, as if it had been made elsewhere."""
    records = [record for record, _ in read(bench.paths.outbox)]
    bench.paths.outbox.unlink()
    with Outbox(bench.paths.outbox) as log:
        for record in records:
            log.append({**record, **changed} if record["kind"] == "study" else record)


@pytest.mark.usefixtures("inline")
def test_what_differs_in_code_and_versions_is_named(seeded: Workbench) -> None:
    provenance = dict(seeded.records("study")[0]["provenance"])
    packages = {**provenance["packages"], "optuna": "0.1", "gone": "1.0"}
    git = {"commit": "c" * 40, "diff": "-a\n+b\n"}
    rewrite(seeded, provenance={**provenance, "packages": packages, "git": git})
    found = again(seeded, 0).environment
    assert found["commit"] == ("c" * 40, None)
    assert found["uncommitted changes"][1] == "none"
    assert found["optuna"][0] == "0.1"
    assert found["gone"] == ("1.0", None)
    assert set(found) == {"commit", "uncommitted changes", "optuna", "gone"}


@pytest.mark.usefixtures("inline")
def test_other_data_is_said_first(bench: Workbench) -> None:
    rows = "".join(f"{i % 7},{i % 3},{i % 2}\n" for i in range(60))
    (bench.folder / "rows.csv").write_text("a,b,y\n" + rows)
    bench.file.write_text(
        "study: s\ntrainer: tabular\ndata: {source: rows.csv, target: y}\n"
        "model: {name: mlp, hidden: [4]}\ntrain: {epochs: 2, batch_size: 16}\n"
        "executor: inline\nworkers: 1\ndevice: cpu\n"
    )
    bench.run()
    said: list[str] = []
    assert reproduce("s", 0, bench.home, said.append).same
    with open(bench.folder / "rows.csv", "a") as file:
        file.write("1,1,1\n" * 10)
    found = reproduce("s", 0, bench.home, said.append)
    assert found.data is not None
    assert found.data[0] == bench.records("study")[0]["dataset"]["fingerprint"]
    assert said[-2].startswith("the data is not the same: ")
    assert "60 rows then, 70 now" in said[-2]
    (bench.folder / "rows.csv").unlink()
    with pytest.raises(HpoError, match=r"rows\.csv"):
        reproduce("s", 0, bench.home, said.append)


def test_what_was_not_trained_cannot_be_trained_again(bench: Workbench) -> None:
    bench.run(search={"train.x": {"low": 0, "high": 1000, "type": "int"}}, budget__trials=60)
    twins = [end for end in bench.records("end") if "duplicate_of" in end]
    with pytest.raises(UserError, match=f"Try `hpo reproduce s {twins[0]['duplicate_of']}`"):
        again(bench, twins[0]["number"])
    with pytest.raises(UserError, match="no trial 99"):
        again(bench, 999)
    bench.run(study="f", train__at={"0:1": "raise"}, budget__trials=2)
    with pytest.raises(UserError, match="no epoch on record"):
        reproduce("f", 0, bench.home, print)


@pytest.mark.usefixtures("inline")
def test_a_secret_of_the_environment_is_not_needed(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD", "hush")
    bench.file.write_text(
        bench.file.read_text() + "tracking: {uri: 'http://me:${PASSWORD}@127.0.0.1:9'}\n"
    )
    bench.run(budget__trials=1)
    monkeypatch.delenv("PASSWORD")
    assert again(bench, 0).same


@pytest.mark.parametrize(
    ("one", "other", "relative"),
    [(1.0, 1.0, 0.0), (math.nan, math.nan, 0.0), (math.inf, math.inf, 0.0), (0.0, -0.0, 0.0),
     (2.0, 1.0, 0.5), (-2.0, 2.0, 2.0), (0.0, 1e-9, 1.0), (1.0, None, math.inf),
     (math.nan, 1.0, math.inf), (math.inf, 1.0, math.inf)],
)  # fmt: skip
def test_differences_are_relative(one: float, other: float | None, relative: float) -> None:
    assert _relative(one, other) == relative
    assert _relative(other, one) == relative


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "code"), [("1.0", 0), ("2.0", 1)])
def test_the_command_says_so(seeded: Workbench, scale: str, code: int) -> None:
    command = [sys.executable, "-m", "hpo.cli", "reproduce", "s", "1"]
    ran = [
        subprocess.run(
            [*command, *options],
            cwd=seeded.folder,
            env={**os.environ, "SCALE": scale},
            capture_output=True,
            text=True,
        )
        for options in ([], ["--json"])
    ]
    assert [each.returncode for each in ran] == [code, code]
    said = "the same, number for number" if code == 0 else "the largest difference is"
    assert f"trial 1 of s, 3 epochs, 9 values: {said}" in ran[0].stdout
    assert "Code, packages, data and machine are alike." in ran[0].stdout
    as_json = json.loads(ran[1].stdout)
    assert as_json["same"] == (code == 0)
    assert (as_json["largest"] is None) == (code == 0)


@pytest.mark.slow
def test_what_ray_brings_along_for_itself_is_no_package_of_the_study() -> None:
    ask = (
        "from hpo.tracking import provenance as p\n"
        "before = p._packages(); p._packages.cache_clear()\n"
        "import ray; assert p._packages() == before, set(p._packages()) ^ set(before)"
    )
    pytest.importorskip("ray")
    subprocess.run([sys.executable, "-c", ask], check=True, timeout=60)
