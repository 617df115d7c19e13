"""Keeping some of a study's validation rows, beside the training of its first trial."""

from __future__ import annotations

import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.paths import replacing

if TYPE_CHECKING:
    from trainers.data import Dataset


def keep(dataset: Dataset, count: int, path: Path) -> threading.Thread:
    """Write the examples of `dataset` to `path`, whole or not at all.

    What goes wrong is printed: it is not worth a study.

    Returns:
        The thread that does so; the process should not end before it.
    """
    thread = threading.Thread(target=_keep, args=(dataset, count, path), daemon=True)
    thread.start()
    return thread


def _keep(dataset: Dataset, count: int, path: Path) -> None:
    try:
        from pyarrow import parquet

        from trainers.data.examples import table

        found = table(dataset, count)
        if found is not None:
            with replacing(path) as file:
                parquet.write_table(found, file, compression="zstd")
    except Exception:
        traceback.print_exc()
