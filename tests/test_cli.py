"""The ``hpo`` command: what it prints, where, and with which exit code."""

from __future__ import annotations

import contextlib
import inspect
import io
import shlex
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import pandas as pd
import pytest
from command import Called, hpo
from rich.console import Console
from workbench import Workbench

from hpo import tables
from hpo.cli_reference import ORDER, commands, reference

NOWHERE = "http://me:secret@127.0.0.1:9"  # the discard port: nobody listens
STATES = ("complete", "pruned", "failed", "stopped", "running", "paused", "waiting")


@pytest.fixture(autouse=True)
def embedded_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def here(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """An unused study in the current folder."""
    monkeypatch.chdir(bench.folder)
    return bench


@dataclass(frozen=True)
class Finished:
    """A study that was run with everything recorded, and what the run printed."""

    bench: Workbench
    ran: Called


SIX = ("--set", "budget.trials=6", "--set", 'train.at={"1:2": raise}')


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    bench = Workbench(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        ran = hpo("run", bench.file, "--home", bench.folder, "--json", *SIX)
    assert ran.code == 0, ran.err
    return Finished(bench, ran)


@pytest.fixture
def finished(_finished: Finished, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """That study, in the current folder."""
    monkeypatch.chdir(_finished.bench.folder)
    return _finished


def numbers(called: Called) -> list[int]:
    return [trial["number"] for trial in called.json["trials"]]


# -- help


def test_help_loads_nothing_that_is_heavy() -> None:
    program = (
        "import sys\n"
        "from hpo.cli import cli\n"
        f"for command in ([], *(name.split() for name in {ORDER})):\n"
        "    cli([*command, '--help'], standalone_mode=False)\n"
        "heavy = ('torch mlflow optuna pandas numpy streamlit sklearn pydantic rich').split()\n"
        "print('loaded', [name for name in heavy if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize("name", ORDER)
def test_every_command_has_help_that_ends_in_an_example(name: str) -> None:
    command = commands()[name]
    assert command.help is not None
    assert inspect.cleandoc(command.help).split("\n\n")[-1].startswith(f"Example: hpo {name}")
    assert all(option.help for option in command.params if isinstance(option, click.Option))
    assert hpo(*name.split(), "-h").out.startswith(f"Usage: hpo {name}")


def test_json_is_there_on_every_command() -> None:
    for name, command in commands().items():
        assert "--json" in [flag for option in command.params for flag in option.opts], name


def test_the_reference_in_the_docs_is_the_generated_one() -> None:
    page = Path(__file__).parents[1] / "docs/reference/commands.md"
    assert page.read_text().rstrip() == reference().rstrip(), "make it anew: make docs"
    assert sorted(ORDER) == sorted(commands())


# -- what is wrong with the input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "No such command 'nope'"),
        (["run"], "Missing argument 'STUDY_FILE'"),
        (["run", "no.yaml"], "does not exist"),
        (["run", "study.yaml", "--nope"], "No such option"),
        (["trials", "s", "--top", "0"], "0 is not in the range"),
        (["status", "s"], "no study 's'"),
        (["best", "study.yaml"], "no study 's'"),
        (["sync", "s"], "no study 's'"),
        (["status", "no.yaml"], "no.yaml: No such file"),
        (["run", "study.yaml", "--set", "train.epochs"], "expected KEY=VALUE"),
        (["run", "study.yaml", "--set", "=3"], "expected KEY=VALUE"),
        (["run", "study.yaml", "--set", "train.epochs=[1"], "not a YAML value"),
        (["run", "study.yaml", "--set", "budget.trials=many"], "budget.trials"),
        (["run", "study.yaml", "--trials", "-3"], "--trials -3: expected a number"),
        (["run", "study.yaml", "--trials", "+0"], "or +N for N more"),
        (["stop", "s"], "no study 's'"),
        (["run", "study.yaml", "--set", "workers=2"], "the inline executor has one worker"),
        (["validate", "study.yaml", "--import", "--set", "trainer=told:trian"], "trian"),
        (["validate", "study.yaml", "--import", "--file-only"], "exclude each other"),
    ],
)
def test_wrong_input_exits_2_says_why_and_creates_nothing(
    here: Workbench, arguments: list[str], says: str
) -> None:
    before = sorted(here.folder.iterdir())
    called = hpo(*arguments)
    assert called.code == 2
    assert says in called.err
    assert "Traceback" not in called.err
    assert called.out in ("", "starting 1 worker on cpu …\n")
    assert [p for p in sorted(here.folder.iterdir()) if p.name != "__pycache__"] == before
    as_json = hpo(*arguments, "--json")
    assert as_json.code == 2
    assert says in as_json.json["error"]


def test_every_mistake_of_a_file_is_shown_with_its_line(here: Workbench) -> None:
    text = here.file.read_text()
    here.file.write_text(text.replace("random", "randm").replace("maximize", "up"))
    for command in ("run", "validate"):
        called = hpo(command, here.file)
        assert (called.code, called.out) == (2, "")
        assert "study.yaml:7:36: objective.goal" in called.err
        assert "study.yaml:8:10: sampler" in called.err
        assert "did you mean 'random'?" in called.err
    assert not (here.folder / "studies").exists()


def test_the_command_as_a_process_has_exit_code_and_no_traceback(here: Workbench) -> None:
    here.file.write_text("study: [")
    ran = subprocess.run(
        [sys.executable, "-m", "hpo.cli", "run", "study.yaml"], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("study.yaml:1:")
    assert "Traceback" not in ran.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m hpo.cli schema | head -1"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("{\n", "")


def test_a_terminal_without_our_signs_gets_others(here: Workbench) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "hpo.cli", "doctor"],
        capture_output=True,
        env={"PYTHONIOENCODING": "latin-1", "PATH": ""},
    )
    assert b"? python" in ran.stdout
    assert b"Traceback" not in ran.stderr


# -- validate


def test_validate_says_what_it_understood_and_creates_nothing(here: Workbench) -> None:
    called = hpo("validate", "study.yaml", "--import")
    assert called.code == 0
    assert "study.yaml: good. Study s: told:train, 1 searched, sampler random" in called.out
    assert "Not imported" not in called.out
    assert hpo("validate", "study.yaml", "--json").json == {
        "study": "s",
        "valid": True,
        "warnings": [],
        "data": None,
        "not_imported": ["told:train"],
    }
    assert not (here.folder / "studies").exists()


def test_validate_looks_at_ones_own_trainer_only_when_told(here: Workbench) -> None:
    arguments = ("validate", "study.yaml", "--set", "trainer=not_there:train")
    assert hpo(*arguments, "--import").code == 2
    called = hpo(*arguments)
    assert called.code == 0
    assert "Not imported: not_there:train; --import tries it." in called.out


# -- a study that is done


def test_run_and_status_print_the_same_object(finished: Finished) -> None:
    status = hpo("status", "s", "--json").json
    assert finished.ran.json == status
    assert set(status) >= {"study", "state", "trials", "best"}
    assert set(status["trials"]) == set(STATES)
    assert set(status["best"]) == {"trial", "value", "epoch", "params", "metrics", "run_id"}
    assert (status["study"], status["state"]) == ("s", "complete")
    assert status["trials"] == dict.fromkeys(STATES, 0) | {"complete": 5, "failed": 1}
    assert status["replica"] == {"pending": 0}


def test_a_study_is_named_by_its_name_or_its_file(finished: Finished) -> None:
    by_name = hpo("status", "s")
    assert by_name == hpo("status", "study.yaml") == hpo("status", finished.bench.file)
    assert by_name.out.startswith("s: complete (5 complete, 1 failed)\nbest: trial ")


def test_home_is_where_studies_are_looked_for(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hpo("status", "s").code == 2
    assert hpo("status", "s", "--home", finished.bench.folder).code == 0


def test_an_unknown_study_lists_those_there_are(finished: Finished) -> None:
    called = hpo("status", "ss")
    assert called.code == 2
    assert "did you mean 's'?" in called.err
    assert "There are: s" in called.err


def test_best_names_the_winner_with_its_parameters_and_metrics(finished: Finished) -> None:
    best = hpo("best", "s", "--json").json
    assert set(best) == {"study", "best", "pareto"}
    assert best["best"] == hpo("status", "s", "--json").json["best"]
    complete = [t for t in hpo("trials", "s", "--json").json["trials"] if t["value"] is not None]
    assert best["best"]["value"] == max(trial["value"] for trial in complete)
    text = hpo("best", "s").out
    assert text.startswith(f"best: trial {best['best']['trial']} with quality ")
    for word in ("train.x", "quality", "cost", best["best"]["run_id"]):
        assert word in text


def test_trials_are_best_first_with_those_that_failed_last(finished: Finished) -> None:
    trials = hpo("trials", "s", "--json").json["trials"]
    values = [trial["value"] for trial in trials[:5]]
    assert values == sorted(values, reverse=True)
    assert (trials[5]["number"], trials[5]["state"]) == (1, "failed")
    assert trials[5]["reason"] == "ValueError: as told at epoch 2"


def test_trials_are_sorted_filtered_and_cut(finished: Finished) -> None:
    assert numbers(hpo("trials", "s", "--json", "--sort", "number")) == [0, 1, 2, 3, 4, 5]
    assert numbers(hpo("trials", "s", "--json", "--sort", "-number", "--top", "2")) == [5, 4]
    failed = hpo("trials", "s", "--json", "--where", "state == 'failed' and number < 4")
    assert numbers(failed) == [1]
    xs = {t["number"]: t["params.train.x"] for t in hpo("trials", "s", "--json").json["trials"]}
    low = hpo("trials", "s", "--json", "--where", "`params.train.x` < 0.5", "--sort", "number")
    assert numbers(low) == [number for number in range(6) if xs[number] < 0.5]
    assert numbers(hpo("trials", "s", "--json", "--where", "number > 99")) == []
    assert hpo("trials", "s", "--where", "number > 99").out == "no trials\n"


def test_a_wrong_column_or_query_exits_2_with_the_columns(finished: Finished) -> None:
    for option in (
        ("--sort", "speed"),
        ("--where", "speed > 1"),
        ("--where", "number >"),
        ("--where", "params.train.x > 0"),
    ):
        called = hpo("trials", "s", *option)
        assert (called.code, called.out) == (2, "")
        assert "params.train.x" in called.err
        assert option[1] in called.err


def test_csv_has_every_column_at_full_precision(finished: Finished) -> None:
    table = pd.read_csv(io.StringIO(hpo("trials", "s", "--csv").out))
    trials = hpo("trials", "s", "--json").json["trials"]
    assert set(table) == {key for trial in trials for key in trial}
    assert table["params.train.x"].tolist() == [trial["params.train.x"] for trial in trials]
    assert table["value"].max() == hpo("status", "s", "--json").json["best"]["value"]


def test_a_pipe_gets_the_whole_table(finished: Finished) -> None:
    lines = hpo("trials", "s").out.splitlines()
    assert lines[0].split() == ["trial", "state", "value", "epoch", "seconds", "x", "reason"]
    assert len(lines) == 7
    assert lines[-1].endswith("ValueError: as told at epoch 2 ")


def test_a_run_that_has_nothing_left_to_do_says_so(finished: Finished) -> None:
    before = finished.bench.paths.outbox.read_bytes()
    called = hpo("run", "study.yaml", *SIX)
    assert called.code == 0
    assert "s: nothing left to do: all 6 trials are done (5 complete, 1 failed)." in called.out
    assert hpo("run", "study.yaml", *SIX, "--json").json == finished.ran.json
    assert finished.bench.paths.outbox.read_bytes() == before


def test_a_run_ends_with_a_leaderboard_and_the_next_commands(finished: Finished) -> None:
    called = hpo("run", "study.yaml", *SIX)
    leaders, commands = called.out.split("\n\n")[-2:]
    assert [line.split()[0] for line in leaders.splitlines()] == [
        "trial",
        *(str(number) for number in numbers(hpo("trials", "s", "--json", "--top", "5"))),
    ]
    assert commands == (
        "Every trial:\n  hpo trials s\n"
        "Curves in the browser, and which trial is really better:\n  hpo ui s\n"
    )


def test_the_commands_it_prints_work_from_here(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = finished.bench.folder
    called = hpo("run", finished.bench.file, "--home", folder, *SIX)
    command = called.out.split("Every trial:\n  hpo ")[1].splitlines()[0]
    assert hpo(*command.split()) == hpo("trials", "s", "--home", folder)
    assert called.out.endswith(f"\n  hpo ui s --home {folder}\n")


def test_the_address_of_an_mlflow_server_is_printed_without_its_password(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@127.0.0.1:9")
    said = hpo("run", "study.yaml", *SIX).out
    assert "hpo ui s\nIn MLflow:\n  http://" in said
    assert "127.0.0.1:9" in said
    assert "s3cret" not in said


def test_a_changed_study_exits_2_with_the_difference(finished: Finished) -> None:
    called = hpo("run", "study.yaml", "--set", "seed=5", "--set", "budget.trials=9")
    assert called.code == 2
    assert "seed: 0 → 5" in called.err


@pytest.mark.slow
def test_sync_has_nothing_to_do(finished: Finished) -> None:
    called = hpo("sync", "s", "--json")
    assert called.code == 0
    assert called.json == {"study": "s", "pending": 0, "error": None}


# -- a study that fails, and one whose MLflow is away


@pytest.mark.slow
def test_a_study_that_fails_exits_1_with_the_cause(here: Workbench) -> None:
    called = hpo("run", "study.yaml", "--set", "train.always=raise", "--json")
    assert called.code == 1
    assert "the first 3 trials all failed alike" in called.json["error"]
    assert "told.py" in called.err  # the trainer's traceback
    assert hpo("status", "s").out == "s: failed (3 failed)\n"
    best = hpo("best", "s")
    assert (best.code, best.out) == (0, "s has no complete trial yet.\n")
    assert hpo("best", "s", "--json").json == {"study": "s", "best": None, "pareto": None}


@pytest.mark.slow
def test_trials_are_in_total_or_more_than_there_were(here: Workbench) -> None:
    assert "s: all 2 trials are done" in hpo("run", "study.yaml", "--trials", "2").out
    assert "s: all 3 trials are done" in hpo("run", "study.yaml", "--trials", "+1").out
    assert "s is not running." in hpo("stop", "s").out
    assert hpo("stop", "s", "--json").json == {
        "study": "s", "was_running": False, "stopped": False
    }  # fmt: skip


@pytest.mark.slow
def test_a_running_study_is_told_of_more_trials(here: Workbench) -> None:
    (here.folder / "waits.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "def train(trial):\n"
        "    trial.report(1, {'quality': 1.0})\n"
        "    while not Path('go').exists():\n"
        "        time.sleep(0.01)\n"
    )
    options = ("--set", "trainer=waits:train", "--set", "executor=processes")
    process = subprocess.Popen([sys.executable, "-m", "hpo.cli", "run", "study.yaml", *options])
    while not (here.paths.outbox.is_file() and here.records("epoch")):
        assert process.poll() is None
        time.sleep(0.02)
    told = hpo("run", "study.yaml", *options, "--trials", "+1")
    as_json = hpo("run", "study.yaml", *options, "--trials", "+1", "--json")
    (here.folder / "go").touch()
    assert process.wait(timeout=60) == 0
    who = f"s is run by process {process.pid} on "
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(who)
    assert told.out.endswith("told it to go on to 6 trials.\n")
    assert as_json.json["state"] == "running"
    assert as_json.err.startswith(who)
    assert len(here.records("end")) == 7


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on(here: Workbench) -> None:
    told = 'train.at={"2:3": interrupt once}'
    # Long enough that the trial is not over before its worker hears of it.
    long = ("--set=train.epochs=40", "--set=train.seconds=0.01")
    options = ("--set", told, "--trials", "+1", f"--set=train.folder={here.folder}", *long)
    called = hpo("run", "study.yaml", *options)
    assert called.code == 130
    assert "s: stopped by the user (2 complete, 1 waiting)." in called.out
    command = called.out.split("Go on from here:\n  hpo ")[1].splitlines()[0]
    assert hpo(*shlex.split(command)).code == 0
    assert hpo("status", "s").out.startswith("s: complete (6 complete)\n")


@pytest.mark.slow
def test_training_goes_on_without_mlflow_and_sync_sends_the_rest_later(
    here: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    ran = hpo("run", "study.yaml")
    assert ran.code == 0
    pending = hpo("status", "s", "--json").json["replica"]["pending"]
    assert pending == 32  # study, 5 trials of 4 epochs, study_end
    assert f"MLflow lacks the last {pending} records" in ran.err
    assert ran.err.endswith("  hpo sync s\n")
    assert "cannot be reached" in ran.err
    assert "secret" not in ran.out + ran.err
    assert hpo("status", "s").err.endswith("  hpo sync s\n")
    assert hpo("best", "s").out.endswith("MLflow run: not sent yet\n")
    away = hpo("sync", "s")
    assert (away.code, away.out) == (1, "")
    assert away.err.startswith(f"{pending} records are still to be sent: ")
    away = hpo("sync", "s", "--json")
    assert away.code == 1
    assert away.json["pending"] == pending
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    there = hpo("sync", "s")
    assert (there.code, there.out) == (0, "MLflow has everything of s.\n")
    assert hpo("status", "s").err == ""
    assert hpo("sync", "s", "--verify").out.endswith(" values: equal.\n")
    with contextlib.closing(sqlite3.connect(here.home.mlruns / "mlflow.db")) as store:
        store.execute("update metrics set value = 7 where key = 'quality' and step = 2")
        store.commit()
    altered = hpo("sync", "s", "--verify")
    assert altered.code == 1
    assert "trial 3: metric quality at step 2 is 7.0 in MLflow, 0." in altered.out
    assert altered.out.endswith(" values: 5 differ.\n")
    assert f"delete them in MLflow and delete {here.paths.shipped}" in altered.err
    verified = hpo("sync", "s", "--verify", "--json").json["verified"]
    assert (verified["runs"], verified["different"], verified["gone"]) == (6, 5, 0)
    assert len(verified["differences"]) == 5


def test_several_objectives_have_a_front_instead_of_a_best(here: Workbench) -> None:
    objective = "[{metric: quality, goal: maximize}, {metric: cost, goal: minimize}]"
    here.run(
        objective=[
            {"metric": "quality", "goal": "maximize"},
            {"metric": "cost", "goal": "minimize"},
        ]
    )
    front = hpo("best", "s", "--json").json["pareto"]
    assert front
    text = hpo("best", "s").out
    assert all(f"  trial {trial['trial']}: quality " in text for trial in front)
    lines = hpo("trials", "s").out.splitlines()
    assert lines[0].split()[:4] == ["trial", "state", "quality", "cost"]
    ran = hpo("run", "study.yaml", "--set", f"objective={objective}").out
    leaders = ran.split("\n\n")[1].splitlines()[1:]
    assert sorted(int(line.split()[0]) for line in leaders) == sorted(
        trial["trial"] for trial in front
    )


# -- what needs no study


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.epochs=3", "train.epochs", 3),
        ("train.lr=1e-3", "train.lr", 0.001),
        ("train.hidden=[64, 32]", "train.hidden", [64, 32]),
        ("train.note=a=b", "train.note", "a=b"),
        ("train.note=no", "train.note", "no"),
        ("train.note=", "train.note", None),
        ("train.on=true", "train.on", True),
    ],
)
def test_set_values_are_read_as_the_file_would_be(
    here: Workbench, override: str, key: str, value: object
) -> None:
    from hpo.cli import _load

    assert _load(here.file, (override,)).identity()[key] == value


def test_schema_prints_the_schema_and_doctor_its_checks(here: Workbench) -> None:
    assert hpo("schema").json["$schema"].startswith("https://json-schema.org/")
    assert hpo("schema") == hpo("schema", "--json")
    called = hpo("doctor", "--json")
    assert called.code == (0 if called.json["good"] else 1)
    assert {"name", "good", "found", "advice"} == set(called.json["checks"][0])
    text = hpo("doctor").out
    assert all(check["name"] in text for check in called.json["checks"])


def test_doctor_exits_1_when_something_is_wrong(
    here: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    called = hpo("doctor")
    assert called.code == 1
    assert "✗ mlflow           127.0.0.1:9 does not answer" in called.out
    assert "secret" not in called.out


# -- tables on terminals


TRIALS = pd.DataFrame(
    {
        "number": pd.array([3, 12], dtype="Int64"),
        "state": ["complete", "pruned"],
        "value": [0.98765, float("nan")],
        "best_epoch": pd.array([4, None], dtype="Int64"),
        "seconds": [12.3, 4.0],
        "params.train.lr": [1e-3, 0.5],
        "params.model.name": ["mlp", "[bold]"],
        "params.train.momentum": [None, None],
        "reason": ["", "hyperband at epoch 3 of very many, and so on"],
    }
)


@pytest.mark.parametrize("width", range(20, 130, 7))
def test_no_row_of_a_table_is_broken_on_any_terminal(width: int) -> None:
    screen = io.StringIO()
    console = Console(
        file=screen, force_terminal=True, width=width, color_system=None, markup=False
    )
    tables.show(TRIALS, console)
    lines = screen.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    first, second = lines[1].split(), lines[2].split()
    assert (first[0], second[0]) == ("3", "12")
    titles = [title for title in lines[0].split() if title != "reason"]
    shown = {"trial": "3", "state": "complete", "value": "0.9877", "epoch": "4"}
    shown |= {"seconds": "12.3", "lr": "0.001", "model.name": "mlp"}
    assert first == [shown[title] for title in titles]
    below = " ".join(lines[3:])
    assert all((title in titles) != (title in below) for title in shown)
    assert "momentum" not in " ".join(lines)
    assert "…" not in " ".join(lines) or "reason" in lines[0]
