"""Images into classes: scikit-learn's digits, a data set of torchvision, or a folder of images.

A folder is ``train/CLASS/*`` with optional ``val/`` and ``test/``, or ``CLASS/*``; what is not set
aside by a folder is split off by fractions. The split is drawn from the names alone. Test images
are checked to be readable, once, and their pixels are not kept.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainers import metrics
from trainers.contract import DataError
from trainers.data import folders
from trainers.data.cleaning import first_of, report
from trainers.data.dataset import Dataset, PixelForm, Split
from trainers.data.decode import Files, Images, decode, look, pixels_of
from trainers.data.splits import Partition, Rows, partition
from trainers.options import TORCHVISION, ImageData

SHOWN = 10  # bad files named in a message
# Means and standard deviations of red, green and blue, of white, as torchvision's weights expect.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RECORDED = 100  # bad files named in the summary


def load(section: ImageData, cache: Path) -> Dataset:
    """Images as uint8, with the mean and standard deviation of the training images' channels.

    Raises:
        DataError: There are no classes, too few images, or files that are not readable images.
    """
    return _digits(section) if section.source == "digits" else _decoded(section, cache)


def test_rows(
    section: ImageData, forms: Iterable[PixelForm]
) -> tuple[Rows, NDArray[np.int64], dict[PixelForm, torch.Tensor]]:
    """Of the test split: row numbers, labels, and the images in each of some forms.

    Raises:
        DataError: As `load` does.
    """
    if section.source == "digits":
        table = _digit_table()
        test = _digit_parts(section, table).test
        pixels = dict.fromkeys(forms, _digit_pixels(table, test))
        return test, table[test, 64].astype(np.int64), pixels
    (images, source), copies = _opened(section), None
    if section.duplicates == "together":
        with TemporaryDirectory() as folder:
            copies = look(images, Path(folder)).copies
    test = _parts(section, source, copies).test
    decoded = {form: pixels_of(images, test.tolist(), form.shape, form.resize) for form in forms}
    bad = sorted({place for _, found in decoded.values() for place in found})
    if bad and not section.skip_bad:
        names = [images.names[test[place]] for place in bad]
        raise DataError("data.source", _named(names, len(test)))
    pixels = {}
    for form, (readable, own_bad) in decoded.items():
        good = [place not in bad for place in range(len(test)) if place not in own_bad]
        pixels[form] = torch.from_numpy(readable[good])
    test = np.delete(test, bad)
    return test, source.labels[test], pixels


def _digits(section: ImageData) -> Dataset:
    if section.resize != "crop":
        raise DataError("data.resize", "has no effect on digits, which are 8 × 8 pixels")
    if section.size not in (None, 8) or section.channels not in (None, 1):
        raise DataError("data.size", "digits are 8 × 8 pixels with 1 channel, and stay so")
    if section.group is not None:
        raise DataError("data.group", "digits are no files, so nothing says what belongs together")
    table = _digit_table()
    parts = _digit_parts(section, table)
    classes = [str(digit) for digit in range(10)]
    source = _Source(table[:, 64].astype(np.int64), classes, white=16)
    about = {"fingerprint": hashlib.sha256(table.tobytes()).hexdigest(), "skipped": []}
    pixels = _digit_pixels(table, parts.search)
    return _dataset(section, source, pixels, parts, _digit_copies(table), about)


def _digit_parts(section: ImageData, table: NDArray[np.uint8]) -> Partition:
    labels = table[:, 64].astype(np.int64)
    return partition(labels, len(labels), section, copies=_digit_copies(table))


def _digit_copies(table: NDArray[np.uint8]) -> Rows:
    return first_of(np.array([row.tobytes() for row in table[:, :64]]))


def _digit_table() -> NDArray[np.uint8]:
    """(1797, 65): 64 pixels and the label."""
    # The file that sklearn.datasets.load_digits reads; importing scikit-learn takes a second.
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)


def _digit_pixels(table: NDArray[np.uint8], rows: Rows) -> torch.Tensor:
    return torch.from_numpy(table[rows, :64].reshape(-1, 1, 8, 8))


@dataclass(frozen=True)
class _Source:
    """Images with their classes, before they are split.

    Attributes:
        labels: (N,) int64.
        validation, test: Rows that the source sets aside; None: it does not.
        strays: Images that lie in no class's folder, with the reason.
        groups: (N,) int64, of each row the number of its group, or None.
        white: What a white pixel is.
        names: Of the images, for messages; None: they have none.
    """

    labels: NDArray[np.int64]
    classes: Sequence[str]
    validation: Rows | None = None
    test: Rows | None = None
    strays: Sequence[str] = ()
    groups: NDArray[np.int64] | None = None
    white: int = 255
    names: Sequence[str] | None = None


def _opened(section: ImageData) -> tuple[Images, _Source]:
    if section.source.startswith(TORCHVISION):
        from trainers.data import torchvision_sets

        found = torchvision_sets.opened(section)
        if section.group is not None:
            raise DataError("data.group", "is for a folder of images: these have no paths")
        sides = found.aside(1), found.aside(2)
        return found, _Source(found.labels, found.classes, *sides, names=found.names)
    listed = folders.listing(Path(section.source).expanduser())
    return Files(str(listed.root), listed.names), _Source(
        np.array(listed.labels, np.int64),
        listed.classes,
        listed.validation,
        listed.test,
        listed.strays,
        None if section.group is None else _groups(section.group, listed.names),
        names=listed.names,
    )


def _groups(pattern: str, names: Sequence[str]) -> NDArray[np.int64]:
    """The number of each file's group.

    Raises:
        DataError: The pattern is not found in a name.
    """
    numbers: dict[tuple[str | None, ...], int] = {}
    groups = []
    for name in names:
        found = re.search(pattern, name)
        if found is None:
            raise DataError(
                "data.group", f"{pattern} is not found in {name}", "a pattern that all files fit"
            )
        groups.append(numbers.setdefault(found.groups(), len(numbers)))
    return np.array(groups, np.int64)


def _parts(section: ImageData, source: _Source, copies: Rows | None) -> Partition:
    return partition(
        source.labels,
        len(source.labels),
        section,
        source.validation,
        source.test,
        source.groups,
        copies=copies,
    )


def _decoded(section: ImageData, cache: Path) -> Dataset:
    images, source = _opened(section)
    looks = look(images, cache)
    parts = _parts(section, source, looks.copies)
    decoded = decode(images, looks, parts.search, section, cache)
    names = images.names
    bad = [*source.strays, *(f"{names[row]} ({why})" for row, why in decoded.bad.items())]
    if bad and not section.skip_bad:
        message = _named(bad, len(names) + len(source.strays))
        raise DataError("data.source", message, "skip_bad: true leaves them out")
    parts = parts.without(np.array(sorted(decoded.bad), np.int64))
    about = {
        "fingerprint": looks.fingerprint,
        "skipped": bad[:RECORDED] + [f"and {len(bad) - RECORDED} more"] * (len(bad) > RECORDED),
    }
    return _dataset(section, source, decoded.pixels, parts, looks.copies, about)


def _named(bad: Sequence[str], of: int) -> str:
    more = f", and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return f"{len(bad)} of {of} files are not readable images: {', '.join(bad[:SHOWN])}{more}"


def _dataset(
    section: ImageData,
    source: _Source,
    pixels: torch.Tensor,
    parts: Partition,
    copies: Rows,
    about: Mapping[str, Any],
) -> Dataset:
    """Put it together.

    Args:
        pixels: (N, C, H, W) uint8, of ``parts.search``.
        copies: Of each row of the source the first one that is equal.
    """
    labels, classes, white = source.labels, source.classes, source.white
    groups = None if source.groups is None else torch.from_numpy(source.groups[parts.search])
    for train, _ in parts.folds:
        for number in np.setdiff1d(np.arange(len(classes)), labels[train]):
            raise DataError("data.source", f"class {classes[number]!r} has no image to train on")
    target = torch.from_numpy(labels[parts.search])
    splits = []
    for train, validation in parts.folds:
        train, validation = (np.searchsorted(parts.search, part) for part in (train, validation))
        mean, std = _scale(section, pixels, train, white)
        rows = torch.from_numpy(train), torch.from_numpy(validation)
        splits.append(Split(pixels, target, *rows, mean, std, white=white, groups=groups))
    kept = np.concatenate([parts.search, parts.test])
    summary = {
        "source": section.source,
        "task": "classification",
        "rows": len(kept),
        "train": len(splits[0].train),
        "validation": len(splits[0].validation),
        "test": len(parts.test),
        "classes": list(classes),
        "class_counts": np.bincount(labels[kept], minlength=len(classes)).tolist(),
        "shape": list(pixels.shape[1:]),
        "metrics": metrics.names("classification"),
        "report": report(parts, copies, section, labels, classes, source.names),
        **about,
    }
    ids = torch.from_numpy(parts.search)
    return Dataset("images", "classification", tuple(classes), ids, tuple(splits), summary)


def _scale(
    section: ImageData, pixels: torch.Tensor, train: Rows, white: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is taken off each channel and by what it is divided: (C, 1, 1) float32 each."""
    if section.normalize == "train":
        return _channel_statistics(pixels, train)
    if section.normalize == "none":
        shape = (pixels.shape[1], 1, 1)
        return torch.zeros(shape), torch.full(shape, float(white))
    if pixels.shape[1] != 3:
        raise DataError(
            "data.normalize",
            "imagenet has means of 3 channels, and the images have 1",
            "channels: 3" if section.source != "digits" else "normalize: train",
        )
    mean, std = (torch.tensor(each)[:, None, None] * white for each in IMAGENET)
    return mean, std


def _channel_statistics(pixels: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel over `rows`: (C, 1, 1) float32 each."""
    counts = np.zeros((pixels.shape[1], 256), np.int64)  # counted exactly: the same on any machine
    for some in np.array_split(rows, 1 + len(rows) // 1024):
        for channel, count in enumerate(counts):
            count += np.bincount(pixels[some, channel].numpy().ravel(), minlength=256)
    total = counts.sum(1)
    mean = counts @ np.arange(256) / total
    std = np.sqrt(counts @ np.arange(256) ** 2 / total - mean**2)
    std[std < 1e-6] = 1.0  # a channel that is the same everywhere
    shaped = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))
    return tuple(shaped)  # type: ignore[return-value]
