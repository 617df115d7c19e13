"""Weights in MLflow that trials start from: fetched once, before there is a trial.

`model.weights` may be ``runs:/ID/PATH`` or ``models:/NAME/VERSION``. Workers open no store, so the
process that starts them puts the file beside the decoded data, where they find it by its address.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import StudyFileError
from trainers.registry import TRAINERS

if TYPE_CHECKING:  # workers need it not
    from hpo.spec import StudySpec

KEY = "model.weights"
SUFFIXES = (".pt", ".pth", ".safetensors")

_ADDRESS = re.compile(r"(runs|models):/.*")
# What stays the same model for ever; an alias or a stage does not.
_FIXED = re.compile(r"runs:/[^/]+/.+|models:/[^/@]+/[0-9]+|models:/m-[0-9a-f]+")

Sections = Mapping[str, Mapping[str, Any]]


def fetch(spec: StudySpec, cache: Path, tracking_uri: str) -> None:
    """Put what the study's trials start from into `cache`, if it is in MLflow and not there yet.

    Raises:
        StudyFileError: MLflow has no such model, cannot be reached, or it is not one set of
            weights.
    """
    for address in sorted(set(_addresses(spec))):
        if _folder(cache, address).is_dir():
            continue
        problem = _why_not(address)
        if problem is None:
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


def _why_not(address: str) -> tuple[str, str] | None:
    if _FIXED.fullmatch(address):
        return None
    return f"{address} is not always the same model", "runs:/ID/PATH or models:/NAME/VERSION"


def _fetch(address: str, cache: Path, tracking_uri: str) -> tuple[str, str | None] | None:
    """What is wrong, and what to try; None: it is there."""
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as made:
        try:
            found = Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=address,
                    dst_path=made,
                    tracking_uri=tracking_uri,
                    registry_uri=tracking_uri,
                )
            )
        except (MlflowException, OSError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            return f"{address} cannot be fetched from MLflow: {first[:200]}", None
        below = found.rglob("*") if found.is_dir() else [found]
        files = sorted(file for file in below if file.suffix in SUFFIXES)
        if len(files) != 1:
            named = ", ".join(str(file.relative_to(made)) for file in files) or "none"
            return (
                f"{address} is to hold one file with weights ({', '.join(SUFFIXES)}); it has "
                f"{named}",
                "runs:/ID/PATH of one of them",
            )
        folder = _folder(cache, address)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
            ready = Path(beside) / "ready"
            ready.mkdir()
            shutil.copyfile(files[0], ready / files[0].name)
            ready.rename(folder)
    return None
