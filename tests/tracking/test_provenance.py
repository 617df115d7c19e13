"""Provenance: the commit, the diff and the versions; no secrets."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from hpo.tracking import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = [
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@example.org",
        "-c",
        "commit.gpgsign=false",
    ]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--initial-branch=main")
    (tmp_path / "model.py").write_text("width = 1\n")
    (tmp_path / ".env").write_text("TOKEN=one\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "study.yaml").write_text("study: s\n")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_a_clean_repository_is_its_commit(repository: Path) -> None:
    found = provenance.describe_repository(repository / "sub")
    assert found is not None
    assert found["commit"] == git(repository, "rev-parse", "HEAD")
    assert (found["branch"], found["dirty"], found["diff"]) == ("main", False, "")


def test_the_diff_brings_a_clean_checkout_to_the_same_state(repository: Path) -> None:
    (repository / "model.py").write_text("width = 2\n")
    (repository / "new.py").write_text("")
    found = provenance.describe_repository(repository / "sub")  # changes lie outside `sub`
    assert found is not None
    assert found["dirty"]
    assert found["untracked"] == ["new.py"]
    git(repository, "checkout", "--", "model.py")
    subprocess.run(["git", "apply"], cwd=repository, input=found["diff"], text=True, check=True)
    assert (repository / "model.py").read_text() == "width = 2\n"


def test_secrets_are_withheld(repository: Path) -> None:
    (repository / ".env").write_text("TOKEN=s3cret\n")
    (repository / "model.py").write_text("address = 'http://ann:s3cret@host'\n")
    git(repository, "remote", "add", "origin", "https://ann:s3cret@example.org/r.git")
    found = provenance.describe_repository(repository)
    assert found is not None
    assert "s3cret" not in json.dumps(found)
    assert found["remote"] == "https://***@example.org/r.git"
    assert any(".env" in note for note in found["notes"])


def test_a_long_diff_is_cut_and_says_so(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "MAX_DIFF_CHARS", 200)
    (repository / "model.py").write_text("x" * 1000 + "\n")
    found = provenance.describe_repository(repository)
    assert found is not None
    assert len(found["diff"]) == 200
    assert any("first 200" in note for note in found["notes"])


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "--initial-branch=main")
    (tmp_path / "a").write_text("")
    found = provenance.describe_repository(tmp_path)
    assert found is not None
    assert (found["commit"], found["dirty"], found["diff"]) == (None, True, "")


def test_no_repository_is_none(tmp_path: Path) -> None:
    assert provenance.describe_repository(tmp_path) is None


def test_without_git_there_is_no_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert provenance.describe_repository(repository) is None


def test_a_program_named_by_the_repository_is_not_run(repository: Path) -> None:
    ran = repository / "ran"
    for key in ("core.fsmonitor", "diff.external", "diff.x.textconv"):
        git(repository, "config", key, f"touch {ran} #")
    (repository / ".gitattributes").write_text("*.py diff=x\n")
    (repository / "model.py").write_text("width = 2\n")
    assert provenance.describe_repository(repository) is not None
    assert not ran.exists()


def test_versions_and_machine_are_named(tmp_path: Path) -> None:
    found = provenance.collect(tmp_path)
    assert {"torch", "mlflow", "optuna"} <= set(found["packages"])
    assert all(found[key] for key in ("python", "platform", "cpu", "cpus", "hostname"))
    json.dumps(found)


def test_a_package_that_is_half_removed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone-1.0.dist-info").mkdir()  # as pip has it for a moment
    whole = tmp_path / "whole-2.0.dist-info"
    whole.mkdir()
    (whole / "METADATA").write_text("Metadata-Version: 2.1\nName: whole\nVersion: 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    packages = provenance._packages.__wrapped__()
    assert packages["whole"] == "2.0"
    assert "gone" not in packages
