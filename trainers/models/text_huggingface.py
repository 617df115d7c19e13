"""Hugging Face's sequence classifiers, from a folder or from the hub; needs `transformers`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainers.contract import DataError
from trainers.data.tokens import imported
from trainers.models.text_modules import trimmed


def classifier(encoding: Mapping[str, Any], outputs: int, pretrained: bool) -> nn.Module:
    """The model of an encoding (`trainers.data.tokens.Subwords.plain`).

    A head for another number of classes is drawn anew, as is one that the weights lack.

    Raises:
        DataError: There is no such model for sequences, or no weights.
    """
    transformers = imported("transformers", encoding["tokenizer"])
    if pretrained:
        transformers.logging.set_verbosity_error()  # that the head is new is no news
        transformers.logging.disable_progress_bar()
        return _Classifier(_with_weights(encoding["tokenizer"], outputs))
    config = {**json.loads(encoding["config"]), **_labels(outputs)}
    made = transformers.AutoConfig.for_model(**config)
    try:
        network = transformers.AutoModelForSequenceClassification.from_config(
            made, dtype=torch.float32
        )
    except ValueError as error:
        raise _not_a_classifier(encoding["tokenizer"], error) from None
    return _Classifier(network)


class _Classifier(nn.Module):
    """Logits of ids as all models here have them: one more than the network's, 0 is padding."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        if network.config.pad_token_id is None:  # of GPT and its like: any, as none looks at it
            network.config.pad_token_id = network.config.eos_token_id or 0
        self.padding = int(network.config.pad_token_id)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, outputs) of (B, L) ids."""
        tokens, there = trimmed(tokens)
        ids = torch.where(there, tokens - 1, self.padding).clamp(min=0)
        logits: Tensor = self.network(input_ids=ids.long(), attention_mask=there.long()).logits
        return logits


def _with_weights(source: str, outputs: int) -> Any:
    import transformers

    try:
        return transformers.AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, ignore_mismatched_sizes=True, **_labels(outputs)
        )
    except ValueError as error:
        raise _not_a_classifier(source, error) from None
    except OSError as error:
        raise DataError(
            "model.weights",
            f"there are no weights in {source}: {' '.join(str(error).split())[:200]}",
            "weights: null draws new ones",
        ) from None


def _labels(outputs: int) -> dict[str, Any]:
    return {
        "id2label": {number: str(number) for number in range(outputs)},
        "label2id": {str(number): number for number in range(outputs)},
    }


def _not_a_classifier(source: str, error: Exception) -> DataError:
    return DataError(
        "data.tokenizer",
        f"{source} is no classifier of sequences: {' '.join(str(error).split())[:200]}",
    )
