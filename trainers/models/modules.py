"""The layers of our own models that PyTorch has none for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainers.models.columns import Layout


class ImageBlock(nn.Module):
    """Two 3 × 3 convolutions with batch norm, around which a shortcut leads.

    The basic block of He et al. (2016), "Deep residual learning for image recognition"; where the
    shape changes, the shortcut is a 1 × 1 convolution (their option B).

    Args:
        stride: 2 halves height and width.
        skipped: How likely the block is skipped in training, drawn for each image: Huang et al.
            (2016), "Deep networks with stochastic depth".
    """

    def __init__(self, channels: int, width: int, stride: int, skipped: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        if skipped > 0:
            from torchvision.ops import StochasticDepth  # here, since it takes a second

            self.body.append(StochasticDepth(skipped, "row"))
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != width:
            self.shortcut.append(nn.Conv2d(channels, width, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, width, ⌈H / stride⌉, ⌈W / stride⌉)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class RowBlock(nn.Module):
    """Batch norm, a layer twice as wide with ReLU and dropout, a layer back, and a shortcut.

    The ResNet block of Gorishniy et al. (2021), "Revisiting deep learning models for tabular
    data".
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm1d(width),
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) → (B, width)."""
        y: Tensor = x + self.body(x)
        return y


class Embeddings(nn.Module):
    """A vector for each column of a table, by what stands there.

    Of a number x it is ReLU(linear(sin 2πcx, cos 2πcx)), with frequencies c and a linear layer of
    the column's own, all learned ("PLR" of Gorishniy et al. 2022, "On embeddings for numerical
    features in tabular deep learning"); of a category a row of the column's table.

    Args:
        layout: Which of the inputs are what.
        width: The numbers of a vector.
        frequencies: Of a column of numbers.
        scale: The standard deviation of the frequencies at first.

    Attributes:
        outputs: The numbers that a row becomes.
    """

    def __init__(self, layout: Layout, width: int, frequencies: int, scale: float) -> None:
        super().__init__()
        count = len(layout.numbers)
        self._layout = layout
        self.frequencies = nn.Parameter(torch.randn(count, frequencies) * scale)
        self.weight = nn.Parameter(_uniform((count, 2 * frequencies, width), 2 * frequencies))
        self.bias = nn.Parameter(_uniform((count, width), 2 * frequencies))
        self.tables = nn.ParameterList(
            nn.Parameter(_uniform((end - start, width), width)) for start, end in layout.categories
        )
        self.outputs = (count + len(layout.categories)) * width + len(layout.flags)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) → (B, outputs)."""
        layout, parts = self._layout, []
        if layout.numbers:
            angles = 2 * math.pi * self.frequencies * x[:, layout.numbers].unsqueeze(2)
            waves = torch.cat([angles.sin(), angles.cos()], 2)  # (B, n, 2 · frequencies)
            vectors = torch.einsum("bnf,nfw->bnw", waves, self.weight) + self.bias
            parts.append(vectors.relu().flatten(1))
        for (start, end), table in zip(layout.categories, self.tables, strict=True):
            parts.append(x[:, start:end] @ table)  # one of these is 1, or none of them
        if layout.flags:
            parts.append(x[:, layout.flags])
        return torch.cat(parts, 1)


def _uniform(shape: Sequence[int], inputs: int) -> Tensor:
    """Between ±1/√inputs, as PyTorch draws the weights of a linear layer."""
    return (2 * torch.rand(*shape) - 1) / math.sqrt(inputs)
