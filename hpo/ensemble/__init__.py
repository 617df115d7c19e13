"""Ensembles over a study's finished trials, from their saved predictions; nothing is trained.

    trials' predictions → `library` (candidates, each scored alone) → `nested` (made and judged on
    different rows, by `fitting`, which weighs by `methods` or learns by `trainers.meta_learners`,
    of members that `calibration` has made as sure as they are right) → `building` (the whole, as
    facts) → `recording` (the study's outbox, and so MLflow) → `words`

Only the validation rows are read, those of all folds where the study has folds; the test split
never is. How an ensemble predicts new rows is in `hpo.predictor`.
"""

from __future__ import annotations

from hpo.ensemble.building import MOST, Built, build
from hpo.ensemble.recording import record, refuse_if_running

__all__ = ["MOST", "Built", "build", "record", "refuse_if_running"]
