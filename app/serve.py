"""``python -m app.serve SETTINGS``: Streamlit with the app, and plotly.js for its charts.

Streamlit runs no page before somebody asks for one. Only then would it import pandas, Plotly,
SciPy and scikit-learn and read the studies, which takes seconds; here that begins at once.

SETTINGS are Streamlit's, as JSON: ``{"server.port": 8501}``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import sys
import threading
from pathlib import Path

from streamlit.starlette import App

from app import plot

# Imported for later (F401). Not in the thread: they look for one another, and would find each
# other half imported.
from app.parts import catalog
from app.views import compare, ensemble, run, studies, study  # noqa: F401

# Imported by functions that a first page is likely to call.
LATER = (
    "scipy.optimize",
    "scipy.stats",
    "statsmodels.stats.contingency_tables",
    "statsmodels.stats.proportion",
    "optuna.importance",
)


def prepare() -> None:
    """Read the studies and import the rest. What goes wrong is for a page to say."""
    plot.prepare()
    with contextlib.suppress(Exception):
        catalog().studies()
        for name in LATER:
            importlib.import_module(name)
    gc.freeze()  # what was read stays: no need to look for garbage in it again and again


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    threading.Thread(target=prepare, daemon=True, name="prepare").start()
    App(Path(__file__).with_name("main.py"), routes=[plot.route]).run(config=settings)
