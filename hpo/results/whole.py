"""One study with all that can be had of it, for commands, which do not come back for the rest."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from hpo.errors import HpoError, UnknownStudy
from hpo.results.catalog import Catalog
from hpo.results.tables import StudyTables

PATIENCE_S = 60.0  # for curves from MLflow, before it is said how many are still to come


def whole(
    catalog: Catalog, study: str, say: Callable[[str], None] = lambda text: None
) -> StudyTables:
    """The study with all its curves, as far as they can be had.

    Args:
        study: Its key in the catalogue.
        say: Told what takes long.

    Raises:
        UnknownStudy: There is no such study.
        HpoError: MLflow, where the study may be, cannot be read.
    """
    try:
        tables = catalog.study(study, PATIENCE_S)
    except UnknownStudy:
        if catalog.trouble:
            raise HpoError(f"There is no study '{study}' here. {catalog.trouble}") from None
        known = list(catalog.studies()["key"])
        close = difflib.get_close_matches(study, known, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        there = ", ".join(known) or "none"
        raise UnknownStudy(
            f"no study '{study}' here or in MLflow{hint}; there are: {there}"
        ) from None
    while tables.missing_curves:
        say(f"fetching the curves of {tables.missing_curves} more trials from MLflow")
        before = tables.missing_curves
        tables = catalog.study(study, PATIENCE_S)
        if tables.missing_curves >= before:
            break
    return tables
