"""Keep passwords out of everything that is printed or logged."""

from __future__ import annotations

import re
from typing import TextIO

# user@, user:password@; a password may hold a slash that nobody encoded, but a port does not.
_USERINFO = re.compile(r"(?<=://)([^/\s'\"]*@|[^/\s'\":]*:(?!\d+/)[^\s'\"]+@)")
_QUERY = re.compile(r"(?<=password=)[^&\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` without ``user:password@`` and ``?password=…`` in its addresses."""
    return _QUERY.sub("***", _USERINFO.sub("***@", text))


class RedactedStream:
    """A text stream that writes redacted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False
