"""A backend for tests with two devices: the definition's numbers, random delays, and failures on demand.

It has the interface of a module in kernels/, and `Gpus` that of `kernreg.kernels.lanes`.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import backends

NAME = "twin"
DEVICES = 2


class State:
    """What happened, and what is to happen."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.current = threading.local()
        self.tiles_by_device: Counter[int] = Counter()
        self.streams: set[int] = set()
        self.alive = self.most_alive = 0
        self.longest_delay = 0.0
        self.fails_at: dict[int, BaseException] = {}  # by number of the call, from 0
        self.calls = 0
        self.free_bytes = [8 << 30, 6 << 30]
        self.missing = ""

    def born(self, blocks: dict[str, np.ndarray]) -> None:
        """Count a tile until its last array is gone."""
        with self.lock:
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
        first = next(iter(blocks.values()))
        weakref.finalize(first, self._died)

    def _died(self) -> None:
        with self.lock:
            self.alive -= 1


state = State()


class Gpus:
    def __init__(self) -> None:
        if state.missing:
            raise KernregError(state.missing)

    def names(self) -> list[str]:
        return [f"twin {number}" for number in range(DEVICES)]

    def free_bytes(self, number: int) -> int:
        return state.free_bytes[number]

    @contextmanager
    def lane(self, number: int) -> Iterator[object]:
        stream = object()
        state.current.device = number
        with state.lock:
            state.streams.add(id(stream))
        yield stream
        del state.current.device


def covers(architecture: Architecture, shape: tuple[int, ...]) -> None:
    if architecture.name == "gap":
        raise NotImplementedError("backend twin does not cover layer gap")


def compute(
    x: np.ndarray, z: np.ndarray | None, architecture: Architecture, kernel: str, dtype: str
) -> dict[str, Any]:
    device = getattr(state.current, "device", 0)
    with state.lock:
        number, state.calls = state.calls, state.calls + 1
        state.tiles_by_device[device] += 1
    time.sleep(random.uniform(0, state.longest_delay))
    if number in state.fails_at:
        raise state.fails_at[number]
    out = backends.compute(x, z, architecture, kernel, "reference", dtype)
    state.born(out)
    return out
