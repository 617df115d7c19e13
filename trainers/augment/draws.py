"""What happens to each row of an epoch: drawn at once, and done batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.augment import colour, geometry, policies
from trainers.augment.policies import Operation, on_some

PURPOSE = 2  # of the seed: an epoch's order and its dropout have other ones
TRIES = 10  # at a box that fits; as torchvision
CROP_RATIO = (3 / 4, 4 / 3)  # width to height, both as shares of the image's; as torchvision
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # as torchvision

# What a row has in a column when nothing happens to it.
NEUTRAL: Mapping[str, float] = {
    "shift": 0,
    "flip": 0,
    "flip_vertical": 0,
    "window": 0,
    "degrees": 0.0,
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "hue": 0.0,
    "erased": 0,
    "partner": 0,
    "share": 1.0,
    "blend": 1.0,
    "patch": 0,
}

# By column, what is done to pixels between black (0) and white (1), in this order; then policies.
DONE: Mapping[str, Operation] = {
    "window": geometry.resized,
    "degrees": geometry.rotated,
    "brightness": colour.brightness,
    "contrast": colour.contrast,
    "saturation": colour.saturation,
    "hue": colour.hue,
}


@dataclass(frozen=True)
class Drawn:
    """Columns by name, in main memory; those that are not there are of no row.

    Attributes:
        columns: (…, B) or, with several numbers a row, (…, B, n); B the rows of a batch.
            shift: down and to the right, pixels, of the crop.
            flip, flip_vertical: 1: mirrored.
            window: top, left, height and width of the box that is made as large as the image.
            degrees, brightness, contrast, saturation, hue: see `geometry` and `colour`.
            operation/K, magnitude/K: of `policies`, the K-th that is done.
            erased: top, left, height and width of a box.
            partner: how many rows further the row lies that is mixed in.
            share: of the row's own class in its target, at least about a half.
            blend: of its own pixels in all pixels (mixup).
            patch: top, left, height and width of the box that shows the partner (cutmix).
    """

    columns: Mapping[str, Tensor]

    def some(self, rows: Any) -> Drawn:
        """The same of some rows, by what a tensor takes as its index."""
        return Drawn({name: column[rows] for name, column in self.columns.items()})

    def flat(self) -> Drawn:
        """Columns of some steps of some lanes, (s, K, B, …), as those of one batch."""
        return Drawn({name: column.flatten(0, 2) for name, column in self.columns.items()})

    @property
    def mixes(self) -> bool:
        """Whether targets are of two classes."""
        return "share" in self.columns

    def before(self, pixels: Tensor, white: int) -> Tensor:
        """What becomes of pixels before they are standardized.

        Args:
            pixels: (n, C, H, W) from 0 to `white`; not changed.

        Returns:
            The same, as integers if they were and still are.
        """
        own = self.columns
        if "shift" in own:
            pixels = geometry.cropped(pixels, own["shift"])
        for name, dim in (("flip", 3), ("flip_vertical", 2)):
            if name in own:
                pixels = geometry.flipped(pixels, own[name] > 0, dim)
        rows = self._touched().nonzero().squeeze(1)
        if len(rows) == 0:
            return pixels
        # Only these, and the others not even scaled: what a row is must not depend on its company.
        there = rows.to(pixels.device)
        pixels = pixels.float()
        changed = self.some(rows)._changed(pixels[there] / white)
        return pixels.index_copy(0, there, changed * white)

    def after(self, inputs: Tensor) -> Tensor:
        """What becomes of standardized images (n, C, H, W), of whole batches; may write there."""
        own = self.columns
        if "erased" in own:
            inputs = inputs.masked_fill(geometry.inside(own["erased"], inputs), 0)
        if not self.mixes:
            return inputs
        others = inputs[(torch.arange(len(inputs)) + own["partner"]).to(inputs.device)]
        if "blend" in own:
            blend = own["blend"].to(inputs)[:, None, None, None]
            inputs = inputs * blend + others * (1 - blend)
        if "patch" in own:
            inputs = torch.where(geometry.inside(own["patch"], inputs), others, inputs)
        return inputs

    def partners(self, target: Tensor) -> Tensor:
        """(…, B) targets → those of the rows that are mixed in."""
        place = torch.arange(target.shape[-1]) + self.columns["partner"]
        return target.gather(-1, place.to(target.device))

    def _touched(self) -> Tensor:
        """(n,) bool: to which rows `_changed` does something."""
        which = torch.zeros(len(next(iter(self.columns.values()))), dtype=torch.bool)
        for name, column in self.columns.items():
            if name in DONE or name.startswith("operation/"):
                which |= _differs(name, column)
        return which

    def _changed(self, images: Tensor) -> Tensor:
        for name, function in DONE.items():
            if name in self.columns:
                column = self.columns[name]
                images = on_some(images, _differs(name, column), function, column)
        for name, column in self.columns.items():
            if name.startswith("operation/"):
                magnitude = self.columns[name.replace("operation", "magnitude")]
                images = policies.applied(images, column, magnitude)
        return images


def neutral(name: str) -> float:
    """What is in a column where nothing happens."""
    return -1.0 if name.startswith("operation/") else NEUTRAL.get(name, 0.0)


def _differs(name: str, column: Tensor) -> Tensor:
    return (column != neutral(name)).reshape(len(column), -1).any(1)


def draw(
    settings: Mapping[str, Any],
    batches: Sequence[int],
    shape: tuple[int, ...],
    seed: tuple[int, ...],
    epoch: int,
) -> Drawn | None:
    """What happens to the rows of an epoch, in the order in which they come; None: nothing.

    Args:
        settings: The section ``train.augment``, with every default.
        batches: How many rows each has.
        shape: (channels, height, width) of an image.
    """
    random = np.random.default_rng((*seed, epoch, PURPOSE))
    rows, (height, width) = sum(batches), shape[1:]
    columns: dict[str, NDArray[Any]] = {}
    if settings["crop"]:
        columns["shift"] = random.integers(-settings["crop"], settings["crop"] + 1, (rows, 2))
    for name in ("flip", "flip_vertical"):
        if settings[name]:
            columns[name] = (random.random(rows) < settings[name]).astype(np.uint8)
    if settings["resized_crop"] < 1:
        columns["window"] = _windows(random, rows, settings["resized_crop"], height, width)
    if settings["rotation"]:
        columns["degrees"] = random.uniform(-settings["rotation"], settings["rotation"], rows)
    for name in ("brightness", "contrast", "saturation"):
        if settings[name]:
            columns[name] = random.uniform(1 - settings[name], 1 + settings[name], rows)
    if settings["hue"]:
        columns["hue"] = random.uniform(-settings["hue"], settings["hue"], rows)
    policy = settings["policy"]
    if policy != "none":
        for number in range(settings["operations"] if policy == "randaugment" else 1):
            drawn = policies.draw(random, policy, settings["magnitude"], rows, (height, width))
            columns[f"operation/{number}"], columns[f"magnitude/{number}"] = drawn
    if settings["erase"]:
        columns["erased"] = _erased(random, rows, settings["erase"], height, width)
    if settings["mixup"] or settings["cutmix"]:
        columns |= _mixed(random, settings, batches, height, width)
    if not columns:
        return None
    return Drawn({name: torch.from_numpy(column) for name, column in columns.items()})


def stacked(lanes: Sequence[tuple[Drawn | None, int]], steps: int, width: int) -> Drawn | None:
    """What happens in an epoch of several lanes: columns (steps, K, width, …).

    Args:
        lanes: What each drew, and its batch size; where it has no row nothing happens.
        steps: Of the lane with the most.
        width: The largest batch.
    """
    known = {name: of.columns[name] for of, _ in lanes if of is not None for name in of.columns}
    columns = {}
    for name, like in known.items():
        column = like.new_full((len(lanes), steps, width, *like.shape[1:]), neutral(name))
        for place, (of, batch) in enumerate(lanes):
            if of is not None and name in of.columns:
                own = of.columns[name]
                whole = len(own) // batch
                rest = len(own) - whole * batch
                column[place, :whole, :batch] = own[: whole * batch].view(
                    whole, batch, *own.shape[1:]
                )
                if rest:
                    column[place, whole, :rest] = own[-rest:]
        columns[name] = column.transpose(0, 1)
    return Drawn(columns) if columns else None


def _windows(
    random: np.random.Generator, rows: int, least: float, height: int, width: int
) -> NDArray[np.int64]:
    """(rows, 4) boxes of at least a share of the area; all of the image where none was found."""
    area = random.uniform(least, 1, (rows, TRIES))
    ratio = _ratios(random, rows, CROP_RATIO)
    high = np.rint(height * np.sqrt(area / ratio)).astype(np.int64)
    wide = np.rint(width * np.sqrt(area * ratio)).astype(np.int64)
    fits = (high > 0) & (high <= height) & (wide > 0) & (wide <= width)
    box = _placed(random, high, wide, fits, height, width)
    box[~fits.any(1)] = (0, 0, height, width)
    return box


def _erased(
    random: np.random.Generator, rows: int, share: float, height: int, width: int
) -> NDArray[np.int64]:
    """(rows, 4) boxes, empty in rows that keep all (Zhong et al. 2020)."""
    area = random.uniform(*ERASED_AREA, (rows, TRIES)) * (height * width)
    ratio = _ratios(random, rows, ERASED_RATIO)
    high = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    wide = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (high < height) & (wide < width)
    box = _placed(random, high, wide, fits, height, width)
    box[~fits.any(1) | (random.random(rows) >= share)] = 0
    return box


def _ratios(
    random: np.random.Generator, rows: int, ends: tuple[float, float]
) -> NDArray[np.float64]:
    """(rows, TRIES), as many below 1 as above of ends that are each other's inverse."""
    low, high = np.log(ends)
    return np.exp(random.uniform(low, high, (rows, TRIES)))


def _placed(
    random: np.random.Generator,
    high: NDArray[np.int64],
    wide: NDArray[np.int64],
    fits: NDArray[np.bool_],
    height: int,
    width: int,
) -> NDArray[np.int64]:
    """(rows, 4): of each row's tries (rows, TRIES) the first that fits, somewhere in the image."""
    first = np.arange(len(fits)), fits.argmax(1)
    high, wide = high[first].clip(max=height), wide[first].clip(max=width)
    top, left = random.integers(0, height - high + 1), random.integers(0, width - wide + 1)
    return np.stack([top, left, high, wide], 1)


def _mixed(
    random: np.random.Generator,
    settings: Mapping[str, Any],
    batches: Sequence[int],
    height: int,
    width: int,
) -> dict[str, NDArray[Any]]:
    """Each row with the one before it in its batch: mixup (Zhang et al. 2018), or cutmix (Yun et
    al. 2019), or by lot one of the two.

    A row keeps the larger share. Shares of the smaller would be the same mixtures, of the pair
    taken the other way round.
    """
    rows = sum(batches)
    partner = np.full(rows, -1)
    first = np.cumsum([0, *batches[:-1]])
    partner[first] = np.array(batches) - 1
    cuts = np.full(rows, bool(settings["cutmix"]))
    if settings["mixup"] and settings["cutmix"]:
        cuts = random.random(rows) < 0.5
    alpha = np.where(cuts, settings["cutmix"], settings["mixup"])
    share = random.beta(alpha, alpha)
    share = np.maximum(share, 1 - share)
    # The box, about its middle, of which a part may lie outside.
    half = 0.5 * np.sqrt(1 - share)[:, None] * (height, width)
    middle = random.integers(0, (height, width), (rows, 2))
    start, end = middle - half.astype(np.int64), middle + half.astype(np.int64)
    start, end = start.clip(min=0), np.minimum(end, (height, width))
    patch = np.concatenate([start, end - start], 1)
    patch[~cuts] = 0
    left = 1 - patch[:, 2] * patch[:, 3] / (height * width)
    columns = {"partner": partner, "share": np.where(cuts, left, share)}
    if settings["mixup"]:
        columns["blend"] = np.where(cuts, 1.0, share)
    if settings["cutmix"]:
        columns["patch"] = patch
    return columns
