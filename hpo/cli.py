"""The ``hpo`` command: parse, call one function, print.

Exit codes: 0 done, 1 failed, 2 the input must change, 130 after Ctrl-C, 143 after SIGTERM.
With ``--json`` a command prints one object to stdout and nothing else there.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo import __version__
from hpo.errors import HpoError, UserError
from hpo.paths import Home

if TYPE_CHECKING:
    from rich.console import Console

    from hpo.live import LineView, LiveView
    from hpo.spec import StudySpec

as_json = click.option("--json", "json_", is_flag=True, help="Print one JSON object instead.")
home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="The folder in which studies/ and mlruns/ lie; the current one by default.",
)
study_argument = click.argument("study")
file_argument = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="STUDY_FILE"
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the file, e.g. --set train.epochs=3; may be repeated.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Search hyperparameters with one study file; record every trial in MLflow.

    Start with `hpo run studies/quickstart.yaml`.
    """


@cli.command()
@file_argument
@set_option
@home_option
@as_json
def run(file: Path, overrides: tuple[str, ...], home: Path, json_: bool) -> None:
    """Run a study, or go on where it stopped.

    Ctrl-C lets each worker finish its epoch and save; the same command then goes on from there.
    Twice stops at once. With --json it ends with what `hpo status --json` prints.

    Example: hpo run studies/quickstart.yaml --set budget.trials=100
    """
    from hpo import results
    from hpo.launch import run_study
    from hpo.outcome import print_outcome

    spec = _load(file, overrides)
    where = Home(home.resolve())
    with _view(json_) as view:
        for warning in spec.warnings:
            view.say(f"warning: {warning.render(str(spec.file))}")
        ended = run_study(spec, where, view)
    if json_:
        _print_json(results.status(spec.study, where))
    else:
        print_outcome(spec, where, ended, _console())
    sys.exit(ended.exit_code)


@cli.command()
@file_argument
@set_option
@click.option(
    "--no-import", is_flag=True, help="Do not start a worker to try the trainer and the data."
)
@as_json
def validate(file: Path, overrides: tuple[str, ...], no_import: bool, json_: bool) -> None:
    """Check a study file, its data and its trainer; create nothing.

    Example: hpo validate studies/quickstart.yaml
    """
    from hpo.samplers import choose_sampler

    spec = _load(file, overrides)
    if not no_import:
        from hpo.launch import probe

        with _view(json_) as view:
            probe(spec, view)
    sampler, why = choose_sampler(spec)
    warnings = [warning.render(str(spec.file)) for warning in spec.warnings]
    if json_:
        _print_json({"study": spec.study, "valid": True, "warnings": warnings})
        return
    for warning in warnings:
        click.echo(f"warning: {warning}")
    click.echo(
        f"{file}: good. Study {spec.study}: {spec.trainer}, {len(spec.search)} searched, "
        f"sampler {sampler}{f' ({why})' if why else ''}, pruner {spec.pruner.name}."
    )


@cli.command()
@study_argument
@home_option
@as_json
def status(study: str, home: Path, json_: bool) -> None:
    """How a study stands: its state, how many trials are in which state, and the best.

    With --json: `study`, `state`, `trials` (a number for each state), `best` (`trial`, `value`,
    `epoch`, `params`, `metrics`, `run_id`), and more.

    Example: hpo status quickstart --json
    """
    from hpo import results
    from hpo.outcome import best_line, counts, print_pending

    found = results.status(study, home)
    if json_:
        _print_json(found)
        return
    click.echo(f"{found['study']}: {found['state']} ({counts(found)})")
    if found["best"]:
        click.echo(best_line(found))
    print_pending(found, home)


@cli.command()
@study_argument
@home_option
@as_json
def best(study: str, home: Path, json_: bool) -> None:
    """The best trial of a study: its value, parameters and metrics.

    With several objectives, the trials that no other beats in all of them.

    Example: hpo best quickstart
    """
    from hpo import results
    from hpo.outcome import best_line
    from hpo.tables import number

    found = results.status(study, home)
    best, front = found["best"], found["pareto"]
    if json_:
        _print_json({"study": found["study"], "best": best, "pareto": front})
    elif best:
        click.echo(best_line(found))
        for title in ("params", "metrics"):
            click.echo(f"{title}:")
            for key, value in best[title].items():
                click.echo(f"  {key:<24} {number(value)}")
        click.echo(f"MLflow run: {best['run_id'] or 'not sent yet'}")
    elif front:
        click.echo("No other trial beats these in every objective:")
        for trial in front:
            values = (f"{metric} {number(value)}" for metric, value in trial["values"].items())
            click.echo(f"  trial {trial['trial']}: {', '.join(values)}")
    else:
        click.echo(f"{found['study']} has no complete trial yet.")


@cli.command()
@study_argument
@home_option
@click.option("--sort", metavar="COLUMN", help="Sort by a column; -COLUMN for the largest first.")
@click.option("--where", metavar="QUERY", help="A pandas query, e.g. 'state == \"complete\"'.")
@click.option("--top", type=click.IntRange(1), help="Only the first so many.")
@click.option("--csv", is_flag=True, help="Print every column as CSV.")
@as_json
def trials(
    study: str,
    home: Path,
    sort: str | None,
    where: str | None,
    top: int | None,
    csv: bool,
    json_: bool,
) -> None:
    """The trials of a study, best first.

    Columns with a dot go in backticks in a query.

    Example: hpo trials quickstart --where '`params.train.lr` > 0.1' --sort -seconds --top 5
    """
    from hpo import results, tables

    table = results.trials(study, home)
    if where:
        try:
            table = table.query(where)
        except Exception as error:  # pandas raises whatever its expression parser meets
            raise UserError(
                f"--where {where!r}: {error}\nNames with a dot or slash go in backticks. "
                f"Columns: {', '.join(map(str, table))}"
            ) from error
    if sort:
        column = sort.removeprefix("-")
        if column not in table:
            raise UserError(
                f"--sort {column}: no such column; there are {', '.join(map(str, table))}"
            )
        table = table.sort_values(column, ascending=not sort.startswith("-"), kind="stable")
    else:
        table = tables.best_first(table, results.status(study, home)["objective"])
    table = table.head(top) if top else table
    if json_:
        _print_json({"trials": tables.records(table)})
    elif csv:
        click.echo(table.to_csv(index=False), nl=False)
    else:
        tables.show(table, _console())


@cli.command()
@study_argument
@home_option
@as_json
def sync(study: str, home: Path, json_: bool) -> None:
    """Send to MLflow what it lacks of a study.

    Example: hpo sync quickstart
    """
    from hpo import results, tracking

    where = Home(home.resolve())
    name = results.name_of(study)
    results.status(name, home)  # an unknown study is said so
    uri = where.tracking_address(results.tracking_uri(name, home))
    shipped = tracking.sync(where.study(name), where, uri)
    if json_:
        _print_json({"study": name, "pending": shipped.pending, "error": shipped.error})
    elif shipped.pending:
        click.echo(f"{shipped.pending} records are still to be sent: {shipped.error}", err=True)
    else:
        click.echo(f"MLflow has everything of {name}.")
    sys.exit(1 if shipped.pending else 0)


@cli.command()
@click.option("--json", is_flag=True, expose_value=False, help="It is JSON in any case.")
def schema() -> None:
    """The JSON Schema of the study file, for editors.

    Example: hpo schema > study.schema.json
    """
    from hpo.spec import schema as study_schema

    _print_json(study_schema())


@cli.command()
@home_option
@as_json
def doctor(home: Path, json_: bool) -> None:
    """What this machine has: devices, versions, stores, space.

    Example: hpo doctor
    """
    from hpo.doctor import examine

    checks = examine(Home(home.resolve()))
    good = all(check.good for check in checks)
    if json_:
        _print_json({"good": good, "checks": [vars(check) for check in checks]})
    else:
        for check in checks:
            mark = click.style("✓", fg="green") if check.good else click.style("✗", fg="red")
            click.echo(f"{mark} {check.name:<16} {check.found}")
            if check.advice:
                click.echo(f"  {'':<16} {check.advice}")
    sys.exit(0 if good else 1)


def _load(file: Path, overrides: tuple[str, ...]) -> StudySpec:
    from hpo import spec

    values: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"--set {override}: expected KEY=VALUE, e.g. --set train.epochs=3")
        values[key] = spec.parse_value(text)
    return spec.load(file, values)


def _console(json_: bool = False) -> Console:
    """On stdout, or on stderr where stdout is for the JSON object."""
    from rich.console import Console

    return Console(stderr=json_, highlight=False, markup=False, emoji=False)


def _view(json_: bool) -> LiveView | LineView:
    from hpo.live import view_on

    return view_on(_console(json_))


def _print_json(value: Any) -> None:
    from hpo.tables import plain

    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def main() -> None:
    """The console script: errors that hpo can explain have no traceback."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without our signs gets others
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        cli(prog_name="hpo", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        _print_error_as_json(error.format_message())
        error.show()
        sys.exit(error.exit_code)
    except HpoError as error:
        _print_error_as_json(str(error))
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


def _print_error_as_json(message: str) -> None:
    if "--json" in sys.argv:
        _print_json({"error": message})


if __name__ == "__main__":
    main()
