"""Keep passwords out of everything that is printed, logged or recorded; and what a terminal would
obey out of what is printed.

What is known to be secret is the password of an address, and the values of environment variables
whose names say so (``PGPASSWORD``, ``HF_TOKEN``), wherever they stand in a text.

Not covered: secrets in no address and no such variable; values shorter than `SHORTEST`, which
ordinary words may be; a secret that somebody has encoded or taken apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TextIO
from urllib.parse import quote, unquote

SHORTEST = 8  # characters

# user@, user:password@; a password may hold a slash that nobody encoded, but a port does not.
_USERINFO = re.compile(r"(?<=://)([^/\s'\"]*@|[^/\s'\":]*:(?!\d+/)[^\s'\"]+@)")
_QUERY = re.compile(r"(?<=password=)[^&\s'\"]+", re.IGNORECASE)
_NAMED_SECRET = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|(^|_)(PASS|PWD|TOKEN|SECRET)(_|$)|(API|ACCESS|PRIVATE)_?KEY"
)
_NAMED_OTHERWISE = re.compile(r"^(OLD)?PWD$|_(FILE|PATH|DIR|ID)$")  # what tells where one is
_PASSWORD = re.compile(r"://[^/\s:@]*:([^\s@]+)@")


def redact(text: str) -> str:
    """`text` without ``user:password@`` and ``?password=…`` in its addresses, and without the
    secrets of this process's environment."""
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """`redact` for many texts: with what is secret in the environment now."""
    return partial(_without, _secrets(os.environ))


def _without(secrets: Sequence[str], text: str) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, "***")
    return _QUERY.sub("***", _USERINFO.sub("***@", text))


def printable(line: str) -> str:
    """`line` without what a terminal would obey: others' requests and names can hold that."""
    return "".join(c if c.isprintable() or c == "\t" else "�" for c in line)


def for_screen(text: str) -> str:
    """Lines that may quote anybody, as they may be printed."""
    return "\n".join(map(printable, redact(text).split("\n")))


def _secrets(environ: Mapping[str, str]) -> list[str]:
    """Those in an environment, the longest first: one may hold another."""
    found = {form for text in _values(environ) for form in (text, unquote(text))}
    found |= {quote(text, safe="") for text in found}
    return sorted({text for text in found if len(text) >= SHORTEST}, key=len, reverse=True)


def _values(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if "://" in value:
            yield from _PASSWORD.findall(value)
        elif _NAMED_SECRET.search(name.upper()) and not _NAMED_OTHERWISE.search(name.upper()):
            yield value


class RedactedStream:
    """A text stream that writes redacted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._redact = redactor()

    def write(self, text: str) -> int:
        self._stream.write(self._redact(text))
        return len(text)

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
