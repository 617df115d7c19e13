"""That the app's strings are complete in both languages, and that each is used."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

import app.words
from app.words import LANGUAGES, WORDS, words
from hpo.results.ranking import AREAS
from hpo.results.scores import CLASSIFICATION, MULTILABEL, REGRESSION

SOURCES = sorted(Path(app.words.__file__).parent.rglob("*.py"))


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def asked_for() -> tuple[set[str], set[str]]:
    """Keys in ``w("…")``; what f-strings in ``w(f"…{x}…")`` begin with."""
    keys, prefixes = set(), set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            key = node.args[0]
            if name not in ("w", "current_words", "words"):
                continue
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and name == "w":
                keys.add(key.value)
            if isinstance(key, ast.JoinedStr) and isinstance(key.values[0], ast.Constant):
                prefixes.add(str(key.values[0].value))
    return keys, prefixes


def literals() -> set[str]:
    """Every string in the app's code, without the table itself: keys may be chosen by data."""
    found = set()
    for source in SOURCES:
        if source.name != "words.py":
            nodes = ast.walk(ast.parse(source.read_text()))
            constants = {node.value for node in nodes if isinstance(node, ast.Constant)}
            found |= {value for value in constants if isinstance(value, str)}
    return found


def test_both_languages_say_something_with_the_same_fields() -> None:
    assert [key for key, texts in WORDS.items() if not all(text.strip() for text in texts)] == []
    assert [key for key, (en, zh) in WORDS.items() if fields(en) != fields(zh)] == []


def test_every_key_that_is_asked_for_exists() -> None:
    keys, prefixes = asked_for()
    assert keys - set(WORDS) == set()
    assert [p for p in prefixes if not any(key.startswith(p) for key in WORDS)] == []
    assert len(keys) > 50  # the search itself works


def test_no_key_is_left_over() -> None:
    keys, prefixes = asked_for()
    used = keys | literals()
    assert [k for k in WORDS if k not in used and not k.startswith(tuple(prefixes))] == []


def test_every_metric_of_predictions_is_explained() -> None:
    metrics = {*CLASSIFICATION, *MULTILABEL, *REGRESSION, *AREAS, "precision", "recall", "f1"}
    explained = {key.removeprefix("metric.") for key in WORDS if key.startswith("metric.")}
    assert explained == metrics


def test_chinese_is_chinese() -> None:
    """Names that are the same in both languages aside, each has a Chinese character."""
    same = {key for key, (english, chinese) in WORDS.items() if english == chinese}
    rest = [c for key, (_, c) in WORDS.items() if key not in same]
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in rest)
    assert len(same) < 0.1 * len(WORDS)


def test_fields_are_filled_in_and_an_unknown_key_is_an_error() -> None:
    assert words("en")("bands.best", trial=7) == "trial 7"
    assert words("zh")("bands.best", trial=7) == "试验 7"
    with pytest.raises(KeyError):
        words("en")("no.such.key")
    with pytest.raises(KeyError):
        words("en")("bands.best")


def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(ValueError, match="there are en, zh"):
        words("fr")  # type: ignore[arg-type]
    assert {language: words(language).language for language in LANGUAGES} == {
        "en": "en",
        "zh": "zh",
    }
