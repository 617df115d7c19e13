"""Which images a folder holds, and of which class: from names only, nothing is opened."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trainers.contract import DataError
from trainers.data.splits import Rows

# What a folder of a split may be called, and a row's split in a column.
TRAIN = ("train",)
VALIDATION = ("val", "valid", "validation")
TEST = ("test",)

TEXT_SUFFIXES = (".txt",)
MOST_BYTES = 1_000_000_000  # of one file
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")


@dataclass(frozen=True)
class Listing:
    """The files of an image folder, in a fixed order.

    Attributes:
        names: Relative to `root`, with ``/``.
        labels: The number of each one's class.
        classes: In alphabetical order.
        validation, test: Rows that lie in a folder of that name; None when there is none.
        strays: Files that are left out, with the reason: images that lie in no class's folder,
            and those whose name is no text.
    """

    root: Path
    names: list[str]
    labels: list[int]
    classes: list[str]
    validation: Rows | None
    test: Rows | None
    strays: list[str]


# What folders of classes hold: of which trainer they are, and the files by their suffixes.
KINDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "images": ("image_classifier", IMAGE_SUFFIXES),
    "texts": ("text_classifier", TEXT_SUFFIXES),
}


def listing(root: Path, what: Literal["images", "texts"] = "images") -> Listing:
    """List ``train/CLASS/*`` with optional ``val/`` and ``test/``, or ``CLASS/*``.

    Args:
        what: There should be.

    Raises:
        DataError: There are fewer than two classes, one of them is empty, a folder cannot be
            read, ``val/`` or ``test/`` has a class that ``train/`` has not, or all is of another
            kind.
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
    strays: list[str] = []
    rows: dict[str, list[int]] = {}
    for top in tops:
        for unknown in sorted(set(_folders(top)) - set(classes)):
            raise DataError(
                "data.source", f"{top / unknown} is of a class that {tops[0]} does not have"
            )
        for label, name in enumerate(classes):
            there = list(_files(top / name))
            if not there and top == tops[0]:
                raise DataError("data.source", f"the class folder {top / name} is empty")
            found = [file for file in there if _is_text(file)]
            strays += [
                f"{_escaped(file.removeprefix(f'{root}/'))} (its name is not UTF-8)"
                for file in there
                if not _is_text(file)
            ]
            rows.setdefault(top.name, []).extend(range(len(names), len(names) + len(found)))
            names += [file.removeprefix(f"{root}/") for file in found]
            labels += [label] * len(found)
    for other, (trainer, endings) in KINDS.items():
        if other != what and names and all(name.lower().endswith(endings) for name in names):
            message = f"{root} has {other} in it, for another trainer"
            raise DataError("data.source", message, f"trainer: {trainer}")
    _, suffixes = KINDS[what]
    strays += [
        f"{entry.path.removeprefix(f'{root}/')} (in no class's folder)"
        for top in dict.fromkeys([root, *tops])
        for entry in _visible(top)
        if _is_file(entry) and entry.name.lower().endswith(suffixes)
    ]
    validation = _together(rows, VALIDATION) if splits else None
    test = _together(rows, TEST) if splits else None
    return Listing(root, names, labels, classes, validation, test, strays)


def files_below(path: Path, suffixes: tuple[str, ...]) -> list[str]:
    """The paths of such files below a folder, at any depth, in a fixed order; or of one file."""
    if not path.is_dir():
        return [str(path)]
    return [file for file in _files(path) if file.lower().endswith(suffixes)]


def content(file: str | Path) -> bytes:
    """What is in a file.

    Raises:
        OSError: It cannot be read: also because it is a pipe or a device, or larger than
            `MOST_BYTES`.
    """
    facts = os.stat(file)
    if not stat.S_ISREG(facts.st_mode):  # to read a pipe might take for ever
        raise OSError(errno.EINVAL, "not a regular file")
    if facts.st_size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MOST_BYTES / 1e9:g} GB")
    return Path(file).read_bytes()


def _is_text(name: str) -> bool:
    """Whether a name is one that can be stored and shown: Linux allows any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(name: str) -> str:
    return os.fsencode(name).decode(errors="backslashreplace")


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
    found = [entry.name for entry in _visible(folder) if _is_folder(entry)]
    for name in found:
        if not _is_text(name):
            raise DataError(
                "data.source", f"the name of the folder {folder / _escaped(name)} is not UTF-8"
            )
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; a link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return True  # a link that leads to itself: found out when it is opened


def _files(folder: Path | str) -> Iterator[str]:
    """The paths of all files below a folder, at any depth, in a fixed order."""
    if os.path.isdir(folder):
        for entry in _visible(folder):
            if entry.is_dir(follow_symlinks=False):  # a link may lead back up
                yield from _files(entry.path)
            elif not _is_folder(entry):
                yield entry.path
