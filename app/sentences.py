"""Numbers, verdicts and advice in words: the same in the app and in a report.

Names from runs go through `safe`, which makes them harmless where the sentence will stand; the
sentences themselves hold Markdown's ``**`` and backticks. Nothing here needs Streamlit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from app.charts.style import left_out, said
from app.words import Words
from hpo.results.advice import Advice
from hpo.results.significance import Comparison

Safe = Callable[[object], str]


# -- numbers


def number(value: object) -> str:
    """Four digits of a number; nothing for what is missing."""
    if value is None or value is pd.NA or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def signed(value: float) -> str:
    """Three digits of a difference."""
    return "" if math.isnan(value) else f"{value:+.3g}"


def interval(low: float, high: float, form: Callable[[float], str] = number) -> str:
    """``[low, high]``, never broken into two lines; nothing where it cannot be said."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{form(float(low))},\u00a0{form(float(high))}]"


def explained(metric: str, w: Words) -> str:
    """What a metric of predictions says."""
    return w(f"metric.{metric.partition('/')[0]}")  # "f1/cat" is of one class


def p_value(p: float) -> str:
    """Three decimals."""
    if math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def span(seconds: float, w: Words) -> str:
    """A length of time in its two largest units."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return w("time.days", days=days, hours=hours)
    if hours:
        return w("time.hours", hours=hours, minutes=minutes)
    if minutes:
        return w("time.minutes", minutes=minutes, seconds=whole % 60)
    return w("time.seconds", seconds=f"{seconds:.1f}" if seconds < 10 else whole)


# -- sentences


def verdict(result: Comparison, w: Words, safe: Safe) -> str:
    """Is the reference really better? What a comparison comes to."""
    if result.reference is None:
        return w("real.nothing")
    table = result.table.set_index("run")
    worse, unsure = len(result.runs("worse")), len(result.runs("cannot tell"))
    better = result.runs("better")
    text = w(
        f"real.{result.kind.replace(' ', '_')}",
        run=safe(result.reference),
        metric=safe(result.metric),
        value=number(float(table["value"][result.reference])),
        count=worse + unsure + len(better),
        worse=worse,
        unsure=unsure,
        better=safe(", ".join(better[:3])),
    )
    best_of = result.best_of or 0
    apart = table["why"][table["verdict"] == "not comparable"].value_counts(sort=False)
    return said(
        text,
        left_out(w, best_of if best_of > 1 else 0, "real.best_of"),
        *(
            w(f"real.apart.{why}", count=count, metric=safe(result.metric))
            for why, count in apart.items()
        ),
    )


def suggestion(one: Advice, w: Words, safe: Safe) -> str:
    """One thing to try, or to beware of."""
    facts = {
        name: safe(value) if isinstance(value, str) else value for name, value in one.facts.items()
    }
    side = f".{one.facts['side']}" if one.kind == "edge" else ""
    return w(f"advice.{one.kind}{side}", **facts)


def comparison_table(result: Comparison, w: Words) -> pd.DataFrame:
    """`Comparison.table` for people; names are as they are."""
    table = result.table
    bounds = list(zip(table["low"], table["high"], strict=True))
    return pd.DataFrame(
        {
            w("column.run"): table["run"],
            result.metric: table["value"].map(number),
            w("real.difference"): [
                signed(difference) if verdict != "reference" else ""
                for difference, verdict in zip(table["difference"], table["verdict"], strict=True)
            ],
            w("real.interval"): [interval(low, high, signed) for low, high in bounds],
            w("real.p"): table["p_corrected"].map(p_value),
            w("real.verdict"): [w(f"verdict.{v.replace(' ', '_')}") for v in table["verdict"]],
            w("real.test"): table["test"],
        }
    )
