"""Images into classes: scikit-learn's digits, or a folder of images.

A folder is ``train/CLASS/*`` with optional ``val/`` and ``test/``, or ``CLASS/*``; what is not set
aside by a folder is split off by fractions. The split is drawn from the names alone. Test images
are checked to be readable, once, and their pixels are not kept.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainers import metrics
from trainers.contract import DataError
from trainers.data import folders
from trainers.data.dataset import Dataset, Split
from trainers.data.decode import decode, pixels_of
from trainers.data.splits import Partition, Rows, partition
from trainers.options import ImageData

SHOWN = 10  # bad files named in a message
RECORDED = 100  # bad files named in the summary


def load(section: ImageData, cache: Path) -> Dataset:
    """Images as uint8, with the mean and standard deviation of the training images' channels.

    Raises:
        DataError: There are no classes, too few images, or files that are not readable images.
    """
    return _digits(section) if section.source == "digits" else _folder(section, cache)


def test_rows(
    section: ImageData, shapes: Iterable[tuple[int, ...]]
) -> tuple[Rows, NDArray[np.int64], dict[tuple[int, ...], torch.Tensor]]:
    """Of the test split: row numbers, labels, and the images in each of some shapes.

    Args:
        shapes: (channels, height, width) each.

    Raises:
        DataError: As `load` does.
    """
    if section.source == "digits":
        table = _digit_table()
        labels = table[:, 64].astype(np.int64)
        test = partition(labels, len(labels), section).test
        return test, labels[test], dict.fromkeys(shapes, _digit_pixels(table, test))
    listed = folders.listing(Path(section.source).expanduser())
    labels = np.array(listed.labels, np.int64)
    test = partition(labels, len(labels), section, listed.validation, listed.test).test
    files = [str(listed.root / listed.names[row]) for row in test]
    decoded = {shape: pixels_of(files, shape) for shape in shapes}
    bad = sorted({place for _, found in decoded.values() for place in found})
    if bad and not section.skip_bad:
        raise DataError("data.source", _named([files[place] for place in bad], len(files)))
    pixels = {}
    for shape, (readable, own_bad) in decoded.items():
        good = [place not in bad for place in range(len(files)) if place not in own_bad]
        pixels[shape] = torch.from_numpy(readable[good])
    test = np.delete(test, bad)
    return test, labels[test], pixels


def _digits(section: ImageData) -> Dataset:
    if section.size not in (None, 8) or section.channels not in (None, 1):
        raise DataError("data.size", "digits are 8 × 8 pixels with 1 channel, and stay so")
    table = _digit_table()
    labels = table[:, 64].astype(np.int64)
    parts = partition(labels, len(labels), section)
    about = {"fingerprint": hashlib.sha256(table.tobytes()).hexdigest(), "skipped": []}
    classes = [str(digit) for digit in range(10)]
    pixels = _digit_pixels(table, parts.search)
    return _dataset(section, pixels, labels, parts, classes, about, white=16)


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


def _folder(section: ImageData, cache: Path) -> Dataset:
    listed = folders.listing(Path(section.source).expanduser())
    labels = np.array(listed.labels, np.int64)
    parts = partition(labels, len(labels), section, listed.validation, listed.test)
    decoded = decode(listed.root, listed.names, parts.search, section, cache)
    bad = [*listed.strays, *(f"{listed.names[row]} ({why})" for row, why in decoded.bad.items())]
    if bad and not section.skip_bad:
        message = _named(bad, len(labels) + len(listed.strays))
        raise DataError("data.source", message, "skip_bad: true leaves them out")
    parts = parts.without(np.array(sorted(decoded.bad), np.int64))
    about = {
        "fingerprint": decoded.fingerprint,
        "skipped": bad[:RECORDED] + [f"and {len(bad) - RECORDED} more"] * (len(bad) > RECORDED),
    }
    return _dataset(section, decoded.pixels, labels, parts, listed.classes, about)


def _named(bad: Sequence[str], of: int) -> str:
    more = f", and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return f"{len(bad)} of {of} files are not readable images: {', '.join(bad[:SHOWN])}{more}"


def _dataset(
    section: ImageData,
    pixels: torch.Tensor,
    labels: NDArray[np.int64],
    parts: Partition,
    classes: Sequence[str],
    about: Mapping[str, Any],
    white: int = 255,
) -> Dataset:
    """Put it together.

    Args:
        pixels: (N, C, H, W) uint8, of ``parts.search``.
        labels: Of all rows of the source.
        white: What a white pixel is.
    """
    for train, _ in parts.folds:
        for number in np.setdiff1d(np.arange(len(classes)), labels[train]):
            raise DataError("data.source", f"class {classes[number]!r} has no image to train on")
    target = torch.from_numpy(labels[parts.search])
    splits = []
    for train, validation in parts.folds:
        train, validation = (np.searchsorted(parts.search, part) for part in (train, validation))
        mean, std = _channel_statistics(pixels, train)
        splits.append(
            Split(pixels, target, torch.from_numpy(train), torch.from_numpy(validation), mean, std)
        )
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
        **about,
    }
    ids = torch.from_numpy(parts.search)
    return Dataset(
        "images", "classification", tuple(classes), ids, tuple(splits), summary, white=white
    )


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
