"""Names, numbers and records of others cannot lead out of their folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recorded import Recorded, finished

from app import files
from hpo import spec
from hpo.errors import StudyFileError, UserError
from hpo.paths import Home, StudyPaths
from hpo.results.catalog import Catalog
from hpo.tracking import provenance, sync

CANARY = "canary-beside-the-study"

# What climbs, and what a file system or a shell may take for something else.
PIECES = st.sampled_from(
    ["..", ".", "/", "\\", "~", "a", "é", " ", "\0", "\n", "%2e%2e", "%2f", "$HOME", "-", "con:"]
)
NAMES = st.lists(PIECES, max_size=6).map("".join) | st.text(max_size=12)


@settings(max_examples=100, deadline=None)
@given(name=NAMES)
def test_a_study_s_name_is_that_of_a_folder_in_studies(name: str) -> None:
    text = f"study: {spec_text(name)}\ntrainer: tabular\ndata: {{source: wine}}\n"
    try:
        study = spec.loads(text.encode(errors="surrogatepass"), Path("/nowhere/study.yaml")).study
    except StudyFileError:
        return
    root = Home(Path("/home/x")).study(study).root
    assert os.path.normpath(root) == f"/home/x/studies/{study}"
    assert os.path.basename(root) == study
    assert not study.startswith((".", "-"))


def spec_text(name: str) -> str:
    """As a double-quoted text of YAML."""
    escaped = "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}"
        for c in name
    )
    return f'"{escaped}"'


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    """A study's folder with links out of it, and a file beside it."""
    root = tmp_path_factory.mktemp("home") / "studies" / "a"
    root.mkdir(parents=True)
    (root / "a").write_text("own")
    (root.parent / "é").write_text(CANARY)
    (root / "con:").symlink_to(root.parent / "é")
    (root / "~").symlink_to(root.parent)
    (root / "$HOME").symlink_to(root / "$HOME")  # to itself
    return StudyPaths(root)


@settings(max_examples=300, deadline=None)
@given(name=NAMES)
@example("a")
@example("con:")
@example("~/é")
@example("../é")
def test_what_a_study_has_lies_in_its_folder(linked: StudyPaths, name: str) -> None:
    path = linked.root / name
    try:
        content = path.read_text()
    except (OSError, ValueError):  # there is no such file
        content = None
    assert linked.has(path) == (content == "own")


@pytest.mark.slow
def test_a_colleague_s_study_gives_away_no_file_of_mine(tmp_path: Path) -> None:
    """Its records and its folder name files, which `hpo sync` would send and a page would show."""
    secret = tmp_path / "id_rsa.txt"
    secret.write_text(CANARY)
    study = Recorded(tmp_path / "home")
    number = study.begin()
    study.epoch(number, 1, {"val/accuracy": 0.5})
    folder = study.paths.trial(number)
    folder.mkdir(parents=True)
    (folder / "link.txt").symlink_to(secret)
    (folder / "own.txt").write_text("own")
    (study.paths.root / "away").symlink_to(tmp_path)
    study.paths.examples.symlink_to(secret)
    artifacts = {
        "absolute.txt": str(secret),
        "climbs.txt": "../../../id_rsa.txt",
        "link.txt": f"trials/{number}/link.txt",
        "folder.txt": "away/id_rsa.txt",
        "own.txt": f"trials/{number}/own.txt",
    }
    study.end(number, values=[0.5], best_epoch=1, last_epoch=1, artifacts=artifacts)
    study.over()
    catalog = Catalog(tmp_path / "home")
    assert list(catalog.artifacts("digits", number)) == ["own.txt"]
    for name in ("link.txt", "../../../../id_rsa.txt", str(secret)):
        with pytest.raises(UserError, match="has no file"):
            catalog.artifact("digits", number, name)
    assert catalog.examples("digits") is None
    shipped = sync(study.paths, study.home, study.home.tracking_uri)
    assert (shipped.pending, shipped.error) == (0, None)
    sent = [path for path in study.home.artifacts.rglob("*") if path.is_file()]
    assert "own.txt" in {path.name for path in sent}
    assert not [path for path in sent if CANARY.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", ["../away", "..", "/etc", "a/../../b", "digits/..", "\0"])
def test_a_command_knows_no_study_outside(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from command import hpo

    finished(tmp_path / "away", trials=1)
    (tmp_path / "studies").mkdir()
    (tmp_path / "away" / "studies" / "digits").rename(tmp_path / "away2")
    monkeypatch.chdir(tmp_path)
    for command in ("status", "trials", "best", "sync", "stop", "report"):
        said = hpo(command, name, "--home", tmp_path)
        assert said.code == 2, (command, said)
        assert "no study" in said.err or "has no `study:`" in said.err or "there is" in said.err


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_colleague_s_repository_runs_no_program_of_its_own(tmp_path: Path) -> None:
    """git runs what a repository's configuration names, when it is asked what has changed."""
    ran = tmp_path / "ran"
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "--initial-branch=main")
    (repository / "data.csv").write_text("1\n")
    git(repository, "add", "--all")
    git(repository, "commit", "-m", "first")
    for key in ("filter.a=b.clean", "filter.lfs.process", "filter.lfs.clean", "core.fsmonitor"):
        git(repository, "config", key, f"touch '{ran}'; cat")
    git(repository, "config", "filter.lfs.required", "true")
    (repository / ".gitattributes").write_text("*.csv filter=lfs\n*.txt filter=a=b\n")
    (repository / "data.csv").write_text("2\n")
    found = provenance.describe_repository(repository)
    assert found is not None
    assert found["dirty"]
    assert "+2" in found["diff"]
    assert not ran.exists()
    subprocess.run(["git", "status"], cwd=repository, capture_output=True)
    assert ran.exists()  # it would have worked


def test_a_file_for_a_spreadsheet_has_no_formulas() -> None:
    import io

    import pandas as pd

    table = pd.DataFrame(
        {
            "=1+1": ['=cmd|"/C calc"!A0', "+1", "-2+3", "@SUM(1)", "\t=1", "plain", None],
            "value": [-1.5, 2, 3, 4, 5, 6, 7],
        }
    )
    again = pd.read_csv(io.StringIO(files.csv(table)), keep_default_na=False)
    assert [str(name)[0] for name in again] == ["'", "v"]
    assert not [text for text in again.iloc[:, 0] if str(text).startswith(files.FORMULA)]
    assert list(again.iloc[:2, 0]) == ['\'=cmd|"/C calc"!A0', "'+1"]
    assert list(again["value"]) == list(table["value"])
