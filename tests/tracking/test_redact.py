"""Passwords in addresses are never printed."""

from __future__ import annotations

import io

import pytest

from hpo.tracking.redact import RedactedStream, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:s3cret@host:5000/x", "http://***@host:5000/x"),
        ("postgresql+psycopg2://ann:p%40ss@db/m", "postgresql+psycopg2://***@db/m"),
        ("at https://ann:a@b@host failed", "at https://***@host failed"),
        ("two: http://a:b@c and http://d:e@f", "two: http://***@c and http://***@f"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
        ("mail ann@host", "mail ann@host"),
    ],
)
def test_userinfo_is_replaced(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_redacted_stream_passes_no_password() -> None:
    inner = io.StringIO()
    print("see http://ann:s3cret@host", file=RedactedStream(inner))
    assert inner.getvalue() == "see http://***@host\n"
