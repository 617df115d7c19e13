"""The app without a browser: each page in Streamlit's own test harness."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

MAIN = Path(__file__).parents[2] / "app" / "main.py"
TIMEOUT_S = 60.0

OpenPage = Callable[..., AppTest]


@pytest.fixture(autouse=True, scope="session")
def packages_are_searched_once() -> Iterator[None]:
    """For components of Streamlit's, the harness reads the metadata of every installed package
    each time that a page is opened: nine tenths of the time of most tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            manifest_scanner,
            "scan_component_manifests",
            functools.cache(manifest_scanner.scan_component_manifests),
        )
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder whose studies the app shows; nothing of another test's is kept."""
    monkeypatch.setenv("HPO_UI_HOME", str(tmp_path))
    monkeypatch.delenv("HPO_UI_TRACKING_URI", raising=False)
    st.cache_resource.clear()
    return tmp_path


@pytest.fixture
def open_page(home: Path) -> OpenPage:
    """Opens a page of the app as a link does: ``open_page("study", study="digits")``."""

    def open_(page: str = "", **params: str) -> AppTest:
        test = AppTest.from_file(str(MAIN), default_timeout=TIMEOUT_S)
        if page:
            test._page_hash = calc_hash(page)  # `switch_page` knows pages that are files only
        for name, value in params.items():
            test.query_params[name] = value
        return rerun(test)

    return open_


def rerun(test: AppTest) -> AppTest:
    """Run it (again); what the app did not expect is a failure."""
    test.run()
    assert not test.exception, "\n".join([test.exception[0].message, *_trace(test)])
    return test


def _trace(test: AppTest) -> list[str]:
    return list(test.exception[0].stack_trace or [])


@pytest.fixture(name="rerun")
def rerun_fixture() -> Callable[[AppTest], AppTest]:
    return rerun


@pytest.fixture
def text_of() -> Callable[[AppTest], str]:
    """Everything that a page says, a line each."""
    return said


def said(test: AppTest) -> str:
    lines: list[str] = []
    for node in _nodes(test._tree):
        for field in ("label", "value", "body", "placeholder", "help"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                lines.append(value)
        if isinstance(getattr(node, "options", None), list):
            lines.extend(map(str, node.options))
        frame = getattr(node, "value", None)
        if isinstance(frame, pd.DataFrame):
            lines.append(frame.to_csv())
    return "\n".join(lines)


def _nodes(node: Any) -> list[Any]:
    children = getattr(node, "children", {}).values()
    return [node, *(found for child in children for found in _nodes(child))]
