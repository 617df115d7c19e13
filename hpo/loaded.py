"""The data that a worker has loaded."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpo import examples
from hpo.messages import Setup

if TYPE_CHECKING:
    from trainers.data import Dataset


class Data:
    """Loads each ``data`` section once; keeps the last two (``data`` may be searched)."""

    def __init__(self, setup: Setup) -> None:
        self._cache = setup.cache
        self._examples = setup.examples
        self._keeping: threading.Thread | None = None
        self._loaded: dict[str, Dataset] = {}

    def load(self, section: Mapping[str, Any]) -> Dataset:
        from trainers.data import load

        key = repr(sorted(section.items()))
        count = self._examples[0] if self._examples else 0
        found = self._loaded.pop(key, None) or load(section, self._cache, count)
        self._loaded[key] = found  # the newest last
        while len(self._loaded) > 2:
            del self._loaded[next(iter(self._loaded))]
        return found

    def keep_examples(self, section: Mapping[str, Any]) -> None:
        """Begin to write some rows for people to look at, if that is still to be done."""
        if self._examples is None:
            return
        count, path = self._examples
        if not path.exists():  # else this worker has done so, before it died
            self._keeping = examples.keep(self.load(section), count, path)
        self._examples = None

    def close(self) -> None:
        """Wait for what is being written."""
        if self._keeping is not None:
            self._keeping.join()
