"""Loading data: a ``data`` section and a cache folder in, a `Dataset` out."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trainers.contract import DataError
from trainers.data.dataset import Dataset, Split
from trainers.options import TORCHVISION, ImageData, TableData, TextData

__all__ = ["Dataset", "Split", "load"]

BUILT_IN_TABLES = ("breast_cancer", "wine", "diabetes")
TABLE_FILES = (".csv", ".parquet")

Options = TypeVar("Options", bound=BaseModel)


def load(section: Mapping[str, Any], cache: Path, examples: int = 0) -> Dataset:
    """Read, check, split and encode the data of a study.

    Args:
        section: The study file's ``data`` section; what it leaves out takes its default, and what
            only the user's own trainer understands is left to it.
        cache: Where decoded images are kept for other workers.
        examples: How many rows `trainers.data.examples.table` is to be asked for.

    Raises:
        DataError: The data cannot be used so; says why and where in the study file.
    """
    source = section.get("source")
    if not isinstance(source, str):
        raise DataError("data.source", "expected the name of a data set, or a path")
    if "tokenizer" in section:
        from trainers.data.text import load as load_text

        text = _options(TextData, TextData, "text_classifier", section)
        _check_text(source)
        return load_text(text, examples)
    if _is_table(source):
        from trainers.data.tables import load as load_table

        return load_table(_options(TableData, ImageData, "tabular", section), examples)
    from trainers.data.images import load as load_images

    return load_images(_options(ImageData, TableData, "image_classifier", section), cache)


def _is_table(source: str) -> bool:
    """Whether it is a table; otherwise it is images.

    Raises:
        DataError: It is neither.
    """
    if source in BUILT_IN_TABLES:
        return True
    if source == "digits" or source.startswith(TORCHVISION):
        return False
    path = Path(source).expanduser()
    if not path.exists():
        hint = _near(path)
        if hint is None and not path.suffix:  # no file was meant
            hint = f"a data set of torchvision is {TORCHVISION}NAME, in the folder root: FOLDER"
        raise DataError("data.source", f"there is no {source}", hint)
    if path.is_dir():
        return False
    if path.suffix.lower() in TABLE_FILES:
        return True
    raise DataError(
        "data.source",
        f"expected a folder of images, or a {' or '.join(TABLE_FILES)} file; got {source}",
    )


def _check_text(source: str) -> None:
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError("data.source", f"there is no {source}", _near(path))
    if not path.is_dir() and path.suffix.lower() not in TABLE_FILES:
        raise DataError(
            "data.source",
            f"expected a folder of texts, or a {' or '.join(TABLE_FILES)} file; got {source}",
        )


def _near(path: Path) -> str | None:
    """What may have been meant by a path that does not exist."""
    there = {entry.name: str(entry) for entry in path.parent.glob("*")}
    built_in = {name: name for name in (*BUILT_IN_TABLES, "digits")}
    close = get_close_matches(path.name, [*there, *built_in], n=1)
    return f"did you mean {(there | built_in)[close[0]]}?" if close else None


def _options(
    kind: type[Options], other: type[BaseModel], trainer: str, section: Mapping[str, Any]
) -> Options:
    known = {key: value for key, value in section.items() if key in kind.model_fields}
    if len(known) < len(section) and set(section) <= set(other.model_fields):
        is_a = "a table" if kind is TableData else "images"
        message = f"{section['source']} is {is_a}, for another trainer"
        raise DataError("data.source", message, f"trainer: {trainer}")
    try:
        return kind.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["data", *(str(part) for part in first["loc"])])
        got = f"; got {first['input']!r}" if first["loc"] else ""
        raise DataError(key, first["msg"].removeprefix("Value error, ") + got) from None
