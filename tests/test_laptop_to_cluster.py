"""The guide from laptop to cluster: its commands, in order, and what they print."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from served import free_ports

pytest.importorskip("ray")

PAGE = Path(__file__).resolve().parents[1] / "docs/guide/laptop-to-cluster.md"
COMMAND = re.compile(r"^\$ (.*<<END\n(?:.*\n)*?END|.*)$", re.MULTILINE)
# Paths, and numbers that depend on chance or time; of how many epochs is not always known yet.
VARYING = re.compile(r"/[\w./-]*(?:wine/|\.cache/)\S*|[0-9][0-9,./]*")
PORTS = ("5555", "5001", "6399")


def alike(line: str) -> str:
    return " ".join(VARYING.sub("#", line).split())


def _end(folder: Path, of_ray: str) -> None:
    """Whatever the guide has started, and is still there."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            here = Path(process.cwd()).is_relative_to(folder)  # Ray's agents hide what follows
            if here or process.environ().get("RAY_TMPDIR") == of_ray:
                process.kill()


@pytest.mark.slow
@pytest.mark.timeout(560)
def test_the_guide_can_be_followed_and_prints_what_it_shows(tmp_path: Path) -> None:
    folder = tmp_path / "wine"
    folder.mkdir()
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    commands = [one for block in blocks for one in COMMAND.findall(block)]
    assert commands.pop(2) == "mkdir ~/wine && cd ~/wine"
    assert "pip install" in commands.pop(1)
    assert "venv" in commands.pop(0)
    commands = [one for one in commands if not one.startswith("ray stop")]  # anybody's would end
    text = "\n".join(["set -eo pipefail", *commands, ""])
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    text = re.sub("|".join(PORTS), lambda port: ports[port.group()], text)
    node = f"shelf{os.getpid()}"  # the guide's `pkill` is to find no other test's
    text = text.replace("shelf", node)
    script = tmp_path / "guide.sh"  # on a command line the guide's `pkill` would find itself
    script.write_text(text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / ".cache"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as of_ray:
        environment["RAY_TMPDIR"] = of_ray  # short, for the names of its sockets
        try:
            with open(tmp_path / "printed.txt", "w") as file:
                done = subprocess.run(
                    ["bash", str(script)], cwd=folder, env=environment, stdout=file, stderr=file,
                    timeout=540,
                )  # fmt: skip
        finally:
            _end(folder, of_ray)
    output = (tmp_path / "printed.txt").read_text().replace(node, "shelf")
    assert done.returncode == 0, output[-3000:]
    printed = {alike(line) for line in output.splitlines()}
    shown = [line for block in blocks for line in COMMAND.sub("", block).splitlines()]
    lines = {alike(line) for line in shown} - {"", "…"}
    assert lines - printed == set(), output[-3000:]
    assert len(lines) > 20
    assert "wine: all 38 trials are done (38 complete)." in output
    assert "place on node shelf was lost" in output
