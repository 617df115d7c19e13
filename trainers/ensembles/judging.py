"""How members are by themselves, how differently they err, and what it gains to ask all."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from trainers import metrics
from trainers.diversity import diversity
from trainers.ensembles.combining import as_arrays, raw
from trainers.ensembles.members import Measured, Together
from trainers.metrics import Estimates, Labels, Predicted


def judged(together: Together) -> dict[str, float]:
    """Of an ensemble, by validation rows; nothing of a single model.

    ``member/…`` are the means of the members' metrics, of those that are always reported;
    ``member/disagreement``, ``member/double_fault``, ``member/q`` or ``member/error_correlation``
    the means over pairs of members (`trainers.diversity`), where they are defined.
    ``member/best_loss`` is the loss of the best member, ``gain/loss`` how much smaller the
    ensemble's is. The best is chosen by one half of the rows and judged by the other, and the
    other way round: the smallest of many losses on the rows that it was chosen by would be too
    good.
    """
    if not together.members:
        return {}
    said = [member.predicted for member in together.members]
    best = best_loss(row_losses(said))
    pairs = diversity(list(as_arrays(said)), said[0].target.cpu().numpy())
    found = {f"member/{name}": pairs.mean(name) for name in pairs.measures}
    own = float(row_losses([together.said.predicted]).mean())
    return {
        **mean_values(together.members),
        **{name: value for name, value in found.items() if not math.isnan(value)},
        "member/best_loss": best,
        "gain/loss": best - own,
    }


def mean_values(members: Sequence[Measured]) -> dict[str, float]:
    """The mean of each."""
    return {
        f"member/{name}": math.fsum(each.values[name] for each in members) / len(members)
        for name in metrics.measured(metrics.task_of(members[0].predicted.target), (), ())
    }


def row_losses(said: Sequence[Predicted]) -> Tensor:
    """(m, n) float64: what each row costs each member; the mean over rows is its loss."""
    first, outputs = said[0], raw(said).double()
    if isinstance(first, Estimates):
        return ((outputs - first.target) / first.unit).square()
    if isinstance(first, Labels):
        wanted = first.target.double().expand_as(outputs)
        return binary_cross_entropy_with_logits(outputs, wanted, reduction="none").mean(-1)
    chosen = first.target.expand(len(said), -1).unsqueeze(-1)
    return -outputs.log_softmax(-1).gather(-1, chosen).squeeze(-1)


def best_loss(losses: Tensor) -> float:
    """The loss of the member with the smallest one, chosen by other rows than it is judged by.

    Args:
        losses: (m, n), from `row_losses`.
    """
    halves = losses[:, 0::2], losses[:, 1::2]
    if 0 in (halves[0].shape[1], halves[1].shape[1]):
        return float(losses.mean(1).min())  # of a single row there is no other
    total = sum(
        float(judging[int(choosing.mean(1).argmin())].sum())
        for choosing, judging in (halves, halves[::-1])
    )
    return total / losses.shape[1]
