"""What a worker says of its use of the machine."""

from __future__ import annotations

import time

import pytest
from workbench import Workbench

from hpo import resources
from hpo.resources import Meter

CPU, MEMORY = "system/cpu_utilization_percentage", "system/process_memory_megabytes"


def burn(seconds: float) -> None:
    until_s = time.process_time() + seconds
    while time.process_time() < until_s:
        pass


def test_a_sample_is_of_this_process_since_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "EVERY_S", 0.0)
    meter = Meter("cpu")
    burn(0.2)
    busy = meter.sample()
    time.sleep(0.2)
    idle = meter.sample()
    assert set(busy) == {CPU, MEMORY}
    assert idle[CPU] < busy[CPU] / 2
    assert 10 < busy[MEMORY] < 20_000


def test_what_was_used_before_a_trial_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "EVERY_S", 0.0)
    meter = Meter("cpu")
    burn(0.2)
    meter.begin()
    time.sleep(0.2)
    assert meter.sample()[CPU] < 20


def test_a_trial_of_more_than_a_second_has_a_sample_and_fast_ones_hardly_any(
    bench: Workbench,
) -> None:
    bench.run(budget__trials=10, train__epochs=2)
    assert len([r for r in bench.records("epoch") if "resources" in r]) <= 3
    bench.run(study="slow", budget__trials=1, train__epochs=4, train__seconds=0.3)
    (sampled,) = [r for r in bench.records("epoch", "slow") if "resources" in r]
    assert set(sampled["resources"]) == {CPU, MEMORY}
