"""Image files into one array of pixels: decoded once, then shared by every worker of every study.

All files are looked at first: which of them are equal, and what their headers say; that lies in
the cache as ``KEY/looks.npz``. Then those that are kept are decoded; the array lies there as
``KEY/pixels.npy`` and is memory-mapped, so that workers share the pages. KEY covers what it was
made from: names, sizes and times of all files; of pixels also which of them are kept, and the
options. A file's content decides nothing but its own pixels and whether it is bad.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from trainers.contract import DataError
from trainers.data import folders
from trainers.data.cleaning import first_of
from trainers.data.splits import Rows
from trainers.options import ImageData, Resize

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP")
GRAY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")
VERSION = 2  # of what is in the cache: raise it when the same files decode to other pixels

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Look:
    """A file's content in short: its digest, and what its header says."""

    sha256: str
    width: int = 0
    height: int = 0
    gray: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Form:
    """What all images are brought to.

    Attributes:
        mode: ``L`` or ``RGB``.
        size: Width and height in pixels.
        resize: How those of another shape are: ``crop``, ``pad`` or ``squash``.
    """

    mode: str
    size: tuple[int, int]
    resize: Resize

    def of(self, image: Image.Image) -> NDArray[np.uint8]:
        """(C, H, W) of an image."""
        if image.mode.startswith("I"):  # 16 bits a pixel
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        if "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert(self.mode)
        if image.size != self.size:
            image = RESIZED[self.resize](image, self.size, Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[None] if self.mode == "L" else pixels.transpose(2, 0, 1)


RESIZED: Mapping[Resize, Callable[..., Image.Image]] = {
    "crop": ImageOps.fit,
    "pad": ImageOps.pad,
    "squash": Image.Image.resize,
}


class Images(Protocol):
    """Images that are to be decoded."""

    @property
    def names(self) -> Sequence[str]:
        """Of each image, for messages."""

    def key(self) -> object:
        """What changes when an image does, short of reading them."""

    def look(self, row: int) -> Look:
        """Read an image and look at its header."""

    def pixels(self, row: int, form: Form) -> NDArray[np.uint8] | str:
        """(C, H, W) of an image, or why not."""


@dataclass(frozen=True)
class Files:
    """Image files.

    Attributes:
        names: Relative to `root`.
    """

    root: str
    names: Sequence[str]

    def key(self) -> object:
        return [stamp(self._path(row)) for row in range(len(self.names))]

    def look(self, row: int) -> Look:
        return _look(self._path(row))

    def pixels(self, row: int, form: Form) -> NDArray[np.uint8] | str:
        return _pixels(self._path(row), form)

    def _path(self, row: int) -> str:
        return os.path.join(self.root, self.names[row])


@dataclass(frozen=True)
class Looks:
    """What all files are, in short.

    Attributes:
        copies: (N,) of each file the first one that has the same content.
        sizes: (N, 2) width and height in pixels.
        gray: (N,) whether it has no colours.
        bad: Row → why it is no image.
        fingerprint: sha256 over the names and contents of all files.
    """

    copies: Rows
    sizes: NDArray[np.int64]
    gray: NDArray[np.bool_]
    bad: dict[int, str]
    fingerprint: str


@dataclass(frozen=True)
class Decoded:
    """What became of the files.

    Attributes:
        pixels: (N, C, H, W) uint8, of the kept rows that are good, in their order. Memory-mapped:
            writing to it changes this process's copy only.
        bad: Row → why it cannot be used, of all rows.
    """

    pixels: torch.Tensor
    bad: dict[int, str]


def look(images: Images, cache: Path) -> Looks:
    """Read all images and look at their headers.

    Raises:
        DataError: None of them is an image.
    """
    folder = made_once(cache, _key(images), lambda folder: _look_into(folder, images))
    with np.load(folder / "looks.npz") as found:
        copies, sizes, gray = found["copies"], found["sizes"], found["gray"]
    about = json.loads((folder / "about.json").read_text())
    bad = {int(row): why for row, why in about["bad"].items()}
    return Looks(copies, sizes, gray, bad, about["fingerprint"])


def decode(images: Images, looks: Looks, keep: Rows, section: ImageData, cache: Path) -> Decoded:
    """Decode the rows in `keep` and check all others.

    Raises:
        DataError: No image can be read, or ``data.size`` is missing where images differ in size.
    """
    folder = made_once(
        cache,
        _key(images, section.size, section.resize, section.channels, keep.tobytes()),
        lambda folder: _decode_into(folder, images, looks, keep, section),
    )
    about = json.loads((folder / "about.json").read_text())
    pixels = np.load(folder / "pixels.npy", mmap_mode="c")
    bad = {int(row): why for row, why in about["bad"].items()}
    return Decoded(torch.from_numpy(pixels), bad)


def made_once(cache: Path, key: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache that one process makes and all others read.

    Args:
        make: Fills the folder; if it raises, there is none.
    """
    folder = cache / key
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            beside = folder.with_name(f".{folder.name}")
            shutil.rmtree(beside, ignore_errors=True)  # what a killed worker left
            beside.mkdir()
            try:
                make(beside)
                os.replace(beside, folder)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    return folder


def pixels_of(
    images: Images, rows: Sequence[int], shape: tuple[int, ...], resize: Resize
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Images as they are decoded for training, without the cache.

    Args:
        shape: (channels, height, width) to which they are brought.
        resize: How.

    Returns:
        (n, C, H, W) of those that can be read, in the order of `rows`; and why the others, by
        their places in it, cannot.
    """
    form = Form("L" if shape[0] == 1 else "RGB", (shape[2], shape[1]), resize)
    with _bombs_are_errors():
        found = list(_in_threads(lambda row: images.pixels(row, form), rows))
    bad = {place: image for place, image in enumerate(found) if isinstance(image, str)}
    good = [image for image in found if not isinstance(image, str)]
    return np.stack(good) if good else np.empty((0, *shape), np.uint8), bad


def _key(images: Images, *made_with: object) -> str:
    content = repr((VERSION, images.key(), *made_with))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def stamp(file: str) -> tuple[str, int, int]:
    """What changes when a file does, short of reading it."""
    try:
        stat = os.stat(file)
    except OSError:  # a link to nowhere: found out when it is opened
        return file, -1, -1
    return file, stat.st_size, stat.st_mtime_ns


def _look_into(folder: Path, images: Images) -> None:
    names = images.names
    with _bombs_are_errors():
        looks = list(_in_threads(images.look, range(len(names))))
    if all(look.problem for look in looks):
        raise DataError(
            "data.source", f"none of {len(names)} files can be read: {looks[0].problem}"
        )
    # A file that cannot be opened has no content that another could share.
    contents = np.array([look.sha256 or name for look, name in zip(looks, names, strict=True)])
    np.savez(
        folder / "looks.npz",
        copies=first_of(contents),
        sizes=np.array([(look.width, look.height) for look in looks], np.int64),
        gray=np.array([look.gray for look in looks], np.bool_),
    )
    digest = hashlib.sha256(
        "".join(f"{n}\0{s.sha256}\n" for n, s in zip(names, looks, strict=True)).encode()
    )
    bad = {row: look.problem for row, look in enumerate(looks) if look.problem is not None}
    about = {"bad": bad, "fingerprint": digest.hexdigest()}
    (folder / "about.json").write_text(json.dumps(about))


def _decode_into(
    folder: Path, images: Images, looks: Looks, keep: Rows, section: ImageData
) -> None:
    seen = keep[~np.isin(keep, list(looks.bad))]
    if len(seen) == 0:
        why = next(iter(looks.bad.values()))
        raise DataError("data.source", f"none of {len(keep)} files can be read: {why}")
    size = _common_size(looks.sizes[seen], section)
    mode = "L" if (section.channels or (1 if looks.gray[seen].all() else 3)) == 1 else "RGB"
    form = Form(mode, size, section.resize)
    bad = dict(looks.bad)
    kept = set(seen.tolist())
    rows = [row for row in range(len(images.names)) if row not in bad]
    shape = (len(seen), len(mode), size[1], size[0])
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, shape)
    place, spoilt = 0, []
    with _bombs_are_errors():
        decoded = _in_threads(lambda row: images.pixels(row, form), rows)
        for row, image in zip(rows, decoded, strict=True):
            if isinstance(image, str):
                bad[row] = image
            if row in kept:
                if isinstance(image, str):
                    spoilt.append(place)
                else:
                    pixels[place] = image
                place += 1
    if len(spoilt) == len(pixels):
        why = next(iter(bad.values()))
        raise DataError("data.source", f"none of {len(keep)} files can be read: {why}")
    if spoilt:
        good = np.delete(pixels, spoilt, axis=0)
        np.save(folder / "pixels.npy", good)
    else:
        pixels.flush()
    (folder / "about.json").write_text(json.dumps({"bad": dict(sorted(bad.items()))}))


def _look(file: str) -> Look:
    digest = ""
    try:
        content = folders.content(file)
        digest = hashlib.sha256(content).hexdigest()
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            # 5 to 8 are the orientations that swap width and height.
            swapped = image.getexif().get(0x0112, 1) >= 5
            width, height = image.size[::-1] if swapped else image.size
            return Look(digest, width, height, image.mode in GRAY_MODES)
    except Exception as error:  # a damaged file may raise anything
        return Look(digest, problem=reason(error))


def _common_size(sizes: NDArray[np.int64], section: ImageData) -> tuple[int, int]:
    """(width, height) of every decoded image."""
    if section.size is not None:
        return section.size, section.size
    if section.resize != "crop":
        raise DataError("data.resize", "has an effect only with data.size", "size: 64")
    distinct = np.unique(sizes, axis=0).tolist()
    (w0, h0), (w1, h1) = distinct[0], distinct[-1]
    if len(distinct) > 1:
        raise DataError(
            "data.size",
            f"the images are of {len(distinct)} different sizes, from {w0} × {h0} to {w1} × {h1} "
            "pixels; say to which size to bring them",
            "size: 64",
        )
    return w0, h0


def _pixels(file: str, form: Form) -> NDArray[np.uint8] | str:
    try:
        content = io.BytesIO(folders.content(file))
        with Image.open(content, formats=FORMATS) as opened:
            if opened.format == "JPEG":
                # Decodes at a fraction of the size where that is enough: much faster. Twice the
                # size wanted, so that the scaling that follows still has something to average.
                opened.draft(form.mode, (2 * form.size[0], 2 * form.size[1]))
            return form.of(ImageOps.exif_transpose(opened))
    except Exception as error:  # a damaged file may raise anything
        return reason(error)


def reason(error: Exception) -> str:
    """Why an image cannot be read, in words."""
    if isinstance(error, UnidentifiedImageError):
        return f"not a {', '.join(FORMATS)} image"
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return "too many pixels to be safe"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
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
