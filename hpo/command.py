"""A program of any language as a trainer: a trial's values in, its metrics out.

The values are arguments (`hpo.spec.commands`), a JSON file and the environment. Metrics are JSON
lines on the standard output, ``{"epoch": 1, "val/loss": 0.3}``, or those of an MLflow run that the
program keeps by itself (`hpo.own_run`); whatever else it prints goes to the worker's log.

What is promised here: the program and all that it started are over when the trial is, or when the
worker is (`hpo.command_guard`); whatever it prints, memory and disk stay bounded.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from hpo import checkpoints, command_guard, trial_log
from hpo.executors.processes import worker_environment
from hpo.messages import Setup
from hpo.own_run import OwnRun
from hpo.paths import replacing
from hpo.rounds import AssignedTrial
from hpo.spec import commands
from hpo.spec.explain import did_you_mean, nearest
from hpo.tracking.redact import redactor
from trainers.contract import DataError, StopTraining

GRACE_S = 10.0  # between SIGTERM and SIGKILL
POLL_S = 0.5  # how often the program's own run is looked at, and whether it is over
MOST_LINE = 64 * 1024  # bytes; what is longer is several lines
FIRST_BYTES = 256 * 1024  # of a trial's output that are logged as they come
LAST_LINES = 20  # that a failure shows
WAITING_LINES = 100  # with metrics; then the program waits until they are recorded
PROGRAMS = ("python", "bash", "sh", "Rscript", "julia", "node")  # that one may have misspelt
SCRIPTS = (".py", ".sh", ".R", ".jl", ".js", ".lua", ".pl", ".rb")
EXAMPLE = '{"epoch": 1, "val/loss": 0.3}'


class CommandFailed(RuntimeError):
    """A program ended otherwise than it should, or said what cannot be understood."""


class _Ahead(Exception):
    """The program went on after an epoch that is not on record."""


class Command:
    """A `trainers.contract.Trainer` that runs a study's command.

    Raises:
        DataError: There is no such program, or no such script.
    """

    def __init__(self, setup: Setup) -> None:
        assert setup.command is not None
        self._command, self._folder, self._device = setup.command, setup.folder, setup.device
        inherited = worker_environment(setup)
        # `python` is the one with hpo, as if its environment had been activated.
        search = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
        self._environment = {
            **{k: v for k, v in inherited.items() if not k.startswith("MLFLOW_")},
            "PATH": search,
        }
        _check_program(self._command, self._folder, search)
        _check_script(self._command, self._folder)

    def __call__(self, trial: AssignedTrial) -> None:
        """Run it for one trial."""
        try:
            self._run(trial, trial.assignment.recorded)
        except _Ahead:  # its checkpoint is of an epoch that got lost: once more, from the start
            shutil.rmtree(_checkpoint_folder(trial))
            self._run(trial, 0)

    def _run(self, trial: AssignedTrial, recorded: int) -> None:
        """The same, beginning with the first epoch, or with one up to that after `recorded`."""
        folder = trial.assignment.folder.absolute()
        run = OwnRun(folder / "mlflow", trial.assignment.metrics)
        run.discard()  # of an earlier attempt
        of_trial = self._of_trial(trial)
        values = {**dict(commands.by_path(trial.params)), **of_trial}
        named = {
            _variable(name): commands.text(value)
            for name, value in values.items()
            if not isinstance(value, Mapping)
        }
        environment = {**self._environment, **named, **run.environment}
        program = _Program(commands.filled(self._command, values), environment, self._folder)
        try:
            _follow(program, _Metrics(trial, recorded), run)
            trial.artifacts, trial.logged = run.adopt(folder), run.facts()
        except StopTraining:
            raise
        except Exception as error:
            if last := program.output.last():
                error.add_note(f"It last printed:\n{last}")
            raise
        finally:
            program.end()
            run.discard()

    def _of_trial(self, trial: AssignedTrial) -> dict[str, Any]:
        """What stands for the names of `commands.OF_TRIAL`, which are made."""
        checkpoint = _checkpoint_folder(trial)
        checkpoint.mkdir(parents=True, exist_ok=True)
        params = checkpoint.with_name("params.json")
        facts = {**trial.params, "seed": trial.seed, "trial": trial.number}
        with replacing(params) as file:
            file.write(json.dumps(facts, indent=1).encode())
        return {
            "params": str(params),
            "checkpoint": str(checkpoint),
            "seed": trial.seed,
            "trial": trial.number,
            "device": self._device,
        }


def _checkpoint_folder(trial: AssignedTrial) -> Path:
    return trial.assignment.folder.absolute() / checkpoints.OF_COMMAND


def _variable(name: str) -> str:
    """``train.lr`` → ``HPO_TRAIN_LR``"""
    return f"HPO_{re.sub(r'[^0-9A-Za-z]', '_', name).upper()}"


def _follow(program: _Program, metrics: _Metrics, run: OwnRun) -> None:
    """Report what the program says until it is over.

    Raises:
        CommandFailed: It failed, or said nothing.
        _Ahead: It began with an epoch that cannot be the next one on record.
    """
    is_over = False
    while not is_over:
        is_over, said = program.next_said()
        if said is not None:
            metrics.take(said)
        elif not metrics.by_lines:
            for epoch, values in run.epochs(is_over):
                metrics.report(epoch, values)
    if program.ended is not None:
        raise CommandFailed(f"{program.name} {program.ended}")
    metrics.end(program.broken)


class _Metrics:
    """From what a program says to the epochs of a trial.

    Args:
        recorded: The program may go on after an epoch up to this one.

    Attributes:
        by_lines: It prints them.
    """

    def __init__(self, trial: AssignedTrial, recorded: int) -> None:
        self.by_lines = False
        self._trial = trial
        self._recorded = recorded
        self._began = False
        self._epoch = 0
        self._pending: dict[str, Any] = {}  # of this epoch, without an objective as yet

    def take(self, said: Mapping[str, Any]) -> None:
        """A JSON line with an epoch; an epoch may have several."""
        self.by_lines = True
        epoch = said["epoch"]
        if type(epoch) is not int:
            raise CommandFailed(f"an epoch is a whole number from 1 on; got {str(epoch)[:60]!r}")
        if self._pending and epoch != self._epoch:
            self.report(self._epoch, self._pending)  # which says what is missing
        objectives = self._trial.assignment.metrics
        values = {name: value for name, value in said.items() if name != "epoch"}
        is_over = self._began and epoch == self._epoch and not self._pending
        if is_over and values and values.keys().isdisjoint(objectives):
            raise CommandFailed(
                f"epoch {epoch} was complete with {' and '.join(objectives)}; "
                f"{', '.join(values)} must be printed before"
            )
        self._epoch = epoch
        self._pending |= values
        if all(metric in self._pending for metric in objectives):
            complete, self._pending = self._pending, {}
            self.report(epoch, complete)

    def report(self, epoch: int, values: Mapping[str, float]) -> None:
        if not self._began and self._recorded and epoch > 1:  # from its own checkpoint
            if epoch > self._recorded + 1:
                raise _Ahead
            self._trial.epoch = epoch - 1
        self._began = True
        self._trial.report(epoch, values)

    def end(self, broken: str | None) -> None:
        """The program is over.

        Args:
            broken: A line that looks like JSON and is none.
        """
        if self._pending:
            self.report(self._epoch, self._pending)
        if not self._began and self._recorded:  # all that it had to do was done before
            self._trial.epoch = self._recorded
        elif not self._began:
            but = f"; this line is not JSON: {broken}" if broken else ""
            raise CommandFailed(
                f"the command reported no epoch, by a line like {EXAMPLE} on its standard "
                f"output or an MLflow run{but}"
            )


class _Program:
    """A process group.

    Attributes:
        name: Of the program, to be shown.
        output: What it printed.
        ended: How it did, if not well.
        broken: The last line that looks like JSON and is none.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = " ".join(command[:2])[:100]
        self.output = _Output()
        self.ended: str | None = None
        self.broken: str | None = None
        self._wanted = True
        self._said: queue.Queue[Mapping[str, Any] | None] = queue.Queue(WAITING_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", command_guard.__file__, *command],
            stdin=subprocess.PIPE,  # whose end tells the guard that this process is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=read, args=(stream,), daemon=True)
            for read, stream in (
                (self._read_metrics, self._process.stdout),
                (self._read, self._process.stderr),
            )
        ]
        for reader in self._readers:
            reader.start()

    def next_said(self) -> tuple[bool, Mapping[str, Any] | None]:
        """Whether it is over, and the next JSON object with an epoch that it printed, if any."""
        try:
            said = self._said.get(timeout=POLL_S)
        except queue.Empty:
            if self._process.poll() is None:
                return False, None
            self._kill()  # something that it left running holds its output open
            try:
                said = self._said.get(timeout=GRACE_S)
            except queue.Empty:  # and has left its group
                said = None
        if said is not None:
            return False, said
        self._process.wait()
        self._readers[1].join(GRACE_S)
        self.ended = self._ending(self._process.returncode)
        return True, None

    def end(self) -> None:
        """End it and all that it started: it is asked to, and has `GRACE_S` to do so."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            self._let_go()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
        self._kill()
        self._process.wait()
        self._let_go()
        for reader in self._readers:
            reader.join(GRACE_S)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.output.close()

    def _let_go(self) -> None:
        """Nobody wants to know any more: a reader that waits to hand on goes on reading."""
        self._wanted = False
        with contextlib.suppress(queue.Empty):
            while True:
                self._said.get_nowait()

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read_metrics(self, stream: IO[bytes]) -> None:
        for line in self._lines(stream):
            said = self._understood(line)
            if said is not None and self._wanted:
                self._said.put(said)
        if self._wanted:
            self._said.put(None)

    def _read(self, stream: IO[bytes]) -> None:
        for _ in self._lines(stream):
            pass

    def _lines(self, stream: IO[bytes]) -> Any:
        with stream:
            while line := stream.readline(MOST_LINE):
                self.output.add(line)
                yield line

    def _understood(self, line: bytes) -> Mapping[str, Any] | None:
        """The JSON object with an epoch in a line, if it is one."""
        if not line.lstrip().startswith(b"{"):
            return None
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            self.broken = line.decode(errors="replace").strip()[:100]
            return None
        return said if isinstance(said, dict) and "epoch" in said else None

    def _ending(self, status: int) -> str | None:
        if status == 0:
            return None
        last = self.output.last(1)
        printed = f"; it last printed: {last[:300]}" if last else ""
        if status < 0:
            died = signal.Signals(-status).name
            hint = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
            return f"died of {died}{hint}{printed}"
        return f"ended with status {status}{printed}"


class _Output:
    """What a program prints, in the worker's log: its beginning at once, its end when it is over.

    What lies between is left out, so that no program can fill a disk.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._redact = redactor()
        self._logged = 0
        self._held = bytearray()
        self._held_back = 0
        self._last: deque[bytes] = deque(maxlen=LAST_LINES)

    def add(self, line: bytes) -> None:
        text = self._redact(line.decode(errors="surrogateescape"))
        line = text.encode(errors="surrogateescape")
        with self._lock:
            self._last.append(line[:1000])
            if self._logged < FIRST_BYTES:
                self._log(line)
                self._logged += len(line)
                return
            self._held += line
            self._held_back += len(line)
            if len(self._held) > 2 * trial_log.MOST_BYTES:
                del self._held[: -trial_log.MOST_BYTES]

    def last(self, lines: int = LAST_LINES) -> str:
        """The last lines that are not empty."""
        with self._lock:
            printed = [line.decode(errors="replace").rstrip() for line in self._last]
        return "\n".join([line for line in printed if line][-lines:])

    def close(self) -> None:
        with self._lock:
            if left_out := self._held_back - len(self._held):
                self._log(f"\n[{left_out:,} bytes of output are left out]\n".encode())
            self._log(bytes(self._held))
            self._held.clear()
            self._held_back = 0

    @staticmethod
    def _log(text: bytes) -> None:
        """To where this process's own messages go: in a worker that is its log."""
        with contextlib.suppress(OSError):  # a full disk is not the program's fault
            os.write(2, text)


def _check_program(command: tuple[str, ...], folder: Path, search: str) -> None:
    program = command[0]
    if commands.places(program):
        return
    path = str(folder / program) if "/" in program else program
    if shutil.which(path, path=search) is not None:
        return
    hint = None
    if Path(path).is_file():
        raise DataError("command.0", f"{program} is not executable", f"chmod +x {program}")
    if "/" not in program and (folder / program).is_file():
        hint = f"./{program}: it lies beside this file"
    elif "/" not in program:
        close = nearest(program, PROGRAMS)
        hint = f"did you mean {close!r}?" if close else None
    raise DataError("command.0", f"there is no program {program!r}", hint)


def _check_script(command: tuple[str, ...], folder: Path) -> None:
    """The first argument, where it is a script for the program."""
    script = next(iter(command[1:]), "")
    if not script.endswith(SCRIPTS) or commands.places(script) or (folder / script).exists():
        return
    beside = [path.name for path in folder.glob("*") if path.suffix in SCRIPTS]
    raise DataError("command.1", f"there is no {script} in {folder}", did_you_mean(script, beside))
