"""Commands as trainers: real programs, most of them shell scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from workbench import Workbench

import hpo.command
from hpo.errors import StudyFailed, StudyFileError

STUDY = """\
study: s
command: [sh, train.sh, "{train.x}"]
train: {epochs: 3, x: 0.5, layers: [8, 4], note: null}
search:
  train.x: {low: 0.0, high: 1.0}
objective: {metric: quality, goal: maximize}
sampler: random
executor: inline
workers: 1
device: cpu
budget: {trials: 1}
"""
REPORT = 'for e in 1 2 3; do echo "{\\"epoch\\": $e, \\"quality\\": $1}"; done\n'
MLFLOW = """\
import mlflow
mlflow.log_params({"depth": 3, "train.lr": 7})
mlflow.set_tag("team", "birds")
for step in (10, 20, 30):
    mlflow.log_metric("cost", step / 10, step=step)
    mlflow.log_metric("quality", 1 - step / 100, step=step)
mlflow.log_text("a tree", "trees/first.txt")
"""


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    bench = Workbench(tmp_path)
    bench.file.write_text(STUDY)
    return bench


@pytest.fixture
def run(bench: Workbench) -> Callable[..., Any]:
    """Run a study of a shell script; the ends of its trials, and the epochs."""

    def run(script: str, **overrides: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        (bench.folder / "train.sh").write_text(script)
        bench.run(**overrides)
        return bench.records("end"), bench.records("epoch")

    return run


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(what: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


# -- what goes in and comes out


def test_json_lines_are_epochs_and_the_rest_is_output(run: Any, bench: Workbench) -> None:
    ends, epochs = run("echo loading\necho '{\"level\": 1}'\n" + REPORT + "echo done >&2\n")
    assert ends[0]["state"] == "complete"
    x = bench.records("trial")[0]["params"]["train.x"]
    assert [(e["epoch"], e["metrics"]) for e in epochs] == [(n, {"quality": x}) for n in (1, 2, 3)]


def test_values_come_as_arguments_as_a_file_and_in_the_environment(
    run: Any, bench: Workbench
) -> None:
    arguments = ["sh", "train.sh", "{train.x}", "{train.layers}", "{train.layers.1}", "{{seed}}"]
    seen = 'printf "%s\\n" "$@" > seen\ncp "$HPO_PARAMS" params\nenv > environment\n'
    run(seen + REPORT, command=[*arguments, 7, "a{params}"])
    trial = bench.records("trial")[0]
    x = trial["params"]["train.x"]
    given = (bench.folder / "seen").read_text().splitlines()
    assert [float(given[0]), *given[1:5]] == [x, "[8, 4]", "4", "{seed}", "7"]
    assert given[5].startswith("a/")
    told = json.loads((bench.folder / "params").read_text())
    assert told["train"] == {"epochs": 3, "x": x, "layers": [8, 4], "note": None}
    assert (told["seed"], told["trial"]) == (trial["seed"], 0)
    environment = (bench.folder / "environment").read_text().splitlines()
    wanted = {"HPO_TRAIN_LAYERS=[8, 4]", "HPO_TRAIN_NOTE=null", "HPO_TRIAL=0", "HPO_DEVICE=cpu"}
    assert wanted <= set(environment)
    assert f"HPO_SEED={trial['seed']}" in environment


def test_an_epoch_may_come_in_several_lines(run: Any) -> None:
    script = 'echo \'{"epoch": 1, "loss": 2}\'\necho \'{"epoch": 1, "quality": 0.5}\'\n'
    _, epochs = run(script)
    assert [e["metrics"] for e in epochs] == [{"loss": 2.0, "quality": 0.5}]


@pytest.mark.slow
def test_the_run_that_a_program_keeps_in_mlflow_becomes_the_trial_s(bench: Workbench) -> None:
    (bench.folder / "train.py").write_text(MLFLOW)
    bench.run(command=["python", "train.py"])
    assert [(e["epoch"], e["metrics"]) for e in bench.records("epoch")] == [
        (1, {"cost": 1.0, "quality": 0.9}),
        (2, {"cost": 2.0, "quality": 0.8}),
        (3, {"cost": 3.0, "quality": 0.7}),
    ]
    (end,) = bench.records("end")
    adopted = end["artifacts"]["run/trees/first.txt"]
    assert (bench.paths.root / adopted).read_text() == "a tree"
    assert end["logged"] == {"params": {"depth": "3", "train.lr": "7"}, "tags": {"team": "birds"}}
    assert not (bench.paths.trial(0) / "mlflow").exists()
    assert not (bench.folder / "mlruns").exists()


# -- how it ends


WRONG = [
    ("echo no >&2; exit 3", "sh train.sh ended with status 3; it last printed: no"),
    ("kill -SEGV $$", "sh train.sh died of SIGSEGV"),
    ("true", "the command reported no epoch, by a line like"),
    ("echo \"{'epoch': 1, 'quality': 2}\"", "this line is not JSON: {'epoch': 1, 'quality'"),
    ("printf '{%.0s' $(seq 9000)", "the command reported no epoch"),
    ('echo \'{"epoch": 2, "quality": 1}\'', "epoch 1 is to be reported next, not 2"),
    ('echo \'{"epoch": 1.5, "quality": 1}\'', "an epoch is a whole number from 1 on; got '1.5'"),
    ('echo \'{"epoch": 1, "quality": NaN}\'', "quality is nan at epoch 1"),
    ('echo \'{"epoch": 1, "cost": 1}\'', "the objective is quality, but"),
    ('echo \'{"epoch": 1, "quality": "good"}\'', "quality"),
    (
        'echo \'{"epoch": 1, "quality": 1}\'; echo \'{"epoch": 1, "cost": 2}\'',
        "epoch 1 was complete with quality; cost must be printed before",
    ),
]


def test_what_goes_wrong_is_one_line_and_the_study_goes_on(run: Any) -> None:
    of_trials = "".join(f"{i}) {script};;\n" for i, (script, _) in enumerate(WRONG, start=1))
    script = f"case $HPO_TRIAL in\n0) {REPORT};;\n{of_trials}esac\n"
    ends, _ = run(script, budget__trials=1 + len(WRONG))
    assert ends[0]["state"] == "complete"
    for end, (_, reason) in zip(ends[1:], WRONG, strict=True):
        assert end["state"] == "failed"
        assert reason in end["reason"]
        assert "\n" not in end["reason"]


def test_a_failure_shows_the_last_lines(run: Any, bench: Workbench) -> None:
    with pytest.raises(StudyFailed, match="it last printed: Traceback"):
        run(REPORT + "seq 100; sleep 0.1; echo Traceback >&2; exit 1")
    (end,) = bench.records("end")
    assert len(bench.records("epoch")) == 3
    assert "It last printed:\n" in end["traceback"]
    assert "99\n100\nTraceback" in end["traceback"]


def test_programs_that_all_fail_alike_end_the_study(run: Any) -> None:
    with pytest.raises(StudyFailed, match="ended with status 1; it last printed: no data"):
        run("echo no data; exit 1", budget__trials=5)


def test_a_pruned_program_is_asked_to_end_and_all_that_it_started_with_it(
    run: Any, bench: Workbench
) -> None:
    script = """
trap 'echo asked > asked; exit 0' TERM
sleep 1000 & echo $! > child
for e in 1 2 3 4 5; do echo "{\\"epoch\\": $e, \\"quality\\": 0.5}"; sleep 0.2; done
sleep 1000 & wait
"""
    ends, _ = run(script, pruner={"name": "threshold", "lower": 0.9})
    assert ends[0]["state"] == "pruned"
    assert (bench.folder / "asked").exists()
    wait_for(lambda: not alive(int((bench.folder / "child").read_text())))


def test_who_ignores_that_is_killed(
    run: Any, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hpo.command, "GRACE_S", 0.3)
    script = "trap '' TERM\necho $$ > pid\n" + REPORT + "while :; do sleep 0.1; done"
    ends, _ = run(script, pruner={"name": "threshold", "lower": 2.0})
    assert ends[0]["state"] == "pruned"
    assert not alive(int((bench.folder / "pid").read_text()))


def test_what_a_program_leaves_running_ends_with_it(run: Any, bench: Workbench) -> None:
    ends, _ = run("sleep 1000 & echo $! > child\n" + REPORT)
    assert ends[0]["state"] == "complete"
    wait_for(lambda: not alive(int((bench.folder / "child").read_text())))


def test_a_flood_is_bounded_on_the_disk(run: Any, bench: Workbench, capfd: Any) -> None:
    flood = "yes something | head -c 3000000; head -c 3000000 /dev/zero; echo; echo last\n"
    ends, _ = run(flood + REPORT)
    assert ends[0]["state"] == "complete"
    printed = capfd.readouterr().err
    assert 300_000 < len(printed) < 800_000
    assert "bytes of output are left out]" in printed
    assert "last\n" in printed


@pytest.mark.slow
def test_a_program_ends_with_its_worker_however_that_dies(bench: Workbench) -> None:
    (bench.folder / "train.sh").write_text("echo $$ > pid; sleep 1000")
    command = [str(Path(sys.executable).with_name("hpo")), "run", "study.yaml"]
    study = subprocess.Popen(
        [*command, "--set", "executor=processes"], cwd=bench.folder, stdout=subprocess.DEVNULL
    )
    pid = bench.folder / "pid"
    try:
        wait_for(lambda: pid.exists() and pid.read_text().strip() != "")
        program = int(pid.read_text())
        worker = psutil.Process(program).parent().parent()  # of the guard
        assert "hpo.worker" in worker.cmdline()
        study.kill()
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: not alive(program))
    finally:
        study.kill()
        study.wait()


@pytest.mark.slow
def test_a_hanging_program_ends_at_its_timeout(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.orchestrator.OVERDUE_S", 0.1)
    (bench.folder / "train.sh").write_text("echo $$ > pid; sleep 1000")
    bench.run(executor="processes", timeout="1s")
    (end,) = bench.records("end")
    assert (end["state"], end["reason"][:21]) == ("stopped", "the trial's timeout o")
    wait_for(lambda: not alive(int((bench.folder / "pid").read_text())))


# -- again


RESUMES = """
from pathlib import Path
import json, os, time
kept = Path(os.environ["HPO_CHECKPOINT"], "epoch")
done = int(kept.read_text()) if kept.exists() else 0
with open("began", "a") as file:
    print(done, file=file)
for epoch in range(done + 1, 6):
    kept.write_text(str(epoch + AHEAD))
    print(json.dumps({"epoch": epoch, "quality": epoch}), flush=True)
    if epoch == 3 and not os.path.exists("killed"):
        open("killed", "w").close()
        time.sleep(0.5)  # until that is on record
        os.kill(WORKER(), 9)
        time.sleep(1000)
"""
WORKER = "import psutil\nWORKER = lambda: psutil.Process(os.getppid()).ppid()\n"


@pytest.mark.slow
@pytest.mark.parametrize(("ahead", "began"), [(0, [0, 3]), (1, [0, 4, 0]), (9, [0, 12])])
def test_a_program_goes_on_from_its_own_checkpoint(
    bench: Workbench, ahead: int, began: list[int]
) -> None:
    program = "import os\n" + WORKER + f"AHEAD = {ahead}\n" + RESUMES
    (bench.folder / "train.py").write_text(program)
    bench.run(executor="processes", command=["python", "train.py"])
    (end,) = bench.records("end")
    assert end["state"] == "complete", end["reason"]
    wanted = [1, 2, 3] if ahead == 9 else [1, 2, 3, 4, 5]  # it believes that all are done
    assert [e["epoch"] for e in bench.records("epoch")] == wanted
    assert [*map(int, (bench.folder / "began").read_text().split())] == began
    assert not (bench.paths.trial(0) / "checkpoint").exists()


def test_another_command_is_another_study(run: Any, bench: Workbench) -> None:
    from hpo.errors import StudyChanged

    run(REPORT)
    with pytest.raises(StudyChanged, match="command"):
        bench.run(command=["sh", "train.sh", "1"], budget__trials=2)


def test_a_trial_is_reproduced_by_its_command(run: Any, bench: Workbench) -> None:
    from hpo.reproduce import reproduce

    run(REPORT)
    done = reproduce("s", 0, bench.home, lambda text: None)
    assert (done.epochs, done.same) == (3, True)


# -- found before anything runs


@pytest.mark.parametrize(
    ("command", "key", "message", "hint"),
    [
        ('[sh, "{train.xx}"]', "command.1", "there is no train.xx", "did you mean 'train.x'?"),
        ('[sh, "{model.deep}"]', "command.1", "has no value where its `when`", "model: {deep: …}"),
        ("[sh, {train.x}]", "command.1", "something else without quotes", '"{train.x}"'),
        ("sh train.sh", "command", "expected a list of the program", "[sh, train.sh]"),
        ("[]", "command", "expected a program", '[python, train.py, --lr, "{train.lr}"]'),
        ("[sh, true]", "command.1", "expected text or a number; got true", None),
    ],
)
def test_a_command_that_cannot_be_is_found_with_its_place(
    bench: Workbench, command: str, key: str, message: str, hint: str | None
) -> None:
    text = STUDY.replace('[sh, train.sh, "{train.x}"]', command).replace(
        "objective:", "  model.deep: {low: 1, high: 2, when: {train.x: 0.5}}\nobjective:"
    )
    text = text.replace("train.x: {low: 0.0, high: 1.0}", "train.x: [0.5, 1.0]")
    bench.file.write_text(text)
    with pytest.raises(StudyFileError) as raised:
        bench.load()
    (problem,) = raised.value.problems
    assert (problem.key, problem.line) == (key, 2)
    assert message in problem.message
    assert hint is None or hint in (problem.hint or "")


@pytest.mark.parametrize(
    ("command", "key", "message"),
    [
        (["pythn", "train.py"], "command.0", "there is no program 'pythn'"),
        (["./data.txt"], "command.0", "is not executable"),
        (["sh", "trian.sh"], "command.1", "there is no trian.sh"),
    ],
)
def test_a_program_that_is_missing_is_found_before_there_is_a_study(
    bench: Workbench, command: list[str], key: str, message: str
) -> None:
    (bench.folder / "data.txt").touch()
    with pytest.raises(StudyFileError) as raised:
        bench.run(command=command)
    (problem,) = raised.value.problems
    assert problem.key == key
    assert message in problem.message
    assert not bench.paths.root.exists()


@pytest.mark.parametrize("trainer", ["command", "image_classifier"])
def test_there_is_one_of_trainer_and_command(bench: Workbench, trainer: str) -> None:
    text = STUDY if trainer != "command" else STUDY.replace("command:", "# command:")
    bench.file.write_text(f"trainer: {trainer}\n{text}")
    with pytest.raises(StudyFileError) as raised:
        bench.load()
    assert [problem.key for problem in raised.value.problems] == ["trainer"]
