"""Curves as a table: from the read model, and from MLflow by its client."""

from __future__ import annotations

import subprocess
import sys

from measure import environment, interleaved
from ui_bench import Bench, Found, against

OURS = """
import sys, time
began = time.perf_counter()
import pandas as pd
from hpo import results
home, *names = sys.argv[1:]
table = pd.concat([results.curves(n, metrics=["val/loss"], home=home) for n in names])
print(len(table), time.perf_counter() - began)
"""
THEIRS = """
import sys, time
import pandas as pd
from mlflow import MlflowClient
uri, experiment, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = MlflowClient(tracking_uri=uri)
client.search_experiments()
began = time.perf_counter()
runs = client.search_runs([experiment], max_results=1000)
searched = time.perf_counter()
rows = [
    (run.info.run_id, point.step, point.value)
    for run in runs[:count]
    for point in client.get_metric_history(run.info.run_id, "val/loss")
]
table = pd.DataFrame(rows, columns=["run", "step", "value"])
print(len(runs), searched - began, time.perf_counter() - searched)
"""


def curves(bench: Bench) -> Found:
    """Both in processes of their own; theirs is timed after its imports, ours before."""
    home, names = bench.data.many, bench.data.many.study_names()
    sample = 200 if bench.rounds > 1 else 50

    def ours() -> float:
        rows, seconds = python(OURS, str(home.root), *names)
        assert int(rows) > 40 * bench.data.count, rows
        return float(seconds)

    def first() -> float:
        for file in home.results_cache.glob("*.arrow"):
            file.unlink()
        return ours()

    def theirs() -> float:
        uri = bench.mlflow.url
        experiment, _ = bench.data.run_ids([])
        runs, searched_s, fetched_s = map(float, python(THEIRS, uri, experiment, str(sample)))
        return len(names) * (searched_s + fetched_s / sample * runs)

    theirs()  # its server is up and warm
    first_s, again_s, theirs_s = interleaved(bench.rounds, first, ours, theirs)
    rows = [
        ("MLflow over REST", f"{sample} runs timed, scaled to {bench.data.count:,}"),
        ("curves, the first time ever (the outboxes are read)", f"{first_s:.2f} s"),
        ("the same / MLflow over REST", f"{first_s / theirs_s:.4f} ×"),
    ]
    name = f"one metric of {bench.data.count:,} runs: hpo.results / MLflow over REST"
    return rows, [against(name, again_s, theirs_s, 0.01)]


def python(code: str, *arguments: str) -> list[str]:
    """What a program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    return done.stdout.split()
