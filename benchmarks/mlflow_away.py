"""What training pays when MLflow is away, slow or failing: the same study with each, in turn.

One worker trains a trainer that sleeps, so that any time in which it waits for hpo shows. Training
is what passes between the first trial's begin and the last one's end. MLflow is a real server;
between it and hpo is a proxy that does what it is told. Afterwards the proxy only passes on, and
``hpo sync --verify`` has to find every value equal.

``--minutes 10`` does it once instead: the server is stopped for so long in the middle of a study,
and the time of an epoch meanwhile is compared with that before and after.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import HPO, Figure, interleaved, report, say

from hpo.paths import Home
from hpo.tracking import outbox

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from faulty_proxy import FAULTS, FaultyProxy  # noqa: E402

STUDY = """
study: away
trainer: sleeping:train
train: {{epochs: {epochs}, seconds: {seconds}}}
search:
  train.x: {{low: 0.0, high: 1.0}}
objective: {{metric: quality, goal: maximize}}
sampler: random
workers: 1
device: cpu
budget: {{trials: {trials}}}
tracking: {{uri: "{uri}"}}
"""

TRAINER = """
import time

def train(trial):
    options = trial.params["train"]
    for epoch in range(1, options["epochs"] + 1):
        time.sleep(options["seconds"])
        trial.report(epoch, {"quality": options["x"] + epoch, "train/loss": 1 / epoch})
"""


class Server:
    """A real ``mlflow server``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/m.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, start_new_session=True
            )
        for _ in range(1200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health"):
                return
            time.sleep(0.1)
        raise TimeoutError((self._folder / "server.log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Study:
    """A study in a folder of its own, with its MLflow at `uri`."""

    def __init__(self, folder: Path, uri: str, trials: int, epochs: int, seconds: float) -> None:
        self._folder = folder
        (folder / "sleeping.py").write_text(TRAINER)
        text = STUDY.format(uri=uri, trials=trials, epochs=epochs, seconds=seconds)
        (folder / "away.yaml").write_text(text)
        self.paths = Home(folder).study("away")

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*HPO, "run", str(self._folder / "away.yaml"), "--home", str(self._folder), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def records(self) -> list[dict[str, Any]]:
        if not self.paths.outbox.is_file():
            return []
        return [record for record, _ in outbox.read(self.paths.outbox)]

    def wait_for(self, kind: str) -> None:
        while not any(record["kind"] == kind for record in self.records()):
            time.sleep(0.2)

    def finish(self, running: subprocess.Popen[str], trials: int) -> None:
        """Wait for its end; everything must have gone well, and MLflow be equal."""
        output, error = running.communicate(timeout=900)
        assert running.returncode == 0, error
        assert json.loads(output)["trials"]["complete"] == trials, output
        synced = subprocess.run(
            [*HPO, "sync", "away", "--home", str(self._folder), "--verify", "--json"],
            capture_output=True,
            text=True,
        )
        assert synced.returncode == 0, synced.stdout + synced.stderr
        compared = json.loads(synced.stdout)["verified"]
        say(f"  {compared['runs']} runs, {compared['values']} values: equal")

    def training_s(self) -> float:
        records = self.records()
        begun = next(r["time_ms"] for r in records if r["kind"] == "trial")
        return (max(r["time_ms"] for r in records if r["kind"] == "end") - begun) / 1e3


@contextlib.contextmanager
def studied(uri: str, trials: int, epochs: int, seconds: float) -> Iterator[Study]:
    with tempfile.TemporaryDirectory() as folder:
        yield Study(Path(folder), uri, trials, epochs, seconds)


def trained(server: Server, how: str, trials: int) -> float:
    """Seconds of training when MLflow is "there", "away", "slow" or "failing"."""
    draw = random.Random(0)
    say(f"MLflow is {how} …")
    with contextlib.closing(FaultyProxy(server.uri, late_s=30)) as proxy:
        if how == "away":
            proxy.fault = lambda _asked: "lost request"
        elif how == "slow":
            proxy.delay_s = 30
        elif how == "failing":
            faults = [*(f for f in FAULTS if f != "late"), "ok", "ok", "ok", "ok"]
            proxy.fault = lambda _asked: draw.choice(faults)
        with studied(proxy.uri, trials, epochs=20, seconds=0.02) as study:
            running = study.start()
            study.wait_for("study_end")
            proxy.delay_s, proxy.fault = 0, lambda _asked: "ok"
            study.finish(running, trials)
            return study.training_s()


def once_away(server: Server, minutes: float) -> None:
    """Stop the server in the middle of a study."""
    seconds, epochs = 0.25, 40
    trials = round((minutes * 60 + 60) / (seconds * epochs))
    with studied(server.uri, trials, epochs, seconds) as study:
        running = study.start()
        study.wait_for("end")
        server.stop()
        stopped_ms = time.time() * 1e3
        time.sleep(minutes * 60)
        server.start()
        back_ms = time.time() * 1e3
        study.finish(running, trials)
        records = [r for r in study.records() if r["kind"] == "epoch"]
    gaps: dict[bool, list[float]] = {True: [], False: []}
    for before, after in zip(records, records[1:], strict=False):
        if before["number"] == after["number"]:
            is_away = stopped_ms < before["time_ms"] and after["time_ms"] < back_ms
            gaps[is_away].append(after["time_ms"] - before["time_ms"])
    there, away = (statistics.mean(gaps[is_away]) for is_away in (False, True))
    report(
        f"MLflow away for {minutes:g} minutes",
        [(f"epochs meanwhile: {len(gaps[True])}, else", str(len(gaps[False])))],
        [Figure("an epoch", away / there, 1.01, ours=f"{away:.1f} ms", theirs=f"{there:.1f} ms")],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minutes", type=float)
    options = parser.parse_args()
    rounds, trials = (1, 10) if options.quick else (3, 40)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        server.start()
        try:
            if options.minutes:
                once_away(server, options.minutes)
            ways = ("there", "away", "slow", "failing")
            there, *others = interleaved(
                rounds, *(lambda how=how: trained(server, how, trials) for how in ways)
            )
        finally:
            server.stop()
    figures = [
        Figure(
            f"training, MLflow {how}",
            took_s / there,
            1.01,
            ours=f"{took_s:.2f} s",
            theirs=f"{there:.2f} s",
        )
        for how, took_s in zip(ways[1:], others, strict=True)
    ]
    report("MLflow away", [], figures)


if __name__ == "__main__":
    main()
