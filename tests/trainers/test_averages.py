"""The mean of weights (SWA) is torch's, batch norm's statistics included."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from trainers.averages import Average


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def moved(of: nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in of.parameters():
            parameter.add_(by)


def batches() -> list[Tensor]:
    return list(torch.split(torch.randn(40, 4, generator=torch.Generator().manual_seed(1)), 8))


def test_the_mean_is_torch_s() -> None:
    own = model()
    average, theirs = Average(own, None), AveragedModel(own)
    for by in (0.1, -0.3, 0.5):
        moved(own, by)
        average.update()
        theirs.update_parameters(own)
    trained = {name: value.clone() for name, value in own.state_dict().items()}
    average.normalize(batches())
    update_bn(batches(), theirs)
    own.eval()
    theirs.eval()
    with average.in_place():
        got = {name: value.clone() for name, value in own.state_dict().items()}
        assert torch.allclose(own(batches()[0]), theirs(batches()[0]), atol=1e-6)
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(got[name], value)
    for name, value in own.state_dict().items():  # it is trained on as it was
        assert torch.equal(value, trained[name])


def test_before_the_first_update_the_model_is_as_it_is() -> None:
    own = model()
    average = Average(own, None)
    moved(own, 1.0)
    with average.in_place():
        assert not torch.equal(next(own.parameters()), average.values[0])


def test_it_goes_on_from_its_state() -> None:
    own = model()
    one, other = Average(own, None), Average(own, None)
    for by in (0.1, 0.2):
        moved(own, by)
        one.update()
    one.normalize(batches())
    state = one.state()
    other.load(**state)  # type: ignore[arg-type]
    moved(own, 0.3)
    for average in (one, other):
        average.update()
    for a, b in zip(
        [*one.values, *one.statistics], [*other.values, *other.statistics], strict=True
    ):
        assert torch.equal(a, b)
