"""``hpo server``: MLflow's own tracking server, with settings that are safe to leave running.

- It listens on this machine unless told otherwise, answers to exact names only, and lets pages of
  other sites send nothing.
- It does nothing but track for others: no jobs, no assistant that runs commands here, no requests
  to elsewhere (`hpo.tracking.server_app`); it unpickles nothing and tells nobody of its use.
- Passwords stand in no command line, no file but MLflow's own (as hashes), and nothing printed
  but the admin's, once. With users, what it makes here is for this user's eyes only.
- It ends with this process, with all that it started.

Not covered: encryption, which is for a proxy (docs/guide/team-server.md).
"""

from __future__ import annotations

import configparser
import contextlib
import importlib.util
import io
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hpo.errors import HpoError, UserError
from hpo.listening import Listening
from hpo.paths import Home, missing_folders, remove_empty, replacing
from hpo.service import Service, asked_to_stop
from hpo.spec import addresses
from hpo.tracking.redact import printable, redact
from hpo.tracking.server_app import OPEN, WITH_USERS
from hpo.tracking.stores import ADMIN, Order, Prepared, prepare

SHOWN_STUDIES = 5
CONNECT_S = 10  # for an S3 store that does not answer
START_S = 180.0  # several workers on a busy machine each import MLflow

# The rest of what MLflow reads from the environment could undo what is set here.
PASSED_ON = ("MLFLOW_S3_", "MLFLOW_GCS_", "MLFLOW_SQLALCHEMYSTORE_", "MLFLOW_ARTIFACT_UPLOAD_")
SAFE = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # MLflow starts Python by itself, too: nothing in the current folder may pass for a module.
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
}

_SETTINGS, _KEY = ".ini", ".key"  # files beside that of the users


@dataclass(frozen=True)
class Settings:
    """What a person may choose.

    Attributes:
        auth: Whether people need a user and a password; None: not said.
        new_password: Whether the admin gets a new password.
        sqlite: The database's file, or None.
        postgres: The database's address, or None. With neither, the home's embedded store.
        artifacts: A folder or an address such as ``s3://bucket/path``; None: the home's.
        workers: Processes that answer requests.
    """

    listening: Listening
    auth: bool | None = None
    new_password: bool = False
    sqlite: Path | None = None
    postgres: str | None = None
    artifacts: str | None = None
    workers: int = 1


@dataclass(frozen=True)
class Up:
    """A server that answers.

    Attributes:
        store: Its database, without a password.
        local_only: Whether only this machine can reach it.
        auth: Whether people need a user and a password.
        password: The admin's, if it was made now.
        local: Experiments whose artifacts only this machine's programs can read directly.
    """

    url: str
    store: str
    artifacts: str
    local_only: bool
    auth: bool
    password: str | None
    local: tuple[str, ...]

    @property
    def user(self) -> str | None:
        """Who may do everything."""
        return ADMIN if self.auth else None


def serve(
    settings: Settings, home: Home, say: Callable[[str], None], told: Callable[[Up], None]
) -> None:
    """Start it, call `told` once it answers, and return when Ctrl-C or SIGTERM has ended it.

    Raises:
        UserError: It cannot be started so.
        HpoError: It failed, with what it last said.
    """
    auth = _check_auth(settings)
    settings.listening.check_free()
    url = settings.listening.url
    store, folder = _store(settings, home)
    artifacts = _artifacts(settings, home, say)
    users = folder / "users.db" if auth else None
    new = missing_folders(folder)
    folder.mkdir(0o700 if auth else 0o777, parents=True, exist_ok=True)
    environment = _environment(store, artifacts, users)
    with asked_to_stop() as asked:
        order = Order(store, str(users) if users else None, settings.new_password)
        try:
            made = prepare(order, environment, say)
        except HpoError:
            if users and new:
                for suffix in (_SETTINGS, _KEY):
                    users.with_suffix(suffix).unlink()
            remove_empty(new)
            raise
        if settings.artifacts and "://" not in artifacts:
            Path(artifacts).mkdir(parents=True, exist_ok=True)
        say("starting MLflow …")
        command = _command(settings, auth)
        with contextlib.closing(
            Service("MLflow", command, environment, folder, private=auth)
        ) as service:
            _wait_until_up(service, settings.listening, asked, made)
            if asked.is_set():
                return
            local_only = settings.listening.is_local
            told(Up(url, redact(store), artifacts, local_only, auth, made.password, made.local))
            service.wait(asked)


def lines(up: Up) -> Iterator[str]:
    """What a person is told of it, once."""
    yield f"MLflow at {up.url}"
    yield f"  runs       {up.store}"
    yield f"  artifacts  {up.artifacts}"
    if not up.local_only:
        who = "its users" if up.auth else "everyone"
        yield f"  Other machines reach it, and {who} may come in, over a connection that is not"
        yield "  encrypted: see docs/guide/team-server.md for a proxy with TLS."
    if up.local:
        some = ", ".join(map(printable, up.local[:SHOWN_STUDIES])) + " …" * (
            len(up.local) > SHOWN_STUDIES
        )
        yield f"  The files of {some} are in folders of this machine, from before there was"
        yield "  a server: its pages show them, programs elsewhere cannot read or add to them."
    yield ""
    yield f"export MLFLOW_TRACKING_URI={up.url}"
    if up.password:
        yield f"export MLFLOW_TRACKING_USERNAME={ADMIN}"
        yield f"export MLFLOW_TRACKING_PASSWORD={up.password}    # shown only now; keep it"
    elif up.auth:
        yield "export MLFLOW_TRACKING_USERNAME=… MLFLOW_TRACKING_PASSWORD=…    # as given to you"
    yield ""
    yield "Ctrl-C stops it."


def _wait_until_up(
    service: Service, listening: Listening, asked: threading.Event, made: Prepared
) -> None:
    host, port = listening.to_connect, listening.port
    try:
        up = service.wait_until_up(host, port, "/health", START_S, asked)
    except HpoError as error:
        raise HpoError(f"{error}{_not_shown(made)}") from None
    if not up and made.password:
        raise HpoError(f"stopped before it was up{_not_shown(made)}")


def _not_shown(made: Prepared) -> str:
    text = f"\nThe password of '{ADMIN}' was not shown; --new-password makes another."
    return text if made.password else ""


def _check_auth(settings: Settings) -> bool:
    listening = settings.listening
    if settings.auth is None and not listening.is_local:
        raise UserError(
            f"--host {listening.host} lets other machines in; add --auth (everyone has a user "
            f"and a password), or --no-auth if everyone who reaches port {listening.port} may "
            "read, change and delete everything"
        )
    if settings.new_password and not settings.auth:
        raise UserError("--new-password is for the admin of a server with --auth")
    if settings.auth and importlib.util.find_spec("flask_wtf") is None:
        raise UserError("--auth needs Flask-WTF: pip install 'mlflow[auth]'")
    return bool(settings.auth)


def _store(settings: Settings, home: Home) -> tuple[str, Path]:
    """The database's address, and the folder for what belongs to it."""
    if settings.sqlite and settings.postgres:
        raise UserError("--sqlite and --postgres: there is one database; leave one out")
    if settings.sqlite:
        file = settings.sqlite.expanduser().resolve()
        if file.is_dir():
            raise UserError(f"--sqlite {settings.sqlite} is a folder; add the file's name")
        return f"sqlite:///{file}", file.parent
    if settings.postgres:
        return _postgres(settings.postgres), home.mlruns.resolve()
    return home.tracking_uri, home.mlruns.resolve()


def _postgres(text: str) -> str:
    """Raises UserError with a password in it: everyone on this machine sees command lines."""
    hint = "set PGPASSWORD, use ~/.pgpass or a service file, or write '${PASSWORD}', in quotes"
    with _named("--postgres", hint):
        addresses.refuse_password(text)
    with _named("--postgres"):
        if not text.startswith("postgresql"):
            raise addresses.AddressError("expected postgresql://user@host:port/database")
        return addresses.tracking(addresses.expand(text, os.environ), Path.cwd())


@contextlib.contextmanager
def _named(option: str, hint: str | None = None) -> Iterator[None]:
    """An address that cannot be used is the fault of this option."""
    try:
        yield
    except addresses.AddressError as error:
        hint = hint or error.hint
        raise UserError(f"{option}: {error.message}" + (f"\n{hint}" if hint else "")) from None


def _artifacts(settings: Settings, home: Home, say: Callable[[str], None]) -> str:
    text = settings.artifacts
    if text is None:
        return str(home.artifacts)
    with _named("--artifacts", "put it into the environment, e.g. AWS_ACCESS_KEY_ID"):
        addresses.refuse_password(text)
    if "://" not in text:
        return str(Path(text).expanduser().resolve())
    if text.startswith("s3://") and importlib.util.find_spec("boto3") is None:
        raise UserError("--artifacts s3://… needs boto3: pip install 'hpo[s3]'")
    if text.startswith("s3://"):
        _check_bucket(text, say)
    return text


def _check_bucket(address: str, say: Callable[[str], None]) -> None:
    """Ask once what is there, as MLflow will. Keys that may do only other things are told of."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    patience = Config(
        connect_timeout=CONNECT_S, read_timeout=CONNECT_S, retries={"total_max_attempts": 1}
    )
    place = urlsplit(address)
    try:
        endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL")
        any_tls = os.environ.get("MLFLOW_S3_IGNORE_TLS", "").lower() in ("true", "1")
        verify = False if any_tls else None  # None: as boto3 is told elsewhere
        client = boto3.client("s3", endpoint_url=endpoint, verify=verify, config=patience)
        # Unlike a HEAD request, one with an answer says why keys are refused.
        folder = f"{place.path.strip('/')}/".lstrip("/")
        client.list_objects_v2(Bucket=place.netloc, Prefix=folder, MaxKeys=1)
    except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: no URL
        answer = error.response if isinstance(error, ClientError) else {}
        if answer.get("Error", {}).get("Code") == "AccessDenied":
            say(f"--artifacts {address}: {redact(str(error))}; files may be refused, too")
            return
        raise UserError(
            f"--artifacts {address}: {redact(str(error))}\n"
            "MLFLOW_S3_ENDPOINT_URL says where the store is (without it: Amazon's), "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY who asks"
        ) from None


def _command(settings: Settings, auth: bool) -> list[str]:
    listening = settings.listening
    return [
        *(sys.executable, "-P", "-m", "mlflow", "server"),
        *("--host", listening.host, "--port", str(listening.port)),
        *("--workers", str(settings.workers)),
        *("--allowed-hosts", ",".join(listening.host_headers)),
        *("--cors-allowed-origins", ",".join(listening.origins)),
        *("--x-frame-options", "DENY"),
        "--serve-artifacts",
        *("--uvicorn-opts", "--no-access-log --log-level warning"),
        *("--app-name", WITH_USERS if auth else OPEN),
    ]


def _environment(store: str, artifacts: str, users: Path | None) -> dict[str, str]:
    mlflow = ("MLFLOW_", "_MLFLOW_")
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(mlflow) or key.startswith(PASSED_ON)
    }
    environment |= SAFE
    environment["MLFLOW_BACKEND_STORE_URI"] = store
    environment["MLFLOW_ARTIFACTS_DESTINATION"] = artifacts
    if users:
        environment["MLFLOW_AUTH_CONFIG_PATH"] = str(_write_auth_settings(users))
        environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = _secret_key(users.with_suffix(_KEY))
    return environment


def _write_auth_settings(users: Path) -> Path:
    """Who has been given nothing may do nothing, but make experiments of their own."""
    settings = configparser.ConfigParser(interpolation=None)
    settings["mlflow"] = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": f"sqlite:///{users}".replace("%", "%%"),  # MLflow interpolates
        "admin_username": ADMIN,
    }
    text = io.StringIO()
    settings.write(text)
    path = users.with_suffix(_SETTINGS)
    with replacing(path) as file:
        file.write(text.getvalue().encode())
    path.chmod(0o600)
    return path


def _secret_key(path: Path) -> str:
    """The key that signs forms, made once. Only this user may read the file."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        key = file.read().strip()
        if not key:
            key = secrets.token_hex(32)
            file.write(key)
    return key
