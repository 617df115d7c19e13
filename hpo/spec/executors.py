"""Executors: what each is called in a study file, and its options."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from hpo.spec.explain import wrong
from hpo.spec.methods import MethodOptions

_OF_RAY = {
    "CPU": "`cpus_per_trial` says how many",
    "GPU": "`gpus_per_trial` of the study says how many",
    "memory": None,
    "object_store_memory": None,
}


def _named_by_the_cluster(name: str) -> str:
    if name in _OF_RAY:
        raise wrong(f"{name} is Ray's own, and no resource that nodes are given", _OF_RAY[name])
    return name


class Processes(MethodOptions):
    """Processes on this machine, one a CPU core, or as many as its GPUs hold."""


class Ray(MethodOptions):
    """On the nodes of a Ray cluster, which share the folder that the study is run in."""

    address: str = Field(
        "auto",
        min_length=1,
        description="`host:port` of the cluster's head. auto: `RAY_ADDRESS`, or the cluster that "
        "this machine belongs to.",
    )
    cpus_per_trial: int = Field(
        1, ge=1, le=1024, description="CPUs that a worker takes on its node, and its threads."
    )
    resources: dict[
        Annotated[str, AfterValidator(_named_by_the_cluster)], Annotated[float, Field(ge=1e-4)]
    ] = Field(
        default_factory=dict,
        description="What else a worker takes on its node, by the names that `ray start "
        "--resources` gives: `{large_memory: 1}`.",
    )


class Inline(MethodOptions):
    """One worker within this process, for debugging."""


EXECUTORS: dict[str, type[MethodOptions]] = {
    "processes": Processes,
    "ray": Ray,
    "inline": Inline,
}
