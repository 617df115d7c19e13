"""What the app and its peers show in `benchmarks/ui.py`: made once, then found in its folder."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import generated
from measure import environment, say

from hpo import results
from hpo.paths import Home
from hpo.tracking import pending, sync

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STUDIES, TRIALS = 10, 1_000
FEW = 120  # of which 100 are complete
SHOWN = "study-00"  # whose pages are measured
COMPARED = 100


class Data:
    """The homes and stores in a folder.

    Attributes:
        many: 10 studies of 1,000 runs; the first is in its MLflow store.
        count: How many runs `many` has.
        few: One study of 120 runs, in its MLflow store.
        optuna: The address of an Optuna storage with the first study's trials.
    """

    def __init__(self, folder: Path, studies: int = STUDIES, trials: int = TRIALS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.count = studies * trials
        self.many = _home(folder / f"many-{studies}x{trials}", studies, trials)
        self.few = _home(folder / f"few-{FEW}", 1, FEW)
        self.optuna = f"sqlite:///{folder.resolve()}/optuna-{trials}.db"
        self._optuna_file = folder / f"optuna-{trials}.db"

    def runs(self, home: Home) -> list[int]:
        """The runs that are compared: complete, with predictions."""
        table = results.trials(SHOWN, home)
        return [int(n) for n in table[table["state"] == "complete"]["number"].head(COMPARED)]

    def ship(self, home: Home) -> None:
        """Send the shown study to the MLflow store of its home, by the way `hpo run` does."""
        paths = home.study(SHOWN)
        if paths.shipped.is_file() and not pending(paths):
            return
        say(f"sending {SHOWN} of {home.root.name} to MLflow …")
        began_s = time.perf_counter()
        shipped = sync(paths, home, home.tracking_uri)
        assert not shipped.pending, shipped.error
        say(f"  {time.perf_counter() - began_s:.0f} s")

    def run_ids(self, trials: Sequence[int]) -> tuple[str, list[str]]:
        """The experiment's id and those of runs in MLflow."""
        shipped = json.loads(self.many.study(SHOWN).shipped.read_bytes())
        return shipped["experiment_id"], [shipped["runs"][str(trial)] for trial in trials]

    def store_in_optuna(self) -> None:
        """The shown study as Optuna has it when `hpo` runs it: values reported at each epoch."""
        if self._optuna_file.is_file():
            return
        say(f"storing {SHOWN} in Optuna …")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        beside = self._optuna_file.with_suffix(".part")
        beside.unlink(missing_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{beside.resolve()}")
        study = optuna.create_study(storage=storage, study_name=SHOWN, direction="maximize")
        study.add_trials(_optuna_trials(results.tables(SHOWN, self.many)))
        storage.engine.dispose()
        beside.rename(self._optuna_file)


def _home(root: Path, studies: int, trials: int) -> Home:
    home = Home(root)
    if not (root / "made").is_file():
        say(f"making {studies * trials:,} runs …")
        shutil.rmtree(root, ignore_errors=True)
        for index in range(studies):
            kept = 2 * COMPARED if index == 0 else 0
            generated.write_study(home, f"study-{index:02}", trials, index + 1, kept)
        (root / "made").touch()
    return home


def _optuna_trials(tables: results.StudyTables) -> list[FrozenTrial]:
    import optuna
    import pandas as pd
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.trial import TrialState

    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    space = {
        path: CategoricalDistribution(said["choices"])
        if said["type"] == "choice"
        else FloatDistribution(said["low"], said["high"], log=said.get("log", False))
        for path, said in tables.search.items()
    }
    epochs = tables.epochs[["trial", "epoch", "val/f1_macro"]]
    reported = {
        trial: dict(zip(rows["epoch"].tolist(), rows["val/f1_macro"].tolist(), strict=True))
        for trial, rows in epochs.groupby("trial")
    }
    made = []
    for row in tables.trials.to_dict("records"):
        params = {path: row[f"params.{path}"] for path in space}
        params = {path: value for path, value in params.items() if not pd.isna(value)}
        made.append(
            optuna.trial.create_trial(
                state=states.get(row["state"], TrialState.FAIL),
                value=row["value"] if row["state"] == "complete" else None,
                params=params,
                distributions={path: space[path] for path in params},
                intermediate_values=reported.get(row["number"], {}),
            )
        )
    return made


def quiet() -> None:
    """One thread a process, as the servers have."""
    os.environ.update(environment())
