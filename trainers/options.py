"""What the ``data``, ``model`` and ``train`` sections of a study file may say, for the built-ins.

These classes are the reference: the study file is checked against them, its JSON Schema and its
documentation are made from them. Importing them costs no torch; what can be named (optimizers,
schedules, models) comes from the tables that define it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainers.metrics import METRICS
from trainers.models import MODELS
from trainers.models.init import INITIALIZATIONS
from trainers.optim import OPTIMIZERS
from trainers.schedules import SCHEDULES

if TYPE_CHECKING:  # the names in a table are known when it is imported, not to a type checker
    OptimizerName: TypeAlias = str
    ScheduleName: TypeAlias = str
    InitializationName: TypeAlias = str
    StoppingMetric: TypeAlias = str
else:
    OptimizerName = Literal[tuple(OPTIMIZERS)]
    ScheduleName = Literal[tuple(SCHEDULES)]
    InitializationName = Literal[tuple(INITIALIZATIONS)]
    StoppingMetric = Literal[tuple(f"val/{name}" for name in METRICS)]

Width = Annotated[int, Field(ge=1, le=65_536)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Data(_Options):
    """How the data is split, whatever it is."""

    validation: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="The share of the rows that the search is judged on. Not used with `folds`, "
        "nor where the folder has a `val` folder.",
    )
    test: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="The share of the rows that the search never sees. Not used where the "
        "folder has a `test` folder.",
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="Cross-validation: train this many models side by side, each validated on "
        "its own part, and report the mean of their metrics.",
    )
    split_seed: int = Field(
        0, ge=0, lt=2**32, description="Draws the split; the same for every trial of a study."
    )

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> _Data:
        if self.folds is None and self.validation + self.test >= 1:
            raise ValueError(
                "validation + test must be below 1, to leave rows to train on; "
                f"got {self.validation:g} + {self.test:g}"
            )
        return self


class ImageData(_Data):
    """The ``data`` section of `image_classifier`."""

    source: str = Field(
        min_length=1,
        description="`digits` (1,797 handwritten digits of 8 × 8 that scikit-learn ships), or a "
        "folder of images: train/CLASS/*.jpg with optional val/ and test/, or CLASS/*.jpg.",
        examples=["digits", "photos/"],
    )
    size: int | None = Field(
        None,
        ge=4,
        le=1024,
        description="Scale and crop images to size × size pixels. Absent: as they are, when all "
        "are alike.",
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1: grayscale, 3: colour. Absent: grayscale if every image is."
    )
    skip_bad: bool = Field(
        False, description="Leave out files that are not readable images, instead of refusing."
    )


class TableData(_Data):
    """The ``data`` section of `tabular`."""

    source: str = Field(
        min_length=1,
        description="A .csv or .parquet file, or `breast_cancer`, `wine`, `diabetes` (scikit-"
        "learn's).",
        examples=["breast_cancer", "table.csv"],
    )
    target: str | None = Field(
        None, description="The column to predict. Only a built-in source has one of its own."
    )
    task: Literal["auto", "classification", "regression"] = Field(
        "auto",
        description="auto: classification if the target is text, true/false, or at most 20 "
        "different whole numbers.",
    )
    ignore: tuple[str, ...] = Field((), description="Columns to leave out.")


class _Model(_Options):
    """What every model has."""

    init: InitializationName = Field(
        "default",
        description="How the weights of linear and convolutional layers are drawn; default: as "
        "PyTorch does.",
    )


class ImageModel(_Model):
    """The ``model`` section of `image_classifier`."""

    name: str = Field(
        "mlp",
        description=f"{', '.join(f'`{name}`' for name in MODELS)}, or any classification model "
        "of torchvision by name.",
        examples=[*MODELS, "resnet18", "mobilenet_v3_small"],
    )
    hidden: tuple[Width, ...] = Field(
        (64,), max_length=32, description="mlp: the widths of its hidden layers."
    )
    channels: tuple[Width, ...] = Field(
        (32, 64, 128),
        min_length=1,
        max_length=8,
        description="cnn: the channels of its blocks; each block halves height and width.",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="mlp and cnn: the share of units dropped in training."
    )
    weights: str | None = Field(
        None,
        description="A file with a state_dict to start from (torch.save); its last layer is left "
        "out if it is for another number of classes.",
        json_schema_extra={"format": "path"},
    )


class TableModel(_Model):
    """The ``model`` section of `tabular`."""

    name: Literal["mlp"] = Field("mlp", description="`mlp`: fully connected layers.")
    hidden: tuple[Width, ...] = Field(
        (64,), max_length=32, description="The widths of its hidden layers."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="The share of units dropped in training.")


class Ensemble(_Options):
    """The ``ensemble`` section of the built-in trainers: several models as one trial."""

    method: Literal["none", "bagging", "snapshot"] = Field(
        "none",
        description="bagging: members on bootstrap samples of the training rows, trained side by "
        "side. snapshot: one training whose learning rate falls several times, a member each.",
    )
    size: int = Field(8, ge=2, le=256, description="Members; of snapshot at most one an epoch.")
    bootstrap_fraction: float = Field(
        1.0, gt=0, le=1, description="bagging: the size of a sample, as a share of the rows."
    )
    replacement: bool = Field(
        True, description="bagging: whether a row can come several times in a sample."
    )
    combine: Literal["mean", "logits", "vote"] = Field(
        "mean",
        description="What members say together. mean: of probabilities or values; logits: the "
        "mean of the logits; vote: each has one (of values, the median).",
    )


class EarlyStopping(_Options):
    """End a trial that no longer improves."""

    patience: int = Field(
        5, ge=1, description="End after this many epochs without an improvement."
    )
    min_delta: float = Field(
        0.0, ge=0, description="What counts as one: better by more than this."
    )
    metric: StoppingMetric = Field("val/loss", description="What is watched.")


class Train(_Options):
    """The ``train`` section of the built-in trainers."""

    epochs: int = Field(20, ge=1, le=100_000, description="Times through the training rows.")
    batch_size: int = Field(32, ge=1, le=1_000_000, description="Rows a step.")
    optimizer: OptimizerName = Field("adamw", description="Turns gradients into steps.")
    lr: float = Field(1e-3, gt=0, le=1000, description="Learning rate at the start.")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only.")
    nesterov: bool = Field(False, description="sgd only: Nesterov's momentum.")
    weight_decay: float = Field(
        0.0, ge=0, le=1000, description="L2 penalty (sgd), decoupled decay (adamw)."
    )
    beta1: float = Field(
        0.9, ge=0, lt=1, description="adamw only: how much of its mean gradient stays at a step."
    )
    beta2: float = Field(
        0.999, ge=0, lt=1, description="adamw only: the same of its mean squared gradient."
    )
    l1: float = Field(0.0, ge=0, le=1000, description="L1 penalty on every parameter.")
    clip_norm: float | None = Field(
        None, gt=0, description="A longer gradient (all parameters together) is made this long."
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Classification only: the share of the target that goes to all classes alike.",
    )
    ema: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Validate, and keep, an exponential moving average of the weights, of which "
        "this share stays at a step (less in the first steps).",
    )
    schedule: ScheduleName = Field(
        "constant", description="How the learning rate goes from the first step to the last."
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="End a trial that no longer improves."
    )
