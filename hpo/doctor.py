"""What `hpo doctor` looks at: devices, versions, stores, space. Changes nothing."""

from __future__ import annotations

import contextlib
import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from hpo import devices
from hpo.paths import Home

PACKAGES = ("torch", "torchvision", "optuna", "mlflow", "pandas", "plotly", "streamlit")
LEAST_FREE_GB = 2.0


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, and what to do about it if it is not good."""

    name: str
    good: bool
    found: str
    advice: str | None = None


def examine(home: Home) -> list[Check]:
    """Every check, in the order in which a person would look."""
    return [
        Check("python", True, f"{platform.python_version()} on {platform.platform()}"),
        *_packages(),
        *_devices(),
        _memory(),
        *(_writable(folder) for folder in (home.studies, home.mlruns)),
        _space(home.root),
        _tracking(home),
    ]


def _packages() -> Iterator[Check]:
    found, missing = [], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    yield Check("packages", not missing, ", ".join(found))
    if missing:
        yield Check("missing", False, ", ".join(missing), "pip install hpo installs them")


def _devices() -> Iterator[Check]:
    yield Check("cpu", True, f"{devices.cores()} cores")
    for gpu in devices.gpus():
        memory = f", {gpu.memory_mb / 1024:.0f} GiB" if gpu.memory_mb else ""
        yield Check("gpu", True, gpu.name + memory)
    if not devices.gpus():
        yield Check("gpu", True, "none found by nvidia-smi; trials train on the CPU")


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    return Check(
        "memory",
        memory.available > 1e9,
        f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB",
        None if memory.available > 1e9 else "a worker needs about 0.5 GB beside its data",
    )


def _writable(folder: Path) -> Check:
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    good = False
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=nearest):
        good = True
    return Check(
        f"{folder.name}/",
        good,
        f"{folder} {'is' if good else 'is not'} writable",
        None if good else "choose another folder with --home",
    )


def _space(root: Path) -> Check:
    free_gb = shutil.disk_usage(root if root.exists() else root.anchor).free / 1e9
    good = free_gb >= LEAST_FREE_GB
    advice = None if good else f"less than {LEAST_FREE_GB:g} GB: a study may fill the disk"
    return Check("disk", good, f"{free_gb:.1f} GB free", advice)


def _tracking(home: Home) -> Check:
    uri = home.tracking_address(None)
    parts = urlsplit(uri)
    if not parts.scheme.startswith("http"):
        embedded = uri == home.tracking_uri
        shown = "the embedded store, mlruns/mlflow.db" if embedded else parts.scheme
        return Check("mlflow", True, shown)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = f"{parts.hostname}:{port}"  # without the user and password that may be in it
    try:
        socket.create_connection((parts.hostname or "", port), timeout=3).close()
    except OSError as error:
        return Check(
            "mlflow",
            False,
            f"{address} does not answer ({error})",
            "start the server, or unset MLFLOW_TRACKING_URI",
        )
    return Check("mlflow", True, f"{address} answers")
