"""The picture of the guide's page on augmentation: digits, as a network is shown them.

``python docs/pictures/augmented.py``, in the repository's root.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from trainers.augment import draw
from trainers.data import load
from trainers.options import Augment, ImageData

CLASSES = (3, 5, 7, 2)
TIMES = 3  # each is shown
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"flip": 1.0},
    {"crop": 2},
    {"resized_crop": 0.5},
    {"rotation": 30},
    {"contrast": 0.8},
    {"policy": "randaugment", "magnitude": 14},
    {"policy": "trivialaugment"},
    {"erase": 1.0},
    {"mixup": 2.0},
    {"cutmix": 1.0},
)
SIDE_PX, GAP_PX, LEFT_PX = 72, 6, 190


def main() -> None:
    section = ImageData(source="digits").model_dump(mode="json")
    with tempfile.TemporaryDirectory() as cache:
        split = load(section, Path(cache)).splits[0]
    rows = torch.tensor([int((split.target == one).nonzero()[1]) for one in CLASSES * TIMES])
    assert split.mean is not None
    assert split.std is not None
    step = SIDE_PX + GAP_PX
    picture = Image.new("L", (LEFT_PX + len(rows) * step, len(SETTINGS) * step + GAP_PX), 255)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(18)
    for line, own in enumerate(SETTINGS):
        y = line * step + GAP_PX
        name = ", ".join(str(v) if k == "policy" else f"{k}: {v:g}" for k, v in own.items())
        pen.text((8, y + SIDE_PX // 2 - 10), name.partition(",")[0] or "as they are", 0, font)
        augment = Augment(**own).model_dump(mode="json")
        drawn = draw(augment, [len(rows)], tuple(split.inputs.shape[1:]), (4, line), 1)
        shown = split.batch(rows, drawn)[0] * split.std + split.mean
        for place, pixels in enumerate(255 * (1 - (shown / split.white).clamp(0, 1))):
            image = Image.fromarray(pixels[0].byte().numpy())
            x = LEFT_PX + place * step
            picture.paste(image.resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST), (x, y))
            pen.rectangle((x, y, x + SIDE_PX - 1, y + SIDE_PX - 1), outline=190)
    picture.save("docs/pictures/augmented.png", optimize=True)


if __name__ == "__main__":
    main()
