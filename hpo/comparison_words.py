"""A comparison in the terminal: metrics side by side, what differs, and whether it is real."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpo.comparison import Run, differing_settings
from hpo.tables import WIDE, number
from trainers.contract import PARTS

if TYPE_CHECKING:
    from rich.console import Console

    from hpo.results.significance import Comparison

Rows = Mapping[str, Sequence[str]]  # title → a cell for each run

WHY = {
    "rows": "judged on other validation rows",
    "numbers": "it predicts something that is not a number",
    "metric": "{metric} cannot be computed of it",
}


def print_comparison(runs: Sequence[Run], comparison: Comparison | None, console: Console) -> None:
    """Print everything there is to say of runs held against each other."""
    if not console.is_terminal:
        console.width = WIDE
    names = [run.name for run in runs]
    console.print("Metrics (95 % interval)", style="bold")
    _print_blocks(names, _metrics(runs), console)
    for note in _notes(runs):
        console.print(note, style="dim")
    differing = {path: _cells(values) for path, values in differing_settings(runs).items()}
    console.print("\nWhat differs", style="bold")
    if differing:
        _print_blocks(names, differing, console)
    else:
        console.print(" nothing: only the seed")
    console.print("\nIs it real?", style="bold")
    for line in _verdicts(runs, comparison):
        console.print(f" {line}", soft_wrap=True)


# -- tables


def _metrics(runs: Sequence[Run]) -> dict[str, list[str]]:
    """A row for each metric: with an interval where predictions give it, else as recorded."""
    found: dict[str, dict[str, str]] = {}
    for run in runs:
        recorded = run.recorded
        by_short = {name.removeprefix("val/"): name for name in recorded if _is_judged(name)}
        for name, value in recorded.items():
            if _is_judged(name):
                found.setdefault(name, {})[run.name] = number(value)
        for _, row in () if run.measured is None else run.measured.iterrows():
            title = by_short.get(row["metric"], row["metric"])
            if not math.isnan(row["value"]):
                found.setdefault(title, {})[run.name] = _with_interval(row)
    return {title: [cells.get(run.name, "") for run in runs] for title, cells in found.items()}


def _is_judged(metric: str) -> bool:
    """Not a metric of the training rows, nor of the machine, one fold or one repeat."""
    return not metric.startswith(("train/", "system/", *PARTS))


def _with_interval(row: Any) -> str:
    return f"{_digits(row['value'])}{_interval(row['low'], row['high'])}"


def _interval(low: float, high: float, sign: str = "") -> str:
    """`` [low, high]``; nothing where it cannot be said."""
    return "" if math.isnan(low) else f" [{_digits(low, sign)}, {_digits(high, sign)}]"


def _digits(value: float, sign: str = "") -> str:
    """Four decimals, of larger numbers four digits: columns of scores line up."""
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.4g}"


def _cells(values: Sequence[Any]) -> list[str]:
    return [_plain("" if value is None else number(value)) for value in values]


def _plain(text: str, most: int = 40) -> str:
    """Without what a terminal would obey, and not too long."""
    text = "".join(char if char.isprintable() else "�" for char in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _print_blocks(names: Sequence[str], rows: Rows, console: Console) -> None:
    """One table, or several below each other, as many columns each as there is room for."""
    from rich.table import Table

    title_width = max(map(len, rows), default=0) + 2
    widths = [
        max(len(name), *(len(cells[place]) for cells in rows.values())) + 2
        for place, name in enumerate(names)
    ]
    for block in _blocks(widths, console.width - title_width):
        table = Table(box=None, padding=(0, 1), header_style="bold")
        table.add_column("", no_wrap=True)
        for place in block:
            table.add_column(names[place], no_wrap=True)
        for title, cells in rows.items():
            if any(cells[place] for place in block):
                table.add_row(title, *(cells[place] for place in block))
        console.print(table)


def _blocks(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """The columns of each table; at least one."""
    block: list[int] = []
    left = room
    for place, width in enumerate(widths):
        if block and width > left:
            yield block
            block, left = [], room
        block.append(place)
        left -= width
    if block:
        yield block


# -- words


def _notes(runs: Sequence[Run]) -> Iterator[str]:
    if any(run.settings.get("data.folds") and run.predicted is not None for run in runs):
        yield (
            " With an interval: of all folds' validation rows together; what was recorded is the"
            " mean over folds."
        )


def _verdicts(runs: Sequence[Run], comparison: Comparison | None) -> Iterator[str]:
    for run in runs:
        if run.trouble is not None:
            yield f"No test of {run.name}: {_plain(run.trouble, 300)}"
    silent = [run.name for run in runs if run.predicted is None and run.trouble is None]
    if silent:
        yield (
            f"No predictions of {_listed(silent)}, so no test of it: a trainer gives them with "
            "trial.report(epoch, metrics, predictions)."
        )
    if comparison is None:
        return
    if comparison.reference is None:
        yield f"{comparison.metric} cannot be computed of any of them."
        return
    yield _heading(comparison)
    for row in comparison.table.itertuples(index=False):
        if row.run != comparison.reference:
            yield f"  {row.run}: {_verdict(row, comparison.metric)}"
    yield from _conclusion(comparison)


def _heading(comparison: Comparison) -> str:
    against = f"each against {comparison.reference}"
    if comparison.best_of is not None and comparison.best_of > 1:
        against += f", the best of {comparison.best_of} on these rows"
    return f"{comparison.metric} on {comparison.rows:,} validation rows, {against}:"


def _verdict(row: Any, metric: str) -> str:
    if row.verdict == "not comparable":
        return f"not comparable; {WHY[row.why].format(metric=metric)}"
    difference = f"{metric} {_digits(row.difference, '+')}{_interval(row.low, row.high, '+')}"
    return f"{row.verdict}; {difference}, {_p(row.p_corrected)} ({row.test})"


def _p(value: float) -> str:
    if math.isnan(value):
        return "too few rows for a test"
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.2g}"


def _conclusion(comparison: Comparison) -> Iterator[str]:
    reference, worse = comparison.reference, comparison.runs("worse")
    unsure, better = comparison.runs("cannot tell"), comparison.runs("better")
    yield {
        "clear": f"{reference} is better, by more than chance.",
        "some": f"{reference} is better than {_listed(worse)}, by more than chance; "
        f"from {_listed(unsure)} it cannot be told.",
        "cannot tell": "No difference that chance alone could not make.",
        "beaten": f"Better than {reference}, by more than chance: {_listed(better)}.",
        "alone": "There is nothing to hold it against.",
    }[comparison.kind]
    tests = len(worse) + len(unsure) + len(better)
    if tests > 1:
        yield f"p is corrected for {tests} comparisons (Holm)."
    if comparison.best_of is not None and comparison.best_of > 1:
        yield ("The best was chosen by these very rows, so it looks better here than on new ones.")


def _listed(names: Sequence[str]) -> str:
    """``a, b and c``; of many the first few."""
    if len(names) > 6:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
