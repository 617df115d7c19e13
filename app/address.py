"""What the address bar holds, so that a link opens what its sender saw.

Pages, the study and the runs are here; what else is chosen on a page (a view, a metric, a
threshold) is bound to the address by the widgets themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import streamlit as st

STUDIES, STUDY, COMPARE, ENSEMBLE, RUN = "studies", "study", "compare", "ensemble", "run"
MOST_RUNS = 200
_PAGES = "pages"

Option = TypeVar("Option", bound=str)
Run = tuple[str, int]  # a study's key, a trial's number


def remember(pages: Mapping[str, Any]) -> None:
    """Keep the pages, which links need."""
    st.session_state[_PAGES] = pages


def link(page: str, label: str, icon: str | None = None, **params: str) -> None:
    """Draw a link to a page; `label` is Markdown."""
    st.page_link(
        st.session_state[_PAGES][page], label=label, icon=icon, query_params=_with(params)
    )


def go(page: str, **params: str) -> None:
    """Open a page."""
    st.switch_page(st.session_state[_PAGES][page], query_params=_with(params))


def study() -> str | None:
    """The study in the address."""
    return st.query_params.get("study")


def runs() -> list[Run]:
    """The runs in the address; what is no run is left out."""
    found = (parse(text) for text in st.query_params.get("runs", "").split(","))
    return list(dict.fromkeys(run for run in found if run is not None))[:MOST_RUNS]


def set_runs(chosen: Iterable[Run]) -> None:
    """Put the runs into the address."""
    st.query_params["runs"] = join(chosen)


def parse(text: str) -> Run | None:
    """``quickstart/38`` → ("quickstart", 38)"""
    key, _, number = text.strip().rpartition("/")
    is_number = number.isascii() and number.isdigit() and len(number) < 10
    return (key, int(number)) if key and is_number else None


def name(run: Run) -> str:
    """("quickstart", 38) → ``quickstart/38``"""
    return f"{run[0]}/{run[1]}"


def join(chosen: Iterable[Run]) -> str:
    return ",".join(name(run) for run in chosen)


def choice(
    key: str,
    options: Sequence[Option],
    labels: Callable[[str], str],
    title: str,
    hidden: bool = True,
) -> Option:
    """Let one of a few be chosen, the first unless the address says otherwise.

    Streamlit can bind a widget to the address by itself, but then the label is in it, which is
    another one in another language.
    """
    after: Option = st.segmented_control(
        title,
        options,
        format_func=labels,
        default=options[_asked(key, options)],
        required=True,
        key=f"{key}-{labels(options[0])}",
        label_visibility="collapsed" if hidden else "visible",
    )
    _keep(key, after, options[0])
    return after


def choice_of_many(
    key: str, options: Sequence[Any], labels: Callable[[Any], str], title: str
) -> Any:
    """The same as a list that opens; options are told apart by their text."""
    after = st.selectbox(
        title,
        options,
        index=_asked(key, options),
        format_func=labels,
        key=f"{key}-{labels(options[0])}",
    )
    _keep(key, after, options[0])
    return after


def whole_number(key: str, low: int, high: int, first: int, title: str) -> int:
    """The same of a number from `low` to `high`; what is none in the address is left out."""
    asked = st.query_params.get(key, "")
    is_number = asked.isascii() and asked.isdigit() and len(asked) < 10
    value = min(max(int(asked), low), high) if is_number else first
    after = int(st.number_input(title, low, high, value, key=key))
    _keep(key, after, first)
    return after


def _asked(key: str, options: Sequence[Any]) -> int:
    """The place of the option in the address, else the first."""
    asked = st.query_params.get(key)
    return next((place for place, option in enumerate(options) if str(option) == asked), 0)


def _keep(key: str, option: Any, first: Any) -> None:
    if option != first:
        st.query_params[key] = str(option)
    elif key in st.query_params:
        del st.query_params[key]


# -- the runs to compare, kept while one goes from page to page


def chosen() -> list[Run]:
    """The runs that were put aside to compare."""
    kept: list[Run] = st.session_state.setdefault("chosen", [])
    return kept


def choose(more: Sequence[Run]) -> None:
    """Put runs aside, at most `MOST_RUNS`."""
    st.session_state["chosen"] = list(dict.fromkeys([*chosen(), *more]))[:MOST_RUNS]


def _with(params: Mapping[str, str]) -> dict[str, str]:
    """The language stays from page to page."""
    language = st.query_params.get("lang")
    return {**({"lang": language} if language else {}), **params}
