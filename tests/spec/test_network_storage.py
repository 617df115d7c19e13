"""Row 23 of the fault matrix: SQLite is refused where its locks do not work."""

from __future__ import annotations

from pathlib import Path

import pytest
from workbench import Workbench

from hpo import paths
from hpo.errors import StudyFileError


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs"])
def test_row_23_sqlite_on_a_network_file_system_is_refused(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    share = bench.folder / "our share"
    (share / "deep").mkdir(parents=True)
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\n"
        f"files:/export {str(share).replace(' ', chr(92) + '040')} {kind} rw,vers=4.2 0 0\n"
    )
    monkeypatch.setattr(paths, "MOUNTS", mounts)
    with pytest.raises(StudyFileError, match="(?s)postgresql://.*of this machine") as refused:
        bench.load(storage=f"sqlite:///{share}/deep/optuna.db")
    assert f"{share / 'deep'} is on a network file system ({kind})" in str(refused.value)
    bench.load(storage=f"sqlite:///{bench.folder}/optuna.db")  # beside it
    bench.load(storage="journal")
