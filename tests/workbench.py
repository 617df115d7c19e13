"""A study on a trainer that costs nothing, for tests of everything around training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpo import spec
from hpo.launch import nothing_left, opened
from hpo.orchestrator import Ended
from hpo.paths import Home
from hpo.progress import Silent
from hpo.spec import StudySpec

TRAINER = '''
import json, os, signal, time
from pathlib import Path
from trainers.contract import Epoch

def train(trial):
    """Quality peaks in the middle of the epochs, higher for x near 0.3."""
    options = trial.params["train"]
    state = trial.resume()
    first = 1 if state is None else state["epoch"] + 1
    for epoch in range(first, options["epochs"] + 1):
        told(options, trial.number, epoch)
        quality = 1 - (options["x"] - 0.3) ** 2 - 0.01 * abs(epoch - options["epochs"] / 2)
        trial.save({"epoch": epoch})
        trial.report(epoch, {"quality": quality, "cost": options["x"] + 1 / epoch})

class Lane:
    def __init__(self, trial):
        self.trial, self.options = trial, trial.params["train"]
        state = trial.resume()
        self.done = 0 if state is None else state["epoch"]

    def train_an_epoch(self):
        self.done += 1
        options, epoch = self.options, self.done
        told(options, self.trial.number, epoch)
        quality = 1 - (options["x"] - 0.3) ** 2 - 0.01 * abs(epoch - options["epochs"] / 2)
        if options.get("nan") == self.trial.number:
            quality = float("nan")
        metrics = {"quality": quality, "cost": options["x"] + 1 / epoch}
        return Epoch(self.trial, epoch, metrics, None, self.state, epoch == options["epochs"])

    def state(self):
        return {"epoch": self.done}

def train_together(trials):
    """The same in lanes. Those of one ``train.kind`` only."""
    lanes = []
    while True:
        for trial in trials.begin():
            if trial.params["train"].get("fail") == trial.number:
                trials.fail(trial, ValueError("cannot begin"))
            else:
                lanes.append(Lane(trial))
        if not lanes:
            return
        assert len({lane.options.get("kind") for lane in lanes}) == 1
        leaving = trials.report([lane.train_an_epoch() for lane in lanes])
        lanes = [lane for lane in lanes if lane.trial.number not in leaving]

def told(options, number, epoch):
    """What a test wants to happen at an epoch: ``{"3:2": "raise"}`` is trial 3, epoch 2."""
    time.sleep(options.get("seconds", 0))
    what = options.get("at", {}).get(f"{number}:{epoch}") or options.get("always")
    once = Path(options.get("folder", ".")) / f"told-{number}-{epoch}"
    if what is None or (what.endswith("once") and once.exists()):
        return
    if what.endswith("once"):
        once.touch()
    if what.startswith("raise"):
        raise ValueError(f"as told at epoch {epoch}")
    if what.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what.startswith("die"):
        raise KeyboardInterrupt  # ends an inline worker's thread
    if what.startswith("interrupt"):
        os.kill(os.getpid(), signal.SIGINT)
    if what.startswith("hang"):
        time.sleep(1000)
'''

STUDY = """
study: s
trainer: told:train
train: {epochs: 4, x: 0.5}
search:
  train.x: {low: 0.0, high: 1.0}
objective: {metric: quality, goal: maximize}
sampler: random
executor: inline
workers: 1
device: cpu
budget: {trials: 5}
"""


class Workbench:
    """A folder with a study file; runs it without MLflow, which has tests of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder)
        self.file = folder / "study.yaml"
        self.file.write_text(STUDY)
        (folder / "told.py").write_text(TRAINER)
        self.said: list[str] = []

    @property
    def paths(self) -> Any:
        return self.home.study("s")

    def load(self, **overrides: Any) -> StudySpec:
        """The study; ``train__x=1`` overrides ``train.x``."""
        return spec.load(
            self.file, {key.replace("__", "."): value for key, value in overrides.items()}
        )

    def run(self, *, accept_changes: bool = False, **overrides: Any) -> Ended:
        study = self.load(**overrides)
        done = nothing_left(study, self.home.study(study.study), accept_changes=accept_changes)
        if done:
            return Ended("complete", done)
        with opened(
            study, self.home, _Listener(self.said), accept_changes=accept_changes
        ) as orchestrator:
            return orchestrator.run()

    def records(self, kind: str, study: str = "s") -> list[dict[str, Any]]:
        """The outbox's records of a kind, in order."""
        from hpo.tracking import outbox

        return [r for r, _ in outbox.read(self.home.study(study).outbox) if r["kind"] == kind]

    def optuna_trials(self, study: str = "s") -> Any:
        """As Optuna itself reads them."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        backend = JournalFileBackend(str(self.home.study(study).journal))
        return optuna.load_study(storage=JournalStorage(backend), study_name=study).trials


class _Listener(Silent):
    def __init__(self, said: list[str]) -> None:
        self._said = said

    def say(self, text: str) -> None:
        self._said.append(text)
