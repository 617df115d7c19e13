"""Checkpoints: two are kept, and a damaged one is never loaded."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hpo import checkpoints


def write(folder: Path, *epochs: int) -> None:
    for epoch in epochs:
        checkpoints.write(folder, epoch, {"weights": torch.full((100,), float(epoch))})


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == ["epoch-2.pt", "epoch-3.pt"]
    assert len(list(tmp_path.iterdir())) == 4  # each with its sha256


def test_the_newest_of_a_recorded_epoch_is_found(tmp_path: Path) -> None:
    write(tmp_path, 9, 10)
    for at_most, expected in ((10, 10), (9, 9), (12, 10)):
        found = checkpoints.newest(tmp_path, at_most)
        assert found is not None
        assert found[0] == expected
        assert found[1]["weights"][0] == expected
    assert checkpoints.newest(tmp_path, 8) is None


def damages(content: bytes, draw: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` flipped bits, one in each part of the content, and as many lengths."""
    part = len(content) // count + 1
    for start in range(0, len(content), part):
        place = draw.randrange(start, min(start + part, len(content)))
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        yield f"a flipped bit in byte {place}", bytes(flipped)
        yield f"{start} bytes of it", content[:start]
    yield "a byte more", content + b"\0"
    yield "nothing but zeros", bytes(len(content))


def test_row_18_of_200_damaged_checkpoints_none_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "s" / "trials" / "1"
    write(folder, 1, 2)
    draw, tried = random.Random(0), 0
    for name, count in (("epoch-2.pt", 80), ("epoch-2.sha256", 30)):
        path = folder / name
        whole = path.read_bytes()
        for what, damaged in damages(whole, draw, count):
            path.write_bytes(damaged)
            caplog.clear()
            found = checkpoints.newest(folder, 2)
            assert found is not None
            assert (found[0], found[1]["weights"][0]) == (1, 1), (name, what)
            assert f"{folder / 'epoch-2.pt'} is damaged" in caplog.text
            tried += 1
        path.write_bytes(whole)
    assert tried >= 200
    found = checkpoints.newest(folder, 2)
    assert found is not None
    assert found[0] == 2


def test_row_18_another_s_checkpoint_is_not_loaded(tmp_path: Path) -> None:
    folders = [tmp_path / study / "trials" / str(n) for study, n in (("s", 1), ("s", 2), ("t", 1))]
    for folder in folders:
        write(folder, 1, 2)
    mine = folders[0]
    others = [(folder, 2) for folder in folders[1:]] + [(mine, 1)]
    for folder, epoch in others:
        for suffix in (".pt", ".sha256"):  # both of them, so that they fit each other
            shutil.copy(folder / f"epoch-{epoch}{suffix}", mine / f"epoch-2{suffix}")
        found = checkpoints.newest(mine, 2)
        assert found is not None
        assert found[0] == 1
    (mine / "epoch-1.sha256").unlink()
    assert checkpoints.newest(mine, 2) is None


def test_one_that_cannot_be_read_gives_way_to_the_one_before(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    (tmp_path / "epoch-2.pt").unlink()
    (tmp_path / "epoch-2.pt").mkdir()
    found = checkpoints.newest(tmp_path, 2)
    assert found is not None
    assert found[0] == 1


def test_clear_leaves_what_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "epoch-2.sha256").write_bytes(b"of one that was not written any more")
    (tmp_path / "predictions.npz").write_bytes(b"kept")
    checkpoints.clear(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.npz"]
