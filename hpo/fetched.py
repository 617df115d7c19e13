"""Data at an address (``s3://bucket/flowers``): fetched once a machine, for all workers there.

What an address leads to is a *version*: the names, sizes and tags (ETag, checksum or time) of its
files, as its store says them. It lies in the cache as ``ADDRESS/VERSION/NAME``, both in hashes; a
folder that is there is whole. A study's workers all use the version that was there when it was
started, or none.

Names of files are their store's word: one that would lead out of the cache is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock, Timeout

from hpo.paths import fetched_data, is_full
from hpo.spec.explain import did_you_mean
from hpo.tracking.redact import redact
from trainers.contract import DataError

KEY = "data.source"
SAY_EVERY_S = 5.0
OLD_S = 7 * 86400.0  # after so long another machine no longer fetches
CONNECT_S = 10.0
READ_S = 60.0
MOST_BYTES_OF_A_NAME = 255  # that file systems allow; of a path about 4,096
MOST_BYTES_OF_A_PATH = 3_000

# What fsspec knows and is a store. The rest wraps another one, reads this machine's own files or,
# as `dask` and `reference`, can run what it is sent; what a package adds could do anything.
STORES = (
    *("abfs", "abfss", "adl", "arrow_hdfs", "az", "box", "dbfs", "dropbox", "ftp", "gcs"),
    *("gdrive", "gist", "github", "gs", "hdfs", "hf", "http", "https", "lakefs", "memory", "oci"),
    *("ocilake", "oss", "root", "s3", "s3a", "sftp", "smb", "ssh", "tos", "tosfs", "wandb"),
    *("webdav", "webhdfs"),
)
# What stores call that which changes with a file's content; the first that there is counts.
TAGS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "content_md5", "crc32c", "sha", "blob_id"),
    *("Digest", "Last-Modified", "LastModified", "last_modified", "updated", "mtime"),
    *("modified", "modify", "modificationTime", "created"),
)
_EXTRAS = {"s3": "'hpo[s3]'", "s3a": "'hpo[s3]'", "gs": "gcsfs", "gcs": "gcsfs"}
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, say who you are; "
    "FSSPEC_S3_ANON=true where everybody may read",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS says who you are",
    "https": "~/.netrc says who you are",
    **dict.fromkeys(
        ("abfs", "abfss", "az"),
        "abfs://CONTAINER/PATH; AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY say the "
        "rest",
    ),
    **dict.fromkeys(
        ("sftp", "ssh"), "FSSPEC_SFTP_USERNAME says who you are, and ~/.ssh proves it"
    ),
    "ftp": "FSSPEC_FTP_USERNAME and FSSPEC_FTP_PASSWORD say who you are",
}
_NO_BUCKET = re.compile(r"NoSuchBucket|\(404\).*HeadBucket")
_ELSEWHERE = "XDG_CACHE_HOME says where else"
_SIGNED = re.compile(  # sig=, X-Amz-Signature=, AWSAccessKeyId=; but not design=
    r"[?&]([^=&]*[-_])?(sig|signature|(security)?token|(api|(aws)?access)?key(id)?|secret|"
    r"credential)([-_][^=&]*)?=",
    re.I,
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """What there is at an address now.

    Attributes:
        name: Of the file or the folder.
        version: A hash of what the store says of all files.
        files: Path below `name` → path in the store; of a single file the one is empty.
        size: Bytes of all files together, if the store says it.
    """

    address: str
    name: str
    version: str
    files: Mapping[str, str]
    size: int | None

    def __str__(self) -> str:
        count = len(self.files)
        size = "" if self.size is None else f", {self.size / 1e6:,.1f} MB"
        return f"{count:,} file{'s' * (count != 1)}{size}"


def check(address: str) -> None:
    """Refuse an address from which nothing can be fetched. Connects to nothing.

    Raises:
        DataError: There is no such kind of store, its package is missing, or the address holds a
            key, which would be recorded.
    """
    check_for_keys(address)
    protocol, _, rest = address.partition("://")
    if "::" in address:
        raise DataError(KEY, "an address within another (::) is not fetched", "unpack it there")
    try:
        known = protocol in STORES and fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = _EXTRAS.get(protocol)
        hint = f"pip install {package}" if package else _one_line(error)
        raise DataError(KEY, f"{protocol}:// needs a package that is missing", hint) from None
    except ValueError:
        known = None
    if not known:
        raise DataError(
            KEY,
            f"{protocol}:// is no store that data can be fetched from",
            did_you_mean(protocol.lower(), STORES)
            or "a path, or s3://, gs://, az://, https://, sftp://, …",
        )
    if not rest.strip("/"):
        raise DataError(KEY, f"{address} names no file and no folder")


def check_for_keys(address: str) -> None:
    """Refuse an address that is signed or holds a password or a name (``ada@``), for it would be
    recorded.

    Raises:
        DataError: It does.
    """
    protocol, _, rest = address.partition("://")
    if redact(address) != address:
        raise _with_a_key(redact(address), protocol)
    if _SIGNED.search(rest):
        raise _with_a_key(f"{address.partition('?')[0]}?…", protocol)


def look(address: str) -> Found:
    """Which version of the data there is, and of which files.

    Raises:
        DataError: There is nothing, it cannot be reached or may not be read, or its names or what
            the store says of it are of no use.
    """
    return _look(address, _opened(address))


def fetch(found: Found, say: Say = lambda line: None) -> Path:
    """Where the version `found` is on this machine; fetched, if it is not there yet.

    Args:
        say: Told how it goes.

    Raises:
        DataError: It cannot be fetched, has become another version, or the disk has no room.
    """
    folder = _folder(found.address, found.version)
    with _locked(found.address, say):
        if not folder.is_dir():
            _remove_leftovers(folder.parent)
            _check_room(found, folder)
            say(f"fetching {found.address} ({found}) into {folder} …")
            _fetch_into(folder, found, say)
    return folder / found.name


def local(address: str, version: str | None = None, say: Say = lambda line: None) -> Path:
    """Where the data of an address is on this machine; fetched, if it is not there yet.

    Args:
        version: `Found.version` that it must be; None: as it is now.
        say: Told how it goes.

    Raises:
        DataError: As of `look` and `fetch`; or what is there now is another version.
    """
    folder = None if version is None else _folder(address, version)
    if folder is not None and folder.is_dir():
        names = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if len(names) == 1:  # beside what the machine itself puts there: .nfs…, .DS_Store
            return names[0]
    check(address)
    found = look(address)
    if version not in (None, found.version):
        raise _changed(address)
    return fetch(found, say)


@contextlib.contextmanager
def called(address: str, path: Path) -> Iterator[None]:
    """Have what is wrong with data name its address, and not where it lies in the cache."""
    try:
        yield
    except DataError as error:
        hint = error.hint and error.hint.replace(str(path), address)
        raise DataError(error.key, str(error).replace(str(path), address), hint) from None


def _opened(address: str) -> Any:
    """The file system that an address is in."""
    options: dict[str, Any] = {"skip_instance_cache": True}  # its keys may be others by now
    if address.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        # aiohttp's own limit is of a whole download.
        timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    with _explained(address):
        return fsspec.url_to_fs(address, **options)[0]


def _look(address: str, system: Any) -> Found:
    with _explained(address):
        system.invalidate_cache()
        root = system._strip_protocol(address).rstrip("/")
        top = system.info(root)
        whole = system.find(root, detail=True) if top["type"] == "directory" else {}
    name = root.partition("?")[0].rpartition("/")[2]
    if not _is_path(name):
        raise DataError(KEY, f"{address} names no file and no folder")
    if top["type"] != "directory":
        return Found(address, name, *_version(address, {"": (root, top)}))
    files = {}
    for path, about in whole.items():
        below = path.removeprefix(f"{root}/")
        if about["type"] == "directory" or path.endswith("/"):  # how a store marks a folder
            continue
        if below == path or not _is_path(below):
            raise DataError(KEY, f"{address} has a file that no folder can have: {path!r}")
        if not any(part.startswith(".") for part in below.split("/")):  # as of a folder here
            files[below] = path, about
    if not files:
        raise DataError(KEY, f"there is no file below {address}")
    folders = {above for below in files for above in _above(below)}
    for both in sorted(folders & set(files)):
        raise DataError(KEY, f"{address} has a file and a folder of one name: {both!r}")
    return Found(address, name, *_version(address, files))


def _version(
    address: str, files: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> tuple[str, dict[str, str], int | None]:
    """`Found.version`, `Found.files` and `Found.size`."""
    sizes: list[Any] = []
    digest = hashlib.sha256()
    for below, (_, about) in sorted(files.items()):
        tag = next((about[name] for name in TAGS if about.get(name) is not None), None)
        if tag is None:
            raise DataError(
                KEY,
                f"the store says neither an ETag nor a time of {address}, so that nobody would "
                "see that it has changed",
                "get the file by other means, and name it here",
            )
        sizes.append(about.get("size"))
        digest.update(repr((below, sizes[-1], str(tag))).encode())
    size = None if None in sizes else sum(sizes)
    return digest.hexdigest()[:32], {below: path for below, (path, _) in files.items()}, size


def _fetch_into(folder: Path, found: Found, say: Say) -> None:
    """Make `folder`, whole or not at all; the lock is held."""
    beside = folder.with_name(f".{folder.name}.{socket.gethostname()}")
    try:
        with _explained(found.address):
            beside.mkdir(mode=0o700)
            to = beside / found.name
            targets = [str(to / below) if below else str(to) for below in found.files]
            system = _opened(found.address)
            system.get(list(found.files.values()), targets, callback=_Progress(found, say))
        if _look(found.address, system).version != found.version:
            raise _changed(found.address)
        came = sum(os.path.getsize(target) for target in targets)
        if found.size not in (None, came):
            message = f"of {found.address} came {came:,} of {found.size:,} bytes"
            raise DataError(KEY, message, "try again")
        os.sync()  # so that after a loss of power, too, what has the name is whole
        with contextlib.suppress(OSError):  # another machine was faster
            beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if not folder.is_dir():
        raise DataError(KEY, f"{found.address} cannot be put into {folder}")


class _Progress(fsspec.Callback):  # type: ignore[misc]
    """Says now and then how many bytes there are."""

    def __init__(self, found: Found, say: Say) -> None:
        super().__init__()
        self._found, self._say = found, say
        self._done, self._said_s = 0, time.monotonic()

    def branched(self, path_1: str, path_2: str, **kwargs: Any) -> fsspec.Callback:
        """That of one file."""
        return _OfFile(self)

    def add(self, size: int) -> None:
        self._done += size
        if time.monotonic() - self._said_s > SAY_EVERY_S:
            self._said_s = time.monotonic()
            of = "" if self._found.size is None else f" of {self._found.size / 1e6:,.0f}"
            self._say(f"fetching {self._found.address}: {self._done / 1e6:,.0f}{of} MB")


class _OfFile(fsspec.Callback):  # type: ignore[misc]
    def __init__(self, whole: _Progress) -> None:
        super().__init__()
        self._whole = whole

    def relative_update(self, inc: int = 1) -> None:
        self._whole.add(inc)


def _remove_leftovers(folder: Path) -> None:
    """What killed processes left of an address, whose lock is held.

    Where a file system that several machines share has locks on each only, what another one has
    begun may be in the making; until it is old.
    """
    for path in folder.glob(".*.*"):
        machine = path.name.split(".", 2)[2]  # its name may have dots
        with contextlib.suppress(OSError):  # another machine's, which is whole by now
            if machine == socket.gethostname() or time.time() - path.stat().st_mtime > OLD_S:
                shutil.rmtree(path)


def _folder(address: str, version: str) -> Path:
    return _of_address(address) / version


def _of_address(address: str) -> Path:
    return fetched_data() / hashlib.sha256(address.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(address: str, say: Say) -> Iterator[None]:
    """Only one process of this machine fetches from an address."""
    folder = _of_address(address)
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another process, which fetches {address} …")
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        message = f"nothing can be kept in {folder}: {_one_line(error)}"
        raise DataError(KEY, message, _ELSEWHERE) from None
    try:
        yield
    finally:
        lock.release()


def _check_room(found: Found, folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free
    if found.size is not None and found.size > free:
        raise DataError(
            KEY,
            f"{found.address} has {found.size:,} bytes, and the disk of {folder.parent} has "
            f"{free:,} free",
            _ELSEWHERE,
        )


def _with_a_key(shown: str, protocol: str) -> DataError:
    message = f"a password, a key or a name is in {shown}; what stands in this file is recorded"
    return DataError(KEY, message, _KEYS.get(protocol))


def _changed(address: str) -> DataError:
    message = f"{address} has changed since the study was started"
    return DataError(KEY, message, "stop the study, and run it anew")


def _is_path(below: str) -> bool:
    """Whether a store's name of a file is a path that stays below a folder."""
    try:
        parts = below.encode().split(b"/")
    except UnicodeEncodeError:
        return False
    return sum(map(len, parts)) + len(parts) <= MOST_BYTES_OF_A_PATH and all(
        part not in (b"", b".", b"..") and b"\0" not in part and len(part) <= MOST_BYTES_OF_A_NAME
        for part in parts
    )


def _above(below: str) -> Iterator[str]:
    while "/" in below:
        below = below.rpartition("/")[0]
        yield below


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    """What a store's library raises, of whatever kind, as one line."""
    try:
        yield
    except Exception as error:
        raise DataError(KEY, *_why(address, error)) from None


def _why(address: str, error: Exception) -> tuple[str, str | None]:
    protocol = address.partition("://")[0]
    # fsspec says of an https address that cannot be had that it is not there.
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    first = cause or error
    status = getattr(first, "status", None)
    if is_full(error):
        return f"the disk of {fetched_data()} is full: {_one_line(error)}", _ELSEWHERE
    if status in (401, 403) or isinstance(error, PermissionError) or "Credentials" in _kind(error):
        return f"{address} may not be read: {_one_line(first)}", _KEYS.get(protocol)
    if _NO_BUCKET.search(str(error)):
        return f"there is no {address}: no such bucket", None
    if isinstance(error, FileNotFoundError) and (cause is None or status in (404, 410)):
        return f"there is no {address}", None
    hint = "AWS_ENDPOINT_URL says where a store is that is not Amazon's"
    return (
        f"{address} cannot be read: {_one_line(first)}",
        hint if protocol in ("s3", "s3a") else None,
    )


def _kind(error: Exception) -> str:
    return type(error).__name__


def _one_line(error: BaseException) -> str:
    text = redact(" ".join(str(error).split())[:300])
    return text or type(error).__name__
