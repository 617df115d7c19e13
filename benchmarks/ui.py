"""The app's speed: a real server and a real headless Chromium, with a new profile each visit.

Generated runs of 50 epochs × 4 metrics and 1,000-row predictions (benchmarks/generated.py), in
homes that are made once in ``--data``. Beside the app, in turn and on the same data:

* optuna-dashboard on the trials of one study, in SQLite, with the values reported each epoch;
* MLflow's own page of one metric of 100 runs, and its client over REST, on the server that
  ``hpo server`` starts; it holds one study of the ten, which is in its favour;
* a Streamlit page that has nothing but one Plotly chart.

Servers have been visited once before the visits that count; first visits are shown beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure import Figure, report, say
from pages import chromium
from ui_bench import Bench, Found, Row
from ui_changes import changes, live
from ui_data import Data, quiet
from ui_pages import above_bare, compare_page, many_runs, memory, sent, study_page
from ui_tables import curves

FIGURES: dict[str, Callable[[Bench], Found]] = {
    "study": study_page,
    "compare": compare_page,
    "bare": above_bare,
    "many": many_runs,
    "curves": curves,
    "changes": changes,
    "sent": sent,
    "live": live,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("figures", nargs="*", help=f"of {', '.join(FIGURES)}; all by default")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "hpo-ui")
    parser.add_argument("--quick", action="store_true", help="each once")
    arguments = parser.parse_args()
    quiet()
    rows: list[Row] = []
    figures: list[Figure] = []
    with contextlib.ExitStack() as stack:
        browser = stack.enter_context(chromium())
        bench = Bench(Data(arguments.data), browser, 1 if arguments.quick else 5, stack)
        for name in arguments.figures or FIGURES:
            say(f"{name} …")
            began_s = time.perf_counter()
            more, found = FIGURES[name](bench)
            rows += more
            figures += found
            for figure in found:
                say(f"  {figure.name}: {figure.value:.3g} {figure.unit}")
            say(f"  ({time.perf_counter() - began_s:.0f} s)")
    report("ui", rows, figures)


if __name__ == "__main__":
    main()
