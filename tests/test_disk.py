"""A full disk (row 12 of the fault matrix): at any byte the message names the file and what it
needs, nothing is corrupt, and everything goes on once there is room."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from workbench import Workbench

from hpo import checkpoints
from hpo.errors import NoRoom
from hpo.journal import SingleWriterJournal
from hpo.tracking import outbox
from hpo.tracking.outbox import Outbox

OFFSETS = 60  # at least so many places at which a file ends to grow
HPO = [sys.executable, "-m", "hpo.cli"]


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes meanwhile, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def places(size: int) -> range:
    """Lengths below `size` at which a file stops to grow."""
    return range(0, size, max(1, size // OFFSETS))


def test_row_12_an_outbox_that_finds_no_room_is_as_it_was_and_goes_on(tmp_path: Path) -> None:
    groups = [[0], [1, 2, 3], [4, 5]]
    line = len(outbox.encode({"n": 0}))
    for size in places(6 * line):
        path = tmp_path / str(size) / "outbox.log"
        acknowledged: list[int] = []
        with Outbox(path) as log:
            for group in groups:
                for n in group:
                    log.append({"n": n})
                if line * (len(acknowledged) + len(group)) > size:
                    needs = f"{path} needs {len(group) * line} bytes"
                    with pytest.raises(NoRoom, match=needs), files_of_at_most(size):
                        log.commit()
                    assert [r["n"] for r, _ in outbox.read(path)] == acknowledged
                    assert path.stat().st_size == line * len(acknowledged)
                log.commit()  # there is room, or there is again
                acknowledged += group
                assert [r["n"] for r, _ in outbox.read(path)] == acknowledged


def test_row_12_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    def state(epoch: int) -> dict[str, Any]:
        return {"epoch": epoch, "weights": torch.full((50,), float(epoch))}

    checkpoints.write(tmp_path, 1, state(1))
    checkpoints.write(tmp_path, 2, state(2))
    there = sorted(tmp_path.iterdir())
    size = (tmp_path / "epoch-2.pt").stat().st_size
    for most in places(size):
        needs = pytest.raises(NoRoom, match=r"epoch-3\.(pt|sha256) needs")
        with needs as full, files_of_at_most(most):
            checkpoints.write(tmp_path, 3, state(3))
        if "epoch-3.pt" in str(full.value):
            assert f"{tmp_path / 'epoch-3.pt'} needs {size:,} bytes" in str(full.value)
        found = checkpoints.newest(tmp_path, 3)
        assert found is not None
        assert found[0] == found[1]["epoch"] == 2
        assert [p for p in tmp_path.iterdir() if p not in there] in (
            [],
            [tmp_path / "epoch-3.sha256"],
        )
    checkpoints.write(tmp_path, 3, state(3))
    found = checkpoints.newest(tmp_path, 3)
    assert found is not None
    assert found[0] == 3


def test_row_12_a_journal_that_finds_no_room_has_what_was_committed(tmp_path: Path) -> None:
    def study(path: Path) -> tuple[optuna.Study, SingleWriterJournal]:
        journal = SingleWriterJournal(path)
        storage = JournalStorage(journal)
        opened = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
        return opened, journal

    def fill(opened: optuna.Study, journal: SingleWriterJournal) -> None:
        for _ in range(20):
            opened.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
            journal.commit()
            committed.append(journal)

    _, journal = study(tmp_path / "whole.log")
    journal.close()
    begins = (tmp_path / "whole.log").stat().st_size
    for place in places(2000):
        path = tmp_path / f"{place}.log"
        shutil.copy(tmp_path / "whole.log", path)
        committed: list[Any] = []
        opened, full = study(path)
        with pytest.raises(NoRoom, match="needs more room"), files_of_at_most(begins + place):
            fill(opened, full)
        with contextlib.suppress(NoRoom), files_of_at_most(0):
            full.close()
        again, journal_again = study(path)
        assert len(again.trials) >= len(committed)
        assert all("x" in trial.params for trial in again.trials[: len(committed)])
        journal_again.close()


def hpo(bench: Workbench, *arguments: str, most: int | None = None) -> Any:
    def limit() -> None:
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    return subprocess.run(
        [*HPO, *arguments, "--home", str(bench.folder)],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=120,
    )


def assert_whole(bench: Workbench, trials: int, epochs: int) -> None:
    assert [r["state"] for r in bench.records("end")] == ["complete"] * trials
    reported = Counter((r["number"], r["epoch"]) for r in bench.records("epoch"))
    assert reported == Counter({(n, e): 1 for n in range(trials) for e in range(1, epochs + 1)})
    assert {len(t.intermediate_values) for t in bench.optuna_trials()} == {epochs}


@pytest.mark.slow
@pytest.mark.usefixtures("tables_made")
@pytest.mark.parametrize("most", [100, 4000])
def test_row_12_a_study_says_which_file_needs_how_much_and_goes_on(
    bench: Workbench, most: int
) -> None:
    run = ("run", str(bench.file), "--set", "executor=processes")
    full = hpo(bench, *run, most=most)
    assert full.returncode == 1, full.stderr
    assert str(bench.paths.root) in full.stderr
    assert "needs" in full.stderr
    assert "File too large" in full.stderr
    assert "run the same command" in full.stderr
    assert "Traceback" not in full.stderr
    again = hpo(bench, *run)
    assert again.returncode == 0, again.stderr
    assert_whole(bench, trials=5, epochs=4)


FULL_FOR_THE_WORKER = """
import resource
from pathlib import Path
import told

def train(trial):
    report, once = trial.report, Path(__file__).with_name("was-full")
    def reporting(epoch, metrics):
        if epoch == 2 and not once.exists():
            once.touch()
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        report(epoch, metrics)
    trial.report = reporting
    told.train(trial)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("tables_made")
def test_row_12_a_worker_s_full_disk_is_not_its_trial_s_fault(bench: Workbench) -> None:
    (bench.folder / "full.py").write_text(FULL_FOR_THE_WORKER)
    text = bench.file.read_text().replace("epochs: 4", "epochs: 5, seconds: 0.4")
    text = text.replace("told:train", "full:train").replace("trials: 5", "trials: 2")
    bench.file.write_text(text.replace("executor: inline", "executor: processes"))
    full = hpo(bench, "run", str(bench.file))
    assert full.returncode == 1, full.stderr
    assert f"{bench.paths.trial(0)}/epoch-" in full.stderr
    assert "bytes, and the disk has" in full.stderr
    assert "older checkpoints are as they were" in full.stderr
    assert bench.records("end") == []  # and so it is not failed
    again = hpo(bench, "run", str(bench.file))
    assert again.returncode == 0, again.stderr
    assert_whole(bench, trials=2, epochs=5)


IN_A_SMALL_DISK = """
import json, os, subprocess, sys
small, hpo, study, home, room = sys.argv[1:6]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", small], check=True)
ballast = os.path.join(small, "ballast")
with open(ballast, "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
    os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size - int(room))
def run(*arguments):
    done = subprocess.run([*json.loads(hpo), *arguments, "--home", home],
                          capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr
told = [run("run", study)]
os.remove(ballast)
told.append(run("run", study))
told.append(run("sync", "s", "--verify"))
print(json.dumps(told))
"""


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "small", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A folder in which a disk of 4 MB can be put, by a process that may do so for itself."""
    if not can_mount():
        pytest.skip("needs unshare, and the right to mount for a process of its own")
    folder = tmp_path / "small"
    folder.mkdir()
    return folder


def in_a_small_disk(folder: Path, bench: Workbench, room: int) -> list[Any]:
    """Return code, output and errors of: run on a disk with so much room, again with all of it,
    and sync."""
    arguments = [str(folder), json.dumps(HPO), str(bench.file), str(bench.folder), str(room)]
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", IN_A_SMALL_DISK, *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert done.returncode == 0, done.stderr
    told: list[Any] = json.loads(done.stdout)
    return told


@pytest.mark.slow
@pytest.mark.usefixtures("tables_made")
@pytest.mark.parametrize("room", [0, 8192])
def test_row_12_a_study_on_a_full_disk_goes_on_when_there_is_room(
    bench: Workbench, small_disk: Path, room: int
) -> None:
    bench.home.studies.symlink_to(small_disk)
    text = bench.file.read_text().replace("epochs: 4", "epochs: 40")
    bench.file.write_text(text.replace("executor: inline", "executor: processes"))
    (code, _, error), again, synced = in_a_small_disk(small_disk, bench, room)
    assert code == 1, error
    assert "No space left on device" in error
    assert "needs" in error
    assert "Traceback" not in error
    assert again[0] == 0, again
    assert synced[0] == 0, synced
    assert "equal." in synced[1]


@pytest.mark.slow
def test_row_12_mlflow_on_a_full_disk_is_waited_for(bench: Workbench, small_disk: Path) -> None:
    bench.home.mlruns.symlink_to(small_disk)
    text = bench.file.read_text().replace("executor: inline", "executor: processes")
    bench.file.write_text(text)
    (code, _, error), again, synced = in_a_small_disk(small_disk, bench, room=200_000)
    assert code == 0, error
    assert "MLflow lacks the last" in error
    assert "full" in error or "No space" in error
    assert again[0] == 0, again
    assert synced[0] == 0, synced
    assert "equal." in synced[1]
