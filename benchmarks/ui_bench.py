"""What the figures of `benchmarks/ui.py` share: servers that start when needed, and visits."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from measure import Figure
from pages import Chromium, Server, Visit, hpo_server, hpo_ui, optuna_dashboard, streamlit
from ui_data import SHOWN, Data

from hpo.paths import Home

METRIC = "val/loss"
QUIET_MS = 2_000  # until a page has come to rest
BARE = """
import plotly.express as px
import streamlit as st
st.plotly_chart(px.line(x=list(range(50)), y=[1 / (1 + i) for i in range(50)], title="bare"))
"""

Row = tuple[str, str]
Found = tuple[list[Row], list[Figure]]


class Bench:
    """Data, a browser, and servers that start when they are first needed."""

    def __init__(self, data: Data, browser: Chromium, rounds: int, stack: contextlib.ExitStack):
        self.data, self.browser, self.rounds = data, browser, rounds
        self._stack = stack

    @cached_property
    def many(self) -> Server:
        return self._stack.enter_context(self.start(self.data.many))

    @cached_property
    def few(self) -> Server:
        return self._stack.enter_context(self.start(self.data.few))

    @cached_property
    def bare(self) -> Server:
        script = Path(self._stack.enter_context(tempfile.TemporaryDirectory())) / "bare.py"
        script.write_text(BARE)
        return self._stack.enter_context(streamlit(script))

    @cached_property
    def optuna(self) -> Server:
        self.data.store_in_optuna()
        return self._stack.enter_context(optuna_dashboard(self.data.optuna))

    @cached_property
    def mlflow(self) -> Server:
        self.data.ship(self.data.many)
        return self._stack.enter_context(hpo_server(self.data.many.root))

    def start(self, home: Home) -> contextlib.AbstractContextManager[Server]:
        """The app on a home; the study that is shown is in its MLflow store."""
        self.data.ship(home)
        return hpo_ui(home.root)

    # -- pages

    def study(self, server: Server) -> Visit:
        return self.browser.visit(f"{server.url}/study?study={SHOWN}")

    def compare(self, server: Server, home: Home) -> Visit:
        """Loss, accuracy, F1 and ROC of 100 runs."""
        return self.browser.visit(self.compare_url(server, home), "charts().length >= 4")

    def compare_url(self, server: Server, home: Home, **more: str) -> str:
        runs = ",".join(f"{SHOWN}/{trial}" for trial in self.data.runs(home))
        query = "".join(f"&{key}={value}" for key, value in more.items())
        return f"{server.url}/compare?runs={quote(runs)}{query}"

    def study_in_optuna(self, server: Server) -> Visit:
        return self.browser.visit(f"{server.url}/dashboard/studies/1")

    def compare_in_mlflow(self, server: Server) -> Visit:
        """One metric of the same 100 runs, as MLflow's own links have it."""
        experiment, runs = self.data.run_ids(self.data.runs(self.data.many))
        query: dict[str, Any] = {"runs": runs, "metric": METRIC, "experiments": [experiment]}
        query |= {"plot_metric_keys": [METRIC], "plot_layout": {"autosize": True}}
        text = "&".join(f"{k}={quote(json.dumps(v))}" for k, v in query.items())
        style = "x_axis=step&y_axis_scale=linear&line_smoothness=1&show_point=false"
        url = f"{server.url}/#/metric?{text}&{style}"
        return self.browser.visit(url, f"lines() >= {len(runs)}")


class Counted:
    """Visits of a page on a server that has been visited before."""

    def __init__(self, visit: Callable[[], Visit]) -> None:
        self._visit = visit
        self._last: Visit | None = None

    def __call__(self) -> float:
        """Seconds of a visit; the first one is made twice."""
        if self._last is None:
            self._visit()
        self._last = self._visit()
        return self._last.seconds

    @property
    def weight(self) -> str:
        assert self._last is not None
        return f"{self._last.sent_mb:.1f} MB, {self._last.requests} requests"


def at_once(
    start: contextlib.AbstractContextManager[Server], visit: Callable[[Server], Visit]
) -> str:
    """What the first visit takes, right after the server has answered."""
    with start as server:
        return f"{visit(server).seconds:.2f} s"


def against(name: str, ours_s: float, theirs_s: float, goal: float) -> Figure:
    return Figure(
        name, ours_s / theirs_s, goal, ours=f"{ours_s:.2f} s", theirs=f"{theirs_s:.2f} s"
    )


def beyond(name: str, ours_s: float, theirs_s: float, goal_s: float) -> Figure:
    ours, theirs = f"{ours_s:.2f} s", f"{theirs_s:.2f} s"
    return Figure(name, ours_s - theirs_s, goal_s, "s", ours=ours, theirs=theirs)
