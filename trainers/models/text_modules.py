"""Modules that look at token ids, apart from their names, as they import torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def trimmed(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Ids without the padding that all have, and which of them are no padding.

    Args:
        tokens: (B, L), padded behind with 0.

    Returns:
        (B, l) ids, 1 ≤ l ≤ L; (B, l) bool. Of an empty text the first one counts as no padding, so
        that there is something to take the mean of.
    """
    longest = max(1, int((tokens != 0).sum(1).max()))
    tokens = tokens[:, :longest]
    there = tokens != 0
    there[:, 0] = True
    return tokens, there


class Transformer(nn.Module):
    """An encoder with norms first and fixed sine positions; the mean of its outputs, a linear
    layer (Vaswani et al. 2017; norms first: Xiong et al. 2020).

    Args:
        tokens: Different ids, 0 among them.
        length: The most tokens of a text.
        width: Of an embedding; a multiple of `heads`. Between are layers four times as wide.
    """

    positions: Tensor

    def __init__(
        self,
        tokens: int,
        length: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
        outputs: int,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width, padding_idx=0)
        self.register_buffer("positions", _sines(length, width), persistent=False)
        # Each made by itself: `nn.TransformerEncoder` copies one, with its first weights.
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, outputs) of (B, L) ids."""
        tokens, there = trimmed(tokens)
        x = self.dropout(self.embedding(tokens) + self.positions[: tokens.shape[1]])
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~there)
        mean = self.norm(x).masked_fill(~there[..., None], 0).sum(1) / there.sum(1, keepdim=True)
        logits: Tensor = self.head(self.dropout(mean))
        return logits


def _sines(length: int, width: int) -> Tensor:
    """(length, width): of each place sines and cosines of falling frequency, in turn."""
    number = torch.arange(width)
    angles = torch.arange(length)[:, None] / 10_000 ** (number // 2 * 2 / width)
    return torch.where(number % 2 == 0, angles.sin(), angles.cos())
