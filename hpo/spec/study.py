"""`StudySpec`: a study file that has been read and found good."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SkipValidation

from hpo.errors import Problem
from hpo.spec import addresses, fields, sections, written
from hpo.spec.document import Document
from hpo.spec.executors import EXECUTORS
from hpo.spec.fields import DURATION, NAME
from hpo.spec.methods import PRUNERS, SAMPLERS, STRATEGIES, MethodOptions
from hpo.spec.space import Parameter, Scalar


def _method(kind: str, table: Mapping[str, type[MethodOptions]]) -> Any:
    def named(value: Any) -> Any:
        if isinstance(value, Named):
            return value
        name, options = fields.method(kind, list(table), value)
        return Named(name=name, options=options)

    return named


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


_DurationText = Annotated[str, Field(pattern=DURATION)]
Duration = Annotated[
    float, BeforeValidator(fields.duration_s, json_schema_input_type=_DurationText)
]


class Objective(_Part):
    """What a study is to make better."""

    metric: str = Field(
        min_length=1,
        description="A metric that the trainer reports.",
        examples=["val/loss", "val/accuracy", "val/f1_macro", "val/roc_auc", "val/r2"],
    )
    goal: Annotated[
        Literal["maximize", "minimize"],
        BeforeValidator(fields.goal, json_schema_input_type=Literal["maximize", "minimize"]),
    ] = Field(description="Whether more or less of it is better.")

    @property
    def maximize(self) -> bool:
        return self.goal == "maximize"


class Named(_Part):
    """A sampler, a pruner, a strategy or an executor with the options that the file gives it."""

    name: str
    options: Mapping[str, Any] = Field(default_factory=dict)


class Budget(_Part):
    """When a study is done: at the first of these limits.

    Attributes:
        epochs: Of all trials.
        wall_s: Over all runs of the study.
        device_hours: Hours of training, summed over the workers.
        target: Of the first objective.
        patience: Trials in a row without improvement.
    """

    trials: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Trials in total; a rerun completes up to so many. Absent: 50, or 1 without "
        "`search`, or no limit with `epochs`, `wall`, `device_hours` or `patience`.",
    )
    epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs of all trials together, over all its runs; a trial is stopped at an "
        "epoch's end then.",
    )
    wall_s: Duration | None = Field(
        None,
        alias="wall",
        description="Time that the study may run, over all its runs; a trial is stopped at an "
        "epoch's end then.",
        examples=["90s", "10m", "1h30m", "2d"],
    )
    device_hours: float | None = Field(
        None, gt=0, description="Hours of training, summed over the workers."
    )
    target: float | None = Field(None, description="Stop when a trial's value is as good as this.")
    patience: int | None = Field(
        None, ge=1, description="Stop after so many trials without improvement."
    )


class Tracking(_Part):
    """Where MLflow is.

    Attributes:
        uri: None: ``MLFLOW_TRACKING_URI``, or the embedded store under ``mlruns/``.
        examples: Rows of the data that are copied there.
    """

    uri: str | None = Field(
        None,
        min_length=1,
        description="`http(s)://host:port`, `sqlite:///file` or `postgresql://…`. Absent: "
        "`MLFLOW_TRACKING_URI`, or the embedded store under `mlruns/`.",
    )
    examples: int = Field(
        1000,
        ge=0,
        le=100_000,
        description="At most so many validation rows are kept with the study and in MLflow, as "
        "small images or with all columns of the source, to look at what models get wrong. "
        "0: none, where the data must not be copied.",
    )


class FromStudy(_Part):
    """An earlier study whose finished trials the sampler knows from the start."""

    study: Annotated[str, BeforeValidator(fields.name)] = Field(
        description="The earlier study's name."
    )


class StudySpec(_Part):
    """A study, as its file declares it, with every default in place.

    Attributes:
        trainer: A built-in's name, ``module:function``, or ``command``.
        command: The program and its arguments, if that is the trainer.
        data, model, train, ensemble: Sections for the trainer; nested dicts, lists and scalars.
            What is searched has here the value that it takes where its conditions do not hold.
        search: Path, e.g. ``train.lr``, → parameter. A parameter comes after those that its
            conditions name.
        objective: At least one; the first decides a trial's best epoch.
        start_from: Configurations to try first (path → value), and earlier studies.
        gpus_per_trial: In (0, 1], or a whole number.
        timeout_s: Of a trial.
        storage: ``journal``, or an address with its secrets.
    """

    study: Annotated[str, BeforeValidator(fields.name)] = Field(
        description="The study's name: of its folder under studies/ and of its MLflow experiment.",
        json_schema_extra={"pattern": NAME},
    )
    trainer: Annotated[str, BeforeValidator(fields.trainer)] = Field(
        description="A built-in trainer, or a function of your own as module:function, found from "
        "this file's folder.",
    )
    command: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(fields.command, json_schema_input_type=list[str | int | float]),
    ] = Field(
        None,
        description="Instead of a trainer: a program with its arguments, run from this file's "
        "folder for each trial. `{train.lr}` in an argument is the trial's value.",
        examples=[["python", "train.py", "--lr", "{train.lr}"]],
    )
    data: Mapping[str, Any] = Field(default_factory=dict, description="What to train on.")
    model: Mapping[str, Any] = Field(default_factory=dict, description="What to train.")
    train: Mapping[str, Any] = Field(default_factory=dict, description="How to train it.")
    ensemble: Mapping[str, Any] = Field(
        default_factory=dict, description="How several models make one trial; none as a rule."
    )
    search: SkipValidation[Mapping[str, Parameter]] = Field(
        default_factory=dict,
        description="A path into this file → the values to search there. Without it, the study "
        "is one training.",
    )
    objective: Annotated[
        tuple[Objective, ...],
        BeforeValidator(fields.one_or_several, json_schema_input_type=Objective | list[Objective]),
    ] = Field(
        default=(),
        description="What to make better; several give a Pareto front. Absent: val/loss, "
        "minimized, for the built-in trainers.",
    )
    sampler: Annotated[Named, BeforeValidator(_method("sampler", SAMPLERS))] = Field(
        default=Named(name="auto"), description="What suggests the next trial."
    )
    pruner: Annotated[Named, BeforeValidator(_method("pruner", PRUNERS))] = Field(
        default=Named(name="auto"), description="What ends a trial that is not worth its time."
    )
    strategy: Annotated[Named | None, BeforeValidator(_method("strategy", STRATEGIES))] = Field(
        default=None,
        description="In place of sampler and pruner: what begins, pauses and resumes trials. "
        "Needs `budget.epochs`, `budget.wall` or `budget.device_hours`.",
    )
    budget: Budget = Field(
        default=Budget(), description="When the study is done: at the first of these limits."
    )
    start_from: SkipValidation[tuple[Mapping[str, Scalar] | FromStudy, ...]] = Field(
        default=(),
        description="Configurations to try first, {path: value, …}; and earlier studies to learn "
        "from, {study: NAME}.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of everything that is drawn at random.")
    executor: Annotated[Named, BeforeValidator(_method("executor", EXECUTORS))] = Field(
        default=Named(name="processes"),
        description="Where workers live: on this machine, or on a Ray cluster.",
    )
    workers: Annotated[
        int | Literal["auto"],
        BeforeValidator(
            fields.auto_or_count,
            json_schema_input_type=Annotated[int, Field(ge=1, le=4096)] | Literal["auto"],
        ),
    ] = Field("auto", description="Trials at a time. auto: one a core, or as many as GPUs hold.")
    lanes: Annotated[
        int | Literal["auto", "off"],
        BeforeValidator(
            fields.lanes,
            json_schema_input_type=Annotated[int, Field(ge=1, le=1024)] | Literal["auto", "off"],
        ),
    ] = Field(
        "auto",
        description="Trials that a worker trains together, as one program, where their model "
        "allows it. auto: as many as pay on this device, but so few that the sampler learns from "
        "results. off: one.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="What to train on. auto: GPUs where there are any."
    )
    gpus_per_trial: Annotated[
        float,
        BeforeValidator(
            fields.gpus,
            json_schema_input_type=Annotated[float, Field(gt=0, le=1)]
            | Annotated[int, Field(ge=1, le=64)],
        ),
    ] = Field(
        1.0,
        description="A trial's share of a GPU; with 0.25, four trials share one. Above 1: over "
        "how many GPUs of one machine it is trained; without any, over how many processes.",
    )
    parallel: Literal["ddp", "fsdp", "pipeline"] | None = Field(
        None,
        description="How a built-in trainer uses several GPUs a trial. ddp: each has the model, "
        "and its rows of every batch. fsdp: each has a part of every layer, too, for models that "
        "one GPU does not hold. pipeline: each has some of the layers. Absent: ddp.",
    )
    retries: int = Field(
        1, ge=0, le=100, description="How often a trial goes on after its worker crashed."
    )
    timeout_s: Duration | None = Field(
        None,
        alias="timeout",
        description="Stop a trial at an epoch's end after this time.",
        examples=["90s", "10m", "1h30m"],
    )
    fresh_process: bool = Field(
        False, description="Give each trial a new process, instead of warm workers."
    )
    keep_models: Annotated[
        int | Literal["all"],
        BeforeValidator(
            fields.most_models,
            json_schema_input_type=Annotated[int, Field(ge=0, le=1_000_000)] | Literal["all"],
        ),
    ] = Field(
        100,
        description="Of so many trials, the best by the first objective, the weights are kept, "
        "with which `hpo predict` and recorded ensembles predict. 0: of none.",
    )
    tracking: Tracking = Field(default=Tracking(), description="Where MLflow is.")
    storage: str = Field(
        "journal",
        min_length=1,
        description="Where Optuna keeps the study: `journal` (a file in the study's folder), "
        "`sqlite:///file` or `postgresql://user:${PASSWORD}@host/database`.",
        examples=["journal", "sqlite:///optuna.db"],
    )

    _file: Path = PrivateAttr()
    _document: Document = PrivateAttr()
    _as_written: dict[str, str] = PrivateAttr(default_factory=dict)
    _warnings: tuple[Problem, ...] = PrivateAttr(default=())

    @property
    def file(self) -> Path:
        """The study file as the user named it."""
        return self._file

    @property
    def folder(self) -> Path:
        """The study file's folder, absolute."""
        return self._file.absolute().parent

    @property
    def paths_as_written(self) -> dict[str, str]:
        """The addresses in the sections as the file has them, by their keys."""
        return {
            key: text
            for key, text in self._as_written.items()
            if key.partition(".")[0] in sections.NAMES
        }

    @property
    def devices(self) -> int:
        """Over how many a trial is trained."""
        return max(1, int(self.gpus_per_trial))

    @property
    def trials_asked(self) -> bool:
        """Whether ``budget.trials`` is from the command line, not from the file."""
        return self._document.is_overridden(("budget", "trials")) is not None

    def with_trials(self, trials: int) -> StudySpec:
        """The same study with another budget of trials."""
        budget = self.budget.model_copy(update={"trials": trials})
        return self.model_copy(update={"budget": budget})

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What may not be meant, but can run."""
        return self._warnings

    def config(self, params: Mapping[str, Scalar]) -> dict[str, dict[str, Any]]:
        """The sections ``data``, ``model``, ``train`` and ``ensemble`` of a trial.

        Args:
            params: Searched path → the trial's value.

        Returns:
            New dicts and lists, which the caller may change.
        """
        config = {name: copy.deepcopy(dict(getattr(self, name))) for name in sections.NAMES}
        for path, value in params.items():
            if sections.is_path(value, self.trainer, path):
                value = str(addresses.absolute(value, self.folder))
            if isinstance(value, str) and sections.is_file(self.trainer, path, "path-or-name"):
                value = addresses.path_or_name(value, self.folder)
            sections.put(self.trainer, config, path, value)
        return config

    def resolved(self) -> str:
        """The study file with every default written out, without secrets (YAML).

        Environment variables in addresses stay as they are written in the file.
        """
        return written.to_yaml(self, self._as_written)

    def identity(self) -> dict[str, Any]:
        """What must not change while a study is resumed: flat key → value, as JSON has it."""
        return written.identity(self, self._as_written)

    def problem(self, key: str, message: str, hint: str | None = None) -> Problem:
        """A problem that was found later, placed at a dotted key of the file.

        Args:
            key: E.g. ``data.source``; where the file lacks it, the nearest key above is shown.
        """
        return self._document.problem(self._document.path(key), message, hint)
