"""Augmentation of training images: on the device, on whole batches, with draws of its own a row.

What happens to each row of an epoch is drawn beforehand, from the lane's seed and the epoch alone
(`draws`). The operations then take the rows of a batch, or of all lanes of a stack, at once and
touch only those that drew them. So a row comes out the same, to the last bit, whatever is beside
it, and validation rows, which draw nothing, are never touched.

In this order: crop, flips, resized crop, rotation; brightness, contrast, saturation, hue;
RandAugment or TrivialAugment; and of the standardized image erasing, then mixup or cutmix.
"""

from __future__ import annotations

from trainers.augment.draws import Drawn, draw, stacked

__all__ = ["Drawn", "draw", "stacked"]
