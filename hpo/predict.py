"""What a trial, or an ensemble over trials, says of new rows.

A trial predicts with the weights of its best epoch (`trainers.saved`); with folds, by the mean of
its folds' models. An ensemble combines its members' answers as `hpo ensemble` found to be best.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from hpo import results
from hpo.ensemble.criterion import Singles
from hpo.errors import UserError
from hpo.paths import Home, StudyPaths, is_address, replacing
from hpo.predictor import Predictor, read_model, recipe_of, refused
from hpo.results.predicted import Predicted
from hpo.results.study_log import StudyLog
from trainers.contract import DataError
from trainers.registry import TRAINERS
from trainers.unseen import Batch, batches

SAY_EVERY_S = 5.0
SHOWN = 10  # trials with weights, and unreadable files, that are named

MODEL = re.compile(r"(?P<study>.+?)/((?P<trial>\d+)|ensemble(/(?P<ensemble>\d+))?)")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Done:
    """What was predicted.

    Attributes:
        rows: How many.
        bad: Files that cannot be read, and why; they are not in the table.
        judged: Rows whose target the file has.
        metrics: Of these, with 95 % intervals (`hpo.results.evaluation.metrics`); None of none.
    """

    rows: int
    bad: Mapping[str, str]
    judged: int = 0
    metrics: pd.DataFrame | None = None


@dataclass
class _Judged:
    """The rows whose targets are known."""

    targets: list[np.ndarray] = field(default_factory=list)
    outputs: list[np.ndarray] = field(default_factory=list)

    def add(self, batch: Batch, output: Singles) -> None:
        if batch.target is None:
            return
        target = batch.target
        known = target >= 0 if target.dtype == np.int64 else np.isfinite(target)
        known = known.reshape(len(target), -1).all(axis=1)
        self.targets.append(target[known])
        self.outputs.append(output[known])

    def metrics(self, classes: Sequence[str] | None) -> tuple[int, pd.DataFrame | None]:
        from hpo.results.evaluation import metrics

        if not any(map(len, self.targets)):
            return 0, None
        output, target = np.concatenate(self.outputs), np.concatenate(self.targets)
        if classes:
            target = target.astype(bool if target.ndim == 2 else np.int64)
        names = tuple(classes) if classes else None
        return len(target), metrics(Predicted(np.arange(len(target)), target, output, names))


def open_predictor(named: str, home: Home) -> Predictor:
    """The model that is meant.

    Args:
        named: ``STUDY`` for its best trial, ``STUDY/12`` for a trial, ``STUDY/ensemble`` for its
            newest ensemble, ``STUDY/ensemble/0`` for one by its number.

    Raises:
        UnknownStudy: There is no such study.
        UserError: There is no such trial or ensemble, or no weights were kept.
        HpoError: A file of weights is damaged.
    """
    match = MODEL.fullmatch(named)
    study = results.name_of(match["study"] if match else named)
    tables = results.tables(study, home)  # an unknown study is said so
    paths = home.study(study)
    if match is None or match["trial"]:
        number = int(match["trial"]) if match else _best(tables)
        member = {"trial": number, "weight": 1.0, "temperature": None}
        recipe: dict[str, Any] = {"members": [member], "stack": None}
    else:
        recipe = recipe_of(_ensemble(study, match["ensemble"], home), paths)
    members = [each["trial"] for each in recipe["members"]]
    lacking = [trial for trial in members if not paths.model(trial).is_file()]
    if lacking:
        raise UserError(_no_weights(study, lacking, paths))
    return Predictor.of(recipe, lambda trial: read_model(paths.model(trial), trial))


def predict(
    predictor: Predictor, inputs: Sequence[Path | str], to: Path, say: Say = lambda text: None
) -> Done:
    """Predict files, and write a CSV: ``id`` (row number from 0, or path) and `Predictor.table`.

    Args:
        inputs: Paths, as `trainers.unseen.batches` takes them, and addresses (`hpo.fetched`).
        say: Told what takes long.

    Raises:
        UserError: A file is not what the model predicts; nothing was written then.
    """
    if to.resolve() in [Path(each).resolve() for each in inputs]:
        raise UserError(f"{to} is to be predicted: write the predictions to another file")
    judged, bad, rows = _Judged(), dict[str, str](), 0
    said_s, fetched = time.monotonic(), dict[str, Path]()
    try:
        fetched |= {each: _fetched(each, say) for each in inputs if is_address(each)}
        paths = [Path(fetched.get(str(each), each)) for each in inputs]
        with replacing(to) as file:
            for batch in batches(paths, predictor.models):
                output = predictor.output(batch.rows)
                ids = [_as_given(each, fetched) for each in batch.ids]
                _write(predictor.table(output), ids, file, first=rows == 0)
                judged.add(batch, output)
                bad |= {str(_as_given(name, fetched)): why for name, why in batch.bad.items()}
                rows += len(batch.ids)
                if time.monotonic() - said_s > SAY_EVERY_S:
                    said_s = time.monotonic()
                    say(f"predicted {rows:,} rows")
            if rows == 0:
                raise UserError(f"no file can be read: {', '.join(_listed(bad))}")
    except DataError as error:
        raise _by_address(refused(error), fetched) from None
    return Done(rows, bad, *judged.metrics(predictor.classes))


def _fetched(address: str, say: Say) -> Path:
    from hpo import fetched

    fetched.check(address)
    return fetched.fetch(fetched.look(address), say)


def _by_address(error: UserError, fetched: Mapping[str, Path]) -> UserError:
    """The same, which names what was fetched by its address and not by its place in the cache."""
    text = str(error)
    for address, path in fetched.items():
        text = text.replace(str(path), address)
    return UserError(text)


def _as_given(row: int | str, fetched: Mapping[str, Path]) -> int | str:
    """A row's number, or its file by the address that it was fetched from."""
    for address, path in fetched.items():
        if isinstance(row, str) and Path(row).is_relative_to(path):
            return address.rstrip("/") + row.removeprefix(str(path))
    return row


def bad_lines(bad: Mapping[str, str]) -> Iterator[str]:
    """What to say of files that cannot be read."""
    if bad:
        yield f"cannot be read, and not predicted ({len(bad)}):"
        yield from (f"  {line}" for line in _listed(bad))


def _listed(bad: Mapping[str, str]) -> list[str]:
    lines = [f"{name} ({why})" for name, why in list(bad.items())[:SHOWN]]
    return lines + [f"and {len(bad) - SHOWN} more"] * (len(bad) > SHOWN)


def _write(table: pd.DataFrame, ids: Sequence[int | str], file: IO[bytes], first: bool) -> None:
    table.insert(0, "id", list(ids))
    file.write(table.to_csv(index=False, header=first, lineterminator="\n").encode())


def _best(tables: results.StudyTables) -> int:
    name = tables.name
    if len(tables.objective) > 1:
        raise UserError(f"study '{name}' has several objectives: name a trial, e.g. {name}/0")
    best = tables.best()
    if best is None:
        raise UserError(f"study '{name}' has no complete trial yet; `hpo run` makes some")
    return best


def _ensemble(study: str, number: str | None, home: Home) -> Mapping[str, Any]:
    there = list(results.ensembles(study, home)["ensemble"])
    if not there:
        raise UserError(f"study '{study}' has no ensemble; `hpo ensemble {study}` makes one")
    return results.ensemble(study, there[-1] if number is None else int(number), home)


def _no_weights(study: str, lacking: Sequence[int], paths: StudyPaths) -> str:
    """Whose weights are missing, why, and what to do."""
    log = StudyLog.read(paths)
    trainer, most = _kept_by(log)
    text = f"of study '{study}' there are no weights of {_trials(lacking)}"
    unknown = [trial for trial in lacking if trial not in log.trials]
    if unknown:
        return f"study '{study}' has no trial {unknown[0]}"
    ends = [log.trials[trial].end for trial in lacking]
    if trainer not in TRAINERS:
        return f"{text}: hpo keeps those of its own trainers; {trainer} has to save its own"
    if None in ends:
        return f"{text}: they are kept when a trial is over"
    twins = [end["duplicate_of"] for end in ends if end is not None and "duplicate_of" in end]
    if twins:
        return f"{text}: the same configuration was trained as trial {twins[0]}"
    if any(end["state"] == "failed" for end in ends if end is not None):
        return f"{text}: it failed"
    found = paths.root.glob(f"trials/*/{paths.MODEL}")
    there = sorted(int(path.parent.name) for path in found)
    return (
        f"{text}: they were not kept (keep_models: {most}).\n"
        + (f"There are those of {_trials(there)}. " if there else "")
        + "With `--set keep_models=all`, `hpo run` keeps those of all further trials."
    )


def _trials(numbers: Sequence[int]) -> str:
    """``trials 1, 2 and 3 more``"""
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    shown = ", ".join(map(str, numbers[:SHOWN]))
    return f"trial{'s' * (len(numbers) > 1)} {shown}{more}"


def _kept_by(log: StudyLog) -> tuple[str, Any]:
    """The study's trainer, and how many models it keeps."""
    import yaml

    content = yaml.safe_load((log.study or {"file": ""})["file"]) or {}
    return content.get("trainer", ""), content.get("keep_models", 0)
