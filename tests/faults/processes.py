"""Processes to be disturbed: forks of a server, which start in milliseconds, and fresh interpreters, which do not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from faults import child
from faults.child import Order

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0  # seconds: a hundred times what any job takes
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "MPLBACKEND": "agg",
    "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
}


@dataclass(frozen=True)
class Ended:
    """A process that is no more.

    Attributes:
        arguments: its command.
        status: its exit status, or minus the signal that ended it.
        out, err: what it said.
        sent: signals that it was sent, the one that was planted included.
        seconds: that it lived.
        hung: it had to be killed after `LIMIT` seconds.
    """

    arguments: tuple[str, ...]
    status: int
    out: str
    err: str
    sent: tuple[int, ...]
    seconds: float
    hung: bool

    @property
    def lines(self) -> list[str]:
        """Of stderr, progress that was overwritten included."""
        return self.err.replace("\r", "\n").splitlines()

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that say why it failed, without their head."""
        heads = ("kernreg: error: ", "Error: ", "Aborted!")
        return [
            line.removeprefix(heads[0]).removeprefix(heads[1])
            for line in self.lines
            if line.startswith(heads)
        ]


class Running:
    """A process at work."""

    def __init__(self, order: Order, pid: int, wait: Callable[[float], int | None]) -> None:
        """`wait` gives the status once the process has ended within so many seconds, else None."""
        self._order, self._pid, self._wait, self._began = order, pid, wait, time.monotonic()
        self._sent = [signal.SIGKILL] if order.step and order.failure == child.KILL else []

    def signal(self, number: signal.Signals) -> None:
        """Send it; a process that has ended gets none."""
        if self._wait(0) is None:
            self._sent.append(number)
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        return self._wait(seconds) is not None

    def wait_for_kernreg(self) -> None:
        """Until a fresh interpreter is past its own beginnings, in which a Ctrl-C is a traceback of Python's own.

        Python catches SIGINT; the first thing that kernreg does is to let go of it, and then it catches SIGTERM.
        """
        caught = False
        while self._wait(0.001) is None:
            with suppress(OSError):
                status = Path(f"/proc/{self._pid}/status").read_text(encoding="ascii")
                mask = int(status.partition("SigCgt:")[2].split()[0], 16)
                if mask >> signal.SIGTERM - 1 & 1 or (caught and not mask >> signal.SIGINT - 1 & 1):
                    return
                caught = bool(mask >> signal.SIGINT - 1 & 1)

    def finish(self, limit: float = LIMIT) -> Ended:
        """Wait for its end; after `limit` seconds kill it."""
        status = self._wait(limit)
        hung = status is None
        if status is None:
            os.kill(self._pid, signal.SIGKILL)
            status = self._wait(LIMIT)
            assert status is not None
        out, err = _said(self._order, ".out"), _said(self._order, ".err")
        seconds = time.monotonic() - self._began
        return Ended(self._order.arguments, status, out, err, tuple(self._sent), seconds, hung)


def _said(order: Order, suffix: str) -> str:
    path = Path(f"{order.said}{suffix}")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""  # killed at once


class Server:
    """The fork server; it ends with the process that has made it."""

    def __init__(self) -> None:
        os.environ.update(ENVIRONMENT)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["faults.preload"])

    def start(self, order: Order) -> Running:
        """A fork of the server that does it."""
        carriers = [] if order.largest is None else [_carrier(order, suffix) for suffix in (".out", ".err")]
        process = self._context.Process(target=child.run, args=(order,))
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # the fork has no use for it, and would run it again
        try:
            process.start()
        finally:
            sys.modules["__main__"] = main

        def wait(seconds: float) -> int | None:
            process.join(seconds)
            if process.exitcode is not None:
                for carrier in carriers:
                    carrier.wait()
            return process.exitcode

        assert process.pid is not None
        return Running(order, process.pid, wait)


def _carrier(order: Order, suffix: str) -> subprocess.Popen[bytes]:
    """Carries what a process says from a pipe to its file."""
    pipe = f"{order.said}{suffix}{child.PIPE}"
    os.mkfifo(pipe)
    with open(f"{order.said}{suffix}", "wb") as file:
        return subprocess.Popen(["cat", pipe], stdout=file)


def fresh(order: Order) -> Running:
    """A new interpreter; of the order only arguments, folder and files count."""
    with open(f"{order.said}.out", "wb") as out, open(f"{order.said}.err", "wb") as err:
        command = [sys.executable, "-m", "kernreg", *order.arguments]
        process = subprocess.Popen(
            command, cwd=order.folder, stdout=out, stderr=err, env={**os.environ, **ENVIRONMENT}
        )

    def wait(seconds: float) -> int | None:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    return Running(order, process.pid, wait)
