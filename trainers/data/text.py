"""Texts into classes: a column of a table, or a folder of text files a class.

Which words are known is decided by the training rows of each fold (`trainers.data.tokens`). A
folder is divided as one of images is (`trainers.data.folders`), a table by its columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from trainers import metrics
from trainers.contract import DataError
from trainers.data import cleaning, folders, tables
from trainers.data.dataset import Dataset, Split
from trainers.data.examples import rows as rows_to_show
from trainers.data.splits import Partition, Rows, partition
from trainers.data.tokens import Subwords, Words
from trainers.options import TableData, TextData

SHOWN = 10  # bad texts named in a message
RECORDED = 100  # bad texts named in the summary


@dataclass(frozen=True)
class _Opened:
    """Texts, and what their section makes of them.

    Attributes:
        texts: Of all rows of the source.
        target: Their classes or labels.
        frame: The source's rows as people read them.
        parts: Without the rows that cannot be used.
        groups: (rows,) the number of each row's group, or None.
        copies: (rows,) of each row the first one that is equal.
        names: Of the rows, for messages; None: their numbers.
        fingerprint: sha256 of the source's content.
        skipped: Rows that cannot be used, and why.
    """

    texts: Sequence[str]
    target: tables.Target
    frame: pd.DataFrame
    parts: Partition
    groups: NDArray[np.int64] | None
    copies: Rows
    names: Sequence[str] | None
    fingerprint: str
    skipped: Sequence[str]


def load(section: TextData, examples: int = 0) -> Dataset:
    """Texts as token ids.

    Args:
        examples: How many rows are to be kept as they are in the source.

    Raises:
        DataError: The source cannot be read, texts are missing, empty or not UTF-8, there are no
            classes, or there is no such tokenizer.
    """
    opened = _opened(section)
    parts, target = opened.parts, opened.target
    assert target.classes is not None
    texts = [opened.texts[row] for row in parts.search]  # the test rows end here
    subwords = None if section.tokenizer in ("words", "characters") else _subwords(section, texts)
    splits = []
    for train, validation in parts.folds:
        target.check_trained(train, "data.source")
        train, validation = (np.searchsorted(parts.search, part) for part in (train, validation))
        inputs, encoding = subwords or _words(section, texts, train)
        splits.append(
            Split(
                inputs,
                torch.from_numpy(target.values[parts.search]),
                torch.from_numpy(train),
                torch.from_numpy(validation),
                encoding=encoding,
                groups=None
                if opened.groups is None
                else torch.from_numpy(opened.groups[parts.search]),
            )
        )
    kept = np.concatenate([parts.search, parts.test])
    summary = {
        "source": section.source,
        "task": target.task,
        "rows": len(kept),
        "train": len(splits[0].train),
        "validation": len(splits[0].validation),
        "test": len(parts.test),
        "classes": target.classes,
        "class_counts": replace(target, values=target.values[kept]).counts,
        "shape": list(splits[0].inputs.shape[1:]),
        "fingerprint": opened.fingerprint,
        "metrics": metrics.names(target.task),
        "skipped": list(opened.skipped[:RECORDED])
        + [f"and {len(opened.skipped) - RECORDED} more"] * (len(opened.skipped) > RECORDED),
        "report": cleaning.report(
            parts, opened.copies, section, target.labels, target.classes, opened.names
        ),
    }
    ids = torch.from_numpy(parts.search)
    shown = parts.search[rows_to_show(splits, examples)]
    originals = opened.frame.iloc[shown].reset_index(drop=True) if examples else None
    classes = tuple(target.classes)
    return Dataset("text", target.task, classes, ids, tuple(splits), summary, originals)


def test_rows(section: TextData) -> tuple[Rows, NDArray[Any], list[str]]:
    """Of the test split: row numbers, targets and texts.

    Raises:
        DataError: As `load` does.
    """
    opened = _opened(section)
    test = opened.parts.test
    return test, opened.target.values[test], [opened.texts[row] for row in test]


def read(file: str | Path) -> str:
    """A text file.

    Raises:
        ValueError: It is not UTF-8, or there is nothing in it; says so in a few words.
        OSError: It cannot be read.
    """
    return _text(folders.content(file))


def _words(
    section: TextData, texts: Sequence[str], train: Rows
) -> tuple[torch.Tensor, Mapping[str, object]]:
    words = Words.fit(section, (texts[row] for row in train))
    return torch.from_numpy(words.encode(texts)), words.plain()


def _subwords(
    section: TextData, texts: Sequence[str]
) -> tuple[torch.Tensor, Mapping[str, object]]:
    subwords = Subwords.read(section)
    return torch.from_numpy(subwords.encode(texts)), subwords.plain()


def _opened(section: TextData) -> _Opened:
    if Path(section.source).expanduser().is_dir():
        return _folder(section)
    return _table(section)


def _table(section: TextData) -> _Opened:
    if section.text is None:
        raise DataError("data.text", "say which column has the texts", "text: COLUMN")
    common = set(TextData.model_fields) & set(TableData.model_fields)
    options = {name: value for name, value in section if name in common}
    options["task"] = "auto" if isinstance(section.target, tuple) else "classification"
    table = tables.opened(TableData(**options), section.text)
    if section.text in (section.target, *(section.target or ())):
        raise DataError("data.text", f"{section.text!r} is the target; it cannot be the text, too")
    column = table.columns[section.text]
    texts = [
        "" if missing else str(text) for text, missing in zip(column, column.isna(), strict=True)
    ]
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    skipped = [f"row {row} (no text)" for row in empty]
    _refuse(skipped, len(texts), section)
    return _Opened(
        texts,
        table.target,
        table.frame,
        table.parts.without(np.array(empty, np.int64)),
        table.groups,
        table.copies,
        None,
        table.fingerprint,
        skipped,
    )


def _folder(section: TextData) -> _Opened:
    for key in ("text", "target", "group", "time", "split"):
        if getattr(section, key) is not None:
            raise DataError(f"data.{key}", f"names a column; {section.source} is a folder")
    root = Path(section.source).expanduser()
    listed = folders.listing(root, "texts")
    texts, bad, digest = [], {}, hashlib.sha256()
    for row, name in enumerate(listed.names):
        content, problem = b"", None
        try:
            content = folders.content(root / name)
            texts.append(_text(content))
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or str(error)
        if not name.lower().endswith(folders.TEXT_SUFFIXES):
            problem = "not a .txt file"
        if problem is not None:
            texts[row:] = [""]
            bad[row] = f"{name} ({problem})"
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    skipped = [*listed.strays, *bad.values()]
    _refuse(skipped, len(texts) + len(listed.strays), section)
    labels = np.array(listed.labels, np.int64)
    frame = pd.DataFrame(
        {
            "text": texts,
            "target": [listed.classes[label] for label in labels],
            "file": listed.names,
        }
    )
    copies = cleaning.first_of(cleaning.contents(frame[["text", "target"]]))
    parts = partition(labels, len(labels), section, listed.validation, listed.test, copies=copies)
    return _Opened(
        texts,
        tables.Target(labels, listed.classes),
        frame,
        parts.without(np.array(sorted(bad), np.int64)),
        None,
        copies,
        listed.names,
        digest.hexdigest(),
        skipped,
    )


def _text(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"not UTF-8 in line {line}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"the character NUL in line {line}")
    if not text.strip():
        raise ValueError("empty")
    return text


def _refuse(bad: Sequence[str], of: int, section: TextData) -> None:
    if bad and not section.skip_bad:
        more = f", and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise DataError(
            "data.source",
            f"{len(bad)} of {of} texts cannot be used: {', '.join(bad[:SHOWN])}{more}",
            "skip_bad: true leaves them out",
        )
