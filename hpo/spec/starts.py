"""The section ``start_from``: configurations to try first, and studies to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hpo.errors import Problem
from hpo.spec import explain
from hpo.spec.conditions import as_in, possible
from hpo.spec.document import Document
from hpo.spec.space import Parameter, Scalar, contains
from hpo.spec.study import FromStudy
from hpo.spec.yaml12 import Path

Item = Mapping[str, Scalar] | FromStudy


def parse(
    document: Document, items: Any, search: Mapping[str, Parameter], study: str
) -> tuple[tuple[Item, ...], list[Problem]]:
    """What to begin with; one item needs no list."""
    if not isinstance(items, list | dict):
        message = f"expected a list of configurations or studies; got {explain.shown(items)}"
        hint = "[{study: NAME}], or [{train.lr: 0.1}]"
        return (), [document.problem(("start_from",), message, hint)]
    listed = items if isinstance(items, list) else [items]
    found: list[Item] = []
    problems: list[Problem] = []
    for i, item in enumerate(listed):
        at: Path = ("start_from", i) if isinstance(items, list) else ("start_from",)
        if not isinstance(item, dict) or not item:
            message = f"expected {{path: value, …}} or {{study: NAME}}; got {explain.shown(item)}"
            problems.append(document.problem(at, message))
        elif "study" in item:
            problems += _check_study(document, at, item, study)
            found.append(FromStudy.model_construct(study=item["study"]))
        else:
            configuration, wrong = _configuration(document, at, item, search)
            found.append(configuration)
            problems += wrong
    return tuple(found), problems


def _check_study(document: Document, at: Path, item: dict[str, Any], study: str) -> list[Problem]:
    try:
        earlier = FromStudy.model_validate(item)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        return explain.problems(document, at, item, errors, lambda path: ["study"])
    if earlier.study == study:
        return [document.problem((*at, "study"), "a study cannot start from itself")]
    return []


def _configuration(
    document: Document, at: Path, item: dict[str, Any], search: Mapping[str, Parameter]
) -> tuple[dict[str, Scalar], list[Problem]]:
    params: dict[str, Scalar] = {}
    problems = []
    for path, value in item.items():
        place = (*at, path)
        if path not in search:
            hint = explain.did_you_mean(path, search)
            problems.append(
                document.problem(place, "expected a path that is searched", hint, at_key=True)
            )
        elif isinstance(value, list | dict) or not contains(search[path], value):
            problems.append(
                document.problem(
                    place,
                    f"{explain.shown(value)} is not in the search space",
                    possible(search[path], value),
                )
            )
        else:
            params[path] = as_in(search[path], value)
    return params, problems
