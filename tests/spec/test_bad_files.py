"""What a bad study file is told: the line, the column, the key, what was expected, what to try.

Each example is the good file below with some lines replaced; ▸ marks where the problem is to be
shown, and is not part of the file. The numbers are those of the catalogue of bad study files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from hpo import spec
from hpo.cli import main
from hpo.errors import StudyFileError

GOOD = {
    "study": "study: s",
    "trainer": "trainer: image_classifier",
    "data": "data: {source: digits}",
    "model": "model: {name: mlp, hidden: [64, 32]}",
    "train": "train: {epochs: 20, lr: 0.05}",
    "search": "search:\n  train.lr: {low: 1e-3, high: 1.0, log: true}",
    "objective": "objective: {metric: val/f1_macro, goal: maximize}",
}
MARK = "▸"
FIRST = "objective:\n- {metric: val/loss, goal: minimize}\n"


class Bad(NamedTuple):
    """A bad file.

    Attributes:
        case: Its number in the catalogue, and a name.
        key: The key that is named.
        message: A part of what is said.
        hint: A part of what is to be tried; empty: nothing need be.
        lines: Key → lines that replace the good ones; an empty text leaves them out.
    """

    case: str
    key: str
    message: str
    hint: str
    lines: dict[str, str]


def search(*lines: str) -> dict[str, str]:
    return {"search": "\n  ".join(["search:", *lines])}


# fmt: off
BAD = [
    # -- keys, types, values
    Bad("1 unknown key", "train.optimzer", "unknown key", "did you mean 'optimizer'?",
        {"train": "train: {epochs: 20, ▸optimzer: sgd}"}),
    Bad("1 unknown key at the top", "prunner", "unknown key", "did you mean 'pruner'?",
        {"pruner": "▸prunner: median"}),
    Bad("1 key of another section", "model.lr", "unknown key", "did you mean train.lr?",
        {"model": "model: {▸lr: 0.1}"}),
    Bad("1 key of a section at the top", "epochs", "unknown key", "did you mean train.epochs?",
        {"epochs": "▸epochs: 3"}),
    Bad("1 another tool's word", "retain", "unknown key", "did you mean keep_models?",
        {"retain": "▸retain: 3"}),
    Bad("1 top-level key in a section", "train.pruner", "unknown key", "top level",
        {"train": "train: {▸pruner: median}"}),
    Bad("1 unknown nested key", "budget.trails", "unknown key", "did you mean 'trials'?",
        {"budget": "budget: {▸trails: 3}"}),
    Bad("1 unknown key, nothing like it", "tracking.server", "unknown key", "known: uri",
        {"tracking": "tracking: {▸server: x}"}),
    Bad("1 unknown key of an objective", "objective.direction", "unknown key", "metric, goal",
        {"objective": "objective: {metric: val/loss, goal: minimize, ▸direction: x}"}),
    Bad("2 no study", "study", "is missing", "study: NAME",
        {"study": "", "trainer": "▸trainer: tabular"}),
    Bad("2 no trainer", "trainer", "is missing", "", {"study": "▸study: s", "trainer": ""}),
    Bad("2 no data", "data.source", "is missing", "", {"study": "▸study: s", "data": ""}),
    Bad("2 no source", "data.source", "is missing", "source: digits",
        {"data": "▸data: {validation: 0.1}"}),
    Bad("2 nothing behind the key", "study", "is missing", "", {"study": "study:▸"}),
    Bad("3 text for a number", "train.epochs", "expected a whole number; got 'many'", "",
        {"train": "train: {epochs: ▸many}"}),
    Bad("3 quoted number", "train.epochs", "expected a whole number; got '20'", "the quotes",
        {"train": "train: {epochs: ▸'20'}"}),
    Bad("3 fraction for a whole number", "train.epochs", "a whole number; got 2.5", "try 2",
        {"train": "train: {epochs: ▸2.5}"}),
    Bad("3 truth for a number", "train.epochs", "expected a whole number; got true", "",
        {"train": "train: {epochs: ▸true}"}),
    Bad("3 out of range", "train.lr", "expected a number > 0; got -0.1", "",
        {"train": "train: {lr: ▸-0.1}"}),
    Bad("3 infinite", "train.lr", "expected a finite number; got inf", "",
        {"train": "train: {lr: ▸.inf}"}),
    Bad("3 value for a section", "model", "expected keys with values; got 'mlp'", "",
        {"model": "model: ▸mlp"}),
    Bad("3 number for a list", "model.hidden", "expected a list; got 64", "[64]",
        {"model": "model: {hidden: ▸64}"}),
    Bad("3 an item of a list", "model.hidden.1", "expected a number ≥ 1; got 0", "",
        {"model": "model: {hidden: [64, ▸0]}"}),
    Bad("3 a list for search", "search", "expected paths with ranges", "train.lr",
        {"search": "search: ▸[train.lr]"}),
    Bad("3 a number for the study", "study", "expected text; got 5", "quotes",
        {"study": "study: ▸5"}),
    Bad("3 nested group", "train.early_stopping.patience", "expected a number ≥ 1; got 0", "",
        {"train": "train:\n  early_stopping:\n    patience: ▸0"}),
    Bad("3 number for a group", "train.early_stopping", "expected keys with values; got 5",
        "known: patience", {"train": "train: {early_stopping: ▸5}"}),
    # -- ranges and choices
    Bad("4 low > high", "search.train.lr.low", "expected at most high; got 1.0 > 0.1",
        "low: 0.1, high: 1.0", search("train.lr: {low: ▸1.0, high: 0.1}")),
    Bad("6 log from 0", "search.train.lr.low", "expected a number > 0 because log is true; got 0",
        "try 1e-5", search("train.epochs: [1, 2]", "train.lr:", "  low: ▸0", "  high: 1",
        "  log: true")),
    Bad("6 log of whole numbers from 0", "search.train.epochs.low", "expected a number", "",
        search("train.epochs: {low: ▸0, high: 8, log: true}")),
    Bad("7 log and step", "search.train.lr.step", "log and step exclude each other", "remove",
        search("train.lr: {low: 0.1, high: 1.0, log: true, step: ▸0.1}")),
    Bad("8 step does not divide", "search.model.dropout.step", "does not divide the range",
        "high: 0.4 or high: 0.6", search("model.dropout: {low: 0, high: 0.5, step: ▸0.2}")),
    Bad("8 step 0", "search.train.epochs.step", "expected a number > 0; got 0", "",
        search("train.epochs: {low: 1, high: 9, step: ▸0}")),
    Bad("8 negative step", "search.train.epochs.step", "expected a number > 0; got -1", "",
        search("train.epochs: {low: 1, high: 9, step: ▸-1}")),
    Bad("8 step of a fraction", "search.train.epochs.step", "expected a whole number; got 0.5", "",
        search("train.epochs: {low: 1, high: 9, step: ▸0.5}")),
    Bad("9 nan", "search.train.lr.low", "expected a finite number; got nan", "",
        search("train.lr: {low: ▸.nan, high: 1}")),
    Bad("9 infinity", "search.train.lr.high", "expected a finite number; got inf", "",
        search("train.lr: {low: 1, high: ▸.inf}")),
    Bad("9 quoted", "search.train.lr.low", "expected a finite number; got '1e-3'", "quotes",
        search("train.lr: {low: ▸'1e-3', high: 1}")),
    Bad("9 no high", "search.train.lr.high", "is missing", "", search("▸train.lr: {low: 0.1}")),
    Bad("9 too wide", "search.train.x.high", "the range from -1e+308 to 1e+308 is too large", "",
        {"trainer": "trainer: own:train"} | search("train.x: {low: -1e308, high: ▸1e308}")),
    Bad("9 too large", "search.train.x.high", "a whole number up to 2^53", "",
        {"trainer": "trainer: own:train"} | search("train.x: {low: 0, high: ▸9007199254740993}")),
    Bad("10 no choices", "search.train.optimizer", "at least two choices; got 0", "",
        search("train.optimizer: ▸[]")),
    Bad("10 one choice", "search.train.optimizer", "at least two choices; got 1",
        "put it into train", search("train.optimizer: ▸[sgd]")),
    Bad("10 a choice twice", "search.train.lr.2", "0.1 is twice among the choices", "keep one",
        search("train.lr: [0.1, 0.2, ▸1e-1]")),
    Bad("10 true and 1", "search.train.x.1", "1 and true cannot be told apart", "",
        {"trainer": "trainer: own:train"} | search("train.x: [true, ▸1]")),
    Bad("11 a list as a choice", "search.model.hidden.0.0", "a choice must be a single value",
        "search its items", search("model.hidden.0: [▸[64], 32]")),
    Bad("11 keys as a choice", "search.train.x.choices.1", "a choice must be a single value", "",
        {"trainer": "trainer: own:train"} | search("train.x: {choices: [1, ▸{a: 1}]}")),
    Bad("12 within another", "search.train.early_stopping.patience", "lies within", "one of them",
        {"trainer": "trainer: own:train"} | search("train.early_stopping: [1, 2]",
        "▸train.early_stopping.patience: [1, 2]")),
    Bad("13 characters", "train.a<b>", "expected letters, digits", "",
        {"trainer": "trainer: own:train", "train": "train: {▸a<b>: 1}", "search": ""}),
    Bad("13 dots in a name", "train.a.b", "a name has no dots", "",
        {"trainer": "trainer: own:train", "train": "train: {▸a.b: 1}", "search": ""}),
    Bad("13 too long", f"train.{'a' * 513}", "longer than 240 characters", "",
        {"trainer": "trainer: own:train", "train": f"train:\n  ▸{'a' * 513}: 1", "search": ""}),
    Bad("13 a searched name", "search.train.a<b>", "expected letters, digits", "",
        {"trainer": "trainer: own:train"} | search("▸train.a<b>: [1, 2]")),
    Bad("13 a metric", "objective.metric", "cannot be the name of a metric", "val/loss",
        {"trainer": "trainer: own:train",
        "objective": "objective: {metric: ▸'a<b>', goal: maximize}"}),
    # -- names
    Bad("14 trainer", "trainer", "text_classifier, or your own as", "'image_classifier'",
        {"trainer": "trainer: ▸image_clasifier"}),
    Bad("14 optimizer", "train.optimizer", "expected sgd, rmsprop, adagrad, adam, adamw", "'adam'",
        {"train": "train: {optimizer: ▸adamm}"}),
    Bad("14 optimizer, searched", "search.train.optimizer.1", "got 'adamm'", "'adam'",
        search("train.optimizer: [sgd, ▸adamm]")),
    Bad("14 sampler", "sampler", "expected one of auto, tpe,", "did you mean 'tpe'?",
        {"sampler": "sampler: ▸tpee"}),
    Bad("14 sampler with options", "sampler.name", "expected one of auto, tpe", "'random'",
        {"sampler": "sampler: {name: ▸randon}"}),
    Bad("14 sampler's option", "sampler.n_startup", "unknown key", "'n_startup_trials'",
        {"sampler": "sampler: {name: tpe, ▸n_startup: 5}"}),
    Bad("14 sampler's option's value", "sampler.n_startup_trials", "expected a number ≥ 0", "",
        {"sampler": "sampler: {name: tpe, n_startup_trials: ▸-5}"}),
    Bad("14 another tool's spelling", "executor", "expected the executor's name",
        "{name: ray, cpus_per_trial: 4}",
        {"executor": "executor: ▸{ray: {cpus_per_trial: 4}}"}),
    Bad("14 no sampler's name", "sampler", "expected the sampler's name", "name:",
        {"sampler": "sampler: ▸{n_startup_trials: 5}"}),
    Bad("14 pruner", "pruner", "expected one of auto, none", "did you mean 'hyperband'?",
        {"pruner": "pruner: ▸hyper-band"}),
    Bad("14 pruner's option", "pruner.eta", "unknown key", "reduction_factor",
        {"pruner": "pruner: {name: hyperband, ▸eta: 3}"}),
    Bad("14 pruner's required option", "pruner.percentile", "is missing", "",
        {"pruner": "▸pruner: percentile"}),
    Bad("14 pruner's options together", "pruner", "needs lower, upper or both", "",
        {"pruner": "pruner: ▸{name: threshold, interval_steps: 2}"}),
    Bad("14 model", "model.name", "expected mlp, residual_mlp or embedding_mlp",
        "did you mean 'mlp'?",
        {"trainer": "trainer: tabular", "data": "data: {source: wine}",
        "model": "model: {name: ▸mpl}"}),
    Bad("14 a member's model", "ensemble.members.0.name", "expected mlp, residual_mlp or embed",
        "did you mean 'mlp'?",
        {"trainer": "trainer: tabular", "data": "data: {source: wine}", "model": "",
        "ensemble": "ensemble: {method: bagging, members: [{name: ▸mpl}]}"}),
    Bad("14 a member's setting", "ensemble.members.0.channels", "unknown key", "known: ",
        {"trainer": "trainer: tabular", "data": "data: {source: wine}", "model": "",
        "ensemble": "ensemble: {method: bagging, members: [{▸channels: [8]}]}"}),
    Bad("14 a member that is no network", "ensemble.members.0.name", "members are networks", "",
        {"trainer": "trainer: tabular", "data": "data: {source: wine}", "model": "",
        "ensemble": "ensemble: {method: bagging, members: [{name: ▸sklearn.svm.SVC}]}"}),
    Bad("15 no trainer, and a path into what is no list", "trainer", "or your own as", "",
        {"trainer": "trainer: ▸nope", "train": "train: {list: true}",
        "search": "search: {train.list.0: [1, 2]}"}),
    Bad("15 trainer without a function", "trainer", "or your own as module:function", "",
        {"trainer": "trainer: ▸my.module"}),
    Bad("15 trainer as a path", "trainer", "or your own as module:function", "my.module:train",
        {"trainer": "trainer: ▸my/module.py:train"}),
    # -- objective
    Bad("16 metric", "objective.metric", "does not report 'val/f1_makro'",
        "did you mean 'val/f1_macro'?",
        {"objective": "objective: {metric: ▸val/f1_makro, goal: maximize}"}),
    Bad("16 metric of each class", "objective.metric", "val/f1 is a number for each class",
        "val/f1/CLASS; over all: val/f1_macro",
        {"objective": "objective: {metric: ▸val/f1, goal: maximize}"}),
    Bad("16 metric of training that is of validation only", "objective.metric",
        "does not report 'train/mcc'", "did you mean 'val/mcc'?",
        {"objective": "objective: {metric: ▸train/mcc, goal: maximize}"}),
    Bad("16 metric asked for that there is not", "train.metrics.0", "got 'f1_makro'", "",
        {"train": "train: {metrics: [▸f1_makro]}"}),
    Bad("16 own metric with a name that is taken", "train.metrics.0", "rename yours", "",
        {"train": "train: {metrics: [▸'own:mcc']}"}),
    Bad("16 metric without its split", "objective.metric", "does not report", "'val/accuracy'",
        {"objective": "objective: {metric: ▸accuracy, goal: maximize}"}),
    Bad("16 metric like no other", "objective.metric", "does not report", "known: val/loss",
        {"objective": "objective: {metric: ▸speed, goal: maximize}"}),
    Bad("17 no goal", "objective.goal", "is missing", "goal: maximize",
        {"objective": "▸objective: {metric: val/loss}"}),
    Bad("17 goal", "objective.goal", "maximize or minimize; got 'minimise'", "'minimize'",
        {"objective": "objective: {metric: val/loss, goal: ▸minimise}"}),
    Bad("17 goal of the second", "objective.1.goal", "got 'max'", "'maximize'",
        {"objective": f"{FIRST}- {{metric: val/accuracy, goal: ▸max}}"}),
    Bad("17 no objective", "objective", "is missing", "objective: {metric: NAME",
        {"study": "▸study: s", "trainer": "trainer: own:train", "objective": ""}),
    Bad("17 a name alone", "objective", "a metric and a goal; got 'val/loss'", "metric: val/loss",
        {"objective": "objective: ▸val/loss"}),
    Bad("17 none", "objective", "expected at least one objective", "",
        {"objective": "objective: ▸[]"}),
    Bad("17 twice", "objective.1.metric", "val/loss is an objective already", "",
        {"objective": f"{FIRST}- {{metric: ▸val/loss, goal: minimize}}"}),
    Bad("18 a pruner of one objective", "pruner", "median cannot weigh 2 objectives",
        "none, successive_halving, hyperband",
        {"objective": f"{FIRST}- {{metric: val/accuracy, goal: maximize}}",
        "pruner": "pruner: ▸median"}),
    Bad("18 a sampler of one objective", "sampler", "cma-es has one objective", "nsga2",
        {"objective": f"{FIRST}- {{metric: val/accuracy, goal: maximize}}",
        "sampler": "sampler: ▸cma-es"}),
    # -- YAML
    Bad("20 no", "data.skip_bad", "expected true or false; got 'no'", "false",
        {"data": "data: {source: digits, skip_bad: ▸no}"}),
    Bad("20 on", "train.nesterov", "expected true or false; got 'on'", "true",
        {"train": "train: {nesterov: ▸on}"}),
    Bad("21 sexagesimal", "train.epochs", "expected a whole number; got '12:30'", "",
        {"train": "train: {epochs: ▸12:30}"}),
    Bad("21 underscores", "train.epochs", "expected a whole number; got '1_000'", "",
        {"train": "train: {epochs: ▸1_000}"}),
    Bad("21 date", "train.epochs", "expected a whole number; got '2026-01-01'", "",
        {"train": "train: {epochs: ▸2026-01-01}"}),
    Bad("22 a key twice", "", "'lr' stands here again, after line 5", "keep one",
        {"train": "train: {lr: 0.1, epochs: 3, ▸lr: 0.2}"}),
    Bad("23 alias bomb", "", "more than 50,000 values", "", {"train": "\n".join(
        f"{name}: &{name} [{', '.join([f'*{above}' if above else '1'] * 10)}]"
        for above, name in zip(["", *"abcd"], "abcde", strict=True))}),
    Bad("23 recursion", "", "the anchor contains itself", "", {"train": "train: ▸&a {b: [*a]}"}),
    Bad("23 no anchor", "", "*b refers to no anchor", "quotes", {"train": "train: ▸*b"}),
    Bad("24 tag", "", "!!python/object/apply:os.system", "",
        {"train": "train: ▸!!python/object/apply:os.system [ls]"}),
    Bad("24 local tag", "", "tags such as !x are not used", "", {"train": "train: {lr: ▸!x 1}"}),
    Bad("25 tab", "", "a tab cannot indent", "spaces", {"train": "train:\n▸\tlr: 1"}),
    Bad("25 bracket", "", "expected , or ]", "line 4 is not closed",
        {"model": "model: {hidden: [64, 32}", "data": "data: {source: digits}"}),
    Bad("25 quote", "", "the quote is not closed", "", {"train": "train: {optimizer: ▸'sgd}"}),
    Bad("25 nul", "", "the character U+0000", "", {"train": "train: {optimizer: s▸\u0000gd}"}),
    Bad("25 escape character", "", "the character U+001B", "",
        {"train": "train: {a: ▸\u001b[31m}"}),
    Bad("25 indentation", "", "the indentation fits nothing above", "line it up",
        {"train": "train:\n    lr: 1\n  ▸epochs: 2"}),
    Bad("25 two in a line", "", "a second `key: value` in one line", "",
        {"train": "train: lr▸: 1"}),
    Bad("25 merge key", "", "merge keys", "repeat", {"train": "train: {▸<<: {lr: 1}}"}),
    Bad("25 list as a key", "", "a key must be text", "", {"train": "train: {▸[a]: 1}"}),
    Bad("25 bad escape", "", "", "", {"train": "train: {optimizer: \"\\▸q\"}"}),
    Bad("25 half a character", "", "half a character", "", {"train": "train: {a: ▸\"\\ud800\"}"}),
    Bad("25 half a character in a key", "", "half a character", "",
        {"train": "train: {▸\"\\ud800\": 1}"}),
    Bad("26 two documents", "", "a second document begins", "one study",
        {"train": "▸---\ntrain: {}"}),
    Bad("27 many digits", "", "too large for a whole number", "",
        {"train": f"train: {{lr: ▸{'1' * 5000}}}"}),
    Bad("27 too large", "", "1e999 is too large for a number", "",
        {"train": "train: {lr: ▸1e999}"}),
    Bad("27 timestamp tag", "", "tags such as !!timestamp", "",
        {"train": "train: {lr: ▸!!timestamp foo}"}),
    Bad("27 a date that is none", "train.lr", "expected a number; got '2026-99-99'", "",
        {"train": "train: {lr: ▸2026-99-99}"}),
    # -- data and paths
    Bad("28 no such path", "data.source", "there is no nowhere/photos", "",
        {"data": "data: {source: ▸nowhere/photos}"}),
    Bad("28 a path beside", "data.source", "there is no ./phtos", "photos?",
        {"data": "data: {source: ▸./phtos}"}),
    Bad("28 upwards", "data.source", "there is no ../../nowhere", "",
        {"data": "data: {source: ▸../../nowhere}"}),
    Bad("28 a password", "data.source", "a key or a name is in https://***@host/x;", "netrc",
        {"data": "data: {source: ▸'https://me:hunter2@host/x'}"}),
    Bad("28 no store", "data.source", "s4:// is no store", "s3://",
        {"data": "data: {source: ▸'s4://bucket/x'}"}),
    Bad("28 home", "data.source", "there is no ~/nowhere-at-all", "",
        {"data": "data: {source: ▸~/nowhere-at-all}"}),
    Bad("28 a home of nobody", "data.source", "", "", {"data": "data: {source: ▸~nobody-here/a}"}),
    Bad("28 a name nearly right", "data.source", "there is no digit", "did you mean 'digits'?",
        {"data": "data: {source: ▸digit}"}),
    Bad("28 another trainer's", "data.source", "wine is data for tabular", "trainer: tabular",
        {"data": "data: {source: ▸wine}"}),
    Bad("28 variable", "data.source", "the environment variable NOT_SET_HERE is not set", "",
        {"data": "data: {source: ▸'${NOT_SET_HERE}/x'}"}),
    Bad("28 variable's name", "data.source", "expected ${NAME}", "",
        {"data": "data: {source: ▸'${a b}'}"}),
    Bad("28 weights", "model.weights", "there is no weights.pt", "",
        {"model": "model: {weights: ▸weights.pt}"}),
    Bad("28 weights among the choices", "search.model.weights.0", "there is no a.pt", "",
        search("model.weights: [▸a.pt, null]")),
    Bad("32 one fold", "data.folds", "expected a number ≥ 2; got 1", "",
        {"data": "data: {source: digits, folds: ▸1}"}),
    Bad("33 batches of 0", "search.train.batch_size.0", "expected a number ≥ 1; got 0", "",
        search("train.batch_size: [▸0, 32]")),
    Bad("34 fractions", "data", "below 1", "",
        {"data": "data: ▸{source: digits, validation: 0.5, test: 0.6}"}),
    Bad("34 no folds to repeat", "data", "needs folds to repeat", "",
        {"data": "data: ▸{source: digits, fold_repeats: 3}"}),
    Bad("34 a fraction", "data.validation", "expected a number > 0; got 0", "",
        {"data": "data: {source: digits, validation: ▸0}"}),
    # -- pruner, budget, machine
    Bad("36 warm-up", "pruner.n_warmup_steps", "expected less than train.epochs, which is 20",
        "try 4", {"pruner": "pruner: {name: median, n_warmup_steps: ▸20}"}),
    Bad("36 fold against fold, of one model", "pruner", "a trial is one model", "folds: 5",
        {"pruner": "pruner: ▸wilcoxon"}),
    Bad("36 too few folds to conclude", "pruner", "there are 4, and from fewer than 5",
        "folds: 5", {"data": "data: {source: digits, folds: 4}", "pruner": "pruner: ▸wilcoxon"}),
    Bad("36 too strict for its folds", "pruner", "from fewer than 7 it cannot conclude",
        "folds: 7", {"data": "data: {source: digits, folds: 3, fold_repeats: 2}",
        "pruner": "pruner: ▸{name: wilcoxon, p_threshold: 0.01}"}),
    Bad("36 wrapped, of one model", "pruner", "a trial is one model", "folds: 5",
        {"pruner": "pruner: ▸{name: patient, patience: 3, wrapped: wilcoxon}"}),
    Bad("36 folds of the training rows", "objective.metric", "train/loss is not known", "val/loss",
        {"data": "data: {source: digits, folds: 5}", "pruner": "pruner: wilcoxon",
        "objective": "objective: {metric: ▸train/loss, goal: minimize}"}),
    Bad("36 first rung", "pruner.min_resource", "expected less than train.epochs", "",
        {"pruner": "pruner: {name: hyperband, min_resource: ▸30}"}),
    Bad("37 large grid", "sampler", "the grid has 1,000,000 configurations", "tpe",
        {"sampler": "sampler: ▸grid"} |
        search(*(f"{path}: {{low: 1, high: 100}}"
                 for path in ("train.epochs", "train.batch_size", "model.hidden.0")))),
    Bad("37 endless grid", "search.train.lr", "the grid sampler needs a step", "step",
        {"sampler": "sampler: grid"} | search("train.lr: ▸{low: 0.1, high: 1}")),
    Bad("37 no trials", "budget.trials", "expected a number ≥ 1; got 0", "",
        {"budget": "budget: {trials: ▸0}"}),
    Bad("37 true trials", "budget.trials", "expected a whole number; got true", "",
        {"budget": "budget: {trials: ▸true}"}),
    Bad("37 a trial and a half", "budget.trials", "expected a whole number; got 1.5", "",
        {"budget": "budget: {trials: ▸1.5}"}),
    Bad("38 negative", "timeout", "expected a duration such as 90s", "",
        {"timeout": "timeout: ▸-5m"}),
    Bad("38 no unit", "timeout", "a duration with a unit", "10s, 10m or 10h",
        {"timeout": "timeout: ▸10"}),
    Bad("38 wall without unit", "budget.wall", "with a unit", "60s, 60m",
        {"budget": "budget: {wall: ▸60}"}),
    Bad("38 nothing", "budget.wall", "expected a duration > 0", "",
        {"budget": "budget: {wall: ▸0s}"}),
    Bad("38 unit", "budget.wall", "such as 90s", "", {"budget": "budget: {wall: ▸10min}"}),
    Bad("39 no workers", "workers", "expected auto or a whole number", "",
        {"workers": "workers: ▸0"}),
    Bad("39 no lanes", "lanes", "expected auto, off or a whole number from 1 to 1024", "",
        {"lanes": "lanes: ▸0"}),
    Bad("39 models", "keep_models", "expected all or a whole number from 0 to 1000000", "",
        {"keep_models": "keep_models: ▸-1"}),
    Bad("39 many lanes", "lanes", "expected auto, off or a whole number from 1 to 1024", "",
        {"lanes": "lanes: ▸2000"}),
    Bad("39 share of a GPU", "gpus_per_trial", "a number ≤ 1, or a whole number up to 64", "",
        {"gpus_per_trial": "gpus_per_trial: ▸1.5"}),
    Bad("39 device", "device", "expected auto, cpu or cuda; got 'gpu'", "",
        {"device": "device: ▸gpu"}),
    # -- stores
    Bad("40 no address", "storage", "expected journal, sqlite", "did you mean 'journal'?",
        {"storage": "storage: ▸jurnal"}),
    Bad("40 malformed", "storage", "is not an address of a database", "driver://",
        {"storage": "storage: ▸'postgresql://host:port:5/x'"}),
    Bad("40 no name", "storage", "the database's name is missing", "postgresql://host/database",
        {"storage": "storage: ▸postgresql://host"}),
    Bad("40 another database", "storage", "expected sqlite or postgresql; got mysql", "",
        {"storage": "storage: ▸mysql://host/db"}),
    Bad("40 two slashes", "storage", "expected sqlite:///file", "three slashes",
        {"storage": "storage: ▸sqlite://optuna.db"}),
    Bad("40 password", "storage", "there is a password in the address postgresql://***@host/db",
        "${PASSWORD}", {"storage": "storage: ▸postgresql://me:hunter2@host/db"}),
    Bad("40 password of the tracking server", "tracking.uri", "there is a password in", "",
        {"tracking": "tracking: {uri: ▸'https://me:hunter2@host'}"}),
    Bad("40 tracking in a folder", "tracking.uri", "expected http(s)://host:port", "sqlite:///",
        {"tracking": "tracking: {uri: ▸./mlruns}"}),
    Bad("40 tracking without http", "tracking.uri", "expected http(s)://", "http://host:5000",
        {"tracking": "tracking: {uri: ▸'host:5000'}"}),
    Bad("41 no folder", "storage", "there is no folder", "mkdir -p",
        {"storage": "storage: ▸sqlite:///nowhere/optuna.db"}),
    # -- names, conditions, seeds
    Bad("44 slash", "study", "expected at most 64 letters", "try a-b", {"study": "study: ▸a/b"}),
    Bad("44 up", "study", "expected at most 64 letters", "", {"study": "study: ▸.."}),
    Bad("44 control characters", "study", "expected at most 64", "",
        {"study": "study: ▸\"a\\u0007\""}),
    Bad("44 an address", "study", "got 'postgresql://***@host/db'", "try postgresql-host-db",
        {"study": "study: ▸postgresql://me:hunter2@host/db"}),
    Bad("44 long", "study", "expected at most 64 letters", "try aaaa",
        {"study": f"study: ▸{'a' * 300}"}),
    Bad("45 unknown parent", "search.train.momentum.when.train.optimizr",
        "a path that is searched", "did you mean 'train.optimizer'?",
        search("train.optimizer: [sgd, adamw]",
        "train.momentum: {low: 0.5, high: 0.9, when: {▸train.optimizr: sgd}}")),
    Bad("45 a value that never is", "search.train.momentum.when.train.optimizer",
        "train.optimizer is never 'sgdd'", "did you mean 'sgd'?",
        search("train.optimizer: [sgd, adamw]",
        "train.momentum: {low: 0.5, high: 0.9, when: {train.optimizer: ▸sgdd}}")),
    Bad("45 a number that never is", "search.train.lr.when.train.epochs",
        "train.epochs is never 12", "from 1 to 9", search("train.epochs: {low: 1, high: 9}",
        "train.lr: {low: 0.1, high: 1, when: {train.epochs: ▸12}}")),
    Bad("45 circle", "search.train.lr.when",
        "the conditions go in a circle: train.lr → train.epochs → train.lr", "",
        search("train.lr: {choices: [0.1, 0.2], when: ▸{train.epochs: 1}}",
        "train.epochs: {choices: [1, 2], when: {train.lr: 0.1}}")),
    Bad("45 itself", "search.train.lr.when", "in a circle: train.lr → train.lr", "",
        search("train.lr: {choices: [0.1, 0.2], when: ▸{train.lr: 0.1}}")),
    Bad("45 no condition", "search.train.lr.when.train.epochs", "got none", "",
        search("train.epochs: [1, 2]",
        "train.lr: {choices: [0.1, 0.2], when: {train.epochs: ▸[]}}")),
    Bad("46 no such option", "search.train.learning_rate", "there is no such option",
        "known: train.epochs, ", search("▸train.learning_rate: [0.1, 0.2]")),
    Bad("46 option of another section", "search.model.momentum", "there is no such option",
        "did you mean 'train.momentum'?", search("▸model.momentum: [0.1, 0.2]")),
    Bad("46 not of the sections", "search.budget.trials", "expected a path into data", "",
        search("▸budget.trials: [1, 2]")),
    Bad("46 what is compared", "search.data.validation", "cannot be searched", "",
        search("▸data.validation: [0.1, 0.2]")),
    Bad("46 how precisely it is", "search.train.repeats", "cannot be searched", "in train",
        search("▸train.repeats: [1, 3]")),
    Bad("46 a group", "search.train.early_stopping", "a group of options", "patience",
        search("▸train.early_stopping: [1, 2]")),
    Bad("46 an item that is not there", "search.model.hidden.2", "model.hidden has no 2",
        "3 items", search("▸model.hidden.2: [16, 32]")),
    Bad("46 a range of text", "search.train.optimizer", "expected choices", "[a, b]",
        search("train.optimizer: ▸{low: 1, high: 2}")),
    Bad("46 the option's range", "search.model.dropout.high", "expected a number < 1; got 1", "",
        search("model.dropout: {low: 0, high: ▸1}")),
    Bad("46 a fraction", "search.train.epochs.low", "expected a whole number; got 1.5", "",
        search("train.epochs: {low: ▸1.5, high: 3}")),
    Bad("46 the option's type", "search.train.epochs.type", "of type int", "leave it out",
        search("train.epochs: {low: 1, high: 3, type: ▸float}")),
    Bad("47 negative", "seed", "expected a number ≥ 0; got -1", "", {"seed": "seed: ▸-1"}),
    Bad("47 too large", "seed", "expected a number <", "", {"seed": "seed: ▸4294967296"}),
    # -- start_from
    Bad("start: unknown path", "start_from.0.train.l", "a path that is searched", "'train.lr'",
        {"start_from": "start_from: [{▸train.l: 0.1}]"}),
    Bad("start: outside", "start_from.1.train.lr", "5 is not in the search space", "0.001 to 1.0",
        {"start_from": "start_from:\n- {train.lr: 0.1}\n- {train.lr: ▸5}"}),
    Bad("start: itself", "start_from.study", "cannot start from itself", "",
        {"start_from": "start_from: {study: ▸s}"}),
    Bad("start: a name", "start_from", "expected a list of configurations", "",
        {"start_from": "start_from: ▸earlier"}),
    Bad("start: bad name", "start_from.0.study", "expected at most 64", "",
        {"start_from": "start_from: [{study: ▸a/b}]"}),
]
# fmt: on


def text_of(bad: Bad) -> str:
    lines = GOOD | bad.lines
    return "\n".join(line for line in lines.values() if line) + "\n"


def loading(folder: Path, content: str | bytes) -> StudyFileError:
    file = folder / "study.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StudyFileError) as refused:
        spec.load(file)
    return refused.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path


def test_the_good_file_is_good(folder: Path) -> None:
    (folder / "study.yaml").write_text("\n".join(GOOD.values()))
    assert spec.load(folder / "study.yaml").warnings == ()


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.case)
def test_a_problem_is_told_with_its_place_and_what_to_try(folder: Path, bad: Bad) -> None:
    marked = text_of(bad)
    error = loading(folder, marked.replace(MARK, ""))
    problem = error.problems[0]
    assert problem.key == bad.key
    assert bad.message in problem.message
    assert bad.hint in (problem.hint or "")
    if MARK in marked:
        before = marked.partition(MARK)[0]
        assert problem.line == before.count("\n") + 1
        assert problem.column == len(before) - (before.rfind("\n") + 1) + 1
    assert "hunter2" not in str(error)
    assert [entry.name for entry in sorted(folder.iterdir())] == ["photos", "study.yaml"]


# -- the same from outside; and what only the data, the trainer or the machine can tell

# fmt: off
IN_A_RUN = [
    Bad("15 no such module", "trainer", "there is no module 'nowhere'", "",
        {"trainer": "trainer: ▸nowhere:train"}),
    Bad("15 no such function", "trainer", "mine has no 'trian'", "did you mean 'train'?",
        {"trainer": "trainer: ▸mine:trian"}),
    Bad("15 no function", "trainer", "mine:NUMBER is not a function but an int", "",
        {"trainer": "trainer: ▸mine:NUMBER"}),
    Bad("15 of nothing", "trainer", "is called with (trial); it takes ()", "def of_nothing(trial)",
        {"trainer": "trainer: ▸mine:of_nothing"}),
    Bad("15 broken", "trainer", "ZeroDivisionError: division by zero (", "",
        {"trainer": "trainer: ▸broken:train"}),
    Bad("29 one class", "data.source", "at least two classes; there is one, 'a'", "",
        {"data": "data: {source: ▸./one}"}),
    Bad("30 an empty class", "data.source", "c is empty", "",
        {"data": "data: {source: ▸./hollow}"}),
    Bad("31 no image", "data.source", "none of 6 files can be read", "",
        {"data": "data: {source: ▸./blank}"}),
    Bad("31 one that is none", "data.source", "b/2.png (image file is truncated", "skip_bad: true",
        {"data": "data: {source: ▸./torn}"}),
    Bad("32 more folds than a class has rows", "data.folds", "the smallest class has", "folds: ",
        {"data": "data: {source: ./few, folds: ▸5}"}),
    Bad("33 a batch of more rows than there are", "train.batch_size", "at most 1079, the rows", "",
        {"train": "train: {epochs: 20, batch_size: ▸5000}"}),
    Bad("34 nothing to validate on", "data.validation", "splitting 6 rows leaves none", "add data",
        {"data": "data: {source: ./few, validation: ▸0.01}"}),
    Bad("39 no GPU", "device", "no NVIDIA GPU is visible here", "device: cpu",
        {"device": "device: ▸cuda"}),
    Bad("48 weights that are none", "model.weights", "mine.py is not a state_dict", "torch.save",
        {"model": "model: {name: mlp, weights: ▸mine.py}"}),
]
# fmt: on
ELSEWHERE = {
    5: "a warning: test_whole_files",
    19: "good: test_yaml12",
    35: "of a command, not of a file: tests/ensemble",
    42: "tests/test_changes.py",
    43: "tests/contracts",
}
ONE_OF_EACH = {int(bad.case.split()[0]): bad for bad in reversed(BAD) if bad.case[0].isdigit()}


@pytest.fixture
def stocked(tmp_path: Path) -> Path:
    """A folder with data and code to be named in a study file."""
    for name in ("one", "hollow", "few", "blank", "torn"):
        for place, kind in enumerate("a" if name == "one" else "ab"):
            (tmp_path / name / kind).mkdir(parents=True)
            for number in range(9 if name == "torn" else 3):
                pixels = np.full((8, 8), 100 * place + number, np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / kind / f"{number}.png")
    (tmp_path / "hollow" / "c").mkdir()
    for file in (tmp_path / "blank").glob("*/*"):
        file.write_text("no image")
    torn = tmp_path / "torn" / "b" / "2.png"
    torn.write_bytes(torn.read_bytes()[:50])
    (tmp_path / "mine.py").write_text("NUMBER = 3\ndef train(trial): ...\ndef of_nothing(): ...\n")
    (tmp_path / "broken.py").write_text("import os\nvalue = 1 / 0\n")
    return tmp_path


def test_every_case_of_the_catalogue_is_tested() -> None:
    in_a_run = {int(bad.case.split()[0]) for bad in IN_A_RUN}
    assert sorted({*ONE_OF_EACH, *in_a_run, *ELSEWHERE}) == list(range(1, 49))


@pytest.mark.parametrize("bad", [*ONE_OF_EACH.values(), *IN_A_RUN], ids=lambda bad: bad.case)
def test_hpo_run_says_it_and_creates_nothing(
    stocked: Path, bad: Bad, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marked = text_of(bad)
    file = stocked / "study.yaml"
    file.write_text(marked.replace(MARK, "") + ("executor: inline\n" if bad in IN_A_RUN else ""))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["hpo", "run", str(file), "--home", str(stocked)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    assert bad.message in said
    assert bad.hint in said
    if MARK in marked:
        before = marked.partition(MARK)[0]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        assert f"{file}:{line}:{column}: {bad.key}" in said
    assert not (stocked / "mlruns").exists()
    assert {path.name for path in stocked.glob("studies/*")} <= {".cache"}
