"""A model that predicts: a trial's, or those of several trials and how they are combined."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpo import checkpoints
from hpo.ensemble.calibration import AS_IT_IS, SHARPNESS, sharpened
from hpo.ensemble.criterion import Singles
from hpo.errors import HpoError, UserError
from hpo.paths import StudyPaths
from trainers.contract import DataError
from trainers.meta_learners import Stack
from trainers.metrics import THRESHOLD
from trainers.saved import Model, NotAModel, Rows
from trainers.unseen import pixel_rows, table_rows

RECIPE = "ensemble.json"  # in a folder that holds a predictor


@dataclass(frozen=True)
class Member:
    """A trial in a predictor.

    Attributes:
        sharpness: A place in `hpo.ensemble.calibration.SHARPNESS`.
    """

    trial: int
    weight: float
    sharpness: int
    model: Model


@dataclass(frozen=True)
class Predictor:
    """One trial's model, or several.

    Attributes:
        members: The heaviest first; one for a trial.
        stack: What combines them, or None: the weighted mean.
    """

    members: Sequence[Member]
    stack: Stack | None = None

    @classmethod
    def of(cls, recipe: Mapping[str, Any], read: Callable[[int], Model]) -> Predictor:
        """What a `recipe` describes.

        Args:
            read: Gives a trial's model.
        """
        members = [
            Member(each["trial"], each["weight"], _sharpness(each), read(each["trial"]))
            for each in recipe["members"]
        ]
        stack = recipe["stack"]
        if stack is None:
            return cls(members)
        coefficients, intercept = (
            np.asarray(stack[name], np.float64) for name in ("coefficients", "intercept")
        )
        of_labels = members[0].model.task == "multilabel"
        return cls(members, Stack(coefficients, intercept, of_labels))

    @classmethod
    def in_folder(cls, folder: Path) -> Predictor:
        """What `hpo.tracking.models` has copied there, which needs nothing else."""
        recipe = json.loads((folder / RECIPE).read_text())
        return cls.of(recipe, lambda trial: read_model(folder / f"{trial}.pt", trial))

    @property
    def models(self) -> list[Model]:
        return [member.model for member in self.members]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Their names, or those of the labels, in the order of their numbers; None for a
        regression."""
        return self.members[0].model.classes

    def output(self, rows: Rows) -> Singles:
        """(N, C) or (N, L) probabilities, or (N,) values."""
        if self.stack is not None:
            return self.stack.output(np.stack([_said(each, rows) for each in self.members]))
        total = sum(member.weight * _said(member, rows) for member in self.members)
        return np.asarray(total, np.float32)

    def table(self, output: Singles) -> pd.DataFrame:
        """``predicted``, and of classes ``probability.NAME`` for each; of labels
        ``predicted.NAME``, 0 or 1, and ``probability.NAME`` for each."""
        if self.classes is None:
            return pd.DataFrame({"predicted": output})
        columns = {f"probability.{name}": output[:, at] for at, name in enumerate(self.classes)}
        if self.models[0].task == "multilabel":
            there = (output >= THRESHOLD).astype(np.int64)
            said = {f"predicted.{name}": there[:, at] for at, name in enumerate(self.classes)}
            return pd.DataFrame({**said, **columns})
        names = np.asarray(self.classes, object)[output.argmax(axis=1)]
        return pd.DataFrame({"predicted": names, **columns})

    def predict(self, given: pd.DataFrame | np.ndarray) -> pd.DataFrame:
        """The table of rows in memory.

        Args:
            given: A table with the columns of the training data, or with that of the texts; or
                (N, C, H, W) uint8 images with pixels in its range.

        Raises:
            UserError: It is not what the model predicts.
        """
        is_table = isinstance(given, pd.DataFrame)
        if is_table != (self.models[0].kind in ("table", "text")):
            wanted = "images as an array" if is_table else "a DataFrame"
            raise UserError(f"the model predicts {wanted}")
        try:
            if isinstance(given, pd.DataFrame):
                rows: Rows = table_rows(given, self.models, "the DataFrame")
            else:
                rows = pixel_rows(given, self.models)
        except DataError as error:
            raise refused(error) from None
        return self.table(self.output(rows))


def recipe_of(facts: Mapping[str, Any], paths: StudyPaths) -> dict[str, Any]:
    """How an ensemble's members are combined, as JSON has it: what `Predictor.of` takes.

    Args:
        facts: As `hpo.results.ensemble` returns them.
    """
    stack = facts["artifacts"].get("stack.npz")
    if stack is not None:
        with np.load(paths.root / stack, allow_pickle=False) as arrays:
            stack = {name: arrays[name].tolist() for name in ("coefficients", "intercept")}
    keys = ("trial", "run_id", "weight", "temperature")
    members = [{key: member.get(key) for key in keys} for member in facts["members"]]
    return {"members": members, "stack": stack}


def read_model(path: Path, trial: int) -> Model:
    """A trial's model.

    Raises:
        HpoError: The file is damaged.
    """
    try:
        return Model.of(checkpoints.read(path))
    except (OSError, checkpoints.Damaged, NotAModel) as error:
        raise HpoError(f"the weights of trial {trial} cannot be used: {path}: {error}") from error


def _said(member: Member, rows: Rows) -> Singles:
    output = member.model.output(rows)
    if output.ndim == 1:
        return output
    return sharpened(output, member.sharpness, member.model.task == "multilabel")


def _sharpness(member: Mapping[str, Any]) -> int:
    temperature = member["temperature"]
    return AS_IT_IS if temperature is None else int(np.abs(SHARPNESS - 1 / temperature).argmin())


def refused(error: DataError) -> UserError:
    """What is wrong with the rows, for who gave them."""
    return UserError(f"{error}" + (f"\n{error.hint}" if error.hint else ""))
