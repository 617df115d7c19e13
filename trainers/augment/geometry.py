"""Where pixels go: crops, flips, and affine maps. What comes from outside of the image is black.

Images are (n, C, H, W); each row has numbers of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad


def cropped(images: Tensor, shift: Tensor) -> Tensor:
    """The part of each image that a frame of its size covers which is moved by some pixels.

    Args:
        shift: (n, 2) int64, down and to the right.
    """
    most = int(shift.abs().max())
    height, width = images.shape[2:]
    frames = pad(images, (most, most, most, most)).unfold(2, height, 1).unfold(3, width, 1)
    down, right = (shift + most).to(images.device).unbind(1)
    return frames[torch.arange(len(images), device=images.device), :, down, right]


def flipped(images: Tensor, which: Tensor, dim: int) -> Tensor:
    """Those of `which` (n,) mirrored along a dimension."""
    return torch.where(which.to(images.device)[:, None, None, None], images.flip(dim), images)


def resized(images: Tensor, box: Tensor) -> Tensor:
    """A box of each, scaled to the whole image's size: bilinear.

    Args:
        box: (n, 4) int64: top, left, height and width.
    """
    top, left, height, width = box.to(images).unbind(1)
    y = _along(images.shape[2], top, height)
    x = _along(images.shape[3], left, width)
    shape = (len(images), *images.shape[2:])
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], 3)
    return grid_sample(images, grid, align_corners=False)


def _along(size: int, start: Tensor, length: Tensor) -> Tensor:
    """(n, size): from where each place comes, in what `grid_sample` counts (-1 … 1).

    As ``interpolate`` of the box alone: beyond its outermost pixels there is more of the same.
    """
    place = torch.arange(size, device=start.device) + 0.5
    own = (place * (length[:, None] / size) - 0.5).clamp(min=0).minimum(length[:, None] - 1)
    return (2 * (own + start[:, None]) + 1) / size - 1


def rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """Turned counter-clockwise about the middle, by (n,) degrees each: bilinear."""
    angle = degrees.to(images).deg2rad()
    sine, cosine, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
    return _mapped(images, (cosine, -sine, zero), (sine, cosine, zero))


def sheared_x(images: Tensor, by: Tensor) -> Tensor:
    """Rows moved to the left, by a share of how far below the upper edge they are."""
    by = by.to(images)
    one, zero = torch.ones_like(by), torch.zeros_like(by)
    return _mapped(images, (one, by, by * (images.shape[2] / 2)), (zero, one, zero))


def sheared_y(images: Tensor, by: Tensor) -> Tensor:
    """Columns moved up, by a share of how far from the left edge they are."""
    by = by.to(images)
    one, zero = torch.ones_like(by), torch.zeros_like(by)
    return _mapped(images, (one, zero, zero), (by, one, by * (images.shape[3] / 2)))


def moved_x(images: Tensor, by: Tensor) -> Tensor:
    """To the right, by whole pixels (what is after the point is cut)."""
    by = by.to(images).trunc()
    one, zero = torch.ones_like(by), torch.zeros_like(by)
    return _mapped(images, (one, zero, -by), (zero, one, zero))


def moved_y(images: Tensor, by: Tensor) -> Tensor:
    """Down, likewise."""
    by = by.to(images).trunc()
    one, zero = torch.ones_like(by), torch.zeros_like(by)
    return _mapped(images, (one, zero, zero), (zero, one, -by))


def _mapped(
    images: Tensor, of_x: tuple[Tensor, Tensor, Tensor], of_y: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Each pixel from (a·x + b·y + c, …), in pixels from the middle of the image.

    Written out, not as a product: its last digits could depend on how many images there are.
    """
    height, width = images.shape[2:]
    x = (torch.arange(width, device=images.device) + 0.5 - width / 2)[None, None, :]
    y = (torch.arange(height, device=images.device) + 0.5 - height / 2)[None, :, None]
    source = [
        (a[:, None, None] * x + b[:, None, None] * y + c[:, None, None]) * (2 / size)
        for (a, b, c), size in ((of_x, width), (of_y, height))
    ]
    return grid_sample(images, torch.stack(source, 3), align_corners=False)


def inside(box: Tensor, images: Tensor) -> Tensor:
    """(n, 1, H, W) bool: whether a pixel lies in its image's box: top, left, height, width."""
    top, left, height, width = box.to(images.device)[:, :, None].unbind(1)
    y = torch.arange(images.shape[2], device=images.device)
    x = torch.arange(images.shape[3], device=images.device)
    rows, columns = (y >= top) & (y < top + height), (x >= left) & (x < left + width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
