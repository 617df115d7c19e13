"""Bad files among the data: refused before the first trial, or the study goes on without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from workbench import Workbench

from hpo.errors import StudyFileError

SETTINGS: dict[str, Any] = {
    "trainer": "image_classifier",
    "train": {"epochs": 1, "batch_size": 8},
    "model": {"name": "mlp", "hidden": [4]},
    "search": {"train.lr": {"low": 0.01, "high": 0.1}},
    "objective": {"metric": "val/loss", "goal": "minimize"},
    "budget__trials": 2,
}


@pytest.fixture
def photos(bench: Workbench) -> Path:
    """Twelve images of each of two classes, of which three files are none."""
    for place, name in enumerate(("cat", "dog")):
        (bench.folder / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.full((8, 8), 100 * place + number, np.uint8)
            Image.fromarray(pixels).save(bench.folder / "photos" / name / f"{number:02}.jpg")
    torn, empty, text = sorted((bench.folder / "photos" / "cat").iterdir())[:3]
    torn.write_bytes(torn.read_bytes()[:200])
    empty.write_bytes(b"")
    text.write_text("no image")
    return bench.folder / "photos"


def test_row_17_a_corrupt_image_is_named_before_anything_is_created(
    bench: Workbench, photos: Path
) -> None:
    with pytest.raises(StudyFileError) as refused:
        bench.run(data={"source": str(photos)}, **SETTINGS)
    told = str(refused.value)
    assert "3 of 24 files are not readable images: cat/00.jpg (" in told
    assert "cat/01.jpg (" in told
    assert "skip_bad: true leaves them out" in told
    assert not bench.paths.root.exists()


def test_row_17_what_is_skipped_is_counted_and_recorded(bench: Workbench, photos: Path) -> None:
    bench.run(data={"source": str(photos), "skip_bad": True}, **SETTINGS)
    assert [end["state"] for end in bench.records("end")] == ["complete"] * 2
    assert any("21 rows" in said for said in bench.said)
    assert any("3 left out, unreadable: cat/00.jpg (" in said for said in bench.said)
    (study,) = bench.records("study")
    assert [name.split(" ")[0] for name in study["dataset"]["skipped"]] == [
        "cat/00.jpg",
        "cat/01.jpg",
        "cat/02.jpg",
    ]
