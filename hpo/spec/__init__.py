"""The study file: read, checked, and turned into a `StudySpec`.

`load` finds every mistake that the file itself has, with line and column, and creates nothing.
What only the trainer or the data can tell is found by a worker (`hpo.worker`) and by `check_data`.
Importing this costs no torch, Optuna or MLflow.
"""

from __future__ import annotations

from typing import Any

from hpo.spec.checks import check_data
from hpo.spec.loading import load, loads, parse_value
from hpo.spec.space import Choice, Float, Int, Parameter, Scalar, When
from hpo.spec.study import Budget, FromStudy, Named, Objective, StudySpec, Tracking

__all__ = [
    "Budget",
    "Choice",
    "Float",
    "FromStudy",
    "Int",
    "Named",
    "Objective",
    "Parameter",
    "Scalar",
    "StudySpec",
    "Tracking",
    "When",
    "check_data",
    "load",
    "loads",
    "parse_value",
    "schema",
]


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the study file, for editors."""
    from hpo.spec.json_schema import schema as made

    return made()
