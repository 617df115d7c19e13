"""Studies that nobody ran: the outboxes and predictions that ``hpo run`` would have left.

The records are those of `hpo.record`, written through `hpo.tracking.outbox`; only the training is
left out. Runs have EPOCHS epochs of 4 metrics (one in ten is pruned earlier, one in fifty fails),
and classify ROWS rows of CLASSES classes. Predictions are written for the first runs only: they
are what takes space, and no page reads those of runs that are not compared.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpo.paths import Home
from hpo.tracking.outbox import Outbox

EPOCHS = 50
ROWS, CLASSES = 1_000, 10
WORKERS = 2
EPOCH_MS = 500
BEGAN_MS = 1_767_225_600_000  # 2026-01-01
METRICS = ("train/loss", "val/loss", "val/accuracy", "val/f1_macro")

FILE = """
study: {name}
trainer: image_classifier
data: {{source: photos}}
model: {{name: cnn}}
train: {{epochs: 50}}
search:
  train.lr:           {{type: float, low: 0.0001, high: 1.0, log: true}}
  train.weight_decay: {{type: float, low: 0.000001, high: 0.01, log: true}}
  train.batch_size:   {{choices: [32, 64, 128]}}
  train.optimizer:    {{choices: [sgd, adamw]}}
  train.momentum:     {{type: float, low: 0.5, high: 0.99, when: {{train.optimizer: sgd}}}}
  model.dropout:      {{type: float, low: 0.0, high: 0.6}}
objective: {{metric: val/f1_macro, goal: maximize}}
"""
IDENTITY: dict[str, Any] = {
    "trainer": "image_classifier",
    **{"data.source": "photos", "data.validation": 0.2, "data.test": 0.2, "data.folds": None},
    **{"model.name": "cnn", "model.channels": [32, 64, 128], "model.weights": None},
    **{"train.epochs": EPOCHS, "train.schedule": "cosine", "train.early_stopping": None},
}
DATASET: dict[str, Any] = {
    **{"source": "photos", "task": "classification", "rows": 5 * ROWS, "train": 3 * ROWS},
    **{"validation": ROWS, "test": ROWS, "classes": [f"class {c}" for c in range(CLASSES)]},
    **{"shape": [3, 32, 32], "metrics": list(METRICS), "fingerprint": "0" * 64, "skipped": []},
}

Record = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One run to be: its parameters, how it ends, and how good it is, in (0, 1)."""

    number: int
    params: dict[str, Any]
    state: str
    epochs: int
    skill: float
    seed: int


def write_study(home: Home, name: str, trials: int, seed: int, predictions: int = 0) -> None:
    """A study that has ended, with the predictions of its first complete runs."""
    rng = np.random.default_rng(seed)
    made = [_trial(number, rng) for number in range(trials)]
    paths = home.study(name)
    kept = [trial for trial in made if trial.state == "complete"][:predictions]
    for trial in kept:
        write_predictions(paths.trial(trial.number) / "predictions.npz", trial)
    with Outbox(paths.outbox) as outbox:
        outbox.append(study_record(name, trials, seed))
        lives = [_life(made[worker::WORKERS], worker, kept) for worker in range(WORKERS)]
        for record in heapq.merge(*lives, key=lambda record: record["time_ms"]):
            outbox.append(record)
        end_ms = record["time_ms"]
        end = {"state": "complete", "reason": f"all {trials} trials are done"}
        outbox.append({"kind": "study_end", "time_ms": end_ms, **end})


def study_record(name: str, trials: int, seed: int, time_ms: int = BEGAN_MS) -> Record:
    """The record that begins a study."""
    return {
        "kind": "study",
        "time_ms": time_ms,
        "study": name,
        "study_id": f"{seed:032x}",
        "folder": ".",
        "path": f"{name}.yaml",
        "file": FILE.format(name=name),
        "identity": IDENTITY,
        "objective": [{"metric": "val/f1_macro", "goal": "maximize"}],
        "budget": {"trials": trials},
        "sampler": "tpe",
        "pruner": "hyperband",
        "workers": WORKERS,
        "threads": 1,
        "device": "cpu",
        "device_name": "cpu",
        "dataset": DATASET,
        "provenance": {"git": {"commit": "c" * 40, "branch": "main", "dirty": False, "diff": ""}},
    }


def trial_record(trial: Trial, worker: int, time_ms: int) -> Record:
    """The record that begins a run."""
    facts = {"number": trial.number, "params": trial.params, "config": IDENTITY | trial.params}
    facts |= {"seed": trial.seed, "worker": worker, "attempt": 1, "crashes": 0}
    return {"kind": "trial", "time_ms": time_ms, **facts}


def epoch_record(trial: Trial, epoch: int, metrics: dict[str, float], time_ms: int) -> Record:
    """The record of an epoch."""
    facts = {"number": trial.number, "epoch": epoch, "seconds": EPOCH_MS / 1000}
    return {"kind": "epoch", "time_ms": time_ms, **facts, "metrics": metrics}


def curves(trial: Trial, epochs: int | None = None) -> list[dict[str, float]]:
    """The metrics of each epoch: they rise or fall to a level, with noise."""
    rng = np.random.default_rng(trial.seed)
    count = epochs or trial.epochs
    reached = 1 - np.exp(-np.arange(1, count + 1) / (4 + 12 * (1 - trial.skill)))
    noise = rng.normal(0, 0.01, (4, count))
    accuracy = np.clip(0.1 + (trial.skill - 0.1) * reached + noise[0], 0, 1)
    train = 2.3 * (1 - reached * (0.3 + 0.7 * trial.skill)) * np.exp(3 * noise[1])
    loss = train + 0.1 + 0.3 * reached * (1 - trial.skill) + noise[2]
    columns = (train, loss, accuracy, np.clip(accuracy - 0.01 + noise[3] / 3, 0, 1))
    return [dict(zip(METRICS, row, strict=True)) for row in np.stack(columns, axis=1).tolist()]


def write_predictions(path: Path, trial: Trial) -> None:
    """Probabilities as a worker stores them; all runs have the same rows."""
    target = np.random.default_rng(0).integers(0, CLASSES, ROWS)
    logits = np.random.default_rng(trial.seed).normal(size=(ROWS, CLASSES)) * 2
    logits[np.arange(ROWS), target] += 7 * trial.skill
    output = np.exp(logits - logits.max(axis=1, keepdims=True))
    output = (output / output.sum(axis=1, keepdims=True)).astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, ids=np.arange(ROWS) * 5, target=target, output=output)


def _trial(number: int, rng: np.random.Generator) -> Trial:
    params: dict[str, Any] = {
        "train.lr": float(10 ** rng.uniform(-4, 0)),
        "train.weight_decay": float(10 ** rng.uniform(-6, -2)),
        "train.batch_size": int(rng.choice([32, 64, 128])),
        "train.optimizer": str(rng.choice(["sgd", "adamw"])),
        "model.dropout": float(rng.uniform(0, 0.6)),
    }
    if params["train.optimizer"] == "sgd":
        params["train.momentum"] = float(rng.uniform(0.5, 0.99))
    away = abs(np.log10(params["train.lr"]) + 2) / 2
    skill = 0.9 - 0.5 * away**2 - 0.1 * params["model.dropout"] + rng.normal(0, 0.02)
    how, cut = rng.random(), int(rng.integers(5, 25))
    state = "failed" if how < 0.02 else "pruned" if how < 0.12 else "complete"
    epochs = EPOCHS if state == "complete" else cut
    return Trial(number, params, state, epochs, float(skill), int(rng.integers(2**31)))


def _life(trials: list[Trial], worker: int, kept: list[Trial]) -> Iterator[Record]:
    """What a worker does: one run after another."""
    now_ms = BEGAN_MS + worker
    with_files = {trial.number for trial in kept}
    for trial in trials:
        yield trial_record(trial, worker, now_ms)
        rows = curves(trial)
        for epoch, metrics in enumerate(rows, 1):
            now_ms += EPOCH_MS
            yield epoch_record(trial, epoch, metrics, now_ms)
        yield _end(trial, rows, now_ms, trial.number in with_files)


def _end(trial: Trial, rows: list[dict[str, float]], time_ms: int, has_file: bool) -> Record:
    scores = [row["val/f1_macro"] for row in rows]
    best = int(np.argmax(scores))
    failed = trial.state == "failed"
    reasons = {"failed": "non-finite loss", "pruned": f"pruned at epoch {trial.epochs}"}
    files = {"predictions.npz": f"trials/{trial.number}/predictions.npz"} if has_file else {}
    return {
        "kind": "end",
        "time_ms": time_ms,
        "number": trial.number,
        "state": trial.state,
        "reason": reasons.get(trial.state, ""),
        "values": None if failed else [scores[best]],
        "best_epoch": None if failed else best + 1,
        "last_epoch": trial.epochs,
        "last_values": [scores[-1]],
        "epochs_trained": trial.epochs,
        "seconds": trial.epochs * EPOCH_MS / 1000,
        "peak_memory_mb": 250.0,
        "traceback": "ValueError: non-finite loss\n" if failed else None,
        "artifacts": files,
    }
