"""A trial's checkpoints: ``epoch-12.pt`` with its sha256 beside it, the newest two kept.

Two, because the newest may be of an epoch that was not on record yet when everything stopped, and
because a file can be damaged: `torch.load` alone accepts a flipped bit.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.paths import replacing

log = logging.getLogger(__name__)


def write(folder: Path, epoch: int, state: Mapping[str, Any]) -> None:
    """Write `state` as the checkpoint of `epoch` (1-based) and drop all but the newest two."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    path = folder / f"epoch-{epoch}.pt"
    with replacing(path.with_suffix(".sha256")) as file:
        file.write(hashlib.sha256(content).hexdigest().encode())
    with replacing(path) as file:
        file.write(content)
    for old in _epochs(folder)[:-2]:
        _path(folder, old).unlink(missing_ok=True)
        _path(folder, old).with_suffix(".sha256").unlink(missing_ok=True)


def newest(folder: Path, at_most: int) -> tuple[int, dict[str, Any]] | None:
    """The newest undamaged checkpoint of an epoch ≤ `at_most`, as (epoch, state), or None.

    Only tensors and plain containers are loaded (``weights_only=True``), and only from a file
    whose sha256 is the one recorded when it was written.
    """
    import torch

    for epoch in reversed(_epochs(folder)):
        if epoch > at_most:
            continue
        path = _path(folder, epoch)
        content = path.read_bytes()
        recorded = path.with_suffix(".sha256")
        if not recorded.is_file() or recorded.read_text() != hashlib.sha256(content).hexdigest():
            log.warning("checkpoint %s is damaged; going back to the one before", path)
            continue
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
        return epoch, state
    return None


def clear(folder: Path) -> None:
    """Delete a finished trial's checkpoints; what else is in its folder stays."""
    for epoch in _epochs(folder):
        _path(folder, epoch).unlink(missing_ok=True)
        _path(folder, epoch).with_suffix(".sha256").unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Delete everything an earlier, unrecorded attempt left in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch}.pt"


def _epochs(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("epoch-")) for path in folder.glob("epoch-*.pt"))
