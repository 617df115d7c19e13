"""Optuna's CMA-ES without its pickles.

It keeps its state among a trial's attributes in the storage, pickled, and would load whatever is
there: who can write to a study's storage could run code on the machine of all who go on with it.
Here nothing but what such a state is made of is loaded.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import optuna

from hpo.errors import UserError

# Constructors that do nothing but hold numbers, by module.
PARTS: Mapping[str, frozenset[str]] = {
    "cmaes._cma": frozenset({"CMA"}),
    "cmaes._cmawm": frozenset({"CMAwM"}),
    "cmaes._sepcma": frozenset({"SepCMA"}),
    "numpy": frozenset({"dtype", "ndarray"}),
    "numpy._core.multiarray": frozenset({"_reconstruct", "scalar"}),
    "numpy._core.numeric": frozenset({"_frombuffer"}),
}


class CmaEsSampler(optuna.samplers.CmaEsSampler):
    """The same, but for how it reads its state."""

    def _restore_optimizer(self, completed_trials: list[optuna.trial.FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            kept = {
                key: text
                for key, text in trial.system_attrs.items()
                if key.startswith(self._attr_key_optimizer)
            }
            if kept:
                written = bytes.fromhex(self._concat_optimizer_attrs(kept))
                return _OfParts(io.BytesIO(written)).load()
        return None


class _OfParts(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """
        Raises:
            UserError: It is no part of a state.
        """
        if name not in PARTS.get(module, ()):
            raise UserError(
                f"the storage holds {module}.{name} as the state of cma-es, which is none: it "
                "would have run code here, and was not written by hpo.\nGo on with another "
                "sampler, or start another study."
            )
        return super().find_class(module, name)
