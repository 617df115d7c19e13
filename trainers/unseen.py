"""Rows of new files, some at a time, for `trainers.saved` models to predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainers.contract import DataError
from trainers.data import TABLE_FILES
from trainers.data.dataset import row_numbers
from trainers.saved import Model, PixelRows, Rows, TableRows, TextRows

if TYPE_CHECKING:
    import pandas as pd

BATCH_NUMBERS = 2**23  # of inputs, in memory at once
MOST_ROWS = 20_000  # at once
MOST_TEXTS = 1_000


@dataclass(frozen=True)
class Batch:
    """Some rows.

    Attributes:
        ids: Row numbers from 0, or the paths of images or texts.
        target: As `trainers.data.tables.known_targets` has it; None where nobody says.
        bad: Files that cannot be read, and why; they are not among the rows.
    """

    ids: Sequence[int | str]
    rows: Rows
    target: NDArray[Any] | None = None
    bad: Mapping[str, str] = field(default_factory=dict)


def batches(inputs: Sequence[Path], models: Sequence[Model]) -> Iterator[Batch]:
    """What is to be predicted, in order.

    Args:
        inputs: A CSV or Parquet file; or images, or texts, and folders of these at any depth.
        models: All of one study: of equal kind, target and classes.

    Raises:
        DataError: There is no such file, it is not of the models' kind, cannot be read or lacks
            a column.
    """
    for path in inputs:
        if not path.exists():
            raise DataError("data.source", f"there is no {path}")
    if models[0].kind == "images":
        return _images(inputs, models)
    if models[0].kind == "text" and not any(path.suffix.lower() in TABLE_FILES for path in inputs):
        return _texts(inputs)
    if len(inputs) > 1 or inputs[0].suffix.lower() not in TABLE_FILES:
        listed = ", ".join(str(path) for path in inputs)
        raise DataError(
            "data.source",
            f"the model predicts rows of a table: expected one {' or '.join(TABLE_FILES)} file; "
            f"got {listed}",
        )
    return _table(inputs[0], models)


def table_rows(frame: pd.DataFrame, models: Sequence[Model], what: str) -> Rows:
    """Rows of a table in memory, or the texts of one of its columns.

    Args:
        what: The table's name, for messages.

    Raises:
        DataError: It lacks a column.
    """
    from trainers.data.tables import check_columns

    check_columns(what, columns(models), [str(column) for column in frame])
    return _rows(frame, models)


def pixel_rows(pixels: NDArray[np.uint8], models: Sequence[Model]) -> PixelRows:
    """Images in memory, (N, C, H, W) or (N, H, W), with the range of pixels of the training data.

    Raises:
        DataError: They are of another shape.
    """
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    forms = {model.form for model in models}
    if any(pixels.shape[1:] != form.shape for form in forms):
        shapes = sorted({form.shape for form in forms})
        wanted = " or ".join(" × ".join(map(str, shape)) for shape in shapes)
        got = " × ".join(map(str, pixels.shape[1:]))
        raise DataError("data.source", f"expected images of {wanted}; got {got}")
    return PixelRows(dict.fromkeys(forms, torch.from_numpy(np.ascontiguousarray(pixels))))


def columns(models: Sequence[Model]) -> list[str]:
    """Those that any of the models needs."""
    return list(dict.fromkeys(name for model in models for name in model.columns))


def _table(path: Path, models: Sequence[Model]) -> Iterator[Batch]:
    from trainers.data import tables

    needed, targets = columns(models), list(models[0].targets)
    text = {name for model in models for name in model.text_columns}
    size = max(1, min(MOST_ROWS, BATCH_NUMBERS // _numbers(models)))
    done = 0
    for frame in tables.batches(path, needed, text, size, na=models[0].kind == "table"):
        known = None
        if set(targets) <= set(frame.columns):
            known = tables.known_targets(frame[targets], models[0].task, models[0].classes)
        yield Batch(range(done, done + len(frame)), _rows(frame, models), known)
        done += len(frame)


def _rows(frame: pd.DataFrame, models: Sequence[Model]) -> Rows:
    if models[0].kind == "table":
        return TableRows(frame)
    (column,) = columns(models)
    texts = frame[column]
    return TextRows([str(text) for text in texts.where(texts.notna(), "")])


def _texts(inputs: Sequence[Path]) -> Iterator[Batch]:
    from trainers.data.folders import TEXT_SUFFIXES, files_below
    from trainers.data.text import read

    files = [file for path in inputs for file in files_below(path, TEXT_SUFFIXES)]
    if not files:
        raise DataError("data.source", f"there is no .txt file in {inputs[0]}")
    for start in range(0, len(files), MOST_TEXTS):
        texts, bad = {}, {}
        for file in files[start : start + MOST_TEXTS]:
            try:
                texts[file] = read(file)
            except (OSError, ValueError) as error:
                bad[file] = getattr(error, "strerror", None) or str(error)
        yield Batch(list(texts), TextRows(list(texts.values())), bad=bad)


def _images(inputs: Sequence[Path], models: Sequence[Model]) -> Iterator[Batch]:
    from trainers.data.folders import IMAGE_SUFFIXES, files_below

    files = [file for path in inputs for file in files_below(path, IMAGE_SUFFIXES)]
    if not files:
        raise DataError("data.source", f"there is no image in {inputs[0]}")
    size = max(1, min(MOST_ROWS, BATCH_NUMBERS // _numbers(models)))
    for start in range(0, len(files), size):
        yield _decoded(files[start : start + size], models)


def _decoded(files: Sequence[str], models: Sequence[Model]) -> Batch:
    from trainers.data.decode import Files, pixels_of

    images = Files("", files)
    decoded = {
        form: pixels_of(images, range(len(files)), form.shape, form.resize)
        for form in {model.form for model in models}
    }
    bad = {place: why for _, found in decoded.values() for place, why in found.items()}
    pixels = {}
    for form, (readable, found) in decoded.items():
        kept = [place not in bad for place in range(len(files)) if place not in found]
        pixels[form] = torch.from_numpy(_as_bright(readable[kept], form.white))
    return Batch(
        [file for place, file in enumerate(files) if place not in bad],
        PixelRows(pixels),
        bad={files[place]: why for place, why in sorted(bad.items())},
    )


def _as_bright(pixels: NDArray[np.uint8], white: int) -> NDArray[np.uint8]:
    """Images of a file, where white is 255, as those of the training data."""
    return pixels if white == 255 else np.rint(pixels * (white / 255)).astype(np.uint8)


def _numbers(models: Sequence[Model]) -> int:
    return max(row_numbers(model.shape, model.kind == "text") for model in models)
