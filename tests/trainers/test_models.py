"""Models are built for the data at hand; weights are loaded safely and strictly."""

from __future__ import annotations

import pickle
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recording_trial import sections
from torch import Tensor, nn
from torch.nn.functional import batch_norm, linear
from torchvision import models
from torchvision.models.resnet import BasicBlock
from torchvision.ops import StochasticDepth

from trainers.contract import DataError
from trainers.data.encode import Encoding
from trainers.models import OF_IMAGES, OF_TABLES, build, init
from trainers.models.blocks import blocks
from trainers.models.columns import Layout
from trainers.models.init import INITIALIZATIONS
from trainers.models.modules import ImageBlock
from trainers.options import ImageModel, TableModel


def options(**given: Any) -> dict[str, Any]:
    return ImageModel(**given).model_dump()


def of_table(**given: Any) -> dict[str, Any]:
    return TableModel(**given).model_dump()


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 20), (3, 4, 4), (1, 1, 1)])
def test_own_models_fit_any_shape(name: str, shape: tuple[int, ...]) -> None:
    model = build(options(name=name, dropout=0.5), shape, 7).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", OF_TABLES)
def test_models_of_tables_put_out_the_classes(name: str) -> None:
    assert build(of_table(name=name), (5,), 3)(torch.zeros(2, 5)).shape == (2, 3)


def test_an_mlp_without_hidden_layers_is_linear() -> None:
    model = build(options(hidden=[]), (5,), 1)
    assert [tuple(p.shape) for p in model.parameters()] == [(1, 5), (1,)]


@pytest.mark.parametrize(
    ("section", "shape"),
    [
        *((options(name=name, dropout=0.5), (1, 8, 8)) for name in OF_IMAGES),
        *((of_table(name=name, dropout=0.5), (5,)) for name in OF_TABLES),
    ],
    ids=lambda given: given.get("name") if isinstance(given, dict) else "",
)
def test_dropout_drops_in_training_only(section: Any, shape: tuple[int, ...]) -> None:
    model = build(section, shape, 3)
    inputs = torch.randn(4, *shape)
    model(inputs)
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


def test_the_resnet_of_cifar_has_the_papers_size() -> None:
    """ResNet-20: 0.27 million, of which 2,752 are in the shortcuts' convolutions."""
    model = build(options(name="resnet", channels=[16, 32, 64], blocks=3), (3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 269_722 + 2_752
    assert model[:-4](torch.zeros(1, 3, 32, 32)).shape == (1, 64, 8, 8)


def test_its_block_is_torchvisions_basic_block() -> None:
    shortcut = nn.Sequential(nn.Conv2d(4, 8, 1, 2, bias=False), nn.BatchNorm2d(8))
    theirs, ours = BasicBlock(4, 8, 2, shortcut), ImageBlock(4, 8, 2, 0.0)
    pairs = zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True)
    for their_own, own in pairs:
        own.copy_(their_own)
    images = torch.randn(3, 4, 9, 9)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)


def test_later_blocks_are_skipped_more_often() -> None:
    section = options(name="resnet", channels=[2, 2], blocks=2, stochastic_depth=0.8)
    model = build(section, (1, 4, 4), 3)
    depths = [m.p for m in model.modules() if isinstance(m, StochasticDepth)]
    assert depths == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_a_skipped_block_is_its_shortcut_for_that_image() -> None:
    torch.manual_seed(0)
    block, images = ImageBlock(2, 2, 1, 0.5), torch.rand(64, 2, 3, 3)
    skipped = (block(images) == images).flatten(1).all(1)
    assert 16 < skipped.sum() < 48
    assert not (block.eval()(images) == images).flatten(1).all(1).any()


def test_the_residual_mlp_is_the_papers() -> None:
    model = build(of_table(name="residual_mlp", width=6, blocks=1), (4,), 2)
    own, rows = dict(model.named_parameters()), torch.randn(16, 4)
    first = linear(rows, own["0.weight"], own["0.bias"])
    inner = linear(batch_norm(first, None, None, training=True), own["1.body.1.weight"])
    inner = (inner + own["1.body.1.bias"]).relu()
    block = first + linear(inner, own["1.body.4.weight"], own["1.body.4.bias"])
    last = batch_norm(block, None, None, training=True).relu()
    torch.testing.assert_close(model(rows), linear(last, own["4.weight"], own["4.bias"]))


FRAME = pd.DataFrame(
    {
        "size": [1.0, 2.0, np.nan, 4.0],
        "colour": ["red", "blue", None, "red"],
        "weight": [3.0, 1.0, 2.0, 5.0],
    }
)


def test_a_column_is_embedded_by_what_it_is() -> None:
    encoding = Encoding.fit(FRAME)
    rows = torch.from_numpy(encoding.encode(FRAME))  # size, is missing, red, blue, missing, weight
    section = of_table(name="embedding_mlp", embedding=3, frequencies=2, hidden=[])
    model = build(section, (rows.shape[1],), 2, encoding.plain())
    embeddings: Any = model[0]
    vectors = embeddings(rows)
    assert vectors.shape == (4, 3 + 3 + 3 + 1)
    angles = 2 * torch.pi * rows[:, 5:6] * embeddings.frequencies[1]
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    of_weight = (waves @ embeddings.weight[1] + embeddings.bias[1]).relu()
    torch.testing.assert_close(vectors[:, 3:6], of_weight)
    torch.testing.assert_close(vectors[:, 6:9], embeddings.tables[0][[0, 1, 2, 0]])
    assert vectors[:, 9].tolist() == [0, 0, 1, 0]


def test_rare_categories_have_a_vector_of_their_own() -> None:
    column = [f"name {i}" for i in range(70)]
    encoding = Encoding.fit(pd.DataFrame({"name": column, "x": range(70)}))
    layout = Layout.of(encoding.plain())
    assert layout == Layout(numbers=(65,), categories=((0, 65),))
    assert layout.inputs == 66


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_every_torchvision_model_can_be_built(name: str) -> None:
    size = 224 if name.startswith(("vit", "maxvit", "inception")) else 64
    size = 299 if name == "inception_v3" else size
    try:
        with torch.device("meta"):
            model = build(options(name=name), (3, size, size), 5)
            assert model(torch.zeros(2, 3, size, size)).shape == (2, 5)
    except NotImplementedError:  # it computes with its weights as it is made
        model = build(options(name=name), (3, size, size), 5)
    own = [key for block in blocks(model) for key in block.parameters]
    assert sorted(own) == sorted(key for key, _ in model.named_parameters())
    can_skip: Any = ImageModel.model_fields["stochastic_depth"].json_schema_extra
    skips = any(isinstance(layer, StochasticDepth) for layer in model.modules())
    assert skips == any(fnmatchcase(name, each) for each in can_skip["needs"]["model.name"])


def test_an_unknown_model_is_explained() -> None:
    with pytest.raises(DataError, match="expected mlp, cnn, resnet, a classification") as caught:
        build(options(name="resnt18"), (3, 32, 32), 5)
    assert caught.value.key == "model.name"
    assert "resnet18" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "residual_mlp"])
def test_a_model_that_is_not_of_images_is_none(name: str) -> None:
    with pytest.raises(DataError, match=f"got '{name}'"):
        build(options(name=name), (3, 32, 32), 5)


def dropped(model: nn.Module) -> list[float]:
    return [m.p for m in model.modules() if isinstance(m, nn.Dropout)]


def test_dropout_and_stochastic_depth_of_torchvisions_models() -> None:
    with torch.device("meta"):
        as_it_is = build(options(name="efficientnet_b0"), (3, 32, 32), 5)
        given = options(name="efficientnet_b0", dropout=0.0, stochastic_depth=0.4)
        changed = build(given, (3, 32, 32), 5)
    assert dropped(as_it_is) == [0.2]
    assert dropped(changed) == [0.0]
    depths = [m.p for m in changed.modules() if isinstance(m, StochasticDepth)]
    assert depths == pytest.approx([0.4 * i / 16 for i in range(1, 17)])


@pytest.mark.parametrize("setting", ["dropout", "stochastic_depth"])
def test_what_a_model_has_not_cannot_be_set(setting: str) -> None:
    with torch.device("meta"), pytest.raises(DataError, match="resnet18 has no") as caught:
        build(options(name="resnet18", **{setting: 0.1}), (3, 32, 32), 5)
    assert caught.value.key == f"model.{setting}"


def test_models_of_timm() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    ours = build(options(name="timm:resnet10t", dropout=0.1, stochastic_depth=0.2), (1, 32, 32), 4)
    assert ours(torch.zeros(2, 1, 32, 32)).shape == (2, 4)
    assert ours.drop_rate == 0.1
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t", num_classes=4, in_chans=1)
    for own, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(own, expected)
    with torch.device("meta"):  # its positions are for this size of images
        sized = build(options(name="timm:vit_tiny_patch16_224"), (3, 32, 32), 4)
        assert sized(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize(
    ("given", "key", "words"),
    [
        ({"name": "timm:resnet10"}, "model.name", "timm has no model 'resnet10'"),
        ({"name": "timm:vgg11", "stochastic_depth": 0.1}, "model.stochastic_depth", "takes no"),
    ],
)
def test_what_timm_has_not_is_explained(given: Any, key: str, words: str) -> None:
    pytest.importorskip("timm")
    with torch.device("meta"), pytest.raises(DataError, match=words) as caught:
        build(options(**given), (3, 32, 32), 5)
    assert caught.value.key == key


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


def test_safetensors_are_loaded(tmp_path: Path, file: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    own = torch.load(file, weights_only=True)
    safetensors.save_file(own, tmp_path / "w.safetensors")
    model = build(options(weights=str(tmp_path / "w.safetensors")), (1, 8, 8), 10)
    assert all(torch.equal(model.state_dict()[key], own[key]) for key in own)
    (tmp_path / "bad.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(DataError, match="bad.safetensors is not a state_dict"):
        build(options(weights=str(tmp_path / "bad.safetensors")), (1, 8, 8), 10)


def test_a_trials_model_is_loaded(tmp_path: Path, file: Path) -> None:
    own = torch.load(file, weights_only=True)
    kept = {"version": 1, "folds": [{"members": [{"model": {}, "weights": own}]}]}
    torch.save(kept, tmp_path / "model.pt")
    model = build(options(weights=str(tmp_path / "model.pt")), (1, 8, 8), 10)
    assert all(torch.equal(model.state_dict()[key], own[key]) for key in own)
    torch.save({"version": 1, "folds": kept["folds"] * 3}, tmp_path / "model.pt")
    with pytest.raises(DataError, match="model.pt holds 3 models"):
        build(options(weights=str(tmp_path / "model.pt")), (1, 8, 8), 10)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of downloaded weights; nothing can be downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


SQUEEZENET = {"name": "squeezenet1_1", "weights": "IMAGENET1K_V1"}


def test_weights_that_come_with_a_model_are_loaded_from_the_cache(hub: Path) -> None:
    there = models.squeezenet1_1().state_dict()
    torch.save(there, hub / "squeezenet1_1-b8a52dc0.pth")
    model = build(options(**SQUEEZENET), (3, 32, 32), 5)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, there[key]) != key.startswith("classifier"), key
    default = build(options(**{**SQUEEZENET, "weights": "DEFAULT"}), (3, 32, 32), 5)
    assert torch.equal(default.state_dict()["features.0.weight"], there["features.0.weight"])


def test_weights_that_cannot_be_had_say_where_they_belong(hub: Path) -> None:
    with pytest.raises(DataError, match="IMAGENET1K_V1 of squeezenet1_1 is not on this") as caught:
        build(options(**SQUEEZENET), (3, 32, 32), 5)
    assert str(hub / "squeezenet1_1-b8a52dc0.pth") in str(caught.value.hint)
    assert "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth" in str(
        caught.value.hint
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("squeezenet1_1", "comes with IMAGENET1K_V1 or DEFAULT; got IMAGENET1K_V9"),
        ("cnn", "no weights come with cnn"),
    ],
)
def test_unknown_names_of_weights_are_explained(name: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        build(options(name=name, weights="IMAGENET1K_V9"), (3, 32, 32), 5)
    assert caught.value.key == "model.weights"


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


THEIRS = {
    "normal": lambda weight: nn.init.normal_(weight, std=0.02),
    "uniform": lambda weight: nn.init.uniform_(weight, -0.05, 0.05),
    "xavier_normal": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "kaiming_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "kaiming_uniform": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "orthogonal": nn.init.orthogonal_,
}


@pytest.mark.parametrize("name", [name for name in INITIALIZATIONS if name != "default"])
def test_weights_are_torchs_own_from_the_same_generator(name: str) -> None:
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    torch.manual_seed(3)
    init.draw(ours, name)
    torch.manual_seed(3)
    for layer, shape in ((ours[0], (4, 3, 3, 3)), (ours[3], (2, 4))):
        assert torch.equal(layer.weight, THEIRS[name](torch.empty(shape)))
        assert not layer.bias.any()
    assert bool((ours[1].weight == 1).all())
