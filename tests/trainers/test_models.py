"""Models are built for the data at hand; weights are loaded safely and strictly."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from recording_trial import sections
from torch import Tensor

from trainers.contract import DataError
from trainers.models import MODELS, build
from trainers.models.init import INITIALIZATIONS
from trainers.options import ImageModel


def options(**given: Any) -> dict[str, Any]:
    return ImageModel(**given).model_dump()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 20), (3, 4, 4)])
def test_own_models_fit_any_shape(name: str, shape: tuple[int, ...]) -> None:
    model = build(options(name=name, dropout=0.5), shape, 7)
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


def test_an_mlp_without_hidden_layers_is_linear() -> None:
    model = build(options(hidden=[]), (5,), 1)
    assert [tuple(p.shape) for p in model.parameters()] == [(1, 5), (1,)]


@pytest.mark.parametrize("name", MODELS)
def test_dropout_drops_in_training_only(name: str) -> None:
    model = build(options(name=name, dropout=0.5), (1, 8, 8), 3)
    images = torch.randn(4, 1, 8, 8)
    model(images)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (1, 16, 16)),
        ("resnet18", (3, 32, 32)),
        ("mobilenet_v3_small", (3, 32, 32)),
        ("squeezenet1_1", (3, 32, 32)),
        ("vit_b_16", (3, 32, 32)),
        ("googlenet", (3, 32, 32)),
    ],
)
def test_torchvision_models_put_out_the_classes(name: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = build(options(name=name), shape, 5)
        output = model(torch.zeros(2, *shape))
    assert isinstance(output, Tensor)
    assert output.shape == (2, 5)


def test_an_unknown_model_is_explained() -> None:
    with pytest.raises(DataError, match="expected mlp, cnn or a classification") as caught:
        build(options(name="resnt18"), (3, 32, 32), 5)
    assert caught.value.key == "model.name"
    assert "resnet18" in str(caught.value.hint)


def test_a_detection_model_is_no_classification_model() -> None:
    with pytest.raises(DataError):
        build(options(name="fasterrcnn_resnet50_fpn"), (3, 32, 32), 5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    torch.save(build(options(), (1, 8, 8), 10).state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_weights_are_loaded(file: Path) -> None:
    model = build(options(weights=str(file)), (1, 8, 8), 10)
    for key, tensor in torch.load(file, weights_only=True).items():
        assert torch.equal(model.state_dict()[key], tensor)


def test_a_head_for_other_classes_stays_as_drawn(file: Path) -> None:
    torch.manual_seed(2)
    drawn = build(options(), (1, 8, 8), 3).state_dict()
    torch.manual_seed(2)
    loaded = build(options(weights=str(file)), (1, 8, 8), 3).state_dict()
    saved = torch.load(file, weights_only=True)
    same_as_saved = [key for key in saved if torch.equal(loaded[key], saved[key])]
    same_as_drawn = [key for key in drawn if torch.equal(loaded[key], drawn[key])]
    assert same_as_saved == ["1.weight", "1.bias"]
    assert same_as_drawn == ["4.weight", "4.bias"]


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.touched,))


def write(path: Path, content: Any) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a state_dict"),
        (b"no weights", "is not a state_dict"),
        ([1, 2], "is not a state_dict but list"),
        ({"1.weight": 3}, "is not a state_dict but dict"),
        ({"1.weight": torch.zeros(64, 64)}, "1.bias is missing, 4.weight is missing, 4.bias"),
        ({"1.weight": torch.zeros(9, 64), "1.bias": torch.zeros(64), "5.bias": torch.zeros(1),
          "4.weight": torch.zeros(10, 64), "4.bias": torch.zeros(10)},
         "5.bias is not in the model, 1.weight is 9×64, the model's 64×64"),
    ],
)  # fmt: skip
def test_what_is_no_state_dict_of_the_model_is_refused(
    tmp_path: Path, content: Any, words: str
) -> None:
    path = tmp_path / "weights.pt"
    write(path, content)
    with pytest.raises(DataError, match=words) as caught:
        build(options(weights=str(path)), (1, 8, 8), 10)
    assert caught.value.key == "model.weights"


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing.pt cannot be read: No such file"):
        build(options(weights=str(tmp_path / "nothing.pt")), (1, 8, 8), 10)


@pytest.mark.parametrize("save", [torch.save, lambda what, path: write(path, pickle.dumps(what))])
def test_weights_run_no_code(tmp_path: Path, save: Any) -> None:
    save({"1.weight": Trap(tmp_path / "touched")}, tmp_path / "trap.pt")
    with pytest.raises(DataError, match="is not a state_dict"):
        build(options(weights=str(tmp_path / "trap.pt")), (1, 8, 8), 10)
    assert not (tmp_path / "touched").exists()


STDS = {
    "normal": 0.02,
    "uniform": 0.1 / 12**0.5,
    "xavier_normal": (2 / (64 + 256)) ** 0.5,
    "xavier_uniform": (2 / (64 + 256)) ** 0.5,
    "kaiming_normal": (2 / 64) ** 0.5,
    "kaiming_uniform": (2 / 64) ** 0.5,
    "orthogonal": 1 / 256**0.5,
    "default": 1 / (3 * 64) ** 0.5,
}


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_weights_are_drawn_as_asked(name: str) -> None:
    torch.manual_seed(0)
    options = sections("tabular", {"source": "wine"}, {"hidden": [256], "init": name})["model"]
    weight = build(options, (64,), 3)[0].weight
    assert weight.std().item() == pytest.approx(STDS[name], rel=0.05)
    bias = build(options, (64,), 3)[0].bias
    assert bool((bias == 0).all()) == (name != "default")
    if name == "orthogonal":
        torch.testing.assert_close(weight.T @ weight, torch.eye(64), atol=1e-5, rtol=0)
