"""A Ray cluster on this machine: each node a raylet of its own, as `ray start` begins one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

NODE = {"num_cpus": 2, "object_store_memory": 80 * 1024**2}


@contextlib.contextmanager
def running(**head: Any) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` that asks for a token, which this process has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "a" * 40)
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray._raylet import Config
        from ray.cluster_utils import Cluster

        Config.initialize("")  # what was read before, if Ray was imported already
        options = NODE | {"node_name": "head", "include_dashboard": False} | head
        cluster = Cluster(initialize_head=True, shutdown_at_exit=True, head_node_args=options)
        try:
            yield cluster
        finally:
            cluster.shutdown()
