"""Stop a study, or give it more trials: what ``hpo stop`` and ``hpo run --trials`` do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import streamlit as st

from app.parts import inert
from app.words import Words
from hpo.results.tables import StudyTables

TIMEOUT_S = 20.0
STARTED_S = 3.0  # so long at least runs what was started well
MORE = 20


def controls(tables: StudyTables, w: Words) -> None:
    """The buttons that fit the study's state; none for a study that lies elsewhere."""
    if tables.source != "here":
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if tables.state == "running" and st.button(
            w("control.stop"), icon=":material/stop:", help=w("control.stop.help")
        ):
            _run(w, "stop", tables.key)
        if tables.path is None or not tables.budget.get("trials"):
            return
        with st.popover(w("control.more"), icon=":material/add:"):
            count = st.number_input(w("control.more.count"), 1, 100_000, MORE)
            if st.button(w("control.more.go"), type="primary"):
                _run(w, "run", tables.path, "--trials", f"+{count}", wait=False)


def _run(w: Words, *command: str, wait: bool = True) -> None:
    """Call the ``hpo`` command on this study's folder and show what it says."""
    home = Path(os.environ.get("HPO_UI_HOME", "."))
    line = [sys.executable, "-m", "hpo.cli", *command, "--home", str(home.resolve())]
    uri = os.environ.get("HPO_UI_TRACKING_URI")
    with tempfile.TemporaryFile() as output:  # a pipe that nobody reads would stop it
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | ({"MLFLOW_TRACKING_URI": uri} if uri else {}),
            start_new_session=True,  # it outlives the app
        )
        try:
            process.wait(TIMEOUT_S if wait else STARTED_S)
        except subprocess.TimeoutExpired:
            st.toast(w("control.started"))
            return
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    (st.toast if process.returncode == 0 else st.error)(inert(said, 500))
