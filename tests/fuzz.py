"""Study files and values of ``--set`` that somebody's keyboard, editor or disk has spoilt.

``python tests/fuzz.py 100000`` reads so many and says what came of them. Each is made from a seed
and a number, so that what fails can be made again. Mutations are of two kinds: parts of the
grammar (tokens, lines, values of other files) and bytes.
"""

from __future__ import annotations

import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hpo.cli import _load
from hpo.errors import HpoError
from hpo.tracking.redact import for_screen

BASES = [
    """\
study: quickstart
trainer: image_classifier
data: {source: digits, validation: 0.2, test: 0.2}
model: {name: mlp, hidden: [64]}
train: {epochs: 20, lr: 0.05, batch_size: 32, optimizer: sgd, early_stopping: {patience: 3}}
search:
  train.lr:           {low: 1e-3, high: 1.0, log: true}
  train.batch_size:   [16, 32, 64, 128]
  model.hidden.0:     {low: 16, high: 64, step: 16}
  train.optimizer:    [sgd, adamw]
  train.momentum:     {low: 0.5, high: 0.99, when: {train.optimizer: sgd}}
objective: {metric: val/f1_macro, goal: maximize}
sampler: {name: tpe, n_startup_trials: 3}
pruner: hyperband
budget: {trials: 40, wall: 10m}
start_from: [{train.lr: 0.1}, {study: other}]
timeout: 1h
tracking: {uri: 'http://host:5000'}
storage: sqlite:///x.db
seed: 3
workers: 2
""",
    """\
study: own
trainer: my:train
data: {source: ./here}
train: {epochs: 4, x: 0.5, list: [1, {a: 2}]}
search:
  train.x: {low: 0.0, high: 1.0}
  train.list.1.a: [1, 2, null]
  train.y: {choices: [a, b], when: {train.list.1.a: [1, 2]}}
objective:
- {metric: quality, goal: maximize}
- {metric: cost, goal: minimize}
sampler: grid
""",
]
STUDIES = Path(__file__).parents[1] / "studies"
MOST_S = 2.0  # of a core's time, for one of them
MOST_MB = 200.0  # by which memory may grow over all of them

TOKENS = (
    "null", "true", "no", "~", "0", "-1", "1e3", "1e999", "-0.0", ".nan", ".inf", "0x1F", "0o17",
    "1_000", "12:30", "2026-99-99", "9" * 400, "1e-320", "1" + "0" * 30, "''", '"\\ud800"',
    '"\\q"',
    "[", "]", "{", "}", "[]", "{}", "[[1]]", "{a: 1}", ": ", "- ", ", ", "#", "'", '"', "|", ">\n",
    "&a ", "*a", "&a [*a]", "<<: ", "!!python/object/apply:os.system [ls]", "!x ", "? ", "---\n",
    "...\n", "%YAML 1.1\n", "\t", "\r", "\r\n", "\n\n", "  ", "\x00", "\x85", "\u2028", "\ufeff",
    "\u202e", "é", "\U0001f600", "a" * 300, "a.b.c", "..", "../..", "~root", "${HOME}", "${", "$",
    "a:b", "a<b>", "postgresql://u:hunter2@h/d", "sqlite:///x", "http://[::1", "file:///etc",
    "study", "trainer", "command", "data", "model", "train", "ensemble", "search", "objective",
    "sampler", "pruner", "budget", "start_from", "storage", "tracking", "timeout", "workers",
    "low", "high", "step", "log", "when", "choices", "type", "name", "metric", "goal", "train.lr",
    "model.name", "train.optimizer", "data.source", "auto", "grid", "tpe", "hyperband", "1h", "10",
)  # fmt: skip
KEYS = (
    "train.lr", "train.epochs", "train", "search", "search.train.lr", "search.train.lr.low",
    "search.train.lr.when.train.optimizer", "model.hidden.0", "model.name", "data.source", "seed",
    "objective", "objective.0.goal", "objective.goal", "sampler", "sampler.name", "pruner",
    "budget.trials", "budget.wall", "storage", "tracking.uri", "start_from.0.train.lr", "study",
    "trainer", "command", "ensemble.members.0.name", "train.early_stopping.patience", "x", "", ".",
)  # fmt: skip


class TookTooLong(BaseException):
    """No `Exception`, lest what is tested takes it for one of its own."""


@dataclass
class Results:
    """What came of the inputs.

    Attributes:
        good, told: How many were good, and of how many it was told what is wrong.
        slowest_s: Of a core's time, of one input.
        grown_mb: By how much memory grew after the first thousand.
        failures: Of each that was neither: its number, and why.
    """

    good: int = 0
    told: int = 0
    slowest_s: float = 0.0
    grown_mb: float = 0.0
    failures: list[tuple[int, str]] = field(default_factory=list)


def corpus() -> list[bytes]:
    """Good files: those above, and the examples."""
    return [*(base.encode() for base in BASES), *(f.read_bytes() for f in STUDIES.glob("*.yaml"))]


def spoilt(number: int, good: Sequence[bytes], seed: int = 0) -> tuple[bytes, tuple[str, ...]]:
    """Input `number`: a file, and values of ``--set``.

    Args:
        good: Files that are.
    """
    pick = random.Random(f"{seed}/{number}")
    data = pick.choice(good)
    if number % 3:  # a third keeps the file, and spoils what is set only
        for _ in range(pick.choice((1, 1, 1, 2, 3, 8))):
            data = pick.choice(MUTATIONS)(data, pick, good)
    if number % 3 == 1:
        return data, ()
    return data, tuple(_setting(pick, good) for _ in range(pick.choice((1, 1, 2, 3))))


def _setting(pick: random.Random, good: Sequence[bytes]) -> str:
    """A value of ``--set``, as a command line can hold it."""
    key, value = pick.choice(KEYS), pick.choice(TOKENS)
    if pick.random() < 0.5:
        line = pick.choice(pick.choice(good).splitlines() or [b""])
        value = line.partition(b":")[2].decode(errors="surrogateescape").strip()
    setting = f"{key}={value}".encode(errors="surrogateescape")
    for _ in range(pick.choice((0, 0, 1, 2))):
        setting = pick.choice((_flip, _cut, _token, _repeat))(setting, pick, good)
    return setting.replace(b"\0", b"").decode(errors="surrogateescape")


def _flip(data: bytes, pick: random.Random, good: Sequence[bytes]) -> bytes:
    """One bit."""
    if not data:
        return data
    at = pick.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << pick.randrange(8)]) + data[at + 1 :]


def _cut(data: bytes, pick: random.Random, good: Sequence[bytes]) -> bytes:
    start, end = _span(data, pick)
    return data[:start] + data[end:]


def _end(data: bytes, pick: random.Random, good: Sequence[bytes]) -> bytes:
    """As a disk leaves it that is full: ended early, or filled up with zeros."""
    at = pick.randint(0, len(data))
    return data[:at] + pick.choice((b"", b"\0" * 16))


def _repeat(data: bytes, pick: random.Random, good: Sequence[bytes]) -> bytes:
    start, end = _span(data, pick)
    return data[:end] + data[start:end] * pick.choice((1, 2, 50)) + data[end:]


def _token(data: bytes, pick: random.Random, good: Sequence[bytes]) -> bytes:
    """A token in the place of another, or between two."""
    new = pick.choice(TOKENS).encode(errors="surrogatepass")
    words = _words(data)
    if not words or pick.random() < 0.3:
        at = pick.randint(0, len(data))
        return data[:at] + new + data[at:]
    start, end = pick.choice(words)
    return data[:start] + new + data[end:]


def _swap(data: bytes, pick: random.Random, good: Sequence[bytes]) -> bytes:
    """Two words in each other's places: a key where a value was, a value of another type."""
    words = _words(data)
    if len(words) < 2:
        return data
    (a, b), (c, d) = sorted(pick.sample(words, 2))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _line(data: bytes, pick: random.Random, good: Sequence[bytes]) -> bytes:
    """A line of another file, indented differently, in addition or instead."""
    lines, others = data.split(b"\n"), pick.choice(good).split(b"\n")
    at = pick.randrange(len(lines))
    lines[at : at + pick.randint(0, 1)] = [b" " * pick.randint(0, 4) + pick.choice(others).strip()]
    return b"\n".join(lines)


def _random_bytes(data: bytes, pick: random.Random, good: Sequence[bytes]) -> bytes:
    at = pick.randint(0, len(data))
    return data[:at] + pick.randbytes(pick.randint(1, 8)) + data[at:]


def _deep(data: bytes, pick: random.Random, good: Sequence[bytes]) -> bytes:
    """Nested a word too often."""
    words = _words(data)
    if not words:
        return data
    start, end = pick.choice(words)
    depth = pick.choice((2, 49, 51, 3000))
    return data[:start] + b"[" * depth + data[start:end] + b"]" * depth + data[end:]


MUTATIONS = (
    _flip, _cut, _end, _repeat, _token, _token, _token, _swap, _swap, _line, _line, _random_bytes,
    _deep,
)  # fmt: skip


def _span(data: bytes, pick: random.Random) -> tuple[int, int]:
    start = pick.randint(0, len(data))
    return start, min(len(data), start + pick.choice((1, 2, 8, 40)))


def _words(data: bytes) -> list[tuple[int, int]]:
    """Where words begin and end."""
    ends, start = [], None
    for at, byte in enumerate(data):
        is_word = byte > 127 or chr(byte).isalnum() or byte in b"._/-+"
        if is_word and start is None:
            start = at
        elif not is_word and start is not None:
            ends.append((start, at))
            start = None
    return ends


# -- reading them


def run(count: int, folder: Path, first: int = 0, seed: int = 0) -> Results:
    """Read inputs ``first`` to ``first + count - 1``: each is good, or it is told what is wrong.

    Args:
        folder: To write them into.
    """
    good, results, before_mb = corpus(), Results(), 0.0
    for number in range(first, first + count):
        data, settings = spoilt(number, good, seed)
        began_s = time.process_time()
        try:
            _read(folder, data, settings, results)
        except (Exception, TookTooLong):
            results.failures.append((number, traceback.format_exc()))
        results.slowest_s = max(results.slowest_s, time.process_time() - began_s)
        if number == first + min(count, 1000) - 1:
            before_mb = _memory_mb()
    results.grown_mb = _memory_mb() - before_mb
    return results


def _read(folder: Path, data: bytes, settings: tuple[str, ...], results: Results) -> None:
    file = folder / "study.yaml"
    file.write_bytes(data)
    try:
        with _at_most(MOST_S):
            loaded = _load(file, settings)
            loaded.config({})
            loaded.identity()
            resolved = loaded.resolved()
    except HpoError as error:
        results.told += 1
        if error.exit_code != 2 or not str(error):
            raise AssertionError("it is not told what is wrong") from error
        if "://u:hunter2@h" in for_screen(str(error)):
            raise AssertionError("a password is told") from error
        return
    results.good += 1
    file.write_text(resolved)
    assert _load(file, ()).resolved() == resolved


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Seconds of this process's own time: those of others on the machine do not count."""

    def too_long(*_: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _memory_mb() -> float:
    """The most that this process has ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    count, first = int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 0
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        results = run(count, Path(folder), first)
    for number, text in results.failures[:20]:
        print(f"-- input {number}\n{text}")
    print(
        f"{count:,} inputs from {first:,} in {time.monotonic() - began_s:.0f} s: "
        f"{results.good:,} good, {results.told:,} told what is wrong, "
        f"{len(results.failures):,} failures; the slowest took {results.slowest_s:.2f} s, "
        f"memory grew by {results.grown_mb:.0f} MB"
    )
    sys.exit(bool(results.failures) or results.grown_mb >= MOST_MB)


if __name__ == "__main__":
    main()
