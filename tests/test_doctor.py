"""What the doctor says of a machine that is well, and of one that is not."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from hpo import doctor
from hpo.doctor import Check, examine
from hpo.paths import Home


def check(home: Path, name: str) -> Check:
    (found,) = (check for check in examine(Home(home)) if check.name == name)
    return found


@pytest.fixture(autouse=True)
def embedded_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    home = tmp_path / "not there yet"
    assert all(check.good for check in examine(Home(home)))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_good_comes_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = SimpleNamespace(free=1e9, available=1e8, total=2e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: few)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: few)
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    bad = {check.name: check for check in examine(Home(tmp_path)) if not check.good}
    assert "1.0 GB free" in bad["disk"].found
    assert "0.1 GB free of 2.0 GB" in bad["memory"].found
    assert bad["missing"].found == "no-such-package"
    assert all(check.advice for name, check in bad.items() if name != "packages")


def test_a_folder_that_cannot_be_written_is_named() -> None:
    found = check(Path("/proc/hpo"), "studies/")
    assert not found.good
    assert "/proc/hpo/studies is not writable" in found.found
    assert found.advice is not None
    assert "--home" in found.advice


def test_a_tracking_server_is_asked_without_telling_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
        assert check(tmp_path, "mlflow") == Check("mlflow", True, f"127.0.0.1:{port} answers")
    found = check(tmp_path, "mlflow")
    assert not found.good
    assert f"127.0.0.1:{port} does not answer" in found.found
    assert "secret" not in str(found)


def test_a_database_is_named_without_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check(tmp_path, "mlflow").found == "the embedded store, mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/mlflow")
    assert check(tmp_path, "mlflow").found == "postgresql"
