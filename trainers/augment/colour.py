"""What pixels become. Images are (n, C, H, W) float32 in [0, 1], with numbers of their own a row.

torchvision does the work: a factor of 0 gives what an image is blended with (black, its mean, its
grey, its smooth version), of all images at once, and each is blended by its own factor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _kernel(name: str) -> Callable[..., Tensor]:
    from torchvision.transforms.v2 import functional  # takes a second, and not all need it

    function: Callable[..., Tensor] = getattr(functional, name)
    return function


def _each(numbers: Tensor, images: Tensor) -> Tensor:
    return numbers.to(images)[:, None, None, None]


def _blended(adjust: str, images: Tensor, factor: Tensor) -> Tensor:
    other, own = _kernel(adjust)(images, 0.0), _each(factor, images)
    return (images * own + other * (1 - own)).clamp_(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """0: black, 1: as it is."""
    return _blended("adjust_brightness", images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """0: the mean grey of the image, 1: as it is."""
    return _blended("adjust_contrast", images, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """0: grey, 1: as it is."""
    return _blended("adjust_saturation", images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """0: smooth, 1: as it is. Images below 3 × 3 pixels stay as they are."""
    return _blended("adjust_sharpness", images, factor)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Hues turned by a share of the circle; grey has none.

    torchvision turns all images of a batch alike. This is the same in HSV, written in one formula
    (each channel is value − chroma · max(0, min(k, 4 − k, 1)), k = (5, 3, 1) + hue, modulo 6).
    """
    if images.shape[1] == 1:
        return images
    high, low = images.amax(1), images.amin(1)
    chroma = high - low
    red, green, blue = images.unbind(1)
    some = torch.where(chroma == 0, 1, chroma)
    sixth = torch.where(
        high == red,
        (green - blue) / some,
        torch.where(high == green, (blue - red) / some + 2, (red - green) / some + 4),
    )
    first = torch.tensor([5.0, 3.0, 1.0], device=images.device)[:, None, None]
    k = (first + sixth[:, None] + 6 * _each(turn, images)).remainder(6)
    return high[:, None] - chroma[:, None] * k.minimum(4 - k).clamp(0, 1)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """As many bits a channel."""
    levels = 2 ** _each(bits, images)
    return (images * levels).floor().minimum(levels - 1) / levels


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """The negative, of pixels from the threshold on."""
    return torch.where(images >= _each(threshold, images), 1 - images, images)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Each channel from 0 to 1."""
    return _kernel("autocontrast")(images)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Each channel's histogram made flat."""
    return _kernel("equalize")(images)
