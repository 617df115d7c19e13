"""docs/pictures/pausing.svg: the curves of a study whose trials pause, by what became of them.

hpo run docs/pictures/pausing.yaml --home HOME
python docs/pictures/pausing.py HOME
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from hpo.history import History

STUDY, METRIC = "pausing", "val/accuracy"
FATES = {  # of a trial: line, what is said of it
    "dropped": ({"color": "#b8bec6", "linewidth": 0.9}, "paused, and not resumed"),
    "resumed": ({"color": "#5b7fb5", "linewidth": 1.2}, "resumed, and paused again"),
    "whole": ({"color": "#d9822b", "linewidth": 1.6}, "trained to the end"),
}


def main() -> None:
    plt.rcParams["svg.hashsalt"] = STUDY  # the same names in the file each time
    here, home = Path(__file__).parent, Path(sys.argv[1])
    history = History.read(home / "studies" / STUDY / "outbox.log", [METRIC], maximize=True)
    figure, (curves, order) = plt.subplots(
        1, 2, figsize=(9.6, 3.6), width_ratios=(1.2, 1), layout="constrained"
    )
    stops: dict[int, list[int]] = {}
    length = max(trial.recorded for trial in history.trials.values())
    said: set[str] = set()
    at = 0
    for number, until in history.decisions:
        trial = history.trials[number]
        before = stops.setdefault(number, [0])
        after = min(until or length, trial.recorded)
        style, _ = FATES[_fate(history, number, length)]
        order.plot([at, at + after - before[-1]], [before[-1], after], **style)
        at += after - before[-1]
        before.append(after)
    for fate, (style, words) in FATES.items():
        for number, reached in stops.items():
            if _fate(history, number, length) != fate:
                continue
            values = history.trials[number].values
            epochs = sorted(values)
            label = None if fate in said else words
            said.add(fate)
            curves.plot(epochs, [values[e][0] for e in epochs], label=label, **style)
            pauses = [epoch for epoch in reached[1:] if epoch < length]
            dots = [values[epoch][0] for epoch in pauses]
            curves.plot(pauses, dots, "o", markersize=3, color=style["color"])
    curves.set(xlabel="epoch", ylabel=METRIC, xlim=(1, length), ylim=(0.85, 1.0))
    order.set(xlabel="epochs trained, over all trials", ylabel="a trial's epochs")
    curves.legend(frameon=False, fontsize=8, loc="lower right")
    for axes in (curves, order):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(here / "pausing.svg", metadata={"Date": None})


def _fate(history: History, number: int, length: int) -> str:
    if history.trials[number].recorded == length:
        return "whole"
    return "resumed" if len(history.trials[number].targets) > 1 else "dropped"


if __name__ == "__main__":
    main()
