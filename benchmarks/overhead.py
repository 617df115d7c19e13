"""What a trial costs beside its training: a trivial objective, everything recorded.

Each trial reports 20 epochs of 3 metrics. Measured in one run, in turn, medians:

* hpo: ``hpo run`` with 2 workers;
* (a) Optuna on SQLite with MLflow on SQLite, a ``log_metric`` call a metric, one process;
* (b) Ray Tune with OptunaSearch, 2 slots; left out when Ray is not installed.

The cost of a trial is taken from the first trial's begin to the moment everything is recorded,
divided by the trials: the start (imports, a new MLflow store) is left out on every side, and shown
beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from measure import Figure, environment, hpo_run, interleaved, report, say

EPOCHS = 20

STUDY = """
study: overhead
trainer: trivial:train
train: {epochs: 20}
search:
  train.lr:           {low: 1e-4, high: 1.0, log: true}
  train.weight_decay: {low: 1e-6, high: 1e-2, log: true}
  train.batch_size:   [16, 32, 64]
  train.momentum:     {low: 0.5, high: 0.99}
objective: {metric: val/accuracy, goal: maximize}
sampler: tpe
workers: 2
device: cpu
"""

TRAINER = """
def train(trial):
    p = trial.params["train"]
    for epoch in range(1, p["epochs"] + 1):
        loss = (p["lr"] - 0.03) ** 2 + p["weight_decay"] + 1 / epoch
        trial.report(
            epoch, {"train/loss": loss, "val/loss": loss * 1.1, "val/accuracy": 1 / (1 + loss)}
        )
"""

SUGGEST = """
def suggest(trial):
    return {
        "lr": trial.suggest_float("lr", 1e-4, 1.0, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64]),
        "momentum": trial.suggest_float("momentum", 0.5, 0.99),
    }

def metrics(p, epoch):
    loss = (p["lr"] - 0.03) ** 2 + p["weight_decay"] + 1 / epoch
    return {"train/loss": loss, "val/loss": loss * 1.1, "val/accuracy": 1 / (1 + loss)}
"""

PLAIN = (
    SUGGEST
    + """
import sys, time, mlflow, optuna
optuna.logging.set_verbosity(optuna.logging.WARNING)
folder, trials = sys.argv[1], int(sys.argv[2])
mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
mlflow.set_experiment("plain")
study = optuna.create_study(
    storage=f"sqlite:///{folder}/optuna.db", study_name="plain", direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=0),
)

def objective(trial):
    p = suggest(trial)
    best = 0.0
    with mlflow.start_run():
        mlflow.log_params(p)
        for epoch in range(1, 21):
            m = metrics(p, epoch)
            for name, value in m.items():
                mlflow.log_metric(name, value, step=epoch)
            trial.report(m["val/accuracy"], epoch)
            best = max(best, m["val/accuracy"])
    return best

began = time.perf_counter()
study.optimize(objective, n_trials=trials)
print(time.perf_counter() - began)
"""
)

RAY = (
    SUGGEST
    + """
import sys, time, ray, tempfile
from ray import tune
from ray.tune.search.optuna import OptunaSearch
trials = int(sys.argv[2])
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

def objective(config):
    for epoch in range(1, 21):
        tune.report(metrics(config, epoch))

tuner = tune.Tuner(
    objective,
    param_space={
        "lr": tune.loguniform(1e-4, 1.0), "weight_decay": tune.loguniform(1e-6, 1e-2),
        "batch_size": tune.choice([16, 32, 64]), "momentum": tune.uniform(0.5, 0.99),
    },
    tune_config=tune.TuneConfig(
        search_alg=OptunaSearch(metric="val/accuracy", mode="max"), num_samples=trials,
        metric="val/accuracy", mode="max", max_concurrent_trials=2,
    ),
    run_config=tune.RunConfig(storage_path=sys.argv[1], verbose=0),
)
began = time.perf_counter()
tuner.fit()
print(time.perf_counter() - began, file=sys.stdout)
"""
)


def script(source: str, trials: int) -> float:
    """Seconds a trial of a comparison script, its imports left out."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "script.py"
        file.write_text(textwrap.dedent(source))
        done = subprocess.run(
            [sys.executable, str(file), folder, str(trials)],
            capture_output=True,
            text=True,
            env=environment(),
            check=True,
        )
        return float(done.stdout.split()[-1]) / trials


class Hpo:
    """Runs the study and keeps the peak memory of its processes.

    Args:
        more: Lines of the study file.
    """

    def __init__(self, more: str = "") -> None:
        self._study = STUDY + more
        self.peaks_mb: dict[str, float] = {}
        self.startup_s = 0.0

    def __call__(self, trials: int, memory: bool = False) -> float:
        """Seconds a trial, from the first trial's begin until all is in MLflow."""
        from hpo.tracking import outbox

        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            (home / "trivial.py").write_text(TRAINER)
            (home / "study.yaml").write_text(self._study)
            one = ("--set", "study=store", "--set", "budget.trials=1")
            hpo_run(
                home / "study.yaml", home, *one
            )  # makes the store, as (a) does before it starts
            began_s = time.time()
            count = ("--set", f"budget.trials={trials}")
            self.peaks_mb = hpo_run(home / "study.yaml", home, *count, memory=memory)
            ended_s = time.time()
            records = [r for r, _ in outbox.read(home / "studies/overhead/outbox.log")]
            first_s = next(r["time_ms"] for r in records if r["kind"] == "trial") / 1e3
            ended = sum(r["kind"] == "end" for r in records)
            epochs = sum(r["kind"] == "epoch" for r in records)
            assert (ended, epochs) == (trials, trials * EPOCHS), (ended, epochs)
            self._check_mlflow(home, trials)
            self.startup_s = first_s - began_s
            return (ended_s - first_s) / trials

    @staticmethod
    def _check_mlflow(home: Path, trials: int) -> None:
        """Every metric of every epoch is in MLflow."""
        import sqlite3

        with sqlite3.connect(home / "mlruns/mlflow.db") as store:
            (rows,) = store.execute(
                "select count(*) from metrics join runs using (run_uuid) "
                "join experiments using (experiment_id) where experiments.name = 'overhead' "
                "and key in ('train/loss', 'val/loss', 'val/accuracy')"
            ).fetchone()
        assert rows == trials * EPOCHS * 3, f"{rows} of {trials * EPOCHS * 3} metrics in MLflow"


def torch_alone_mb() -> float:
    """The same of a process that has imported torch."""
    code = (
        "import psutil, torch; memory = psutil.Process().memory_info();"
        "print((memory.rss - memory.shared) / 1e6)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer trials, under a minute")
    quick = parser.parse_args().quick
    rounds, trials, many, plain_trials = (1, 100, 400, 30) if quick else (3, 200, 2000, 100)

    hpo = Hpo()
    say(f"hpo and Optuna + MLflow in turn, {rounds} round(s) …")
    ours_s, plain_s = interleaved(rounds, lambda: hpo(trials), lambda: script(PLAIN, plain_trials))
    say(f"hpo with {many} trials …")
    many_s = hpo(many, memory=True)
    rows = [
        (f"hpo, {trials} trials", f"{ours_s * 1e3:.1f} ms a trial"),
        (f"hpo, {many} trials", f"{many_s * 1e3:.1f} ms a trial"),
        ("Optuna + MLflow on SQLite", f"{plain_s * 1e3:.1f} ms a trial"),
        ("hpo: start to first trial", f"{hpo.startup_s:.1f} s"),
        ("orchestrator, peak", f"{hpo.peaks_mb['hpo.cli']:.0f} MB"),
        ("worker, peak", f"{hpo.peaks_mb['hpo.worker']:.0f} MB"),
        ("MLflow shipper, peak", f"{hpo.peaks_mb['hpo.tracking.mlflow']:.0f} MB"),
    ]
    figures = [
        Figure("per trial, against Optuna + MLflow", ours_s / plain_s, 1 / 10),
        Figure(f"{many} trials against {trials}, per trial", many_s / ours_s, 1.5),
        Figure("worker beyond torch", hpo.peaks_mb["hpo.worker"] - torch_alone_mb(), 150, "MB"),
        Figure(f"orchestrator at {many} trials", hpo.peaks_mb["hpo.cli"], 400, "MB"),
    ]
    if importlib.util.find_spec("ray") and not quick:
        say("Ray Tune …")
        ray_s = script(RAY, plain_trials)
        rows.append(("Ray Tune + OptunaSearch", f"{ray_s * 1e3:.1f} ms a trial"))
        figures.append(Figure("per trial, against Ray Tune", ours_s / ray_s, 1 / 20))
    report("overhead", rows, figures)


if __name__ == "__main__":
    main()
