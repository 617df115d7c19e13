"""A trial's files of weights, each with its sha256 beside it: `torch.load` alone accepts a flipped
bit. Only tensors and plain containers are loaded (``weights_only=True``): no file runs code.
Beside the sha256 stands, as ``sha256sum`` writes it, which file of which trial it is of.

Its checkpoints are ``epoch-12.pt``, the newest two kept: two, because the newest may be of an
epoch that was not on record yet when everything stopped, and because a file can be damaged. The
weights of its best epoch are ``model.pt`` (`trainers.saved`).
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpo.fault_points import passing
from hpo.paths import replacing

log = logging.getLogger(__name__)

OF_COMMAND = "checkpoint"  # the folder in a trial's for what a command keeps by itself


class Damaged(ValueError):
    """A file is not what was written."""


def save(path: Path, content: Mapping[str, Any], check: Callable[[], None] = lambda: None) -> None:
    """Write `content`, of tensors and plain containers, as `path`, and its sha256 beside it.

    Args:
        check: As `hpo.paths.replacing` wants it.

    Raises:
        NoRoom: The disk has no room for it.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    written = buffer.getvalue()
    with replacing(path.with_suffix(".sha256"), check=check) as file:
        file.write(f"{hashlib.sha256(written).hexdigest()}  {_name(path)}\n".encode())
    passing("sha256-written")
    with replacing(path, len(written), check) as file:
        file.write(written)


def read(path: Path, *, in_place: bool = False) -> dict[str, Any]:
    """What `save` wrote.

    Args:
        in_place: Whether it must be the file that was written as this one, by name and folder.

    Raises:
        OSError: There is no such file, or it cannot be read.
        Damaged: Its content is not the one whose sha256 was recorded, or more than plain values;
            or it was written as another file.
    """
    import pickle

    import torch

    written, recorded = path.read_bytes(), path.with_suffix(".sha256")
    if not recorded.is_file():
        raise Damaged(f"{recorded.name} is missing beside it")
    sha256, _, name = recorded.read_bytes().partition(b"  ")
    if sha256 != hashlib.sha256(written).hexdigest().encode():
        raise Damaged(f"its sha256 is not that in {recorded.name}")
    if in_place and name != f"{_name(path)}\n".encode():
        raise Damaged(f"it was written as {name.decode(errors='replace').strip()}")
    try:
        content: Any = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise Damaged("it holds more than tensors and plain values") from error
    if not isinstance(content, dict):
        raise Damaged(f"it holds no dict but {type(content).__name__}")
    return content


def remove(path: Path) -> None:
    """Delete what `save` wrote, if it is there."""
    path.unlink(missing_ok=True)
    path.with_suffix(".sha256").unlink(missing_ok=True)


def write(
    folder: Path,
    epoch: int,
    state: Mapping[str, Any],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write `state` as the checkpoint of `epoch` (1-based) and drop all but the newest two.

    `check` is as in `save`.
    """
    save(_path(folder, epoch), state, check)
    for old in _epochs(folder)[:-2]:
        remove(_path(folder, old))


def newest(folder: Path, at_most: int) -> tuple[int, dict[str, Any]] | None:
    """The newest undamaged checkpoint of an epoch ≤ `at_most`, as (epoch, state), or None."""
    for epoch in reversed(_epochs(folder)):
        if epoch > at_most:
            continue
        path = _path(folder, epoch)
        try:
            return epoch, read(path, in_place=True)
        except (Damaged, OSError) as error:
            log.warning("checkpoint %s is damaged (%s); going back to the one before", path, error)
    return None


def size(folder: Path) -> int:
    """What a trial's checkpoints take of the disk, in bytes."""
    files = [_path(folder, epoch) for epoch in _epochs(folder)]
    return sum(path.stat().st_size for path in files)


def clear(folder: Path) -> None:
    """Delete a finished trial's checkpoints, half-written ones, too; what else is in its folder
    stays."""
    for suffix in (".pt", ".sha256"):
        for path in folder.glob(f"epoch-*{suffix}"):
            path.unlink(missing_ok=True)
    shutil.rmtree(folder / OF_COMMAND, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete everything an earlier, unrecorded attempt left in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)


def _name(path: Path) -> str:
    """A file's name from the folder of the study on: ``digits/trials/3/epoch-12.pt``."""
    return "/".join(path.absolute().parts[-4:])


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch}.pt"


def _epochs(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("epoch-")) for path in folder.glob("epoch-*.pt"))
