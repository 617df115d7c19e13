"""The data that a worker has loaded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hpo import examples
from hpo.messages import Setup
from hpo.paths import is_address

if TYPE_CHECKING:
    from trainers.data import Dataset


@contextlib.contextmanager
def on_this_machine(
    section: Mapping[str, Any],
    version: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Mapping[str, Any]]:
    """A ``data`` section with a path in place of an address, from where the data is fetched.

    Args:
        version: The one that it must be; None: as it is now.
        say: Told how it goes.

    Raises:
        DataError: It cannot be fetched.
    """
    source = section.get("source")
    if not is_address(source):
        yield section
        return
    from hpo import fetched  # and so fsspec

    path = fetched.local(source, version, say)
    with fetched.called(source, path):
        yield {**section, "source": str(path)}


class Data:
    """Loads each ``data`` section once; keeps the last two (``data`` may be searched).

    Args:
        say: Told how it goes, where data are fetched.
    """

    def __init__(self, setup: Setup, say: Callable[[str], None] = lambda text: None) -> None:
        self._say = say
        self._cache = setup.cache
        self._version = setup.data_version
        self._examples = setup.examples
        self._keeping: threading.Thread | None = None
        self._loaded: dict[str, Dataset] = {}

    def load(self, section: Mapping[str, Any]) -> Dataset:
        key = repr(sorted(section.items()))
        found = self._loaded.pop(key, None) or self._read(section)
        self._loaded[key] = found  # the newest last
        while len(self._loaded) > 2:
            del self._loaded[next(iter(self._loaded))]
        return found

    def _read(self, section: Mapping[str, Any]) -> Dataset:
        from trainers.data import load

        count = self._examples[0] if self._examples else 0
        with on_this_machine(section, self._version, self._say) as there:
            found = load(there, self._cache, count)
        return replace(found, summary={**found.summary, "source": section["source"]})

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
