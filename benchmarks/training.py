"""An epoch of our training loop against a plain PyTorch loop over a DataLoader.

The same model, rows, batches, optimizer and augmentation, on as many threads; each side is a
process of its own, and they train an epoch in turn. The plain loop is as PyTorch's tutorials have
it: torchvision transforms an image when it is asked for, in two processes of a DataLoader, which
live as long as the loop. Their memory is not counted.

With ``--device cuda`` models are on a GPU, where our data are, too; of that there are no goals.
There the plain loop is in float32, convolutions included, and ours in several precisions.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import Figure, interleaved, report, say

AUGMENT = {"flip": 0.5, "crop": 4}
CNN = {"name": "cnn", "channels": [32, 64, 128]}
SMALL, LARGE = {"batch_size": 64}, {"batch_size": 128}
# data, model, train.
CASES: Mapping[str, tuple[Any, Any, Any]] = {
    "digits, mlp 64": ({"source": "digits"}, {}, {}),
    "photos, cnn": ({}, CNN, SMALL),
    "photos, cnn, flips and crops": ({}, CNN, {**SMALL, "augment": AUGMENT}),
}
# How many times as fast an epoch is to be, and the share of memory.
GOALS = {"digits, mlp 64": 5.0, "photos, cnn": 1.0, "photos, cnn, flips and crops": 1.5}
MEMORY = 1.1
RESNET = {"name": "resnet18"}
# `tf32` said: absent, PyTorch rounds the factors of convolutions.
ON_GPU: Mapping[str, tuple[Any, Any, Any]] = {
    "photos, cnn, float32": ({}, CNN, {**SMALL, "tf32": False}),
    "photos, cnn, flips and crops, float32": (
        {},
        CNN,
        {**SMALL, "augment": AUGMENT, "tf32": False},
    ),
    "photos, resnet18, float32": ({}, RESNET, {**LARGE, "tf32": False}),
    "photos, resnet18, tf32": ({}, RESNET, {**LARGE, "tf32": True}),
    "photos, resnet18, bf16": ({}, RESNET, {**LARGE, "precision": "bf16"}),
    "photos, resnet18, fp16": ({}, RESNET, {**LARGE, "precision": "fp16"}),
}
ALL = {**CASES, **ON_GPU}

Epoch = Callable[[], object]


def ours(params: Mapping[str, Any], cache: Path, device: str) -> tuple[Epoch, int]:
    """An epoch of the built-in trainer's loop, and the bytes of its resident data."""
    from trainers.data import load
    from trainers.lanes import Lane
    from trainers.models import build
    from trainers.numerics import set_up
    from trainers.schedules import Constant
    from trainers.team import Grouped

    data = load(params["data"], cache)
    model = build(params["model"], data.shape, data.outputs)
    team = Grouped()
    schedule = Constant()
    set_up(params["train"], device)
    split = data.to(device).splits[0]
    team.add([Lane(model, split, params["train"], schedule, (0, 0))])
    return team.train, data.inputs.nbytes


def plain(params: Mapping[str, Any], cache: Path, device: str) -> tuple[Epoch, int]:
    """The same as one would write it."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    from trainers.data import load
    from trainers.models import build

    data = load(params["data"], cache)
    split, train = data.splits[0], params["train"]
    assert split.mean is not None
    assert split.std is not None
    steps: list[Any] = [v2.ToImage()]
    if train["augment"] is not None:
        padding = train["augment"]["crop"]
        steps += [v2.RandomCrop(data.shape[1:], padding=padding), v2.RandomHorizontalFlip()]
    scale = [(own.flatten() / 255).tolist() for own in (split.mean, split.std)]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*scale)]
    transform = v2.Compose(steps)
    images, target = (
        split.inputs[split.train].permute(0, 2, 3, 1).numpy(),
        split.target[split.train],
    )

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return len(target)

        def __getitem__(self, row: int) -> Any:
            return transform(images[row]), target[row]

    torch.backends.cudnn.allow_tf32 = False  # by default it is True
    model = build(params["model"], data.shape, data.outputs).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    loader = DataLoader(
        Images(),
        batch_size=train["batch_size"],
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
    )

    def epoch() -> None:
        model.train()
        for x, y in loader:
            loss = cross_entropy(model(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return epoch, data.inputs.nbytes


def serve(side: str, case: str, photos: str, threads: int, device: str) -> None:
    """Train an epoch for every line that comes in, and say how long it took."""
    import torch

    from trainers.registry import TRAINERS

    torch.set_num_threads(threads)
    built_in, (data, model, train) = TRAINERS["image_classifier"], ALL[case]
    params = {
        "data": built_in.data(**{"source": photos, **data}).model_dump(mode="json"),
        "model": built_in.model(**model).model_dump(mode="json"),
        "train": built_in.train(**train).model_dump(mode="json"),
    }
    with tempfile.TemporaryDirectory() as cache:
        epoch, data_bytes = {"ours": ours, "plain": plain}[side](params, Path(cache), device)
        epoch()  # what is made at the first step is made
        for _ in sys.stdin:
            began = time.perf_counter()
            epoch()
            if device == "cuda":
                torch.cuda.synchronize()
            print(time.perf_counter() - began, flush=True)
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak_kb / 1e3, data_bytes / 1e6, flush=True)


@contextmanager
def started(
    side: str, case: str, photos: str, threads: int, device: str
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, "--serve", side, "--case", case, "--photos", photos]
    process = subprocess.Popen(
        [*command, "--threads", str(threads), "--device", device],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def epoch_s(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def memory_mb(process: subprocess.Popen[str]) -> tuple[float, float]:
    """The peak of a side that has nothing more to do, and its data."""
    peak, data = process.communicate()[0].split()
    return float(peak), float(data)


def measured(
    case: str, photos: str, threads: int, rounds: int, device: str
) -> tuple[float, float, float, float, float]:
    """Seconds of an epoch, ours and plain; MB of ours, plain and the data."""
    say(f"{case}, {threads} threads …")
    with (
        started("ours", case, photos, threads, device) as one,
        started("plain", case, photos, threads, device) as other,
    ):
        own_s, plain_s = interleaved(rounds, lambda: epoch_s(one), lambda: epoch_s(other))
        (own_mb, data_mb), (plain_mb, _) = memory_mb(one), memory_mb(other)
    return own_s, plain_s, own_mb, plain_mb, data_mb


def on_cpu(case: str, photos: str, threads: int, rounds: int) -> list[Figure]:
    own_s, plain_s, own_mb, plain_mb, data_mb = measured(case, photos, threads, rounds, "cpu")
    name = f"{case}, {threads} threads"
    return [
        Figure(
            f"{name}: epochs a second, ours / plain",
            plain_s / own_s,
            GOALS[case],
            at_most=False,
            ours=f"{own_s * 1e3:.0f} ms",
            theirs=f"{plain_s * 1e3:.0f} ms",
        ),
        Figure(
            f"{name}: memory, ours / (plain + data)",
            own_mb / (plain_mb + data_mb),
            MEMORY,
            ours=f"{own_mb:.0f} MB",
            theirs=f"{plain_mb:.0f} + {data_mb:.0f} MB",
        ),
    ]


def on_gpu(case: str, photos: str, threads: int, rounds: int) -> tuple[str, str]:
    own_s, plain_s, *_ = measured(case, photos, threads, rounds, "cuda")
    took = f"{plain_s * 1e3:.0f} / {own_s * 1e3:.0f} ms = {plain_s / own_s:.2f} ×"
    return f"{case}, {threads} threads: an epoch, plain / ours", took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", help="a folder of photos, CLASS/*; absent: digits alone")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--threads", type=int, help="a process; absent: one, then a core each")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--case", help="only this one", choices=ALL)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.serve:
        serve(arguments.serve, arguments.case, arguments.photos, arguments.threads, device)
        return
    cores = len(os.sched_getaffinity(0))
    rows = [("cores", str(cores))]
    figures: list[Figure] = []
    if device == "cuda":
        import torch

        rows += [("device", torch.cuda.get_device_name()), ("torch", torch.__version__)]
    cases = CASES if device == "cpu" else ON_GPU
    if arguments.case and arguments.case not in cases:
        parser.error(f"--device {device} has {'; '.join(cases)}")
    for case in [arguments.case] if arguments.case else cases:
        if "photos" in case and arguments.photos is None:
            say(f"{case}: left out, for want of --photos")
            continue
        for threads in [arguments.threads] if arguments.threads else sorted({1, cores}):
            rounds = (3 if arguments.quick else 7) * (3 if "digits" in case else 1)
            if device == "cuda":
                rows.append(on_gpu(case, arguments.photos, threads, rounds))
            else:
                figures += on_cpu(case, arguments.photos or "", threads, rounds)
    report("training", rows, figures)


if __name__ == "__main__":
    main()
