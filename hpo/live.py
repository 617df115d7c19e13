"""What a person sees while a study runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.progress import Progress, WorkerProgress

LINES_EVERY_S = 10.0  # between two lines of progress without a terminal

STYLES = {"complete": "green", "pruned": "yellow", "failed": "red", "stopped": "magenta"}


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
        self._console.print(_styled(text))

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
        print(text, file=self._file, flush=True)

    def show(self, progress: Progress) -> None:
        if time.monotonic() - self._shown_s < LINES_EVERY_S:
            return
        self._shown_s = time.monotonic()
        training = [
            f"trial {w.trial} at epoch {w.epoch}{f'/{w.epochs}' if w.epochs else ''}"
            for w in progress.workers
            if w.state == "training"
        ]
        self.say(f"{summary(progress)}; {', '.join(training) or 'no trial in training'}")


def render(progress: Progress) -> RenderableType:
    """The live view: a bar with the counts, then a line a worker."""
    head = Table.grid(padding=(0, 2))
    if progress.total:
        done = sum(progress.counts.values())
        head.add_row(
            ProgressBar(total=progress.total, completed=done, width=30), Text(summary(progress))
        )
    else:
        head.add_row(Text(summary(progress)))
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for title in ("worker", "trial", "epoch", progress.metric):
        table.add_column(title, justify="right")
    for worker in progress.workers:
        table.add_row(*_worker_cells(worker))
    return Group(head, table)


def summary(progress: Progress) -> str:
    """``17 of 40 trials (3 pruned) · best 0.962 (trial 9, epoch 18) · 0:12, 0:08 left``."""
    done = sum(progress.counts.values())
    total = f" of {progress.total}" if progress.total else ""
    others = ", ".join(
        f"{n} {state}" for state, n in sorted(progress.counts.items()) if state != "complete" and n
    )
    parts = [f"{done}{total} trials" + (f" ({others})" if others else "")]
    if progress.best:
        number, value, epoch = progress.best
        parts.append(f"best {progress.metric} {value:.4g} (trial {number}, epoch {epoch})")
    left = f", about {duration(progress.left_s)} left" if progress.left_s is not None else ""
    parts.append(f"{duration(progress.elapsed_s)}{left}")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """``0:07``, ``12:34``, ``3:05:00``."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _worker_cells(worker: WorkerProgress) -> list[str]:
    if worker.state != "training":
        return [str(worker.worker), worker.state, "", ""]
    epochs = f"/{worker.epochs}" if worker.epochs else ""
    value = "" if worker.value is None else f"{worker.value:.4g}"
    return [str(worker.worker), str(worker.trial), f"{worker.epoch}{epochs}", value]


def _styled(text: str) -> Text:
    words = text.split(" ", 3)
    if words[0] == "trial" and len(words) > 2 and words[2] in STYLES:
        return Text(text, style=STYLES[words[2]] if words[2] != "complete" else "")
    return Text(text, style="dim")
