"""Some of the validation rows as people read them, to look at what models disagree on.

Images are what the model is given, made smaller; rows of a table and texts are as they are in the
source, with every column. The test rows are never among them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainers.data.splits import Rows

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from trainers.data.dataset import Dataset, Split

DARK = 64  # pictures without a brighter pixel are made brighter
LONGEST_PX = 96
LOSSLESS_PX = 32  # up to here every pixel counts, and costs nothing


def rows(splits: Sequence[Split], most: int) -> Rows:
    """Rows to show, spread evenly over all that any split validates on; always the same.

    Returns:
        (n,) int64 rows of the splits' inputs, ascending, n ≤ `most`; the first is among them.
    """
    validation = np.unique(np.concatenate([split.validation.numpy() for split in splits]))
    count = min(most, len(validation))
    return validation[np.arange(count) * len(validation) // max(1, count)]


def table(dataset: Dataset, most: int) -> pa.Table | None:
    """The examples of a data set that was loaded with as many.

    Returns:
        ``id`` (int64, the row's number in the source, as in predictions), and ``image`` (PNG or
        JPEG) or the columns of the source, of which one named ``id`` is called ``id_`` here. The
        schema's metadata ``hpo`` says which: ``{"kind": "images"}``, ``"table"`` or ``"text"``.
        None: there are none.
    """
    import pyarrow as pa

    chosen = rows(dataset.splits, most)
    if len(chosen) == 0:
        return None
    if dataset.kind == "images":
        columns = {"image": pa.array(_encoded(dataset.inputs.numpy()[chosen]), pa.binary())}
    elif dataset.originals is not None:
        columns = _columns(dataset.originals)
    else:
        return None
    found = pa.table({"id": dataset.ids.numpy()[chosen], **columns})
    return found.replace_schema_metadata({b"hpo": json.dumps({"kind": dataset.kind}).encode()})


def _encoded(images: NDArray[np.uint8]) -> list[bytes]:
    """Each of (N, C, H, W) uint8 images as the content of a file."""
    brightest = int(images.max(initial=0))
    if 0 < brightest < DARK:  # as the digits with their 16 greys: nobody could see them
        images = (images.astype(np.uint16) * 255 // brightest).astype(np.uint8)
    with ThreadPoolExecutor(4) as pool:  # Pillow lets go of the lock
        return list(pool.map(_file, images.transpose(0, 2, 3, 1)))


def _file(pixels: Any) -> bytes:
    from PIL import Image

    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((LONGEST_PX, LONGEST_PX))
    content = io.BytesIO()
    if max(image.size) <= LOSSLESS_PX:
        image.save(content, "PNG")
    else:
        image.save(content, "JPEG", quality=90)
    return content.getvalue()


def _columns(frame: pd.DataFrame) -> dict[str, Any]:
    import pyarrow as pa

    columns = {}
    for place, name in enumerate(map(str, frame.columns)):
        while name == "id" or name in columns:
            name += "_"
        values = frame.iloc[:, place]
        try:
            columns[name] = pa.array(values, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):  # of many kinds
            columns[name] = pa.array([None if v is None else str(v) for v in values], pa.string())
    return columns
