"""Convolutional models in lanes: each is what PyTorch gives for the plain module, in any stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainers.data import Split
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Stack
from trainers.lanes.layers import LAYERS, Pass, backward, unsupported
from trainers.options import Train
from trainers.schedules import Constant
from trainers.seeds import seed_everything

CLASSES, BATCH, EPOCHS = 3, 8, 10


def split(channels: int, size: int, dtype: torch.dtype = torch.float32, rows: int = 41) -> Split:
    """41 rows: a last batch of one, which batch norm cannot use."""
    random = torch.Generator().manual_seed(3)
    inputs = torch.randn((rows + 20, channels, size, size), generator=random, dtype=dtype)
    target = inputs.mean((1, 2, 3)).mul(8).round().clamp(-1, 1).long() + 1
    return Split(inputs, target, torch.arange(rows), torch.arange(rows, rows + 20))


def cnn(channels: int, widths: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for place, width in enumerate(widths):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=place == 0)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(channels, CLASSES),
    )


def lanes(count: int, data: Split, widths: Sequence[int], dropout: float = 0.0) -> list[Lane]:
    made = []
    for number in range(count):
        seed_everything(number, 0, 0)
        model = cnn(data.inputs.shape[1], widths, dropout).to(data.inputs.dtype)
        train: dict[str, Any] = {
            "optimizer": "sgd",
            "batch_size": BATCH,
            "epochs": EPOCHS,
            "lr": 0.01 * (1 + number % 5),
            "momentum": (0.0, 0.5, 0.9)[number % 3],
            "weight_decay": (0.0, 0.01)[number % 2],
            "ema": (None, 0.9)[number % 2],
        }
        options = Train(**train).model_dump(mode="json")
        made.append(Lane(model, data, options, Constant(), (number, 0)))
    return made


def trained(stack: Any, epochs: int = 3) -> Any:
    for _ in range(epochs):
        stack.train()
    return stack


def weights(stack: Stack, one: Lane) -> Tensor:
    return torch.cat([value.reshape(-1).double() for value in stack.state(one)["model"].values()])


def test_a_lane_equals_torch_optim_on_the_plain_module() -> None:
    data = split(2, 8, torch.float64)
    together = lanes(3, data, (4, 5))
    (one,) = lanes(3, data, (4, 5))[1:2]
    model, options = one.model, one.options
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=options["lr"],
        momentum=options["momentum"],
        weight_decay=options["weight_decay"],
    )
    stack = trained(Stack(together), EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.split(one.order(), BATCH):
            loss = cross_entropy(model(data.inputs[rows]), data.target[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        one.done += 1
    state = stack.state(together[1])["model"]
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(state[name], expected, rtol=1e-10, atol=1e-11)


def test_trained_in_turn_it_is_the_same() -> None:
    data = split(1, 8, torch.float64)
    (stacked,) = trained(Stack(lanes(2, data, (4, 5)))).validate()
    for place, said in enumerate(trained(InTurn(lanes(2, data, (4, 5)))).validate()):
        found, wanted = stacked.predicted.logits[place], said.predicted.logits[0]
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


# The second has widths that fill no vector register, where lanes lie differently in each stack.
@pytest.mark.parametrize(("channels", "widths"), [(1, (16, 32)), (3, (5, 7))])
def test_a_lane_is_bitwise_the_same_in_stacks_of_two_and_more(
    channels: int, widths: Sequence[int]
) -> None:
    data = split(channels, 8)
    found = {}
    for size in (1, 2, 3, 16, 64):
        everyone = lanes(64, data, widths, dropout=0.2)
        chosen = [*everyone[:5], *everyone[6:]][: size - 1]
        stack = trained(Stack([*chosen, everyone[5]]))
        found[size] = weights(stack, everyone[5])
    for size in (3, 16, 64):
        assert torch.equal(found[size], found[2]), size
    torch.testing.assert_close(found[1], found[2], rtol=1e-4, atol=1e-5)


def test_a_lane_is_the_same_after_others_leave_and_resumed() -> None:
    data = split(1, 8)
    expected = lanes(2, data, (4, 5))
    whole = trained(Stack(expected), 4)
    first = lanes(5, data, (4, 5))
    stack = trained(Stack(first), 1)
    stack.keep(first[:3])
    trained(stack, 1)
    again = lanes(2, data, (4, 5))
    resumed = Stack(again)
    for old, new in zip(first, again, strict=False):
        resumed.load(new, stack.state(old))
        new.done = 2
    trained(resumed, 2)
    for wanted, one in zip(expected, again, strict=True):
        assert torch.equal(weights(resumed, one), weights(whole, wanted))


def test_a_nan_in_one_lane_touches_no_other() -> None:
    data = split(1, 8)
    expected = trained(Stack(before := lanes(3, data, (4, 5))))
    broken = lanes(3, data, (4, 5))
    broken[1].options = {**broken[1].options, "lr": float("nan")}
    stack = trained(Stack(broken))
    assert not weights(stack, broken[1]).isfinite().all()
    for number in (0, 2):
        assert torch.equal(weights(stack, broken[number]), weights(expected, before[number]))


def test_dropout_of_images_draws_as_if_they_were_flat() -> None:
    x = torch.randn(4, 2, 3, 5, 5)  # (B, k, C, H, W)
    share, keys = torch.full((1, 2, 1), 0.5), torch.tensor([[[3, 1], [5, 2]]], dtype=torch.int32)
    middle = torch.zeros((1, 2, 1), dtype=torch.int32)
    run = [Pass(True, share, middle, keys) for _ in range(2)]
    layers = [LAYERS[kind](kind(), {}, {}) for kind in (nn.Dropout, nn.Flatten)]
    first = layers[1].forward(layers[0].forward(x, run[0]), run[0])
    then = layers[0].forward(layers[1].forward(x, run[1]), run[1])
    assert torch.equal(first, then)
    assert 0.2 < float((first == 0).float().mean()) < 0.8


def test_what_a_layer_is_set_to_may_have_no_rule() -> None:
    for layer in (
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        nn.AdaptiveAvgPool2d(2),
        nn.BatchNorm2d(3, track_running_stats=False),
    ):
        assert unsupported(nn.Sequential(layer)) == f"there is no rule for {layer}"


def test_out_of_memory_after_the_forward_pass_moves_no_statistics_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, widths = split(1, 8, torch.float64), (4,)
    expected = lanes(4, data, widths)
    undisturbed = trained(Stack(expected), 1)

    def short_of_memory(layers: Any, gradient: Tensor) -> None:
        if len(gradient) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        backward(layers, gradient)

    monkeypatch.setattr("trainers.lanes.stack.backward", short_of_memory)
    halved = lanes(4, data, widths)
    stack = trained(Stack(halved), 1)
    for one, other in zip(expected, halved, strict=True):
        state, again = undisturbed.state(one)["model"], stack.state(other)["model"]
        assert any(name.endswith("running_mean") for name in state)
        for name, value in state.items():
            torch.testing.assert_close(again[name], value, rtol=1e-10, atol=1e-12)


def test_a_pixel_of_a_map_that_is_one_high_has_a_gradient_of_its_own() -> None:
    """ReLU right before the mean over the image, as in `trainers.models` for narrow images."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn((29, 1, 1, 6), generator=random, dtype=torch.float64)
    target = (inputs.mean((1, 2, 3)) > 0).long()
    data = Split(inputs, target, torch.arange(20), torch.arange(20, 29))
    seed_everything(0, 0, 0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, CLASSES),
    ).double()
    options = Train(optimizer="sgd", batch_size=BATCH, epochs=2, lr=0.1).model_dump(mode="json")
    one = Lane(model, data, options, Constant(), (0, 0))
    stack = trained(Stack([one]), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=options["momentum"])
    one.done = 0
    for _ in range(2):
        for rows in torch.split(one.order(), BATCH):
            loss = cross_entropy(model(data.inputs[rows]), data.target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        one.done += 1
    for name, value in model.state_dict().items():
        torch.testing.assert_close(stack.state(one)["model"][name], value, rtol=1e-10, atol=1e-12)
