"""Optimizers: a table of rules that turn gradients into steps.

They call the functions behind ``torch.optim``'s classes, with the same results to the last bit.
The classes themselves import ``torch._dynamo`` when they are first made: a second and 150 MB in
every worker, for nothing that is used here. L-BFGS has no such function; there the class is used.

Imports torch only when an optimizer is made, so that the names can be listed without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """Parameters of a model that are updated alike.

    Attributes:
        lr: A factor of the learning rate.
        decays: Whether weight decay shrinks them.
        hidden: Whether they are matrices of layers, not of embeddings: those that are Muon's.
    """

    parameters: list[Tensor] = field(repr=False)
    lr: float = 1.0
    decays: bool = True
    hidden: bool = False


def groups(
    model: nn.Module, train: Mapping[str, Any], factors: Mapping[str, float] | None = None
) -> list[Group]:
    """The parameters of `model`, those together that are updated alike.

    Args:
        train: The section; ``decay_on: weights`` leaves norms and biases without weight decay.
        factors: Of the learning rate, by a parameter's name; 1 where it is not named.
    """
    from torch import nn

    embeddings = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }
    alike: dict[tuple[float, bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        factor = 1.0 if factors is None else factors.get(name, 1.0)
        matrix = parameter.ndim == 2 and id(parameter) not in embeddings
        hidden = matrix and train["optimizer"] == "muon"  # fewer groups are faster
        key = factor, decays(parameter.shape, train["decay_on"]), hidden
        alike.setdefault(key, []).append(parameter)
    return [Group(parameters, *key) for key, parameters in alike.items()]


def decays(shape: Sequence[int], decay_on: str) -> bool:
    """Whether weight decay shrinks a parameter: norms and biases have one dimension."""
    return decay_on == "all" or len(shape) > 1


# Computes the loss of the batch and the gradients again, with the weights as they are then.
Again = Callable[[], "Tensor"]


class Optimizer(Protocol):
    """What updates the parameters."""

    parameters: list[Tensor]

    def step(self, lr: float, shift: float, again: Again) -> None:
        """Update the parameters by their gradients; those without one stay as they are.

        Args:
            shift: What is added to ``momentum``, or to ``beta1``, in this step.
            again: For what looks at several places in a step.
        """

    def state(self) -> dict[str, Any]:
        """For a checkpoint: refers to the live tensors."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""


@dataclass(frozen=True)
class Update:
    """What a rule changes, and by what.

    Attributes:
        parameters, gradients: Of one group, those that have a gradient.
        memory: What is remembered of each from step to step, by its name in the rule.
        steps: How many each has made, (), float32.
        lr, momentum: Of this step; the momentum is ``beta1`` where the rule has that.
        decay: Of the weights.
    """

    parameters: list[Tensor]
    gradients: list[Tensor]
    memory: Mapping[str, list[Tensor]]
    steps: list[Tensor]
    lr: float
    momentum: float
    decay: float


@dataclass(frozen=True)
class Rule:
    """How parameters are updated one by one.

    Attributes:
        update: Changes parameters and memory in place.
        memory: The names of what is remembered of each parameter, zero at first, but for the
            ``product`` of numbers, which is 1.
        momentum: The setting that a schedule may move; None: there is none.
        decoupled: Whether weight decay is always apart from the gradients: `update` sees to it.
        fused: Whether it counts steps where the parameters are, as torch's fused kernels do.
    """

    update: Callable[[Update, Mapping[str, Any]], None]
    memory: tuple[str, ...]
    momentum: str | None = None
    decoupled: bool = False
    fused: bool = False


def _sgd(own: Update, train: Mapping[str, Any]) -> None:
    """With momentum, Nesterov's on request."""
    from torch.optim.sgd import sgd

    velocities: list[Tensor | None] = [*own.memory["velocity"]]
    sgd(
        own.parameters,
        own.gradients,
        velocities if own.momentum > 0 else [None] * len(velocities),
        fused=True,
        weight_decay=own.decay,
        momentum=own.momentum,
        lr=own.lr,
        dampening=0.0,
        # Without momentum, Nesterov's step is the plain one, and torch refuses the pair.
        nesterov=train["nesterov"] and own.momentum > 0,
        maximize=False,
    )


def _rmsprop(own: Update, train: Mapping[str, Any]) -> None:
    from torch.optim.rmsprop import rmsprop

    rmsprop(
        own.parameters,
        own.gradients,
        own.memory["square"],
        [],
        own.memory["velocity"],
        own.steps,
        lr=own.lr,
        alpha=train["alpha"],
        eps=1e-8,
        weight_decay=own.decay,
        momentum=own.momentum,
        centered=False,
    )


def _adagrad(own: Update, _train: Mapping[str, Any]) -> None:
    """Duchi et al. (2011)."""
    from torch.optim.adagrad import adagrad

    adagrad(
        own.parameters,
        own.gradients,
        own.memory["square"],
        own.steps,
        lr=own.lr,
        weight_decay=own.decay,
        lr_decay=0.0,
        eps=1e-10,
        maximize=False,
    )


def _adam(own: Update, train: Mapping[str, Any], decoupled: bool = False) -> None:
    """Kingma and Ba (2015); decoupled, as adamw has it, Loshchilov and Hutter (2019)."""
    from torch.optim.adam import adam

    adam(
        own.parameters,
        own.gradients,
        own.memory["mean"],
        own.memory["square"],
        [],
        own.steps,
        fused=True,
        decoupled_weight_decay=decoupled,
        amsgrad=False,
        beta1=own.momentum,
        beta2=train["beta2"],
        lr=own.lr,
        weight_decay=own.decay,
        eps=1e-8,
        maximize=False,
    )


def _nadam(own: Update, train: Mapping[str, Any]) -> None:
    """Dozat (2016)."""
    from torch.optim.nadam import nadam

    nadam(
        own.parameters,
        own.gradients,
        own.memory["mean"],
        own.memory["square"],
        own.memory["product"],
        own.steps,
        beta1=train["beta1"],
        beta2=train["beta2"],
        lr=own.lr,
        weight_decay=own.decay,
        momentum_decay=4e-3,
        eps=1e-8,
    )


def _radam(own: Update, train: Mapping[str, Any]) -> None:
    """Liu et al. (2020)."""
    from torch.optim.radam import radam

    radam(
        own.parameters,
        own.gradients,
        own.memory["mean"],
        own.memory["square"],
        own.steps,
        beta1=own.momentum,
        beta2=train["beta2"],
        lr=own.lr,
        weight_decay=own.decay,
        eps=1e-8,
    )


def _muon(own: Update, _train: Mapping[str, Any]) -> None:
    """Jordan et al. (2024), with the step's length of Liu et al. (2025), *Muon is scalable for LLM
    training*, so that a learning rate is as good for it as for adamw."""
    from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS, muon

    muon(
        own.parameters,
        own.gradients,
        own.memory["velocity"],
        lr=own.lr,
        weight_decay=own.decay,
        momentum=own.momentum,
        nesterov=True,
        ns_coefficients=(DEFAULT_A, DEFAULT_B, DEFAULT_C),
        ns_steps=DEFAULT_NS_STEPS,
        eps=EPS,
        adjust_lr_fn="match_rms_adamw",
        has_complex=False,
    )


SGD = Rule(_sgd, ("velocity",), "momentum")
RMSPROP = Rule(_rmsprop, ("square", "velocity"), "momentum")
ADAGRAD = Rule(_adagrad, ("square",))
ADAM = Rule(_adam, ("mean", "square"), "beta1", fused=True)
ADAMW = Rule(partial(_adam, decoupled=True), ("mean", "square"), "beta1", True, fused=True)
NADAM = Rule(_nadam, ("mean", "square", "product"))
RADAM = Rule(_radam, ("mean", "square"), "beta1")
MUON = Rule(_muon, ("velocity",), "momentum", decoupled=True)


class ByRule:
    """Updates each group by its rule."""

    def __init__(
        self, groups: Sequence[Group], train: Mapping[str, Any], rules: Sequence[Rule]
    ) -> None:
        """
        Args:
            rules: Of each group.
        """
        import torch

        self.parameters = [p for group in groups for p in group.parameters]
        self._groups, self._rules, self._train = groups, rules, train
        self._memory = [
            {name: [_first(name, p) for p in group.parameters] for name in rule.memory}
            for group, rule in zip(groups, rules, strict=True)
        ]
        self._steps = [
            [torch.zeros((), device=p.device if rule.fused else "cpu") for p in group.parameters]
            for group, rule in zip(groups, rules, strict=True)
        ]

    def step(self, lr: float, shift: float, again: Again) -> None:
        import torch

        every = zip(self._groups, self._rules, self._memory, self._steps, strict=True)
        for group, rule, memory, steps in every:
            parameters = [p for p in group.parameters if p.grad is not None]
            if not parameters:
                continue
            if len(parameters) < len(group.parameters):
                moved = [p.grad is not None for p in group.parameters]
                memory = {name: list(compress(own, moved)) for name, own in memory.items()}
                steps = list(compress(steps, moved))
            rate, decay = lr * group.lr, self._train["weight_decay"] if group.decays else 0.0
            if self._train["decoupled"] and not rule.decoupled:
                torch._foreach_mul_(parameters, 1 - rate * decay)
                decay = 0.0
            momentum = self._train[rule.momentum] + shift if rule.momentum else 0.0
            gradients = _here([p.grad for p in parameters if p.grad is not None])
            memory = {name: _here(own) for name, own in memory.items()}
            own = _here(parameters)
            update = Update(own, gradients, memory, steps, rate, max(0.0, momentum), decay)
            rule.update(update, self._train)

    def state(self) -> dict[str, Any]:
        return {"memory": self._memory, "steps": self._steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        saved_groups = zip(self._memory, state["memory"], strict=True)
        pairs = [(own[name], saved[name]) for own, saved in saved_groups for name in own]
        for tensors, saved in [*pairs, *zip(self._steps, state["steps"], strict=True)]:
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)


def _here(tensors: list[Tensor]) -> list[Tensor]:
    """What of tensors is on this device: all, unless several have a part each (`DTensor`)."""
    return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]


def _first(name: str, parameter: Tensor) -> Tensor:
    """What is remembered of a parameter before its first step."""
    import torch

    if name == "product":
        return torch.ones((), dtype=torch.float64)
    return torch.zeros_like(parameter).detach()


def _muon_and_adamw(groups: Sequence[Group], train: Mapping[str, Any]) -> Optimizer:
    return ByRule(groups, train, [MUON if group.hidden else ADAMW for group in groups])


class LBFGS:
    """Liu and Nocedal (1989), with a strong Wolfe line search: at most 20 iterations a step.

    For small models whose loss is of all rows at once; weight decay is an L2 penalty.
    """

    def __init__(self, groups: Sequence[Group], train: Mapping[str, Any]) -> None:
        import torch

        self._groups = groups
        self.parameters = [p for group in groups for p in group.parameters]
        self._decay = train["weight_decay"]
        self._optimizer = torch.optim.LBFGS(self.parameters, line_search_fn="strong_wolfe")

    def step(self, lr: float, shift: float, again: Again) -> None:
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step(lambda: self._penalized(again()))  # type: ignore[no-untyped-call]

    def _penalized(self, loss: Tensor) -> Tensor:
        """The loss with the penalty, whose gradients are added to those of the loss."""
        for parameter in self.parameters:
            if parameter.grad is not None:  # torch's takes them for vectors, as they lie
                parameter.grad = parameter.grad.contiguous()
        for parameter in (p for group in self._groups if group.decays for p in group.parameters):
            loss = loss + 0.5 * self._decay * parameter.detach().square().sum()
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach(), alpha=self._decay)
        return loss

    def state(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(dict(state))


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    Attributes:
        make: From groups of parameters and the ``train`` section.
        settings: Those of the section that it uses, of those that not all use.
    """

    make: Callable[[Sequence[Group], Mapping[str, Any]], Optimizer]
    settings: tuple[str, ...]


def _by(rule: Rule, *settings: str) -> Kind:
    def make(groups: Sequence[Group], train: Mapping[str, Any]) -> Optimizer:
        return ByRule(groups, train, [rule] * len(groups))

    own = () if rule.decoupled else ("decoupled",)
    return Kind(make, (*settings, *own, *NOT_OF_LBFGS))


# What has no place where a step is of all rows and all parameters, and its length looked for.
NOT_OF_LBFGS = ("clip_norm", "clip_value", "batch_growth", "lr_backbone", "layer_decay")
BETAS = ("beta1", "beta2")

OPTIMIZERS: dict[str, Kind] = {
    "sgd": _by(SGD, "momentum", "nesterov"),
    "rmsprop": _by(RMSPROP, "momentum", "alpha"),
    "adagrad": _by(ADAGRAD),
    "adam": _by(ADAM, *BETAS),
    "adamw": _by(ADAMW, *BETAS),
    "nadam": _by(NADAM, *BETAS),
    "radam": _by(RADAM, *BETAS),
    "muon": Kind(_muon_and_adamw, ("momentum", *BETAS, *NOT_OF_LBFGS)),
    "lbfgs": Kind(LBFGS, ()),
}


def that_use(setting: str) -> list[str]:
    """The optimizers in which a setting of the ``train`` section has an effect."""
    return [name for name, kind in OPTIMIZERS.items() if setting in kind.settings]


# Those that update each number of a parameter by itself; of them there are stacked ones, too
# (`trainers.lanes.optim`).
STACKED = tuple(name for name in OPTIMIZERS if name not in ("muon", "lbfgs"))
