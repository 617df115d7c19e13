"""Studies that nobody ran: their outboxes and files, as a run would have left them."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from made_up import classifier, labels, regression

from hpo import lease
from hpo.paths import Home
from hpo.results.predicted import Predicted
from hpo.tracking.outbox import Outbox

START_MS = 1_700_000_000_000
ACCURACY = {"metric": "val/accuracy", "goal": "maximize"}
LOSS = {"metric": "val/loss", "goal": "minimize"}
SEARCH: Mapping[str, Mapping[str, Any]] = {
    "train.lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "train.batch_size": {"choices": [16, 32, 64]},
    "train.optimizer": {"choices": ["sgd", "adamw"]},
    "train.momentum": {
        "type": "float",
        "low": 0.5,
        "high": 0.99,
        "when": {"train.optimizer": "sgd"},
    },
}
TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 1\nValueError: no luck\n'


class Recorded:
    """Writes one study's outbox, a whole trial at a time or record by record.

    Args:
        start_ms: When it begins, on a clock that goes on with each record.
        changed: Fields of the ``study`` record that are not the usual ones.
    """

    def __init__(
        self, home: Path, name: str = "digits", start_ms: int = START_MS, **changed: Any
    ) -> None:
        self.home = Home(home)
        self.name = name
        self.paths = self.home.study(name)
        self.search: Mapping[str, Mapping[str, Any]] = changed.pop("search", SEARCH)
        self._now_ms = start_ms
        self._random = np.random.default_rng(len(name))
        self._next = 0
        self._params: dict[int, dict[str, Any]] = {}
        self._fields = self._usual() | {"study_id": uuid.uuid4().hex} | changed
        self.study()

    def _usual(self) -> dict[str, Any]:
        file = {"study": self.name, "trainer": "image_classifier", "search": dict(self.search)}
        return {
            "study": self.name,
            "file": yaml.safe_dump(file, sort_keys=False),
            "folder": "/studies",
            "path": None,
            "identity": {"trainer": "image_classifier", "seed": 0},
            "objective": [ACCURACY],
            "budget": {"trials": 20, "wall_s": 600.0}
            | dict.fromkeys(("device_hours", "target", "patience")),
            "sampler": "tpe",
            "pruner": "hyperband",
            "workers": 2,
            "device": "cpu",
            "device_name": "cpu",
            "dataset": {
                "source": "digits",
                "task": "classification",
                "rows": 500,
                "train": 300,
                "validation": 200,
                "classes": ["cat", "dog", "eel"],
                "metrics": list(metrics(0.5)),
                "fingerprint": "f" * 64,
            },
            "provenance": {
                "git": {"commit": "c" * 40, "branch": "main", "dirty": True, "diff": "+a = 1\n"},
                "packages": {"torch": "2.14.1"},
            },
        }

    def write(self, kind: str, **fields: Any) -> None:
        """A record; the clock goes on by a tenth of a second."""
        self._now_ms += 100
        with Outbox(self.paths.outbox) as log:
            log.append({"kind": kind, "time_ms": self._now_ms, **fields})

    def study(self) -> None:
        self.write("study", **self._fields)

    def begin(self, attempt: int = 1, number: int | None = None, **changed: Any) -> int:
        """A trial with some parameters; returns its number."""
        if number is None:
            number, self._next = self._next, self._next + 1
        params = changed.pop("params", None)
        if params is None:
            params = self._params.setdefault(number, self._some_params())
        fields = {
            "number": number,
            "params": params,
            "config": {"train.epochs": 5} | params,
            "seed": 1000 + number,
            "worker": number % 2,
            "attempt": attempt,
        }
        self.write("trial", **fields | changed)
        return number

    def _some_params(self) -> dict[str, Any]:
        rng = self._random
        params: dict[str, Any] = {}
        for path, space in self.search.items():
            when = space.get("when") or {}
            if any(params.get(parent) != wanted for parent, wanted in when.items()):
                continue
            if "choices" in space:
                params[path] = space["choices"][int(rng.integers(len(space["choices"])))]
            else:
                low, high = space["low"], space["high"]
                ends = np.log([low, high]) if space.get("log") else np.array([low, high])
                value = rng.uniform(*ends)
                params[path] = float(np.exp(value) if space.get("log") else value)
        return params

    def epoch(self, number: int, epoch: int, said: Mapping[str, float], **more: Any) -> None:
        self.write("epoch", number=number, epoch=epoch, seconds=0.1, metrics=dict(said), **more)

    def end(self, number: int, state: str = "complete", **changed: Any) -> None:
        fields = {
            "reason": "",
            "values": None,
            "best_epoch": None,
            "last_epoch": 0,
            "last_values": None,
            "epochs_trained": 0,
            "seconds": 0.1,
            "peak_memory_mb": 100.0,
            "traceback": None,
            "artifacts": {},
        }
        self.write("end", number=number, state=state, **fields | changed)

    def trial(
        self,
        curve: Sequence[float],
        state: str = "complete",
        predicted: Predicted | None = None,
        begun: Mapping[str, Any] | None = None,
        **changed: Any,
    ) -> int:
        """A whole trial; `curve` is its accuracy, an epoch each."""
        number = self.begin(**begun or {})
        for epoch, value in enumerate(curve, 1):
            said = metrics(value)
            resources = {"system/cpu_percent": 50.0 + epoch, "system/memory_mb": 100.0}
            self.epoch(number, epoch, said, **({"resources": resources} if epoch > 1 else {}))
        if curve:
            best = int(np.argmax(curve))
            found = {o["metric"]: metrics(curve[best])[o["metric"]] for o in self.objective}
            changed = {
                "values": list(found.values()),
                "best_epoch": best + 1,
                "last_epoch": len(curve),
                "epochs_trained": len(curve),
                "seconds": 0.1 * len(curve),
            } | changed
        if predicted is not None:
            keep(self.paths.trial(number) / "predictions.npz", predicted)
            changed["artifacts"] = {"predictions.npz": f"trials/{number}/predictions.npz"}
        self.end(number, state, **changed)
        return number

    @property
    def objective(self) -> list[dict[str, str]]:
        return list(self._fields["objective"])

    def over(self, state: str = "complete") -> None:
        self.write("study_end", state=state, reason="all trials are done")

    def confirmed(self, searched: float = 0.95, looks: int = 1) -> None:
        """As `hpo confirm` records it of the trials 3 and 1."""

        def anew(trial: int, searched: float, mean: float) -> dict[str, Any]:
            values = [mean - 0.01, mean, mean + 0.01]
            own = {"mean": mean, "low": mean - 0.02, "high": mean + 0.02}
            return {"trial": trial, "searched": searched, "values": values, "failures": []} | own

        metric = {"value": 0.91, "low": 0.88, "high": 0.93}
        test = {
            "rows": 360,
            "metric": "accuracy",
            "judged": "kept",
            "runs": {"trial 3": {"log_loss": metric, "accuracy": metric}},
            "seeds": {"values": [0.9], "mean": 0.9, "low": None, "high": None},
            "gain": None,
        }
        self.write(
            "confirmation",
            **{"metric": "val/accuracy", "goal": "maximize", "seeds": 3, "winner": 3},
            **{"trials": [anew(3, searched, 0.9), anew(1, 0.9, 0.89)], "test": test},
            looks=looks,
        )

    @contextmanager
    def live(self) -> Iterator[None]:
        """While this process seems to run the study."""
        with lease.hold(self.paths.lease, self.name):
            yield


def metrics(accuracy: float) -> dict[str, float]:
    """What a classifier reports; the same accuracy gives the same."""
    return {
        "train/loss": 1.2 - accuracy,
        "train/accuracy": min(1.0, accuracy + 0.05),
        "val/loss": 1.5 - accuracy,
        "val/accuracy": accuracy,
        "val/f1_macro": accuracy - 0.01,
    }


def rising(best: float, epochs: int = 5) -> list[float]:
    """A learning curve whose last epoch but one is the best."""
    curve = [best * (1 - 0.5 ** (epoch + 1)) for epoch in range(epochs)]
    return [*curve[: epochs - 2], best, best - 0.01] if epochs > 2 else curve


def keep(path: Path, predicted: Predicted) -> None:
    """Write predictions as a worker does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    output = predicted.output.astype(np.float32)
    groups = {} if predicted.groups is None else {"groups": predicted.groups}
    np.savez(path, ids=predicted.ids, target=predicted.target, output=output, **groups)


def keep_images(recorded: Recorded, ids: Sequence[int]) -> None:
    """Keep examples of images, as a worker does."""
    from PIL import Image

    rows = []
    for number in ids:
        png = io.BytesIO()
        Image.new("L", (8, 8), int(number) % 255).save(png, "PNG")
        rows.append({"id": int(number), "image": png.getvalue()})
    pd.DataFrame(rows).to_parquet(recorded.paths.root / "examples.parquet")


def finished(home: Path, name: str = "digits", trials: int = 8, **changed: Any) -> Recorded:
    """A classifier's study: trials in every state that a trial may end in, predictions kept."""
    study = Recorded(home, name, **changed)
    classes = len(study._fields["dataset"].get("classes") or [0] * 3)
    for number in range(trials):
        skill = 0.5 + 1.5 * number / trials
        predicted = classifier(classes=classes, skill=skill, seed=number)
        study.trial(rising(0.6 + 0.3 * number / trials), predicted=predicted)
    study.trial(rising(0.4)[:2], "pruned", reason="hyperband at epoch 2")
    study.trial(rising(0.5)[:3], "stopped", reason="the study's wall time is over")
    study.trial(rising(0.3)[:1], "failed", reason="ValueError: no luck 1", traceback=TRACEBACK)
    study.trial([], "failed", reason="ValueError: no luck 2", traceback=TRACEBACK)
    study.over()
    return study


def a_regression(home: Path, name: str = "diabetes") -> Recorded:
    """A study that predicts numbers."""
    dataset = {"source": "diabetes", "task": "regression", "target": "progression", "train": 300}
    dataset |= {"metrics": list(metrics(0.5)), "fingerprint": "d" * 64}
    study = Recorded(home, name, dataset=dataset, objective=[LOSS])
    for number in range(4):
        predicted = regression(error=1.0 + number, seed=number)
        study.trial(rising(0.8 - 0.1 * number), predicted=predicted)
    study.over()
    return study


def pausing(home: Path, name: str = "pausing") -> Recorded:
    """A study that has a trial for each way in which a pause can end."""
    study = Recorded(home, name)
    resumed, left, stayed = (study.begin(until=1) for _ in range(3))
    for number in (resumed, left, stayed):
        study.epoch(number, 1, metrics(0.5))
        study.write("pause", number=number, epoch=1)
    study.write("until", number=stayed, until=None)
    study.begin(attempt=2, number=resumed)
    best = {"values": [0.5], "best_epoch": 1}
    for number in (resumed, stayed):
        study.epoch(number, 2, metrics(0.4))
        study.end(number, last_epoch=2, epochs_trained=2, seconds=0.2, **best)
    study.end(left, "pruned", reason="paused", last_epoch=1, epochs_trained=1, **best)
    study.over()
    return study


def of_labels(home: Path, name: str = "labels") -> Recorded:
    """A study of rows that can have several labels."""
    dataset = {"source": "animals", "task": "multilabel", "classes": ["cat", "dog", "owl"]}
    dataset |= {"metrics": list(metrics(0.5)), "fingerprint": "e" * 64, "train": 300}
    study = Recorded(home, name, dataset=dataset)
    for number in range(3):
        study.trial(rising(0.8 - 0.1 * number), predicted=labels(seed=number))
    study.over()
    return study


def several_objectives(home: Path, name: str = "both") -> Recorded:
    """A study with two objectives that disagree."""
    study = Recorded(home, name, objective=[ACCURACY, {"metric": "cost", "goal": "minimize"}])
    for number in range(6):
        accuracy, cost = 0.5 + 0.05 * number, float(10 + (number - 3) ** 2)
        trial = study.begin()
        study.epoch(trial, 1, metrics(accuracy) | {"cost": cost})
        study.end(trial, values=[accuracy, cost], best_epoch=1, last_epoch=1, epochs_trained=1)
    study.over()
    return study


def own_trainer(home: Path, name: str = "mine") -> Recorded:
    """A study of a trainer that keeps no predictions and knows no data."""
    study = Recorded(
        home,
        name,
        dataset={},
        provenance={},
        objective=[{"metric": "quality", "goal": "maximize"}],
        search={"train.x": {"type": "float", "low": 0.0, "high": 1.0}},
    )
    for number in range(4):
        trial = study.begin()
        for epoch in (1, 2):
            study.epoch(trial, epoch, {"quality": number + epoch / 10})
        study.end(trial, values=[number + 0.2], best_epoch=2, last_epoch=2, epochs_trained=2)
    study.over()
    return study
