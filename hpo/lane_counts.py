"""How many trials it pays to train together on this machine: measured once, and remembered.

Kept beside the decoded data, for all studies. A file that cannot be read is as good as none.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.loaded import Data
from hpo.messages import Setup
from hpo.paths import replacing

if TYPE_CHECKING:
    from trainers.data import Dataset

NAME = "lanes.json"
MOST_KEPT = 1000  # the newest


def lanes_that_pay(
    setup: Setup, data: Data, params: Mapping[str, Mapping[str, Any]], most: int
) -> int:
    """How many trials of such `params`, up to `most`, train fastest together; 1 if none can.

    What was measured before counts, of the same model, data, device, threads and torch.
    """
    try:
        dataset = data.load(params["data"])
        path, key = setup.cache / NAME, _key(setup, params, dataset)
        lanes = _remembered(path, key, most)
        if lanes is None:
            from trainers.lanes.measure import lanes_that_pay as measured

            lanes = measured(params, dataset, setup.device, most)
            _remember(path, key, lanes, most)
    except Exception:  # one at a time they may still be trained, or say what is wrong
        traceback.print_exc()
        return 1
    return lanes


def _key(setup: Setup, params: Mapping[str, Mapping[str, Any]], dataset: Dataset) -> str:
    import torch

    from trainers.registry import stack_key

    device = "cpu" if setup.device == "cpu" else torch.cuda.get_device_name()
    stack = stack_key(setup.trainer, params)
    facts = (stack, dataset.summary["fingerprint"], device, setup.threads, torch.__version__)
    return json.dumps(facts)


def _remembered(path: Path, key: str, most: int) -> int | None:
    """What was measured with at least so many lanes, or with fewer that were too many already."""
    lanes, tried = _read(path).get(key, (0, 0))
    known = lanes >= 1 and (tried >= most or lanes < tried)
    return min(lanes, most) if known else None


def _remember(path: Path, key: str, lanes: int, tried: int) -> None:
    kept = {k: pair for k, pair in _read(path).items() if k != key}
    newest = dict([*kept.items(), (key, (lanes, tried))][-MOST_KEPT:])
    with replacing(path) as file:
        file.write(json.dumps(newest, indent=0).encode())


def _read(path: Path) -> dict[str, tuple[int, int]]:
    try:
        content = json.loads(path.read_bytes())
        return {key: (int(lanes), int(tried)) for key, (lanes, tried) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
