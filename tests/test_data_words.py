"""What is said of the data before a search, and kept with the study."""

from __future__ import annotations

import json
from typing import Any

import pytest
from workbench import Workbench

from hpo import data_words
from hpo.tracking import runs

CLEAN = {
    "skipped": [],
    "rows": 1000,
    "classes": ["no", "yes"],
    "report": {
        "class_counts": {"train": [300, 300], "validation": [100, 100], "test": [100, 100]},
        "duplicates": {"rows": 0, "of_other_classes": 0, "across": {}, "examples": []},
        "missing": {},
        "constant": [],
        "suspicious": {},
    },
}
COPIES = {
    "rows": 12,
    "of_other_classes": 2,
    "across": {"train/validation": 3, "train/test": 0, "validation/test": 1},
    "examples": [["a.png", "b.png"]],
}


def said(**found: Any) -> str:
    return "\n".join(data_words.lines({**CLEAN, "report": {**CLEAN["report"], **found}}))


def test_of_clean_data_the_classes_are_said() -> None:
    assert said() == "classes (train + validation + test): no 300 + 100 + 100, yes 300 + 100 + 100"
    assert list(data_words.lines({"skipped": [], "rows": 5})) == []  # of an earlier version


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"duplicates": COPIES}, "12 rows are copies of others, 2 of them of another class"),
        ({"duplicates": COPIES}, "3 in train and validation, 1 in validation and test"),
        ({"duplicates": COPIES}, "(e.g. a.png and b.png); data.duplicates: together"),
        ({"missing": {"age": 20, "size": 500}}, "values: size 500 (50.0%), age 20 (2.0%)"),
        ({"constant": list("abcdefgh")}, "a, b, c, d, e and 3 more"),
        ({"suspicious": {"code": "says the target"}}, "code says the target; data.ignore"),
        (
            {"class_counts": {"train": [500, 20], "validation": [90, 5], "test": [90, 5]}},
            "23 times as many no as yes: try train.class_weights or train.sampling: balanced",
        ),
    ],
)
def test_what_is_odd_is_said(found: dict[str, Any], words: str) -> None:
    assert words in said(**found)


def test_of_many_classes_the_smallest_is_named() -> None:
    names = [f"c{number}" for number in range(12)]
    counts = {"train": list(range(10, 22)), "validation": [5] * 12, "test": [5] * 12}
    report = {**CLEAN["report"], "class_counts": counts}
    lines = data_words.lines({**CLEAN, "classes": names, "report": report})
    assert list(lines) == ["classes: from 20 rows (c0) to 31 (c11)"]


def test_it_is_said_before_the_search_and_kept_in_mlflow(bench: Workbench) -> None:
    (bench.folder / "t.csv").write_text(
        "x,same,y\n" + "".join(f"{row % 40},1,{'ab'[row % 2]}\n" for row in range(80))
    )
    bench.file.write_text(
        "study: s\ntrainer: tabular\ndata: {source: t.csv, target: y}\n"
        "search: {train.lr: {low: 1e-3, high: 1e-1}}\ntrain: {epochs: 1, batch_size: 16}\n"
        "executor: inline\nworkers: 1\ndevice: cpu\nbudget: {trials: 1}\n"
    )
    bench.run()
    at = next(at for at, text in enumerate(bench.said) if "80 rows (48 train" in text)
    assert "40 rows are copies of others" in bench.said[at + 2]
    assert "nothing is learned from: same" in bench.said[at + 3]
    (study,) = bench.records("study")
    kept = json.loads(runs.study_files(study)["data_report.json"])
    assert kept["unreadable"] == []
    assert kept["constant"] == ["same"]
    assert kept["duplicates"]["rows"] == 40
    # Many rows would not fit there, and the page of a run reads it.
    assert "report" not in json.loads(runs.dataset_input(study["dataset"]).dataset.profile)


def test_what_is_left_out_is_counted_beyond_what_is_on_record() -> None:
    skipped = [f"{number}.png (empty)" for number in range(100)]
    few, many = (
        next(data_words.lines({"skipped": names, "rows": 5}))
        for names in (skipped[:2], [*skipped, "and 900 more"])
    )
    assert few == "2 left out, unreadable: 0.png (empty), 1.png (empty)"
    assert many.startswith("1,000 left out, unreadable: 0.png (empty), ")
    assert many.endswith("4.png (empty), …")
