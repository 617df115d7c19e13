"""What is seen of a running study."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from hpo import live
from hpo.live import LineView, LiveView, duration, render, summary, view_on
from hpo.progress import Progress, WorkerProgress

EMPTY = Progress(
    study="s",
    metric="val/f1_macro",
    counts={},
    total=40,
    best=None,
    elapsed_s=3.2,
    left_s=None,
    workers=[WorkerProgress(0, "starting"), WorkerProgress(1, "idle")],
)
BUSY = replace(
    EMPTY,
    counts={"complete": 9, "pruned": 4, "failed": 1, "stopped": 0},
    best=(7, 0.96213, 12),
    elapsed_s=75,
    left_s=3700,
    workers=[
        WorkerProgress(0, "training", trial=14, epoch=5, epochs=20, value=0.87654),
        WorkerProgress(1, "training", trial=15, epoch=0, epochs=20),
    ],
)


def drawn(progress: Progress, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(render(progress))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7.9, "0:07"), (754, "12:34"), (11_100, "3:05:00"), (360_000, "100:00:00")],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_summary_has_counts_the_best_and_the_time() -> None:
    assert summary(BUSY) == (
        "14 of 40 trials · best val/f1_macro 0.9621 (trial 7, epoch 12) · 1 failed · 4 pruned · "
        "1:15, about 1:01:40 left"
    )
    assert summary(EMPTY) == "0 of 40 trials · 0:03"
    assert summary(replace(EMPTY, total=None)) == "0 trials · 0:03"


def test_the_view_has_a_line_for_the_study_one_for_the_best_and_one_a_worker() -> None:
    _, head, best, _, first, second = drawn(BUSY)
    assert head.endswith("14 of 40 trials  1:15, about 1:01:40 left")
    assert best == "best val/f1_macro 0.9621 (trial 7, epoch 12) · 1 failed · 4 pruned"
    assert first.split()[:4] == ["worker", "0", "trial", "14"]
    assert first.endswith("5/20  val/f1_macro 0.8765")
    assert second.split()[:4] == ["worker", "1", "trial", "15"]
    assert second.endswith("0/20")


def test_workers_without_a_trial_say_what_they_do() -> None:
    _, _, best, _, first, second = drawn(EMPTY)
    assert best == "no trial is over yet"
    assert (first, second) == ("worker 0  starting", "worker 1  idle")


def test_a_trainer_that_does_not_say_how_many_epochs_has_no_bar() -> None:
    *_, line = drawn(
        replace(BUSY, total=None, workers=[WorkerProgress(0, "training", 3, 17, None, 0.5)])
    )
    assert line.split() == ["worker", "0", "trial", "3", "epoch", "17", "val/f1_macro", "0.5"]


IN_LANES = WorkerProgress(
    0, "training", trial=3, epoch=3, epochs=20, value=0.91234, lanes=25, furthest=17
)


def test_trials_in_lanes_have_one_line() -> None:
    *_, line = drawn(replace(BUSY, workers=[IN_LANES]), width=100)
    assert line.startswith("worker 0  25 trials in lanes")
    assert line.endswith("3–17/20  best val/f1_macro 0.9123")  # noqa: RUF001
    *_, together = drawn(replace(BUSY, workers=[replace(IN_LANES, furthest=3)]), width=100)
    assert together.endswith(" 3/20  best val/f1_macro 0.9123")
    assert len(drawn(replace(BUSY, workers=[IN_LANES]), width=80)) == 5


def test_nodes_have_a_line_each_and_workers_name_theirs() -> None:
    trains = WorkerProgress(0, "training", trial=3, epoch=1, node="b")
    idle = [WorkerProgress(1, "idle", node="b"), WorkerProgress(2, "idle", node="a")]
    waits = WorkerProgress(3, "starting")
    _, _, _, *lines = drawn(replace(BUSY, workers=[trains, *idle, waits]))
    assert lines[:3] == ["a: 0 of 1 workers train", "b: 1 of 2 workers train", ""]
    assert lines[3].startswith("worker 0 on b  trial 3")
    assert [line.split() for line in lines[4:]] == [
        ["worker", "1", "on", "b", "idle"],
        ["worker", "2", "on", "a", "idle"],
        ["worker", "3", "starting"],
    ]


def test_a_worker_that_finds_out_how_many_lanes_pay_says_so() -> None:
    *_, line = drawn(replace(BUSY, workers=[WorkerProgress(0, "measuring")]))
    assert line == "worker 0  measuring"


@pytest.mark.parametrize("width", [70, 80, 140, 400])
def test_no_line_is_broken_where_there_is_room(width: int) -> None:
    lines = drawn(BUSY, width)
    assert len(lines) == 6
    assert all(len(line) <= max(width, 80) for line in lines)
    assert "trial 14" in lines[4]
    assert "5/20" in lines[4]


def test_the_bar_s_length_is_the_share_of_trials() -> None:
    def filled(done: int) -> int:
        counted = replace(BUSY, counts={"complete": done})
        console = Console(
            width=80, force_terminal=True, color_system="truecolor", file=io.StringIO()
        )
        with console.capture() as capture:
            console.print(render(counted))
        cyan = capture.get().splitlines()[1].split("\x1b[36m")
        return cyan[1].split("\x1b[0m")[0].count("━") if len(cyan) > 1 else 0

    assert filled(0) < filled(10) < filled(20) < filled(30)


def test_a_terminal_keeps_what_was_said_above_the_view() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system="standard")
    with LiveView(console) as view:
        view.show(BUSY)
        view.say("trial 3 pruned (loss 0.2 at epoch 1): [hyperband]")
        view.show(BUSY)
    text = screen.getvalue()
    assert "trial 3 pruned (loss 0.2 at epoch 1): [hyperband]" in text  # and not as markup
    assert text.count("trial 3 pruned") == 1
    assert text.count("worker 0") > 1


def test_plain_lines_come_for_each_event_and_now_and_then_for_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.StringIO()
    with LineView(file) as view:
        view.say("trial 0 complete")
        view.show(BUSY)
        assert file.getvalue() == "trial 0 complete\n"
        monkeypatch.setattr(live, "LINES_EVERY_S", 0.0)
        view.show(BUSY)
        view.show(EMPTY)
    _, busy, idle = file.getvalue().splitlines()
    assert busy == f"{summary(BUSY)}; trial 14 at epoch 5/20, trial 15 at epoch 0/20"
    assert idle == f"{summary(EMPTY)}; no trial in training"


def test_only_a_terminal_that_can_redraw_gets_the_live_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(view_on(Console(file=io.StringIO(), force_terminal=True)), LiveView)
    assert isinstance(view_on(Console(file=io.StringIO())), LineView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(view_on(Console(file=io.StringIO(), force_terminal=True)), LineView)
