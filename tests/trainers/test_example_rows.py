"""Validation rows as people read them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from trainers.data import load
from trainers.data.examples import rows, table


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def validation_ids(dataset: Any) -> list[int]:
    return sorted({int(dataset.ids[i]) for split in dataset.splits for i in split.validation})


def test_images_keep_their_pixels_if_small_and_are_bright_enough_to_see(tmp_path: Path) -> None:
    dataset = load({"source": "digits"}, tmp_path, examples=50)
    found = table(dataset, 50)
    assert found is not None
    assert found.column_names == ["id", "image"]
    assert json.loads(found.schema.metadata[b"hpo"]) == {"kind": "images"}
    position = {int(id_): place for place, id_ in enumerate(dataset.ids)}
    for row in found.to_pylist():
        image = opened(row["image"])
        assert (image.format, image.mode) == ("PNG", "L")
        greys = dataset.inputs[position[row["id"]]][0].numpy().astype(int)  # 0 … 16
        assert np.array_equal(np.asarray(image), greys * 255 // 16)


def test_large_images_are_made_small(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = image_folder(each=5, size=(200, 100))
    found = table(load({"source": str(folder), "test": 0.0}, tmp_path / "cache"), 10)
    assert found is not None
    image = opened(found["image"][0].as_py())
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 48))
    assert found.nbytes < 10 * 96 * 48 * 3


@pytest.mark.parametrize("more", [{}, {"folds": 4}], ids=["one split", "folds"])
@pytest.mark.parametrize("most", [1, 7, 100_000])
def test_rows_are_spread_over_the_validation_rows_and_always_the_same(
    tmp_path: Path, most: int, more: dict[str, int]
) -> None:
    dataset = load({"source": "wine", **more}, tmp_path, examples=most)
    possible = validation_ids(dataset)
    found = table(dataset, most)
    assert found is not None
    ids = found["id"].to_pylist()
    assert len(ids) == min(most, len(possible))
    assert set(ids) <= set(possible)  # so no test row is among them
    places = [possible.index(id_) for id_ in ids]
    gaps = np.diff(places)
    assert places[0] == 0
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    again = table(load({"source": "wine", **more}, tmp_path, examples=most), most)
    assert again is not None
    assert again.equals(found)


def test_a_table_s_rows_are_as_in_the_source_with_every_column(tmp_path: Path) -> None:
    source = pd.DataFrame(
        {
            "id": [f"customer {i}" for i in range(40)],
            "age": [None if i % 7 == 0 else float(i) for i in range(40)],
            "city": ["Ulm", "Bonn"] * 20,
            "left": ["no", "yes", "yes", "no"] * 10,
        }
    )
    source.to_csv(tmp_path / "churn.csv", index=False)
    section = {"source": str(tmp_path / "churn.csv"), "target": "left", "ignore": ["id"]}
    found = table(load(section, tmp_path, examples=5), 5)
    assert found is not None
    assert found.column_names == ["id", "id_", "age", "city", "left"]
    assert json.loads(found.schema.metadata[b"hpo"]) == {"kind": "table"}
    frame = found.to_pandas()
    expected = source.iloc[frame["id"]].reset_index(drop=True).rename(columns={"id": "id_"})
    pd.testing.assert_frame_equal(frame.drop(columns="id"), expected, check_dtype=False)


def test_values_of_many_kinds_become_text(tmp_path: Path) -> None:
    source = pd.DataFrame({"odd": [1, "two", None, 3.5] * 10, "y": [0, 1] * 20})
    dataset = load_frame(source, tmp_path)
    found = table(dataset, 8)
    assert found is not None
    assert found.schema.field("odd").type == pa.string()
    assert set(found["odd"].to_pylist()) <= {"1", "two", None, "3.5"}


def load_frame(frame: pd.DataFrame, folder: Path) -> Any:
    """A data set whose examples have the objects of `frame`, as no file of ours can hold them."""
    from dataclasses import replace

    frame.astype({"odd": str}).to_csv(folder / "odd.csv", index=False)
    section = {"source": str(folder / "odd.csv"), "target": "y"}
    dataset = load(section, folder, examples=8)
    shown = dataset.ids.numpy()[rows(dataset.splits, 8)]
    return replace(dataset, originals=frame.iloc[shown].reset_index(drop=True))


def test_a_table_loaded_without_examples_has_none(tmp_path: Path) -> None:
    dataset = load({"source": "wine"}, tmp_path)
    assert dataset.originals is None
    assert table(dataset, 5) is None
