"""Rows that fit what a person wrote: ``value > 0.9 and lr < 0.1``.

The text may come from a link, so it can compare and calculate, and nothing else: what pandas'
own ``query`` also takes (calls, attributes, ``@``) would run any code.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MOST_CHARACTERS = 1000
_ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare),
    *(ast.Name, ast.Constant, ast.List, ast.Tuple, ast.Load),
    *(ast.And, ast.Or, ast.Not, ast.Invert, ast.USub, ast.UAdd, ast.cmpop),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.BitAnd, ast.BitOr),
)


def filtered(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows for which `where` is true; a comparison with what is missing is not.

    Args:
        where: Column names, in backquotes unless they are Python names, numbers and quoted text,
            with ``== != < > <= >= in`` and ``and or not + - * / %``. The end of a name will do,
            as ``lr`` or ```train.lr```, where only one column has it.

    Raises:
        ValueError: It is not understood; the message says why.
    """
    if len(where) > MOST_CHARACTERS:
        raise ValueError(f"it is longer than {MOST_CHARACTERS} characters")
    text, named = _without_backquotes(table, where)
    names = {node.id for node in ast.walk(_checked(text)) if isinstance(node, ast.Name)}
    for name in names - named.keys() - set(map(str, table)):
        if found := _ending(table, name):
            named[name] = table[found]
    try:
        fitting: Any = table.assign(**named).eval(
            text, engine="python", parser="pandas", local_dict={}, global_dict={}
        )
    except Exception as error:  # whatever pandas and the columns' types raise
        raise ValueError(str(error) or type(error).__name__) from error
    if str(getattr(fitting, "dtype", "")) not in ("bool", "boolean"):
        raise ValueError("it is not true or false for each row")
    fits: pd.Series = fitting.fillna(False).astype(bool)
    return table[fits]


def _without_backquotes(table: pd.DataFrame, where: str) -> tuple[str, dict[str, pd.Series]]:
    """Other names for what stands in backquotes: what is checked is what pandas then reads."""
    named: dict[str, pd.Series] = {}

    def rename(quoted: re.Match[str]) -> str:
        column = quoted[1] if quoted[1] in table else _ending(table, quoted[1])
        if column is None:
            raise ValueError(f"there is no column {quoted[1]!r}")
        name = f"_column_{len(named)}"
        named[name] = table[column]
        return name

    text = re.sub(r"`([^`]*)`", rename, where.strip())
    if "`" in text:
        raise ValueError("a backquote is not closed")
    return text, named


def _ending(table: pd.DataFrame, name: str) -> str | None:
    """The column whose name ends so, after a dot."""
    found = [column for column in map(str, table) if column.endswith(f".{name}")]
    if len(found) > 1:
        there = " or ".join(f"`{column}`" for column in found)
        raise ValueError(f"{name} may be {there}")
    return found[0] if found else None


def _checked(text: str) -> ast.Expression:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(getattr(error, "msg", None) or str(error)) from None
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise ValueError("it may only compare and calculate")
        if isinstance(node, ast.BinOp) and not all(map(_is_number, (node.left, node.right))):
            raise ValueError("only numbers can be calculated with")
    return tree


def _is_number(node: ast.expr) -> bool:
    """Whether it may be one: long texts and lists must not come of ``"a" * 999999999``."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float)
    return not isinstance(node, ast.List | ast.Tuple)
