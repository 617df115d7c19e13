"""An ensemble in the terminal: its members, how they differ, and whether it is better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpo.tables import WIDE, number

if TYPE_CHECKING:
    from rich.console import Console

Facts = Mapping[str, Any]  # what `hpo.results.ensemble` returns

METHODS = {
    "greedy": "greedy selection",
    "cma": "weights by CMA-ES",
    "stack": "stacking",
    "top": "the mean of the best",
}
MEASURES = {
    "disagreement": "disagreement",
    "double_fault": "both wrong",
    "q": "Q",
    "error_correlation": "correlation of errors",
}
MOST_MEMBERS = 20  # that are printed
AGAINST = {
    "best in fold": "the best trial alone, chosen without the row's fold, too",
    "best in fold, calibrated": "the same trial, calibrated",
    "best": "trial {trial}, the best of {trials} on these rows, which flatters it",
}


def print_ensemble(study: str, facts: Facts, console: Console) -> None:
    """Print everything there is to say of an ensemble."""
    if not console.is_terminal:
        console.width = WIDE
    members = len(facts["members"])
    console.print(
        f"Ensemble {facts['ensemble']} of {study}: {_how(facts)}, {members} of "
        f"{facts['trials']} trials",
        style="bold",
    )
    for reason, count in facts["left_out"].items():
        console.print(f" {count} complete trials {reason}", style="dim")
    _print_rows(_member_titles(facts), list(_member_rows(facts)), console)
    if members > MOST_MEMBERS:
        console.print(f" and {members - MOST_MEMBERS} more; --json has them", style="dim")
    _print_measures(facts, console)
    if len(facts["tried"]) > 1:
        console.print("\nWays to make it (cross-validated)", style="bold")
        tried = [(_how(way), _digits(way["value"])) for way in facts["tried"]]
        _print_rows(["", facts["metric"]], tried, console)
    if len(facts["sizes"]) > 1:
        console.print("\nThe heaviest members alone (cross-validated)", style="bold")
        sizes = [(str(size["members"]), _digits(size["value"])) for size in facts["sizes"]]
        _print_rows(["members", facts["metric"]], sizes, console)
    console.print("\nIs it better?", style="bold")
    for line in _verdicts(facts):
        console.print(f" {line}", soft_wrap=True)
    console.print("\nNew rows", style="bold")
    console.print(f" {_of_new_rows(study, facts)}", soft_wrap=True)


def _of_new_rows(study: str, facts: Facts) -> str:
    """Whether it predicts, and how."""
    lacking = facts["without_weights"]
    if not lacking:
        return f"hpo predict {study}/ensemble/{facts['ensemble']} FILE -o OUT.csv"
    shown = ", ".join(map(str, lacking[:MOST_MEMBERS])) + " …" * (len(lacking) > MOST_MEMBERS)
    return (
        f"It cannot predict them: there are no weights of trial{'s' * (len(lacking) > 1)} {shown} "
        "(hpo's own trainers keep those of the best `keep_models` trials, yours keeps its own). "
        "--kept makes an ensemble of trials with weights only."
    )


def _how(way: Facts) -> str:
    how = METHODS[way["method"]]
    if way["non_negative"]:
        how += " with non-negative weights"
    return f"{how}, calibrated" if way["calibrated"] else how


def _member_titles(facts: Facts) -> list[str]:
    weight = "share" if facts["method"] == "stack" and not facts["non_negative"] else "weight"
    calibrated = ["temperature"] if facts["calibrated"] else []
    measures = [MEASURES[name] for name in facts["diversity"]]
    return ["trial", weight, *calibrated, facts["metric"], *measures]


def _member_rows(facts: Facts) -> Iterator[list[str]]:
    for member in facts["members"][:MOST_MEMBERS]:
        calibrated = [number(member["temperature"])] if facts["calibrated"] else []
        values = [member["value"], *(member[name] for name in facts["diversity"])]
        weight = f"{member['weight']:.3f}"
        yield [str(member["trial"]), weight, *calibrated, *map(_digits, values)]


def _print_measures(facts: Facts, console: Console) -> None:
    means = [
        f"{MEASURES[name]} {_digits(value)}"
        for name, value in facts["diversity"].items()
        if not math.isnan(value)
    ]
    if means:
        console.print(f" Of two members, on average: {', '.join(means)}.")


def _print_rows(titles: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for title in titles:
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _verdicts(facts: Facts) -> Iterator[str]:
    metric, estimate = facts["metric"], facts["estimate"]
    yield (
        f"{metric} on {facts['rows']:,} validation rows, each predicted by an ensemble that was "
        f"made without it ({facts['folds']} folds): {_with_interval(estimate)}"
    )
    for other in facts["against"]:
        what = AGAINST[other["what"]].format(trial=other["trial"], trials=facts["trials"])
        yield f"  against {what} ({_digits(other['value'])}): {_verdict(other, metric)}"
    yield _conclusion(facts["against"][0]["verdict"])
    yield (
        "The search chose the trials by these very rows; rows that nobody has chosen by, a test "
        "split, were not touched."
    )


def _verdict(other: Facts, metric: str) -> str:
    interval = {"value": other["difference"], "low": other["gain_low"], "high": other["gain_high"]}
    p = "too few rows for a test" if math.isnan(other["p"]) else _p(other["p"])
    return f"{other['verdict']}; {metric} {_with_interval(interval, '+')}, {p} ({other['test']})"


def _p(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def _conclusion(verdict: str) -> str:
    return {
        "better": "The ensemble is better than one trial, by more than chance.",
        "worse": "The ensemble is worse than one trial, by more than chance: use the trial.",
    }.get(
        verdict,
        "No difference that chance alone could not make: one trial is as good, and cheaper.",
    )


def _with_interval(facts: Facts, sign: str = "") -> str:
    low, high = facts["low"], facts["high"]
    interval = "" if math.isnan(low) else f" [{_digits(low, sign)}, {_digits(high, sign)}]"
    return f"{_digits(facts['value'], sign)}{interval}"


def _digits(value: float, sign: str = "") -> str:
    """Four decimals, of larger numbers four digits: columns of scores line up."""
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.4g}"
