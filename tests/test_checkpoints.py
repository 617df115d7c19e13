"""Checkpoints: two are kept, and a damaged one is never loaded."""

from __future__ import annotations

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


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "empty", "no sha256"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 1, 2)
    newest = tmp_path / "epoch-2.pt"
    content = bytearray(newest.read_bytes())
    if damage == "flipped bit":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif damage == "no sha256":
        newest.with_suffix(".sha256").unlink()
    else:
        newest.write_bytes(content[:-20] if damage == "truncated" else b"")
    found = checkpoints.newest(tmp_path, 2)
    assert found is not None
    assert found[0] == 1


def test_clear_leaves_what_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "predictions.npz").write_bytes(b"kept")
    checkpoints.clear(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.npz"]
