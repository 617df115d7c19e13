"""Files that are bad as a whole, and files with several problems and overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo import spec
from hpo.errors import StudyFileError, UserError

GOOD = """\
study: s
trainer: image_classifier
data: {source: digits}
train: {epochs: 20, lr: 0.05}
search:
  train.lr: {low: 1e-3, high: 1.0, log: true}
objective: {metric: val/f1_macro, goal: maximize}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study.yaml"


def problems(file: Path, content: bytes | str, overrides: dict[str, Any] | None = None) -> Any:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StudyFileError) as refused:
        spec.load(file, overrides)
    return refused.value.problems


@pytest.mark.parametrize(
    ("content", "message", "line", "column"),
    [
        (b"", "the file is empty", None, None),
        (b"# nothing\n", "the file is empty", None, None),
        (b"- a\n- b\n", "expected keys with values; got a list", 1, 1),
        (b"\n\nwords\n", "expected keys with values; got a single value", 3, 1),
        (GOOD.encode("utf-16"), "the file is UTF-16", None, None),
        (GOOD.encode("utf-16-le"), "the file is UTF-16", None, None),
        (b"study: s\ntrainer: caf\xe9\n", "byte 0xe9 is not UTF-8", 2, 13),
        ("a: é\ntrainer: caf\xe9 ".encode() + b"\xff\n", "byte 0xff is not UTF-8", 2, 15),
        (b"a: " + b"[" * 3000 + b"]" * 3000, "nested deeper than 50 levels", 1, 53),
        (b"a:\n" + b"".join(b" " * i + b"- \n" for i in range(60)), "nested deeper", 51, 50),
        (b"a: 1\n" * 300_000, "larger than 1,000 kB", None, None),
        (b"[" + b"1," * 60_000 + b"]", "more than 50,000 values", 1, 100_000),
        (b"%YAML 3.0\n---\na: 1\n", "found incompatible YAML document", 1, 1),
        (b"a: \xc2\x85\x1b", "the character U+001B", 2, 1),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
def test_a_file_that_is_no_study_file(
    file: Path, content: bytes, message: str, line: int | None, column: int | None
) -> None:
    (problem,) = problems(file, content)
    assert message in problem.message
    assert (problem.line, problem.column) == (line, column)


@pytest.mark.parametrize("name", ["nowhere.yaml", "stduy.yaml", "folder", "\0", "a" * 300])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "study.yaml").touch()
    with pytest.raises(StudyFileError) as refused:
        spec.load(tmp_path / name)
    if name == "stduy.yaml":
        assert f"did you mean {tmp_path / 'study.yaml'}?" in str(refused.value)


def test_line_ends_and_a_byte_order_mark_change_nothing(file: Path) -> None:
    bad = GOOD.replace("epochs: 20", "epochs: x")
    for content in (bad, bad.replace("\n", "\r\n"), "\ufeff" + bad, bad.replace("\n", "\r")):
        (problem,) = problems(file, content)
        assert (problem.line, problem.column) == (4, 17)
        assert problem.source_line == "train: {epochs: x, lr: 0.05}"


def test_all_problems_are_told_at_once_in_the_file_s_order(file: Path) -> None:
    content = """\
study: a/b
trainer: image_classifier
data: {source: nowhere}
train: {epochs: none, optimzer: sgd}
search:
  train.lr: {low: 0, high: 1, log: true}
  train.momentum: {low: 0, high: 0.9, when: {train.optimizer: sgd}}
objective: {metric: val/f1, goal: maximise}
pruner: {name: median, n_warmup_steps: -1}
budget: {trials: 0, wall: 10}
timeout: 5
storage: postgresql://me:hunter2@host/db
unknown: 1
"""
    found = problems(file, content)
    assert [p.key for p in found] == [
        "study",
        "data.source",
        "train.epochs",
        "train.optimzer",
        "search.train.lr.low",
        "search.train.momentum.when.train.optimizer",
        "objective.goal",
        "pruner.n_warmup_steps",
        "budget.trials",
        "budget.wall",
        "timeout",
        "storage",
        "unknown",
    ]


def test_the_text_shows_the_line_and_points_at_the_value(file: Path) -> None:
    content = GOOD.replace("low: 1e-3", "low: 0")
    file.write_text(content)
    with pytest.raises(StudyFileError) as refused:
        spec.load(file)
    assert str(refused.value) == (
        f"{file}:6:19: search.train.lr.low: expected a number > 0 because log is true; got 0\n"
        "     6 |   train.lr: {low: 0, high: 1.0, log: true}\n"
        "       |                   ^ try 1e-5"
    )


def test_a_password_is_in_no_message(file: Path) -> None:
    address = "postgresql://me:p/w:hun@ter2@host/db?password=hunter2"
    content = f"{GOOD}storage: {address}\ntracking: {{uri: '{address}', {address}: 1}}\n"
    file.write_text(content)
    with pytest.raises(StudyFileError) as refused:
        spec.load(file)
    assert "ter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (GOOD.replace("low: 1e-3", "low: 1.0"), "6:30: search.train.lr.high: low and high are"),
        (GOOD + "workers: 4000\ndevice: cpu\n", "8:10: workers: 4000 workers share "),
        (GOOD.replace("search:\n  train.lr", "x") + "budget: {trials: 5}\n", ""),
        (
            GOOD.replace("1.0, log: true}", "1.0, log: true}\n  train.batch_size: [16, 32]")
            + "sampler: cma-es\n",
            "9:10: sampler: cma-es draws at random: train.batch_size",
        ),
    ],
)
def test_what_may_not_be_meant_is_a_warning(file: Path, content: str, warning: str) -> None:
    if not warning:  # without search, one training is all there is
        content = "\n".join(line for line in content.splitlines() if "low" not in line)
        warning = "6:18: budget.trials: nothing is searched"
    file.write_text(content)
    (found,) = spec.load(file).warnings
    assert found.warning
    assert found.render("").startswith(f":{warning}")


# -- overrides


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.epochs", 3, lambda s: s.train["epochs"] == 3),
        ("train.epochs", np.int64(3), lambda s: s.train["epochs"] == 3),
        ("train.lr", np.float32(0.5), lambda s: s.train["lr"] == 0.5),
        ("model.hidden", (8, 8), lambda s: s.model["hidden"] == [8, 8]),
        ("train.early_stopping.patience", 2, lambda s: s.train["early_stopping"]["patience"] == 2),
        ("search.train.lr.low", 0.01, lambda s: s.search["train.lr"].low == 0.01),
        ("search.train.lr", [0.1, 0.2], lambda s: s.search["train.lr"].choices == (0.1, 0.2)),
        ("search.train.l1", [0.1, 0.2], lambda s: len(s.search) == 2),
        ("search", None, lambda s: not s.search and s.budget.trials == 1),
        ("budget", {"trials": 7}, lambda s: s.budget.trials == 7),
        ("budget.wall", "1h30m", lambda s: s.budget.wall_s == 5400),
        ("objective.goal", "minimize", lambda s: not s.objective[0].maximize),
        (
            "objective",
            [{"metric": "val/loss", "goal": "minimize"}],
            lambda s: len(s.objective) == 1,
        ),
        ("study", "other", lambda s: s.study == "other"),
        ("data.source", Path("study.yaml"), lambda s: s.data["source"].endswith("/study.yaml")),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_overrides_win_over_the_file(file: Path, key: str, value: Any, expected: Any) -> None:
    file.write_text(GOOD)
    assert expected(spec.load(file, {key: value}))


@pytest.mark.parametrize(
    ("key", "value", "named", "message"),
    [
        ("train.epochs", "x", "train.epochs", "expected a whole number; got 'x'"),
        ("train.epoch", 3, "train.epoch", "unknown key"),
        ("train", 3, "train", "expected keys with values; got 3"),
        ("study.name", 3, "study.name", "study is not a mapping"),
        ("model.hidden.0", 3, "model.hidden", "expected a list"),
        ("train.lr", object(), "train.lr", "got object"),
        ("train.lr", "\ud800", "train.lr", "half a character"),
        ("train.epochs", 10**500, "train.epochs", "the number is too large"),
        ("search.train.lr.low", 5, "search.train.lr.low", "expected at most high; got 5 > 1.0"),
        ("storage", "nowhere", "storage", "expected journal"),
        ("", 3, "", "expected a key such as"),
        ("train..lr", 3, "train..lr", "expected a key such as"),
        ("model" + ".a" * 48, [[1]], "model" + ".a" * 48, "nested deeper than 50 levels"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isprintable() else None,
)
def test_a_bad_override_is_told_as_one(
    file: Path, key: str, value: Any, named: str, message: str
) -> None:
    (problem,) = problems(file, GOOD, {key: value})
    assert problem.key == named
    assert message in problem.message
    assert problem.message.endswith(f"(--set {key})")
    assert problem.line is None


@pytest.mark.parametrize("key", ["tra\udce9n.lr", "train.\x1b[31m"])
def test_a_key_that_cannot_be_shown_is_told_in_escapes(file: Path, key: str) -> None:
    (problem,) = problems(file, GOOD, {key: 3})
    assert problem.message == f"expected a key such as train.epochs (--set {ascii(key)[1:-1]})"


@pytest.mark.parametrize("address", ["me:hunter2@host/db", "me@host/db?password=hunter2"])
@pytest.mark.parametrize("key", ["storage", "tracking.uri"])
def test_a_password_on_the_command_line_is_refused_as_in_the_file(
    file: Path, key: str, address: str
) -> None:
    """It could be recorded as *** only, with which nobody finds the study again."""
    (problem,) = problems(file, GOOD, {key: f"postgresql://{address}"})
    assert problem.message.startswith("there is a password in the address postgresql://")
    assert problem.message.endswith(f"(--set {key})")
    assert problem.hint is not None
    assert "${PASSWORD} in its place, in single quotes" in problem.hint
    assert "hunter2" not in str(problem)


def test_workers_on_a_cluster_do_not_share_the_cores_of_this_machine(file: Path) -> None:
    file.write_text(GOOD + "executor: ray\nworkers: 4000\ndevice: cpu\n")
    assert spec.load(file).warnings == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 0.001), ("no", "no"), ("true", True), ("null", None), ("", None),
     ("[16, 32]", [16, 32]), ("{low: 1, high: 2}", {"low": 1, "high": 2}), ("'3'", "3"),
     ("12:30", "12:30"), ("a b", "a b"), ("1_000", "1_000")],
)  # fmt: skip
def test_values_on_the_command_line_are_yaml(text: str, value: Any) -> None:
    assert spec.parse_value(text) == value
    assert type(spec.parse_value(text)) is type(value)


@pytest.mark.parametrize("text", ["[1", "{a", "!!x 1", "a: b: c", "\0", "\ud800", "'"])
def test_a_value_that_is_not_yaml_is_the_user_s_error(text: str) -> None:
    with pytest.raises(UserError, match="--set"):
        spec.parse_value(text)
