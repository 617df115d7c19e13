"""A filter finds rows, and does nothing else, whatever it says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from hpo.results.filtering import filtered

TABLE = pd.DataFrame(
    {
        "number": pd.array([0, 1, 2, 3], "Int64"),
        "state": pd.array(["complete", "complete", "pruned", "failed"], "str"),
        "value": [0.5, 0.9, 0.7, float("nan")],
        "best_epoch": pd.array([3, 1, 2, None], "Int64"),
        "params.train.lr": [0.1, 0.01, 0.001, 0.1],
        "params.model.hidden.0": [16, 64, 16, 64],
        "params.model.depth": [1, 2, 3, 4],
        "params.head.depth": [1, 2, 3, 4],
        "value.val/f1 (best)": [1.0, 2.0, 3.0, 4.0],
    }
)


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("value > 0.6", [1, 2]),
        ("value > 0.6 and `params.train.lr` < 0.01", [2]),
        ("not value > 0.6", [0, 3]),
        ("0.5 <= value < 0.9", [0, 2]),
        ("state == 'pruned' or state == \"failed\"", [2, 3]),
        ("state in ['pruned', 'failed']", [2, 3]),
        ("state not in ('pruned', 'failed')", [0, 1]),
        ("`params.train.lr` * 10 == 1", [0, 3]),
        ("(value > 0.8) | (number == 2)", [1, 2]),
        ("best_epoch >= 2", [0, 2]),
        ("lr > 0.05", [0, 3]),
        ("0.05 < `train.lr` and `hidden.0` > 16", [3]),
        ("value > 0.6 and `val/f1 (best)` < 3", [1]),
        ("`value` > -1e-3 and `value.val/f1 (best)` / 2 == 1", [1]),
        ("  `params.model.hidden.0` % 32 == 16  ", [0, 2]),
    ],
)
def test_rows_that_fit(where: str, numbers: list[int]) -> None:
    assert list(filtered(TABLE, where)["number"]) == numbers
    assert list(filtered(TABLE, where)) == list(TABLE)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("value >", "invalid syntax"),
        ("valu > 1", "valu"),
        ("depth > 1", "depth may be `params.model.depth` or `params.head.depth`"),
        ("`depth` > 1", "depth may be"),
        ("`params.train.lx` > 1", "no column 'params.train.lx'"),
        ("`params.train.lr > 1", "not closed"),
        ("value > 'a'", "Invalid comparison"),
        ("", "invalid syntax"),
        ("value > 1 " * 200, "longer than"),
        ("(" * 400 + "1" + ")" * 400, "too many nested"),
        ("value = 1", "invalid syntax"),
        ("value", "true or false"),
        ("1", "true or false"),
        ("'a' * 999999999 == state", "only numbers"),
        ("[1] * 999999999 == value", "only numbers"),
        ("9 ** 9 ** 9 ** 9 > value", "compare and calculate"),
    ],
)
def test_what_is_not_understood_is_said(where: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        filtered(TABLE, where)


@pytest.mark.parametrize(
    "where",
    [
        "@pd.io.common.os.system('touch {file}') == 0",
        "value.to_csv('{file}') or value > 0",
        "`value`.to_csv('{file}')",
        "open('{file}', 'w') == 0",
        "__import__('os').system('touch {file}') == 0",
        "[x for x in ().__class__.__base__.__subclasses__()]",
        "(lambda: 1)() == value",
        "f\"{{value.to_csv('{file}')}}\" == state",
        # What is code for one reader of backquotes must not be a name for another.
        "state == '`' and @pd.io.common.os.system('touch {file}') == 0 and state == '`'",
        "`value` > 0 # `\nvalue.to_csv('{file}')",
        "value > 0; value.to_csv('{file}')",
        "(x := value.to_csv('{file}'))",
        "value[0] > 1",
    ],
)
def test_a_filter_from_a_link_runs_nothing(where: str, tmp_path: Path) -> None:
    file = tmp_path / "made"
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        filtered(TABLE, where.format(file=file))
    assert not file.exists()
