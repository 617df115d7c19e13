"""A real study against the script people write today, and the price of recording.

Measured in one run, in turn, medians:

* hpo: ``hpo run`` with 2 workers on the handwritten digits; whole command, start to end;
* plain: a script with Optuna, a DataLoader, scikit-learn's metrics and MLflow, in 2 processes;
  the same model, rows, split, epochs and configurations; whole script, start to end;
* bare: trials of about a second by the same trainer in 2 processes that record nothing; against
  it, ``hpo run`` shows what orchestration and recording cost once both workers are up.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import Figure, environment, hpo_run, interleaved, report, say

STUDY = """
study: real
trainer: image_classifier
data: {source: digits, validation: 0.2, test: 0.2}
model: {name: mlp, hidden: %s}
train: {epochs: %d, optimizer: sgd, momentum: 0.9}
search:
  train.lr: {low: 1e-3, high: 0.3, log: true}
  train.batch_size: [16, 32, 64]
  train.weight_decay: {low: 1e-6, high: 1e-3, log: true}
objective: {metric: val/accuracy, goal: maximize}
sampler: random
pruner: none
workers: 2
device: cpu
budget: {trials: %d}
start_from: %s
"""

PLAIN = """
import json, multiprocessing, sys
from pathlib import Path

def work(folder, name, configurations):
    import mlflow, numpy as np, optuna, torch
    from sklearn.metrics import f1_score, roc_auc_score
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("plain")
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/optuna.db", study_name=name, direction="maximize",
        load_if_exists=True,
    )
    for c in filter(None, configurations):
        study.enqueue_trial({k.removeprefix("train."): v for k, v in c.items()})
    rows = np.load(f"{folder}/rows.npz")
    x, y, train, val = (torch.from_numpy(rows[k]) for k in ("x", "y", "train", "validation"))
    train_set, val_set = TensorDataset(x[train], y[train]), TensorDataset(x[val], y[val])

    def evaluate(model, loader):
        model.eval()
        outputs, targets, loss = [], [], 0.0
        with torch.no_grad():
            for xb, yb in loader:
                out = model(xb)
                loss += torch.nn.functional.cross_entropy(out, yb, reduction="sum").item()
                outputs.append(out.softmax(1)); targets.append(yb)
        p, t = torch.cat(outputs).numpy(), torch.cat(targets).numpy()
        return {
            "loss": loss / len(t), "accuracy": float((p.argmax(1) == t).mean()),
            "f1_macro": f1_score(t, p.argmax(1), average="macro"),
            "f1_weighted": f1_score(t, p.argmax(1), average="weighted"),
            "roc_auc": roc_auc_score(t, p, multi_class="ovr"),
        }

    def objective(trial):
        lr = trial.suggest_float("lr", 1e-3, 0.3, log=True)
        batch_size = trial.suggest_categorical("batch_size", [16, 32, 64])
        weight_decay = trial.suggest_float("weight_decay", 1e-6, 1e-3, log=True)
        torch.manual_seed(trial.number)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        )
        optimizer = torch.optim.SGD(
            model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay
        )
        train_loader = DataLoader(train_set, batch_size=batch_size, shuffle=True)
        train_eval = DataLoader(train_set, batch_size=256)
        val_loader = DataLoader(val_set, batch_size=256)
        best = 0.0
        with mlflow.start_run():
            mlflow.log_params(trial.params)
            for epoch in range(1, EPOCHS + 1):
                model.train()
                for xb, yb in train_loader:
                    optimizer.zero_grad()
                    loss = torch.nn.functional.cross_entropy(model(xb), yb)
                    loss.backward()
                    optimizer.step()
                metrics = {f"train/{k}": v for k, v in evaluate(model, train_eval).items()}
                metrics |= {f"val/{k}": v for k, v in evaluate(model, val_loader).items()}
                mlflow.log_metrics(metrics, step=epoch)
                best = max(best, metrics["val/accuracy"])
        return best

    study.optimize(objective, n_trials=len(configurations))

if __name__ == "__main__":
    import mlflow, optuna
    folder, configurations = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("plain")  # two processes that make a new store at once fail
    optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db")  # likewise
    context = multiprocessing.get_context("spawn")
    # Given configurations have a study each: two processes that share one take the same enqueued
    # trial now and then.
    names = ["plain-0", "plain-1"] if configurations[0] else ["plain", "plain"]
    workers = [
        context.Process(target=work, args=(folder, name, configurations[i::2]))
        for i, name in enumerate(names)
    ]
    for w in workers: w.start()
    for w in workers: w.join()
    assert all(w.exitcode == 0 for w in workers)
    studies = [optuna.load_study(storage=f"sqlite:///{folder}/optuna.db", study_name=n)
               for n in dict.fromkeys(names)]
    print(json.dumps([t.value for study in studies for t in study.trials]))
"""

BARE = '''
import json, multiprocessing, sys, time
from pathlib import Path

class Unrecorded:
    """Trains as in hpo; what it reports goes nowhere."""
    def __init__(self, number, params, dataset):
        self.number, self.params, self.data = number, params, dataset
        self.device, self.seed = "cpu", number
    def report(self, epoch, metrics, predictions=None): ...
    def save(self, state): ...
    def resume(self): return None

def start(shared):
    global dataset, base
    import torch
    from trainers.data import load
    import trainers.image
    torch.set_num_threads(1)
    base = shared
    dataset = load(base["data"], Path(sys.argv[1]))

def train(item):
    import trainers.image
    number, configuration = item
    params = json.loads(json.dumps(base))
    for path, value in configuration.items():
        section, key = path.split(".")
        params[section][key] = value
    trainers.image.train(Unrecorded(number, params, dataset))

if __name__ == "__main__":
    order = json.loads(Path(sys.argv[2]).read_text())
    with multiprocessing.get_context("spawn").Pool(2, start, (order["base"],)) as pool:
        pool.map(train, [(0, order["configurations"][0])] * 4, chunksize=1)  # both are up
        began = time.perf_counter()
        pool.map(train, list(enumerate(order["configurations"])), chunksize=1)
        print(time.perf_counter() - began)
'''


def configurations(count: int) -> list[dict[str, Any]]:
    """The same for every side."""
    draw = random.Random(0)
    return [
        {
            "train.lr": 10 ** draw.uniform(-2.5, -0.8),
            "train.batch_size": draw.choice([16, 32, 64]),
            "train.weight_decay": 10 ** draw.uniform(-6, -3),
        }
        for _ in range(count)
    ]


def save_rows(file: Path) -> None:
    """The digits as hpo's trainer sees them, split and standardized, for the plain script."""
    import numpy as np
    import torch

    from trainers.data import load
    from trainers.options import ImageData

    dataset = load(ImageData(source="digits").model_dump(), file.parent)
    x, y = dataset.arrays(torch.arange(len(dataset.target)))
    np.savez(
        file,
        x=x.reshape(len(x), -1),
        y=y,
        train=dataset.train.numpy(),
        validation=dataset.validation.numpy(),
    )


class Hpo:
    """`hpo run` over given configurations; keeps the accuracies and the time in training."""

    def __init__(self, hidden: list[int], epochs: int, configs: list[dict[str, Any]]) -> None:
        self.study = STUDY % (hidden, epochs, len(configs), json.dumps(configs))
        self.count = len(configs)
        self.accuracies: list[float] = []
        self.after_start_s: list[float] = []

    def __call__(self) -> float:
        """Seconds of the whole command."""
        from hpo import results
        from hpo.tracking import outbox

        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            (home / "study.yaml").write_text(self.study)
            one = ("--set", "study=store", "--set", "budget.trials=1", "--set", "train.epochs=1")
            hpo_run(home / "study.yaml", home, *one)  # makes MLflow's store, as a first study does
            seconds = hpo_run(home / "study.yaml", home)["seconds"]
            table = results.trials("real", home)
            assert len(table) == self.count
            assert (table["state"] == "complete").all()
            self.accuracies = list(table["value"])
            records = [r for r, _ in outbox.read(home / "studies/real/outbox.log")]
            self.after_start_s.append(both_up_s(records))
            return seconds


def both_up_s(records: list[dict[str, Any]]) -> float:
    """Seconds that the trials took two workers; while one was not up yet, time counts half."""
    begins: dict[int, int] = {}
    for record in records:
        if record["kind"] == "trial":
            begins.setdefault(record["worker"], record["time_ms"])
    first, second = sorted(begins.values())
    last = max(record["time_ms"] for record in records if record["kind"] == "end")
    return (last - second + (second - first) / 2) / 1e3


class Plain:
    """The script people write today.

    Args:
        configs: What is trained; where they are empty, Optuna's TPE chooses.
    """

    def __init__(self, epochs: int, configs: list[dict[str, Any]]) -> None:
        self.source = PLAIN.replace("EPOCHS", str(epochs))
        self.configs = configs
        self.accuracies: list[float] = []

    def __call__(self) -> float:
        """Seconds of the whole script."""
        import time

        with tempfile.TemporaryDirectory() as folder:
            file, listed = Path(folder) / "plain.py", Path(folder) / "configurations.json"
            file.write_text(self.source)
            listed.write_text(json.dumps(self.configs))
            save_rows(Path(folder) / "rows.npz")
            began = time.perf_counter()
            done = run_script(file, folder, listed)
            self.accuracies = json.loads(done.splitlines()[-1])
            return time.perf_counter() - began


def run_script(file: Path, folder: str, listed: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(file), folder, str(listed)],
        capture_output=True,
        text=True,
        env=environment(),
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def bare(hpo: Hpo, configs: list[dict[str, Any]]) -> float:
    """Seconds in training, without start, of the same trials in two processes that only train."""
    from hpo import spec

    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study.yaml"
        study.write_text(hpo.study)
        order = Path(folder) / "order.json"
        base = spec.load(study).config({})
        order.write_text(json.dumps({"base": base, "configurations": configs}))
        file = Path(folder) / "bare.py"
        file.write_text(BARE)
        return float(run_script(file, folder, order).split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer trials, about a minute")
    quick = parser.parse_args().quick
    rounds, count, long_count = (1, 20, 12) if quick else (3, 100, 40)

    configs = configurations(count)
    hpo, plain = Hpo([64], 20, configs), Plain(20, configs)
    say(f"{count} trials, hpo and the plain script in turn, {rounds} round(s) …")
    ours_s, plain_s = interleaved(rounds, hpo, plain)

    long_configs = configurations(long_count)
    recorded = Hpo([512, 512], 30, long_configs)
    say(f"{long_count} trials of about a second, recorded and bare in turn, {rounds} round(s) …")
    _, bare_s = interleaved(rounds, recorded, lambda: bare(recorded, long_configs))
    recorded_s = statistics.median(recorded.after_start_s)

    accuracies = [statistics.mean(side.accuracies) for side in (hpo, plain)]
    report(
        "real",
        [
            (f"hpo, {count} trials, whole command", f"{ours_s:.1f} s"),
            (f"plain script, {count} trials, whole", f"{plain_s:.1f} s"),
            ("mean best validation accuracy, hpo", f"{accuracies[0]:.4f}"),
            ("mean best validation accuracy, plain", f"{accuracies[1]:.4f}"),
            (f"recorded, {long_count} long trials, workers up", f"{recorded_s:.1f} s"),
            (f"bare, {long_count} long trials, workers up", f"{bare_s:.1f} s"),
        ],
        [
            Figure("wall time, against the plain script", ours_s / plain_s, 1 / 4),
            Figure("accuracy lost", accuracies[1] - accuracies[0], 0.01, ""),
            Figure("recording on against off", recorded_s / bare_s, 1.03),
        ],
    )


if __name__ == "__main__":
    main()
