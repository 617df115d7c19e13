"""Where a study's results come from: code, versions, machine.

Kept out on purpose: environment variables, the user's name, passwords in a remote's address, and
changes to files whose names say that they hold secrets. Untracked files are named, not copied.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.tracking.redact import redact

MAX_DIFF_CHARS = 500_000
MAX_UNTRACKED = 100
GIT_TIMEOUT_S = 10.0
_SHALLOW = ("--ignore-submodules=dirty",)  # they have configurations of their own
_OF_TEXT = ("--no-ext-diff", "--no-textconv", *_SHALLOW)
_LFS = re.compile(r"git-lfs (clean|smudge)( --skip)? -- %f|git-lfs filter-process( --skip)?|true")
SECRET_FILES = ("**/.env*", "**/*.pem", "**/*.key", "**/*secret*", "**/*credential*")


def collect(folder: Path) -> dict[str, Any]:
    """What a ``study`` record says of the code and the machine.

    Args:
        folder: The study file's; the git repository around it is described.

    Returns:
        ``git`` (see `describe_repository`, or None), ``packages`` (name → version), ``python``,
        ``platform``, ``cpu``, ``cpus``, ``hostname``.
    """
    return {
        "git": describe_repository(folder),
        "packages": _packages(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "hostname": socket.gethostname(),
    }


def describe_repository(folder: Path) -> dict[str, Any] | None:
    """The repository around `folder`, or None when there is none (or no git).

    Returns:
        ``commit`` (None before the first), ``branch`` (None when detached), ``dirty``, ``diff``
        (of tracked files against the commit, at most `MAX_DIFF_CHARS`), ``untracked`` (names),
        ``remote`` (without credentials) and ``notes`` on what is not in these.
    """
    if _git(folder, "rev-parse", "--git-dir") is None:
        return None
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    status = _git(folder, "status", *_SHALLOW, "--porcelain", "-z", "--untracked-files=normal")
    remote = _git(folder, "config", "--get", "remote.origin.url")
    diff, notes = _diff(folder) if commit else ("", [])
    entries = status.split("\0") if status else []
    untracked = [entry[3:] for entry in entries if entry.startswith("?? ")]
    if len(untracked) > MAX_UNTRACKED:
        notes.append(f"{len(untracked)} untracked files; the first {MAX_UNTRACKED} are named")
    if status is None:
        notes.append("git status did not answer")
    return {
        "commit": commit.strip() if commit else None,
        "branch": (_git(folder, "symbolic-ref", "--short", "--quiet", "HEAD") or "").strip()
        or None,
        "dirty": None if status is None else bool(status),
        "diff": diff,
        "untracked": untracked[:MAX_UNTRACKED],
        "remote": redact(remote.strip()) if remote else None,
        "notes": notes,
    }


def _diff(folder: Path) -> tuple[str, list[str]]:
    # From the repository's top (":/"), or changes outside the folder would be missing.
    withheld = [f":(top,exclude,glob,icase){pattern}" for pattern in SECRET_FILES]
    diff = _git(folder, "diff", *_OF_TEXT, "HEAD", "--", ":/", *withheld)
    if diff is None:
        return "", ["git diff did not answer"]
    notes = []
    hidden = _git(
        folder, "diff", *_OF_TEXT, "--name-only", "HEAD", "--",
        *(f":(top,glob,icase){pattern}" for pattern in SECRET_FILES),
    )  # fmt: skip
    if hidden:
        notes.append(f"withheld, by their names: {', '.join(hidden.split())}")
    if len(diff) > MAX_DIFF_CHARS:
        notes.append(f"the diff has {len(diff)} characters; the first {MAX_DIFF_CHARS} are kept")
    return redact(diff[:MAX_DIFF_CHARS]), notes


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None when it fails, is missing or takes too long.

    A repository's own configuration, which came with the folder, can name programs for git to
    run: as monitor, as filters of its files, and to fetch what is missing. None is run.
    """
    settings = {"core.fsmonitor": "false"}
    for name in _own_filters(folder) if arguments[0] in ("status", "diff") else ():
        settings |= {f"{name}.{key}": "" for key in ("clean", "process")}
        settings |= {f"{name}.required": "false"}
    return _run_git(folder, arguments, settings)


def _own_filters(folder: Path) -> set[str]:
    """``filter.NAME`` of those that the repository's configuration sets; git-lfs is well known."""
    said = _run_git(folder, ["config", "--show-scope", "-z", "--get-regexp", r"^filter\."], {})
    parts = (said or "").split("\0")
    found = set()
    for scope, setting in zip(parts[::2], parts[1::2], strict=False):
        key, _, value = setting.partition("\n")
        if scope in ("local", "worktree") and not _LFS.fullmatch(value):
            found.add(key.rpartition(".")[0])
    return found


def _run_git(folder: Path, arguments: Sequence[str], settings: Mapping[str, str]) -> str | None:
    before = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    environment = {**os.environ, "GIT_ALLOW_PROTOCOL": ""}
    environment["GIT_CONFIG_COUNT"] = str(before + len(settings))
    for i, (key, value) in enumerate(settings.items(), before):
        environment |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


@functools.cache
def _packages() -> dict[str, str]:
    """Of this process: reading them takes a third of a second."""
    packages = {}
    for found in importlib.metadata.distributions():
        # pip may be changing it just now, or was killed once while it did.
        with contextlib.suppress(OSError, KeyError, TypeError):
            name = found.metadata["Name"]
            # What Ray has brought along for itself is found once it is imported.
            if name and Path(str(found.locate_file(""))).name != "thirdparty_files":
                packages[name] = found.version
    return packages


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
