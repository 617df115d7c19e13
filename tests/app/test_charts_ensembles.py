"""The charts of an ensemble, and texts that are read on any cell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from app.charts import ensembles
from app.charts.matrices import BLUES, DIFFERENCES, INKS, Scale, cells
from app.words import words

W = words("en")


def luminance(color: str) -> float:
    """Of #rrggbb, as WCAG has it."""
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("scale", [BLUES, DIFFERENCES])
def test_what_is_written_in_a_cell_contrasts_with_it(scale: Scale) -> None:
    z = np.linspace(0, 1, 11)[:, None]
    texts = [[str(i)] for i in range(11)]
    _, written = cells(z, (0, 1), scale, texts, texts, "")
    places, colors = [p for p, _ in scale], [c for _, c in scale]
    for share, ink in zip(z[:, 0], written["textfont"]["color"], strict=True):
        rgb = [
            np.interp(share, places, [int(c[i : i + 2], 16) for c in colors]) for i in (1, 3, 5)
        ]
        ground = "#" + "".join(f"{round(one):02x}" for one in rgb)
        lighter, darker = sorted((luminance(ground), luminance(ink)), reverse=True)
        assert ink in INKS
        assert (lighter + 0.05) / (darker + 0.05) > 4.5


def test_a_cell_without_a_value_has_no_text() -> None:
    z = np.array([[np.nan, 0.2], [0.2, np.nan]])
    _, written = cells(z, (0, 1), BLUES, [["a", "b"], ["c", "d"]], [["", ""]] * 2, "")
    assert written["text"] == ["b", "c"]


def test_the_heaviest_member_is_on_top() -> None:
    members = pd.DataFrame({"run": ["s/1", "s/2"], "weight": [0.7, 0.3], "value": [0.9, 0.8]})
    chart = ensembles.weights(members, "accuracy", W)
    (bars,) = chart.figure.data
    np.testing.assert_allclose(bars.x, [0.7, 0.3])
    assert list(bars.y) == [1, 0]


def test_one_member_has_no_pair() -> None:
    alone = pd.DataFrame([[np.nan]], ["s/1"], ["s/1"])
    chart = ensembles.diversity(alone, "disagreement", W)
    assert not chart.figure.data
    assert W("ensemble.one_member") in chart.figure.layout.annotations[0].text.replace("<br>", " ")


def test_an_ensemble_costs_what_its_members_cost_together() -> None:
    runs = pd.DataFrame(
        {
            "run": ["s/1", "s/2", "s/3"],
            "value": [0.9, 0.8, np.nan],
            "cost": [10.0, 5.0, 1.0],
            "member": [True, True, False],
        }
    )
    path = pd.DataFrame({"members": [1, 2], "value": [0.9, 0.95], "cost": [10.0, 15.0]})
    chart = ensembles.worth_and_cost(runs, path, "accuracy", "parameters", False, W)
    singles, whole = chart.figure.data
    np.testing.assert_array_equal(singles.customdata, [0, 1])
    np.testing.assert_array_equal(whole.x, [10, 15])
    assert "1 without a value" in chart.caption
