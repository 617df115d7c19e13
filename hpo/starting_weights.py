"""Weights in MLflow that trials start from: fetched once, before there is a trial.

`model.weights` may be ``runs:/ID/PATH`` or ``models:/NAME/VERSION``. Workers open no store, so the
process that starts them puts the file beside the decoded data, where they find it by its address.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import StudyFileError
from trainers.registry import TRAINERS

if TYPE_CHECKING:  # workers need it not
    from hpo.spec import StudySpec

KEY = "model.weights"

_ADDRESS = re.compile(r"(runs|models):/.*")
# What stays the same model for ever; an alias or a stage does not.
_FIXED = re.compile(r"runs:/[^/]+/.+|models:/[^/@]+/[0-9]+|models:/m-[0-9a-f]+")

Sections = Mapping[str, Mapping[str, Any]]
Wrong = tuple[str, str | None]  # what, and what to try


def fetch(spec: StudySpec, cache: Path, tracking_uri: str) -> None:
    """Put what the study's trials start from into `cache`, if it is in MLflow and not there yet.

    Raises:
        StudyFileError: MLflow has no such model, cannot be reached, or it is not one set of
            weights.
    """
    for address in sorted(set(_addresses(spec))):
        if _folder(cache, address).is_dir():
            continue
        problem = _fetch(address, cache, tracking_uri)
        if problem is not None:
            raise StudyFileError(str(spec.file), [spec.problem(KEY, *problem)])


def local(trainer: str, sections: Sections, cache: Path) -> Sections:
    """The sections with a file in place of an address in MLflow."""
    address = sections["model"].get("weights") if trainer in TRAINERS else None
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        return sections
    (file,) = _folder(cache, address).iterdir()
    return {**sections, "model": {**sections["model"], "weights": str(file)}}


def _addresses(spec: StudySpec) -> Iterator[str]:
    from hpo.spec import Choice

    if spec.trainer not in TRAINERS:
        return
    searched = spec.search.get(KEY)
    choices = searched.choices if isinstance(searched, Choice) else ()
    for value in (spec.model.get("weights"), *choices):
        if isinstance(value, str) and _ADDRESS.fullmatch(value):
            yield value


def _folder(cache: Path, address: str) -> Path:
    return cache.absolute() / "weights" / hashlib.sha256(address.encode()).hexdigest()[:24]


def _fetch(address: str, cache: Path, tracking_uri: str) -> Wrong | None:
    """What is wrong; None: it is there."""
    from hpo.tracking import weights  # and so MLflow, which other studies need not wait for

    if not _FIXED.fullmatch(address):
        return f"{address} is not always the same model", "runs:/ID/PATH or models:/NAME/VERSION"
    folder = _folder(cache, address)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        everything, ready = Path(beside) / "everything", Path(beside) / "ready"
        everything.mkdir()
        ready.mkdir()
        try:
            file = weights.fetch(address, tracking_uri, everything)
        except weights.NoWeights as error:
            return str(error), error.hint
        file.replace(ready / file.name)
        if not folder.is_dir():  # a process of another study may have been faster
            ready.rename(folder)
    return None
