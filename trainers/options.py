"""What the ``data``, ``model`` and ``train`` sections of a study file may say, for the built-ins.

These classes are the reference: the study file is checked against them, its JSON Schema and its
documentation are made from them. Importing them costs no torch; what can be named (optimizers,
schedules, models) comes from the tables that define it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict

from trainers import schedules
from trainers.losses import LOSSES, using
from trainers.metrics import ALWAYS, COSTS, FURTHER, METRICS, SINGLE
from trainers.models import ESTIMATOR, OF_IMAGES, OF_TABLES
from trainers.models.init import INITIALIZATIONS
from trainers.models.text import TEXT_MODELS
from trainers.optim import OPTIMIZERS, that_use
from trainers.schedules import SCHEDULES

if TYPE_CHECKING:  # the names in a table are known when it is imported, not to a type checker
    OptimizerName: TypeAlias = str
    ScheduleName: TypeAlias = str
    InitializationName: TypeAlias = str
    TableModelName: TypeAlias = str
    TextModelName: TypeAlias = str
    LossName: TypeAlias = str
    StoppingMetric: TypeAlias = str
else:
    OptimizerName = Literal[tuple(OPTIMIZERS)]
    ScheduleName = Literal[tuple(SCHEDULES)]
    InitializationName = Literal[tuple(INITIALIZATIONS)]
    TableModelName = Literal[tuple(OF_TABLES)] | Annotated[str, Field(pattern=r"^sklearn\.\w")]
    TextModelName = Literal[tuple(TEXT_MODELS)]
    LossName = Literal["auto", *LOSSES]
    StoppingMetric = Literal[tuple(f"val/{name}" for name in SINGLE)]

# What begins the name of a data set of torchvision, as a source.
TORCHVISION = "torchvision:"

# What `weights` may be beside a file: a name in capitals, or an address in MLflow.
WEIGHTS = r"^([A-Z][A-Z0-9_]*|(runs|models):/.*)$"

# A function of the user's own, ``module:function``.
REFERENCE = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")

Width = Annotated[int, Field(ge=1, le=65_536)]


def _metric(name: str) -> str:
    if REFERENCE.fullmatch(name):
        if name.partition(":")[2] in METRICS:
            raise ValueError(f"{name}: {name.partition(':')[2]} is a metric already; rename yours")
        return name
    if name in ALWAYS:
        raise ValueError(f"{name} is always reported where the task has it")
    if name not in (*FURTHER, *COSTS):
        known = get_close_matches(name, (*FURTHER, *COSTS), n=3) or (*FURTHER, *COSTS)
        raise ValueError(
            f"expected a metric, or your own as module:function; got {name!r}; "
            f"there are {', '.join(known)}"
        )
    return name


MetricName = Annotated[str, AfterValidator(_metric)]


# Of a setting that others need: any value with which it does something.
ABOVE_0 = "a number above 0"
GIVEN = "any value"


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Data(_Options):
    """How the data is split, whatever it is."""

    validation: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="The share of the rows that the search is judged on. Not used where the "
        "folder has a `val` folder.",
        json_schema_extra={"needs": {"data.folds": [None]}},
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
    duplicates: Literal["warn", "together", "refuse"] = Field(
        "warn",
        description="Rows of equal content (of a table, with the target) on both sides of a "
        "split. warn: they are counted and said; together: copies are drawn to one side, and "
        "where the sides are given, left out of the training; refuse: an error.",
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


Resize = Literal["crop", "pad", "squash"]


class ImageData(_Data):
    """The ``data`` section of `image_classifier`."""

    source: str = Field(
        min_length=1,
        description="`digits` (1,797 handwritten digits of 8 × 8 that scikit-learn ships); a "
        "folder of images: train/CLASS/*.jpg with optional val/ and test/, or CLASS/*.jpg, or its "
        "address (`s3://bucket/photos`, fetched once a machine); or `torchvision:NAME`, a data "
        "set of torchvision that lies in `root` (none is downloaded).",
        examples=["digits", "photos/", "s3://bucket/photos", "torchvision:CIFAR10"],
    )
    size: int | None = Field(
        None,
        ge=4,
        le=1024,
        description="Bring images to size × size pixels. Absent: as they are, when all are alike.",
    )
    resize: Resize = Field(
        "crop",
        description="How images that are not square are brought to `size`. crop: their middle; "
        "pad: the whole, with black beside it; squash: the whole, out of shape.",
        json_schema_extra={"needs": {"data.size": [GIVEN]}},
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1: grayscale, 3: colour. Absent: grayscale if every image is."
    )
    skip_bad: bool = Field(
        False, description="Leave out files that are not readable images, instead of refusing."
    )
    group: str | None = Field(
        None,
        description="A regular expression of which the groups in parentheses, found in a file's "
        "path below the source, say which images belong together (of one patient, one video): "
        "they are never on both sides of a split.",
        examples=[r"(patient\d+)_"],
    )
    normalize: Literal["train", "imagenet", "none"] = Field(
        "train",
        description="What is taken off each channel, and by what it is divided: the mean and "
        "standard deviation of the training images, or of ImageNet, as its pretrained weights "
        "expect; none: pixels go from 0 to 1.",
    )
    root: str | None = Field(
        None,
        description="Of a data set of torchvision: the folder in which it lies.",
        json_schema_extra={"format": "path"},
    )

    @field_validator("group")
    @classmethod
    def _finds_something(cls, pattern: str | None) -> str | None:
        try:
            groups = 1 if pattern is None else re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        if groups == 0:
            raise ValueError(
                "has no parentheses around what the images of a group share, e.g. (patient\\d+)_"
            )
        return pattern

    @model_validator(mode="after")
    def _root_of_something(self) -> ImageData:
        of_torchvision = self.source.startswith(TORCHVISION)
        if of_torchvision and self.root is None:
            raise ValueError(f"say in which folder {self.source} lies: root: FOLDER")
        if self.root is not None and not of_torchvision:
            raise ValueError(f"root is for source: {TORCHVISION}NAME; got source: {self.source}")
        return self


class _Columns(_Data):
    """Columns that say which rows are on which side of a split; none of them is learned from."""

    group: str | None = Field(
        None,
        description="A column that says which rows belong together (of one patient, one machine): "
        "they are never on both sides of a split. It is not learned from.",
    )
    time: str | None = Field(
        None,
        description="A column of dates or numbers: the test rows are the latest, then the "
        "validation rows. With `folds`, each trains on all that was before what it validates. "
        "It is not learned from.",
    )
    split: str | None = Field(
        None,
        description="A column that says of each row train, val or test. What it names no row of "
        "is drawn. It is not learned from.",
    )

    @model_validator(mode="after")
    def _split_in_one_way(self) -> _Columns:
        if self.time is not None and self.split is not None:
            raise ValueError("time and split both say which rows are on which side: choose one")
        if self.time is not None and self.group is not None:
            raise ValueError(
                "time cannot keep the rows of a group on one side, for they have several times: "
                "choose one of time and group"
            )
        if self.time is not None and self.fold_repeats > 1:
            raise ValueError("folds by time are not drawn, so fold_repeats has nothing to repeat")
        return self


# Columns that say of each row whether it has the label.
Labels = Annotated[tuple[str, ...], Field(min_length=2)]


class TableData(_Columns):
    """The ``data`` section of `tabular`."""

    source: str = Field(
        min_length=1,
        description="A .csv or .parquet file, or its address (`s3://bucket/table.csv`, fetched "
        "once a machine); or `breast_cancer`, `wine`, `diabetes` (scikit-learn's).",
        examples=["breast_cancer", "table.csv", "s3://bucket/table.csv"],
    )
    target: str | Labels | None = Field(
        None,
        description="The column to predict; several columns of 0 and 1 are labels, of which a row "
        "can have any. Only a built-in source has a target of its own.",
        examples=["price", ["cat", "dog"]],
    )
    task: Literal["auto", "classification", "regression"] = Field(
        "auto",
        description="auto: classification if the target is text, true/false, or at most 20 "
        "different whole numbers; of several targets labels.",
    )
    ignore: tuple[str, ...] = Field((), description="Columns to leave out.")


# Tokenizers that learn what they know from the training texts.
_LEARNED: JsonDict = {"needs": {"data.tokenizer": ["words", "characters"]}}


class TextData(_Columns):
    """The ``data`` section of `text_classifier`."""

    source: str = Field(
        min_length=1,
        description="A .csv or .parquet file, or a folder of texts: train/CLASS/*.txt with "
        "optional val/ and test/, or CLASS/*.txt; or its address (`s3://bucket/letters`, fetched "
        "once a machine).",
        examples=["messages.csv", "letters/", "s3://bucket/letters"],
    )
    text: str | None = Field(None, description="Of a table: the column with the texts.")
    target: str | Labels | None = Field(
        None,
        description="Of a table: the column with the classes; several columns of 0 and 1 are "
        "labels, of which a text can have any.",
    )
    skip_bad: bool = Field(
        False,
        description="Leave out texts that are missing, empty or not UTF-8, instead of refusing.",
    )
    tokenizer: str = Field(
        "words",
        min_length=1,
        description="`words` (and punctuation marks), `characters`, or a tokenizer of Hugging "
        "Face: its folder, or its name on the hub (package transformers).",
        examples=["words", "characters", "distilbert-base-uncased"],
        json_schema_extra={"format": "path-or-name"},
    )
    max_length: int = Field(
        256, ge=1, le=65_536, description="Tokens of a text; what is behind them is not read."
    )
    lowercase: bool = Field(
        True, description="Whether Word and word are one.", json_schema_extra=_LEARNED
    )
    ngrams: int = Field(
        1,
        ge=1,
        le=8,
        description="Up to so many neighbouring words, or characters, are a token of their own, "
        "too.",
        json_schema_extra=_LEARNED,
    )
    min_count: int = Field(
        2,
        ge=1,
        description="A token that is rarer in the training texts counts as unknown.",
        json_schema_extra=_LEARNED,
    )
    max_words: int = Field(
        20_000,
        ge=1,
        le=10_000_000,
        description="So many tokens are known at most, the most frequent ones.",
        json_schema_extra=_LEARNED,
    )


class _Model(_Options):
    """What every model has."""

    init: InitializationName = Field(
        "default",
        description="How the weights of linear and convolutional layers are drawn; default: as "
        "PyTorch does.",
    )


def _for_models(*names: str) -> JsonDict:
    """Of a setting that has an effect on these models only."""
    return {"needs": {"model.name": list(names)}}


class ImageModel(_Model):
    """The ``model`` section of `image_classifier`."""

    name: str = Field(
        "mlp",
        description=f"{', '.join(f'`{name}`' for name in OF_IMAGES)}, any classification model of "
        "torchvision by name, or `timm:NAME` (package timm).",
        examples=[*OF_IMAGES, "resnet18", "mobilenet_v3_small", "timm:vit_tiny_patch16_224"],
    )
    hidden: tuple[Width, ...] = Field(
        (64,),
        max_length=32,
        description="mlp: the widths of its hidden layers.",
        json_schema_extra=_for_models("mlp"),
    )
    channels: tuple[Width, ...] = Field(
        (32, 64, 128),
        min_length=1,
        max_length=8,
        description="cnn: the channels of its blocks, each of which halves height and width; "
        "resnet: of its stages, of which each but the first does.",
        json_schema_extra=_for_models("cnn", "resnet"),
    )
    blocks: int = Field(
        2,
        ge=1,
        le=64,
        description="resnet: residual blocks a stage, of two convolutions each.",
        json_schema_extra=_for_models("resnet"),
    )
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="The share of units that dropout layers drop in training. Absent: as "
        "torchvision's or timm's model has it; of the others, none.",
    )
    stochastic_depth: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="How likely the last residual block is skipped in training, an image at a "
        "time; those before it less, in proportion to their place. Absent: as the model has it; "
        "of resnet, none is.",
        json_schema_extra=_for_models(
            "resnet", "convnext_*", "efficientnet_*", "swin_*", "maxvit_t", "timm:*"
        ),
    )
    weights: str | None = Field(
        None,
        description="What to start from: a file with a state_dict (torch.save, or .safetensors) "
        "or a trial's model.pt; the name of weights that come with torchvision's model "
        "(`DEFAULT`, `IMAGENET1K_V1`; of timm's: `DEFAULT`); or a model in MLflow, runs:/ID/PATH "
        "or models:/NAME/VERSION. The last layer is left out if it is for another number of "
        "classes.",
        examples=["weights.pt", "DEFAULT", "IMAGENET1K_V1", "models:/flowers/3"],
        json_schema_extra={"format": "path", "unless": WEIGHTS},
    )


class TableModel(_Model):
    """The ``model`` section of `tabular`."""

    name: TableModelName = Field(
        "mlp",
        description="`mlp`: fully connected layers. `residual_mlp`: with shortcuts around pairs "
        "of them. `embedding_mlp`: an mlp on a vector for what is in each column. Or one of "
        "scikit-learn's classifiers or regressors, which is fitted at once: of `train` it uses "
        "`metrics` and `repeats` only.",
        examples=["mlp", "sklearn.ensemble.HistGradientBoostingClassifier"],
    )
    options: Mapping[str, Any] = Field(
        default_factory=dict,
        description="scikit-learn's models: their settings, by their names.",
        examples=[{"max_iter": 200, "learning_rate": 0.1}],
        json_schema_extra=_for_models(f"{ESTIMATOR}*"),
    )
    hidden: tuple[Width, ...] = Field(
        (64,),
        max_length=32,
        description="The widths of the mlp's hidden layers.",
        json_schema_extra=_for_models("mlp", "embedding_mlp"),
    )
    width: Width = Field(
        128,
        description="residual_mlp: the width between blocks; within them it is twice that.",
        json_schema_extra=_for_models("residual_mlp"),
    )
    blocks: int = Field(
        2,
        ge=1,
        le=64,
        description="residual_mlp: its residual blocks.",
        json_schema_extra=_for_models("residual_mlp"),
    )
    embedding: int = Field(
        24,
        ge=1,
        le=1024,
        description="embedding_mlp: the numbers of a column's vector.",
        json_schema_extra=_for_models("embedding_mlp"),
    )
    frequencies: int = Field(
        48,
        ge=1,
        le=1024,
        description="embedding_mlp: of how many sines and cosines of a number its vector is made.",
        json_schema_extra=_for_models("embedding_mlp"),
    )
    frequency_scale: float = Field(
        0.01,
        gt=0,
        le=1000,
        description="embedding_mlp: how many periods a standard deviation of the column has at "
        "first, in a typical frequency. The larger, the finer are the differences that are seen.",
        json_schema_extra=_for_models("embedding_mlp"),
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="The share of units dropped in training.",
        json_schema_extra=_for_models(*OF_TABLES),
    )


class TextModel(_Options):
    """The ``model`` section of `text_classifier`."""

    name: TextModelName = Field(
        "embedding_bag",
        description="`embedding_bag`: the mean of the tokens' embeddings, then an mlp. "
        "`transformer`: a small encoder. `huggingface`: the sequence classifier that "
        "`data.tokenizer` names.",
    )
    width: Width = Field(
        64,
        description="The numbers of an embedding.",
        json_schema_extra=_for_models("embedding_bag", "transformer"),
    )
    hidden: tuple[Width, ...] = Field(
        (),
        max_length=32,
        description="The widths of the mlp's hidden layers.",
        json_schema_extra=_for_models("embedding_bag"),
    )
    heads: int = Field(
        4,
        ge=1,
        le=128,
        description="Of attention, in each layer; `width` must be a multiple of it.",
        json_schema_extra=_for_models("transformer"),
    )
    layers: int = Field(
        2,
        ge=1,
        le=48,
        description="Of attention, with a feed-forward layer each.",
        json_schema_extra=_for_models("transformer"),
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="The share of units dropped in training.",
        json_schema_extra=_for_models("embedding_bag", "transformer"),
    )
    init: InitializationName = Field(
        "default",
        description="How the weights of linear layers are drawn; default: as PyTorch does.",
        json_schema_extra=_for_models("embedding_bag", "transformer"),
    )
    weights: Literal["pretrained"] | None = Field(
        "pretrained",
        description="What training starts from: the weights that come with it, with a new last "
        "layer for these classes; null: new ones.",
        json_schema_extra=_for_models("huggingface"),
    )


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


def _of_methods(*names: str) -> JsonDict:
    """Of a setting that has an effect with these ensemble methods only."""
    return {"needs": {"ensemble.method": [*names]}}


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
        8,
        ge=2,
        le=256,
        description="Members; of boosting and snapshot at most one an epoch.",
        json_schema_extra=_of_methods("bagging", "boosting", "stacking", "snapshot"),
    )
    members: tuple[Member, ...] = Field(
        (),
        max_length=256,
        description="What members have of their own, in turn (not of snapshot): "
        "`[{hidden: [64]}, {hidden: [128, 128], dropout: 0.2}]`. Absent: only their seeds differ.",
        json_schema_extra=_of_methods("bagging", "boosting", "stacking"),
    )
    bootstrap_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="bagging: the size of a sample, as a share of the rows.",
        json_schema_extra=_of_methods("bagging"),
    )
    replacement: bool = Field(
        True,
        description="bagging: whether a row can come several times in a sample.",
        json_schema_extra=_of_methods("bagging"),
    )
    feature_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="bagging, tables only: the share of the columns that a member sees.",
        json_schema_extra=_of_methods("bagging"),
    )
    boosting: Literal["gradient", "samme"] = Field(
        "gradient",
        description="boosting: gradient adds up models that are fitted to the loss of the sum; "
        "samme lets classifiers vote that are trained on weighted rows (classification only).",
        json_schema_extra=_of_methods("boosting"),
    )
    shrinkage: float = Field(
        0.5,
        gt=0,
        le=1,
        description="boosting: how much of each member counts.",
        json_schema_extra=_of_methods("boosting"),
    )
    inner_folds: int = Field(
        5,
        ge=2,
        le=20,
        description="stacking: parts of the training rows, each left out once; so many models a "
        "member.",
        json_schema_extra=_of_methods("stacking"),
    )
    non_negative: bool = Field(
        True,
        description="stacking: one weight a member, none below 0. false: a logistic or ridge "
        "regression on what members say.",
        json_schema_extra=_of_methods("stacking"),
    )
    average: bool = Field(
        False,
        description="snapshot: the mean of the members' weights is one more member (SWA).",
        json_schema_extra=_of_methods("snapshot"),
    )
    combine: Literal["mean", "logits", "vote", "weighted"] = Field(
        "mean",
        description="bagging and snapshot: what members say together. mean: of probabilities or "
        "values; logits: the mean of the logits; vote: each has one (of values, the median); "
        "weighted: a mean with weights, fitted to a fifth of the training rows, on which no "
        "member trains then.",
        json_schema_extra=_of_methods("bagging", "snapshot"),
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


# Of gray images there is none; without `channels` it is the images that say what they are.
_OF_COLOUR: JsonDict = {"needs": {"data.channels": [3, None]}}


class Augment(_Options):
    """What is done to training images, drawn anew for each of them in every epoch."""

    flip: float = Field(0.0, ge=0, le=1, description="How likely an image is mirrored sideways.")
    flip_vertical: float = Field(
        0.0, ge=0, le=1, description="How likely an image is turned upside down (mirrored)."
    )
    crop: int = Field(
        0, ge=0, le=1024, description="Move by up to so many pixels; black comes in at the edges."
    )
    resized_crop: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Make a part as large as the image: of its area at least this share, its "
        "width to its height 3/4 to 4/3 of the image's.",
    )
    rotation: float = Field(
        0.0, ge=0, le=180, description="Turn by up to so many degrees, either way."
    )
    brightness: float = Field(
        0.0, ge=0, le=1, description="Multiply pixels by a factor from 1 − this to 1 + this."
    )
    contrast: float = Field(
        0.0, ge=0, le=1, description="The same of their distance from the image's mean grey."
    )
    saturation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="The same of their distance from grey; colour images only.",
        json_schema_extra=_OF_COLOUR,
    )
    hue: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Turn hues by up to this share of their circle; colour images only.",
        json_schema_extra=_OF_COLOUR,
    )
    policy: Literal["none", "randaugment", "trivialaugment"] = Field(
        "none",
        description="Operations drawn from torchvision's list of 14. randaugment: several, all of "
        "one magnitude; trivialaugment: one, of any magnitude.",
    )
    operations: int = Field(
        2,
        ge=1,
        le=14,
        description="How many an image.",
        json_schema_extra={"needs": {"train.augment.policy": ["randaugment"]}},
    )
    magnitude: int = Field(
        9,
        ge=0,
        le=30,
        description="How strong they are.",
        json_schema_extra={"needs": {"train.augment.policy": ["randaugment"]}},
    )
    erase: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How likely a box of an image, 2 to 33 % of it, shows the mean colour.",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Blend each image and its class with another's of the batch, by a share drawn "
        "from Beta(mixup, mixup). 0: not.",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=100,
        description="A box of each image shows another one of the batch, and the class is of both "
        "by area; the box's share is drawn from Beta(cutmix, cutmix). 0: not. With mixup: by lot "
        "one of the two.",
    )


class Plateau(_Options):
    """When the schedule `plateau` lowers the learning rate, each time by `gamma`."""

    metric: StoppingMetric = Field("val/loss", description="What is watched.")
    patience: int = Field(
        5, ge=0, description="Epochs without an improvement that are let pass first."
    )
    min_delta: float = Field(
        0.0, ge=0, description="What counts as one: better by more than this."
    )


class BatchGrowth(_Options):
    """Batches that grow (Smith et al. 2018, *Don't decay the learning rate, increase the batch
    size*)."""

    epochs: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        min_length=1, max_length=16, description="From each of these epochs on they are larger."
    )
    factor: int = Field(2, ge=2, le=1024, description="So many times, each time.")

    @field_validator("epochs")
    @classmethod
    def _one_after_another(cls, epochs: tuple[int, ...]) -> tuple[int, ...]:
        if list(epochs) != sorted(set(epochs)):
            raise ValueError("expected each epoch to be later than the one before")
        return epochs


# Snapshots have a schedule of their own: half a cosine a member.
_NOT_OF_SNAPSHOTS: JsonDict = {
    "needs": {"ensemble.method": ["none", "bagging", "boosting", "stacking"]}
}


def _of_schedules(setting: str) -> JsonDict:
    """Of a setting that has an effect with some learning rate schedules only."""
    return {"needs": {"train.schedule": [*schedules.that_use(setting)]}}


def _of_optimizers(setting: str, **others: str) -> JsonDict:
    """Of a setting that has an effect with some optimizers only.

    Args:
        others: What it needs of other settings of the section.
    """
    needs: JsonDict = {"train.optimizer": [*that_use(setting)]}
    return {"needs": needs | {f"train.{name}": [value] for name, value in others.items()}}


def _of_losses(setting: str) -> JsonDict:
    return {"needs": {"train.loss": [*using(setting)]}}


class Train(_Options):
    """The ``train`` section of the built-in trainers."""

    epochs: int = Field(20, ge=1, le=100_000, description="Times through the training rows.")
    batch_size: int = Field(32, ge=1, le=1_000_000, description="Rows a step.")
    optimizer: OptimizerName = Field("adamw", description="Turns gradients into steps.")
    lr: float = Field(1e-3, gt=0, le=1000, description="Learning rate at the start.")
    momentum: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="How much of the last step stays in the next one.",
        json_schema_extra=_of_optimizers("momentum"),
    )
    nesterov: bool = Field(
        False,
        description="Nesterov's momentum.",
        json_schema_extra=_of_optimizers("nesterov", momentum=ABOVE_0),
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="How much weights are shrunk: by an L2 penalty in the gradient; adamw and "
        "muon decoupled, apart from it.",
    )
    decoupled: bool = Field(
        False,
        description="Weight decay apart from the gradient: a step takes lr × weight_decay of a "
        "weight away (Loshchilov and Hutter 2019).",
        json_schema_extra=_of_optimizers("decoupled", weight_decay=ABOVE_0),
    )
    decay_on: Literal["all", "weights"] = Field(
        "all",
        description="What weight decay shrinks: all parameters, or all but norms and biases.",
        json_schema_extra={"needs": {"train.weight_decay": [ABOVE_0]}},
    )
    beta1: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="How much of the mean gradient stays at a step (muon: of the parameters that "
        "adamw updates, those that are not matrices).",
        json_schema_extra=_of_optimizers("beta1"),
    )
    beta2: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="The same of the mean squared gradient.",
        json_schema_extra=_of_optimizers("beta2"),
    )
    alpha: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="How much of the mean squared gradient stays at a step.",
        json_schema_extra=_of_optimizers("alpha"),
    )
    l1: float = Field(0.0, ge=0, le=1000, description="L1 penalty on every parameter.")
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="A longer gradient (all parameters together) is made this long.",
        json_schema_extra=_of_optimizers("clip_norm"),
    )
    clip_value: float | None = Field(
        None,
        gt=0,
        description="Each number of the gradient is cut to at most this, and at least minus this.",
        json_schema_extra=_of_optimizers("clip_value"),
    )
    loss: LossName = Field(
        "auto",
        description="What is made small. auto: cross-entropy of classes, bce (binary "
        "cross-entropy) of labels, mse (squared error) of values. val/loss is that of auto "
        "always, so that trials can be compared.",
    )
    focal_gamma: float = Field(
        2.0,
        ge=0,
        le=100,
        description="focal only: how little counts what is right already; with 0 it is "
        "cross-entropy.",
        json_schema_extra=_of_losses("focal_gamma"),
    )
    huber_delta: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="huber only: from which error on it counts by its size, not by its square; in "
        "standard deviations of the target.",
        json_schema_extra=_of_losses("huber_delta"),
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Classes and labels only: the share of the target that goes to all classes "
        "alike.",
        json_schema_extra=_of_losses("label_smoothing"),
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="Classes and labels only, what a row counts in the loss. balanced: less, the "
        "more training rows there are of its class; of labels, having one counts as much as not "
        "having it. Metrics are not weighted.",
        json_schema_extra=_of_losses("class_weights"),
    )
    sampling: Literal["shuffle", "balanced"] = Field(
        "shuffle",
        description="Which rows an epoch takes. shuffle: each once. balanced (classification "
        "only): as many, drawn with replacement so that each class comes as often.",
    )
    metrics: tuple[MetricName, ...] = Field(
        (),
        description="What else is reported of the validation rows in each epoch: "
        f"{', '.join(f'`{name}`' for name in FURTHER)} (of what data it is: the guide), what a "
        f"prediction costs ({', '.join(f'`{name}`' for name in COSTS)}), or a function of your "
        "own as module:function. An objective and what early stopping watches need not be listed.",
        examples=[["mcc", "brier"], ["f1"], ["own:profit"]],
    )
    ema: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Validate, and keep, an exponential moving average of the weights, of which "
        "this share stays at a step (less in the first steps).",
    )
    swa: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Validate, and keep, the mean of the weights at the ends of the epochs from "
        "this share of the epochs on (Izmailov et al. 2018); batch norm's statistics are those of "
        "the mean.",
    )
    schedule: ScheduleName = Field(
        "constant",
        description="How the learning rate goes from the first step to the last. plateau: lower "
        "when a metric has stopped improving; the others as in torch.optim.lr_scheduler.",
        json_schema_extra=_NOT_OF_SNAPSHOTS,
    )
    warmup: float = Field(
        0.0,
        ge=0,
        description="Epochs, also parts of one, in which the learning rate first rises from a "
        "hundredth, linearly; the schedule has what is left.",
        json_schema_extra=_NOT_OF_SNAPSHOTS,
    )
    gamma: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="What the learning rate is multiplied by: each epoch (exponential), or each "
        "time it falls. Absent: 0.95 (exponential), 0.1.",
        json_schema_extra=_of_schedules("gamma"),
    )
    step_epochs: int = Field(
        10,
        ge=1,
        description="Epochs after which the learning rate falls, each time.",
        json_schema_extra=_of_schedules("step_epochs"),
    )
    power: float = Field(
        1.0,
        gt=0,
        le=100,
        description="The learning rate is this power of the share of the steps that are left.",
        json_schema_extra=_of_schedules("power"),
    )
    cycle_epochs: int = Field(
        10,
        ge=1,
        description="Epochs of the first cycle.",
        json_schema_extra=_of_schedules("cycle_epochs"),
    )
    cycle_growth: int = Field(
        1,
        ge=1,
        description="How many times as long each cycle is as the one before.",
        json_schema_extra=_of_schedules("cycle_growth"),
    )
    rise: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="The share of the steps in which the learning rate rises to `lr`; meanwhile "
        "momentum, or beta1, falls by 0.1 (not nadam's).",
        json_schema_extra=_of_schedules("rise"),
    )
    plateau: Plateau = Field(
        Plateau(), description="When it falls.", json_schema_extra=_of_schedules("plateau")
    )
    batch_growth: BatchGrowth | None = Field(
        None,
        description="Larger batches in later epochs, instead of a lower learning rate.",
        json_schema_extra=_of_optimizers("batch_growth"),
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="End a trial that no longer improves."
    )
    freeze: int | str | None = Field(
        None,
        description="Blocks of the model that stay as they are, batch norm included: `backbone` "
        "(all but the last layer), so many from the input on, or all up to the one of this name "
        "(`layer3`; the error of a wrong name lists them).",
        examples=["backbone", 4, "layer3"],
    )
    unfreeze_epoch: int | None = Field(
        None,
        ge=2,
        description="From this epoch on, what is frozen learns as well.",
        json_schema_extra={"needs": {"train.freeze": [GIVEN]}},
    )
    lr_backbone: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="The learning rate of all but the last layer, which has `lr`. Absent: `lr`.",
        json_schema_extra=_of_optimizers("lr_backbone"),
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="A block's learning rate is this share of that of the next one towards the "
        "last layer.",
        json_schema_extra=_of_optimizers("layer_decay"),
    )
    precision: Literal["float32", "bf16", "fp16"] = Field(
        "float32",
        description="The numbers that a model is computed with while it learns; weights, loss, "
        "validation and what is kept are float32. fp16 scales the loss, and leaves out steps "
        "whose gradients overflow.",
    )
    tf32: bool | None = Field(
        None,
        description="On CUDA: round the factors of float32 products and convolutions to "
        "TensorFloat-32, which is much faster. Absent: as PyTorch does, of convolutions only.",
    )
    deterministic: bool = Field(
        False,
        description="Use PyTorch's deterministic algorithms only; what has none fails. Without it "
        "cuDNN's are deterministic all the same; other operations on CUDA may not be.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "off",
        description="torch.compile the model for its training. auto: where the time that it is "
        "measured to gain in the trial is more than it takes; last digits may then depend on "
        "that. Lanes are never compiled by auto.",
    )
    grad_norm: bool = Field(
        False,
        description="Report train/grad_norm: how long the loss's gradient is, before the L1 "
        "penalty and clipping; the mean over an epoch's steps.",
    )
    vmap: bool = Field(
        False,
        description="Train models that lanes have no rule for as lanes all the same, by "
        "torch.func.vmap. It pays where a step is too small for the device; on a CPU rarely.",
    )
    repeats: int = Field(
        1,
        ge=1,
        le=100,
        description="Train so many models that differ in their seed only, side by side, and "
        "report the mean of their metrics.",
    )

    @model_validator(mode="after")
    def _one_average(self) -> Train:
        if self.ema is not None and self.swa is not None:
            raise ValueError("ema and swa are both averages of the weights: choose one")
        return self

    @model_validator(mode="after")
    def _one_clipping(self) -> Train:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("clip_norm and clip_value both bound the gradient: choose one")
        return self


class ImageTrain(Train):
    """The ``train`` section of `image_classifier`."""

    augment: Augment | None = Field(
        None, description="What is done to training images; validation images stay as they are."
    )
