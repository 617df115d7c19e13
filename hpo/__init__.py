"""hpo: search hyperparameters with one study file.

For notebooks and scripts::

    import hpo

    ended = hpo.run("study.yaml", {"train.epochs": 3})
    hpo.results.trials("quickstart")     # a DataFrame

Importing this is light; torch, Optuna and MLflow are loaded when something runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo import results

if TYPE_CHECKING:
    from hpo.orchestrator import Ended
    from hpo.progress import View
    from hpo.spec import StudySpec

__version__ = "0.1.0"
__all__ = ["load", "results", "run"]


def load(file: str | Path, overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """Read and check a study file.

    Args:
        overrides: Dotted key → value, e.g. ``{"train.epochs": 3}``; these win over the file.

    Raises:
        hpo.errors.StudyFileError: With every problem in the file.
    """
    from hpo import spec

    return spec.load(Path(file), overrides)


def run(
    file: str | Path | StudySpec,
    overrides: Mapping[str, Any] | None = None,
    *,
    home: str | Path | None = None,
    view: View | None = None,
    accept_changes: bool = False,
) -> Ended:
    """Run a study until its budget is used, or go on where it stopped.

    Args:
        file: A study file, or what `load` returned.
        overrides: As for `load`.
        home: Where ``studies/`` and ``mlruns/`` lie; the current folder by default.
        view: Told of every event; silent by default.
        accept_changes: Whether to go on in a search space that has become wider, or with data
            that were moved.

    Raises:
        hpo.errors.HpoError: See `hpo.launch.run_study`.
    """
    from hpo.launch import run_study
    from hpo.paths import Home
    from hpo.progress import Silent

    study = load(file, overrides) if isinstance(file, str | Path) else file
    where = Home(Path(home or ".").resolve())
    return run_study(study, where, view or Silent(), accept_changes=accept_changes)
