"""How soon a search finds a good model, against the script people write today.

In one run, in turn:

* plain: Optuna (TPE), a DataLoader, scikit-learn's metrics and MLflow, in 2 processes that share
  a study (benchmarks/real.py); 100 trials of 20 epochs of an mlp on the handwritten digits. Its
  wall time, and the best validation accuracy of its trials.
* hpo: ``hpo run`` of the same search with hyperband, 200 trials and 2 workers, everything
  recorded; the wall time from the start of the command until a complete trial is on record that is
  as good.

Each round has another seed. A round in which hpo finds none as good counts with its whole time,
and is said.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from measure import Figure, hpo_run, report, say
from real import Plain

STUDY = """
study: search
seed: %d
trainer: image_classifier
data: {source: digits, validation: 0.2, test: 0.2}
model: {name: mlp, hidden: [64]}
train: {epochs: 20, optimizer: sgd, momentum: 0.9}
search:
  train.lr: {low: 1e-3, high: 0.3, log: true}
  train.batch_size: [16, 32, 64]
  train.weight_decay: {low: 1e-6, high: 1e-3, log: true}
objective: {metric: val/accuracy, goal: maximize}
sampler: tpe
pruner: hyperband
workers: 2
device: cpu
budget: {trials: 200}
"""


def seconds_until(accuracy: float, seed: int) -> tuple[float | None, float]:
    """Until a trial of hpo's was as good, or None; and for the whole command."""
    from hpo.tracking import outbox

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "study.yaml").write_text(STUDY % seed)
        began_ms = time.time() * 1000
        whole_s = hpo_run(home / "study.yaml", home)["seconds"]
        for record, _ in outbox.read(home / "studies/search/outbox.log"):
            is_complete = record["kind"] == "end" and record["state"] == "complete"
            if is_complete and record["values"][0] >= accuracy:
                return (record["time_ms"] - began_ms) / 1000, whole_s
    return None, whole_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, of 20 trials")
    quick = parser.parse_args().quick
    plain = Plain(20, [{}] * (20 if quick else 100))
    shares, rows = [], []
    for seed in range(1 if quick else 3):
        plain_s = plain()
        wanted = max(plain.accuracies)
        reached_s, whole_s = seconds_until(wanted, seed)
        shares.append((whole_s if reached_s is None else reached_s) / plain_s)
        reached = "never" if reached_s is None else f"{reached_s:.1f} s"
        said = f"{plain_s:.1f} s; hpo as good after {reached}, whole {whole_s:.1f} s"
        rows.append((f"seed {seed}: plain, best {wanted:.4f}", said))
        say(": ".join(rows[-1]))
    report(
        "end to end",
        rows,
        [Figure("wall time to the plain script's best", statistics.median(shares), 0.1)],
    )


if __name__ == "__main__":
    main()
