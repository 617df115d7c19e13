"""Runs a program and ends as it ended; kills it, and all that it started, once hpo is gone.

``python -I -S command_guard.py PROGRAM ARGUMENT…``, started by `hpo.command` as the first of a
process group. Its standard input is a pipe that a worker holds: however the worker dies, the pipe
then ends. Imports nothing of hpo, for it is started once a trial.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading

CANNOT_START = 127  # the status, as a shell has it


def main(command: list[str]) -> int:
    """Run the command; its exit status."""
    # What the group is sent is for the program. A handler, because what is ignored the program
    # would ignore too.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a worker ignores it
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return CANNOT_START
    threading.Thread(target=_watch, daemon=True).start()
    status = program.wait()
    if status < 0:  # it died of a signal: so does this
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL cannot be set
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _watch() -> None:
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
