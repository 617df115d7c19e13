"""Short memory: a batch in parts has the gradients of the whole; and what is remembered of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers import memory
from trainers.data import Split
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Stack, optim
from trainers.lanes.layers import forward
from trainers.memory import Fits, is_out_of_memory, kind
from trainers.metrics import Scores
from trainers.options import ImageTrain
from trainers.schedules import made

ROWS, BATCH = 30, 15


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    memory._known.clear()
    yield
    memory._known.clear()


class Small(nn.Module):
    """For which memory is short with more than `most` rows, when it learns or when it is asked."""

    def __init__(self, most: int, classes: int = 3, norm: bool = False, training: bool = True):
        super().__init__()
        torch.manual_seed(4)
        self.most, self.short_in, self.seen = most, training, list[int]()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.last = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x.flatten(1)))  # moves the statistics, and then it fails
        if len(x) > self.most and self.training == self.short_in:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.seen.append(len(x))
        out: Tensor = self.last(hidden.relu())
        return out


def split(classes: int = 3) -> Split:
    random = torch.Generator().manual_seed(2)
    inputs = torch.randn((ROWS + 10, 1, 2, 2), generator=random)
    target = torch.randint(classes, (ROWS + 10,), generator=random)
    return Split(inputs, target, torch.arange(ROWS), torch.arange(ROWS, ROWS + 10))


def lane(model: nn.Module, data: Split, weighted: bool = False, **train: Any) -> Lane:
    own = {"epochs": 3, "batch_size": BATCH, "optimizer": "sgd", "lr": 0.1, **train}
    options = ImageTrain(**own).model_dump(mode="json")
    random = torch.Generator().manual_seed(3)
    weights: dict[str, Any] = {}
    if weighted:
        weights = {
            "row_weights": torch.rand(ROWS + 10, generator=random) * 2,
            "class_weights": torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64),
            "offset": torch.randn((ROWS + 10, 3), generator=random),
        }
    return Lane(model, data, options, made(options), (1, 0), **weights)


def trained(one: Lane, epochs: int = 2) -> InTurn:
    team = InTurn([one])
    for _ in range(epochs):
        team.train()
    return team


@pytest.mark.parametrize(
    ("weighted", "train"),
    [
        (False, {}),
        (False, {"label_smoothing": 0.2, "clip_norm": 0.5}),
        (True, {}),
        (True, {"label_smoothing": 0.2}),
        (True, {"augment": {"mixup": 0.4}}),
    ],
)
def test_a_batch_in_parts_is_learned_from_as_a_whole(
    weighted: bool, train: dict[str, Any]
) -> None:
    whole = Small(BATCH)
    trained(lane(whole, split(), weighted, **train))
    model = Small(4)
    team = trained(one := lane(model, split(), weighted, **train))
    assert max(model.seen) == 4
    assert sum(model.seen) == 2 * ROWS  # each row once an epoch
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    said = "memory was short: 4 of the 15 rows of a batch at once"
    assert team.notes(one) == {"micro_batch": said}


def test_what_fitted_is_remembered_for_the_next_model_like_it_only() -> None:
    trained(lane(Small(4), split()), 1)
    again = Small(BATCH)
    trained(lane(again, split()), 1)
    assert set(again.seen) == {3, 4}  # tried with no more
    other = Small(BATCH, classes=5)
    trained(lane(other, split(5)), 1)
    assert set(other.seen) == {BATCH}
    assert Fits(again, kind(again, (1, 2, 2), "float32")).rows == 4
    assert Fits(again, kind(again, (9,), "float32")).rows is None  # other inputs


def test_a_failed_try_moves_no_statistics_and_batch_norm_is_warned_of() -> None:
    model = Small(8, norm=True)
    team = trained(one := lane(model, split()), 1)
    assert model.norm.num_batches_tracked == 4  # two steps of two parts; not the one that failed
    assert team.notes(one)["micro_batch"].endswith("; batch norm saw 8 rows at a time")


def test_a_resumed_trial_computes_as_many_rows_at_once() -> None:
    first = trained(one := lane(Small(4), split()), 1)
    state = first.state(one)
    memory._known.clear()  # another worker
    model = Small(BATCH)
    again = InTurn([two := lane(model, split())])
    again.load(two, state)
    two.done = 1
    again.train()
    assert set(model.seen) == {3, 4}


def test_validation_is_in_parts_too() -> None:
    model = Small(4, training=False)
    team = trained(lane(model, split()), 1)
    (said,) = team.validate()
    model.short_in = True
    whole = model(split().batch(torch.arange(ROWS, ROWS + 10))[0])
    assert isinstance(said.predicted, Scores)
    torch.testing.assert_close(said.predicted.logits[0], whole)


def test_what_never_fits_fails_as_it_is() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="2 GiB"):
        trained(lane(Small(0), split()))
    with pytest.raises(torch.OutOfMemoryError):
        trained(lane(Small(1, norm=True), split()))  # batch norm needs two rows


def test_another_error_is_no_want_of_memory() -> None:
    for words in ("[enforce] can't allocate memory", "could not create a primitive"):
        assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


# -- a lane


def stacked(most: int, norm: bool = False) -> Stack:
    """One lane after two epochs, for whose `most` rows there is memory."""

    def short(layers: Any, inputs: Tensor, run: Any) -> Tensor:
        output = forward(layers, inputs, run)
        if run.training and inputs.shape[1] > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return output

    torch.manual_seed(4)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)]
    if norm:
        layers.insert(2, nn.BatchNorm1d(6))
    train = {"label_smoothing": 0.1, "grad_norm": True, "augment": {"mixup": 0.4}}
    one = lane(nn.Sequential(*layers), split(), True, **train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.lanes.stack.forward", short)
        stack = Stack([one])
        for _ in range(2):
            stack.train()
    return stack


def test_a_lane_in_parts_learns_as_a_whole_one_does() -> None:
    whole = stacked(most=16)
    memory._known.clear()
    parts = stacked(most=4)
    torch.testing.assert_close(parts.parameters, whole.parameters, rtol=1e-5, atol=1e-6)
    assert not torch.equal(parts.parameters, whole.parameters)  # it was in parts
    assert whole.notes(whole.lanes[0]) == {}
    note = parts.notes(parts.lanes[0])["micro_batch"]
    assert note == "memory was short: 4 of the 15 rows of a batch at once"


def test_a_lane_with_batch_norm_in_parts_moves_its_statistics_once_a_part() -> None:
    stack = stacked(most=8, norm=True)
    model = stack.state(stack.lanes[0])["model"]
    assert model["2.num_batches_tracked"] == 8  # two epochs of two steps of two parts
    assert "batch norm saw 8 rows at a time" in stack.notes(stack.lanes[0])["micro_batch"]


def test_lanes_are_asked_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    data, answer, sizes = split(), Stack._answer, list[int]()
    stack = Stack([lane(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), data) for _ in range(5)])
    (whole,) = stack.validate()

    def short(self: Stack, asked: Any, columns: int, places: list[int]) -> Any:
        sizes.append(len(places))
        if len(places) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(self, asked, columns, places)

    monkeypatch.setattr(Stack, "_answer", short)
    halves = stack.validate()
    assert sizes == [5, 2, 3, 1, 2]
    assert [one for said in halves for one in said.lanes] == list(whole.lanes)
    outputs = torch.cat([said.predicted.logits for said in halves])
    assert torch.equal(outputs, whole.predicted.logits)


def test_a_step_that_is_made_again_counts_once_in_the_norms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stack() -> Stack:
        layers = (nn.Flatten(), nn.Linear(4, 3))
        return Stack([lane(nn.Sequential(*layers), split(), grad_norm=True) for _ in range(2)])

    def short(rows: optim.Rows) -> None:
        if len(rows.parameters) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        optim.penalize(rows)

    torch.manual_seed(4)
    (whole,) = stack().train()
    monkeypatch.setattr("trainers.lanes.stack.penalize", short)
    torch.manual_seed(4)
    (halves,) = stack().train()
    assert whole.grad_norm is not None
    assert halves.grad_norm is not None
    assert torch.equal(halves.grad_norm, whole.grad_norm)
