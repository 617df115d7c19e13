"""What was acknowledged survives the loss of everything that was not flushed to the disk (row 8 of
the fault matrix): at every moment, with none, a part or all of the rest kept."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from power_loss import Disk, Moment, has_folders, write
from workbench import Workbench

from hpo import checkpoints
from hpo.journal import SingleWriterJournal
from hpo.paths import replacing
from hpo.tracking import outbox
from hpo.tracking.outbox import Outbox

EVERY = int(os.environ.get("HPO_TEST_EVERY", "12"))  # of a study's moments, one in so many


def watched(root: Path, work: Callable[[Disk], None]) -> list[Moment]:
    """All moments of some work in an empty folder."""
    root.mkdir()
    disk = Disk(root)
    with pytest.MonkeyPatch.context() as patch:
        disk.watch(patch)
        work(disk)
        disk.note()
    return disk.moments


def images(moments: list[Moment], folder: Path) -> Any:
    """Each moment with each folder that it may leave, once; they are made below `folder`."""
    seen, numbers = set(), itertools.count()
    for moment in moments:
        for image in moment.images():
            key = (moment.acknowledged, tuple(sorted(image.items())))
            if key not in seen:
                seen.add(key)
                root = folder / str(next(numbers))
                write(image, root)
                yield moment, root
                shutil.rmtree(root)


def test_row_8_the_outbox_has_what_was_acknowledged_and_goes_on(tmp_path: Path) -> None:
    groups = [[0], [1, 2, 3], [4], [5, 6]]

    def work(disk: Disk) -> None:
        for again in (groups[:2], groups[2:]):  # it is opened twice
            with Outbox(disk.root / "studies" / "s" / "outbox.log") as log:
                for group in again:
                    for n in group:
                        log.append({"n": n, "text": "x" * n * 1000})
                    log.commit()
                    disk.acknowledge(group[-1])

    tried = 0
    for moment, root in images(watched(tmp_path / "disk", work), tmp_path / "images"):
        path = root / "studies" / "s" / "outbox.log"
        least = moment.acknowledged[-1] + 1 if moment.acknowledged else 0
        with Outbox(path) as log:
            log.append({"n": "next"})
        found = [record["n"] for record, _ in outbox.read(path)]
        assert found == [*range(len(found) - 1), "next"]
        assert len(found) - 1 >= least
        tried += 1
    assert tried > 15


def test_row_8_the_checkpoint_of_an_acknowledged_epoch_is_there_or_the_one_before(
    tmp_path: Path,
) -> None:
    def content(epoch: int) -> Mapping[str, Any]:
        return {"epoch": epoch, "weights": torch.full((50,), float(epoch))}

    def work(disk: Disk) -> None:
        for epoch in (1, 2, 3, 3):  # the last one is trained again after a crash
            checkpoints.write(disk.root / "s" / "trials" / "0", epoch, content(epoch))
            disk.acknowledge(epoch)

    tried = 0
    for moment, root in images(watched(tmp_path / "disk", work), tmp_path / "images"):
        folder = root / "s" / "trials" / "0"
        newest = max(moment.acknowledged, default=0)
        for at_most in range(1, 4):
            found = checkpoints.newest(folder, at_most)
            least = newest - 1 if len(moment.acknowledged) == 3 else newest  # being overwritten
            if newest and at_most >= newest:
                assert found is not None
                assert found[0] >= least
            if found is not None:
                assert found[1]["epoch"] == found[0] <= at_most
                assert torch.equal(found[1]["weights"], content(found[0])["weights"])
        tried += 1
    assert tried > 40


def test_row_8_a_replaced_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    def work(disk: Disk) -> None:
        for n in range(3):
            with replacing(disk.root / "shipped.json") as file:
                file.write(b"%d" % n * 5000)
            disk.acknowledge(n)

    for moment, root in images(watched(tmp_path / "disk", work), tmp_path / "images"):
        if moment.acknowledged:
            found = (root / "shipped.json").read_bytes()
            n = int(found[:1])
            assert found == b"%d" % n * 5000
            assert n >= moment.acknowledged[-1]


def test_row_8_optunas_journal_has_what_was_committed(tmp_path: Path) -> None:
    def study(root: Path) -> tuple[optuna.Study, SingleWriterJournal]:
        journal = SingleWriterJournal(root / "journal.log")
        storage = JournalStorage(journal)
        return optuna.create_study(storage=storage, study_name="s", load_if_exists=True), journal

    def work(disk: Disk) -> None:
        opened, journal = study(disk.root)
        for n in range(3):
            trial = opened.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
            journal.commit()
            disk.acknowledge(n)
            opened.tell(trial, 0.5)
        journal.close()

    for moment, root in images(watched(tmp_path / "disk", work), tmp_path / "images"):
        opened, journal = study(root)
        assert len(opened.trials) >= len(moment.acknowledged)
        assert all("x" in trial.params for trial in opened.trials[: len(moment.acknowledged)])
        journal.close()


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, -1], ids=["nothing else is kept", "all else is kept"])
def test_row_8_a_whole_study_goes_on_and_has_every_epoch_once(
    bench: Workbench,
    another_bench: Callable[[], Workbench],
    monkeypatch: pytest.MonkeyPatch,
    keep: int,
) -> None:
    disk = Disk(bench.home.studies)
    disk.root.mkdir()
    commit = Outbox.commit

    def told(log: Outbox) -> None:
        commit(log)
        disk.acknowledge(log._size)

    with pytest.MonkeyPatch.context() as patch:
        disk.watch(patch)
        patch.setattr(Outbox, "commit", told)
        patch.setattr("hpo.rounds.CHECKPOINT_AFTER_S", 0.0)
        patch.setattr("hpo.rounds.CHECKPOINT_SHARE", 1e9)
        bench.run(budget__trials=3)
    whole = bench.paths.outbox.read_bytes()
    for moment in disk.moments[::EVERY]:
        other = another_bench()
        shutil.rmtree(other.home.studies, ignore_errors=True)
        first, last = _first_and_last(moment)
        write(first if keep == 0 else last, other.home.studies)
        assert _acknowledged(moment, whole) <= _epochs(other)
        other.run(budget__trials=3)
        assert _epochs(other) == _epochs(bench)
        assert len(other.records("epoch")) == len(_epochs(bench))


def _first_and_last(moment: Moment) -> tuple[Any, Any]:
    dropped = {
        name: None if file == -1 else moment.sure_content.get(file, b"")
        for name, file in moment.sure.items()
        if has_folders(name, moment.sure)
    }
    kept = {
        name: None if file == -1 else moment.seen_content[file]
        for name, file in moment.seen.items()
    }
    return dropped, kept


def _acknowledged(moment: Moment, whole: bytes) -> set[Any]:
    size = moment.acknowledged[-1] if moment.acknowledged else 0
    lines = whole[:size].splitlines(keepends=True)
    records = [outbox.decode(line) for line in lines]
    return {_epoch(r) for r in records if r is not None and r["kind"] == "epoch"}


def _epochs(bench: Workbench) -> set[Any]:
    if not bench.paths.outbox.is_file():
        return set()
    return {_epoch(r) for r in bench.records("epoch")}


def _epoch(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["number"], record["epoch"], tuple(sorted(record["metrics"].items()))
