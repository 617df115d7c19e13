"""The reference of the study file, in Markdown, from the classes that check it.

``python -m hpo.spec.reference > docs/reference/study-file.md`` writes it anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from hpo.spec import sections
from hpo.spec.executors import EXECUTORS
from hpo.spec.fields import DURATION
from hpo.spec.forms import ChoicesForm, RangeForm
from hpo.spec.json_schema import json_schema
from hpo.spec.methods import (
    PRUNERS,
    PRUNERS_OF_SEVERAL,
    SAMPLERS,
    STRATEGIES,
    MethodOptions,
)
from hpo.spec.study import Budget, Objective, StudySpec, Tracking
from trainers.registry import TRAINERS

_INTRO = """\
# The study file

<!-- Made by `python -m hpo.spec.reference`; a test compares. Edit the classes, not this page. -->

YAML 1.2, one study a file. Relative paths are relative to the file. `${NAME}` and
`${NAME:-default}` stand for environment variables in `data.source`, `model.weights`,
`tracking.uri` and `storage`; passwords may be given in no other way. Any key can be set on the
command line: `--set train.epochs=3`. Put
`# yaml-language-server: $schema=…/study.schema.json` (the output of `hpo schema`) into the first
line, and an editor completes and checks the file.
"""

_SEARCH = """\
## search

A path into `data`, `model` or `train` → where to search. A list stands for choices. A path can go
into a list by number: `model.hidden.0`. What says what is compared cannot be searched:
{fixed}.

```yaml
search:
  train.lr:        {{low: 1e-3, high: 1.0, log: true}}
  model.hidden.0:  {{low: 16, high: 256, step: 16}}
  train.optimizer: [sgd, adamw]
  train.momentum:  {{low: 0.5, high: 0.99, when: {{train.optimizer: sgd}}}}
```

`when` names other searched paths, each with the value or the list of values for which the
parameter is there; elsewhere the option has the value that the file gives it, or its default.
"""

_OBJECTIVE = """\
## objective

One, or a list of several. Several give a Pareto front; then trials are pruned by non-dominated
rank, and the pruner is one of {pruners}.
"""

_START_FROM = """\
## start_from

A list. `{train.lr: 0.1, train.optimizer: sgd}` is a configuration to try first (what it leaves
out is suggested); `{study: NAME}` is an earlier study with the same objective, whose finished
trials the sampler knows from the start.
"""


def reference() -> str:
    """The page."""
    return "\n".join(_page())


def _page() -> Iterator[str]:
    yield _INTRO
    yield from _table(StudySpec)
    fixed = ", ".join(f"`{path}`" for path in sections.FIXED)
    yield _SEARCH.format(fixed=fixed)
    yield "A range:\n"
    yield from _table(RangeForm)
    yield "Choices, where a list does not do:\n"
    yield from _table(ChoicesForm)
    yield _OBJECTIVE.format(pruners=", ".join(f"`{name}`" for name in PRUNERS_OF_SEVERAL))
    yield from _table(Objective)
    yield "## budget\n"
    yield from _table(Budget)
    yield _START_FROM
    yield "## tracking\n"
    yield from _table(Tracking)
    yield from _methods("sampler", SAMPLERS)
    yield from _methods("pruner", PRUNERS)
    yield from _methods("strategy", STRATEGIES)
    yield from _methods("executor", EXECUTORS)
    for name, built_in in TRAINERS.items():
        yield f"## trainer: {name}\n\n{built_in.description}\n"
        for section in sections.NAMES:
            yield f"### {section} ({name})\n"
            yield from _table(getattr(built_in, section))


def _methods(kind: str, table: Mapping[str, type[MethodOptions]]) -> Iterator[str]:
    whose = ", whose names are Optuna's" if kind in ("sampler", "pruner") else ""
    yield f"## {kind}\n"
    yield f"A name, or `{{name: …}}` with its options{whose}.\n"
    yield from _rows(
        ("name", "what it does"),
        [(f"`{name}`", inspect.getdoc(model) or "") for name, model in table.items()],
    )
    for name, model in table.items():
        if model.model_fields:
            yield f"### {kind}: {name}\n"
            yield from _table(model)


def _table(model: type[BaseModel]) -> Iterator[str]:
    made = json_schema(model)
    rows = [
        (f"`{key}`", _type(option, made), _default(key, option, made), _text(option))
        for key, option in _options(made, made)
    ]
    yield from _rows(("key", "type", "default", "what it is"), rows)


def _options(group: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every option with its dotted key; of a group, its options too."""
    for key, option in group["properties"].items():
        yield key, option
        nested = _group(option, made)
        if nested and group["properties"] is not _top_level(made):
            for below, inner in _options(nested, made):
                yield f"{key}.{below}", inner


def _top_level(made: Mapping[str, Any]) -> Any:
    """The file's own keys: their groups have tables of their own."""
    return made["properties"] if "study" in made["properties"] else None


def _group(option: Mapping[str, Any], made: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for form in (option, *option.get("anyOf", ())):
        if "$ref" in form:
            definition: Mapping[str, Any] = made["$defs"][form["$ref"].split("/")[-1]]
            return definition
    return None


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _default(key: str, option: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    if key in made.get("required", ()):
        return "required"
    value = option.get("default")
    if isinstance(value, Mapping):
        value = value.get("name")
    if value is None or value == []:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _text(option: Mapping[str, Any]) -> str:
    text = option.get("description", "")
    examples = option.get("examples")
    return f"{text} E.g. {', '.join(f'`{e}`' for e in examples)}." if examples else text


def _type(option: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    if "anyOf" in option:
        forms = (_type(form, made) for form in option["anyOf"] if form.get("type") != "null")
        return " or ".join(dict.fromkeys(forms))
    if "enum" in option or "const" in option:
        return ", ".join(f"`{value}`" for value in option.get("enum", [option.get("const")]))
    if "$ref" in option:
        return "keys"
    kind = option.get("type")
    if kind in ("integer", "number"):
        word = "whole number" if kind == "integer" else "number"
        return " ".join((word, *_limits(option)))
    if kind == "array":
        inner = option.get("items", {})
        return f"list; each: {_type(inner, made)}" if inner.get("type") else "list"
    if option.get("pattern") == DURATION:
        return "duration"
    words = {"string": "text", "boolean": "`true`, `false`", "object": "keys"}
    return words.get(str(kind), "a value")


def _limits(option: Mapping[str, Any]) -> Iterator[str]:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = [f"{sign} {option[name]:,}" for name, sign in signs.items() if name in option]
    if limits:
        yield " and ".join(limits)


if __name__ == "__main__":
    print(reference())
