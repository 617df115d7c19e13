"""Classification data sets of torchvision that are on the disk already; none is downloaded.

Which rows train, validate and test is as the data set itself has it, ``train=True`` and ``False``
or ``split="train"``, ``"val"``, ``"test"``; of one without parts it is drawn.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainers.contract import DataError
from trainers.data.decode import GRAY_MODES, Form, Look, reason, stamp
from trainers.data.splits import Rows
from trainers.options import TORCHVISION, ImageData

# What data sets call their parts, those to train on first; each has some of them.
PARTS = (("train", "trainval"), ("val", "valid"), ("test",))
# Where they keep what is in which class.
LABELS = ("targets", "labels", "_labels", "y")
CLASSES = ("categories", "classes")
SHOWN = 10  # names in a message


@dataclass(frozen=True)
class Pictures:
    """The images of one data set, part after part: `trainers.data.decode.Images`.

    Attributes:
        root: Where it lies.
        parts: Objects of torchvision's class: to train on, to validate on, to test on; None where
            it has no such part.
    """

    name: str
    root: str
    parts: Sequence[Any | None]

    @cached_property
    def _rows(self) -> list[tuple[Any, int]]:
        there = [part for part in self.parts if part is not None]
        return [(part, row) for part in there for row in range(len(part))]

    @cached_property
    def names(self) -> Sequence[str]:
        return [f"image {row}" for row in range(len(self._rows))]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,)

        Raises:
            DataError: An image has something else than one class.
        """
        labels = [label for part in self.parts if part is not None for label in _labels(part)]
        if not all(isinstance(label, int | np.integer) for label in labels):
            raise DataError(
                "data.source", f"{TORCHVISION}{self.name} does not have one class each"
            )
        return np.array(labels, np.int64)

    @property
    def classes(self) -> list[str]:
        named: Sequence[Any] = ()
        for name in CLASSES:
            named = getattr(self.parts[0], name, named)
        count = int(self.labels.max()) + 1
        if len(named) < count:
            return [str(number) for number in range(count)]
        return [" / ".join(name) if isinstance(name, tuple) else str(name) for name in named]

    def aside(self, which: int) -> Rows | None:
        """The rows of a part, by its number in `parts`; None: it has no such part."""
        part = self.parts[which]
        if part is None:
            return None
        before = sum(len(other) for other in self.parts[:which] if other is not None)
        return np.arange(before, before + len(part))

    def key(self) -> object:
        files = sorted(
            os.path.join(folder, name) for folder, _, names in os.walk(self.root) for name in names
        )
        return self.name, [stamp(file) for file in files]

    def look(self, row: int) -> Look:
        try:
            image = self._image(row)
            content = f"{image.mode} {image.size} ".encode() + image.tobytes()
            gray = image.mode in GRAY_MODES
            return Look(hashlib.sha256(content).hexdigest(), *image.size, gray)
        except Exception as error:  # a damaged file may raise anything
            return Look("", problem=reason(error))

    def pixels(self, row: int, form: Form) -> NDArray[np.uint8] | str:
        try:
            return form.of(self._image(row))
        except Exception as error:  # a damaged file may raise anything
            return reason(error)

    def _image(self, row: int) -> Image.Image:
        part, own = self._rows[row]
        image, _ = part[own]
        if not isinstance(image, Image.Image):
            raise TypeError(f"{TORCHVISION}{self.name} holds no images")
        return image


def opened(section: ImageData) -> Pictures:
    """The data set that ``data.source`` names, in ``data.root``.

    Raises:
        DataError: torchvision knows none of that name, or it does not lie there.
    """
    from torchvision import datasets

    name = section.source.removeprefix(TORCHVISION)
    known = [
        other
        for other in datasets.__all__
        if "root" in inspect.signature(getattr(datasets, other)).parameters
    ]
    if name not in known:
        close = get_close_matches(name, known, n=SHOWN, cutoff=0.4) or known[:SHOWN]
        raise DataError(
            "data.source",
            f"torchvision has no data set {name!r}; the closest are {', '.join(close)}",
            f"did you mean {TORCHVISION}{close[0]}?",
        )
    root = Path(str(section.root)).expanduser()
    make = getattr(datasets, name)
    options = inspect.signature(make).parameters
    own = {"download": False} if "download" in options else {}
    parts: Sequence[Any | None]
    try:
        if "train" in options:
            parts = (make(root, train=True, **own), None, make(root, train=False, **own))
        elif "split" in options:
            parts = tuple(_part(make, root, names, own) for names in PARTS)
        else:
            parts = (make(root, **own), None, None)
    except (RuntimeError, OSError, TypeError) as error:
        there = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else None
        holds = (
            "is no folder" if there is None else f"holds {', '.join(there[:SHOWN]) or 'nothing'}"
        )
        raise DataError(
            "data.root",
            f"{name} is not in {root}, as torchvision keeps it: {' '.join(str(error).split())}; "
            f"{root} {holds}",
            f"where there is internet: torchvision.datasets.{name}({str(root)!r}, download=True)"
            if own
            else f"see torchvision.datasets.{name} for where its files belong",
        ) from None
    return Pictures(name, str(root), parts)


def _part(make: Any, root: Path, names: Sequence[str], own: dict[str, Any]) -> Any | None:
    """A part by the first name that the data set knows; None: it has no such part.

    Raises:
        RuntimeError: There is none to train on.
    """
    for name in names:
        try:
            return make(root, split=name, **own)
        except ValueError:  # it has other parts
            continue
    if names == PARTS[0]:
        raise RuntimeError("it has no part to train on")
    return None


def _labels(part: Any) -> Sequence[Any]:
    for name in LABELS:
        found = getattr(part, name, None)
        if found is not None and len(found) == len(part):
            return found.tolist() if hasattr(found, "tolist") else list(found)
    return [part[row][1] for row in range(len(part))]
