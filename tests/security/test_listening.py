"""What hpo leaves open to others: nothing beyond this machine, in any address family."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from served import free_port, served
from workbench import Workbench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="there is no /proc/net"),
]

LISTENS = "0A"  # of TCP; other protocols have no such state: what is bound can be sent to


def inodes(processes: list[psutil.Process]) -> set[str]:
    """Those of the sockets that they hold."""
    found = set()
    for process in processes:
        try:
            descriptors = list(Path(f"/proc/{process.pid}/fd").iterdir())
        except OSError:  # it is over
            continue
        for descriptor in descriptors:
            try:
                found |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(descriptor)))
            except OSError:
                continue
    return found


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """``0100007F`` → 127.0.0.1: words of four bytes, each the other way round."""
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    return ipaddress.ip_address(b"".join(words))


def reachable(processes: list[psutil.Process]) -> Iterator[tuple[str, str]]:
    """Protocol and address of every socket of theirs that others could speak to."""
    own = inodes(processes)
    for protocol in ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6"):
        table = Path("/proc/net", protocol)
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, remote, state, *rest = line.split()
            is_open = state == LISTENS if protocol.startswith("tcp") else remote.endswith(":0000")
            if rest[5] in own and is_open:
                yield protocol, str(address_of(local.partition(":")[0]))
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split()
        if inode in own and int(flags, 16) & 0x10000:  # it accepts connections
            yield "unix", path[0] if path else ""
    for line in Path("/proc/net/packet").read_text().splitlines()[1:]:
        if line.split()[-1] in own:
            yield "packet", line


def is_private(address: str) -> bool:
    """Whether a Unix socket lies in a folder of this user alone; one that starts with @ (in no
    folder) can be reached by every user."""
    return address.startswith("/") and not stat.S_IMODE(Path(address).parent.stat().st_mode) & 0o77


def assert_nothing_is_reachable(processes: list[psutil.Process]) -> list[tuple[str, str]]:
    found = list(reachable(processes))
    for protocol, address in found:
        if protocol == "unix":
            assert is_private(address), found
        else:
            assert ipaddress.ip_address(address).is_loopback, found
    return found


def test_a_study_in_training_listens_to_nobody(bench: Workbench) -> None:
    options = ("executor=processes", "workers=2", "train.epochs=400", "train.seconds=0.05")
    command = [sys.executable, "-m", "hpo.cli", "run", bench.file, "--home", bench.folder]
    command += [word for option in options for word in ("--set", option)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        own = psutil.Process(process.pid)
        until_s = time.monotonic() + 60
        while not (bench.paths.root / "shipped.json").exists():  # workers train, MLflow is fed
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < until_s
            time.sleep(0.1)
        processes = [own, *own.children(recursive=True)]
        try:
            assert len(processes) >= 4  # the orchestrator, two workers, what feeds MLflow
            assert inodes(processes), "they speak over socket pairs"
            assert not [found for found in reachable(processes) if found[0] != "unix"]
            assert_nothing_is_reachable(processes)
        finally:
            for each in reversed(processes):
                each.kill()


@pytest.mark.parametrize(
    "arguments", [("ui", "--no-browser"), ("server",), ("server", "--auth")], ids=" ".join
)
def test_a_server_listens_to_this_machine_at_one_port(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with served(*arguments, "--home", tmp_path, "--port", str(free_port())) as up:
        found = assert_nothing_is_reachable(up.processes())
        assert [each for each in found if each[0] != "unix"] == [("tcp", "127.0.0.1")]


def test_the_look_at_sockets_finds_what_is_open(tmp_path: Path) -> None:
    """One that listens everywhere, in each family."""
    program = (
        "import socket, sys, time\n"
        "every = [socket.create_server(('', 0))]\n"
        "every += [socket.create_server(('::', 0), family=socket.AF_INET6)]\n"
        "udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "udp.bind(('0.0.0.0', 0))\n"
        "unix = socket.socket(socket.AF_UNIX)\n"
        f"unix.bind({str(tmp_path / 'socket')!r})\n"
        "unix.listen()\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        found = set(reachable([psutil.Process(process.pid)]))
        process.kill()
    assert {("tcp", "0.0.0.0"), ("tcp6", "::"), ("udp", "0.0.0.0")} <= found
    assert ("unix", str(tmp_path / "socket")) in found
