"""Paths and addresses in a study file: environment variables, folders, databases, passwords."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from hpo.paths import network_file_system
from hpo.spec.document import redacted
from hpo.spec.explain import did_you_mean
from trainers.contract import DataError

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>[^}]*))?\}")
_DATABASES = {
    "sqlite": None,
    "postgresql": "psycopg",
    "postgresql+psycopg2": "psycopg2",
    "postgresql+psycopg": "psycopg",
}
# What PostgreSQL says of a connection that it refuses → what to do.
_ADVICE = {
    r"authentication failed|no password supplied": "set PGPASSWORD, use ~/.pgpass or a service "
    "file (postgresql:///?service=NAME), or write ${PASSWORD} in the address",
    r"database \"(.*)\" does not exist": r"`createdb \1` makes it",
    r"role \"(.*)\" does not exist": r"`createuser \1` makes it, or name another as USER@",
    r"permission denied for schema (\w+)": r"`grant create on schema \1 to USER` in that database "
    "lets its tables be made",
    r"no pg_hba\.conf entry": "the server lets nobody in from here; its pg_hba.conf says whom",
}
_INSTALL = {"psycopg2": "pip install psycopg2-binary", "psycopg": "pip install 'hpo[postgres]'"}


class AddressError(ValueError):
    """A path or an address that cannot be used."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def expand(text: str, environ: Mapping[str, str]) -> str:
    """`text` with every ``${NAME}`` and ``${NAME:-default}`` replaced.

    Raises:
        AddressError: A variable is not set and has no default.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        found = environ.get(name)
        if found or (found is not None and default is None):
            return found
        if default is not None:
            return default
        close = get_close_matches(name, list(environ), n=1)
        raise AddressError(
            f"the environment variable {name} is not set",
            f"did you mean ${{{close[0]}}}?" if close else f"set it, or ${{{name}:-default}}",
        )

    expanded = _VARIABLE.sub(value, text)
    if "${" in _VARIABLE.sub("", text):
        raise AddressError("expected ${NAME} or ${NAME:-default}")
    return expanded


def absolute(text: str, folder: Path) -> Path:
    """A path of the file, which is relative to the file's folder.

    Raises:
        AddressError: It has a ``~user`` whom nobody knows.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise AddressError(str(error)) from None
    return Path(os.path.normpath(folder / path))


def path_or_name(text: str, folder: Path) -> str:
    """The absolute path of what is there, or `text` as a name.

    Raises:
        AddressError: It has a ``~user`` whom nobody knows.
    """
    path = absolute(text, folder)
    return str(path) if os.path.exists(path) else text


def check_readable(path: Path, text: str, others: tuple[str, ...] = ()) -> None:
    """Refuse a path that cannot be read.

    Args:
        text: As the file has it.
        others: Names that could have been meant instead of a path.

    Raises:
        AddressError: There is nothing, or nothing that may be read.
    """
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # e.g. the name is too long
        raise AddressError(f"{text!r} is not a path: {error}") from None
    if not there and "://" in text:
        hint = "get the file by other means, and name it here"
        raise AddressError(f"{redacted(text)} is an address; expected a path", hint)
    if not there:
        shown = f" ({path})" if str(path) != text else ""
        raise AddressError(f"there is no {text}{shown}", nearest(path, text, others))
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise AddressError(f"{text} may not be read by you", f"chmod +r {text}")


def check_data(text: str, built_in: bool) -> None:
    """Refuse an address that no data can be fetched from, or that holds a key. It is not asked.

    Args:
        built_in: Whether hpo itself fetches from it: what else an own trainer understands is its
            own affair.

    Raises:
        AddressError: As `hpo.fetched.check` says it.
    """
    from hpo import fetched  # and so fsspec, which other studies need not wait for

    try:
        (fetched.check if built_in else fetched.check_for_keys)(text)
    except DataError as error:
        raise AddressError(str(error), error.hint) from None


def storage(text: str, folder: Path) -> str:
    """The address of Optuna's storage: ``journal``, or a database with an absolute path.

    Raises:
        AddressError: It is neither, or cannot be used here.
    """
    if text == "journal":
        return text
    if "://" not in text:
        raise AddressError(
            f"expected journal, sqlite:///file or postgresql://…; got {redacted(repr(text))}",
            did_you_mean(text, ["journal"]) if len(text) < 12 else None,
        )
    return _database(text, folder)


def tracking(text: str, folder: Path) -> str:
    """The address of MLflow: a server, or a database with an absolute path.

    Raises:
        AddressError: It is neither, or cannot be used here.
    """
    scheme = text.partition("://")[0] if "://" in text else None
    if scheme in ("http", "https"):
        if re.fullmatch(r"https?://[^\s/?#]+(/\S*)?", text):
            return text
        raise AddressError("expected http://host:port", "e.g. http://localhost:5000")
    if scheme is not None and scheme.partition("+")[0] in ("sqlite", "postgresql"):
        return _database(text, folder)
    hint = f"http://{text}" if re.fullmatch(r"[\w.-]+:\d+", text) else None
    if scheme in (None, "file") and hint is None:
        hint = "MLflow no longer keeps runs in folders; try sqlite:///mlflow.db"
    raise AddressError("expected http(s)://host:port, sqlite:///file or postgresql://…", hint)


def refuse_password(text: str, in_shell: bool = False) -> None:
    """A file may be shown to others, a command line is; and *** would be recorded of it.

    Args:
        in_shell: It stands in a command line, where a shell replaces ``${NAME}`` itself.

    Raises:
        AddressError: A password stands in the address, other than as ``${NAME}``.
    """
    if redacted(text) != text:
        quoted = ", in single quotes" if in_shell else ""
        raise AddressError(
            f"there is a password in the address {redacted(text)}",
            f"write ${{PASSWORD}} in its place{quoted}, and set that in the environment",
        )


def advice(refusal: str) -> str:
    """What to do about what PostgreSQL says when it lets one not in, as a line to append."""
    for pattern, text in _ADVICE.items():
        if found := re.search(pattern, refusal):
            return f"\n{found.expand(text)}"
    return ""


def _database(text: str, folder: Path) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # its text may contain the password
        raise AddressError(
            f"{redacted(text)} is not an address of a database",
            "driver://user:${PASSWORD}@host:port/database",
        ) from None
    if url.drivername not in _DATABASES:
        raise AddressError(
            f"expected sqlite or postgresql; got {url.drivername}",
            did_you_mean(url.drivername, _DATABASES),
        )
    driver = _DATABASES[url.drivername]
    if driver is not None:
        if not url.database and "service" not in url.query:
            raise AddressError("the database's name is missing", "postgresql://host/database")
        if importlib.util.find_spec(driver) is None:
            raise AddressError(f"{driver} is not installed", _INSTALL[driver])
        return text
    if url.host or not url.database or url.database == ":memory:":
        raise AddressError("expected sqlite:///file", "with three slashes")
    path = absolute(url.database, folder)
    if not os.path.isdir(path.parent):
        raise AddressError(f"there is no folder {path.parent}", f"mkdir -p {path.parent}")
    if os.path.isdir(path):
        raise AddressError(f"{path} is a folder", f"sqlite:///{url.database}/optuna.db")
    network = network_file_system(path.parent)
    if network is not None:
        raise AddressError(
            f"{path.parent} is on a network file system ({network}), where SQLite loses data",
            "postgresql://user:${PASSWORD}@host/database, or a folder on a disk of this machine",
        )
    return url.set(database=str(path)).render_as_string(hide_password=False)


def nearest(path: Path, text: str, others: tuple[str, ...] = ()) -> str | None:
    """What may have been meant by a path where nothing is, as a hint."""
    close = get_close_matches(text, others, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    above = path.parent
    while not os.path.isdir(above):
        path, above = above, above.parent
    try:
        there = sorted(entry.name for entry in above.iterdir())
    except OSError:
        return None
    close = get_close_matches(path.name, there, n=1)
    if close:
        return f"did you mean {above / close[0]}?"
    return f"known: {', '.join(others)}, or a path" if others else None
