"""The picture of the guide's page on augmentation: a photo that is not square, brought to a size.

``python docs/pictures/resized.py``, in the repository's root. The photo is scikit-learn's.
"""

from __future__ import annotations

from typing import get_args

from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image

from trainers.data.decode import Form
from trainers.options import Resize

SIDE_PX, GAP_PX, TEXT_PX = 192, 16, 30


def main() -> None:
    photo = Image.fromarray(load_sample_image("china.jpg"))
    wide = photo.resize((photo.width * SIDE_PX // photo.height, SIDE_PX))
    shown = {"as it is": wide}
    for resize in get_args(Resize):
        pixels = Form("RGB", (SIDE_PX, SIDE_PX), resize).of(photo)
        shown[f"resize: {resize}"] = Image.fromarray(pixels.transpose(1, 2, 0))
    width = sum(image.width + GAP_PX for image in shown.values()) - GAP_PX
    picture = Image.new("RGB", (width, SIDE_PX + TEXT_PX), "white")
    pen, font, x = ImageDraw.Draw(picture), ImageFont.load_default(18), 0
    for name, image in shown.items():
        pen.text((x, 0), name, "black", font)
        picture.paste(image, (x, TEXT_PX))
        x += image.width + GAP_PX
    picture.quantize(128).save("docs/pictures/resized.png", optimize=True)


if __name__ == "__main__":
    main()
