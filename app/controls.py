"""Stop a study, or give it more trials: what ``hpo stop`` and ``hpo run --trials`` do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from app.parts import catalog, inert
from app.words import Words
from hpo.results.tables import StudyTables

TIMEOUT_S = 20.0  # at most so long is a command waited for; it goes on
POLL_S = 0.1
MORE = 20
LOG = "ui.log"  # in the study's folder: what the commands that were started here print
TAIL = 500  # characters of it that are shown


def controls(tables: StudyTables, w: Words) -> None:
    """The buttons that fit the study's state; none for a study that lies elsewhere."""
    if tables.source != "here":
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if tables.state == "running" and st.button(
            w("control.stop"), icon=":material/stop:", help=w("control.stop.help")
        ):
            _run(tables, w, "control.stopping", "stop", tables.key)
        if tables.path is None or not tables.budget.get("trials"):
            return
        with st.popover(w("control.more"), icon=":material/add:"):
            count = st.number_input(w("control.more.count"), 1, 100_000, MORE)
            if st.button(w("control.more.go"), type="primary"):
                again = (
                    "run",
                    tables.path,
                    "--set",
                    f"study={tables.name}",
                )  # the file may say another
                more = (*again, "--trials", f"+{count}")
                _run(tables, w, "control.started", *more)


def _run(tables: StudyTables, w: Words, going_on: str, *command: str) -> None:
    """Call the ``hpo`` command on this study's folder and show what it says, or `going_on`."""
    home = Path(os.environ.get("HPO_UI_HOME", ".")).resolve()
    log = home / "studies" / tables.name / LOG
    was_running = tables.state == "running"

    def has_started() -> bool:
        return not was_running and catalog().study(tables.key).state == "running"

    try:
        code, said = called([*command, "--home", str(home)], log, has_started)
    except OSError as error:  # the folder is not ours to write
        st.error(inert(error))
        return
    if code is None:
        st.toast(w(going_on, log=inert(log.relative_to(home))))
    else:
        (st.toast if code == 0 else st.error)(inert(said, TAIL))


def called(
    arguments: Sequence[str],
    log: Path,
    has_started: Callable[[], bool],
    timeout_s: float = TIMEOUT_S,
) -> tuple[int | None, str]:
    """Start ``hpo`` so that it outlives the app, and wait until it ends or `has_started`.

    Args:
        log: What it prints is put at the end of this file. A pipe would stop it once nobody reads.

    Returns:
        Its exit code (None: it goes on), and the end of what it has printed.

    Raises:
        OSError: The log cannot be written.
    """
    uri = os.environ.get("HPO_UI_TRACKING_URI")
    with open(log, "ab") as output:
        before = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "hpo.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | ({"MLFLOW_TRACKING_URI": uri} if uri else {}),
            start_new_session=True,
        )
    until_s = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < until_s and not has_started():
        time.sleep(POLL_S)
    code = process.returncode
    threading.Thread(target=process.wait, daemon=True).start()  # so that its end is taken note of
    with open(log, "rb") as file:
        file.seek(max(before, file.seek(0, os.SEEK_END) - 4 * TAIL))
        return code, file.read().decode(errors="replace").strip()[-TAIL:]
