"""Passwords in addresses are never printed."""

from __future__ import annotations

import io

import pytest

from hpo.tracking.redact import RedactedStream, for_screen, redact


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


ENVIRONMENT = {
    "PGPASSWORD": "p@ss/word-1",
    "HF_TOKEN": "hf_0123456789",
    "AWS_SECRET_ACCESS_KEY": "aws/0123+456789",
    "SOME_API_KEY": "key-0123456789",
    "DATABASE_URL": "postgresql://ann:in-an%40address@host/db",
    "MYSQL_PWD": "hf_0123456789-longer",
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("login with p@ss/word-1 failed", "login with *** failed"),
        ("?p=p%40ss%2Fword-1&x", "?p=***&x"),
        ("hf_0123456789-longer, hf_0123456789", "***, ***"),
        ("Bearer aws/0123+456789, key-0123456789", "Bearer ***, ***"),
        ("in-an%40address and in-an@address", "*** and ***"),
        ("twice p@ss/word-1p@ss/word-1", "twice ******"),
    ],
)
def test_the_secrets_of_the_environment_are_replaced_wherever_they_are(
    monkeypatch: pytest.MonkeyPatch, text: str, shown: str
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PWD", "/home/ann/project"),
        ("TOKENIZERS_PARALLELISM", "sometimes"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/secrets/token"),
        ("AWS_ACCESS_KEY_ID", "AKIA0123456789"),
        ("SSH_ASKPASS", "/usr/bin/ask-it"),
        ("PGPASSWORD", "mlflow"),  # any text may have that word
        ("EDITOR", "an-editor"),
    ],
)
def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"see {value} there") == f"see {value} there"


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    text = "class \x1b[2J\x1b]0;title\x07 of http://ann:s3cret@host\r\n\tnext\u202e"
    assert for_screen(text) == "class �[2J�]0;title� of http://***@host�\n\tnext�"


def test_a_redacted_stream_passes_no_password() -> None:
    inner = io.StringIO()
    print("see http://ann:s3cret@host", file=RedactedStream(inner))
    assert inner.getvalue() == "see http://***@host\n"
