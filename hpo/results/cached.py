"""What was read of a study, kept in a file: its epochs as Arrow, everything else as JSON.

A file that is damaged, of another format or not there gives None: read the study anew. So it may
be deleted at any time.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.paths import replacing

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 3  # of the file, and of what is in it
_CRC_BYTES = 4  # at the end, of all before: Arrow reads flipped bits as other numbers


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """The epochs and the rest, as `write` was given them."""
    import pyarrow as pa

    try:
        content = path.read_bytes()
        body, crc = content[:-_CRC_BYTES], content[-_CRC_BYTES:]
        if zlib.crc32(body).to_bytes(_CRC_BYTES, "big") != crc:
            return None
        table = pa.ipc.open_file(pa.py_buffer(body)).read_all()
        kept: dict[str, Any] = json.loads(table.schema.metadata[b"hpo"])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None
    if kept.pop("format", None) != FORMAT:
        return None
    return table.replace_schema_metadata().to_pandas(), kept


def write(path: Path, epochs: pd.DataFrame, kept: Mapping[str, Any]) -> None:
    """Keep both.

    Raises:
        OSError: The file cannot be written.
    """
    import pyarrow as pa

    table = pa.Table.from_pandas(epochs, preserve_index=False)
    text = json.dumps({"format": FORMAT, **kept})
    table = table.replace_schema_metadata({b"hpo": text.encode()})
    lz4 = pa.ipc.IpcWriteOptions(compression="lz4")
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema, options=lz4) as to:
        to.write_table(table)
    body = buffer.getvalue()
    with replacing(path) as file:
        file.write(body)
        file.write(zlib.crc32(body).to_bytes(_CRC_BYTES, "big"))
