"""Several models as one trial: how its members come about, and what they say together.

A trial's ``ensemble`` section names a method, a row of `METHODS`:

* ``bagging``: members on bootstrap samples, side by side (`bagging`).
* ``boosting``: one member after another, for what the others got wrong (`boosting`).
* ``stacking``: a meta-learner over bases that may differ in settings (`stacking`).
* ``snapshot``: one training, a member at the end of each cycle of its learning rate (`snapshot`).

A method is a class with the protocol `Members`: whose lanes are trained now, which training rows
they are asked about at an epoch's end, and what they say together then. How they are combined is
fixed or fitted to training rows that the members did not see (`held_out`); nothing is fitted to
the validation rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainers.ensembles import boosting
from trainers.ensembles.bagging import Bagging
from trainers.ensembles.combining import Fitted, combined
from trainers.ensembles.judging import judged
from trainers.ensembles.members import (
    DIFFERING,
    Measured,
    Members,
    Part,
    Predictor,
    Single,
    Together,
)
from trainers.ensembles.snapshot import Snapshot
from trainers.ensembles.stacking import Stacking

# From a part and, of a trial that goes on, what `Members.state` returned.
METHODS: dict[str, Callable[[Part, Mapping[str, Any] | None], Members]] = {
    "none": Single,
    "bagging": Bagging,
    "boosting": boosting.begin,
    "stacking": Stacking,
    "snapshot": Snapshot,
}


def begin(part: Part, state: Mapping[str, Any] | None) -> Members:
    """The members of a part, at first or as they were when `state` was taken."""
    return METHODS[part.ensemble["method"]](part, state)


__all__ = [
    "DIFFERING",
    "METHODS",
    "Fitted",
    "Measured",
    "Members",
    "Part",
    "Predictor",
    "Together",
    "begin",
    "combined",
    "judged",
]
