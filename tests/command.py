"""The ``hpo`` command, called in this process."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hpo.cli import main


class Called(NamedTuple):
    """What one call of the command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout; anything else there is an error."""

        def no_such(constant: str) -> Any:
            raise AssertionError(f"{constant} is not JSON")

        found = json.loads(self.out, parse_constant=no_such)
        assert isinstance(found, dict)
        return found


def hpo(*arguments: str | Path) -> Called:
    """Call the command."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hpo", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as exit_:
                code = exit_.code if isinstance(exit_.code, int) else 1
    return Called(code, out.getvalue(), err.getvalue())
