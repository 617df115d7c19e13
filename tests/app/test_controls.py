"""The commands that the app starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorded import Recorded, rising
from streamlit.testing.v1 import AppTest

from app.controls import LOG, TAIL, called
from app.words import words

W = words("en")
PYTHON = sys.executable


def never() -> bool:
    return False


def until(true: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Another program in the place of Python, and so of `hpo`."""

    def set_to(text: str) -> None:
        file = tmp_path / "program"
        file.write_text(f"#!{PYTHON}\nimport sys, time\nfrom pathlib import Path\n{text}")
        file.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(file))

    return set_to


def test_what_a_command_prints_last_is_told_with_its_exit_code(tmp_path: Path) -> None:
    log = tmp_path / LOG
    log.write_text("of an earlier one\n")
    code, said = called(["status", "nothing", "--home", str(tmp_path)], log, never)
    assert code == 2
    assert "nothing" in said
    assert "earlier" not in said
    assert log.read_text() == f"of an earlier one\n{said}\n"


def test_a_command_that_goes_on_is_never_held_up_by_what_it_prints(
    tmp_path: Path, program: Callable[[str], None]
) -> None:
    log, end = tmp_path / LOG, tmp_path / "end"
    program(
        "print('x' * 200_000, flush=True)\n"
        "while not Path(sys.argv[-1]).with_name('go').exists(): time.sleep(0.01)\n"
        "print('y' * 200_000, flush=True)\nPath(sys.argv[-1]).touch()\n"
    )
    code, said = called(["run", str(end)], log, never, timeout_s=0.1)
    assert code is None
    assert len(said) <= TAIL
    (tmp_path / "go").touch()
    until(end.exists)
    assert log.stat().st_size == 400_002


def test_a_command_is_waited_for_until_it_has_started_what_it_is_to(
    tmp_path: Path, program: Callable[[str], None]
) -> None:
    program("time.sleep(0.5)\nsys.exit('broken')\n")  # later than the first looks
    assert called(["run"], tmp_path / LOG, never) == (1, "broken")
    program("time.sleep(5)\n")
    began_s = time.monotonic()
    assert called(["run"], tmp_path / LOG, lambda: True) == (None, "")
    assert time.monotonic() - began_s < 4


def test_more_trials_that_cannot_be_run_say_why(
    home: Path, open_page: Callable[..., AppTest], rerun: Callable[[AppTest], Any]
) -> None:
    file = home / "gone.yaml"
    recorded = Recorded(home, path=str(file))
    recorded.trial(rising(0.8))
    recorded.over()
    test = open_page("study", study="digits")
    (button,) = (button for button in test.button if button.label == W("control.more.go"))
    button.click()
    rerun(test)
    (error,) = test.error
    assert error.value.endswith("/gone\\.yaml' does not exist\\.")
    assert "gone.yaml" in (home / "studies" / "digits" / LOG).read_text()
