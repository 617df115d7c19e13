"""How problems are shown."""

from __future__ import annotations

import hpo
from hpo.errors import Problem, StudyFileError


def test_a_problem_shows_its_line_a_caret_and_what_to_try() -> None:
    problem = Problem(
        "search.train.lr.low",
        "expected a number > 0 because log is true; got 0",
        "try 1e-5",
        line=14,
        column=10,
        source_line="    low: 0",
    )
    assert problem.render("study.yaml") == (
        "study.yaml:14:10: search.train.lr.low: expected a number > 0 because log is true; got 0\n"
        "    14 |     low: 0\n"
        "       |          ^ try 1e-5"
    )


def test_a_long_line_is_cut_around_the_caret() -> None:
    line = "x" * 300 + "!" + "y" * 300
    shown = Problem("", "m", line=1, column=301, source_line=line).render("f").splitlines()
    assert len(shown[1]) < 120
    assert shown[1][shown[2].index("^")] == "!"


def test_all_problems_are_in_the_message() -> None:
    error = StudyFileError("f", [Problem("a", "first"), Problem("b", "second", "hint")])
    assert str(error) == "f: a: first\nf: b: second\n         hint"
    assert error.exit_code == 2


def test_the_public_face() -> None:
    assert hpo.__all__ == ["load", "results", "run"]
