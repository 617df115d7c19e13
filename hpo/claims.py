"""Which attempt of a trial may write into its folder.

A worker on a machine that was cut off from the cluster, or frozen, knows nothing of it and trains
on, while its trial goes on elsewhere or has ended. Its reports have no reader; but the trial's
folder is shared. So a small file says which attempt is the present one, and a worker reads it
when all is written, before a file takes its name (`hpo.paths.replacing`). One that is frozen
between the two for as long as its trial needs elsewhere would still be too late.
"""

from __future__ import annotations

from pathlib import Path

from hpo.paths import make_folder, room_for


class Superseded(RuntimeError):
    """The trial was given to another worker meanwhile, or has ended."""


def give(claim: Path, attempt: int) -> None:
    """Let this attempt write, and no earlier one.

    Not flushed to the disk: a machine that crashes takes all attempts on it along, and the next
    run of the study gives the trial another number.

    Raises:
        NoRoom: The disk has no room for it.
    """
    make_folder(claim.parent)
    with room_for(claim):
        claim.write_text(str(attempt))


def check(claim: Path, attempt: int) -> None:
    """Raise `Superseded` unless this attempt may write."""
    try:
        present = claim.read_text()
    except FileNotFoundError:
        raise Superseded("the trial has ended, by what others have done") from None
    if present != str(attempt):
        raise Superseded(f"the trial goes on elsewhere (attempt {present or '?'} of it)")


def take_back(claim: Path) -> None:
    """Let nobody write any more."""
    claim.unlink(missing_ok=True)
