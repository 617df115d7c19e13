"""Connecting to a Ray cluster, and whether its head is still there."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from hpo.errors import HpoError, UserError

CONNECT_S = 10.0
ANSWER_S = 2.0  # so long the head may take to answer
CODE = "hpo-code"  # the user's, in the folder that Ray brings: Ray imports from that one itself
NOT_CODE = ("studies", "mlruns")  # beside own code: what studies have made
ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")  # what is in a folder of installed packages
_CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_BEGINS_ONE = "`ray start --head` begins one on this machine; `ray status` says whether it runs"


def connected(address: str, code: Path | None) -> Any:
    """Ray's module, connected to the cluster.

    Args:
        code: The folder of the user's own code, whose Python files are brought to the nodes.

    Raises:
        UserError: Ray is not installed, or the cluster takes work from anybody.
        HpoError: The cluster cannot be reached.
    """
    try:
        import ray
        from ray._private.services import canonicalize_bootstrap_address_or_die
    except ImportError:
        raise UserError("executor: ray needs Ray: pip install 'hpo[ray]'") from None
    named = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if "://" in named:
        raise UserError(
            f"executor: {named} is the address of Ray's client; run the study on a node of the "
            "cluster, with address: auto, or by `ray job submit`"
        )
    try:
        found = canonicalize_bootstrap_address_or_die(address)
    except (ConnectionError, ValueError) as error:
        raise HpoError(
            f"executor: no Ray cluster at {address} ({one_line(error)}). {_BEGINS_ONE}"
        ) from None
    _refuse_open(found)
    with tempfile.TemporaryDirectory(prefix="hpo-") as folder:  # Ray copies it at once
        if code is not None:
            copy_code(code, Path(folder, CODE))
        brought = {"working_dir": folder} if code is not None else {}
        try:
            ray.init(found, log_to_driver=False, logging_level=logging.ERROR, runtime_env=brought)
        except Exception as error:  # of many kinds: another version, another token
            raise HpoError(f"executor: the Ray cluster at {found}: {one_line(error)}") from None
    return ray


def copy_code(code: Path, to: Path) -> None:
    """Copy the Python files of a folder, and nothing else: there may be data and keys beside them.

    Hidden files and folders, linked folders, installed packages and studies stay.
    """
    for path, folders, files in os.walk(code):
        here = Path(path)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not (here == code and name in NOT_CODE)
            and not any((here / name / mark).exists() for mark in ENVIRONMENTS)
        ]
        for name in files:
            if name.endswith(".py") and not name.startswith("."):
                target = to / here.relative_to(code) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(here / name, target)


def _refuse_open(address: str) -> None:
    """Raise unless a cluster is there and asks for a token.

    Ray's processes listen on all addresses of a machine, and who reaches them can run anything. A
    client with a token is let in by a cluster that wants none, so it is asked without one. It is
    also asked because Ray itself waits for minutes for a head that is not there.
    """
    import grpc

    if os.environ.get("RAY_USE_TLS", "0") != "0":  # then a client needs a certificate
        return
    with grpc.insecure_channel(address) as channel:
        asked = channel.unary_unary(_CHECK_ALIVE)
        try:
            asked(b"", timeout=CONNECT_S)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                _refuse_other_token(asked, address)
                return
            raise HpoError(
                f"executor: no Ray cluster answers at {address} ({error.code().name.lower()}). "
                f"{_BEGINS_ONE}"
            ) from None
    raise UserError(
        f"executor: the Ray cluster at {address} runs what anybody sends who reaches its ports. "
        "Start it anew with RAY_AUTH_MODE=token on every node, and set that here; "
        "`ray get-auth-token --generate` makes the token that all need"
    )


def _refuse_other_token(asked: Any, address: str) -> None:
    """Raise where the cluster does not take the token that is set here, or none is.

    Ray itself tries for 20 seconds, with a line for each, and does not say what it was.
    """
    import grpc
    from ray._private.authentication import grpc_authentication_client_interceptor as of_ray
    from ray.exceptions import AuthenticationError

    try:
        asked(b"", timeout=CONNECT_S, metadata=of_ray._get_authentication_metadata_tuple())
    except (grpc.RpcError, AuthenticationError) as error:
        if isinstance(error, grpc.RpcError) and error.code() != grpc.StatusCode.UNAUTHENTICATED:
            return  # it was there a moment ago, and Ray may still find it
        raise UserError(
            f"executor: the Ray cluster at {address} asks for another token than the one here, if "
            "there is one. Set RAY_AUTH_MODE=token, and have its head's token in "
            "~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from None


def answers(head: str) -> bool:
    """Whether the head of a cluster does, and be it that it asks for a token.

    One that is frozen is connected to by the kernel, and says nothing.
    """
    import grpc

    if os.environ.get("RAY_USE_TLS", "0") != "0":  # then a client needs a certificate
        return listens(head)
    with grpc.insecure_channel(head) as channel:
        try:
            channel.unary_unary(_CHECK_ALIVE)(b"", timeout=ANSWER_S)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return True


def listens(address: str) -> bool:
    """Whether somebody takes connections there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except OSError:
        return False
    return True


def cluster_id(head: str) -> str:
    """Which cluster it is: another one after its head was started anew."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return str(GcsClient(address=head).cluster_id)


def one_line(error: BaseException) -> str:
    """The last line of what Ray says, which is what it is about."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
