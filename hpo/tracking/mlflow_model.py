"""A model of hpo as MLflow loads it: this file is copied into the model and run ("models from
code"), with hpo installed; nothing is unpickled but tensors, whose files are checked first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from hpo.predictor import Predictor


class TrialsModel(PythonModel):
    """What a trial, or several, say of rows: see `hpo.predictor.Predictor.predict`."""

    def load_context(self, context: PythonModelContext) -> None:
        self._predictor = Predictor.in_folder(Path(context.artifacts["members"]))

    # MLflow reads the type, and leaves tables to the signature; an array of images is one, too.
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None
    ) -> pd.DataFrame:
        return self._predictor.predict(model_input)


set_model(TrialsModel())
