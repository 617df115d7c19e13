"""Models that MLflow can load and predict with: ``mlflow.pyfunc.load_model``.

A model is a folder: the members' files of weights as a worker wrote them, how they are combined,
and a Python file that loads them. It needs neither the study's folder nor its data.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hpo.paths import StudyPaths
from hpo.predictor import RECIPE, Predictor
from trainers.data.tokens import Subwords

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from trainers.saved import Model

CODE = Path(__file__).with_name("mlflow_model.py")
# hpo itself is not among them: nothing of that name in an index need be this program.
PACKAGES = ("mlflow", "numpy", "pandas", "scikit-learn", "skops", "torch", "torchvision")


def save(folder: Path, recipe: Mapping[str, Any], paths: StudyPaths) -> None:
    """Make the model.

    Args:
        folder: Is made.
        recipe: Of the members, see `hpo.predictor.Predictor.of`; with their runs, if known.

    Raises:
        OSError: The weights of a member are not there.
        HpoError: They are damaged.
    """
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory() as made:
        members = Path(made) / "members"
        members.mkdir()
        (members / RECIPE).write_text(json.dumps(recipe, indent=1))
        for member in recipe["members"]:
            kept = paths.model(member["trial"])
            for file in (kept, kept.with_suffix(".sha256")):
                shutil.copyfile(file, members / f"{member['trial']}{file.suffix}")
        predictor = Predictor.in_folder(members)  # as whoever loads it, lest it be of no use
        example = input_example(predictor.models[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what MLflow advises whoever writes such a file
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(CODE),
                artifacts={"members": str(members)},
                signature=signature(predictor, example),
                input_example=example,
                pip_requirements=[f"{name}=={version(name)}" for name in _packages(predictor)],
            )


def _packages(predictor: Predictor) -> tuple[str, ...]:
    """What is needed to predict; Hugging Face's only for its tokenizers and models."""
    folds = [fold for model in predictor.models for fold in model.folds]
    theirs = any(isinstance(fold.tokens, Subwords) for fold in folds)
    return (*PACKAGES, "transformers") if theirs else PACKAGES


def input_example(model: Model) -> pd.DataFrame | np.ndarray:
    """A row that the model takes, of nobody's data: medians, no category at all, and no text."""
    if model.kind == "images":
        return np.zeros((1, *model.shape), np.uint8)
    if model.kind == "text":
        return pd.DataFrame(dict.fromkeys(model.columns, [""]))
    encoding = model.folds[0].encoding
    assert encoding is not None
    medians = {
        column.name: column.typical
        for column in encoding.columns
        if not isinstance(column.typical, str)
    }
    return pd.DataFrame({name: [medians.get(name, np.nan)] for name in model.columns})


def signature(predictor: Predictor, example: pd.DataFrame | np.ndarray) -> ModelSignature:
    """What it takes and gives.

    A column may be of any type: MLflow would refuse whole numbers where there were fractions in
    training; the encoding takes both, and what is missing.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType, DataType

    if isinstance(example, pd.DataFrame):
        names = dict.fromkeys(name for model in predictor.models for name in model.columns)
        inputs = Schema([ColSpec(AnyType(), name) for name in names])  # type: ignore[no-untyped-call]
    else:
        inputs = Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))])
    said = predictor.predict(example)
    kinds = {"f": DataType.float, "O": DataType.string}
    outputs: Any = [ColSpec(kinds[dtype.kind], str(name)) for name, dtype in said.dtypes.items()]
    return ModelSignature(inputs, Schema(outputs))
