"""Ensembles over a study's trials: `hpo ensemble` against plain greedy selection.

1,000 generated prediction sets of 10,000 rows and 10 classes: models of a few kinds, more or less
skilled and sure, that share what is hard. As many rows again judge what was made. Plain selection
is Caruana's, as it is usually written: at each step every trial is added to the mean in turn and
its log loss computed anew, with NumPy alone, which is several times faster than with
scikit-learn's function.

    .venv/bin/python benchmarks/ensemble.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from generated import BEGAN_MS
from measure import HPO, Figure, PeakMemory, environment, interleaved, report, say

from hpo.ensemble import MOST
from hpo.ensemble.criterion import LOG_LOSS
from hpo.ensemble.methods import STEPS, greedy, selected
from hpo.paths import Home
from hpo.tracking.outbox import Outbox

CLASSES = 10
KINDS = 8
NAME = "generated"


@dataclass(frozen=True)
class Sets:
    """Prediction sets: (trials, rows, CLASSES) float32 probabilities, and (rows,) targets."""

    outputs: np.ndarray
    target: np.ndarray


def generate(trials: int, rows: int) -> Sets:
    """Logits are what all models see, what models of a kind see, and noise; times sharpness."""
    random = np.random.default_rng(0)
    target = random.integers(0, CLASSES, rows)
    shared = 1.2 * random.normal(size=(rows, CLASSES)).astype(np.float32)
    kinds = random.normal(size=(KINDS, rows, CLASSES)).astype(np.float32)
    outputs = np.empty((trials, rows, CLASSES), np.float32)

    def one(trial: int) -> None:
        own = np.random.default_rng(trial + 1)
        noise = own.normal(size=(rows, CLASSES)).astype(np.float32) * own.uniform(0.5, 1.5)
        logits = shared + kinds[own.integers(KINDS)] + noise
        logits[np.arange(rows), target] += own.uniform(1, 3)
        logits *= own.uniform(0.5, 3)
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        outputs[trial] = raised / raised.sum(axis=1, keepdims=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(trials)))
    return Sets(outputs, target)


def plain_selection(sets: Sets, rows: slice) -> np.ndarray:
    """(trials,) weights: every candidate is averaged and scored anew at every step."""
    outputs, target = sets.outputs[:, rows], sets.target[rows]
    places = np.arange(len(target))
    total = np.zeros(outputs.shape[1:], np.float32)
    chosen: list[int] = []
    losses: list[float] = []
    for count in range(1, STEPS + 1):
        scores = [_log_loss((total + output) / count, target, places) for output in outputs]
        chosen.append(int(np.argmin(scores)))
        losses.append(min(scores))
        total += outputs[chosen[-1]]
    size = int(np.argmin(losses)) + 1
    return np.bincount(chosen[:size], minlength=len(outputs)) / size


def same_selection(sets: Sets, rows: slice) -> np.ndarray:
    """(trials,) weights of the same selection as hpo makes it, of all trials."""
    return selected(_values(sets, rows), LOG_LOSS)


def default_selection(sets: Sets, rows: slice, top: int) -> np.ndarray:
    """(trials,) weights as `hpo ensemble` finds them: of the best; of few rows in bags."""
    values = _values(sets, rows)
    best = np.argsort(LOG_LOSS.of(values))[:top]
    weights = np.zeros(len(values))
    weights[best] = greedy(values[best], LOG_LOSS, 0)
    return weights


def _values(sets: Sets, rows: slice) -> np.ndarray:
    target = sets.target[rows]
    return np.stack([LOG_LOSS.values(output[rows], target) for output in sets.outputs])


def _log_loss(mean: np.ndarray, target: np.ndarray, places: np.ndarray) -> float:
    return float(-np.log(np.maximum(mean[places, target], 1e-15)).mean())


def loss_of(weights: np.ndarray, sets: Sets, rows: slice) -> float:
    members = np.flatnonzero(weights)
    mean = np.tensordot(weights[members], sets.outputs[members][:, rows], axes=1)
    return _log_loss(mean, sets.target[rows], np.arange(len(mean)))


def write_study(home: Home, sets: Sets) -> None:
    """What a study with these predictions leaves."""
    paths = home.study(NAME)
    paths.root.mkdir(parents=True)

    def keep(trial: int) -> None:
        folder = paths.trial(trial)
        folder.mkdir(parents=True)
        arrays = {"ids": np.arange(len(sets.target)), "target": sets.target}
        np.savez_compressed(folder / "predictions.npz", **arrays, output=sets.outputs[trial])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(keep, range(len(sets.outputs))))
    with Outbox(paths.outbox) as outbox:
        for record in _records(len(sets.outputs)):
            outbox.append(record)


def _records(trials: int) -> list[dict[str, Any]]:
    study = {
        "kind": "study",
        "time_ms": BEGAN_MS,
        "study": NAME,
        "study_id": "e" * 32,
        "folder": "/studies",
        "path": None,
        "file": f"study: {NAME}\n",
        "identity": {},
        "objective": [{"metric": "val/loss", "goal": "minimize"}],
        "budget": {"trials": trials},
        "sampler": "random",
        "pruner": "none",
        "workers": 1,
        "threads": 1,
        "device": "cpu",
        "device_name": "cpu",
        "dataset": {},
        "provenance": {},
    }
    found = [study]
    for number in range(trials):
        about = {"time_ms": BEGAN_MS + number, "number": number}
        begun = {"params": {}, "config": {}, "seed": number, "worker": 0, "attempt": 1}
        end = {"state": "complete", "reason": "", "values": [1.0], "best_epoch": 1}
        end |= {"last_epoch": 1, "last_values": [1.0], "epochs_trained": 1, "seconds": 1.0}
        end |= {"peak_memory_mb": None, "traceback": None, "artifacts": {}}
        found.append({"kind": "trial", **about, **begun, "crashes": 0})
        found.append(
            {"kind": "epoch", **about, "epoch": 1, "seconds": 1.0, "metrics": {"val/loss": 1.0}}
        )
        found.append({"kind": "end", **about, **end})
    found.append(
        {"kind": "study_end", "time_ms": BEGAN_MS + trials, "state": "complete", "reason": ""}
    )
    return found


def command(home: Path, *options: str) -> tuple[float, float, dict[str, Any]]:
    """Seconds, the peak of memory (MB) and the answer of `hpo ensemble`, without MLflow."""
    script = (
        "import sys, hpo.tracking as t; t.sync = lambda *a: t.Shipped(0); "
        "from hpo.cli import main; main()"
    )
    began = time.perf_counter()
    process = subprocess.Popen(
        [HPO[0], "-c", script, "ensemble", NAME, "--home", str(home), "--json", *options],
        stdout=subprocess.PIPE,
        env={**environment(), "OMP_NUM_THREADS": "2"},
    )
    peaks = PeakMemory(process.pid)
    peaks.start()
    output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"hpo ensemble failed ({process.returncode})")
    return time.perf_counter() - began, max(peaks.peaks_mb.values()), json.loads(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    trials, rows, rounds = (200, 2000, 1) if quick else (1000, 10_000, 3)
    say(f"generating {trials} prediction sets of {rows:,} rows and {CLASSES} classes")
    sets = generate(trials, 2 * rows)
    fitting, judging = slice(0, rows), slice(rows, None)
    weights: dict[str, np.ndarray] = {}

    def timed(name: str, make: Callable[[], np.ndarray]) -> Callable[[], float]:
        def run() -> float:
            began = time.perf_counter()
            weights[name] = make()
            return time.perf_counter() - began

        return run

    say("plain selection, the same by hpo, and of its best candidates, in turn")
    plain_s, same_s, default_s = interleaved(
        rounds,
        timed("plain", lambda: plain_selection(sets, fitting)),
        timed("same", lambda: same_selection(sets, fitting)),
        timed("of the best", lambda: default_selection(sets, fitting, MOST)),
    )
    held_out = {name: loss_of(found, sets, judging) for name, found in weights.items()}
    fitted = {name: loss_of(found, sets, fitting) for name, found in weights.items()}
    with tempfile.TemporaryDirectory() as folder:
        say("writing them as a study's")
        write_study(Home(Path(folder)), Sets(sets.outputs[:, fitting], sets.target[fitting]))
        say("hpo ensemble, whole commands")
        greedy_s, greedy_mb, found = command(Path(folder), "--method", "greedy")
        all_s, all_mb, found_all = command(Path(folder))
    report(
        f"ensembles over {trials} trials × {rows:,} rows × {CLASSES} classes",
        [
            ("held-out log loss: best trial", f"{_best_trial(sets, fitting, judging):.4f}"),
            *((f"held-out log loss: {name}", f"{loss:.4f}") for name, loss in held_out.items()),
            ("fitted log loss, plain and the same", f"{fitted['plain']:.6f} {fitted['same']:.6f}"),
            ("hpo ensemble --method greedy, cross-fitted", _estimate(found)),
            ("hpo ensemble, cross-fitted", f"{_estimate(found_all)} ({found_all['method']})"),
            ("hpo ensemble --method greedy", f"{greedy_s:.1f} s, {greedy_mb:.0f} MB"),
            ("hpo ensemble (all methods)", f"{all_s:.1f} s, {all_mb:.0f} MB"),
        ],
        [
            _ratio("plain selection / the same by hpo", plain_s, same_s),
            _ratio(f"plain selection / of the best {MOST}", plain_s, default_s),
            Figure(
                "held-out log loss: the same − plain",
                held_out["same"] - held_out["plain"],
                1e-6,
                "",
            ),
            Figure("peak memory of the command", max(greedy_mb, all_mb), 2000, "MB"),
            Figure("whole command, --method greedy", greedy_s, 30, "s"),
        ],
    )


def _best_trial(sets: Sets, fitting: slice, judging: slice) -> float:
    best = int(LOG_LOSS.of(_values(sets, fitting)).argmin())
    return loss_of(np.eye(1, len(sets.outputs), best)[0], sets, judging)


def _estimate(found: dict[str, Any]) -> str:
    return f"{found['estimate']['value']:.4f}"


def _ratio(name: str, theirs_s: float, ours_s: float) -> Figure:
    ours, theirs = f"{ours_s:.2f} s", f"{theirs_s:.2f} s"
    return Figure(name, theirs_s / ours_s, 20, at_most=False, ours=ours, theirs=theirs)


if __name__ == "__main__":
    sys.exit(main())
