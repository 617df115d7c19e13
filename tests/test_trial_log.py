"""What a trial printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from workbench import Workbench

from hpo import trial_log

TALKER = """
import os, sys
def train(trial):
    number = trial.number
    if number == 1:
        print("loading from https://me:secret@host/x", flush=True)
        print("to stderr", file=sys.stderr)
    trial.report(1, {"quality": 0.5})
    if number == 2 and not os.path.exists(FOLDER + "/died"):
        open(FOLDER + "/died", "w").close()
        os.write(2, b"last words\\n")
        os.kill(os.getpid(), 9)
    if number == 2:
        print("went on")
"""


@pytest.mark.slow
def test_each_trial_has_what_was_printed_while_it_trained(bench: Workbench) -> None:
    talker = TALKER.replace("FOLDER", repr(str(bench.folder)))
    (bench.folder / "talker.py").write_text(talker)
    bench.run(trainer="talker:train", executor="processes", budget__trials=4)
    logs = {end["number"]: end["artifacts"].get("log.txt") for end in bench.records("end")}
    assert logs == {0: None, 1: "trials/1/log.txt", 2: "trials/2/log.txt", 3: None}
    one, two = ((bench.paths.root / logs[number]).read_text() for number in (1, 2))
    assert one == "loading from https://***@host/x\nto stderr\n"
    assert two == "last words\nwent on\n"  # of both attempts


def test_within_this_process_nothing_is_kept(bench: Workbench) -> None:
    (bench.folder / "prints.py").write_text(
        "def train(trial):\n    print('hello')\n    trial.report(1, {'quality': 0.5})\n"
    )
    bench.run(trainer="prints:train", budget__trials=1)
    assert bench.records("end")[0]["artifacts"] == {}


def test_only_the_end_of_a_long_log_is_kept_and_no_half_password(tmp_path: Path) -> None:
    log, folder = tmp_path / "0.log", tmp_path / "7"
    secret = "postgres://me:secret@host/x"
    # The cut falls into the password, then before it.
    for cut in (17, -1):
        line = f"{secret} " + "x" * (trial_log.MOST_BYTES - len(secret) - 2 + cut) + "\n"
        log.write_text("of another trial\n" + line)
        (folder / trial_log.NAME).unlink(missing_ok=True)
        trial_log.keep(log, len("of another trial\n"), folder)
        kept = (folder / trial_log.NAME).read_text()
        assert "secret" not in kept
        assert "cret@" not in kept
        assert kept.endswith("x\n")
        assert 60_000 < len(kept) <= trial_log.MOST_BYTES


def test_what_an_earlier_attempt_printed_comes_first(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    for text in ("one\n", "two\n", ""):
        start = trial_log.end_of(log)
        with open(log, "a") as file:
            file.write(text)
        trial_log.keep(log, start, tmp_path)
    assert (tmp_path / trial_log.NAME).read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("printed", "least", "most"),
    [(b"\xff\n" * 60_000, 60_000, trial_log.MOST_BYTES), (b"x" * 200_000, 0, 0)],
    ids=["no text", "one word"],
)
def test_anything_may_be_printed(tmp_path: Path, printed: bytes, least: int, most: int) -> None:
    (tmp_path / "0.log").write_bytes(printed)
    trial_log.keep(tmp_path / "0.log", 0, tmp_path)
    kept = tmp_path / trial_log.NAME
    assert least <= (kept.stat().st_size if kept.exists() else 0) <= most
