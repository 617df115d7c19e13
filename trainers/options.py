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
    fold_repeats: int = Field(
        1,
        ge=1,
        le=100,
        description="Draw the folds so many times, each time anew, and report the mean over all.",
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

    @model_validator(mode="after")
    def _repeats_something(self) -> _Data:
        if self.folds is None and self.fold_repeats > 1:
            raise ValueError(
                f"fold_repeats: {self.fold_repeats} needs folds to repeat, e.g. folds: 5"
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
    group: str | None = Field(
        None,
        description="A column that says which rows belong together (of one patient, one machine): "
        "they are never on both sides of a split. It is not learned from.",
    )


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


class Member(_Options):
    """What members of an ensemble have of their own; what is absent is as in the trial."""

    name: str | None = Field(None, description="Another model.", examples=["cnn"])
    hidden: tuple[Width, ...] | None = Field(
        None, max_length=32, description="mlp: the widths of its hidden layers."
    )
    channels: tuple[Width, ...] | None = Field(
        None, min_length=1, max_length=8, description="cnn: the channels of its blocks."
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="The share of units dropped.")
    init: InitializationName | None = Field(None, description="How its weights are drawn.")
    lr: float | None = Field(None, gt=0, le=1000, description="Learning rate at the start.")
    weight_decay: float | None = Field(None, ge=0, le=1000, description="Its weight decay.")


class Ensemble(_Options):
    """The ``ensemble`` section of the built-in trainers: several models as one trial."""

    method: Literal["none", "bagging", "boosting", "stacking", "snapshot"] = Field(
        "none",
        description="bagging: members on bootstrap samples of the training rows, trained side by "
        "side. boosting: one member after another, each for what those before it got wrong; the "
        "epochs are divided among them. stacking: a meta-learner over members, which train on all "
        "but one of the inner folds each. snapshot: one training whose learning rate falls "
        "several times, a member each.",
    )
    size: int = Field(
        8, ge=2, le=256, description="Members; of boosting and snapshot at most one an epoch."
    )
    members: tuple[Member, ...] = Field(
        (),
        max_length=256,
        description="What members have of their own, in turn (not of snapshot): "
        "`[{hidden: [64]}, {hidden: [128, 128], dropout: 0.2}]`. Absent: only their seeds differ.",
    )
    bootstrap_fraction: float = Field(
        1.0, gt=0, le=1, description="bagging: the size of a sample, as a share of the rows."
    )
    replacement: bool = Field(
        True, description="bagging: whether a row can come several times in a sample."
    )
    feature_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="bagging, tables only: the share of the columns that a member sees.",
    )
    boosting: Literal["gradient", "samme"] = Field(
        "gradient",
        description="boosting: gradient adds up models that are fitted to the loss of the sum; "
        "samme lets classifiers vote that are trained on weighted rows (classification only).",
    )
    shrinkage: float = Field(
        0.5, gt=0, le=1, description="boosting: how much of each member counts."
    )
    inner_folds: int = Field(
        5,
        ge=2,
        le=20,
        description="stacking: parts of the training rows, each left out once; so many models a "
        "member.",
    )
    non_negative: bool = Field(
        True,
        description="stacking: one weight a member, none below 0. false: a logistic or ridge "
        "regression on what members say.",
    )
    average: bool = Field(
        False,
        description="snapshot: the mean of the members' weights is one more member (SWA).",
    )
    combine: Literal["mean", "logits", "vote", "weighted"] = Field(
        "mean",
        description="bagging and snapshot: what members say together. mean: of probabilities or "
        "values; logits: the mean of the logits; vote: each has one (of values, the median); "
        "weighted: a mean with weights, fitted to a fifth of the training rows, on which no "
        "member trains then.",
    )
    costs: bool = Field(
        False,
        description="Report what a prediction costs, of a single model too: cost/parameters, and "
        "cost/inference_ms, milliseconds for 1,000 rows by the clock; they can be objectives.",
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
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="Classification only, what a row counts in the loss. balanced: less, the more "
        "training rows there are of its class; metrics are not weighted.",
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
    repeats: int = Field(
        1,
        ge=1,
        le=100,
        description="Train so many models that differ in their seed only, side by side, and "
        "report the mean of their metrics.",
    )
