"""Study files of texts: what names a tokenizer, and what has an effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo import spec
from hpo.errors import StudyFileError

STUDY = """\
study: topics
trainer: text_classifier
data: {source: t.csv, text: text, target: topic, tokenizer: TOKENIZER}
model: {name: MODEL}
search: {SEARCH}
objective: {metric: val/accuracy, goal: maximize}
"""


def load(
    folder: Path, tokenizer: str = "words", model: str = "embedding_bag", search: str = ""
) -> spec.StudySpec:
    (folder / "t.csv").touch()
    file = folder / "study.yaml"
    text = STUDY.replace("TOKENIZER", tokenizer).replace("MODEL", model)
    file.write_text(text.replace("SEARCH", search))
    return spec.load(file)


def test_a_tokenizer_is_a_name_or_a_folder_beside_the_study_file(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    names = {"words": "words", "org/some-bert": "org/some-bert", "./bert": str(tmp_path / "bert")}
    for written, meant in names.items():
        study = load(tmp_path, written)
        assert study.data["tokenizer"] == meant
    study = load(tmp_path, search="data.tokenizer: [words, bert]")
    configs = [study.config({"data.tokenizer": name}) for name in ("words", "bert")]
    assert [each["data"]["tokenizer"] for each in configs] == ["words", str(tmp_path / "bert")]


@pytest.mark.parametrize(
    ("tokenizer", "model", "search", "message"),
    [
        ("words", "huggingface", "model.width: [8, 16]", "no effect with model.name huggingface"),
        (
            "words",
            "embedding_bag",
            "model.heads: [1, 2]",
            "no effect with model.name embedding_bag",
        ),
        ("org/bert", "embedding_bag", "data.ngrams: [1, 2]", "no effect with data.tokenizer"),
        ("words", "embedding_bag", "data.text: [a, b]", "data.text cannot be searched"),
        ("words", "bert", "", "embedding_bag"),
    ],
)
def test_what_has_no_effect_or_is_not_there_is_refused(
    tmp_path: Path, tokenizer: str, model: str, search: str, message: str
) -> None:
    with pytest.raises(StudyFileError) as refused:
        load(tmp_path, tokenizer, model, search)
    assert message in str(refused.value)
