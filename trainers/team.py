"""Models that are trained side by side: of one shape as one program, others in turn."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from trainers.in_turn import InTurn
from trainers.lanes import Lane, Said, Stack
from trainers.lanes.layers import parts, unsupported
from trainers.parallel import world
from trainers.together import why_not


class Team(Protocol):
    """Models that are trained side by side."""

    @property
    def lanes(self) -> list[Lane]:
        """Those that are in it."""

    def add(self, lanes: Sequence[Lane]) -> None:
        """Let models in."""

    def keep(self, lanes: Sequence[Lane]) -> None:
        """Let all others go."""

    def train(self) -> Sequence[Said]:
        """An epoch of each; what it said of each batch just before learning from it."""

    def validate(self) -> Sequence[Said]:
        """What each says of its validation rows, in their order."""

    def answer(self, asked: Mapping[Lane, Tensor]) -> Sequence[Said]:
        """What some say of other rows of their splits, in the rows' order."""

    def state(self, lane: Lane) -> dict[str, Any]:
        """For a checkpoint."""

    def load(self, lane: Lane, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""

    def weights(self, lane: Lane) -> dict[str, Tensor]:
        """What a lane validates with, as the ``state_dict`` of its module: copied, on the CPU."""

    def notes(self, lane: Lane) -> dict[str, str]:
        """What is to be said of how it is trained (`trainers.contract.Epoch.notes`)."""


class Grouped:
    """A `Team` of models of any shapes: a `Stack` of those alike, and `InTurn`."""

    def __init__(self) -> None:
        self._teams: dict[Hashable, Team] = {}

    @property
    def lanes(self) -> list[Lane]:
        return [lane for team in self._teams.values() for lane in team.lanes]

    def add(self, lanes: Sequence[Lane]) -> None:
        alike: dict[Hashable, list[Lane]] = {}
        for lane in lanes:
            alike.setdefault(_shape(lane), []).append(lane)
        for shape, some in alike.items():
            if shape in self._teams:
                self._teams[shape].add(some)
            else:
                self._teams[shape] = InTurn(some) if shape is None else Stack(some)

    def keep(self, lanes: Sequence[Lane]) -> None:
        wanted = set(lanes)
        for shape, team in list(self._teams.items()):
            own = [lane for lane in team.lanes if lane in wanted]
            if not own:
                del self._teams[shape]
            elif len(own) < len(team.lanes):
                team.keep(own)

    def train(self) -> list[Said]:
        return [said for team in self._teams.values() for said in team.train()]

    def validate(self) -> list[Said]:
        return [said for team in self._teams.values() for said in team.validate()]

    def answer(self, asked: Mapping[Lane, Tensor]) -> list[Said]:
        found: list[Said] = []
        for team in self._teams.values():
            own = {lane: asked[lane] for lane in team.lanes if lane in asked}
            found += team.answer(own) if own else []
        return found

    def state(self, lane: Lane) -> dict[str, Any]:
        return self._of(lane).state(lane)

    def load(self, lane: Lane, state: Mapping[str, Any]) -> None:
        self._of(lane).load(lane, state)

    def weights(self, lane: Lane) -> dict[str, Tensor]:
        return self._of(lane).weights(lane)

    def notes(self, lane: Lane) -> dict[str, str]:
        return self._of(lane).notes(lane)

    def _of(self, lane: Lane) -> Team:
        return next(team for team in self._teams.values() if lane in team.lanes)


def _shape(lane: Lane) -> Hashable:
    """What lanes have in common that can be stacked; None: this one cannot be."""
    if world() is not None:
        return None
    settings = {f"train.{name}": value for name, value in lane.options.items() if name != "swa"}
    if lane.options["swa"] is not None and (lane.normalizes or lane.options["vmap"]):
        return None
    if why_not(settings) or (unsupported(lane.model) and not lane.options["vmap"]):
        return None
    shapes = tuple(parameter.shape for parameter in lane.model.parameters())
    layers = tuple(_form(layer) for _, layer in parts(lane.model))
    return layers, shapes, lane.options["optimizer"], lane.width


def _form(layer: nn.Module) -> str:
    """What a layer is and how it is set, but for the share that it drops: a lane's own."""
    return re.sub(r"Dropout\(p=[^,]*, ", "Dropout(", repr(layer))
