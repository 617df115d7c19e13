"""Texts: what is learned of which rows, models of token ids, and what is kept of them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recording_trial import RecordingTrial, sections

from trainers import test_split
from trainers.contract import DataError, Epoch, Trial
from trainers.data import Dataset, load
from trainers.data.examples import table
from trainers.data.tokens import Words, of
from trainers.loop import fit_together
from trainers.models import build
from trainers.options import TextData
from trainers.registry import prepare, why_in_turn
from trainers.saved import Model, TextRows
from trainers.unseen import batches, table_rows

Run = Callable[..., RecordingTrial]

MESSAGES = Path(__file__).parent.parent.parent / "studies" / "messages.csv"
SHIPPED = {"source": str(MESSAGES), "text": "message", "target": "topic"}
GOOD = ["a fine day", "so very fine", "fine and good", "good, good!", "what a good day"]
BAD = ["a bad day", "so very bad", "bad and poor", "poor, poor!", "what a poor day"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """20 short texts, of which every other is bad."""
    path = tmp_path / "t.csv"
    rows = [
        pair for good, bad in zip(GOOD, BAD, strict=True) for pair in ((good, "g"), (bad, "b"))
    ]
    pd.DataFrame(rows * 2, columns=["text", "target"]).to_csv(path, index=False)
    return path


def data(file: Path, **more: Any) -> dict[str, Any]:
    return {"source": str(file), "text": "text", "target": "target", "min_count": 1, **more}


def loaded(section: Mapping[str, Any], tmp_path: Path, **more: Any) -> Dataset:
    return load(sections("text_classifier", section)["data"], tmp_path / "cache", **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``train/CLASS/*.txt``, and ``test/CLASS/*.txt``."""
    for side, count in (("train", 5), ("test", 1)):
        for name, texts in (("bad", BAD), ("good", GOOD)):
            (tmp_path / "texts" / side / name).mkdir(parents=True)
            for number, text in enumerate(texts[:count]):
                (tmp_path / "texts" / side / name / f"{number}.txt").write_text(text)
    return tmp_path / "texts"


# -- tokens


@pytest.mark.parametrize(
    ("options", "text", "tokens"),
    [
        ({}, "It's  Fine.", ["it", "'", "s", "fine", "."]),
        ({"lowercase": False}, "It Is", ["It", "Is"]),
        ({"max_length": 2}, "one two three", ["one", "two"]),
        ({"ngrams": 2}, "one two three", ["one", "two", "one two", "three", "two three"]),
        ({"ngrams": 3, "max_length": 5}, "a b c", ["a", "b", "a b", "c", "b c"]),
        ({"tokenizer": "characters"}, " a b\n", ["a", " ", "b"]),
        ({"tokenizer": "characters", "ngrams": 2}, "abc", ["a", "b", "ab", "c", "bc"]),
        ({}, "cafe\u0301 ÉTÉ", ["café", "été"]),
    ],
)
def test_a_text_is_split(options: dict[str, Any], text: str, tokens: list[str]) -> None:
    section = TextData(source="t.csv", min_count=1, **options)
    assert Words.fit(section, [text]).split(text) == tokens


def test_the_most_frequent_words_are_known_whatever_the_order_of_the_texts() -> None:
    texts = ["b a", "a c b", "a", "d"]
    section = TextData(source="t.csv", min_count=2, max_words=5)
    words = Words.fit(section, texts)
    assert words.words == ("a", "b")
    assert Words.fit(section, texts[::-1]) == words
    assert Words.fit(section.model_copy(update={"max_words": 1}), texts).words == ("a",)
    assert words.encode(["a b c", "", "b"]).tolist() == [[2, 3, 1], [1, 0, 0], [3, 0, 0]]
    assert of(json.loads(json.dumps(words.plain()))) == words


@pytest.mark.parametrize("more", [{}, {"folds": 3}, {"folds": 2, "fold_repeats": 2}])
def test_words_of_validation_and_test_rows_alone_are_unknown(
    tmp_path: Path, more: dict[str, int]
) -> None:
    path = tmp_path / "t.csv"
    texts = [f"word{row} all" for row in range(30)]
    pd.DataFrame({"text": texts, "target": ["a", "b"] * 15}).to_csv(path, index=False)
    dataset = loaded(data(path, **more), tmp_path)
    for split in dataset.splits:
        assert isinstance(split.encoding, Mapping)
        trained = {f"word{dataset.ids[row]}" for row in split.train}
        assert set(split.encoding["words"]) == trained | {"all"}
        assert (split.inputs[split.validation, 0] == 1).all()
        assert (split.inputs[split.train, 0] > 1).all()
        assert split.inputs.dtype == torch.int32


# -- models


@pytest.mark.parametrize("name", ["embedding_bag", "transformer"])
def test_padding_changes_nothing(name: str) -> None:
    encoding = {"tokens": 50, "length": 40, "tokenizer": "words"}
    options = {"name": name, "width": 8, "hidden": [4], "heads": 2, "layers": 2, "dropout": 0.0}
    torch.manual_seed(0)
    model = build({**options, "init": "default"}, (9,), 3, encoding)
    tokens = torch.randint(1, 50, (4, 9), dtype=torch.int32)
    for row, length in enumerate([9, 1, 5, 7]):
        tokens[row, length:] = 0
    longer = torch.cat([tokens, torch.zeros(4, 20, dtype=torch.int32)], 1)
    for trains in (False, True):
        model.train(trains)
        together = model(tokens)
        torch.testing.assert_close(model(longer), together, rtol=0, atol=1e-6)
        for row, length in enumerate([9, 1, 5, 7]):
            alone = model(tokens[row : row + 1, :length])
            torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=1e-6)


def test_an_embedding_bag_is_the_mean_of_what_is_no_padding() -> None:
    options = {"name": "embedding_bag", "width": 4, "hidden": [], "dropout": 0.0}
    encoding = {"tokens": 9, "length": 5, "tokenizer": "words"}
    model = build({**options, "init": "default"}, (5,), 2, encoding)
    assert isinstance(model, torch.nn.Sequential)
    bag, _, linear = model
    mean = bag.weight[[3, 5, 3]].mean(0, keepdim=True)  # type: ignore[index]
    said = model(torch.tensor([[3, 5, 3, 0, 0]], dtype=torch.int32))
    torch.testing.assert_close(said, linear(mean))


def test_a_transformer_hears_the_order_of_words() -> None:
    options = {"name": "transformer", "width": 8, "heads": 2, "layers": 1, "dropout": 0.0}
    encoding = {"tokens": 9, "length": 5, "tokenizer": "words"}
    model = build({**options, "init": "default"}, (5,), 2, encoding).eval()
    a, b = (model(torch.tensor([ids], dtype=torch.int32)) for ids in ([2, 3, 4], [4, 3, 2]))
    assert (a - b).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({"name": "embedding_bag"}, {"epochs": 8, "lr": 0.03}),
        ({"name": "transformer", "width": 32, "layers": 1}, {"epochs": 6, "lr": 5e-3}),
    ],
    ids=["embedding_bag", "transformer"],
)
def test_the_shipped_messages_are_learned(run: Run, model: Any, train: Any) -> None:
    trial = run("text_classifier", SHIPPED, model, train)
    assert trial.last["val/accuracy"] > 0.9
    assert trial.predictions is not None
    assert trial.predictions.output.shape == (96, 4)


@pytest.mark.parametrize("name", ["embedding_bag", "transformer"])
def test_a_trial_is_the_same_again_and_when_it_was_interrupted(
    run: Run, file: Path, name: str
) -> None:
    model = {"name": name, "width": 8, "dropout": 0.3, "heads": 2, "layers": 1}
    args = ("text_classifier", data(file), model, {"epochs": 4, "batch_size": 4})
    whole, again = run(*args), run(*args)
    assert again.epochs == whole.epochs
    stopped = run(*args, stop_after=2)
    resumed = run(*args, saved=stopped.saved)
    assert {**stopped.epochs, **resumed.epochs} == whole.epochs
    assert run(*args, seed=1).epochs != whole.epochs


@pytest.mark.parametrize(
    "ensemble",
    [
        {"method": "bagging", "size": 2, "members": [{"dropout": 0.1}, {"name": "transformer"}]},
        {"method": "stacking", "size": 2, "inner_folds": 2},
        {"method": "boosting", "size": 2},
        {"method": "snapshot", "size": 2},
    ],
    ids=lambda ensemble: ensemble["method"],
)
def test_ensembles_of_texts_predict_again_as_they_did(
    tmp_path: Path, file: Path, ensemble: Mapping[str, Any]
) -> None:
    model, said, dataset = kept(tmp_path, data(file), {"width": 8}, ensemble=ensemble)
    again = model.output(table_rows(pd.read_csv(file), [model], "it"))
    ids = dataset.ids[dataset.validation].numpy()
    np.testing.assert_allclose(again[ids], said, rtol=0, atol=1e-6)


def test_why_it_is_trained_in_turn_is_said() -> None:
    settings = {"model.name": "embedding_bag"}
    assert why_in_turn("text_classifier", settings) == (
        "lanes have no rule for model.name embedding_bag"
    )


# -- what is kept


class Last:
    """`trainers.contract.Trials` of one trial, which keeps its last epoch and its model."""

    def __init__(self, trial: Trial) -> None:
        self.waiting = [trial]
        self.epoch: Epoch | None = None
        self.model: Mapping[str, Any] = {}

    def begin(self) -> list[Trial]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def report(self, epochs: Sequence[Epoch]) -> list[int]:
        (self.epoch,) = epochs
        assert self.epoch.model is not None
        self.model = self.epoch.model()
        return [0] if self.epoch.last else []

    def finish(self, trial: Trial) -> None:
        raise AssertionError

    def fail(self, trial: Trial, error: Exception) -> None:
        raise error


def kept(
    tmp_path: Path,
    section: Mapping[str, Any],
    model: Mapping[str, Any],
    ensemble: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
) -> tuple[Model, np.ndarray, Dataset]:
    """A trained model as it is read again, what it said of the validation rows, and the data."""
    options = {"epochs": 2, "batch_size": 4, **(train or {})}
    params = sections("text_classifier", section, model, options, ensemble)
    dataset = load(params["data"], tmp_path / "cache")
    prepare("text_classifier", params, dataset)
    last = Last(RecordingTrial(params, dataset))
    fit_together(last)
    assert last.epoch is not None
    assert last.epoch.predictions is not None
    buffer = io.BytesIO()
    torch.save(dict(last.model), buffer)
    buffer.seek(0)
    again = Model.of(torch.load(buffer, weights_only=True))
    return again, last.epoch.predictions.output, dataset


@pytest.mark.parametrize("more", [{}, {"folds": 2}], ids=["one split", "folds"])
def test_a_kept_model_predicts_rows_of_files_as_it_did(
    tmp_path: Path, file: Path, more: dict[str, int]
) -> None:
    model, said, dataset = kept(tmp_path, data(file, **more), {"width": 8})
    assert (model.columns, model.targets, model.kind) == (("text",), ("target",), "text")
    (batch,) = batches([file], [model])
    assert batch.target is not None
    of_folds = [
        model.fold_output(fold, batch.rows)[dataset.ids[split.validation].numpy()]
        for fold, split in zip(model.folds, dataset.splits, strict=True)
    ]
    np.testing.assert_allclose(np.concatenate(of_folds), said, rtol=0, atol=1e-6)
    assert [model.classes[number] for number in batch.target[:2]] == ["g", "b"]  # type: ignore[index]


def test_text_files_are_predicted_and_bad_ones_named(tmp_path: Path, folder: Path) -> None:
    section = {"source": str(folder), "min_count": 1}
    model, *_ = kept(tmp_path, section, {"width": 8})
    (folder / "test" / "latin.txt").write_bytes("fine\nété".encode("latin-1"))
    (folder / "test" / "notes.md").write_text("not one")
    (batch,) = batches([folder / "test"], [model])
    assert [Path(str(name)).name for name in batch.ids] == ["0.txt", "0.txt"]
    assert batch.bad == {f"{folder}/test/latin.txt": "not UTF-8 in line 2"}
    as_table = table_rows(pd.DataFrame({"text": [BAD[0], GOOD[0]]}), [model], "it")
    assert np.array_equal(model.output(batch.rows), model.output(as_table))


def test_a_text_of_unknown_words_and_one_that_is_missing_are_alike(
    tmp_path: Path, file: Path
) -> None:
    model, *_ = kept(tmp_path, data(file), {"width": 8})
    frame = pd.DataFrame({"text": ["zzz", "", None, float("nan")]})
    said = model.output(table_rows(frame, [model], "it"))
    assert np.isfinite(said).all()
    assert (said == said[0]).all()
    with pytest.raises(DataError, match=r"lacks 1 of the 1 columns .*'text'"):
        table_rows(pd.DataFrame({"texts": ["x"]}), [model], "it")


def test_the_test_rows_are_those_that_nothing_else_has(tmp_path: Path, file: Path) -> None:
    model, _, dataset = kept(tmp_path, data(file), {"width": 8})
    batch = test_split.rows(model.data, [model])
    assert sorted([*batch.ids, *dataset.ids.tolist()]) == list(range(20))
    assert len(batch.rows) == len(batch.ids) == 4


def test_examples_are_texts_as_they_are_in_the_source(tmp_path: Path, file: Path) -> None:
    dataset = loaded(data(file), tmp_path, examples=3)
    found = table(dataset, 3)
    assert found is not None
    assert found.column_names == ["id", "text", "target"]
    source = pd.read_csv(file)
    assert [row["text"] for row in found.to_pylist()] == list(source.text[found["id"].to_pylist()])


# -- sources


def test_a_folder_is_divided_by_its_folders(tmp_path: Path, folder: Path) -> None:
    section = {"source": str(folder), "min_count": 1}
    dataset = loaded(section, tmp_path, examples=10)
    about = dataset.summary
    assert (about["rows"], about["test"], about["train"], about["validation"]) == (12, 2, 8, 2)
    assert dataset.classes == ("bad", "good")
    assert dataset.originals is not None
    assert set(dataset.originals["file"]) < {
        f"train/{c}/{n}.txt" for c in dataset.classes for n in range(5)
    }
    changed = folder / "train" / "bad" / "0.txt"
    changed.write_text("something else")
    assert loaded(section, tmp_path).summary["fingerprint"] != about["fingerprint"]


def test_texts_of_a_group_are_on_one_side(tmp_path: Path, file: Path) -> None:
    frame = pd.read_csv(file).assign(who=np.arange(20) // 4)
    frame.to_csv(file, index=False)
    dataset = loaded(data(file, group="who"), tmp_path)
    of = dataset.ids // 4
    assert not set(of[dataset.train].tolist()) & set(of[dataset.validation].tolist())


def test_a_text_may_look_like_anything(tmp_path: Path, file: Path) -> None:
    frame = pd.read_csv(file)
    frame.loc[:3, "text"] = ["NA", "null", "12", "true"]
    frame.to_csv(file, index=False)
    dataset = loaded(data(file), tmp_path)
    assert dataset.summary["skipped"] == []
    model, *_ = kept(tmp_path, data(file), {"width": 8})
    (batch,) = batches([file], [model])
    assert isinstance(batch.rows, TextRows)
    assert list(batch.rows.texts) == list(frame.text)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_without_a_text_are_refused_or_left_out(
    tmp_path: Path, file: Path, suffix: str
) -> None:
    frame = pd.read_csv(file)
    frame.loc[3, "text"] = None
    frame.loc[7, "text"] = " "
    path = tmp_path / f"bad.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    with pytest.raises(
        DataError, match=r"^2 of 20 texts cannot be used: row 3 \(no text\), row 7"
    ):
        loaded(data(path), tmp_path)
    dataset = loaded(data(path, skip_bad=True), tmp_path)
    assert dataset.summary["rows"] == 18
    assert not {3, 7} & set(dataset.ids.tolist())


def test_bad_files_are_named_or_left_out(tmp_path: Path, folder: Path) -> None:
    (folder / "train" / "bad" / "empty.txt").write_text("\n")
    (folder / "train" / "bad" / "latin.txt").write_bytes(b"a\n\xe9")
    (folder / "train" / "bad" / "page.html").write_text("<p>")
    (folder / "stray.txt").write_text("x")
    section = {"source": str(folder), "min_count": 1}
    with pytest.raises(DataError) as raised:
        loaded(section, tmp_path)
    for said in (
        "4 of 16 texts cannot be used",
        "train/bad/empty.txt (empty)",
        "train/bad/latin.txt (not UTF-8 in line 2)",
        "train/bad/page.html (not a .txt file)",
        "stray.txt (in no class's folder)",
    ):
        assert said in str(raised.value)
    assert loaded({**section, "skip_bad": True}, tmp_path).summary["rows"] == 12


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"text": None}, "data.text", "say which column has the texts"),
        ({"text": "txt"}, "data.text", "there is no column 'txt'"),
        ({"text": "target"}, "data.text", "'target' is the target"),
        ({"target": None}, "data.target", "say which column to predict"),
        ({"min_count": 99}, "data.min_count", "none of the words is there 99 times"),
        ({"source": "nowhere.csv"}, "data.source", "there is no nowhere.csv"),
        ({"source": __file__}, "data.source", "expected a folder of texts, or a .csv"),
    ],
)
def test_what_is_wrong_with_the_data_is_said(
    tmp_path: Path, file: Path, change: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as raised:
        loaded({**data(file), **change}, tmp_path)
    assert raised.value.key == key


def test_columns_of_a_folder_and_a_single_class_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="is a folder") as raised:
        loaded({"source": str(folder), "group": "who"}, tmp_path)
    assert raised.value.key == "data.group"
    shutil.rmtree(folder / "train" / "bad")
    with pytest.raises(DataError, match="a folder of texts for each of at least two classes"):
        loaded({"source": str(folder)}, tmp_path)


@pytest.mark.parametrize(
    ("model", "key", "message"),
    [
        ({"name": "transformer", "width": 30, "heads": 4}, "model.width", "4 heads cannot share"),
        ({"name": "huggingface"}, "data.tokenizer", "is words; huggingface is the model"),
    ],
)
def test_what_is_wrong_with_the_model_is_said_before_there_is_a_study(
    tmp_path: Path, file: Path, model: dict[str, Any], key: str, message: str
) -> None:
    params = sections("text_classifier", data(file), model, {"batch_size": 4})
    with pytest.raises(DataError, match=message) as raised:
        prepare("text_classifier", params, load(params["data"], tmp_path))
    assert raised.value.key == key


# -- Hugging Face


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A very small BERT with random weights, and a tokenizer of a few words."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "bert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "day", "fine", "go", "##od", "bad"]
    ids = {word: number for number, word in enumerate(words)}
    transformers.BertTokenizer(vocab=ids).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        num_labels=5,
    )
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.slow  # importing transformers alone takes seconds
def test_a_hugging_face_model_trains_from_a_folder_and_predicts_without_it(
    run: Run, tmp_path: Path, file: Path, bert: Path
) -> None:
    section = data(file, tokenizer=str(bert), max_length=6)
    model = {"name": "huggingface"}
    train = {"epochs": 12, "batch_size": 4, "lr": 1e-2}
    trial = run("text_classifier", section, model, train)
    assert trial.last["train/loss"] < 0.2 < trial.epochs[1]["train/loss"]
    assert run("text_classifier", section, model, train).epochs == trial.epochs

    dataset = loaded(section, tmp_path)
    ids = dataset.ids.tolist()
    assert dataset.inputs[ids.index(0)].tolist() == [3, 6, 8, 7, 4, 0]  # each one more than BERT's
    assert dataset.shape == (6,)
    params = sections("text_classifier", section, model)
    torch.manual_seed(0)
    built = build(params["model"], (6,), 2, dataset.splits[0].encoding)
    import transformers

    theirs = transformers.BertForSequenceClassification.from_pretrained(bert)
    own = built.state_dict()
    for name, tensor in theirs.bert.state_dict().items():
        assert torch.equal(own[f"network.bert.{name}"], tensor)
    torch.manual_seed(1)
    anew = build({**params["model"], "weights": None}, (6,), 2, dataset.splits[0].encoding)
    table = "network.bert.embeddings.word_embeddings.weight"
    assert not torch.equal(anew.state_dict()[table], own[table])
    theirs.classifier = built.eval().network.classifier
    words = theirs.eval()(torch.tensor([[2, 5, 7, 6, 3]])).logits
    torch.testing.assert_close(built(dataset.inputs[[ids.index(0)]]), words)

    again, said, dataset = kept(tmp_path, section, model, train={"freeze": "backbone"})
    learned = again.folds[0].members[0].state_dict()
    assert all(torch.equal(learned[n], t) for n, t in own.items() if "classifier" not in n)
    shutil.rmtree(bert)
    output = again.output(table_rows(pd.read_csv(file), [again], "it"))
    np.testing.assert_allclose(output[dataset.ids[dataset.validation].numpy()], said, atol=1e-6)


@pytest.mark.slow
def test_other_models_read_subwords_too_and_what_is_no_classifier_is_said(
    run: Run, tmp_path: Path, file: Path, bert: Path
) -> None:
    section = data(file, tokenizer=str(bert))
    trial = run(
        "text_classifier", section, {"width": 8}, {"epochs": 30, "batch_size": 4, "lr": 0.1}
    )
    assert trial.last["val/accuracy"] == 1
    for path in bert.glob("model*"):
        path.unlink()
    params = sections("text_classifier", section, {"name": "huggingface"}, {"batch_size": 4})
    with pytest.raises(DataError, match="there are no weights in") as raised:
        prepare("text_classifier", params, load(params["data"], tmp_path))
    assert (raised.value.key, raised.value.hint) == (
        "model.weights",
        "weights: null draws new ones",
    )
    params["model"]["weights"] = None
    prepare("text_classifier", params, load(params["data"], tmp_path))
    with pytest.raises(DataError, match="expected words, characters, or a folder") as raised:
        loaded(data(file, tokenizer=str(tmp_path / "nowhere")), tmp_path)
    assert raised.value.key == "data.tokenizer"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["embedding_bag", "transformer"])
def test_the_same_seed_gives_the_same_metrics_on_a_gpu(run: Run, name: str) -> None:
    model, train = {"name": name, "dropout": 0.2}, {"epochs": 6, "lr": 5e-3}
    first = run("text_classifier", SHIPPED, model, train, device="cuda")
    assert run("text_classifier", SHIPPED, model, train, device="cuda").epochs == first.epochs
    assert first.last["val/accuracy"] > 0.9
