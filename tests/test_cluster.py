"""What `hpo cluster` prints: scripts that bash takes, manifests that Kubernetes takes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import psutil
import pytest
import yaml
from command import hpo
from test_lease import end
from workbench import Workbench

from hpo.paths import Home

PROGRAMS = Path(sys.executable).parent
# Of KubeRay 1.5.1, https://docs.ray.io/en/latest/cluster/kubernetes/references/api.html
RAY_JOB = {
    "entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
    "rayClusterSpec",
}  # fmt: skip
RAY_CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}


def script(bench: Workbench, *options: str) -> str:
    called = hpo("cluster", "slurm", bench.file, "--home", bench.folder, *options)
    assert called.code == 0, called.err
    return called.out


def manifest(bench: Workbench, *options: str) -> dict[str, Any]:
    needed = ("--image", "me/hpo:1", "--claim", "flowers")
    called = hpo("cluster", "kubernetes", bench.file, *needed, *options)
    assert called.code == 0, called.err
    found = yaml.safe_load(called.out)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--gpus", "4", "--cpus", "8", "--time", "8:00:00", "--partition", "gpu"),
        ("--nodes", "3", "--set", "executor=ray"),
        ("--set", 'train.at={"a b": "$(touch x)"}'),
    ],
)
def test_shells_take_the_script(bench: Workbench, options: tuple[str, ...]) -> None:
    text = script(bench, *options)
    for check in (["bash", "-n"], [PROGRAMS / "shellcheck", "-S", "warning", "-"]):
        done = subprocess.run(check, input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (line.strip() for line in text.splitlines() if line.strip().startswith("hpo run"))
    overrides = [word for key, word in zip(options, options[1:], strict=False) if key == "--set"]
    words = ["hpo", "run", str(bench.file), *(w for o in overrides for w in ("--set", o)), "&"]
    assert shlex.split(run) == words


def test_what_is_asked_for_is_asked_of_slurm(bench: Workbench) -> None:
    text = script(bench, "--gpus", "4", "--time", "8:00:00", "--partition", "gpu")
    asked = {line for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {
        "#SBATCH --gpus-per-node=4", "#SBATCH --time=8:00:00", "#SBATCH --partition=gpu",
        "#SBATCH --nodes=1", "#SBATCH --requeue",
    } <= asked  # fmt: skip
    assert not [line for line in asked if "cpus" in line]


@pytest.mark.parametrize("of", [("slurm",), ("kubernetes", "--image", "x", "--claim", "y")])
def test_a_password_does_not_get_into_what_is_printed(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, of: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PW", "canary-88ab")
    for key in ("storage", "tracking.uri"):
        address = f"{key}=postgresql://me:{{}}@h/db"
        command = ("cluster", of[0], bench.file, *of[1:], "--set")
        refused = hpo(*command, address.format("canary-77ab"))
        assert refused.code == 2
        assert "there is a password in the address" in refused.err
        assert "canary" not in refused.out + refused.err
        printed = hpo(*command, address.format("${PW}"))
        assert printed.code == 0, printed.err
        assert f"'{address.format('${PW}')}'" in printed.out
        assert "canary" not in printed.out


def test_several_nodes_need_ray(bench: Workbench) -> None:
    called = hpo("cluster", "slurm", bench.file, "--nodes", "2")
    assert called.code == 2
    assert "executor inline uses one machine" in called.err
    assert "--set executor=ray" in called.err


@pytest.mark.parametrize(
    ("of", "options", "said"),
    [
        ("slurm", "--nodes 8 --gpus 1 --set gpus_per_trial=4", "Try --gpus 4"),
        ("slurm", "--set device=cuda", "Add --gpus N"),
        ("slurm", "--cpus 2 --set executor.cpus_per_trial=4", "Try --cpus 4"),
        ("kubernetes", "--gpus 1 --set gpus_per_trial=2", "Try --gpus 2"),
        (
            "kubernetes",  # which has Ray, whatever the file says
            "--cpus 1 --set gpus_per_trial=2 --set executor=processes",
            "(gpus_per_trial, on CPUs)",
        ),
        ("kubernetes", "--set executor.cpus_per_trial=5", "Try --cpus 5"),
    ],
)
def test_a_node_has_room_for_a_trial(bench: Workbench, of: str, options: str, said: str) -> None:
    needed = ("--image", "me/hpo:1", "--claim", "flowers") if of == "kubernetes" else ()
    told = ("--set", "executor={name: ray}", "--set", "device=auto")
    command = ("cluster", of, bench.file, *told, *needed)
    refused = hpo(*command, *options.split())
    assert refused.code == 2
    assert said in refused.err
    enough = options.replace("--gpus 1", "--gpus 4").replace("device=cuda", "device=cpu")
    enough = enough.replace("--cpus 1", "--cpus 8").replace("--cpus 2", "--cpus 8")
    assert hpo(*command, *enough.replace("trial=5", "trial=4").split()).code == 0


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        (
            "time",
            ("90", "90:30", "8:00:00", "2-12", "2-12:30", "2-12:30:00"),
            ("foo", "", "1:2:3:4", "2-", "8h", "8:00\n#SBATCH --wrap=x"),
        ),
        ("partition", ("gpu", "gpu,gpu_long"), ("a b", "--x y", "")),
        ("memory", ("16Gi", "1.5G", "500M"), ("foo", "16GB", "16", "16 Gi")),
        ("namespace", ("ml", "a-1"), ("A B", "Ml", "a.b", "-a", "a" * 64)),
        ("secret", ("db", "a.b-c"), ("x y", "a..b", "a_b")),
        ("claim", ("flowers",), ("Flowers", "")),
        ("image", ("me/hpo:1", "r.io:5000/a/b@sha256:00ff"), ("a b", "")),
    ],
)
def test_what_the_cluster_would_not_take_is_refused(
    bench: Workbench, option: str, good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    of = ("slurm",) if option in ("time", "partition") else ("kubernetes",)
    needed = ("--image", "me/hpo:1", "--claim", "flowers") if of == ("kubernetes",) else ()
    for value in (*good, *bad):
        called = hpo("cluster", *of, bench.file, *needed, f"--{option}", value)
        assert called.code == (0 if value in good else 2), value
        if value in bad:
            assert called.err.startswith(f"--{option} {value!r}: expected ")


@pytest.mark.parametrize("address", ["10.0.0.5:6379", "auto"])
def test_a_job_uses_the_cluster_of_its_own(bench: Workbench, address: str) -> None:
    """Also where the study file, or the environment, names another."""
    told = ("--set", f"executor={{name: ray, address: '{address}'}}")
    lines = [line.strip() for line in script(bench, *told).splitlines()]
    assert any(line.startswith("unset RAY_ADDRESS") for line in lines)
    assert 'srun --cpus-per-task="$cpus" \\' in lines  # which it does not take from sbatch
    (run,) = (line.removesuffix(" &") for line in lines if line.startswith("hpo run"))
    for words in (run, manifest(bench, *told)["spec"]["entrypoint"]):
        last = shlex.split(words)[-1]
        assert last == ("executor.address=auto" if address != "auto" else told[1])


@pytest.mark.slow
def test_a_job_whose_time_is_up_stops_in_order_and_asks_for_the_next(
    bench: Workbench, empty_store: Path
) -> None:
    """As Slurm runs the script, and signals it; ``scontrol`` is a program that says it was called.
    The first job's time is up while the study still starts and nothing can stop it yet. The job
    that follows is cancelled, and the next goes on to the end."""
    options = ("--set", "train.seconds=0.3", "--set", "train.epochs=8", "--set", "budget.trials=3")
    bench.home.mlruns.mkdir()
    shutil.copy(empty_store, bench.home.mlruns)
    job = bench.folder / "job.sh"
    job.write_text(script(bench, *options).replace("export PATH=", f"export PATH={bench.folder}:"))
    (bench.folder / "scontrol").write_text('#!/bin/sh\necho "$@" >> requeued\n')
    (bench.folder / "scontrol").chmod(0o755)
    environment = {**os.environ, "SLURM_JOB_ID": "77"}
    for number, told in enumerate((signal.SIGUSR1, signal.SIGTERM)):
        stopped = subprocess.Popen(["bash", job], env=environment, start_new_session=True)
        try:
            before = len(bench.records("epoch")) if number else 0
            while not (len(bench.records("epoch")) > before if number else runs(stopped.pid)):
                assert stopped.poll() is None
                time.sleep(0.05)
            stopped.send_signal(told)
            assert number or not bench.paths.outbox.exists()
            stopped.wait(timeout=120)
        finally:
            end(stopped)
        assert (bench.folder / "requeued").read_text() == "requeue 77\n"
        assert len(bench.records("study_end")) == number + 1
        assert bench.records("study_end")[-1]["state"] == "interrupted"
    assert subprocess.run(["bash", job], env=environment, timeout=120).returncode == 0
    assert [r["state"] for r in bench.records("end")] == ["complete"] * 3
    assert (bench.folder / "requeued").read_text() == "requeue 77\n"


def runs(job: int) -> bool:
    """Whether a job's script has started its study."""
    return any("run" in process.cmdline() for process in psutil.Process(job).children())


def test_kubernetes_takes_the_manifest(bench: Workbench) -> None:
    """Its pods by the schemas of Kubernetes. That of a RayJob comes with KubeRay alone."""
    job = manifest(bench, "--gpus", "2", "--secret", "databases", "--namespace", "ml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"] == {"name": "hpo-s", "namespace": "ml"}
    assert set(job["spec"]) == RAY_JOB
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == RAY_CLUSTER
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)
        (container,) = pod["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "databases"}}]
    gpus = [
        group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for group in groups
    ]
    assert gpus == [None, "2"]


def test_a_pod_runs_the_file_with_ray(bench: Workbench) -> None:
    run = ["env", "--chdir=/study", "hpo", "run", "study.yaml"]
    plain = manifest(bench, "--set", "train.epochs=3")["spec"]["entrypoint"]
    assert shlex.split(plain) == [*run, "--set", "train.epochs=3", "--set", "executor=ray"]
    said = manifest(bench, "--set", "executor=ray")["spec"]["entrypoint"]
    assert shlex.split(said) == [*run, "--set", "executor=ray"]


def test_a_name_that_kubernetes_does_not_know_is_made_one(bench: Workbench) -> None:
    found = manifest(bench, "--set", f"study=My_Flowers.{'9' * 50}")["metadata"]["name"]
    assert found.startswith("hpo-my-flowers-999")
    assert len(found) == 47
    # Else the second of them would be taken for a change of the first one's job.
    studies = ["a-b", "A_b", "a.b", "a--b", "9" * 47, "9" * 48]
    names = {manifest(bench, "--set", f"study='{study}'")["metadata"]["name"] for study in studies}
    assert len(names) == len(studies)
    assert all(re.fullmatch("[a-z]([-a-z0-9]{,45}[a-z0-9])?", name) for name in names)
    assert "hpo-a-b" in names
    assert not (Home(bench.folder).studies).exists()
