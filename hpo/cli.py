"""The ``hpo`` command: parse, call one function, print.

Exit codes: 0 done, 1 failed, 2 the input must change, 130 after Ctrl-C, 143 after SIGTERM (both
0 of `server` and `ui`, which only so end).
With ``--json`` a command prints one object to stdout and nothing else there.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import traceback
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from hpo import __version__
from hpo.errors import ClusterLost, HpoError, UserError
from hpo.paths import Home
from hpo.tracking.redact import for_screen, redact

if TYPE_CHECKING:
    from rich.console import Console

    from hpo.live import LineView, LiveView
    from hpo.requests import Trials
    from hpo.results.catalog import Catalog
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
allow_host_option = click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="A name by which people open it, e.g. of the proxy before it; may be repeated.",
)
tracking_uri_option = click.option(
    "--tracking-uri",
    metavar="URI",
    help="Where MLflow is; MLFLOW_TRACKING_URI by default, else the store in --home. Put an "
    "address with a password into that variable: command lines are visible to everyone.",
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
@click.option(
    "--trials",
    metavar="N",
    help="So many trials in total, or +N for N more than now; short for --set budget.trials=N. "
    "If another process runs the study, that one goes on to as many.",
)
@click.option(
    "--accept-changes",
    is_flag=True,
    help="Go on although the search space has become wider, or the data have been moved, since "
    "the study was begun.",
)
@home_option
@as_json
def run(
    file: Path,
    overrides: tuple[str, ...],
    trials: str | None,
    accept_changes: bool,
    home: Path,
    json_: bool,
) -> None:
    """Run a study, or go on where it stopped.

    Ctrl-C lets each worker finish its epoch and save; the same command then goes on from there.
    Twice stops at once. The number of trials that a command line asks for is kept: later runs
    without one go on to as many, or to the file's if that is more. With --json it ends with what
    `hpo status --json` prints.

    A study whose file has changed goes on where the trials so far compare with those to come:
    with another budget, sampler, pruner, number of workers and the like; and after
    --accept-changes with wider ranges, more choices, or the same data from elsewhere. Else the
    differences are shown.

    Example: hpo run studies/quickstart.yaml --trials 100
    """
    from hpo import results
    from hpo.launch import run_study, tell_running, total_trials
    from hpo.outcome import print_outcome

    spec = _load(file, overrides)
    where = Home(home.resolve())
    told = None
    if trials is not None:
        wanted = _wanted(trials)
        told = tell_running(spec, where, wanted)
        if told is None:
            total = total_trials(spec, where, wanted)
            spec = _load(file, (*overrides, f"budget.trials={total}"))
    if told is not None:
        click.echo(told, err=json_)
        if json_:
            _print_json(results.status(spec.study, where))
        return
    with _view(json_) as view:
        for warning in spec.warnings:
            view.say(f"warning: {warning.render(str(spec.file))}")
        ended = run_study(spec, where, view, accept_changes=accept_changes)
    if json_:
        _print_json(results.status(spec.study, where))
    else:
        print_outcome(spec, where, ended, _console())
    sys.exit(ended.exit_code)


@cli.command()
@study_argument
@click.option("--now", is_flag=True, help="Without waiting for the end of any epoch.")
@home_option
@as_json
def stop(study: str, now: bool, home: Path, json_: bool) -> None:
    """Stop a running study, as Ctrl-C does where it runs (--now: as twice), and wait for its end.

    Works from another machine, too, where its folder is shared. Trials in training are saved;
    `hpo run` goes on from there. After a minute it no longer waits (exit code 1); the study still
    stops once each worker has finished its epoch.

    Example: hpo stop quickstart
    """
    from hpo import requests, results

    name = results.name_of(study)
    results.status(name, home)  # an unknown study is said so
    ended = requests.stop(Home(home).study(name), now, lambda text: click.echo(text, err=True))
    if json_:
        _print_json({"study": name, "was_running": ended is not None, "stopped": ended is True})
    elif ended is None:
        click.echo(f"{name} is not running.")
    elif ended:
        click.echo(f"{name} has stopped; `hpo run` goes on from here.")
    else:
        click.echo(
            f"{name} will stop at the end of its epochs; `hpo status {name}` says when, "
            "`--now` ends it at once.",
            err=True,
        )
    sys.exit(1 if ended is False else 0)


@cli.command()
@file_argument
@set_option
@click.option(
    "--import", "imports", is_flag=True, help="Import code of your own that the file names, too."
)
@click.option("--file-only", is_flag=True, help="Look at the file alone: no data, no network.")
@as_json
def validate(
    file: Path, overrides: tuple[str, ...], imports: bool, file_only: bool, json_: bool
) -> None:
    """Check a study file and its data; create nothing, and run no code that the file names.

    Of the data it says what a run would: class counts, duplicates, missing values and what columns
    may give away. With --json that is `data`, null where nobody looked at it, and `not_imported`
    names what was left out.

    Example: hpo validate studies/quickstart.yaml
    """
    from hpo.launch import left_out, probe
    from hpo.samplers import choose_pruner, choose_sampler

    spec, data = _load(file, overrides), None
    if imports and file_only:
        raise click.UsageError("--import and --file-only exclude each other")
    if not file_only:
        with _view(json_) as view:
            data = probe(spec, Home(Path()), view, imports=imports)
    warnings = [warning.render(str(spec.file)) for warning in spec.warnings]
    untried = [] if imports else left_out(spec)
    if json_:
        said = {"study": spec.study, "valid": True, "warnings": warnings, "data": data}
        _print_json(said | {"not_imported": untried})
        return
    for warning in warnings:
        click.echo(f"warning: {warning}")
    chosen = (
        f"strategy {spec.strategy.name}"
        if spec.strategy
        else f"sampler {choose_sampler(spec)}, pruner {choose_pruner(spec)}"
    )
    click.echo(
        f"{file}: good. Study {spec.study}: {spec.trainer}, {len(spec.search)} searched, {chosen}."
    )
    if untried:
        click.echo(f"Not imported: {', '.join(untried)}; --import tries it.")


@cli.command()
@study_argument
@home_option
@as_json
def status(study: str, home: Path, json_: bool) -> None:
    """How a study stands: its state, how many trials are in which state, the best, and what
    each worker trains now.

    With --json: `study`, `state`, `trials` (a number for each state), `best` (`trial`, `value`,
    `epoch`, `params`, `metrics`, `run_id`), `workers` (`worker`, `trials`, `epochs`), and more.

    Example: hpo status quickstart --json
    """
    from hpo import results
    from hpo.outcome import best_line, counts, print_pending, worker_lines

    found = results.status(study, home)
    if json_:
        _print_json(found)
        return
    click.echo(f"{found['study']}: {found['state']} ({counts(found)})")
    if found["best"]:
        click.echo(best_line(found))
    for line in worker_lines(found):
        click.echo(line)
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
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@home_option
@tracking_uri_option
@click.option(
    "--metric",
    metavar="NAME",
    help="Test the difference of this metric, e.g. accuracy; the objective by default.",
)
@as_json
def compare(
    runs: tuple[str, ...],
    home: Path,
    tracking_uri: str | None,
    metric: str | None,
    json_: bool,
) -> None:
    """Hold runs against each other: metrics, parameters, and whether the difference is real.

    RUN is STUDY/NUMBER, or STUDY for its best trial, or NUMBER in the study before it. Tests are
    paired on the validation rows (McNemar, DeLong, bootstrap), each against the best run, and
    corrected for their number. A study that is not in --home is looked for in MLflow.

    Example: hpo compare quickstart/38 12 5
    """
    from hpo import comparison
    from hpo.comparison_words import print_comparison

    catalog = _catalog(home, tracking_uri, comparison.studies_in(runs))
    found = comparison.find_runs(runs, catalog, lambda text: click.echo(text, err=True))
    compared = comparison.compared(found, metric)
    if json_:
        _print_json(comparison.as_json(found, compared))
    else:
        print_comparison(found, compared, _console())


@cli.command()
@study_argument
@click.option(
    "--method",
    type=click.Choice(["greedy", "cma", "stack", "top", "all"]),
    default="all",
    help="greedy selection, weights by CMA-ES, stacking, the mean of the top k, or the best of "
    "all these (by default).",
)
@click.option(
    "--top",
    type=click.IntRange(2),
    default=500,
    help="So many of the best trials are candidates; 500 by default.",
)
@click.option(
    "--metric",
    metavar="NAME",
    help="By which it is judged, e.g. log_loss; the objective by default.",
)
@click.option("--non-negative", is_flag=True, help="Stack with one weight a trial, none below 0.")
@click.option(
    "--kept",
    is_flag=True,
    help="Only of trials whose weights are kept (`keep_models`), so that it predicts new rows.",
)
@home_option
@as_json
def ensemble(
    study: str,
    method: str,
    top: int,
    metric: str | None,
    non_negative: bool,
    kept: bool,
    home: Path,
    json_: bool,
) -> None:
    """Combine finished trials to one ensemble, from their validation predictions.

    Nothing is trained. Says which trials with what weight, and whether that is better than the
    best trial alone, on rows that had no part in making it (nested cross-validation); the test
    split is not touched. The ensemble is recorded in the study and in MLflow, there with a model
    that predicts. With --json it prints what `hpo.results.ensemble` returns.

    Example: hpo ensemble quickstart
    """
    from hpo import results, tracking
    from hpo.ensemble import build, record, refuse_if_running
    from hpo.ensemble.words import print_ensemble
    from hpo.outcome import print_pending

    where = Home(home.resolve())
    name = results.name_of(study)
    tables = results.tables(name, where)  # an unknown study is said so
    refuse_if_running(name, where.study(name))
    made = build(
        tables,
        where,
        ["greedy", "cma", "stack", "top"] if method == "all" else [cast(Any, method)],
        top=top,
        metric=metric,
        non_negative=non_negative,
        kept=kept,
        say=lambda text: click.echo(text, err=True),
    )
    number = record(made, where)
    uri = where.tracking_address(results.tracking_uri(name, where))
    shipped = tracking.sync(where.study(name), where, uri)
    facts = results.ensemble(name, number, where)
    if json_:
        _print_json({"study": name, **facts})
        return
    print_ensemble(name, facts, _console())
    print_pending(results.status(name, where), home, shipped.error)


@cli.command()
@study_argument
@click.option(
    "--top",
    type=click.IntRange(1, 100),
    default=3,
    help="So many of the best trials are trained anew; 3 by default.",
)
@click.option(
    "--seeds",
    type=click.IntRange(2, 100),
    default=5,
    help="On so many fresh seeds each; 5 by default.",
)
@click.option(
    "--ensemble",
    type=click.IntRange(0),
    metavar="NUMBER",
    help="The recorded ensemble to judge beside the winner; the newest by default.",
)
@click.option("--no-ensemble", is_flag=True, help="Judge none.")
@click.option("--again", is_flag=True, help="Open the test split another time.")
@home_option
@as_json
def confirm(
    study: str,
    top: int,
    seeds: int,
    ensemble: int | None,
    no_ensemble: bool,
    again: bool,
    home: Path,
    json_: bool,
) -> None:
    """Train the best trials on fresh seeds, then open the test split for the winner, once.

    The search's best value is partly luck; this says what is left of it. The winner is the trial
    with the best mean over seeds that the search has not seen; it, and an ensemble that was
    recorded before, are judged on rows that nobody has chosen by. What came out is recorded, and
    shown again when asked again. With --json it prints what `hpo.results.confirmation` returns.

    Example: hpo confirm quickstart
    """
    from hpo import results, tracking
    from hpo.confirm import confirm as train_anew
    from hpo.confirm_words import print_confirmation, recorded_before
    from hpo.ensemble import refuse_if_running
    from hpo.outcome import print_pending

    def say(text: str) -> None:
        click.echo(text, err=True)

    if no_ensemble and ensemble is not None:
        raise click.UsageError("--ensemble and --no-ensemble do not go together")
    where = Home(home.resolve())
    name = results.name_of(study)
    tables = results.tables(name, where)  # an unknown study is said so
    before = results.confirmation(name, where)
    if before is not None and not again:
        say(recorded_before(name, before))
    else:
        refuse_if_running(name, where.study(name))
        which: Any = "none" if no_ensemble else "newest" if ensemble is None else ensemble
        train_anew(tables, where, top=top, seeds=seeds, ensemble=which, say=say)
    uri = where.tracking_address(results.tracking_uri(name, where))
    shipped = tracking.sync(where.study(name), where, uri)
    facts = results.confirmation(name, where)
    assert facts is not None
    if json_:
        _print_json({"study": name, **facts})
        return
    print_confirmation(name, facts, _console())
    print_pending(results.status(name, where), home, shipped.error)


@cli.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The CSV to write.",
)
@home_option
@as_json
def predict(model: str, inputs: tuple[str, ...], output: Path, home: Path, json_: bool) -> None:
    """Predict new rows with a trial, or with an ensemble over trials.

    MODEL is STUDY for its best trial, STUDY/NUMBER for a trial, STUDY/ensemble for the newest
    ensemble or STUDY/ensemble/NUMBER for another. INPUT is a CSV or Parquet file with the columns
    of the training data, or images, or texts, and folders of these; a path, or an address
    (s3://…). Writes a row for each: id (its number from 0, or its path), predicted, and the
    probability of each class. If the table has the target, too, it says how good the predictions
    are. Exit code 1 where files cannot be read; the others are predicted.

    Example: hpo predict churn customers.csv -o predicted.csv
    """
    from hpo.predict import bad_lines, open_predictor
    from hpo.predict import predict as predict_files
    from hpo.tables import number, records

    predictor = open_predictor(model, Home(home.resolve()))
    done = predict_files(predictor, inputs, output, lambda text: click.echo(text, err=True))
    for line in bad_lines(done.bad):
        click.echo(line, err=True)
    metrics = None if done.metrics is None else records(done.metrics)
    if json_:
        facts = {"rows": done.rows, "unreadable": done.bad, "judged": done.judged}
        _print_json({"model": model, "file": str(output), **facts, "metrics": metrics})
    else:
        click.echo(f"{output}: {done.rows:,} rows")
        if metrics is not None:
            click.echo(f"Of {done.judged:,} rows the target is known [95 % interval]:")
        for metric in metrics or ():
            low, high = (number(metric[end]) for end in ("low", "high"))
            interval = f" [{low}, {high}]" if low else ""
            click.echo(f"  {metric['metric']:<12} {number(metric['value'])}{interval}")
    sys.exit(1 if done.bad else 0)


@cli.command()
@study_argument
@click.argument("trial", type=click.IntRange(0))
@home_option
@as_json
def reproduce(study: str, trial: int, home: Path, json_: bool) -> None:
    """Train a trial anew, with its configuration and seed, and compare every epoch's metrics.

    Nothing is written to the study or to MLflow. Says whether the numbers are the same, and what
    differs here from when it was trained: commit, package versions, data. Exit code 1 where a
    metric differs by more than one in a million.

    Example: hpo reproduce quickstart 38
    """
    from hpo import results
    from hpo.outcome import print_reproduced
    from hpo.reproduce import reproduce as train_anew

    name = results.name_of(study)
    results.status(name, home)  # an unknown study is said so
    done = train_anew(name, trial, Home(home), lambda text: click.echo(text, err=True))
    if json_:
        _print_json({**asdict(done), "same": done.same})
    else:
        print_reproduced(done)
    sys.exit(0 if done.same else 1)


@cli.command()
@study_argument
@click.option(
    "--verify",
    is_flag=True,
    help="Then compare every value there with what is on record.",
)
@home_option
@as_json
def sync(study: str, verify: bool, home: Path, json_: bool) -> None:
    """Send to MLflow what it lacks of a study.

    Example: hpo sync quickstart --verify
    """
    from hpo import results, tracking
    from hpo.outcome import print_synced

    where = Home(home.resolve())
    name = results.name_of(study)
    results.status(name, home)  # an unknown study is said so
    uri = where.tracking_address(results.tracking_uri(name, home))
    shipped = tracking.sync(where.study(name), where, uri, verify=verify)
    compared = shipped.compared
    if json_:
        found = {"study": name, "pending": shipped.pending, "error": shipped.error}
        verified = {"verified": compared and asdict(compared)} if verify else {}
        _print_json(found | verified)
    else:
        print_synced(shipped, where.study(name), verify)
    sys.exit(1 if shipped.pending or (verify and (compared is None or compared.different)) else 0)


@cli.command()
@study_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to; STUDY.html in the current folder by default.",
)
@home_option
@tracking_uri_option
@click.option(
    "--language", type=click.Choice(["en", "zh"]), default="en", help="en (by default) or zh."
)
@click.option(
    "--best",
    type=click.IntRange(1, 12),
    default=5,
    help="So many of the best trials are looked at closely; 5 by default.",
)
@as_json
def report(
    study: str,
    output: Path | None,
    home: Path,
    tracking_uri: str | None,
    language: Literal["en", "zh"],
    best: int,
    json_: bool,
) -> None:
    """Write a study as one HTML file, to mail or to keep.

    Which trial is best and whether that is real, what to try next, all charts, the leaderboard
    and where it came from. The charts are interactive and need no network. A study that is not
    in --home is looked for in MLflow. With --json it prints `study`, `file` and `bytes`.

    Example: hpo report quickstart -o report.html
    """
    from app.report import write_report
    from app.words import words
    from hpo import results

    name = results.name_of(study)
    path = write_report(
        _catalog(home, tracking_uri, [name]),
        name,
        output,
        words(language),
        best,
        lambda text: click.echo(text, err=True),
    )
    size = path.stat().st_size
    if json_:
        _print_json({"study": name, "file": str(path), "bytes": size})
    else:
        click.echo(f"{path} ({size / 1e6:.1f} MB)")


@cli.command()
@click.argument("study", required=False)
@home_option
@tracking_uri_option
@click.option("--host", default="127.0.0.1", help="Where it listens; this machine by default.")
@click.option("--port", type=click.IntRange(1, 65535), help="8501, or the next that is free.")
@allow_host_option
@click.option("--no-auth", is_flag=True, help="With --host: let everyone in who reaches it.")
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
@as_json
def ui(
    study: str | None,
    home: Path,
    tracking_uri: str | None,
    host: str,
    port: int | None,
    names: tuple[str, ...],
    no_auth: bool,
    no_browser: bool,
    json_: bool,
) -> None:
    """Compare runs in the browser: all studies, or the page of STUDY.

    Shows the studies in --home and those in MLflow; running ones update by themselves. Ctrl-C
    stops it. With --json it prints the `url` once it is up.

    Example: hpo ui quickstart
    """
    from hpo import results
    from hpo import ui as app
    from hpo.listening import Listening

    name = results.name_of(study) if study else None
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if name and not uri:
        results.status(name, home)  # an unknown study is said so
    listening = Listening.at(host, port or app.PORT, names)
    if port is None:
        listening = listening.next_free()
        if listening.port != app.PORT:
            click.echo(f"port {app.PORT} is taken; using {listening.port}", err=True)

    def told(url: str) -> None:
        if json_:
            _print_json({"url": url})
        else:
            click.echo(f"hpo ui at {url}\nCtrl-C stops it.")
        if not no_browser:
            app.open_browser(url)

    app.show(listening, Home(home.resolve()), uri, name, told, no_auth=no_auth)


@cli.command()
@home_option
@click.option("--host", default="127.0.0.1", help="Where it listens; this machine by default.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, help="5000 by default.")
@allow_host_option
@click.option(
    "--auth/--no-auth",
    default=None,
    help="Whether everyone needs a user and a password; must be said with --host.",
)
@click.option("--new-password", is_flag=True, help="With --auth: give the admin a new password.")
@click.option("--sqlite", type=click.Path(path_type=Path), metavar="FILE", help="The database.")
@click.option(
    "--postgres",
    metavar="URL",
    help="The database, as postgresql://user@host/name; its password from PGPASSWORD, ~/.pgpass, "
    "a service file (postgresql:///?service=NAME) or as '${VARIABLE}'.",
)
@click.option("--artifacts", metavar="DIR|URL", help="Where files go, e.g. s3://bucket/path.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes; 1 by default.")
@as_json
def server(
    home: Path,
    host: str,
    port: int,
    names: tuple[str, ...],
    auth: bool | None,
    new_password: bool,
    sqlite: Path | None,
    postgres: str | None,
    artifacts: str | None,
    workers: int,
    json_: bool,
) -> None:
    """Start an MLflow tracking server for a team; its pages show all runs.

    Without --sqlite or --postgres it serves the store that `hpo run` fills by itself. Studies go
    to a server with `tracking.uri` in their file or with MLFLOW_TRACKING_URI. Ctrl-C stops it.
    With --json it prints `url`, `store`, `artifacts`, `user` and `password` once it is up.

    Example: hpo server --auth --allow-host mlflow.example.com --postgres postgresql://hpo@db/hpo
    """
    from hpo.listening import Listening
    from hpo.server import Settings, Up, lines, serve

    def told(up: Up) -> None:
        if json_:
            _print_json(vars(up) | {"user": up.user})
        else:
            click.echo("\n".join(lines(up)))

    listening = Listening.at(host, port, names)
    settings = Settings(listening, auth, new_password, sqlite, postgres, artifacts, workers)
    serve(settings, Home(home.resolve()), lambda text: click.echo(text, err=True), told)


@cli.group()
def cluster() -> None:
    """A study as a job of a cluster."""


@cluster.command("slurm")
@file_argument
@set_option
@click.option("--nodes", type=click.IntRange(1), default=1, help="1 by default; more need Ray.")
@click.option("--cpus", type=click.IntRange(1), help="On each node.")
@click.option("--gpus", type=click.IntRange(1), help="On each node; none by default.")
@click.option("--time", metavar="TIME", help="At most so long at a time, e.g. 8:00:00 or 2-12.")
@click.option("--partition", metavar="NAME", help="Where it is to run.")
@home_option
@as_json
def cluster_slurm(
    file: Path, overrides: tuple[str, ...], home: Path, json_: bool, **options: Any
) -> None:
    """Print the batch script that runs a study on a Slurm cluster.

    When its time is up the study stops in order, and goes on in the next job, which the script
    asks for. All nodes need this folder and this Python. With --json it prints `study` and
    `script`.

    Example: hpo cluster slurm flowers.yaml --gpus 4 --cpus 32 --time 8:00:00 > flowers.sh
    """
    from hpo.cluster import Slurm, slurm

    spec = _load(file, overrides)
    script = slurm(spec, Slurm(**options), home.resolve(), overrides)
    if json_:
        _print_json({"study": spec.study, "script": script})
    else:
        click.echo(script, nl=False)


@cluster.command("kubernetes")
@file_argument
@set_option
@click.option("--image", required=True, metavar="NAME", help="With hpo and Ray in it.")
@click.option(
    "--claim",
    required=True,
    metavar="NAME",
    help="A PersistentVolumeClaim that all pods may write to, with the study file in it.",
)
@click.option("--nodes", type=click.IntRange(1), default=1, help="Pods that train; 1 by default.")
@click.option("--cpus", type=click.IntRange(1), default=4, help="Of each; 4 by default.")
@click.option("--gpus", type=click.IntRange(1), help="Of each; none by default.")
@click.option("--memory", default="16Gi", metavar="SIZE", help="Of each; 16Gi by default.")
@click.option("--namespace", metavar="NAME", help="Where it is to run.")
@click.option("--secret", metavar="NAME", help="Its entries are environment variables there.")
@as_json
def cluster_kubernetes(
    file: Path, overrides: tuple[str, ...], json_: bool, **options: Any
) -> None:
    """Print the manifest of a RayJob that runs a study on Kubernetes.

    It needs the KubeRay operator, 1.5.1 or newer, there. What is in the claim is /study in all
    pods; the study is run there. With --json it prints the manifest as JSON.

    Example: hpo cluster kubernetes flowers.yaml --image me/hpo:1 --claim flowers > flowers.job
    """
    from hpo.cluster import Kubernetes, kubernetes
    from hpo.spec.yaml_text import dump

    manifest = kubernetes(_load(file, overrides), Kubernetes(**options), overrides)
    if json_:
        _print_json(manifest)
    else:
        click.echo(dump(manifest), nl=False)


@cli.group()
def storage() -> None:
    """Where Optuna keeps a study."""


@storage.command()
@study_argument
@click.option(
    "--to",
    required=True,
    metavar="ADDRESS",
    help="journal, sqlite:///FILE from the current folder, or postgresql://user@host/name; its "
    "password from PGPASSWORD, ~/.pgpass, a service file or as '${VARIABLE}'.",
)
@home_option
@as_json
def migrate(study: str, to: str, home: Path, json_: bool) -> None:
    """Move a study to another storage, with nothing of it changed.

    The new storage is read again and compared before it takes the place of the old one, from which
    the study is then deleted. Killed in between, the same command finishes it. What to write into
    the study file is printed. With --json it prints `study`, `before`, `now`, `trials` and `file`.

    Example: hpo storage migrate quickstart --to sqlite:///optuna.db
    """
    from hpo import results, tracking
    from hpo.migrate import migrate as move

    name = results.name_of(study)
    results.status(name, home)  # an unknown study is said so
    where = Home(home.resolve())
    moved = move(name, to, where, lambda text: click.echo(text, err=True))
    uri = where.tracking_address(results.tracking_uri(name, where))
    tracking.sync(where.study(name), where, uri)
    if json_:
        _print_json({"study": name, **asdict(moved)})
        return
    click.echo(f"{name}: {moved.trials:,} trials, from {moved.before} to {moved.now}.")
    click.echo(f"Write this into {moved.file}:\n  storage: {moved.now}")


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


def _wanted(text: str) -> Trials:
    """What ``--trials`` says."""
    from hpo.requests import Trials

    if not re.fullmatch(r"\+?0*[1-9][0-9]{0,5}", text):
        raise UserError(f"--trials {text}: expected a number of trials, or +N for N more")
    return Trials(int(text), more=text.startswith("+"))


def _catalog(home: Path, tracking_uri: str | None, studies: Collection[str]) -> Catalog:
    """The studies here and in MLflow, which is asked, in this process, for what is not here."""
    from hpo.results.catalog import Catalog
    from hpo.tracking import MLFLOW_DEFAULTS, MLFLOW_SETTINGS

    if not set(studies) <= set(Home(home).study_names()):
        os.environ.update(MLFLOW_DEFAULTS | os.environ | MLFLOW_SETTINGS)
    return Catalog(home.resolve(), tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"))


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
    sys.excepthook = _print_traceback
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
        click.echo(for_screen(str(error)), err=True)
        if isinstance(error, ClusterLost):  # in its own way, for Ray's would be to crash
            sys.stdout.flush()
            os._exit(error.exit_code)
        sys.exit(error.exit_code)


def _print_error_as_json(message: str) -> None:
    if "--json" in sys.argv:
        _print_json({"error": for_screen(message)})


def _print_traceback(*of_error: Any) -> None:
    """Python's own way, but without passwords."""
    sys.stderr.write(redact("".join(traceback.format_exception(*of_error))))


if __name__ == "__main__":
    main()
