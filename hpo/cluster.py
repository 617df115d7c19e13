"""A study as a job of Slurm or of Kubernetes: ``hpo cluster``. What is printed starts it there.

Both go on where they stopped: the same command is run again after the time was up, a node was lost
or the job was preempted. Nothing is submitted, and no secret is written: Slurm hands on the
environment that `sbatch` is called in, Kubernetes that of a secret.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import UserError
from hpo.spec import StudySpec, addresses

STOP_S = 180  # before Slurm's time is up: one minute for epochs to end, then at once
FOLDER = "/study"  # where all pods have the volume
LONGEST_NAME = 47  # KubeRay appends to it what its pods are called
RETRIES = 3
KEPT_S = 600  # how long a finished job's pods can still be looked at
PORT = 6379  # Ray's own choice
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAME = (
    rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*",
    "small letters, digits and dashes, e.g. my-data",
)
# Option → all that it may be, and that in words.
_GRAMMAR = {
    "time": (
        r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}",
        "minutes, minutes:seconds, hours:minutes:seconds, or days-hours[:minutes[:seconds]]",
    ),
    "partition": (r"[\w.-]+(,[\w.-]+)*", "the name of a partition, or several with commas"),
    "image": (r"[\w./:@-]+", "the name of an image, e.g. registry.example.com/hpo:1"),
    "memory": (r"\d+(\.\d+)?(Ki|[MGTPE]i|[kMGTPE])", "a number with its unit, e.g. 16Gi"),
    "claim": _NAME,
    "secret": _NAME,
    "namespace": (rf"(?=.{{1,63}}$){_LABEL}", _NAME[1]),
}


@dataclass(frozen=True)
class Slurm:
    """What a person may choose; None: what the cluster gives by itself.

    Attributes:
        cpus, gpus: On each node.
        time: As Slurm takes it, e.g. ``8:00:00`` or ``2-12``.
    """

    nodes: int = 1
    cpus: int | None = None
    gpus: int | None = None
    time: str | None = None
    partition: str | None = None


@dataclass(frozen=True)
class Kubernetes:
    """What a person may choose.

    Attributes:
        image: With hpo, Ray and all that the study needs.
        claim: A PersistentVolumeClaim that all pods can write to, with the study file in it.
        nodes: Pods that train; the head, which runs the study, is another.
        cpus, gpus, memory: Of each of them.
        secret: Its entries become environment variables of all pods.
    """

    image: str
    claim: str
    nodes: int = 1
    cpus: int = 4
    gpus: int | None = None
    memory: str = "16Gi"
    namespace: str | None = None
    secret: str | None = None


def slurm(spec: StudySpec, chosen: Slurm, home: Path, overrides: Sequence[str]) -> str:
    """The batch script that runs the study; for `sbatch`.

    Args:
        home: The folder of ``studies/``, which all nodes have; absolute.
        overrides: Of keys of the study file, as ``--set`` takes them.

    Raises:
        UserError: Slurm would not take what was chosen; several nodes are asked for without the
            Ray executor; a trial takes more than a node has; or there is a password in an
            override.
    """
    _check(chosen)
    with_ray = spec.executor.name == "ray"
    _check_room(spec, chosen.cpus if with_ray else None, chosen.gpus)
    if chosen.nodes > 1 and not with_ray:
        raise UserError(
            f"--nodes {chosen.nodes}: executor {spec.executor.name} uses one machine.\n"
            "Write `executor: ray` into the study file, or add `--set executor=ray`."
        )
    job = f"hpo-{spec.study}"  # a name that needs no quotes
    options = {
        "job-name": job,
        "nodes": chosen.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": chosen.cpus,
        "gpus-per-node": chosen.gpus,
        "time": chosen.time,
        "partition": chosen.partition,
        "output": f"{job}-%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{STOP_S}",  # TERM also comes when the job is cancelled
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value is not None]
    overrides = [*overrides, *_own_cluster(spec)]
    run = _command(["hpo", "run", str(spec.file.absolute())], overrides)
    name, programs = spec.study, shlex.quote(str(Path(sys.executable).parent))
    return "\n".join(
        [
            "#!/bin/bash",
            f"# Runs the study {name}. Submit it with `sbatch`; what it takes from the",
            "# environment has to be set there. Other options of sbatch can be given to it, too.",
            *lines,
            *(["#SBATCH --exclusive"] if with_ray else []),  # one Ray a node
            "#SBATCH --requeue",
            "",
            "set -euo pipefail",
            f"export PATH={programs}:$PATH",
            f"cd {shlex.quote(str(home))}",
            *(_RAY if with_ray else []),
            "",
            "time_is_up=",
            "study=",
            "stop() {  # tried again until it has ended: it may only be starting",
            f"  last=$((SECONDS + {STOP_S - 60}))",
            '  while [ "$SECONDS" -lt "$last" ] && kill -0 "$study" 2> /dev/null; do',
            f'    hpo stop {name} "$@" || hpo stop {name} --now || true',
            "    sleep 1",
            "  done",
            '  kill "$study" 2> /dev/null || true',
            "}",
            "trap 'time_is_up=yes; stop' USR1",
            "trap 'stop --now' TERM  # it was cancelled, or is preempted",
            "",
            *(_ON_ALL_NODES if with_ray else []),
            f"{'  ' if with_ray else ''}{run} &",
            "study=$!",
            "code=0",
            'wait "$study" || code=$?',
            'if [ "$code" -gt 128 ]; then  # a signal came first',
            "  code=0",
            '  wait "$study" || code=$?',
            "fi",
            'if [ -n "$time_is_up" ]; then  # it goes on in a new job of the same number',
            '  scontrol requeue "$SLURM_JOB_ID"',
            "fi",
            'exit "$code"',
            "",
        ]
    )


_RAY = [
    "unset RAY_ADDRESS  # of another cluster",
    "export RAY_AUTH_MODE=token",
    "RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')",
    "export RAY_AUTH_TOKEN",
    'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
]
_ON_ALL_NODES = [
    "# Starts Ray on all nodes, the study on the first one, and ends Ray with the study.",
    'cpus="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}"  # which srun does not take by itself',
    'srun --cpus-per-task="$cpus" \\',
    f'  ray symmetric-run --address "$head:{PORT}" --min-nodes "$SLURM_JOB_NUM_NODES" \\',
    '  --num-cpus "$cpus" -- \\',
]


def kubernetes(spec: StudySpec, chosen: Kubernetes, overrides: Sequence[str]) -> dict[str, Any]:
    """The manifest of the RayJob that runs the study; for ``kubectl apply``.

    Args:
        overrides: Of keys of the study file, as ``--set`` takes them.

    Raises:
        UserError: Kubernetes would not take what was chosen; a trial takes more than a pod has;
            Ray is not installed here, whose version is to be that of the image; or there is a
            password in an override.
    """
    _check(chosen)
    _check_room(spec, chosen.cpus, chosen.gpus)
    try:
        ray = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("hpo cluster kubernetes needs Ray: pip install 'hpo[ray]'") from None
    if spec.executor.name != "ray":
        overrides = [*overrides, "executor=ray"]
    overrides = [*overrides, *_own_cluster(spec)]
    # Not a shell's `cd`: KubeRay and Ray each take the line apart.
    run = ["env", f"--chdir={FOLDER}", "hpo", "run", spec.file.name]
    namespace = {"namespace": chosen.namespace} if chosen.namespace else {}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": _name(spec.study), **namespace},
        "spec": {
            "entrypoint": _command(run, overrides),
            "backoffLimit": RETRIES,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_S,
            "rayClusterSpec": {
                "rayVersion": ray,
                "authOptions": {"mode": "token"},
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"},  # nothing is trained beside the study
                    "template": {"spec": _pod("ray-head", chosen, gpus=None)},
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": chosen.nodes,
                        "minReplicas": chosen.nodes,
                        "maxReplicas": chosen.nodes,
                        "rayStartParams": {},
                        "template": {"spec": _pod("ray-worker", chosen, gpus=chosen.gpus)},
                    }
                ],
            },
        },
    }


def _pod(name: str, chosen: Kubernetes, gpus: int | None) -> dict[str, Any]:
    size: dict[str, Any] = {"cpu": str(chosen.cpus), "memory": chosen.memory}
    if gpus:
        size["nvidia.com/gpu"] = str(gpus)
    secret = {"envFrom": [{"secretRef": {"name": chosen.secret}}]} if chosen.secret else {}
    container = {
        "name": name,
        "image": chosen.image,
        "resources": {"requests": dict(size), "limits": dict(size)},
        **secret,
        "volumeMounts": [{"name": "study", "mountPath": FOLDER}],
    }
    volume = {"name": "study", "persistentVolumeClaim": {"claimName": chosen.claim}}
    return {"containers": [container], "volumes": [volume]}


def _check(chosen: Slurm | Kubernetes) -> None:
    """Raises UserError where an option is nothing that the cluster would understand."""
    for option, value in vars(chosen).items():
        pattern, expected = _GRAMMAR.get(option, ("", ""))
        if pattern and value is not None and not re.fullmatch(pattern, value, re.ASCII):
            raise UserError(f"--{option} {value!r}: expected {expected}")


def _check_room(spec: StudySpec, cpus: int | None, gpus: int | None) -> None:
    """Raises UserError where no node would have room for a trial.

    Args:
        cpus, gpus: Of each node; of CPUs, None: not known, or they are shared.
    """
    if spec.device == "cuda" and not gpus:
        raise UserError("device: cuda, and no GPUs are asked for\nAdd --gpus N, or device: cpu.")
    on_gpus = spec.device != "cpu" and gpus
    if on_gpus and spec.devices > on_gpus:
        raise UserError(
            f"--gpus {gpus}: a trial takes {spec.devices} GPUs of one node (gpus_per_trial)\n"
            f"Try --gpus {spec.devices}, or a smaller gpus_per_trial."
        )
    takes, why = int(spec.executor.options.get("cpus_per_trial", 1)), "executor.cpus_per_trial"
    if not on_gpus and spec.devices > takes:
        takes, why = spec.devices, "gpus_per_trial, on CPUs"
    if cpus is not None and takes > cpus:
        raise UserError(
            f"--cpus {cpus}: a trial takes {takes} CPUs of one node ({why})\n"
            f"Try --cpus {takes}, or let a trial take less."
        )


def _own_cluster(spec: StudySpec) -> list[str]:
    """The override by which the job uses its own Ray cluster where the file names another."""
    named = spec.executor.options.get("address", "auto")
    return [] if named == "auto" else ["executor.address=auto"]


def _command(words: Sequence[str], overrides: Sequence[str]) -> str:
    """Raises UserError with a password in an override: others may read what is printed."""
    for each in overrides:
        try:
            addresses.refuse_password(each, in_shell=True)
        except addresses.AddressError as error:
            raise UserError(f"--set: {error.message}\n{error.hint}") from None
    return shlex.join([*words, *(part for each in overrides for part in ("--set", each))])


def _name(study: str) -> str:
    """As Kubernetes takes names: small letters, digits and dashes; another for each study."""
    wanted = f"hpo-{study}"
    name = re.sub(r"[^a-z0-9]+", "-", wanted.lower())
    if name == wanted and len(name) <= LONGEST_NAME:
        return name
    mark = hashlib.sha256(study.encode()).hexdigest()[:6]
    return f"{name[: LONGEST_NAME - 7].rstrip('-')}-{mark}"
