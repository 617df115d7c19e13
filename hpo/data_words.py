"""What was found in the data before anything was trained on it, in a few lines for a person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

MOST_CLASSES = 5  # counted one by one
SHOWN = 5  # names in a line
UNEVEN = 10  # times as many rows of one class as of another


def lines(dataset: Mapping[str, Any]) -> Iterator[str]:
    """What is worth knowing, most of all what is wrong.

    Args:
        dataset: `trainers.data.Dataset.summary`.
    """
    report = dataset.get("report") or {}  # studies that were begun before there was one
    if dataset.get("skipped"):
        yield _skipped(dataset["skipped"])
    if report.get("class_counts"):
        yield from _classes(dataset["classes"], report["class_counts"])
    if report.get("duplicates"):
        yield from _duplicates(report["duplicates"])
    if report.get("missing"):
        rows = dataset["rows"]
        most = sorted(report["missing"].items(), key=lambda item: -item[1])
        yield "missing values: " + _named(
            [f"{name} {count:,} ({count / rows:.1%})" for name, count in most]
        )
    if report.get("constant"):
        yield f"the same in every row, so nothing is learned from: {_named(report['constant'])}"
    if report.get("suspicious"):
        named = [f"{name} {why}" for name, why in report["suspicious"].items()]
        yield f"may give the answer away: {_named(named)}; data.ignore leaves columns out"


def _skipped(names: Sequence[str]) -> str:
    *first, last = names
    more = re.fullmatch(r"and (\d+) more", last)  # as of many files it ends
    listed = first if more else names
    count = len(listed) + (int(more[1]) if more else 0)
    shown = ", ".join(listed[:SHOWN]) + (", …" if count > SHOWN else "")
    return f"{count:,} left out, unreadable: {shown}"


def _classes(classes: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Iterator[str]:
    total = [sum(of_class) for of_class in zip(*counts.values(), strict=True)]
    if len(classes) <= MOST_CLASSES:
        each = [
            f"{name} {' + '.join(f'{count:,}' for count in of_class)}"
            for name, *of_class in zip(classes, *counts.values(), strict=True)
        ]
        yield f"classes ({' + '.join(counts)}): {', '.join(each)}"
    least, most = total.index(min(total)), total.index(max(total))
    if len(classes) > MOST_CLASSES:
        yield (
            f"classes: from {total[least]:,} rows ({classes[least]}) to {total[most]:,} "
            f"({classes[most]})"
        )
    if total[most] >= UNEVEN * total[least]:
        yield (
            f"there are {total[most] / max(1, total[least]):.0f} times as many {classes[most]} as "
            f"{classes[least]}: try train.class_weights or train.sampling: balanced"
        )


def _duplicates(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["rows"]:
        return
    text = f"{found['rows']:,} rows are copies of others"
    if found["of_other_classes"]:
        text += f", {found['of_other_classes']:,} of them of another class"
    across = [
        f"{count:,} in {' and '.join(sides.split('/'))}"
        for sides, count in found["across"].items()
        if count
    ]
    if not across:
        yield text
        return
    first, second = found["examples"][0]
    yield (
        f"{text}; on both sides of a split: {', '.join(across)} (e.g. {first} and {second}); "
        "data.duplicates: together keeps them on one side"
    )


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN:,} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
