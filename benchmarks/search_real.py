"""How much training a search takes: `strategy: freeze-thaw` against TPE with Hyperband, for real.

For each data set and seed two studies of the same space and the same budget of epochs are run with
``hpo run``, everything recorded: the digits and an mlp, and with ``--photos FOLDER`` (CLASS/*.png,
or train/CLASS/*.png and test/CLASS/*.png) photos and a small convolutional network. What counts is
when freeze-thaw has a whole trial that is as good on the validation rows as the best one of the
other search at its end, as a share of the epochs and of the wall time that this took; with
``--metric loss`` as good by the loss, which tells more of few rows. The winners are confirmed on
the test rows.

    python benchmarks/search_real.py --photos cifar10-8k --device cuda --home /tmp/search_real
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import HPO, Figure, environment, hpo_run, report, say

STUDY = """
study: {name}
seed: {seed}
trainer: image_classifier
data: {data}
model: {model}
train: {{epochs: {epochs}, optimizer: sgd, nesterov: true, schedule: cosine}}
search:
  train.lr: {{low: 1e-3, high: 1.0, log: true}}
  train.batch_size: [32, 64, 128]
  train.momentum: {{low: 0.5, high: 0.99}}
  train.weight_decay: {{low: 1e-6, high: 1e-2, log: true}}
  train.label_smoothing: {{low: 0.0, high: 0.2}}
  model.dropout: {{low: 0.0, high: 0.6}}
objective: {{metric: val/{metric}, goal: {goal}}}
{method}
budget: {{epochs: {budget}}}
workers: 1
lanes: off
device: {device}
"""
METHODS = {
    "tpe-hyperband": "sampler: tpe\npruner: hyperband",
    "freeze-thaw": "strategy: freeze-thaw",
}
CONFIRMING = ("--top", "1", "--seeds", "2")


@dataclass(frozen=True)
class Task:
    """One study.

    Attributes:
        of: ``digits`` or ``photos``.
        study: The text of its file.
        sign: Of its objective: -1 where less is better.
    """

    of: str
    method: str
    seed: int
    study: str
    sign: int

    @property
    def name(self) -> str:
        return f"{self.of}-{self.method}-{self.seed}"


@dataclass(frozen=True)
class Progress:
    """The whole trials of a study in the order in which they ended, and its end.

    Attributes:
        ends: (epochs so far, seconds so far, score), of each whole trial; more is better.
        epochs, seconds: Of the study.
        test: The winner's accuracy on the test rows, with its 95 % interval; None without any.
    """

    ends: list[tuple[int, float, float]]
    epochs: int
    seconds: float
    test: tuple[float, float, float] | None

    @property
    def best(self) -> float:
        return max(score for _, _, score in self.ends)

    def until(self, score: float) -> tuple[float, float]:
        """Epochs and seconds until a whole trial was as good; infinite for never."""
        return next(
            (
                (float(epochs), seconds)
                for epochs, seconds, reached in self.ends
                if reached >= score
            ),
            (float("inf"), float("inf")),
        )


def searched(task: Task, home: Path) -> Progress:
    """Run a study, unless it was run to its end, confirm its winner, and read both back."""
    file = home / f"{task.name}.yaml"
    file.write_text(task.study)
    say(f"{task.name} …")
    hpo_run(file, home)
    confirmed = subprocess.run(
        [*HPO, "confirm", task.name, "--home", str(home), *CONFIRMING],
        capture_output=True,
        text=True,
        env=environment(),
    )
    if confirmed.returncode != 0:
        raise RuntimeError(confirmed.stderr[-2000:])
    return read(task.name, home, task.sign)


def read(study: str, home: Path, sign: int) -> Progress:
    """What a study's record says.

    Args:
        sign: -1 where less is better.
    """
    from hpo import results
    from hpo.tracking import outbox

    ends: list[tuple[int, float, float]] = []
    epochs = 0
    began_ms = newest_ms = None
    for record, _ in outbox.read(home / "studies" / study / "outbox.log"):
        if record["kind"] == "study" and began_ms is None:
            began_ms = record["time_ms"]
        if record["kind"] not in ("epoch", "end"):
            continue
        assert began_ms is not None
        newest_ms = record["time_ms"]
        epochs += record["kind"] == "epoch"
        if record["kind"] == "end" and record["state"] == "complete":
            ends.append((epochs, (newest_ms - began_ms) / 1e3, sign * record["values"][0]))
    assert began_ms is not None
    assert newest_ms is not None
    confirmation: dict[str, Any] = results.confirmation(study, home) or {}
    test = confirmation.get("test")
    winner = test["runs"][f"trial {confirmation['winner']}"]["accuracy"] if test else None
    return Progress(
        ends,
        epochs,
        (newest_ms - began_ms) / 1e3,
        (winner["value"], winner["low"], winner["high"]) if winner else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, help="a folder of photos by their classes")
    parser.add_argument("--without-digits", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=27, help="of a whole trial")
    parser.add_argument("--trials", type=int, default=30, help="the budget, in whole trials")
    parser.add_argument("--metric", choices=("accuracy", "loss"), default="accuracy")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="studies at a time")
    parser.add_argument("--home", type=Path, help="keep the studies in this folder")
    args = parser.parse_args()
    places: dict[str, tuple[str, str]] = {}
    if not args.without_digits:
        places["digits"] = "{source: digits}", "{name: mlp, hidden: [64]}"
    if args.photos:
        source = f"{{source: '{args.photos.absolute()}'}}"
        places["photos"] = source, "{name: cnn, channels: [16, 32, 64]}"
    tasks = [
        Task(
            of,
            method,
            seed,
            STUDY.format(
                name=f"{of}-{method}-{seed}",
                seed=seed,
                data=data,
                model=model,
                epochs=args.epochs,
                method=METHODS[method],
                budget=args.trials * args.epochs,
                device=args.device,
                metric=args.metric,
                goal="maximize" if args.metric == "accuracy" else "minimize",
            ),
            1 if args.metric == "accuracy" else -1,
        )
        for of, (data, model) in places.items()
        for seed in range(args.seeds)
        for method in METHODS
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        home = args.home or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        found = dict(
            zip(
                ((task.of, task.method, task.seed) for task in tasks),
                pool.map(lambda task: searched(task, home), tasks),
                strict=True,
            )
        )
    rows: list[tuple[str, str]] = []
    figures: list[Figure] = []
    for of in places:
        figures += compared(of, found, args.seeds, rows)
    report("search_real", rows, figures)


def compared(
    of: str,
    found: dict[tuple[str, str, int], Progress],
    seeds: int,
    rows: list[tuple[str, str]],
) -> list[Figure]:
    """The figures of one data set, medians over seeds; adds what they were made of to `rows`."""
    shares: list[tuple[float, float]] = []
    lost: list[float] = []
    for seed in range(seeds):
        theirs, ours = (found[of, method, seed] for method in METHODS)
        epochs, seconds = ours.until(theirs.best)
        shares.append((epochs / theirs.epochs, seconds / theirs.seconds))
        for method, side in zip(METHODS, (theirs, ours), strict=True):
            reached = (
                "never"
                if side.until(theirs.best)[0] == float("inf")
                else ("after {:.0f} epochs, {:.1f} s".format(*side.until(theirs.best)))
            )
            test = "" if side.test is None else "; test {:.4f} ({:.4f}-{:.4f})".format(*side.test)
            rows.append(
                (
                    f"{of}, seed {seed}, {method}",
                    f"{side.epochs} epochs, {side.seconds:.1f} s, best {abs(side.best):.4f}; "
                    f"{abs(theirs.best):.4f} {reached}{test}",
                )
            )
        if ours.test and theirs.test:
            lost.append(theirs.test[0] - ours.test[2])
    figures = [
        Figure(f"{of}: epochs", statistics.median(share for share, _ in shares), 1 / 3),
        Figure(f"{of}: wall time", statistics.median(share for _, share in shares), 1 / 3),
    ]
    if lost:
        name = f"{of}: test accuracy of TPE + Hyperband above freeze-thaw's interval"
        figures.append(Figure(name, statistics.median(lost), 0.0, ""))
    return figures


if __name__ == "__main__":
    main()
