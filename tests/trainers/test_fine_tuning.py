"""What is frozen stays as it is to the bit, and learning rates are those of the blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recording_trial import RecordingTrial, sections
from torch import Tensor, nn

from trainers import fine_tuning
from trainers.contract import DataError, StopTraining
from trainers.data import Dataset, load
from trainers.ensembles.members import Part
from trainers.in_turn import InTurn
from trainers.loop import fit
from trainers.models import build
from trainers.models.blocks import blocks
from trainers.options import ImageModel
from trainers.registry import prepare

DATA = {"source": "digits", "validation": 0.05, "test": 0.9}
CNN = {"name": "cnn", "channels": [4, 6], "dropout": 0.2}
ONE_STEP = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.1, "batch_size": 256}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    section = sections("image_classifier", DATA)["data"]
    return load(section, tmp_path_factory.mktemp("cache"))


def begun(
    digits: Dataset, train: dict[str, Any], model: dict[str, Any] = CNN
) -> tuple[InTurn, nn.Module]:
    """A team of one model, in turn."""
    params = sections("image_classifier", DATA, model, {"batch_size": 32, **train})
    lane = Part(params, digits, 0, 7).lane(0)
    return InTurn([lane]), lane.model


def now(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    """Which children of the model are not as they were."""
    after = model.state_dict()
    return {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}


ALL, BACKBONE = {"0", "1", "4", "5", "11"}, {"0", "1", "4", "5"}


@pytest.mark.parametrize(
    ("freeze", "learning"),
    [(None, ALL), ("backbone", ALL - BACKBONE), (1, {"4", "5", "11"}), ("4", {"11"})],
)
def test_what_is_frozen_stays_and_the_rest_learns(
    digits: Dataset, freeze: Any, learning: set[str]
) -> None:
    """Batch norm's running statistics, too, are parts of what is frozen."""
    team, model = begun(digits, {"freeze": freeze, "weight_decay": 0.1, "l1": 0.01})
    before = now(model)
    team.train()
    assert changed(before, model) == learning


def test_a_frozen_block_is_as_in_evaluation(digits: Dataset) -> None:
    team, model = begun(digits, {"freeze": "backbone"})
    team.train()
    assert [layer.training for layer in (model[0], model[1], model[5])] == [False] * 3
    assert model[10].training  # dropout before the head is none of the blocks
    team.validate()
    model.train()
    fine_tuning.Frozen(model, {"freeze": "backbone", "unfreeze_epoch": 2}).begin(2)
    assert all(layer.training for layer in model)


def test_it_learns_from_the_epoch_on_in_which_it_is_unfrozen(digits: Dataset) -> None:
    team, model = begun(digits, {"freeze": "backbone", "unfreeze_epoch": 3})
    found = []
    for _ in range(3):
        before = now(model)
        team.train()
        found.append(changed(before, model))
    assert found == [{"11"}, {"11"}, ALL]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_resumed_around_the_unfreezing_it_goes_on_to_the_bit(
    digits: Dataset, optimizer: str
) -> None:
    train = {"freeze": "backbone", "unfreeze_epoch": 3, "epochs": 4, "optimizer": optimizer}
    train |= {"lr_backbone": 1e-3, "layer_decay": 0.5, "ema": 0.9, "lr": 1e-2}
    params = sections("image_classifier", DATA, CNN, {"batch_size": 32, **train})
    whole = RecordingTrial(params, digits)
    fit(whole)
    for stop in (1, 2, 3):
        first = RecordingTrial(params, digits, stop_after=stop)
        with pytest.raises(StopTraining):
            fit(first)
        again = RecordingTrial(params, digits, saved=first.saved)
        fit(again)
        assert again.epochs == {e: m for e, m in whole.epochs.items() if e > stop}


def steps(digits: Dataset, train: dict[str, Any]) -> dict[str, Tensor]:
    """How far each parameter goes in one step of plain SGD."""
    team, model = begun(digits, {**ONE_STEP, **train}, {**CNN, "dropout": 0.0})
    before = now(model)
    team.train()
    return {key: p.detach() - before[key] for key, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("train", "factors"),
    [
        ({"lr_backbone": 0.02}, (0.2, 0.2, 1)),
        ({"layer_decay": 0.5}, (0.25, 0.5, 1)),
        ({"layer_decay": 0.5, "lr_backbone": 0.05}, (0.125, 0.25, 1)),
    ],
)
def test_each_block_has_its_own_learning_rate(
    digits: Dataset, train: dict[str, Any], factors: tuple[float, ...]
) -> None:
    plain, own = steps(digits, {}), steps(digits, train)
    for names, factor in zip(({"0", "1"}, {"4", "5"}, {"11"}), factors, strict=True):
        for key in plain:
            if key.split(".")[0] in names:
                torch.testing.assert_close(own[key], plain[key] * factor, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "first", "before_head", "head"),
    [
        ("cnn", "0", "8", "15"),
        ("resnet18", "conv1", "layer4.1", "fc"),
        ("vit_b_16", "conv_proj", "encoder.layers.encoder_layer_11", "heads.head"),
        ("convnext_tiny", "features.0", "features.7.2", "classifier.2"),
    ],
)
def test_blocks_are_those_of_the_model(name: str, first: str, before_head: str, head: str) -> None:
    with torch.device("meta"):
        model = build(ImageModel(name=name).model_dump(), (3, 32, 32), 5)
    found = blocks(model)
    assert [found[0].name, found[-2].name, found[-1].name] == [first, before_head, head]
    own = [key for block in found for key in block.parameters]
    assert sorted(own) == sorted(key for key, _ in model.named_parameters())


def test_a_name_freezes_up_to_all_below_it() -> None:
    with torch.device("meta"):
        model = build(ImageModel(name="resnet18").model_dump(), (3, 32, 32), 5)
    names = [block.name for block in fine_tuning.frozen(model, "layer2")]
    assert names == ["conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1"]


@pytest.mark.parametrize(
    ("model", "train", "key", "words"),
    [
        (CNN, {"freeze": 3}, "freeze", "cannot be 3: before its head, 11, the model has 2 blocks"),
        (CNN, {"freeze": "11"}, "freeze", "cannot be 11"),
        (CNN, {"freeze": "backbon"}, "freeze", "no block 'backbon'"),
        ({"hidden": []}, {"freeze": "backbone"}, "freeze", "nothing but its head"),
        (CNN, {"unfreeze_epoch": 2}, "unfreeze_epoch", "nothing is frozen"),
        (CNN, {"freeze": 1, "unfreeze_epoch": 9}, "unfreeze_epoch", "there are 4 epochs; got 9"),
        ({"hidden": []}, {"lr_backbone": 0.1}, "lr_backbone", "nothing but its head"),
        ({"hidden": []}, {"layer_decay": 0.5}, "layer_decay", "nothing but its head"),
        (CNN, {"freeze": "backbone", "lr_backbone": 0.1}, "lr_backbone", "all blocks but"),
        (CNN, {"freeze": 2, "layer_decay": 0.5}, "layer_decay", "all blocks but"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    digits: Dataset, model: dict[str, Any], train: dict[str, Any], key: str, words: str
) -> None:
    params = sections("image_classifier", DATA, model, {"epochs": 4, **train})
    with pytest.raises(DataError, match=words) as caught:
        prepare("image_classifier", params, digits)
    assert caught.value.key == f"train.{key}"


def test_the_closest_name_of_a_block_is_suggested() -> None:
    with torch.device("meta"):
        model = build(ImageModel(name="resnet18").model_dump(), (3, 32, 32), 5)
    with pytest.raises(DataError) as caught:
        fine_tuning.frozen(model, "layr2")
    assert caught.value.hint == "did you mean 'layer2'?"
