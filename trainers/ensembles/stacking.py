"""Stacking: a meta-learner learns how to combine bases, from what they say of rows unseen.

Wolpert (1992), "Stacked generalization". The training rows are dealt to inner folds, and each base
is trained once a fold, without it, as lanes. So each training row is answered by models that did
not see it; to these answers, of all bases, the meta-learner is fitted (`trainers.meta_learners`),
and never to a validation row. Of new rows a base says the mean of what its models say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers import meta_learners
from trainers.ensembles import held_out
from trainers.ensembles.combining import as_arrays, combined, like, means, raw
from trainers.ensembles.members import Measured, Part, Predictor, Together, WeightsOf
from trainers.lanes import Lane
from trainers.metrics import Predicted


class Stacking:
    """The bases of one part."""

    def __init__(self, part: Part, _: Mapping[str, Any] | None) -> None:
        self._part = part
        self._folds = held_out.dealt(part, int(part.ensemble["inner_folds"]))
        self._bases = int(part.ensemble["size"])
        splits = [part.training(held_out.without(part.split.train, fold)) for fold in self._folds]
        self.lanes = [
            part.lane(base * len(splits) + place, member=base, split=split)
            for base in range(self._bases)
            for place, split in enumerate(splits)
        ]

    def asked(self, epoch: int) -> Mapping[Lane, Tensor]:
        return dict(zip(self.lanes, self._folds * self._bases, strict=True))

    def together(
        self,
        epoch: int,
        validated: Mapping[Lane, Measured],
        answers: Mapping[Lane, Predicted],
        weights: WeightsOf,
    ) -> Together:
        count = len(self._folds)
        unseen = [
            joined([answers[lane] for lane in self.lanes[at : at + count]])
            for at in range(0, len(self.lanes), count)
        ]
        how, fitted = self._learn(unseen)
        said = [validated[lane].predicted for lane in self.lanes]
        return Together(
            Measured.of(combined(said, how, fitted)),
            [
                Predictor(self._part.section(at // count), lane)
                for at, lane in enumerate(self.lanes)
            ],
            how,
            fitted,
            [Measured.of(base) for base in means(said, self._bases)],
        )

    def state(self) -> dict[str, Any]:
        return {}

    def _learn(self, unseen: Sequence[Predicted]) -> tuple[str, dict[str, Any]]:
        """The combination, from each base's answers to all training rows."""
        outputs, target = as_arrays(unseen), unseen[0].target.cpu().numpy()
        if self._part.ensemble["non_negative"] or not np.isfinite(outputs).all():
            # One weight a base: of each of its models as many parts of it.
            of_bases = np.asarray(held_out.fit_weights(unseen)["weights"])
            shares = np.repeat(of_bases, len(self._folds)) / len(self._folds)
            return "weighted", {"weights": shares.tolist()}
        stack = meta_learners.stacked(outputs, target, seed=0)
        return "stacked", {
            "bases": self._bases,
            "coefficients": stack.coefficients.tolist(),
            "intercept": stack.intercept.tolist(),
        }


def joined(said: Sequence[Predicted]) -> Predicted:
    """Of the rows of all, one after the other."""
    first = said[0]
    target = torch.cat([one.target for one in said])
    return like(replace(first, target=target), torch.cat([raw([one])[0] for one in said]))
