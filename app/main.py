"""The app: ``hpo ui`` starts it. Which page is shown, in which language, from which stores.

Each page is a function in `app.views`; what they share is in `app.parts` and `app.address`.
"""

from __future__ import annotations

import streamlit as st

from app import address
from app.parts import current_words
from app.views import compare, ensemble, run, studies, study


def main() -> None:
    """What Streamlit runs again after each click."""
    st.set_page_config(page_title="hpo", page_icon="📈", layout="wide")
    w = current_words()
    pages = {
        address.STUDIES: st.Page(studies.show, title=w("page.studies"), default=True),
        address.STUDY: st.Page(study.show, title=w("page.study"), url_path=address.STUDY),
        address.COMPARE: st.Page(compare.show, title=w("page.compare"), url_path=address.COMPARE),
        address.ENSEMBLE: st.Page(
            ensemble.show, title=w("page.ensemble"), url_path=address.ENSEMBLE
        ),
        address.RUN: st.Page(run.show, title=w("page.run"), url_path=address.RUN),
    }
    address.remember(pages)
    st.navigation(list(pages.values()), position="top").run()


main()
