"""The validation rows that a study keeps to be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import parquet
from workbench import Workbench

from hpo import examples

DIGITS = """
study: s
trainer: image_classifier
data: {source: digits}
model: {name: mlp, hidden: [4]}
train: {epochs: 1, batch_size: 256}
search: {train.lr: {low: 1e-3, high: 1e-1}}
executor: EXECUTOR
workers: 1
device: cpu
budget: {trials: 1}
"""


@pytest.mark.parametrize("executor", ["inline", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_study_keeps_examples_once(bench: Workbench, executor: str) -> None:
    bench.file.write_text(DIGITS.replace("EXECUTOR", executor))
    bench.run(tracking__examples=20)
    ids = parquet.read_table(bench.paths.examples)["id"].to_pylist()
    assert len(ids) == 20
    bench.paths.examples.write_bytes(b"as it was")
    bench.run(tracking__examples=20, budget__trials=2)
    assert bench.paths.examples.read_bytes() == b"as it was"


def test_none_are_kept_where_none_are_wanted_or_the_trainer_is_one_s_own(
    bench: Workbench,
) -> None:
    bench.run(budget__trials=1)
    assert not bench.paths.examples.exists()
    bench.file.write_text(DIGITS.replace("EXECUTOR", "inline"))
    bench.run(study="t", tracking__examples=0)
    assert not bench.home.study("t").examples.exists()


def test_they_are_no_part_of_what_a_study_is(bench: Workbench) -> None:
    assert bench.load(tracking__examples=3).identity() == bench.load().identity()


def test_what_goes_wrong_is_printed_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainers.data import load

    (tmp_path / "file").touch()
    dataset = load({"source": "digits"}, tmp_path / "cache")
    examples.keep(dataset, 5, tmp_path / "file" / "examples.parquet").join()
    assert "Error" in capsys.readouterr().err
