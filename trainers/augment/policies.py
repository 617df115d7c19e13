"""RandAugment (Cubuk et al. 2020) and TrivialAugment (Müller and Hutter 2021).

Operations and the ranges of their magnitudes are those of torchvision's `RandAugment` and
`TrivialAugmentWide`; what they do is done to all rows that drew the same at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainers.augment import colour, geometry

BINS = 31  # of magnitudes, 0 to 30

# (n, C, H, W) in [0, 1] and a magnitude a row → images.
Operation = Callable[[Tensor, Tensor], Tensor]

OPERATIONS: Mapping[str, Operation] = {
    "Identity": lambda images, _: images,
    "ShearX": geometry.sheared_x,
    "ShearY": geometry.sheared_y,
    "TranslateX": geometry.moved_x,
    "TranslateY": geometry.moved_y,
    "Rotate": geometry.rotated,
    "Brightness": lambda images, by: colour.brightness(images, 1 + by),
    "Color": lambda images, by: colour.saturation(images, 1 + by),
    "Contrast": lambda images, by: colour.contrast(images, 1 + by),
    "Sharpness": lambda images, by: colour.sharpness(images, 1 + by),
    "Posterize": colour.posterize,
    "Solarize": colour.solarize,
    "AutoContrast": colour.autocontrast,
    "Equalize": colour.equalize,
}
WITHOUT_SIGN = ("Identity", "Posterize", "Solarize", "AutoContrast", "Equalize")


def magnitudes(policy: str, height: int, width: int) -> NDArray[np.float64]:
    """(operations, BINS), in the order of `OPERATIONS`, without signs.

    Args:
        policy: randaugment or trivialaugment, whose ranges are wider.
    """
    wide = policy == "trivialaugment"
    blend, shear = (0.99, 0.99) if wide else (0.9, 0.3)
    ends = {
        "ShearX": (0, shear),
        "ShearY": (0, shear),
        "TranslateX": (0, 32 if wide else 150 / 331 * width),  # pixels
        "TranslateY": (0, 32 if wide else 150 / 331 * height),
        "Rotate": (0, 135 if wide else 30),  # degrees
        "Posterize": (8, 2 if wide else 4),  # bits
        "Solarize": (1, 0),
    } | dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), (0, blend))
    table = np.array([np.linspace(*ends.get(name, (0, 0)), BINS) for name in OPERATIONS])
    bits = list(OPERATIONS).index("Posterize")
    table[bits] = table[bits].round()
    return table


def draw(
    random: np.random.Generator,
    policy: str,
    magnitude: int,
    rows: int,
    shape: tuple[int, int],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """An operation a row, by its place in `OPERATIONS`, and its magnitude.

    Args:
        magnitude: The bin, of randaugment; trivialaugment draws it for each row.
    """
    operation = random.integers(0, len(OPERATIONS), rows)
    bins = random.integers(0, BINS, rows) if policy == "trivialaugment" else magnitude
    value = magnitudes(policy, *shape)[operation, bins]
    signed = np.array([name not in WITHOUT_SIGN for name in OPERATIONS])[operation]
    negative = signed & (random.random(rows) < 0.5)
    return operation, np.where(negative, -value, value)


def applied(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Each image after its own operation.

    Args:
        operation: (n,) int64 as `draw` gives it, in main memory; below 0: none.
        magnitude: (n,).
    """
    for place, function in enumerate(OPERATIONS.values()):
        images = on_some(images, operation == place, function, magnitude)
    return images


def on_some(images: Tensor, which: Tensor, function: Operation, numbers: Tensor) -> Tensor:
    """All of them, those of `which` (n,) after `function` with their numbers."""
    rows = which.nonzero().squeeze(1)
    if len(rows) == 0:
        return images
    there = rows.to(images.device)
    return images.index_copy(0, there, function(images[there], numbers[rows]))
