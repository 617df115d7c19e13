"""Studies of fast trials under kills at random, run again until they are done; then compared.

``python tests/campaign/kills.py 1000 --seed 1``: so many kills; ``… points`` kills at each of
`hpo.fault_points` instead, when it is passed for the first time and at a later one. Ends with
status 1 at the first violation, says what differed and with which seed, and keeps the folder.

Of each study: which it is, what is killed, and after how many more epochs and milliseconds, are
drawn from its seed. Where in the code a kill falls is up to the machine.

With ``--ray`` the studies are on a Ray cluster of several nodes and in a PostgreSQL server, which
are killed, too; their processes start as users start them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from campaign import on_ray  # noqa: E402
from campaign.forked import Forked, adopt_orphans  # noqa: E402
from scripted import make_scripted  # noqa: E402

from hpo.fault_points import POINTS  # noqa: E402

TRAINER = '''
import os, signal, time

import hpo.rounds

# A checkpoint after each epoch: else epochs this short have none.
hpo.rounds.CHECKPOINT_AFTER_S, hpo.rounds.CHECKPOINT_SHARE = 0.0, float("inf")

def train(trial):
    """As `workbench.TRAINER`; and each epoch that was trained is noted."""
    options = trial.params["train"]
    state = trial.resume()
    quality = 0.0 if state is None else state["quality"]
    trained = os.open(options["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for epoch in range(1 if state is None else state["epoch"] + 1, options["epochs"] + 1):
        time.sleep(options["seconds"])
        quality += (1 - (options["x"] - 0.3) ** 2 - quality) / (1 + epoch % 3)
        die = options.get("die")
        if die and (trial.number, epoch) == (2, 3) and not os.path.exists(die):
            open(die, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(trained, f"{trial.number} {epoch}\\n".encode())
        trial.save({"epoch": epoch, "quality": quality})
        trial.report(epoch, {"quality": quality, "cost": options["x"] + 1 / epoch})
    os.close(trained)
'''
IN_TURN = """
trainer: noted:train
train: {epochs: 6, seconds: 0.01, log: LOG}
search:
  train.x: {low: 0.0, high: 1.0}
objective: {metric: quality, goal: maximize}
budget: {trials: 12}
"""
IN_LANES = """
trainer: tabular
data: {source: table.csv, target: yFOLDS}
model: {name: mlp, hidden: [8]}
train: {epochs: 6, batch_size: 4}
search:
  train.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  train.weight_decay: {low: 1.0e-6, high: 1.0e-2, log: true}
lanes: 4
budget: {trials: 12}
tracking: {examples: 0}
"""
COMMON = "device: cpu\nretries: 100\n"
HERE = "executor: processes\n"
KILLS = {"worker": 45, "orchestrator": 30, "all": 15, "shipper": 5, "pause": 5}  # of a hundred


@dataclass(frozen=True)
class Kind:
    """A kind of study.

    Attributes:
        repeats: Whether what comes out does not depend on what was killed: it then equals what
            comes out of a study left alone.
    """

    name: str
    text: str
    repeats: bool
    workers: int = 1


# After which it is a fault that nothing happens. On Ray, on a machine full of other work, a minute
# was too short once.
PATIENCE_S = 180
MEDIAN = "pruner: {name: median, n_startup_trials: 3, n_warmup_steps: 1}\n"
IN_SQLITE = "storage: sqlite:///DATABASE\n"  # what Optuna is told lasts at once
DYING = Kind(
    "in turn, with a trial that kills its worker",
    IN_TURN.replace("LOG", "LOG, die: DIED") + "sampler: random\n" + MEDIAN + IN_SQLITE,
    True,
)
IN_PAUSES = IN_TURN.replace("12}", "12, epochs: 1000}")
PAUSES = "strategy: {name: freeze-thaw, max_paused: 3}\n"
PAUSING = Kind(
    "in turn, paused, with a trial that kills its worker",
    IN_PAUSES.replace("LOG", "LOG, die: DIED") + PAUSES,
    True,
)
OF_PAUSES = ("paused", "decided", "pauses-recorded", "made-room", "best-kept")
ONCE = ("study-recorded", "study-ended", "study-run-made", "loaded", "worker-lost")  # in a process


def kinds() -> list[Kind]:
    lanes = IN_LANES.replace("FOLDS", "")
    in_pauses = lanes.replace("12}", "12, epochs: 1000}")
    folds = IN_LANES.replace("FOLDS", ", folds: 3").replace("epochs: 6", "epochs: 3")
    return [
        Kind("in turn", IN_TURN + "sampler: random\n", True),
        Kind("in turn, paused", IN_PAUSES + PAUSES, True),
        Kind("in turn, TPE, pruned", IN_TURN + "sampler: tpe\n" + MEDIAN, True),
        Kind("in lanes, two workers, paused", in_pauses + PAUSES, False, 2),
        Kind(
            "in turn, TPE, pruned, in SQLite",
            IN_TURN + "sampler: tpe\n" + MEDIAN + IN_SQLITE,
            True,
        ),
        Kind("in turn, three workers", IN_TURN + "sampler: random\n", True, workers=3),
        Kind("in turn, three workers, TPE, pruned", IN_TURN + "sampler: tpe\n" + MEDIAN, False, 3),
        Kind("in lanes", lanes + "sampler: random\n", True),
        Kind("in lanes, two workers, pruned", lanes + "sampler: tpe\n" + MEDIAN, False, 2),
        Kind("in lanes, folds", folds + "sampler: random\n", True),
        Kind("in turn, three workers, paused", IN_PAUSES + PAUSES, False, 3),
        PAUSING,
    ]


def kinds_on_ray() -> list[Kind]:
    in_turn = IN_TURN.replace("0.01", "0.1") + "sampler: random\n"
    lanes = IN_LANES.replace("FOLDS", "")
    return [
        Kind("in turn, on Ray", in_turn, True),
        Kind("in turn, two workers, on Ray", in_turn, True, workers=2),
        Kind("in turn, TPE, pruned, on Ray", in_turn.replace("random", "tpe") + MEDIAN, True),
        Kind("in lanes, two workers, on Ray", lanes + "sampler: tpe\n" + MEDIAN, False, 2),
        Kind("in turn, paused, on Ray", IN_PAUSES.replace("0.01", "0.1") + PAUSES, True),
    ]


@dataclass
class Totals:
    kills: Counter[str] = field(default_factory=Counter)
    pauses: int = 0
    studies: Counter[str] = field(default_factory=Counter)
    again: list[float] = field(default_factory=list)  # epochs trained again a kill, by study
    recovery_s: list[float] = field(default_factory=list)


class Violation(Exception):
    """A promise was broken."""


class Campaign:
    """Studies in one folder; on a Ray cluster, or on this machine alone."""

    def __init__(self, folder: Path, ray: on_ray.OnRay | None = None) -> None:
        from hpo.paths import Home

        self.folder, self.ray = folder, ray
        self.kinds = kinds() if ray is None else kinds_on_ray()
        self.home = Home(folder)
        self.totals = Totals()
        self.undisturbed: dict[str, Any] = {}
        (folder / "noted.py").write_text(TRAINER)
        draw = random.Random(0)
        rows = [[draw.gauss(0, 1) for _ in range(4)] for _ in range(300)]
        lines = [",".join([*(f"{x:.4f}" for x in row), "ab"[row[0] > row[1]]]) for row in rows]
        (folder / "table.csv").write_text("\n".join(["p,q,r,s,y", *lines]) + "\n")

    def at_random(self, seed: int) -> None:
        """One study, killed at random until it is done."""
        kind = self.kinds[seed % len(self.kinds)]
        self._know(kind)
        study = Study(self, kind, f"seed-{seed}")
        study.disturb(random.Random(seed))
        self._check(study)

    def at(self, point: str, number: int) -> None:
        """One study, killed at a point of the code, in which a trial kills its worker, too."""
        kind = PAUSING if point in OF_PAUSES else DYING
        self._know(kind)
        study = Study(self, kind, f"{point}-{number}")
        study.kill_at(point, number)
        self._check(study)

    def passes(self, point: str) -> Sequence[int]:
        """At which passes of a point to kill: the first, and a later one."""
        if point in ONCE:
            return (1,)
        if point == "end-recorded":
            return 1, 12  # that of the last trial: nothing is left to be trained
        if point != "epoch-told":
            return 1, 2
        self._know(DYING)  # there: when the pruner has said that the trial is to end
        ends, curves = (self.undisturbed[DYING.name][part] for part in ("ends", "curves"))
        pruned = min(number for number, end in ends.items() if end[0] == "pruned")
        return 1, sum(1 for number, _ in curves if number <= pruned)

    def _know(self, kind: Kind) -> None:
        """Find out what comes out of a kind of study that is left alone."""
        if kind.repeats and kind.name not in self.undisturbed:
            alone = Study(self, kind, f"alone-{len(self.undisturbed)}")
            alone.finish(alone.start())
            self.undisturbed[kind.name] = alone.outcome()

    def _check(self, study: Study) -> None:
        study.check()
        self.totals.studies[study.kind.name] += 1
        shutil.rmtree(study.paths.root)


class Study:
    """A study of the campaign, and its processes."""

    def __init__(self, campaign: Campaign, kind: Kind, name: str) -> None:
        self.campaign, self.kind, self.name = campaign, kind, name
        self.paths = campaign.home.study(name)
        self.file = campaign.folder / f"{name}.yaml"
        self.trained = campaign.folder / f"{name}.trained"
        self.output = campaign.folder / f"{name}.out"
        died = campaign.folder / f"{name}.trial-died"
        self.database = campaign.folder / "optuna.db"
        text = kind.text.replace("LOG", str(self.trained)).replace("DIED", str(died))
        text = text.replace("DATABASE", str(self.database))
        where = HERE if campaign.ray is None else campaign.ray.settings
        self.file.write_text(f"study: {name}\nworkers: {kind.workers}\n{COMMON}{where}{text}")
        self.kills = 0
        self.acknowledged: dict[tuple[int, int], Mapping[str, float]] = {}

    # -- running it

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hpo.cli", "run", str(self.file)]
        started = Forked if self.campaign.ray is None else subprocess.Popen
        with open(self.output, "ab") as output:
            return started(
                [*command, "--home", str(self.campaign.folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | environment,
                start_new_session=True,
            )

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        if process.wait(120) != 0:
            raise Violation(f"it ends with status {process.returncode}: {self._last_output()}")

    def kill_at(self, point: str, number: int) -> None:
        """Kill what passes a point for the `number`-th time; then let the study be finished."""
        died = self.campaign.folder / f"{self.name}.died"
        process = self.start(HPO_FAULT=f"{point}:{number}:{died}")
        if process.wait(120) == -signal.SIGKILL:
            process = self.start()
        self.finish(process)
        if not died.exists():
            raise Violation("nobody came past that point")
        self.kills += 2  # and the trial that kills its worker
        self.campaign.totals.kills[point] += 1

    def disturb(self, draw: random.Random) -> None:
        """Kill as `draw` says, and start it again, until it has had its kills."""
        ray = self.campaign.ray
        weights = KILLS if ray is None else ray.kills
        process = self.start()
        for _ in range(draw.randint(4, 12)):
            (wanted,) = draw.choices(list(weights), list(weights.values()))
            epochs = self._count() + draw.choice([0, 0, 1, 2, 3, 5])
            late_s, pause_s = draw.random() * 0.06, draw.random() * 0.5
            if not self._wait(process, epochs):
                break
            time.sleep(late_s)
            which = draw.random()
            victims = self._victims(process, wanted, which)
            is_of_ray = wanted in ("node", "postgresql")
            if not (victims or is_of_ray) or process.poll() is not None:
                continue
            self._note_acknowledged()
            if wanted == "pause":
                for victim in victims:
                    victim.suspend()
                time.sleep(pause_s)
                for victim in victims:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        victim.resume()
                self.campaign.totals.pauses += 1
                continue
            before, killed_s = self._count(), time.monotonic()
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
            if ray is not None and wanted == "node":
                ray.replace_a_node(which)
            elif ray is not None and wanted == "postgresql":
                ray.restart_postgresql(4 * pause_s)
            self.kills += 1
            self.campaign.totals.kills[wanted] += 1
            if wanted in ("orchestrator", "all"):
                process.wait(10)
                process = self.start()
            if wanted != "shipper" and self._wait(process, before + 1):
                self.campaign.totals.recovery_s.append(time.monotonic() - killed_s)
        self.finish(process)

    def _wait(self, process: subprocess.Popen[bytes], epochs: int) -> bool:
        """Wait until so many epochs are on record; False when the study ended before."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self._count() < epochs:
            if process.poll() is not None:
                return False
            if time.monotonic() > deadline_s:
                raise Violation(f"nothing happens for {PATIENCE_S} s: {self._last_output()}")
            time.sleep(0.003)
        return True

    def _victims(
        self, process: subprocess.Popen[bytes], wanted: str, which: float
    ) -> list[psutil.Process]:
        if wanted in ("node", "postgresql"):
            return []
        if self.campaign.ray is not None:
            return self.campaign.ray.victims(process, wanted, which)
        try:
            orchestrator = psutil.Process(process.pid)
            children = orchestrator.children()
            by_name = {
                "worker": [each for each in children if each.name() == "worker"],
                "shipper": [each for each in children if each.name().startswith("tracking")],
            }
        except psutil.NoSuchProcess:
            return []
        if wanted == "all":
            return [orchestrator, *children]
        if wanted == "orchestrator":
            return [orchestrator]
        found = [orchestrator, *children] if wanted == "pause" else by_name[wanted]
        return [found[int(which * len(found))]] if found else []

    def _records(self, kind: str | None = None) -> list[dict[str, Any]]:
        from hpo.tracking import outbox

        if not self.paths.outbox.is_file():
            return []
        return [r for r, _ in outbox.read(self.paths.outbox) if kind in (None, r["kind"])]

    def _count(self) -> int:
        """Epochs on record."""
        try:
            return self.paths.outbox.read_bytes().count(b'{"kind":"epoch"')
        except FileNotFoundError:
            return 0

    def _note_acknowledged(self) -> None:
        for record in self._records("epoch"):
            self.acknowledged[record["number"], record["epoch"]] = record["metrics"]

    def _last_output(self) -> str:
        return self.output.read_text()[-2000:]

    # -- checking it

    def outcome(self) -> dict[str, Any]:
        """What a repetition must give: params, curves and ends, by trial."""
        params = {r["number"]: r["params"] for r in self._records("trial")}
        curves = {(r["number"], r["epoch"]): r["metrics"] for r in self._records("epoch")}
        ends = {r["number"]: (r["state"], r["values"], r["reason"]) for r in self._records("end")}
        return {"params": params, "curves": curves, "ends": ends}

    def check(self) -> None:
        """Raises `Violation` if anything promised does not hold."""
        self._check_processes()
        self._check_outbox()
        self._check_optuna()
        self._check_mlflow()
        if self.kind.repeats:
            alone, here = self.campaign.undisturbed[self.kind.name], self.outcome()
            for part in alone:
                _equal(f"its {part} and those of the study left alone", here[part], alone[part])
        if self.trained.is_file() and self.kills:
            trained = Counter(self.trained.read_text().split("\n")[:-1])
            again = sum(trained.values()) - len(trained)
            # The epoch that was on its way to the record, and the one begun meanwhile.
            most = 2 * self.kills * self.kind.workers
            self.campaign.totals.again.append(again / self.kills)
            if again > most:
                raise Violation(f"{again} epochs were trained again after {self.kills} kills")

    def _check_processes(self) -> None:
        from hpo import lease

        deadline_s = time.monotonic() + 30  # one feeds MLflow after another
        ray = self.campaign.ray
        while left := _children() if ray is None else ray.left():
            if time.monotonic() > deadline_s:
                raise Violation(f"left running: {left}")
            time.sleep(0.02)
        _equal("the lease's owner", lease.owner(self.paths.lease), None)

    def _check_outbox(self) -> None:
        epochs = self._records("epoch")
        reported = Counter((r["number"], r["epoch"]) for r in epochs)
        _equal("epochs recorded twice", [e for e, times in reported.items() if times > 1], [])
        curves = self.outcome()["curves"]
        for key, metrics in self.acknowledged.items():
            _equal(f"epoch {key} and what was acknowledged", curves.get(key), metrics)
        ends = self._records("end")
        _equal("trials that ended", sorted(r["number"] for r in ends), list(range(12)))
        states = {r["state"] for r in ends} - {"complete", "pruned"}
        _equal("other ends", states, set())
        for end in ends:
            of_trial = sorted(e for n, e in reported if n == end["number"])
            _equal(f"epochs of trial {end['number']}", of_trial, list(range(1, len(of_trial) + 1)))
            epoch = curves[end["number"], end["best_epoch"]]
            _equal("its value", end["values"][0], epoch[_objective(self._records("study")[0])])
        left = list(self.paths.root.glob("trials/*/epoch-*"))
        _equal("checkpoints of trials that are over", left, [])

    def _check_optuna(self) -> None:
        import optuna
        from optuna.storages import JournalStorage, RDBStorage
        from optuna.storages.journal import JournalFileBackend

        if self.campaign.ray is not None:
            storage: Any = RDBStorage(self.campaign.ray.address)
        elif self.paths.journal.exists():
            storage = JournalStorage(JournalFileBackend(str(self.paths.journal)))
        else:
            storage = RDBStorage(f"sqlite:///{self.database}")
        study = optuna.load_study(storage=storage, study_name=self.name)
        in_optuna = {
            t.number: (t.state.name, t.values, t.intermediate_values) for t in study.trials
        }
        if isinstance(storage, RDBStorage):
            # SQLite keeps its locks in memory, too: a process forked while a connection is open
            # takes them for its own, and waits for itself.
            storage.remove_session()
            storage.engine.dispose()
        metric = _objective(self._records("study")[0])
        curves: dict[int, dict[int, float]] = {}
        for record in self._records("epoch"):
            curves.setdefault(record["number"], {})[record["epoch"]] = record["metrics"][metric]
        in_outbox = {
            r["number"]: (r["state"].upper(), r["values"], curves[r["number"]])
            for r in self._records("end")
        }
        _equal("Optuna and the outbox", in_optuna, in_outbox)

    def _check_mlflow(self) -> None:
        from hpo import tracking

        home = self.campaign.home
        shipped = tracking.sync(self.paths, home, home.tracking_uri, verify=True)
        compared = shipped.compared
        if shipped.pending or compared is None or compared.different:
            raise Violation(f"MLflow and the outbox differ: {shipped}")
        _equal("runs in MLflow", compared.runs, 1 + 12)


def _objective(study: Mapping[str, Any]) -> str:
    metric: str = study["objective"][0]["metric"]
    return metric


def _equal(what: str, found: Any, expected: Any) -> None:
    if found == expected:
        return
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [k for k in found | expected if found.get(k) != expected.get(k)][:3]
        found, expected = ({k: each.get(k) for k in keys} for each in (found, expected))
    raise Violation(f"{what}: {found} instead of {expected}")


def _children() -> list[str]:
    """What of this process's family still runs; the dead are buried."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [f"{each.name()} {each.pid}" for each in psutil.Process().children(recursive=True)]


def prepare(scripted: bool) -> None:
    """Import everything that the processes of a study import, and have them forked from here.

    Args:
        scripted: Whether trials pause by a script, which is quick, and not by freeze-thaw.
    """
    from hpo import tracking

    os.environ |= tracking.MLFLOW_SETTINGS
    import torch

    import hpo.cli
    import hpo.executors.processes
    import hpo.launch
    import hpo.orchestrator
    import hpo.rounds
    import hpo.tracking.mlflow
    import hpo.tracking.replica
    import hpo.worker
    import trainers.registry  # noqa: F401

    torch.set_num_threads(1)
    Forked.mains = {
        "hpo.cli": hpo.cli.main,
        "hpo.worker": hpo.worker.main,
        "hpo.tracking.mlflow": hpo.tracking.mlflow.main,
    }
    subprocess.Popen = Forked  # type: ignore[misc]
    if scripted:
        hpo.orchestrator.make_strategy = make_scripted
    # A checkpoint after each epoch: else epochs this short have none.
    hpo.rounds.CHECKPOINT_AFTER_S, hpo.rounds.CHECKPOINT_SHARE = 0.0, float("inf")
    adopt_orphans()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", help="how many, or `points`")
    parser.add_argument("--seed", type=int, default=0, help="of the first study")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most so long")
    parser.add_argument("--once", action="store_true", help="at each point: its first pass only")
    parser.add_argument("--freeze-thaw", action="store_true", help="it decides, and no script")
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster, in PostgreSQL")
    chosen = parser.parse_args()
    if chosen.ray:
        adopt_orphans()
        with on_ray.running() as ray:
            return run(chosen, ray)
    prepare(scripted=not chosen.freeze_thaw)
    return run(chosen, None)


def run(chosen: argparse.Namespace, ray: on_ray.OnRay | None) -> int:
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    campaign, began_s, now = Campaign(folder, ray), time.monotonic(), ""
    try:
        if chosen.kills == "points":
            for point in POINTS:
                for number in campaign.passes(point)[: 1 if chosen.once else None]:
                    now = f"{point}, pass {number}"
                    campaign.at(point, number)
        else:
            for seed in itertools.count(chosen.seed):
                now = f"seed {seed} ({campaign.kinds[seed % len(campaign.kinds)].name})"
                enough = campaign.totals.kills.total() >= int(chosen.kills)
                if enough or time.monotonic() - began_s > chosen.seconds:
                    break
                campaign.at_random(seed)
    except Violation as error:
        print(f"{now}, in {folder}: {error}", file=sys.stderr)
        return 1
    finally:
        print(json.dumps(summary(campaign.totals, time.monotonic() - began_s, now), indent=1))
    shutil.rmtree(folder)
    return 0


def summary(totals: Totals, seconds: float, now: str) -> dict[str, Any]:
    recovery_s = sorted(totals.recovery_s)
    return {
        "kills": totals.kills.total(),
        "of": totals.kills,
        "pauses": totals.pauses,
        "studies": totals.studies,
        "then": now,
        "seconds": round(seconds, 1),
        "again_a_kill": round(statistics.fmean(totals.again), 3) if totals.again else None,
        "recovery_s": {
            "p50": round(statistics.median(recovery_s), 2),
            "p95": round(recovery_s[int(0.95 * len(recovery_s))], 2),
            "max": round(recovery_s[-1], 2),
        }
        if recovery_s
        else None,
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
