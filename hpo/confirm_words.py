"""A confirmation in the terminal: what the best trials are worth on fresh seeds and test rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hpo.tables import WIDE

if TYPE_CHECKING:
    from rich.console import Console

Facts = Mapping[str, Any]  # what `hpo.results.confirmation` returns


def print_confirmation(study: str, facts: Facts, console: Console) -> None:
    """Print everything there is to say of it."""
    if not console.is_terminal:
        console.width = WIDE
    console.print(
        f"{study}, its best trials on {facts['seeds']} fresh seeds: {facts['metric']}",
        style="bold",
    )
    _print_trials(facts, console)
    for line in _of_trials(facts):
        console.print(f" {line}", soft_wrap=True)
    if facts["test"] is None:
        console.print(
            "\nThere is no test split here: the trainer is not hpo's, or data.test is 0.",
            soft_wrap=True,
        )
        return
    console.print(f"\nThe test split, {facts['test']['rows']:,} rows", style="bold")
    _print_test(facts["test"], console)
    for line in _of_test(facts):
        console.print(f" {line}", soft_wrap=True)


def recorded_before(study: str, facts: Facts) -> str:
    """What to say where the test split has been opened already."""
    when = datetime.fromtimestamp(facts["time_ms"] / 1000, UTC).astimezone()
    return (
        f"{study} was confirmed on {when:%Y-%m-%d %H:%M}; this is what came out. Whoever looks at "
        "the test split, changes something and looks again chooses by it: --again does so, and "
        "counts."
    )


def _print_trials(facts: Facts, console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for title in ("trial", "in the search", "on fresh seeds [95 %]", "each seed"):
        table.add_column(title, justify="left" if title == "each seed" else "right")
    for trial in facts["trials"]:
        failed = f" ({len(trial['failures'])} failed)" if trial["failures"] else ""
        table.add_row(
            str(trial["trial"]),
            _digits(trial["searched"]),
            _interval(trial["mean"], trial),
            " ".join(map(_digits, trial["values"])) + failed,
            style="bold" if trial["trial"] == facts["winner"] else "",
        )
    console.print(table)


def _of_trials(facts: Facts) -> Iterator[str]:
    winner = next(each for each in facts["trials"] if each["trial"] == facts["winner"])
    many = "has the best mean" if len(facts["trials"]) > 1 else "was trained anew"
    yield f"Trial {facts['winner']} {many}: {_digits(winner['mean'])}."
    if _beyond(winner["searched"], winner, facts["goal"]):
        yield f"Its value in the search, {_digits(winner['searched'])}, was better: partly luck."
    if reasons := [reason for each in facts["trials"] for reason in each["failures"]]:
        yield f"{len(reasons)} of the seeds failed, e.g.: {reasons[0]}"


def _print_test(test: Facts, console: Console) -> None:
    from rich.table import Table

    metrics = list(next(iter(test["runs"].values())))
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("[95 %]")
    for name in test["runs"]:
        table.add_column(name, justify="right")
    for metric in sorted(metrics, key=lambda metric: metric != test["metric"]):
        cells = [run[metric] for run in test["runs"].values()]
        shown = [_interval(cell["value"], cell) for cell in cells]
        table.add_row(metric, *shown, style="bold" if metric == test["metric"] else "")
    console.print(table)


def _of_test(facts: Facts) -> Iterator[str]:
    test, seeds = facts["test"], facts["test"]["seeds"]
    if test["judged"] == "fresh seed":
        yield f"Trial {facts['winner']} kept no weights: the first of its fresh seeds is judged."
    if seeds["values"]:
        mean = _interval(seeds["mean"], seeds)
        yield f"The fresh seeds of trial {facts['winner']} here: {test['metric']} {mean}."
    if gain := test["gain"]:
        trial, ensemble = test["runs"]
        difference = _interval(gain["difference"], gain, "+")
        p = "" if gain["p"] is None else f", p = {gain['p']:.2g} ({gain['test']})"
        yield f"{ensemble} against {trial}: {gain['verdict']}; {test['metric']} {difference}{p}."
    if facts["looks"] > 1:
        yield (
            f"The test split has been opened {facts['looks']} times; what was chosen after the "
            "first time may owe something to it."
        )
    else:
        yield "Nobody had chosen by these rows; this is what to expect of new ones like them."


def _beyond(value: float, mean: Facts, goal: str) -> bool:
    """Whether a value is better than the whole interval."""
    return bool(value > mean["high"] if goal == "maximize" else value < mean["low"])


def _interval(value: float | None, ends: Facts, sign: str = "") -> str:
    low, high = ends["low"], ends["high"]
    if low is None or high is None or math.isnan(low):
        return _digits(value, sign)
    return f"{_digits(value, sign)} [{_digits(low, sign)}, {_digits(high, sign)}]"


def _digits(value: float | None, sign: str = "") -> str:
    if value is None or math.isnan(value):
        return "–"  # noqa: RUF001
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.4g}"
