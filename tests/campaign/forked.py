"""Processes of hpo that start in a moment: forked from one that has imported everything.

A thousand restarts would else be a thousand imports of torch and MLflow. Nothing but the start
differs: each is a process of its own, with its own descriptors, session and signals.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None)


class Forked(subprocess.Popen):  # type: ignore[type-arg]
    """A `subprocess.Popen` that forks for ``python -m MODULE …``, MODULE being one of `mains`."""

    mains: ClassVar[dict[str, Callable[[], Any]]] = {}

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        if self.mains.keys().isdisjoint(args):  # another program
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        (_, _, _, pass_fds, _, env) = rest[:6]
        pipes = rest[9:15]
        stdin, _, _, stdout, _, stderr = pipes
        module = args.index("-m") + 1
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        self._child_created = True
        if self.pid:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
            return
        try:
            self._become(args[module], args[module + 1 :], (stdin, stdout, stderr), pass_fds, env)
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code if isinstance(end.code, int) else 1 if end.code else 0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _become(
        self,
        module: str,
        arguments: Sequence[str],
        streams: Sequence[int],
        pass_fds: Sequence[int],
        env: Any,
    ) -> None:
        gc.freeze()  # what is garbage here must not close descriptors that have a new meaning
        os.setsid()
        LIBC.prctl(PR_SET_NAME, module.removeprefix("hpo.")[:15].encode(), 0, 0, 0)
        for wanted, descriptor in enumerate(streams):
            if descriptor != -1:
                os.dup2(descriptor, wanted)
        first = 3
        for kept in (*sorted(pass_fds), os.sysconf("SC_OPEN_MAX")):
            if first < kept:  # else Linux closes everything
                os.closerange(first, kept)
            first = kept + 1
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        sys.argv = [module, *arguments]
        # Not closed when a process that is forked from this one has others.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        self.mains[module]()
        sys.stdout.flush()


def adopt_orphans() -> None:
    """Have what loses its parent become a child of this process, where it is found."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
