"""The JSON Schema of the study file, so that an editor completes, explains and checks it.

Made from the same classes that check the file. Not covered: what one key demands of another
(`hpo.spec.checks`), and what only the data or the trainer can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaValue

from hpo.spec import effects, sections
from hpo.spec.executors import EXECUTORS
from hpo.spec.fields import NAME, OWN_TRAINER
from hpo.spec.forms import ChoicesForm, RangeForm
from hpo.spec.locations import searchable
from hpo.spec.methods import PRUNERS, SAMPLERS, STRATEGIES, MethodOptions
from hpo.spec.study import StudySpec
from trainers.registry import TRAINERS

_SCALAR: JsonSchemaValue = {"type": ["string", "number", "boolean", "null"]}
_WHEN: JsonSchemaValue = {
    "type": "object",
    "description": "Only where other searched paths have these values.",
    "propertyNames": {"$ref": "#/$defs/path"},
    "additionalProperties": {
        "anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]
    },
}


def schema() -> dict[str, Any]:
    """The schema, draft 2020-12."""
    made = json_schema(StudySpec)
    definitions: dict[str, Any] = made.pop("$defs")
    properties = made["properties"]
    properties["trainer"] |= {
        "anyOf": [
            {"enum": list(TRAINERS)},
            {"type": "string", "pattern": OWN_TRAINER},
        ],
        "examples": [*TRAINERS, "package.module:train"],
    }
    del properties["trainer"]["type"]
    made["required"].remove("trainer")
    properties["search"] = _search(properties["search"]["description"])
    properties["sampler"] = _method("sampler", SAMPLERS, properties["sampler"])
    properties["pruner"] = _method("pruner", PRUNERS, properties["pruner"])
    properties["executor"] = _method("executor", EXECUTORS, properties["executor"])
    properties["strategy"] = _method("strategy", STRATEGIES, properties["strategy"])
    properties["start_from"] = _start_from(properties["start_from"]["description"])
    definitions["path"] = {
        "type": "string",
        "pattern": rf"^({'|'.join(sections.NAMES)})(\.[^.]+)+$",
    }
    definitions["parameter"] = _parameter()
    properties["objective"].pop("default")
    made_for = [_for_trainer(name, definitions) for name in TRAINERS]
    used = _references([properties, made_for], definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study file of hpo",
        **{key: made[key] for key in ("type", "properties", "required", "additionalProperties")},
        "oneOf": [{"required": ["trainer"]}, {"required": ["command"]}],
        "allOf": made_for,
        "$defs": {name: definitions[name] for name in sorted(used)},
    }


def _references(at: Any, definitions: Mapping[str, Any]) -> set[str]:
    """The definitions that are used below `at`."""
    used: set[str] = set()
    todo = [at]
    while todo:
        at = todo.pop()
        if isinstance(at, dict):
            name = str(at.get("$ref", "")).removeprefix("#/$defs/")
            if name and name not in used:
                used.add(name)
                todo.append(definitions[name])
        todo += at.values() if isinstance(at, dict) else at if isinstance(at, list) else ()
    return used


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of one class, without the titles that pydantic makes of its names."""
    made: dict[str, Any] = _said(_without_titles(model.model_json_schema()))
    return made


def _said(made: Any) -> Any:
    """What an option needs, as a sentence of its description: JSON Schema knows no such thing."""
    if isinstance(made, list):
        return [_said(item) for item in made]
    if not isinstance(made, dict):
        return made
    own = {key: _said(value) for key, value in made.items()}
    if isinstance(made.get("description"), str) and "needs" in made:
        own["description"] = f"{made['description']} {effects.text(own.pop('needs'))}"
    return own


def _without_titles(made: Any) -> Any:
    if isinstance(made, list):
        return [_without_titles(item) for item in made]
    if not isinstance(made, dict):
        return made
    # "title" may also be the name of a property; then it is a schema and stays.
    return {
        key: _without_titles(value)
        for key, value in made.items()
        if not (key == "title" and isinstance(value, str))
    }


def _for_trainer(name: str, definitions: dict[str, Any]) -> JsonSchemaValue:
    """What the sections may say, and what can be searched, for a built-in trainer."""
    there: dict[str, Any] = {}
    required = ["trainer"]
    for section in sections.NAMES:
        model = sections.options(name, section)
        assert model is not None
        made = json_schema(model)
        for nested, definition in made.pop("$defs", {}).items():
            definitions[nested] = definition
        if made.get("required"):
            required.append(section)
        definitions[model.__name__] = made
        there[section] = {"$ref": f"#/$defs/{model.__name__}"}
    there["search"] = {
        "properties": {
            path: {"$ref": "#/$defs/parameter", "description": _description(name, path)}
            for path in searchable(name)
        }
    }
    condition = {"properties": {"trainer": {"const": name}}, "required": ["trainer"]}
    return {"if": condition, "then": {"properties": there, "required": required}}


def _description(trainer: str, path: str) -> str:
    section, *rest = sections.as_path(path)
    model = sections.options(trainer, str(section))
    found = sections.field(model, tuple(rest)) if model else None
    text, needs = (found and found[1].description) or "", effects.needs(trainer, (section, *rest))
    return f"{text} {effects.text(needs)}" if needs else text


def _parameter() -> JsonSchemaValue:
    range_form, choices_form = json_schema(RangeForm), json_schema(ChoicesForm)
    choices: JsonSchemaValue = {"type": "array", "items": _SCALAR, "minItems": 2}
    for form in (range_form, choices_form):
        form["properties"]["when"] = _WHEN
    choices_form["properties"]["choices"] |= choices
    return {"anyOf": [choices | {"description": "One of these values."}, range_form, choices_form]}


def _search(description: str) -> JsonSchemaValue:
    return {
        "description": description,
        "type": ["object", "null"],
        "propertyNames": {"$ref": "#/$defs/path"},
        "additionalProperties": {"$ref": "#/$defs/parameter"},
    }


def _method(
    kind: str, table: Mapping[str, type[MethodOptions]], declared: Mapping[str, Any]
) -> JsonSchemaValue:
    forms = []
    for name, model in table.items():
        made = json_schema(model)
        forms.append(
            {
                "type": "object",
                "description": made.get("description", ""),
                "properties": {"name": {"const": name}, **made.get("properties", {})},
                "required": ["name", *made.get("required", [])],
                "additionalProperties": False,
            }
        )
    alone = [name for name, model in table.items() if not json_schema(model).get("required")]
    default = {"sampler": "auto", "pruner": "auto", "executor": "processes"}.get(kind)
    return {
        "description": declared["description"],
        "default": default,
        "anyOf": [{"enum": alone}, *forms],
    }


def _start_from(description: str) -> JsonSchemaValue:
    study: JsonSchemaValue = {
        "type": "object",
        "properties": {
            "study": {"type": "string", "pattern": NAME, "description": "An earlier study."}
        },
        "required": ["study"],
        "additionalProperties": False,
    }
    configuration: JsonSchemaValue = {
        "type": "object",
        "propertyNames": {"$ref": "#/$defs/path"},
        "additionalProperties": _SCALAR,
        "minProperties": 1,
    }
    item: JsonSchemaValue = {"anyOf": [configuration, study]}
    return {
        "description": description,
        "anyOf": [{"type": "array", "items": item}, *item["anyOf"]],
    }
