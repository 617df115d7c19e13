"""The schema and the reference: what they say is what is checked."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import optuna
import pytest
import yaml

from hpo import spec
from hpo.errors import StudyFileError
from hpo.spec import yaml12
from hpo.spec.methods import PRUNERS, SAMPLERS, MethodOptions
from hpo.spec.reference import reference
from hpo.spec.yaml_text import dump

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted((ROOT / "studies").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = spec.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_reference_in_the_docs_is_the_generated_one() -> None:
    there = (ROOT / "docs/reference/study-file.md").read_text()
    assert there.rstrip() == reference().rstrip(), (
        "make it anew: python -m hpo.spec.reference > docs/reference/study-file.md"
    )


def test_the_schema_in_the_docs_is_the_generated_one() -> None:
    there = json.loads((ROOT / "docs/reference/study.schema.json").read_text())
    assert there == spec.schema(), "make it anew: hpo schema > docs/reference/study.schema.json"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_shipped_examples_are_good(
    validator: Any, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOTOS", "digits")
    assert example.read_text().startswith(
        "# yaml-language-server: $schema=../docs/reference/study.schema.json\n"
    )
    assert spec.load(example).warnings == ()
    validator.validate(yaml12.read(example.read_bytes()).value)


def test_a_resolved_file_is_valid(validator: Any) -> None:
    resolved = spec.load(ROOT / "studies/quickstart.yaml").resolved()
    validator.validate(yaml12.read(resolved.encode()).value)
    assert yaml.safe_load(resolved)["study"] == "quickstart"  # a 1.1 reader understands it, too


@pytest.mark.parametrize(
    "lines",
    [
        "prunner: median", "train: {optimzer: sgd}", "train: {optimizer: adamm}",
        "train: {epochs: 1.5}", "search: {lr: [1, 2]}", "search: {train.lr: [[1], 2]}",
        "search: {train.lr: {low: 0}}", "objective: {metric: a, goal: minimise}",
        "sampler: tpee", "sampler: {name: tpe, n_startup: 3}", "pruner: percentile",
        "timeout: 10", "timeout: 10min", "seed: -1", "workers: 0", "lanes: 0", "study: a/b",
        "data: {}", "trainer: nothing", "budget: {trials: 0}", "start_from: [{}]",
    ],
)  # fmt: skip
def test_the_schema_refuses_what_is_refused(validator: Any, lines: str, tmp_path: Path) -> None:
    good = {"study": "s", "trainer": "image_classifier", "data": {"source": "digits"}}
    changed = good | yaml12.read(lines.encode()).value
    assert validator.is_valid(good)
    assert not validator.is_valid(changed)
    file = tmp_path / "study.yaml"
    file.write_text(dump(changed))
    with pytest.raises(StudyFileError):
        spec.load(file)


def test_every_option_is_described() -> None:
    def check(at: Any, path: str) -> None:
        for name, option in at.get("properties", {}).items():
            if "const" not in option and not option.get("propertyNames"):
                described = {"description", "$ref", "properties"} & option.keys()
                assert described, f"{path}.{name}"
        for key, below in at.items():
            for each in below if isinstance(below, list) else [below]:
                if isinstance(each, dict) and key not in ("if", "default"):
                    check(each, f"{path}.{key}")

    check(spec.schema(), "")


OPTUNA = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "cma-es": optuna.samplers.CmaEsSampler,
    "random": optuna.samplers.RandomSampler,
    "qmc": optuna.samplers.QMCSampler,
    "nsga2": optuna.samplers.NSGAIISampler,
    "nsga3": optuna.samplers.NSGAIIISampler,
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "patient": optuna.pruners.PatientPruner,
    "threshold": optuna.pruners.ThresholdPruner,
}


@pytest.mark.parametrize("name", OPTUNA)
def test_options_and_defaults_are_optuna_s(name: str) -> None:
    model: type[MethodOptions] = (SAMPLERS | PRUNERS)[name]
    signature = inspect.signature(OPTUNA[name])
    for option, field in model.model_fields.items():
        if option == "wrapped":  # patient's: a name here, an object there
            continue
        default = signature.parameters[option].default
        assert field.is_required() == (default is inspect.Parameter.empty)
        assert field.is_required() or field.default == default


def test_the_face_is_what_it_is() -> None:
    assert spec.__all__ == [
        "Budget", "Choice", "Float", "FromStudy", "Int", "Named", "Objective", "Parameter",
        "Scalar", "StudySpec", "Tracking", "When", "check_data", "load", "loads",
        "parse_value", "schema",
    ]  # fmt: skip
    assert all(hasattr(spec, name) for name in spec.__all__)


def test_importing_is_light() -> None:
    heavy = ["torch", "optuna", "mlflow", "pandas", "numpy", "sklearn", "sqlalchemy"]
    code = (
        "import sys; from pathlib import Path; import hpo.spec; hpo.spec.load(Path(sys.argv[1]));"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(ROOT / "studies/quickstart.yaml")]
    assert subprocess.check_output(command, text=True) == "[]\n"
