"""What goes wrong in somebody's own trainer: its trial fails with one clear line."""

from __future__ import annotations

import pytest
from workbench import Workbench

from hpo.causes import cause, most_often
from hpo.errors import StudyFailed

CASES = {
    "nothing": ("pass", "MissingMetric: the trainer returned without reporting an epoch"),
    "no metric": (
        "trial.report(1, {})",
        "MissingMetric: the objective is quality, but the trainer reported only nothing",
    ),
    "another metric": (
        "trial.report(1, {'val/f1': 0.3, 'loss': 1})",
        "MissingMetric: the objective is quality, but the trainer reported only loss, val/f1",
    ),
    "a tensor": (
        "import torch; trial.report(1, {'quality': torch.tensor(0.3)})",
        "TypeError: quality is to be reported as a number; it is of type Tensor: "
        "report its .item()",
    ),
    "text": (
        "trial.report(1, {'quality': '0.3'})",
        "TypeError: quality is to be reported as a number; it is of type str",
    ),
    "None": (
        "trial.report(1, {'quality': 0.3, 'loss': None})",
        "TypeError: loss is to be reported as a number; it is of type NoneType",
    ),
    "no dict": (
        "trial.report(1, 0.3)",
        "TypeError: metrics are to be reported as a dict of names and numbers; got 0.3",
    ),
    "from 0": (
        "trial.report(0, {'quality': 0.3})",
        "ValueError: epoch 1 is to be reported next, not 0 "
        "(they are whole numbers that count from 1)",
    ),
    "twice": (
        "trial.report(1, {'quality': 0.3}); trial.report(1, {'quality': 0.4})",
        "ValueError: epoch 2 is to be reported next, not 1 "
        "(they are whole numbers that count from 1)",
    ),
    "a share": (
        "trial.report(1.0, {'quality': 0.3})",
        "ValueError: epoch 1 is to be reported next, not 1.0 "
        "(they are whole numbers that count from 1)",
    ),
    "infinite": (
        "trial.report(1, {'quality': float('inf')})",
        "NonFinite: quality is inf at epoch 1",
    ),
}


def write(bench: Workbench, name: str, statement: str) -> None:
    (bench.folder / f"{name}.py").write_text(f"def train(trial):\n    {statement}\n")


@pytest.mark.parametrize("case", CASES)
def test_a_trainer_s_mistake_is_one_line(bench: Workbench, case: str) -> None:
    statement, expected = CASES[case]
    name = f"mistaken_{case.replace(' ', '_')}"
    write(bench, name, statement)
    with pytest.raises(StudyFailed):
        bench.run(trainer=f"{name}:train", budget__trials=1)
    assert [end["reason"] for end in bench.records("end")] == [expected]


def test_numpy_s_numbers_are_numbers(bench: Workbench) -> None:
    write(
        bench,
        "with_numpy",
        "import numpy as np; trial.report(np.int64(1), {'quality': np.float32(0.5)})",
    )
    bench.run(trainer="with_numpy:train", budget__trials=1)
    (epoch,) = bench.records("epoch")
    assert (epoch["epoch"], epoch["metrics"]) == (1, {"quality": 0.5})


# -- losses that are no numbers


def test_first_trials_that_diverge_do_not_end_a_study(bench: Workbench) -> None:
    write(
        bench,
        "diverges_at_first",
        "trial.report(1, {'quality': 0.5 if trial.number > 4 else float('nan')})",
    )
    bench.run(trainer="diverges_at_first:train", budget__trials=7)
    assert [end["state"] for end in bench.records("end")] == ["failed"] * 5 + ["complete"] * 2


def test_a_study_in_which_every_loss_is_lost_ends(bench: Workbench) -> None:
    write(bench, "diverges_always", "trial.report(1, {'quality': float('nan')})")
    with pytest.raises(StudyFailed, match="first 10 trials all failed alike: NonFinite: quality"):
        bench.run(trainer="diverges_always:train", budget__trials=40)
    assert len(bench.records("end")) == 10


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("loss is nan at epoch 3, step 17, learning rate 0.8",
         "loss is nan at epoch 12, step 1, learning rate 1.3e-05", True),
        ("ValueError: 3 rows", "ValueError: 12 rows", True),
        ("loss is nan at epoch 3", "loss is inf at epoch 3", False),
    ],
)  # fmt: skip
def test_reasons_that_differ_in_numbers_are_of_one_cause(
    first: str, second: str, same: bool
) -> None:
    assert (cause(first) == cause(second)) == same


def test_the_most_frequent_cause_is_told_by_its_first_reason() -> None:
    reasons = ["ValueError: no", "nan at epoch 3", "ValueError: no", "nan at epoch 7", "nan at 1"]
    assert most_often(reasons) == "ValueError: no"
    assert most_often([*reasons, "nan at epoch 1"]) == "nan at epoch 3"
