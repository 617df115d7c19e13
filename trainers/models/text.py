"""Models of token ids, for texts: a table of functions that build them.

Ids are (B, L) int32: 0 is padding, which stands behind a text and changes nothing; 1 is the first
token that there is (`trainers.data.tokens`). Imports torch only when one is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trainers.contract import DataError
from trainers.models.mlp import hidden_layers

if TYPE_CHECKING:
    from torch import nn

# The ``model`` section, how texts became ids (`trainers.data.tokens`), and the number of
# outputs → the model, with weights drawn from torch's global generator.
Build = Callable[[Mapping[str, Any], Mapping[str, Any], int], "nn.Module"]


def embedding_bag(
    model: Mapping[str, Any], encoding: Mapping[str, Any], outputs: int
) -> nn.Module:
    """The mean of the tokens' embeddings, then an mlp (fastText: Joulin et al. 2017)."""
    from torch import nn

    width, dropout = model["width"], model["dropout"]
    bag = nn.EmbeddingBag(encoding["tokens"], width, mode="mean", padding_idx=0)
    layers, width = hidden_layers(width, model["hidden"], dropout)
    return nn.Sequential(bag, nn.Dropout(dropout), *layers, nn.Linear(width, outputs))


def transformer(model: Mapping[str, Any], encoding: Mapping[str, Any], outputs: int) -> nn.Module:
    """A small encoder: see `trainers.models.text_modules.Transformer`.

    Raises:
        DataError: The heads cannot share the width evenly.
    """
    from trainers.models.text_modules import Transformer

    width, heads = model["width"], model["heads"]
    if width % heads:
        raise DataError(
            "model.width",
            f"{heads} heads cannot share a width of {width} evenly",
            f"width: {max(1, round(width / heads)) * heads}",
        )
    return Transformer(
        encoding["tokens"],
        encoding["length"],
        width,
        heads,
        model["layers"],
        model["dropout"],
        outputs,
    )


def huggingface(model: Mapping[str, Any], encoding: Mapping[str, Any], outputs: int) -> nn.Module:
    """The sequence classifier that ``data.tokenizer`` names, with its weights or, where
    ``model["weights"]`` is None, with new ones.

    Raises:
        DataError: ``data.tokenizer`` names none, or its weights cannot be loaded.
    """
    if "config" not in encoding:
        raise DataError(
            "data.tokenizer",
            f"is {encoding['tokenizer']}; huggingface is the model of a Hugging Face tokenizer",
            "tokenizer: a folder, or a name on the hub, of a sequence classifier",
        )
    from trainers.models.text_huggingface import classifier

    return classifier(encoding, outputs, pretrained=model["weights"] is not None)


TEXT_MODELS: dict[str, Build] = {
    "embedding_bag": embedding_bag,
    "transformer": transformer,
    "huggingface": huggingface,
}
