"""Image files into one array of pixels: decoded once, then shared by every worker of every study.

The array lies in the cache as ``KEY/pixels.npy`` and is memory-mapped, so that workers share the
pages. KEY covers what it was made from: names, sizes and times of all files, which of them are
kept, and the options. A file's content decides nothing but its own pixels and whether it is bad.

Files are untrusted: only the formats below are tried, and an image of more pixels than Pillow
thinks safe counts as bad.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from trainers.contract import DataError
from trainers.data.splits import Rows
from trainers.options import ImageData

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP")
GRAY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")
VERSION = 1  # of what is in the cache: raise it when the same files decode to other pixels

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Decoded:
    """What became of the files.

    Attributes:
        pixels: (N, C, H, W) uint8, of the kept rows that are good, in their order. Memory-mapped:
            writing to it changes this process's copy only.
        bad: Row → why it cannot be used, of all rows.
        fingerprint: sha256 over the names and contents of all files.
    """

    pixels: torch.Tensor
    bad: dict[int, str]
    fingerprint: str


@dataclass(frozen=True)
class Look:
    """A file's content in short: its digest, and what its header says."""

    sha256: str
    width: int = 0
    height: int = 0
    gray: bool = False
    problem: str | None = None


def decode(
    root: Path, names: Sequence[str], keep: Rows, section: ImageData, cache: Path
) -> Decoded:
    """Decode the rows in `keep` and check all others.

    Args:
        names: The files, relative to `root`.

    Raises:
        DataError: No image can be read, or ``data.size`` is missing where images differ in size.
    """
    files = [f"{root}/{name}" for name in names]
    folder = cache / _key(files, keep, section)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            beside = folder.with_name(f".{folder.name}")
            shutil.rmtree(beside, ignore_errors=True)  # what a killed worker left
            beside.mkdir()
            try:
                _decode_into(beside, files, names, keep, section)
                os.replace(beside, folder)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    about = json.loads((folder / "about.json").read_text())
    pixels = np.load(folder / "pixels.npy", mmap_mode="c")
    bad = {int(row): why for row, why in about["bad"].items()}
    return Decoded(torch.from_numpy(pixels), bad, about["fingerprint"])


def pixels_of(
    files: Sequence[str], shape: tuple[int, ...]
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Images as they are decoded for training, without the cache.

    Args:
        shape: (channels, height, width) to which they are brought.

    Returns:
        (n, C, H, W) of those that can be read, in their order; and why the others, by their
        places, cannot.
    """
    mode, size = "L" if shape[0] == 1 else "RGB", (shape[2], shape[1])
    with _bombs_are_errors():
        found = list(_in_threads(lambda file: _pixels(file, mode, size), files))
    bad = {place: image for place, image in enumerate(found) if isinstance(image, str)}
    good = [image for image in found if not isinstance(image, str)]
    return np.stack(good) if good else np.empty((0, *shape), np.uint8), bad


def _key(files: Sequence[str], keep: Rows, section: ImageData) -> str:
    stamps = [_stamp(file) for file in files]
    content = repr((VERSION, stamps, section.size, section.channels)).encode() + keep.tobytes()
    return hashlib.sha256(content).hexdigest()[:32]


def _stamp(file: str) -> tuple[str, int, int]:
    try:
        stat = os.stat(file)
    except OSError:  # a link to nowhere: found out when it is opened
        return file, -1, -1
    return file, stat.st_size, stat.st_mtime_ns


def _decode_into(
    folder: Path, files: Sequence[str], names: Sequence[str], keep: Rows, section: ImageData
) -> None:
    with _bombs_are_errors():
        looks = list(_in_threads(_look, files))
        kept = set(keep.tolist())
        seen = [looks[row] for row in keep if looks[row].problem is None]
        if not seen:
            first = next((look.problem for look in looks if look.problem), "")
            raise DataError("data.source", f"none of {len(files)} files can be read: {first}")
        size = _common_size(seen, section)
        mode = "L" if (section.channels or (1 if all(s.gray for s in seen) else 3)) == 1 else "RGB"
        bad = {row: look.problem for row, look in enumerate(looks) if look.problem is not None}
        rows = [row for row in range(len(files)) if row not in bad]
        shape = (sum(row in kept for row in rows), len(mode), size[1], size[0])
        pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, shape)
        images = _in_threads(lambda row: _pixels(files[row], mode, size), rows)
        place, spoilt = 0, []
        for row, image in zip(rows, images, strict=True):
            if isinstance(image, str):
                bad[row] = image
            if row in kept:
                if isinstance(image, str):
                    spoilt.append(place)
                else:
                    pixels[place] = image
                place += 1
    if len(spoilt) == len(pixels):
        raise DataError("data.source", f"none of {len(files)} files can be read: {bad[rows[0]]}")
    if spoilt:
        good = np.delete(pixels, spoilt, axis=0)
        np.save(folder / "pixels.npy", good)
    else:
        pixels.flush()
    digest = hashlib.sha256(
        "".join(f"{n}\0{s.sha256}\n" for n, s in zip(names, looks, strict=True)).encode()
    )
    about = {"bad": dict(sorted(bad.items())), "fingerprint": digest.hexdigest()}
    (folder / "about.json").write_text(json.dumps(about))


def _look(file: str) -> Look:
    try:
        content = Path(file).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
    except OSError as error:
        return Look("", problem=error.strerror or "cannot be read")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            # 5 to 8 are the orientations that swap width and height.
            swapped = image.getexif().get(0x0112, 1) >= 5
            width, height = image.size[::-1] if swapped else image.size
            return Look(digest, width, height, image.mode in GRAY_MODES)
    except Exception as error:  # a damaged file may raise anything
        return Look(digest, problem=_why(error))


def _common_size(looks: Iterable[Look], section: ImageData) -> tuple[int, int]:
    """(width, height) of every decoded image."""
    if section.size is not None:
        return section.size, section.size
    sizes = sorted({(look.width, look.height) for look in looks})
    if len(sizes) > 1:
        (w0, h0), (w1, h1) = sizes[0], sizes[-1]
        raise DataError(
            "data.size",
            f"the images are of {len(sizes)} different sizes, from {w0} × {h0} to {w1} × {h1} "
            "pixels; say to which size to bring them",
            "size: 64",
        )
    return sizes[0]


def _pixels(file: str, mode: str, size: tuple[int, int]) -> NDArray[np.uint8] | str:
    """(C, H, W) of an image, or why there is none."""
    try:
        with Image.open(file, formats=FORMATS) as opened:
            if opened.format == "JPEG":
                # Decodes at a fraction of the size where that is enough: much faster. Twice the
                # size wanted, so that the scaling that follows still has something to average.
                opened.draft(mode, (2 * size[0], 2 * size[1]))
            image: Image.Image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits a pixel
                image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
            if "transparency" in image.info:
                image = image.convert("RGBA")
            image = image.convert(mode)
            if image.size != size:
                image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except Exception as error:  # a damaged file may raise anything
        return _why(error)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not a {', '.join(FORMATS)} image"
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return "too many pixels to be safe"
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _bombs_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what else Pillow has to say about odd files
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`function` of each item, in order, on every core: Pillow lets go of the lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(items), 1024):  # bounds what is decoded and not yet stored
            yield from pool.map(function, items[start : start + 1024])
