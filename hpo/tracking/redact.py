"""Keep passwords out of everything that is printed or logged."""

from __future__ import annotations

import re
from typing import TextIO

_USERINFO = re.compile(r"(?<=://)[^/\s'\"]*@")


def redact(text: str) -> str:
    """`text` with every ``user:password@`` in an address replaced by ``***@``."""
    return _USERINFO.sub("***@", text)


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
