"""What must fit together in a study file, beyond each value alone; and the file with its data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from hpo.errors import Problem
from hpo.spec import addresses, commands, estimators, over_devices, passwords, sections
from hpo.spec.document import Document
from hpo.spec.explain import did_you_mean, shown
from hpo.spec.methods import PRUNERS_OF_SEVERAL, Wilcoxon
from hpo.spec.names import is_metric
from hpo.spec.space import Choice, Float, Parameter, grid_size, values
from hpo.spec.study import Budget, StudySpec
from hpo.spec.yaml12 import Path
from trainers import losses, metrics
from trainers.metrics import ALWAYS, COSTS, SINGLE, Task
from trainers.registry import TRAINERS

MOST_GRID = 100_000
DEFAULT_TRIALS = 50

Found = Iterator[tuple[Path, str, str | None]]


def with_budget(budget: Budget, searched: bool) -> Budget:
    """The budget with its default: as many trials as make sense if nothing else ends it."""
    limits = (budget.epochs, budget.wall_s, budget.device_hours, budget.patience)
    if budget.trials is not None or (searched and any(limits)):
        return budget
    return budget.model_copy(update={"trials": DEFAULT_TRIALS if searched else 1})


def run(spec: StudySpec, document: Document, broken: set[str]) -> list[Problem]:
    """Every problem and warning between the parts of `spec`.

    Args:
        broken: Top-level keys with problems of their own; what depends on them is not checked.
    """
    found = []
    for keys, check in _PROBLEMS:
        if not broken.intersection(keys):
            found += [document.problem(*what) for what in check(spec)]
    if not broken.intersection(("command", "trainer", *sections.NAMES)):
        # Their lines are not to be shown.
        found += [
            replace(document.problem(*what), source_line=None) for what in passwords.problems(spec)
        ]
    for keys, check in _WARNINGS:
        if not broken.intersection(keys):
            found += [document.problem(*what, warning=True) for what in check(spec)]
    return found


def check_data(spec: StudySpec, summary: Mapping[str, Any]) -> list[Problem]:
    """What does not fit the data that a worker has loaded.

    Args:
        summary: `trainers.data.Dataset.summary`.
    """
    return [
        spec.problem(".".join(map(str, path)), message, hint)
        for path, message, hint in _data(spec, summary)
    ]


# -- objectives


def _objective(spec: StudySpec) -> Found:
    if not spec.objective:
        yield (
            ("objective",),
            "is missing: what your own trainer reports is not known",
            "objective: {metric: NAME, goal: minimize}",
        )
    counted = Counter(objective.metric for objective in spec.objective)
    for i, (path, metric) in enumerate(_metrics(spec)):
        if counted[metric] > 1 and metric in [o.metric for o in spec.objective[:i]]:
            yield path, f"{metric} is an objective already", "remove one of them"
        elif spec.trainer in TRAINERS:
            known = [*(f"val/{name}" for name in SINGLE), *(f"train/{name}" for name in ALWAYS)]
            known += [*COSTS, *_own_metrics(spec)]
            row, _, one = metric.removeprefix("val/").partition("/")
            each = metric.startswith("val/") and row in metrics.METRICS and row not in SINGLE
            if each and not one:
                hint = f"one class: val/{row}/CLASS; over all: val/{row}_macro"
                yield path, f"{metric} is a number for each class", hint
            elif not each and metric not in known:
                hint = _metric_hint(metric, known)
                yield path, f"{spec.trainer} does not report {shown(metric)}", hint
        elif not is_metric(metric):
            yield path, f"{shown(metric)} cannot be the name of a metric", "e.g. val/loss"


def _metrics(spec: StudySpec) -> list[tuple[Path, str]]:
    named = [objective.metric for objective in spec.objective]
    if len(named) == 1:
        return [(("objective", "metric"), named[0])]
    return [(("objective", i, "metric"), metric) for i, metric in enumerate(named)]


def _own_metrics(spec: StudySpec) -> list[str]:
    """The names under which the user's own metrics are reported."""
    listed = spec.train.get("metrics", ())
    return [f"val/{name.partition(':')[2]}" for name in listed if ":" in name]


def _metric_hint(metric: str, known: list[str]) -> str:
    short = metric.rpartition("/")[2]
    same_name = [name for name in known if name.partition("/")[2] == short]
    close = did_you_mean(metric, known)
    if same_name:
        return f"did you mean {same_name[0]!r}?"
    if close and close.startswith("did"):
        return close
    return f"known: {', '.join(known)}"


def _several_and_pruner(spec: StudySpec) -> Found:
    if len(spec.objective) > 1 and spec.pruner.name not in PRUNERS_OF_SEVERAL:
        yield (
            ("pruner",),
            f"{spec.pruner.name} cannot weigh {len(spec.objective)} objectives",
            f"with several objectives: {', '.join(PRUNERS_OF_SEVERAL)}",
        )


def _several_and_sampler(spec: StudySpec) -> Found:
    if len(spec.objective) > 1 and spec.sampler.name == "cma-es":
        yield (
            ("sampler",),
            f"cma-es has one objective; there are {len(spec.objective)}",
            "try tpe, gp, nsga2 or nsga3",
        )


# -- search, sampler and pruner


def _grid(spec: StudySpec) -> Found:
    if spec.sampler.name != "grid" or not spec.search:
        return
    endless = [path for path, parameter in spec.search.items() if values(parameter) is None]
    for path in endless:
        yield ("search", path), "the grid sampler needs a step, or choices", "add step: …"
    size = None if endless else grid_size(spec.search)
    if size is not None and size > MOST_GRID:
        yield (
            ("sampler",),
            f"the grid has {size:,} configurations; at most {MOST_GRID:,} can be listed",
            "larger steps, or try tpe",
        )


def _files(spec: StudySpec) -> Found:
    for path, parameter in spec.search.items():
        if not isinstance(parameter, Choice) or not sections.is_file(spec.trainer, path):
            continue
        for i, text in enumerate(parameter.choices):
            if not sections.is_path(text, spec.trainer, path):
                continue
            try:
                addresses.check_readable(addresses.absolute(text, spec.folder), text)
            except addresses.AddressError as error:
                yield ("search", path, i), error.message, error.hint


def _pruner_and_epochs(spec: StudySpec) -> Found:
    epochs = _largest(spec, "train.epochs")
    if epochs is None:
        return
    for option in ("n_warmup_steps", "min_resource", "patience"):
        first = spec.pruner.options.get(option)
        if isinstance(first, int) and first >= epochs:
            yield (
                ("pruner", option),
                f"expected less than train.epochs, which is {epochs:g}; got {first}: "
                "no trial would ever be pruned",
                f"try {max(1, int(epochs) // 5)}" if epochs > 1 else "pruner: none",
            )


def _pruner_and_folds(spec: StudySpec) -> Found:
    """That fold can be held against fold, and enough of them to tell a difference."""
    options = spec.pruner.options
    folds_decide = "wilcoxon" in (spec.pruner.name, options.get("wrapped"))
    if not folds_decide or spec.trainer not in TRAINERS:
        return
    for path, metric in _metrics(spec):
        if not metric.startswith("val/"):
            yield path, f"wilcoxon compares folds, of which {metric} is not known", "val/loss"
    models = (spec.data["folds"] or 1) * spec.data["fold_repeats"] * spec.train["repeats"]
    threshold = options.get("p_threshold", Wilcoxon().p_threshold)
    enough = max(2, math.floor(math.log2(1 / threshold)) + 1)
    if models < enough:
        there = f"there are {models}" if models > 1 else "a trial is one model"
        yield (
            ("pruner",),
            f"wilcoxon compares a trial's folds or repeats with those of the best one; {there}, "
            f"and from fewer than {enough} it cannot conclude (p_threshold: {threshold:g})",
            f"data: {{folds: {max(5, enough)}}}, or pruner: median",
        )


def _strategy(spec: StudySpec) -> Found:
    """Whether there is something to choose from, one thing to compare by, and an end to it."""
    if spec.strategy is None:
        return
    name = spec.strategy.name
    if not spec.search:
        yield ("strategy",), "nothing is searched", "search: {train.lr: {low: 1e-4, high: 1e-1}}"
    if len(spec.objective) > 1:
        yield (
            ("strategy",),
            f"{name} has one objective; there are {len(spec.objective)}",
            "with several objectives: a sampler, e.g. tpe",
        )
    epochs = _largest(spec, "train.epochs")
    if epochs is None:
        yield (
            ("strategy",),
            f"{name} needs to know how many epochs a trial has, and train.epochs is missing",
            "train: {epochs: 20}, which the trainer reads",
        )
        return
    budget = spec.budget
    if not any((budget.epochs, budget.wall_s, budget.device_hours)):
        trials = budget.trials or DEFAULT_TRIALS
        yield (
            ("strategy",),
            f"{name} needs to know how much may be trained: budget.epochs, wall or device_hours",
            f"budget: {{epochs: {trials * epochs:.0f}}} is what {trials} whole trials take",
        )
    elif budget.epochs is not None and budget.epochs < epochs:
        yield (
            ("budget", "epochs"),
            f"one trial has {epochs:g} epochs; got {budget.epochs} for all of them",
            f"{DEFAULT_TRIALS * epochs:.0f} is what {DEFAULT_TRIALS} whole trials take",
        )


def _largest(spec: StudySpec, path: str) -> float | None:
    """The largest number that an option can be in a trial, if it is one."""
    section, *_ = path.split(".")
    parameter: Parameter | None = spec.search.get(path)
    listed: list[Any] = [getattr(spec, section).get(path.partition(".")[2])]
    if isinstance(parameter, Choice):
        listed = list(parameter.choices)
    elif parameter is not None:
        listed = [parameter.high]
    return max((value for value in listed if sections.is_number(value)), default=None)


# -- warnings


def _sampler_and_space(spec: StudySpec) -> Found:
    if spec.sampler.name not in ("cma-es", "gp"):
        return
    at_random = [
        path
        for path, parameter in spec.search.items()
        if parameter.when or (spec.sampler.name == "cma-es" and isinstance(parameter, Choice))
    ]
    if at_random:
        yield (
            ("sampler",),
            f"{spec.sampler.name} draws at random: {', '.join(at_random)}",
            "tpe also learns about choices and conditions",
        )


def _trials_without_search(spec: StudySpec) -> Found:
    if not spec.search and (spec.budget.trials or 0) > 1:
        yield (
            ("budget", "trials"),
            f"nothing is searched: there is one training, not {spec.budget.trials}",
            None,
        )


def _workers(spec: StudySpec) -> Found:
    from hpo import devices  # which imports this package

    if spec.executor.name == "ray":  # on other machines
        return
    if spec.workers == "auto" or spec.device == "cuda" or spec.workers <= devices.cores():
        return
    if spec.device == "cpu" or not devices.gpus():
        yield (
            ("workers",),
            f"{spec.workers} workers share {devices.cores()} CPU cores",
            "workers: auto",
        )


Check = Callable[[StudySpec], Found]

# The top-level keys that a check reads, and the check.
_PROBLEMS: list[tuple[tuple[str, ...], Check]] = [
    (("objective", "trainer", "train"), _objective),
    (("objective", "pruner"), _several_and_pruner),
    (("objective", "sampler"), _several_and_sampler),
    (("search", "sampler"), _grid),
    (("search", "trainer"), _files),
    (("command", "search", "trainer", *sections.NAMES), commands.problems),
    (("search", "model", "train", "ensemble", "trainer"), estimators.problems),
    (("pruner", "search", "train"), _pruner_and_epochs),
    (("pruner", "data", "train", "trainer"), _pruner_and_folds),
    (("strategy", "search", "objective", "train", "budget"), _strategy),
    (
        ("gpus_per_trial", "parallel", "lanes", "trainer", "command", "search", *sections.NAMES),
        over_devices.problems,
    ),
]
_WARNINGS: list[tuple[tuple[str, ...], Check]] = [
    (("search", "sampler"), _sampler_and_space),
    (("search", "budget"), _trials_without_search),
    (("workers", "device", "executor"), _workers),
]


# -- data


def _data(spec: StudySpec, summary: Mapping[str, Any]) -> Found:
    classes = summary["classes"] or ()
    known = [*metrics.known(summary["task"], classes), *COSTS]
    # What the user's own trainer reports is found out when it does.
    watched = _metrics(spec) if spec.trainer in TRAINERS else []
    own = metrics.watched(spec.train) if spec.trainer in TRAINERS else {}
    watched += [(("train", *key.split(".")), metric) for key, metric in own.items()]
    for path, metric in watched:
        if metric not in known and metric not in _own_metrics(spec):
            message = f"{metric} is not reported for {summary['task']}"
            # Those of each class only to one who asked for one.
            listed = [name for name in known if name.count("/") <= metric.count("/")]
            yield path, message, _metric_hint(metric, listed)
    if spec.trainer in TRAINERS:
        yield from _losses(spec, summary["task"])
    rows = summary["train"]
    for path, size in _batch_sizes(spec) if estimators.has_networks(spec) else ():
        if size > rows and spec.train.get("optimizer") != "lbfgs":  # which learns from all
            message = f"expected at most {rows}, the rows to train on; got {size}"
            yield path, message, f"try {min(32, rows)}"


def _losses(spec: StudySpec, task: Task) -> Found:
    """Losses that are searched, and settings of losses, which are not for what is predicted."""
    parameter = spec.search.get("train.loss")
    for i, name in enumerate(parameter.choices if isinstance(parameter, Choice) else ()):
        why = losses.why_not(str(name), task)
        if why:
            yield ("search", "train.loss", i), why, f"one of {', '.join(losses.of_task(task))}"
    for setting in ("label_smoothing", "class_weights"):
        path = f"train.{setting}"
        if path in spec.search and not set(losses.of_task(task)[1:]) & set(losses.using(setting)):
            yield ("search", path), f"has no effect: {losses.TARGETS[task]} are predicted", None


def _batch_sizes(spec: StudySpec) -> Iterator[tuple[Path, int]]:
    parameter = spec.search.get("train.batch_size")
    fixed = spec.train.get("batch_size")
    if isinstance(parameter, Choice):
        for i, size in enumerate(parameter.choices):
            if isinstance(size, int):
                yield ("search", "train.batch_size", i), size
    elif parameter is not None and not isinstance(parameter, Float):
        yield ("search", "train.batch_size", "high"), parameter.high
    if isinstance(fixed, int) and (parameter is None or parameter.when):
        yield ("train", "batch_size"), fixed
