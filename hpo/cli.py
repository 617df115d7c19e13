"""The ``hpo`` command: parse, call one function, print.

Exit codes: 0 done, 1 failed, 2 the input must change, 130 after Ctrl-C, 143 after SIGTERM.
With ``--json`` a command prints one object to stdout and nothing else there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo import __version__
from hpo.errors import HpoError, UserError
from hpo.paths import Home

if TYPE_CHECKING:
    import pandas as pd

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
    Twice stops at once.

    Example: hpo run studies/quickstart.yaml --set budget.trials=100
    """
    from hpo import results
    from hpo.orchestrator import run_study

    spec = _load(file, overrides)
    where = Home(home.resolve())
    with _view(json_) as view:
        for warning in spec.warnings:
            view.say(f"warning: {warning.render(str(spec.file))}")
        ended = run_study(spec, where, view)
    status = results.status(spec.study, home)
    if json_:
        _print_json(status)
    else:
        _print_outcome(spec, where, ended.reason, status)
        if ended.shipped and ended.shipped.pending:
            click.echo(
                f"MLflow lacks the last {ended.shipped.pending} records "
                f"({ended.shipped.error}); send them with: {_command()} sync {spec.study}",
                err=True,
            )
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
    from hpo.search import choose_sampler

    spec = _load(file, overrides)
    if not no_import:
        from hpo.orchestrator import probe

        with _view(json_) as view:
            probe(spec, Home(Path().resolve()), view)
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
    """How a study stands. STUDY is its name or its file.

    Example: hpo status quickstart --json
    """
    from hpo import results

    found = results.status(study, home)
    if json_:
        _print_json(found)
        return
    counts = ", ".join(f"{n} {state}" for state, n in found["trials"].items() if n) or "no trials"
    click.echo(f"{found['study']}: {found['state']} ({counts})")
    if found["best"]:
        click.echo(_best_line(found["best"]))
    pending = found.get("replica", {}).get("pending")
    if pending:
        click.echo(f"MLflow lacks the last {pending} records: {_command()} sync {found['study']}")


@cli.command()
@study_argument
@home_option
@as_json
def best(study: str, home: Path, json_: bool) -> None:
    """The best trial of a study: its value, parameters and metrics.

    Example: hpo best quickstart
    """
    from hpo import results

    found = results.status(study, home)
    if json_:
        _print_json(found["best"] or found.get("pareto"))
    elif found["best"]:
        click.echo(_best_line(found["best"]))
        for title in ("params", "metrics"):
            for key, value in found["best"][title].items():
                click.echo(f"  {key:<24} {_number(value)}")
        click.echo(f"  {'MLflow run':<24} {found['best']['run_id']}")
    elif found.get("pareto"):
        click.echo(f"{len(found['pareto'])} trials that no other beats in every objective:")
        for trial in found["pareto"]:
            click.echo(f"  trial {trial['trial']}: {trial['values']}")
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
    from hpo import results

    table = results.trials(study, home)
    if where:
        try:
            table = table.query(where)
        except Exception as error:  # pandas raises whatever its expression parser meets
            columns = ", ".join(table.columns)
            raise UserError(f"--where {where!r}: {error}\nColumns: {columns}") from error
    if sort:
        column = sort.removeprefix("-")
        if column not in table:
            raise UserError(f"--sort {column}: no such column; there are {', '.join(table)}")
        table = table.sort_values(column, ascending=not sort.startswith("-"), kind="stable")
    else:
        table = _best_first(table, results.status(study, home))
    table = table.head(top) if top else table
    if json_:
        _print_json({"trials": json.loads(table.to_json(orient="records", double_precision=15))})
    elif csv:
        click.echo(table.to_csv(index=False), nl=False)
    else:
        _print_table(table)


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
        raise HpoError(f"{shipped.pending} records are still to be sent: {shipped.error}")
    else:
        click.echo(f"MLflow has everything of {name}.")


@cli.command()
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


def _view(json_: bool) -> Any:
    from rich.console import Console

    from hpo.live import LineView, LiveView

    console = Console(stderr=json_)
    return LiveView(console) if console.is_terminal else LineView(console.file)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_outcome(spec: StudySpec, home: Home, reason: str, status: Mapping[str, Any]) -> None:
    from hpo import results

    counts = ", ".join(f"{n} {state}" for state, n in status["trials"].items() if n)
    click.echo(f"\n{spec.study}: {reason} ({counts}).")
    table = _best_first(results.trials(spec.study, home.root), status)
    leaders = table[table["state"] == "complete"].head(5)
    _print_table(leaders.drop(columns=["state", "reason"], errors="ignore"))
    uri = home.tracking_address(spec.tracking.uri)
    address = f"sqlite:///{_short(home.mlruns / 'mlflow.db')}" if uri == home.tracking_uri else uri
    click.echo("\nNext:")
    click.echo(f"  {_command()} trials {spec.study}".ljust(62) + "every trial")
    if uri.startswith("http"):
        click.echo(f"  {uri}".ljust(62) + "curves in the browser")
    else:
        command = f"  {_command('mlflow')} ui --backend-store-uri {address}"
        click.echo(command.ljust(62) + " curves in the browser")


def _best_line(best: Mapping[str, Any]) -> str:
    return f"best: trial {best['trial']} with {_number(best['value'])} at epoch {best['epoch']}"


def _best_first(table: pd.DataFrame, status: Mapping[str, Any]) -> pd.DataFrame:
    """Complete trials first, each group by value, as the goal has it."""
    maximize = status["objective"][0]["goal"] == "maximize"
    ranked = table.assign(_open=table["state"] != "complete")
    ranked = ranked.sort_values(["_open", "value"], ascending=[True, not maximize], kind="stable")
    return ranked.drop(columns="_open")


def _print_table(table: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table

    titles = {
        "number": "trial",
        "state": "state",
        "value": "value",
        "best_epoch": "epoch",
        "seconds": "seconds",
    }
    params = [column for column in map(str, table) if column.startswith("params.")]
    titles |= {column: column.removeprefix("params.").removeprefix("train.") for column in params}
    titles |= {"reason": "reason"}
    printed = Table(box=None, padding=(0, 1), header_style="bold")
    shown = [column for column in titles if column in table and table[column].notna().any()]
    for column in shown:
        numeric = table[column].dtype.kind in "if"
        printed.add_column(titles[column], justify="right" if numeric else "left", no_wrap=True)
    for row in table[shown].itertuples(index=False):
        printed.add_row(*(_number(value) for value in row))
    console = Console()
    if not console.is_terminal:
        console.width = 500  # a pipe has no edge at which to cut
    console.print(printed)


def _number(value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _command(name: str = "hpo") -> str:
    """How this program was called, so that the commands it prints can be typed as they are."""
    import shutil

    beside = Path(sys.argv[0]).with_name(name)
    if shutil.which(name) == str(beside.resolve()) or not beside.exists():
        return name
    return _short(beside)


def _short(path: Path) -> str:
    resolved = path.absolute()
    here = Path().absolute()
    return str(resolved.relative_to(here) if resolved.is_relative_to(here) else resolved)


def main() -> None:
    """The console script: errors that hpo can explain have no traceback."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HpoError as error:
        if "--json" in sys.argv:
            _print_json({"error": str(error)})
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
