"""How a study stands, in words, and what to type next; for the ``hpo`` command."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.paths import Home, StudyPaths
from hpo.tables import best_first, number, show
from hpo.tracking.redact import printable, redact

if TYPE_CHECKING:
    from rich.console import Console

    from hpo.orchestrator import Ended
    from hpo.reproduce import Reproduced
    from hpo.spec import StudySpec
    from hpo.tracking import Shipped

MOST_CHANGES = 20  # of the environment, that are printed

Status = Mapping[str, Any]  # what `hpo.results.status` returns


def print_outcome(spec: StudySpec, home: Home, ended: Ended, console: Console) -> None:
    """How a run of a study ended: its best trials, what MLflow lacks, and what to type next."""
    from hpo import results

    status = results.status(spec.study, home)
    click.echo(f"\n{spec.study}: {ended.reason} ({counts(status)}).\n")
    table = best_first(results.trials(spec.study, home), status["objective"])
    table = table[table["state"] == "complete"].drop(columns=["state", "reason"])
    if status["pareto"] is not None:
        table = table[table["number"].isin([trial["trial"] for trial in status["pareto"]])]
    show(table.head(5), console)
    where = _elsewhere(home.root)
    if ended.state == "interrupted":
        click.echo(
            f"\nGo on from here:\n  {_command('hpo')} {redact(shlex.join(_again(sys.argv[1:])))}"
        )
    click.echo(f"\nEvery trial:\n  {_command('hpo')} trials {spec.study}{where}")
    click.echo(
        f"Curves in the browser, and which trial is really better:\n"
        f"  {_command('hpo')} ui {spec.study}{where}"
    )
    uri = home.tracking_address(spec.tracking.uri)
    if uri.startswith("http"):
        click.echo(f"In MLflow:\n  {redact(uri)}")
    print_pending(status, home.root, ended.shipped.error if ended.shipped else None)


def print_pending(status: Status, home: Path, error: str | None = None) -> None:
    """What MLflow lacks, if anything, and how to send it."""
    pending = status["replica"]["pending"]
    if pending and status["state"] != "running":
        why = f" ({error})" if error else ""
        click.echo(f"MLflow lacks the last {pending} records{why}. Send them:", err=True)
        click.echo(f"  {_command('hpo')} sync {status['study']}{_elsewhere(home)}", err=True)


def print_synced(shipped: Shipped, paths: StudyPaths, verify: bool) -> None:
    """Whether MLflow has everything of a study, and where it is not the same."""
    name, compared = paths.root.name, shipped.compared
    if shipped.pending:
        click.echo(f"{shipped.pending} records are still to be sent: {shipped.error}", err=True)
        return
    click.echo(f"MLflow has everything of {name}.")
    if compared is None:
        if verify:
            why = shipped.error or f"{name} is running; ask again when it is over"
            click.echo(f"Not compared: {why}", err=True)
        return
    for difference in compared.differences:
        click.echo(difference)
    if compared.different > len(compared.differences):
        click.echo(f"… and {compared.different - len(compared.differences)} more")
    what = f"{compared.runs:,} runs, {compared.values:,} values"
    differ = f"{compared.different:,} differ{'s' * (compared.different == 1)}"
    click.echo(f"{what}: {differ if compared.different else 'equal'}.")
    if compared.gone:
        click.echo(f"{compared.gone} files are gone from {paths.root} and were not compared.")
    if compared.different:
        click.echo(
            "MLflow keeps what it was once sent: sending it again replaces no parameter and no "
            "metric.\nTo have these runs written anew, delete them in MLflow and delete "
            f"{paths.shipped}; then:\n  {_command('hpo')} sync {name} --verify",
            err=True,
        )


def counts(status: Status) -> str:
    """``9 complete, 6 pruned``."""
    return ", ".join(f"{n} {state}" for state, n in status["trials"].items() if n) or "no trials"


def worker_lines(status: Status) -> list[str]:
    """``worker 0: trial 7 at epoch 12``, ``worker 1: 25 trials in lanes at epochs 3–17``."""
    lines = []
    for worker in status["workers"]:
        trials, epochs = worker["trials"], worker["epochs"]
        several = f"–{max(epochs)}" if max(epochs) > min(epochs) else ""  # noqa: RUF001
        what = f"trial {trials[0]}" if len(trials) == 1 else f"{len(trials)} trials in lanes"
        at = "epochs" if several else "epoch"
        on = f" on {worker['node']}" if worker["node"] else ""
        lines.append(f"worker {worker['worker']}{on}: {what} at {at} {min(epochs)}{several}")
    return lines


def best_line(status: Status) -> str:
    """``best: trial 7 with val/loss 0.9352 at epoch 12``; there must be a best one."""
    best, metric = status["best"], status["objective"][0]["metric"]
    value = number(best["value"])
    return f"best: trial {best['trial']} with {metric} {value} at epoch {best['epoch']}"


def print_reproduced(done: Reproduced) -> None:
    """Whether a trial trained anew gave the same numbers, and what differs here."""
    epochs = f"{done.epochs} epoch{'s' * (done.epochs != 1)}"
    what = f"trial {done.trial} of {done.study}, {epochs}, {done.values} values"
    largest = done.largest
    if done.failure is not None:
        click.echo(f"It broke off: {done.failure}")
    if done.values == 0:
        click.echo(f"{what}: nothing to compare.")
    elif largest is None:
        click.echo(f"{what}: the same, number for number.")
    elif largest.then is None or largest.now is None:
        when = "now" if largest.now is None else "then"
        click.echo(f"{what}: {largest.metric} is missing {when}, first at epoch {largest.epoch}.")
    else:
        within = ", which counts as the same" if done.same else ""
        click.echo(
            f"{what}: the largest difference is {largest.relative:.2g} (relative){within}: "
            f"{largest.metric} at epoch {largest.epoch}, {largest.then!r} then, "
            f"{largest.now!r} now."
        )
    changes = {**({"data": done.data} if done.data else {}), **done.environment}
    click.echo("What differs here:" if changes else "Code, packages, data and machine are alike.")
    for name, (then, now) in list(changes.items())[:MOST_CHANGES]:
        click.echo(f"  {name}: {_shown(then)} → {_shown(now)}")
    if len(changes) > MOST_CHANGES:
        click.echo(f"  and {len(changes) - MOST_CHANGES} more; --json has them all")


def _shown(value: Any) -> str:
    return "none" if value is None else printable(str(value)[:80])


def _again(arguments: Sequence[str]) -> list[str]:
    """The command without ``--trials``, which the study keeps: +20 would count anew."""
    again: list[str] = []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if "--trials" not in (before, argument.partition("=")[0]):
            again.append(argument)
    return again


def _command(name: str) -> str:
    """How this program was called, so that the commands it prints can be typed as they are."""
    beside = Path(sys.argv[0]).with_name(name)
    if shutil.which(name) == str(beside.resolve()) or not beside.exists():
        return name
    return _short(beside)


def _elsewhere(home: Path) -> str:
    """`` --home DIR`` where a command needs it to find the same studies."""
    return "" if home.resolve() == Path().resolve() else f" --home {_short(home)}"


def _short(path: Path) -> str:
    """A path to type: from the current folder if it lies in there, quoted if need be."""
    absolute, here = path.absolute(), Path().absolute()
    return shlex.quote(
        str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
    )
