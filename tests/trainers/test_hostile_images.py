"""Image files of every kind, and what only looks like one: read as Pillow does, or told."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trainers.contract import DataError
from trainers.data import folders, load
from trainers.data.decode import Files, look, pixels_of

SIZE = (20, 12)
COLOURS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
GRAYS = COLOURS[:, :, 0]


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG of one bit a pixel that says how large it is."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def rgb(file: Path) -> None:
    Image.fromarray(COLOURS).save(file)


def sixteen_bits(file: Path) -> None:
    Image.fromarray(GRAYS.astype(np.uint16) * 257).save(file)


def palette(file: Path) -> None:
    Image.fromarray(COLOURS).quantize(16).save(file)


def transparent_palette(file: Path) -> None:
    Image.fromarray(COLOURS).quantize(16).save(file, transparency=3)


def transparent_colour(file: Path) -> None:
    Image.fromarray(COLOURS).save(file, transparency=tuple(COLOURS[0, 0].tolist()))


def gray_alpha(file: Path) -> None:
    Image.fromarray(np.stack([GRAYS, 255 - GRAYS], 2), "LA").save(file)


def colours_alpha(file: Path) -> None:
    Image.fromarray(np.dstack([COLOURS, GRAYS])).save(file)


def bits(file: Path) -> None:
    Image.fromarray(GRAYS > 127).save(file)


def cmyk(file: Path) -> None:
    Image.fromarray(COLOURS).convert("CMYK").save(file)


def animated(file: Path) -> None:
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=50, lossless=True)


def turned(file: Path) -> None:
    image = Image.fromarray(COLOURS)
    image.getexif()[0x0112] = 8
    image.save(file, exif=image.getexif())


def progressive(file: Path) -> None:
    Image.fromarray(COLOURS).save(file, progressive=True)


KINDS: list[tuple[Callable[[Path], None], str]] = [
    (rgb, "png"), (rgb, "jpg"), (rgb, "bmp"), (rgb, "gif"), (rgb, "webp"), (rgb, "ppm"),
    (sixteen_bits, "png"), (palette, "png"), (transparent_palette, "png"),
    (transparent_palette, "gif"), (transparent_colour, "png"), (gray_alpha, "png"),
    (colours_alpha, "png"), (colours_alpha, "webp"), (bits, "png"), (bits, "bmp"), (cmyk, "jpg"),
    (animated, "gif"), (animated, "png"), (animated, "webp"), (turned, "jpg"), (turned, "png"),
    (progressive, "jpg"),
]  # fmt: skip


def as_pillow_reads(file: Path) -> NDArray[np.uint8]:
    """(3, H, W) of the first frame, turned, without what is transparent about it."""
    with Image.open(file) as image:
        if image.mode.startswith("I"):
            return np.stack([np.asarray(image) >> 8] * 3).astype(np.uint8)
        upright = ImageOps.exif_transpose(image)
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        return np.asarray(upright.convert("RGB")).transpose(2, 0, 1)


def read(folder: Path, name: str) -> tuple[NDArray[np.uint8] | None, str | None]:
    """(3, H, W) of a file, or why it cannot be read."""
    files = Files(str(folder), [name])
    try:
        looks = look(files, folder / ".cache")
    except DataError as error:
        return None, str(error)
    width, height = looks.sizes[0].tolist()
    pixels, bad = pixels_of(files, [0], (3, height, width), "crop")
    return (None, bad[0]) if bad else (pixels[0], None)


@pytest.mark.parametrize(
    ("save", "suffix"), KINDS, ids=[f"{save.__name__}.{suffix}" for save, suffix in KINDS]
)
@pytest.mark.parametrize("misnamed", [False, True])
def test_every_kind_is_read_as_pillow_reads_it(
    tmp_path: Path, save: Callable[[Path], None], suffix: str, misnamed: bool
) -> None:
    file = tmp_path / f"image.{suffix}"
    save(file)
    expected = as_pillow_reads(file)
    if misnamed:  # what a file is its content says
        file = file.rename(tmp_path / f"image.{'png' if suffix == 'jpg' else 'jpg'}")
    pixels, why = read(tmp_path, file.name)
    assert why is None
    assert pixels is not None
    assert np.array_equal(pixels, expected)
    assert expected.std() > 20


@pytest.mark.parametrize(
    ("save", "suffix"), KINDS, ids=[f"{save.__name__}.{suffix}" for save, suffix in KINDS]
)
def test_a_truncated_file_is_told_or_whole(
    tmp_path: Path, save: Callable[[Path], None], suffix: str
) -> None:
    file = tmp_path / f"image.{suffix}"
    save(file)
    whole, content = as_pillow_reads(file), file.read_bytes()
    told = 0
    for end in range(0, len(content), max(1, len(content) // 12)):
        file.write_bytes(content[:end])
        pixels, why = read(tmp_path, file.name)
        told += why is not None
        # What is cut off may be a second frame, or the mark of the end.
        assert why is not None or np.array_equal(pixels, whole)  # type: ignore[arg-type]
    assert told >= 5


def test_a_bomb_is_not_decoded(tmp_path: Path) -> None:
    """24 kB that are 196 million pixels, and some that say they are 10 billion."""
    bomb = png(14_000, 14_000, zlib.compress(bytes(1751) * 14_000, 9))
    assert len(bomb) < 25_000
    (tmp_path / "bomb.png").write_bytes(bomb)
    (tmp_path / "large.png").write_bytes(png(100_000, 100_000, zlib.compress(bytes(3))))
    for name in ("bomb.png", "large.png"):
        pixels, why = read(tmp_path, name)
        assert pixels is None
        assert "too many pixels to be safe" in str(why)


# -- what lies in a folder


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def empty(path: Path) -> None:
    path.touch()


def too_large(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(folders.MOST_BYTES + 1)  # takes no space


def text(path: Path) -> None:
    path.write_text("no image")


def tiff(path: Path) -> None:
    Image.fromarray(COLOURS).save(path, format="TIFF")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (fifo, "not a regular file"),
        (loop, "Too many levels of symbolic links"),
        (zeros, "not a regular file"),
        (empty, "not a BMP, GIF"),
        (too_large, "larger than 1 GB"),
        (text, "not a BMP, GIF"),
        (tiff, "not a BMP, GIF"),
    ],
)
def test_what_is_no_image_is_named_and_nothing_waits_for_it(
    image_folder: Any, tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    folder = image_folder()
    make(folder / "red" / "odd.png")
    with pytest.raises(DataError) as refused:
        load({"source": str(folder)}, tmp_path / "cache")
    assert f"1 of 31 files are not readable images: red/odd.png ({words}" in str(refused.value)
    left = load({"source": str(folder), "skip_bad": True}, tmp_path / "cache")
    assert left.summary["rows"] == 30
    assert left.summary["skipped"][0].startswith(f"red/odd.png ({words}")
    _, why = pixels_of(Files(str(folder), ["red/odd.png"]), [0], (1, 8, 8), "crop")  # to predict
    assert words in why[0]


def test_links_that_lead_up_are_not_followed(image_folder: Any, tmp_path: Path) -> None:
    folder = image_folder()
    (folder / "red" / "again").symlink_to("..")
    (folder / "red" / "loop").symlink_to("loop/loop")
    with pytest.raises(DataError, match=r"1 of 31 files .* red/loop"):
        load({"source": str(folder)}, tmp_path / "cache")


@pytest.mark.parametrize(
    "name", ["a b.png", "ü\n\x1b[31m.png", "'\"$(x).png", "\U0001f469\u200d\U0001f467.png", "-rf"]
)
def test_names_may_be_odd(image_folder: Any, tmp_path: Path, name: str) -> None:
    folder = image_folder()
    next(folder.glob("red/*")).rename(folder / "red" / name)
    assert load({"source": str(folder)}, tmp_path / "cache").summary["rows"] == 30


def test_a_name_that_is_no_text_is_told_in_escapes(image_folder: Any, tmp_path: Path) -> None:
    folder = image_folder()
    odd = os.fsdecode(b"caf\xe9.png")
    next(folder.glob("red/*")).rename(folder / "red" / odd)
    with pytest.raises(DataError) as refused:
        load({"source": str(folder)}, tmp_path / "cache")
    assert r"red/caf\xe9.png (its name is not UTF-8)" in str(refused.value)
    data = load({"source": str(folder), "skip_bad": True}, tmp_path / "cache")
    assert data.summary["rows"] == 29
    (folder / "red").rename(folder / os.fsdecode(b"r\xe9d"))
    with pytest.raises(DataError, match=r"the name of the folder .*r\\xe9d is not UTF-8"):
        load({"source": str(folder)}, tmp_path / "cache")
