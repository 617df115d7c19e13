"""A worker that was cut off and trains on: its trial's folder is no longer its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from workbench import Workbench

from hpo import claims, rounds
from hpo.executors import Event, Gone
from hpo.executors.inline import InlineExecutor
from hpo.messages import Quit, Round

# The first attempt wakes up in its second epoch, once `wakes` is there.
CUT_OFF = """
import time
from pathlib import Path
from hpo.claims import Superseded

def wait_for(path):
    deadline_s = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline_s, path
        time.sleep(0.002)

def train(trial):
    options = trial.params["train"]
    folder = Path(options["folder"])
    is_first = trial.number == 0 and not (folder / "cut").exists()
    state = trial.resume()
    for epoch in range(1 if state is None else state["epoch"] + 1, options["epochs"] + 1):
        if is_first and epoch == 2:
            (folder / "cut").touch()
            wait_for(folder / "wakes")
        if epoch == 3 and options["meanwhile"]:
            (folder / "wakes").touch()
            wait_for(folder / "refused")
        trial.save({"epoch": epoch})
        try:
            trial.report(epoch, {"quality": float(epoch)})
        except Superseded as error:
            (folder / "refused").write_text(str(error))
            raise
"""


class CutOff(InlineExecutor):
    """Its first worker is thought lost, and is not."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.cut = folder / "cut"
        self.was_heard = False
        self.still_there: Any = None  # its connection and its thread

    def wait(self, timeout_s: float) -> list[Event]:
        # Once it is answered: a worker that waits for an answer writes nothing anyway.
        if self.still_there is None and self.was_heard and self.cut.exists():
            self.still_there, self._connection = (self._connection, self._thread), None
            return [Event(0, Gone("its machine was lost", of_machine=True))]
        events = list(super().wait(min(timeout_s, 0.01)))
        self.was_heard |= any(isinstance(event.message, Round) for event in events)
        return events


@pytest.mark.parametrize("meanwhile", [True, False])
def test_a_worker_that_was_thought_lost_writes_nothing_when_it_comes_back(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    monkeypatch.setattr(rounds, "CHECKPOINT_AFTER_S", 0.0)
    monkeypatch.setattr(rounds, "CHECKPOINT_SHARE", float("inf"))
    executor = CutOff(bench.folder)
    monkeypatch.setattr("hpo.launch.open_executor", lambda *_: executor)
    (bench.folder / "cut_off.py").write_text(CUT_OFF)
    options: dict[str, Any] = {"train__folder": str(bench.folder), "train__meanwhile": meanwhile}
    bench.run(trainer="cut_off:train", retries=0, budget__trials=1, **options)

    (bench.folder / "wakes").touch()
    deadline_s = time.monotonic() + 10
    while not (bench.folder / "refused").is_file():
        assert time.monotonic() < deadline_s, "it wrote"
        time.sleep(0.002)
    expected = "goes on elsewhere (attempt 2 of it)" if meanwhile else "has ended"
    assert expected in (bench.folder / "refused").read_text()
    assert [r["epoch"] for r in bench.records("epoch")] == [1, 2, 3, 4]
    assert [r["attempt"] for r in bench.records("trial")] == [1, 2]
    left = [path.name for path in (bench.paths.root / "trials" / "0").glob("*")]
    assert left == []
    assert not bench.paths.claim(0).exists()
    connection, thread = executor.still_there
    connection.send(Quit())
    thread.join(timeout=10)


def test_an_attempt_may_write_until_the_next_one(tmp_path: Path) -> None:
    claim = tmp_path / "claims" / "7"
    claims.give(claim, 1)
    claims.check(claim, 1)
    claims.give(claim, 2)
    claims.check(claim, 2)
    with pytest.raises(claims.Superseded, match="attempt 2"):
        claims.check(claim, 1)
