"""What a power loss may leave: a record of everything that was flushed, and of what was not.

`Disk` watches a folder while code works in it. Only what `os.fsync` was called for is sure to be
on the disk: a file's content with the file, its name with the folder. Of the rest any part may be
there, and a file may have its new length without its new content.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FOLDER = -1  # in place of a file's number
WATCHED = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "ftruncate")
Names = dict[str, int]  # path below the root → number of the file there


@dataclass(frozen=True)
class Moment:
    """One moment: what was on the disk for sure, what programs saw, and what was acknowledged.

    Attributes:
        acknowledged: What `Disk.acknowledge` was told so far.
    """

    sure: Names
    seen: Names
    sure_content: Mapping[int, bytes]
    seen_content: Mapping[int, bytes]
    acknowledged: tuple[Any, ...]

    def images(self) -> Iterator[dict[str, bytes | None]]:
        """Every folder that a power loss may leave at this moment: path → content; None: a folder.

        The one without all that was not flushed comes first, the one with all of it last.
        """
        unsure = sorted(n for n in self.sure | self.seen if self.sure.get(n) != self.seen.get(n))
        for names_kept in itertools.product((False, True), repeat=len(unsure)):
            names = dict(self.sure)
            for name, kept in zip(unsure, names_kept, strict=True):
                if kept and name in self.seen:
                    names[name] = self.seen[name]
                elif kept:
                    names.pop(name, None)
            names = {n: file for n, file in names.items() if has_folders(n, names)}
            files = sorted(set(names.values()) - {FOLDER})
            for contents in itertools.product(*map(self._contents, files)):
                content = dict(zip(files, contents, strict=True))
                yield {n: None if f == FOLDER else content[f] for n, f in names.items()}

    def _contents(self, file: int) -> list[bytes]:
        sure = self.sure_content.get(file, b"")
        seen = self.seen_content.get(file, sure)
        if sure == seen:
            return [sure]
        if not seen.startswith(sure):
            return [sure, seen]
        new = seen[len(sure) :]
        return [sure, sure + new[: len(new) // 2], sure + bytes(len(new)), seen]


@dataclass
class Disk:
    """Watches a folder.

    Attributes:
        moments: In order; one before each call that changes what is sure, or a name.
    """

    root: Path
    moments: list[Moment] = field(default_factory=list)
    _acknowledged: list[Any] = field(default_factory=list)
    _sure: Names = field(default_factory=dict)
    _sure_content: dict[int, bytes] = field(default_factory=dict)
    _numbers: dict[int, int] = field(default_factory=dict)  # inode → number of the file
    _count: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Note all that happens from now on, until `patch` is undone."""
        for name in WATCHED:
            patch.setattr(os, name, self._noting(getattr(os, name)))

    def acknowledge(self, what: Any) -> None:
        """Somebody was told that `what` is kept."""
        with self._lock:
            self._acknowledged.append(what)
            self.note()

    def note(self) -> None:
        """Add the moment of now."""
        with self._lock:
            seen, content = self._look()
            self.moments.append(
                Moment(
                    dict(self._sure),
                    seen,
                    dict(self._sure_content),
                    content,
                    tuple(self._acknowledged),
                )
            )

    def _noting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self.note()
                done = call(*arguments, **options)
                if call.__name__ == "fsync":
                    self._flushed(os.fstat(arguments[0]).st_ino)
                else:
                    self._look()  # so that a number that is free again is a new file's
                return done

        return noted

    def _flushed(self, inode: int) -> None:
        seen, content = self._look()
        for folder in (self.root, *(self.root / n for n, f in seen.items() if f == FOLDER)):
            if folder.stat().st_ino == inode:
                inside = "" if folder == self.root else f"{folder.relative_to(self.root)}/"
                for name in (self._sure, seen):
                    for path in [p for p in name if _folder_of(p) == inside]:
                        self._sure.pop(path, None)
                        if path in seen:
                            self._sure[path] = seen[path]
        number = self._numbers.get(inode)
        if number is not None and number in content:
            self._sure_content[number] = content[number]

    def _look(self) -> tuple[Names, dict[int, bytes]]:
        names: Names = {}
        contents: dict[int, bytes] = {}
        inodes: dict[int, int] = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if path.is_dir():
                names[name] = FOLDER
                continue
            inode = path.stat().st_ino
            number = inodes[inode] = self._numbers.get(inode, -2)
            if number < 0:
                number = inodes[inode] = next(self._count)
            names[name], contents[number] = number, path.read_bytes()
        self._numbers = inodes
        return names, contents


def write(image: Mapping[str, bytes | None], root: Path) -> None:
    """Make a folder as an image has it."""
    root.mkdir(parents=True)
    for name, content in sorted(image.items()):
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def _folder_of(name: str) -> str:
    return name[: name.rfind("/") + 1]


def has_folders(name: str, names: Names) -> bool:
    """Whether a file or folder is in folders that are there."""
    return all(str(p) in names for p in Path(name).parents if str(p) != ".")
