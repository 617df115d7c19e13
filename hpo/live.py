"""What a person sees while a study runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.progress import Progress, WorkerProgress
from hpo.tracking.redact import for_screen

LINES_EVERY_S = 10.0  # between two lines of progress without a terminal
WIDEST = 80  # a longer bar says no more

STYLES = {"complete": "", "pruned": "yellow", "failed": "red", "stopped": "magenta"}


class LiveView:
    """A `hpo.progress.View` that redraws in place and keeps what was said above."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(_styled(for_screen(text)))

    def show(self, progress: Progress) -> None:
        self._live.update(render(progress), refresh=True)


class LineView:
    """A `hpo.progress.View` that prints a line for each event, and progress now and then."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._shown_s = time.monotonic()

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        print(for_screen(text), file=self._file, flush=True)

    def show(self, progress: Progress) -> None:
        if time.monotonic() - self._shown_s < LINES_EVERY_S:
            return
        self._shown_s = time.monotonic()
        training = [_in_words(w) for w in progress.workers if w.state == "training"]
        self.say(f"{summary(progress)}; {', '.join(training) or 'no trial in training'}")


def view_on(console: Console) -> LiveView | LineView:
    """The view that suits what is at the other end: a terminal that can redraw, or anything."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console)
    return LineView(console.file)


def render(progress: Progress) -> RenderableType:
    """The live view: a bar over all trials, the best so far, then a line a worker."""
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(ratio=1)
    head.add_column(no_wrap=True)
    times = Text(_times(progress))
    if progress.total:
        done = sum(progress.counts.values())
        head.add_column(no_wrap=True)
        head.add_row(_bar(done, progress.total), _trials(progress), times)
    else:
        head.add_row(_trials(progress), times)
    workers = Table.grid(padding=(0, 2))
    for _ in range(2):
        workers.add_column(no_wrap=True)
    workers.add_column(max_width=24, min_width=4)
    workers.add_column(justify="right", no_wrap=True)
    workers.add_column(no_wrap=True)
    for worker in progress.workers:
        workers.add_row(*_worker_cells(worker, progress.metric))
    nodes = [Text(line, style="dim") for line in _nodes(progress.workers)]
    return Group("", Constrain(head, WIDEST), _facts_line(progress), *nodes, "", workers)


def summary(progress: Progress) -> str:
    """``17 of 40 trials · best loss 0.12 (trial 9, epoch 18) · 3 pruned · 0:12, 0:08 left``."""
    return " · ".join((_trials(progress), *_facts(progress), _times(progress)))


def duration(seconds: float) -> str:
    """``0:07``, ``12:34``, ``3:05:00``."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _trials(progress: Progress) -> str:
    return f"{sum(progress.counts.values())}{_of(progress.total, ' of ')} trials"


def _times(progress: Progress) -> str:
    left = f", about {duration(progress.left_s)} left" if progress.left_s is not None else ""
    return f"{duration(progress.elapsed_s)}{left}"


def _facts(progress: Progress) -> list[str]:
    """The best so far, and the trials that did not train to their end."""
    facts = []
    if progress.best:
        number, value, epoch = progress.best
        facts.append(f"best {progress.metric} {value:.4g} (trial {number}, epoch {epoch})")
    counts = sorted(progress.counts.items())
    facts.extend(f"{n} {state}" for state, n in counts if state != "complete" and n)
    facts.extend([f"{progress.paused} paused"] if progress.paused else [])
    return facts


def _nodes(workers: Sequence[WorkerProgress]) -> list[str]:
    """``node-a: 3 of 4 workers train``, a line a machine, where workers live on several."""
    there: dict[str, list[bool]] = {}
    for worker in workers:
        if worker.node is not None:
            there.setdefault(worker.node, []).append(worker.state == "training")
    return [
        f"{node}: {sum(train)} of {len(train)} workers train"
        for node, train in sorted(there.items())
    ]


def _facts_line(progress: Progress) -> Text:
    best, *others = [Text(fact) for fact in _facts(progress)] or [Text("no trial is over yet")]
    best.stylize("bold green" if progress.best else "dim")
    return Text(" · ").join([best, *others])


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=total, completed=done, complete_style="cyan", finished_style="green")


def _of(total: int | None, between: str = "/") -> str:
    return f"{between}{total}" if total else ""


def _worker_cells(worker: WorkerProgress, metric: str) -> list[RenderableType]:
    on = f" on {worker.node}" if worker.node else ""
    name = Text(f"worker {worker.worker}{on}", style="dim")
    if worker.state != "training":
        return [name, Text(worker.state, style="dim")]
    together = worker.lanes > 1
    epoch = _epochs(worker) if worker.epochs else f"epoch {_epochs(worker)}"
    best = "best " if together else ""
    return [
        name,
        f"{worker.lanes} trials in lanes" if together else f"trial {worker.trial}",
        _bar(worker.epoch, worker.epochs) if worker.epochs else "",
        epoch,
        "" if worker.value is None else f"{best}{metric} {worker.value:.4g}",
    ]


def _in_words(worker: WorkerProgress) -> str:
    """``trial 7 at epoch 3/20``, ``25 trials in lanes at epochs 3–17/20``."""
    if worker.lanes == 1:
        return f"trial {worker.trial} at epoch {_epochs(worker)}"
    return f"{worker.lanes} trials in lanes at epochs {_epochs(worker)}"


def _epochs(worker: WorkerProgress) -> str:
    furthest = f"–{worker.furthest}" if worker.furthest > worker.epoch else ""  # noqa: RUF001
    return f"{worker.epoch}{furthest}{_of(worker.epochs)}"


def _styled(text: str) -> Text:
    words = text.split(" ", 3)
    if words[0] == "trial" and len(words) > 2 and words[2] in STYLES:
        return Text(text, style=STYLES[words[2]])
    return Text(text, style="dim")
