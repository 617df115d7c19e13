"""What the pages share: the catalogue, charts with their downloads, safe text, the toolbar."""

from __future__ import annotations

import html
import os
import re
import threading
import unicodedata
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import streamlit as st

from app import address, files
from app.charts.style import Chart, Trace, cut
from app.plot import Labels, Selected, Selecting, plot
from app.words import LANGUAGES, Language, Words, words
from hpo.results import UnknownStudy
from hpo.results.catalog import Catalog
from hpo.results.tables import StudyTables

LIVE_S = 1.0  # between two looks at a running study
NAMES = dict[str, str](LANGUAGES.items())
PICTURES = ("png", "svg")
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # of Unicode

Made = TypeVar("Made")


def catalog() -> Catalog:
    """The studies of this app; MLflow is asked in the background, because that takes seconds."""
    found = _catalog()
    found.connect_in_background()
    return found


@st.cache_resource(show_spinner=False)
def _catalog() -> Catalog:
    home = Path(os.environ.get("HPO_UI_HOME", "."))
    return Catalog(home, os.environ.get("HPO_UI_TRACKING_URI") or None)


def made(make: Callable[[], Made], *key: Hashable) -> Made:
    """What `make` gives, made once for each `key`, which must name all that it depends on."""
    kept: Made = _made(key, make)
    return kept


@st.cache_resource(show_spinner=False, max_entries=300)
def _made(key: tuple[Hashable, ...], _make: Callable[[], Any]) -> Any:
    return _make()


def made_of_run(make: Callable[[], Made], what: str, *key: Hashable) -> Made:
    """The same of a single run, of which a page may show 200.

    Each `what` is kept apart, so that a comparison does not push out what it still needs.
    """
    kept = _of_runs()[what]
    with _LOCK:
        if key in kept:
            kept.move_to_end(key)
            found: Made = kept[key]
            return found
    found = make()
    with _LOCK:
        kept[key] = found
        if len(kept) > 2 * address.MOST_RUNS:
            kept.popitem(last=False)
    return found


_LOCK = threading.Lock()


@st.cache_resource(show_spinner=False)
def _of_runs() -> dict[str, OrderedDict[tuple[Hashable, ...], Any]]:
    """Not a cache of Streamlit's for each: that takes longer than some of what is made."""
    return defaultdict(OrderedDict)


# -- text


def inert(text: object, most: int = 120) -> str:
    """Text from a run, harmless where Streamlit takes Markdown."""
    escaped = re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])", r"\\\1", cut(text, most))
    # Addresses become links, and :material/…: icons, however they are escaped, unless something
    # is in between.
    return re.sub(r"(?i)(https?|www|@|:(?=\w))", "\\1\u2060", escaped)


def visible(text: str) -> str:
    """Lines to be shown as they are, but what would turn or hide others written out."""
    return "".join(f"\\u{ord(char):04x}" if _disturbs(char) else char for char in text)


def _disturbs(char: str) -> bool:
    is_control = unicodedata.category(char) == "Cc" and char not in "\n\t"
    return is_control or unicodedata.bidirectional(char) in TURNING


def language() -> Language:
    """As the address says, else as the browser asks."""
    asked = st.query_params.get("lang")
    if asked in LANGUAGES:
        return asked
    return "zh" if _asks_for_chinese() else "en"


def _asks_for_chinese() -> bool:
    return (st.context.locale or "").startswith("zh")


def current_words() -> Words:
    """The strings of the language that is shown."""
    return words(language())


def heading(text: str, w: Words) -> None:
    """A page's title (inert Markdown), the settings in the corner, the runs that are put aside."""
    left, right = st.columns([6, 1], vertical_alignment="bottom")
    left.title(text)
    with (
        right,
        st.container(horizontal_alignment="right"),
        st.popover(w("settings"), icon=":material/settings:", type="tertiary"),
    ):
        before = language()
        first = "zh" if _asks_for_chinese() else "en"
        codes = sorted(LANGUAGES, key=lambda code: code != first)
        after = address.choice(
            "lang", codes, lambda code: NAMES[code], w("settings.language"), hidden=False
        )
        if after != before:
            st.rerun()
        st.segmented_control(
            w("settings.picture"),
            PICTURES,
            format_func=str.upper,
            default="png",
            required=True,
            key="picture",
            persist_state="session",
        )
        st.caption(w("settings.theme"))
    chosen = address.chosen()
    if not chosen:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(w("compare.chosen", count=len(chosen)))
        if st.button(w("compare.open"), type="primary", key="open-compare"):
            address.go(address.COMPARE, runs=address.join(chosen))
        if st.button(w("compare.clear"), type="tertiary", key="clear-chosen"):
            st.session_state["chosen"] = []
            st.rerun()


# -- charts


def panels() -> int:
    """How many panels of a chart fit side by side: 1 on a phone."""
    return 1 if "Mobi" in (st.context.headers.get("User-Agent") or "") else 2


def chart(
    found: Chart,
    key: str,
    w: Words,
    select: Sequence[Selecting] = (),
    over: Sequence[Trace] = (),
) -> Selected:
    """Draw a chart with its caption and its data as CSV; returns what is selected in it.

    Args:
        key: Its name on the page, and of its files.
        select, over: As `app.plot.plot` takes them.
    """
    title = html.unescape(re.sub(r"<[^>]*>", " ", found.figure.layout.title.text or key))
    picture = st.session_state.get("picture", "png")
    labels = Labels(w("csv"), w("csv.help"), w("chart.not_served"))
    return plot(found, key, title, labels, picture, select, over)


def csv(table: pd.DataFrame, name: str, w: Words) -> None:
    """A button that gives a table as CSV; it is made only when it is asked for."""
    st.download_button(
        w("csv"),
        data=lambda: files.csv(table).encode(),
        file_name=f"{name}.csv",
        mime="text/csv",
        key=f"{name}-csv",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
        help=w("csv.help"),
    )


def offer(runs: Sequence[address.Run], key: str, w: Words) -> None:
    """Buttons for the runs that are selected: put them aside to compare, or open the one."""
    if not runs:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        names = ", ".join(address.name(run) for run in runs[:5])
        more = "" if len(runs) <= 5 else w("and_more", count=len(runs) - 5)
        st.caption(inert(f"{names}{more}"))
        if len(runs) > 1 and st.button(
            w("compare.these", count=len(runs)), key=f"{key}-compare", type="primary"
        ):
            address.go(address.COMPARE, runs=address.join(runs[: address.MOST_RUNS]))
        if st.button(w("compare.add", count=len(runs)), key=f"{key}-add"):
            address.choose(runs)
            st.rerun()
        if len(runs) == 1 and st.button(w("run.open"), key=f"{key}-open"):
            address.go(address.RUN, runs=address.name(runs[0]))


def digits(table: pd.DataFrame) -> dict[str, Any]:
    """How a table's columns are shown: four digits of what is no whole number."""
    return {
        name: st.column_config.NumberColumn(format="%.4g")
        for name in map(str, table)
        if pd.api.types.is_float_dtype(table[name])
    }


# -- states


def study_or_stop(key: str | None, w: Words, patience_s: float = 2.0) -> StudyTables:
    """The study, or a page that says why there is none."""
    if not key:
        st.info(w("study.choose"))
        address.link(address.STUDIES, w("page.studies"), icon=":material/list:")
        st.stop()
    try:
        return catalog().study(key, patience_s)
    except UnknownStudy:
        st.error(w("study.unknown", study=inert(key)))
    except Exception as error:  # MLflow's client raises whatever its libraries do
        st.error(w("study.unreadable", study=inert(key), why=inert(type(error).__name__)))
    trouble()
    address.link(address.STUDIES, w("page.studies"), icon=":material/list:")
    st.stop()
    raise AssertionError("st.stop raises")


def trouble() -> None:
    """Say it when MLflow cannot be read: what is shown is what was known."""
    if catalog().trouble:
        w = current_words()
        st.warning(w("mlflow.down", why=inert(catalog().trouble, 300)), icon="⚠️")
