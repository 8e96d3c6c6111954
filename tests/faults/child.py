"""A process that is to be disturbed: a kernreg command, in a fork of a server that has imported everything.

`run` is what the fork does: what it says goes to files, faults are planted, and then the command line runs as
`python -m kernreg` runs it. Of the library nothing is replaced but constants: small tiles and panels, a state after every
iteration, coarse pictures, so that a job of a second has as many steps as one of days.
"""

from __future__ import annotations

import ctypes
import datetime
import errno
import functools
import itertools
import multiprocessing
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

TILE = 8
CAPABILITIES_3 = 0x20080522  # the version of capset(2)
READ = "read"  # in place of a command: read a store in Python
PIPE = ".pipe"  # what a process says goes through one where the size of its files is limited
KILL = -1  # in place of an errno


@dataclass(frozen=True)
class Order:
    """What a process is to do, and what is planted in it.

    Attributes:
        arguments: of `kernreg`; or `READ`, a store and a file for its arrays.
        folder: where it runs.
        said: what it says goes to said.out and said.err.
        small: see the head of this module; False leaves the constants alone.
        journal: file that the names of all files go to which it puts in place.
        step, failure: at this step (an opening for writing, a write, an fsync, a renaming, a removal) in `folder` it is
            killed (`KILL`) or meets this errno; a disk that is full or read-only stays so.
        count: file that the number of steps goes to.
        jump: by how many seconds the clock jumps, and after how many.
        largest: bytes that a file may have.
        unprivileged: permissions bind it, also where the tests are root.
    """

    arguments: tuple[str, ...]
    folder: Path
    said: Path
    small: bool = True
    journal: Path | None = None
    step: int = 0
    failure: int = KILL
    count: Path | None = None
    jump: tuple[float, float] | None = None
    largest: int | None = None
    unprivileged: bool = False


def run(order: Order) -> None:
    """Do it; never returns."""
    for number, suffix in ((1, ".out"), (2, ".err")):
        name = f"{order.said}{suffix}" if order.largest is None else f"{order.said}{suffix}{PIPE}"
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    multiprocessing.set_start_method("fork", force=True)  # as a fresh interpreter has it, for tqdm's lock
    os.chdir(order.folder)
    if order.small:
        _make_small(beyond_memory="--scratch" in order.arguments)
    if order.jump is not None:
        _set_clock(*order.jump)
    _watch(order)
    if order.largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order.largest, order.largest))
    if order.unprivileged and os.geteuid() == 0:
        _give_up_privileges()
    if order.arguments[0] == READ:
        _read(*order.arguments[1:])
        sys.exit(0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as kernreg.__main__ does
    import_module("kernreg.cli.main").main(list(order.arguments), prog_name="kernreg")


def _give_up_privileges() -> None:
    """All capabilities: what is left of root is the owner of root's files."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(struct.pack("Ii", CAPABILITIES_3, 0), bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


def _make_small(beyond_memory: bool) -> None:
    cg, blocks = import_module("kernreg.cg"), import_module("kernreg.blocks")
    constants: dict[str, dict[str, Any]] = {
        "kernreg.drawing": {"PNG_DPI": 20},
        "kernreg.report": {"PNG_DPI": 20},
        "kernreg.plan": {"SMALLEST": TILE, "LARGEST": TILE, "MOST_SHARDS": 10**6},
        "kernreg.tiled": {"choose_blocks": lambda n, *_: blocks.Blocks(n, TILE, 2 * TILE)},
        "kernreg.cg": {"ConjugateGradients": functools.partial(cg.ConjugateGradients, checkpoint_seconds=0)},
    }
    if beyond_memory:
        constants["kernreg.curve"] = {"PROCESS_BYTES": 1 << 60}  # so no matrix fits into memory
    for module, values in constants.items():
        for name, value in values.items():
            setattr(import_module(module), name, value)


def _set_clock(jump: float, after: float) -> None:
    """The clock of Python, not of the machine; that of C, which dates files, goes on as it was."""
    real, began, plain = time.time, time.monotonic(), datetime.datetime

    def shifted() -> float:
        return real() + (jump if time.monotonic() - began >= after else 0.0)

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return plain(1970, 1, 1, tzinfo=tz) + datetime.timedelta(seconds=shifted())

    for module, name in (("time", "time"), ("tqdm.std", "time")):
        setattr(import_module(module), name, shifted)
    datetime.datetime = Shifted  # type: ignore[misc]


def _watch(order: Order) -> None:
    """Count steps, keep the journal, and fail when it is time. Steps inside HDF5 are seen by no one."""
    inside, steps = os.getcwd() + os.sep, itertools.count(1)
    journal = None
    if order.journal is not None:
        journal = os.open(order.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    counted = None
    if order.count is not None:
        counted = os.open(order.count, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def step(removal: bool = False) -> None:
        now = next(steps)
        if counted is not None:
            os.write(counted, b".")
        if not order.step or now < order.step:
            return
        if order.failure == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        lasting = order.failure in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        if removal and order.failure in (errno.ENOSPC, errno.EDQUOT):
            return
        if now == order.step or lasting:
            raise OSError(order.failure, os.strerror(order.failure))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and _within(path, inside):
                step()
        elif event == "os.rename" and _within(arguments[1], inside):
            step()
            if journal is not None:
                os.write(journal, os.fsencode(os.path.abspath(arguments[1])) + b"\n")
        elif event in ("os.remove", "os.mkdir", "os.rmdir") and _within(arguments[0], inside):
            step(removal=event != "os.mkdir")

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*arguments: Any) -> Any:
            step()
            return call(*arguments)

        return counted_call

    for name in ("fsync", "pwrite"):
        setattr(os, name, counting(getattr(os, name)))
    sys.addaudithook(hook)


def _within(path: Any, folder: str) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    return os.path.abspath(os.fsdecode(path)).startswith(folder)


def _read(store: str, out: str) -> None:
    """Every number of a store, through the library; an error is one line, as the command line has it."""
    import numpy as np

    from kernreg import GramStore, KernregError

    try:
        opened = GramStore.open(store)
        arrays = {
            f"{part}_{kernel}": getattr(opened, part)(kernel)
            for part in ("train", "test")
            for kernel in opened.kernels
        }
    except KernregError as error:
        print(f"kernreg: error: {error}", file=sys.stderr)
        sys.exit(1)
    np.savez(out, **arrays, y_train=opened.y_train, y_test=opened.y_test)
