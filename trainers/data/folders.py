"""Which images a folder holds, and of which class: from names only, nothing is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainers.contract import DataError
from trainers.data.splits import Rows

# What a folder of a split may be called, and a row's split in a column.
TRAIN = ("train",)
VALIDATION = ("val", "valid", "validation")
TEST = ("test",)

TEXT_SUFFIXES = (".txt",)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")


@dataclass(frozen=True)
class Listing:
    """The files of an image folder, in a fixed order.

    Attributes:
        names: Relative to `root`, with ``/``.
        labels: The number of each one's class.
        classes: In alphabetical order.
        validation, test: Rows that lie in a folder of that name; None when there is none.
        strays: Images that lie in no class's folder, with the reason.
    """

    root: Path
    names: list[str]
    labels: list[int]
    classes: list[str]
    validation: Rows | None
    test: Rows | None
    strays: list[str]


def listing(
    root: Path, what: str = "images", suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> Listing:
    """List ``train/CLASS/*`` with optional ``val/`` and ``test/``, or ``CLASS/*``.

    Args:
        what: There should be, for messages.
        suffixes: By which they are known where they lie in no class's folder.

    Raises:
        DataError: There are fewer than two classes, one of them is empty, a folder cannot be
            read, or ``val/`` or ``test/`` has a class that ``train/`` has not.
    """
    # A class may itself be called "train": it is a split only when there are folders in it.
    splits = (root / "train").is_dir() and bool(_folders(root / "train"))
    tops = [root / "train" if splits else root]
    if splits:
        tops += [root / name for name in (*VALIDATION, *TEST) if (root / name).is_dir()]
    classes = _folders(tops[0])
    if len(classes) < 2:
        raise DataError(
            "data.source",
            f"{tops[0]} must have a folder of {what} for each of at least two classes; "
            f"there is {f'one, {classes[0]!r}' if classes else 'none'}",
        )
    names: list[str] = []
    labels: list[int] = []
    rows: dict[str, list[int]] = {}
    for top in tops:
        for unknown in sorted(set(_folders(top)) - set(classes)):
            raise DataError(
                "data.source", f"{top / unknown} is of a class that {tops[0]} does not have"
            )
        for label, name in enumerate(classes):
            found = list(_files(top / name))
            if not found and top == tops[0]:
                raise DataError("data.source", f"the class folder {top / name} is empty")
            rows.setdefault(top.name, []).extend(range(len(names), len(names) + len(found)))
            names += [file.removeprefix(f"{root}/") for file in found]
            labels += [label] * len(found)
    strays = [
        f"{entry.path.removeprefix(f'{root}/')} (in no class's folder)"
        for top in dict.fromkeys([root, *tops])
        for entry in _visible(top)
        if entry.is_file() and entry.name.lower().endswith(suffixes)
    ]
    validation = _together(rows, VALIDATION) if splits else None
    test = _together(rows, TEST) if splits else None
    return Listing(root, names, labels, classes, validation, test, strays)


def files_below(path: Path, suffixes: tuple[str, ...]) -> list[str]:
    """The paths of such files below a folder, at any depth, in a fixed order; or of one file."""
    if not path.is_dir():
        return [str(path)]
    return [file for file in _files(path) if file.lower().endswith(suffixes)]


def _together(rows: dict[str, list[int]], names: tuple[str, ...]) -> Rows | None:
    found = [rows[name] for name in names if name in rows]
    return np.array(sum(found, []), np.int64) if found else None


def _visible(folder: Path | str) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; hidden files (``.DS_Store``) are none of ours."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError("data.source", f"{folder} cannot be read: {error.strerror}") from None
    return sorted(found, key=lambda entry: entry.name)


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _visible(folder) if entry.is_dir()]


def _files(folder: Path | str) -> Iterator[str]:
    """The paths of all files below a folder, at any depth, in a fixed order."""
    if os.path.isdir(folder):
        for entry in _visible(folder):
            if entry.is_dir(follow_symlinks=False):  # a link may lead back up
                yield from _files(entry.path)
            elif not entry.is_dir():
                yield entry.path
