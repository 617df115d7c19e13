"""Augmentation: each operation as torchvision has it, each row by itself, in both engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from trainers.augment import Drawn, colour, draw, geometry, policies
from trainers.augment.draws import neutral
from trainers.contract import DataError
from trainers.data import Dataset, Split, load
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Stack
from trainers.models import build
from trainers.options import Augment, ImageModel, ImageTrain
from trainers.registry import TRAINERS
from trainers.schedules import Constant
from trainers.seeds import seed_everything

BILINEAR = InterpolationMode.BILINEAR
SHAPE = (3, 12, 10)
EVERYTHING: dict[str, Any] = {
    "flip": 0.5,
    "flip_vertical": 0.5,
    "crop": 3,
    "resized_crop": 0.3,
    "rotation": 30,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 0.1,
    "policy": "randaugment",
    "erase": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
}


def settings(**augment: Any) -> dict[str, Any]:
    return Augment(**augment).model_dump(mode="json")


def images(count: int = 6, shape: Sequence[int] = SHAPE) -> Tensor:
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(0))


def drawn(rows: int, shape: tuple[int, ...] = SHAPE, epoch: int = 1, **augment: Any) -> Drawn:
    found = draw(settings(**augment), [rows], shape, (3, 0), epoch)
    assert found is not None
    return found


# -- operations, against torchvision's on one image at a time

MAGNITUDES = {
    "Posterize": [2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
    "Rotate": [10.0, -35.0, 90.0, 5.0, 130.0, -1.0],
    "TranslateX": [1.5, -2.2, 4.0, -9.0, 0.3, 31.0],
    "TranslateY": [1.5, -2.2, 4.0, -9.0, 0.3, 31.0],
    "Solarize": [0.0, 0.2, 0.5, 0.7, 0.9, 1.0],
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_an_operation_of_a_policy_is_torchvisions(name: str, channels: int) -> None:
    x, by = images(shape=(channels, 12, 10)), MAGNITUDES.get(name, [0.1, -0.3, 0.9, -0.9, 0.99, 0])
    theirs = v2.RandAugment(interpolation=BILINEAR)
    wanted = [
        theirs._apply_image_or_video_transform(
            one, name, int(m) if name == "Posterize" else m, BILINEAR, theirs._fill
        )
        for one, m in zip(x, by, strict=True)
    ]
    found = policies.OPERATIONS[name](x, torch.tensor(by))
    torch.testing.assert_close(found, torch.stack(wanted), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("policy", "theirs"),
    [("randaugment", v2.RandAugment), ("trivialaugment", v2.TrivialAugmentWide)],
)
def test_a_policy_has_torchvisions_operations_and_magnitudes(policy: str, theirs: Any) -> None:
    table = policies.magnitudes(policy, *SHAPE[1:])
    space = theirs._AUGMENTATION_SPACE
    assert list(space) == list(policies.OPERATIONS)
    for (name, (magnitudes, signed)), own in zip(space.items(), table, strict=True):
        wanted = magnitudes(policies.BINS, *SHAPE[1:])
        np.testing.assert_allclose(own, 0 if wanted is None else wanted, atol=1e-5)
        assert signed == (name not in policies.WITHOUT_SIGN)


def test_geometry_is_torchvisions() -> None:
    x = images()
    degrees = torch.tensor([10.0, -35.0, 90.0, 5.0, 170.0, -1.0])
    rotated = [
        functional.rotate(one, float(d), BILINEAR) for one, d in zip(x, degrees, strict=True)
    ]
    torch.testing.assert_close(
        geometry.rotated(x, degrees), torch.stack(rotated), rtol=0, atol=1e-5
    )
    boxes = torch.tensor(
        [[0, 0, 12, 10], [2, 3, 5, 4], [1, 1, 1, 1], [6, 0, 6, 10], [0, 5, 12, 5], [3, 2, 8, 7]]
    )
    resized = [
        functional.resized_crop(o, *b, list(SHAPE[1:]))
        for o, b in zip(x, boxes.tolist(), strict=True)
    ]
    torch.testing.assert_close(geometry.resized(x, boxes), torch.stack(resized), rtol=0, atol=1e-5)
    shift, pixels = torch.tensor([[0, 0], [1, 2], [-3, 4], [4, -4], [-1, -1], [0, 3]]), x * 255
    pixels = pixels.to(torch.uint8)
    cropped = [
        functional.crop(functional.pad(one, [4] * 4), 4 + down, 4 + right, *SHAPE[1:])
        for one, (down, right) in zip(pixels, shift.tolist(), strict=True)
    ]
    assert geometry.cropped(pixels, shift).equal(torch.stack(cropped))


def test_hues_are_torchvisions() -> None:
    x, turn = images(), torch.tensor([0.1, -0.3, 0.5, -0.5, 0.01, 0.0])
    x[0, :, 0, 0] = 0.5  # grey has no hue
    wanted = [functional.adjust_hue(one, float(t)) for one, t in zip(x, turn, strict=True)]
    torch.testing.assert_close(colour.hue(x, turn), torch.stack(wanted), rtol=0, atol=1e-5)


# -- draws


def test_draws_depend_on_the_seed_and_the_epoch_alone() -> None:
    one, again, later = drawn(40, flip=0.5), drawn(40, flip=0.5), drawn(40, flip=0.5, epoch=2)
    assert one.columns["flip"].equal(again.columns["flip"])
    assert not one.columns["flip"].equal(later.columns["flip"])


def test_nothing_is_drawn_where_nothing_is_set() -> None:
    assert draw(settings(), [8], SHAPE, (0, 0), 1) is None


def test_draws_have_the_distributions_they_are_to_have() -> None:
    columns = drawn(4000, (3, 32, 32), **(EVERYTHING | {"flip": 0.3, "erase": 0.25})).columns
    assert columns["flip"].float().mean() == pytest.approx(0.3, abs=0.03)
    assert columns["shift"].unique().tolist() == [-3, -2, -1, 0, 1, 2, 3]
    top, left, height, width = columns["window"].unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + height <= 32) & (left + width <= 32)).all())
    area = height * width / 32**2
    assert 0.25 < float(area.min()) < 0.32
    assert float(area.mean()) == pytest.approx(0.62, abs=0.04)
    assert 0.7 < float((width / height).min()) < 0.8 < 1.2 < float((width / height).max()) < 1.45
    assert columns["degrees"].abs().max() == pytest.approx(30, abs=0.2)
    assert columns["brightness"].min() == pytest.approx(0.7, abs=0.01)
    assert columns["operation/1"].bincount().min() > 4000 / 14 * 0.7
    erased = columns["erased"][:, 2] * columns["erased"][:, 3] / 32**2
    assert (erased > 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert 0.01 < float(erased[erased > 0].min()) < 0.05 < 0.3 < float(erased.max()) < 0.36
    assert (columns["patch"].sum(1) > 0).float().mean() == pytest.approx(0.5, abs=0.05)


def test_a_row_is_the_same_whatever_is_beside_it() -> None:
    pixels = (images(64) * 255).to(torch.uint8)
    happens = drawn(64, **EVERYTHING)
    together = happens.before(pixels, 255)
    flips_alone = drawn(64, flip=0.5)
    for rows in (slice(7, 8), slice(20, 31)):
        assert happens.some(rows).before(pixels[rows], 255).equal(together[rows])
    # Beside rows with other operations one that is only flipped keeps its pixels, to the last bit.
    nothing = torch.arange(64) % 2 == 0
    columns = {name: column.clone() for name, column in happens.columns.items()}
    for name, column in columns.items():
        column[nothing] = neutral(name)
    mixed = Drawn({**columns, "flip": flips_alone.columns["flip"]})
    wanted = flips_alone.before(pixels, 255)
    assert mixed.before(pixels, 255)[nothing].equal(wanted[nothing].float())


# -- mixing


def test_a_cutmix_box_has_the_partners_share_of_the_area() -> None:
    happens = drawn(32, cutmix=1.0)
    numbers = torch.arange(32.0)[:, None, None, None].expand(32, 3, 12, 10)
    found = happens.after(numbers.clone())
    before = numbers.roll(1, 0)
    assert bool(((found == numbers) | (found == before)).all())
    own = (found == numbers).double().mean((1, 2, 3))
    torch.testing.assert_close(own, happens.columns["share"])
    assert 0.5 <= float(own.min()) < 0.7
    assert happens.partners(torch.arange(32)).tolist() == [31, *range(31)]


def test_mixup_blends_each_image_with_the_one_before_it_in_its_batch() -> None:
    found = draw(settings(mixup=0.4), [4, 3], SHAPE, (0, 0), 1)
    assert found is not None
    x, share = images(7), found.columns["share"].float()[:, None, None, None]
    partner = torch.tensor([3, 0, 1, 2, 6, 4, 5])
    torch.testing.assert_close(found.after(x), x * share + x[partner] * (1 - share))
    assert found.partners(torch.arange(7)).equal(partner)


def test_erased_pixels_are_the_mean() -> None:
    happens = drawn(64, erase=1.0)
    x = happens.after(images(64) + 1)
    area = happens.columns["erased"][:, 2] * happens.columns["erased"][:, 3]
    assert (x == 0).all(1).sum((1, 2)).equal(area)


# -- in training


def data(dtype: torch.dtype = torch.float32, size: int = 8) -> Split:
    """41 rows: a last batch of one, which batch norm cannot use."""
    random = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (61, 3, size, size), generator=random, dtype=torch.uint8)
    target = pixels.double().mean((1, 2, 3)).argsort().argsort() * 3 // 61
    rows = torch.arange(41), torch.arange(41, 61)
    if dtype == torch.float64:  # what bytes become is float32
        return Split(pixels.double() / 74 - 1.7, target, *rows)
    scale = torch.full((3, 1, 1), 127.0), torch.full((3, 1, 1), 74.0)
    return Split(pixels, target, *rows, *scale)


def lanes(split: Split, name: str, augment: Sequence[Any], **train: Any) -> list[Lane]:
    made = []
    for number, own in enumerate(augment):
        seed_everything(number)
        model = ImageModel(name=name, hidden=(7,), channels=(4, 8)).model_dump(mode="json")
        module = build(model, tuple(split.inputs.shape[1:]), 3)
        if split.mean is None:
            module = module.double()
        section = {"epochs": 3, "batch_size": 8, "lr": 0.05, "optimizer": "sgd", **train}
        options = ImageTrain(augment=own, **section).model_dump(mode="json")
        made.append(Lane(module, split, options, Constant(), (number, 0)))
    return made


def trained(team: Any, epochs: int = 3) -> Any:
    for _ in range(epochs):
        team.train()
    return team


def weights(team: Any, lane: Lane) -> Tensor:
    return torch.cat([own.reshape(-1).double() for own in team.weights(lane).values()])


AUGMENTS: list[Any] = [
    EVERYTHING,
    None,
    {"flip": 0.5, "crop": 2},
    {"mixup": 0.3},
    {"policy": "trivialaugment", "cutmix": 0.5},
]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_lane_is_bitwise_the_same_whatever_others_draw(name: str) -> None:
    for place in range(len(AUGMENTS)):
        found = []
        for others in ((place, (place + 1) % 5), range(5)):
            everyone = lanes(data(), name, AUGMENTS, label_smoothing=0.1)
            stack = trained(Stack([everyone[number] for number in others]))
            found.append(weights(stack, everyone[place]))
        assert found[0].equal(found[1]), AUGMENTS[place]


def test_a_stack_equals_autograd_on_mixed_targets() -> None:
    """With what torch's cross-entropy makes of a target that is a share of two classes."""
    split = data(torch.float64)
    augment = [{"mixup": 0.5, "cutmix": 0.5, "flip": 0.5}]
    (lane,) = lanes(split, "mlp", augment, momentum=0.0, label_smoothing=0.1, batch_size=16)
    model, (same,) = (
        lane.model,
        lanes(split, "mlp", augment, momentum=0.0, label_smoothing=0.1, batch_size=16),
    )
    rows, happens = lane.order(), lane.drawn(lane.batches)
    assert happens is not None
    stack = trained(Stack([same]), 1)
    for step, own in enumerate(rows.split(16)):
        here = happens.some(slice(16 * step, 16 * step + len(own)))
        x, y = split.batch(own, here)
        share = here.columns["share"][:, None]
        soft = share * one_hot(y, 3) + (1 - share) * one_hot(here.partners(y), 3)
        loss = cross_entropy(model(x), soft, label_smoothing=0.1)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= 0.05 * parameter.grad
    wanted = torch.cat([own.detach().reshape(-1) for own in model.parameters()])
    torch.testing.assert_close(weights(stack, same), wanted, rtol=1e-9, atol=1e-10)


def test_in_turn_the_loss_of_mixed_rows_is_the_same() -> None:
    """With weights of classes; of one batch, as the orders of the two engines differ."""
    split, made = data(torch.float64), []
    for _ in range(2):
        (lane,) = lanes(split, "mlp", [{"mixup": 0.5}], batch_size=41, momentum=0.0)
        lane.class_weights = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        made.append(lane)
    seed_everything(*made[0].seed, 1)
    order = made[1].sampled(torch.default_generator)
    made[0].order = lambda: order  # type: ignore[method-assign]
    stacked, in_turn = trained(Stack(made[:1]), 1), trained(InTurn(made[1:]), 1)
    found, wanted = weights(stacked, made[0]), weights(in_turn, made[1])
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def test_mixed_rows_weigh_the_same_where_memory_is_short() -> None:
    split, found = data(torch.float64), []
    for most in (None, 7):
        (lane,) = lanes(split, "mlp", [{"mixup": 0.5, "cutmix": 1.0}], batch_size=16)
        lane.class_weights = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        team = InTurn([lane])
        team._numerics[lane].learning.rows = most
        found.append(weights(trained(team), lane))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("model", [{"name": "mlp"}, {"name": "cnn", "channels": [4]}])
def test_validation_is_never_augmented(run: Any, model: Any) -> None:
    losses = [
        run(
            "image_classifier",
            {"source": "digits"},
            {**model, "init": "xavier_normal"},
            {"epochs": 1, "batch_size": 512, "lr": 1e-30, "augment": augment},
        ).last
        for augment in (None, {"flip_vertical": 1.0, "rotation": 180})
    ]
    if model["name"] == "mlp":  # batch norm's statistics are of the training batches
        assert losses[0]["val/loss"] == losses[1]["val/loss"]
    assert losses[0]["train/loss"] != losses[1]["train/loss"]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_resumed_it_goes_on_as_if_uninterrupted(run: Any, name: str) -> None:
    augment = {"crop": 1, "rotation": 10, "policy": "randaugment", "mixup": 0.2}
    args = (
        "image_classifier",
        {"source": "digits"},
        {"name": name, "channels": [4]},
        {"epochs": 2, "batch_size": 256, "augment": augment},
    )
    whole = run(*args)
    part = run(*args, stop_after=1)
    assert run(*args, saved=part.saved).last == whole.last


# -- settings


def test_tables_have_no_augmentation() -> None:
    with pytest.raises(ValidationError, match="augment"):
        TRAINERS["tabular"].train(augment={"flip": 0.5})


@pytest.mark.parametrize(
    ("augment", "train", "ensemble", "key", "words"),
    [
        ({"hue": 0.1}, {}, {}, "train.augment.hue", "grayscale"),
        ({"saturation": 0.1}, {}, {}, "train.augment.saturation", "grayscale"),
        ({"crop": 8}, {}, {}, "train.augment.crop", "less than 8"),
        ({"mixup": 0.1}, {"batch_size": 1}, {}, "train.augment.mixup", "batches of 1"),
        ({"cutmix": 0.1}, {}, {"method": "boosting"}, "train.augment.cutmix", "boosting"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    run: Any, augment: Any, train: Any, ensemble: Any, key: str, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        run("image_classifier", {"source": "digits"}, {}, {**train, "augment": augment}, ensemble)
    assert caught.value.key == key


# -- normalization


def test_named_normalization_is_torchvisions(image_folder: Any, tmp_path: Path) -> None:
    folder = str(image_folder())

    def dataset(**how: Any) -> Dataset:
        section = TRAINERS["image_classifier"].data(source=folder, **how).model_dump(mode="json")
        return load(section, tmp_path / "cache")

    of_train = dataset()
    x, _ = of_train.splits[0].batch(of_train.train)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    pixels = of_train.inputs[of_train.train].float() / 255
    theirs = functional.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    found = dataset(normalize="imagenet").splits[0].batch(of_train.train)[0]
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)
    plain = dataset(normalize="none").splits[0].batch(of_train.train)[0]
    torch.testing.assert_close(plain, pixels)
    with pytest.raises(DataError, match="3 channels") as caught:
        dataset(normalize="imagenet", channels=1)
    assert caught.value.key == "data.normalize"
