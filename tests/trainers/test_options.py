"""The options of the built-in trainers: strict, with the tables' names and a use for editors."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from trainers.optim import OPTIMIZERS
from trainers.options import EarlyStopping, ImageData, ImageModel, TableData, TableModel, Train
from trainers.schedules import SCHEDULES

CLASSES = (ImageData, TableData, ImageModel, TableModel, Train, EarlyStopping)


@pytest.mark.parametrize("options", CLASSES)
def test_every_option_is_described(options: type[BaseModel]) -> None:
    for name, field in options.model_fields.items():
        assert field.description, f"{options.__name__}.{name}"


def test_the_schema_lists_what_the_tables_hold() -> None:
    properties = Train.model_json_schema()["properties"]
    assert properties["optimizer"]["enum"] == list(OPTIMIZERS)
    assert properties["schedule"]["enum"] == list(SCHEDULES)


@pytest.mark.parametrize(
    ("options", "values", "place"),
    [
        (Train, {"optimzer": "sgd"}, ("optimzer",)),
        (Train, {"optimizer": "adamm"}, ("optimizer",)),
        (Train, {"batch_size": 0}, ("batch_size",)),
        (Train, {"epochs": 1.5}, ("epochs",)),
        (Train, {"lr": float("nan")}, ("lr",)),
        (Train, {"lr": 0.0}, ("lr",)),
        (Train, {"momentum": 1.0}, ("momentum",)),
        (Train, {"early_stopping": {"metric": "val/los"}}, ("early_stopping", "metric")),
        (ImageModel, {"hidden": [64, 0]}, ("hidden", 1)),
        (ImageModel, {"channels": []}, ("channels",)),
        (ImageData, {"source": "digits", "channels": 2}, ("channels",)),
        (ImageData, {}, ("source",)),
    ],
)
def test_wrong_values_are_refused_where_they_are(
    options: type[BaseModel], values: dict[str, Any], place: tuple[str | int, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        options.model_validate(values)
    assert [error["loc"] for error in caught.value.errors()] == [place]
