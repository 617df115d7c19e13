"""Every error that hpo raises on purpose.

    HpoError                  something went wrong that hpo can explain      exit 1
      + UserError             the input must change before it can work       exit 2
        - StudyFileError      the study file, with every problem in it
        - StudyChanged        the file no longer describes the study on disk
        - StudyLocked         another process is running this study
        - UnknownStudy        no study of that name here
      - StudyFailed           the study ran and cannot go on (e.g. every trial fails alike)
      - WorkerLost            a worker process died and could not be replaced
      - ClusterLost           the head of a Ray cluster is gone or frozen
      - StorageLost           the study's database is away, locked or full
      - NoRoom                the disk has no room for a file (an OSError, too)
      - RecordsLost           a study's outbox is damaged where it was acknowledged

`hpo.cli` prints the message of an HpoError without a traceback; anything else is a bug and
keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class HpoError(Exception):
    """Something went wrong that hpo can explain. The message says what to do next."""

    exit_code = 1


class UserError(HpoError):
    """The input must change before it can work."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a study file.

    Attributes:
        key: The dotted path in the file, e.g. ``search.train.lr.low``; empty for the whole file.
        message: What was expected, and what was found.
        hint: What to try instead, or None.
        line: 1-based line in the file, or None when it came from the command line.
        column: 1-based column, or None.
        source_line: The text of that line, for the caret.
        warning: True when the study can run all the same.
    """

    key: str
    message: str
    hint: str | None = None
    line: int | None = None
    column: int | None = None
    source_line: str | None = None
    warning: bool = False

    def render(self, file: str) -> str:
        """``study.yaml:14:7: key: message``, the line, and a caret with the hint."""
        place = file if self.line is None else f"{file}:{self.line}:{self.column}"
        text = f"{place}: {self.key + ': ' if self.key else ''}{self.message}"
        if self.source_line is not None and self.line is not None and self.column is not None:
            number = f"{self.line:>6} | "
            shown, column = _window(self.source_line, self.column)
            text += f"\n{number}{shown}\n{' ' * 6} | {' ' * (column - 1)}^"
            if self.hint:
                text += f" {self.hint}"
        elif self.hint:
            text += f"\n         {self.hint}"
        return text


def _window(line: str, column: int, width: int = 100) -> tuple[str, int]:
    """The part of a long line around `column` (1-based), and the column within that part."""
    if len(line) <= width:
        return line, column
    start = max(0, min(column - 1 - width // 2, len(line) - width))
    return line[start : start + width], column - start


class StudyFileError(UserError):
    """The study file has mistakes; all of them are in `problems`.

    Attributes:
        file: The file as the user named it.
        problems: In the order of the file.
    """

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        super().__init__("\n".join(problem.render(file) for problem in self.problems))


class StudyChanged(UserError):
    """The file no longer describes the study on disk; the message shows the difference."""


class StudyLocked(UserError):
    """Another process is running this study; the message names its host and pid."""


class UnknownStudy(UserError):
    """No study of that name here; the message lists those there are."""


class StudyFailed(HpoError):
    """The study ran and cannot go on."""


class ClusterLost(HpoError):
    """The head of a Ray cluster is gone or frozen.

    What Ray has loaded may then crash this process, or wait without end, when Python ends it.
    """


class StorageLost(HpoError):
    """The study's database is away, locked or full; nothing acknowledged is lost with it."""


class RecordsLost(HpoError):
    """Acknowledged records of a study are gone; the message says where, and what to do."""


class NoRoom(HpoError, OSError):
    """The disk has no room for a file; the message names it and the bytes that it needs."""


class WorkerLost(HpoError):
    """A worker process died and could not be replaced."""
