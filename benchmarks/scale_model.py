"""What an orchestrator costs, fitted to what it cost under several loads.

Of a core it takes, a second: something beside the workers, something for each report, and for each
trial that begins and ends. For that, more the more trials there are already, and more where the
sampler learns. Workers report once a second, and train a trial for 30 s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from measure import say
from scale_simulated import Found, Load, measured
from scipy.optimize import nnls

EPOCHS = 30  # of a trial, and seconds
CORE = 0.8  # of one, that may be used: beyond, reports wait for each other
MEMORY_GB = 16  # that an orchestrator may have
LOADS = (
    Load(100),
    Load(300),
    Load(1000),
    Load(300, epochs=3),
    Load(300, epochs=3, known=10_000),
    Load(300, epochs=3, known=30_000),
)
# With more trials than TPE looks at; it has to find them.
LEARNS = (Load(300, sampler="auto", known=2_000), Load(300, sampler="auto", known=10_000))
FED = (Load(10, known=100), Load(10, known=600))
SECONDS = 12.0


@dataclass(frozen=True)
class Costs:
    """What was fitted.

    Attributes:
        beside: Of a core, with whatever workers.
        report, trial: Seconds of a core, for each.
        known: The same, of a trial, for each trial that there is already.
        ask, ask_known: The same as `trial` and `known`, that ``auto`` takes beyond random search.
        error: The largest share of a load's cost by which the fit misses it.
        disk, memory, store: Bytes of a trial: in the outbox and the journal, of the orchestrator,
            in MLflow's database.
        opened, fed: Seconds of a trial: to open the study, to feed MLflow.
    """

    beside: float
    report: float
    trial: float
    known: float
    ask: float
    ask_known: float
    error: float
    disk: float
    memory: float
    store: float
    opened: float
    fed: float

    def cores(self, workers: float, trials: float, sampler: str = "random") -> float:
        """What so many workers cost when there are so many trials."""
        asks = self.ask + self.ask_known * trials if sampler == "auto" else 0.0
        a_trial = self.trial + self.known * trials + asks
        return self.beside + workers * (self.report + a_trial / EPOCHS)

    def most_workers(self, trials: float, sampler: str = "random") -> float:
        """How many workers one core serves when there are so many trials."""
        idle = self.cores(0, trials)
        return (CORE - idle) / (self.cores(1, trials, sampler) - idle)


def fitted() -> Costs:
    """Measure, and fit."""
    found = [_measured(load) for load in LOADS]
    sides = [
        [1.0, each.reports, each.assignments, each.assignments * load.known]
        for each, load in zip(found, LOADS, strict=True)
    ]
    cpu = np.array([each.cpu for each in found])
    # Each load counts by what share of its cost is missed.
    parts, _ = nnls(np.array(sides) / cpu[:, None], np.ones(len(cpu)))
    error = float(np.abs(np.array(sides) @ parts / cpu - 1).max())
    beside, a_report, a_trial, more_known = map(float, parts)
    asks = []
    for load in LEARNS:
        learns = _measured(load)
        as_random = beside + a_report * learns.reports
        as_random += learns.assignments * (a_trial + more_known * load.known)
        asks.append((learns.cpu - as_random) / learns.assignments)
    more_ask = max(0.0, (asks[1] - asks[0]) / (LEARNS[1].known - LEARNS[0].known))
    few, many = (_measured(load, feed=True) for load in FED)
    more = FED[1].known - FED[0].known
    full, known = found[-1], LOADS[-1].known  # with the most trials
    none = found[LOADS.index(replace(LOADS[-1], known=0))]
    return Costs(
        beside=beside,
        report=a_report,
        trial=a_trial,
        known=more_known,
        ask=asks[0] - more_ask * LEARNS[0].known,
        ask_known=more_ask,
        error=error,
        disk=full.disk / known,
        memory=1e6 * (full.memory_mb - none.memory_mb) / known,
        store=(many.store - few.store) / more,
        opened=(full.opened_s - none.opened_s) / known,
        fed=(many.fed_s - few.fed_s) / more,
    )


def model() -> list[tuple[str, str]]:
    """What was fitted, and what follows from it, in words."""
    costs = fitted()
    rows = [
        ("a report", f"{costs.report * 1e3:.2f} ms of a core"),
        ("a trial, its begin and its end", f"{costs.trial * 1e3:.1f} ms"),
        ("that, more for each 1,000 trials there", f"{costs.known * 1e6:.2f} ms"),
        ("that, more with `sampler: auto`", f"{costs.ask * 1e3:.1f} ms"),
        ("with it, more for each 1,000 trials there", f"{costs.ask_known * 1e6:.2f} ms"),
        ("whatever the workers", f"{costs.beside:.1%} of a core"),
        ("the fit misses what was measured by at most", f"{costs.error:.0%}"),
        ("a trial of 30 epochs × 3 metrics on the disk", f"{costs.disk / 1e3:.1f} kB"),
        ("in the orchestrator's memory", f"{costs.memory / 1e3:.1f} kB"),
        ("in MLflow's database", f"{costs.store / 1e3:.1f} kB"),
        ("to feed MLflow with it", f"{costs.fed * 1e3:.1f} ms of another core"),
        ("to read it when the study goes on", f"{costs.opened * 1e3:.2f} ms"),
    ]
    for workers, trials in ((1_000, 100_000), (10_000, 1_000_000)):
        rows += _ahead(costs, workers, trials)
    return rows


def _ahead(costs: Costs, workers: int, trials: int) -> list[tuple[str, str]]:
    """What a study would take, and of which of what there is it takes most."""
    fed, memory_gb = costs.fed * workers / EPOCHS, costs.memory * trials / 1e9
    needs = {
        "the orchestrator's core (random)": costs.cores(workers, trials) / CORE,
        "the orchestrator's core (auto)": costs.cores(workers, trials, "auto") / CORE,
        "the core that feeds MLflow": fed / CORE,
        f"{MEMORY_GB} GB of memory": memory_gb / MEMORY_GB,
    }
    order = sorted(needs, key=lambda part: -needs[part])
    most = [costs.most_workers(trials, sampler) for sampler in ("random", "auto")]
    cores = [costs.cores(workers, trials, sampler) for sampler in ("random", "auto")]
    return [
        (f"{workers:,} workers, {trials:,} trials", ""),
        ("  hours", f"{trials * EPOCHS / workers / 3600:.1f}"),
        ("  cores at the end: random / auto", "{:.2f} / {:.2f}".format(*cores)),
        ("  cores that feed MLflow", f"{fed:.2f}"),
        ("  disk / memory", f"{costs.disk * trials / 1e9:.1f} / {memory_gb:.1f} GB"),
        ("  MLflow's database", f"{costs.store * trials / 1e9:.1f} GB"),
        ("  to go on after a stop", f"{costs.opened * trials / 60:.1f} minutes"),
        ("  workers that one core serves: random / auto", "{:,.0f} / {:,.0f}".format(*most)),
        ("  that one core feeds MLflow for", f"{CORE * EPOCHS / costs.fed:,.0f}"),
        *(
            (
                f"  {'gives way first' if part == order[0] else 'then'}: {part}",
                f"{needs[part]:.1f} ×",
            )
            for part in order
        ),
    ]


def _measured(load: Load, *, feed: bool = False) -> Found:
    found = measured(replace(load, seconds=SECONDS), feed=feed)
    say(
        f"{load}: {found.cpu:.3f} of the core for {found.reports:.0f} reports and "
        f"{found.assignments:.1f} trials a second; opened in {found.opened_s:.1f} s, "
        f"{found.memory_mb:.0f} MB more; {found.fed_s:.1f} s to feed MLflow"
    )
    return found
