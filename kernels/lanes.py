"""Lanes: where tiles are computed at the same time. A CPU is one, since its cores share every tile; a GPU is two, so that one
copies to the host while the other computes.

A lane is entered by the thread that computes in it. On a GPU it makes the device current and gives the thread a stream of its
own; the backends launch and copy on the current stream. No GPU library is imported before one is asked for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from kernreg.errors import KernregError

Lane: TypeAlias = Callable[[], AbstractContextManager[object]]

LANES_PER_GPU = 2


class Gpus(Protocol):
    """The GPUs of this machine as one library sees them, numbered from 0."""

    def names(self) -> list[str]:
        """Of the devices, in their order."""

    def free_bytes(self, number: int) -> int:
        """Of a device's memory."""

    def lane(self, number: int) -> AbstractContextManager[object]:
        """The device made current, with a new stream, for one thread."""


class CupyGpus:
    """As CuPy sees them.

    Raises:
        KernregError: CuPy or a GPU is missing.
    """

    def __init__(self) -> None:
        self._cupy = _library("cupy", "CuPy", "cuda")
        try:
            self._count = int(self._cupy.cuda.runtime.getDeviceCount())
        except self._cupy.cuda.runtime.CUDARuntimeError as error:
            raise KernregError(
                f"backend cuda finds no NVIDIA GPU here ({error}): use --backend cpu"
            ) from None
        if not self._count:
            raise KernregError("backend cuda finds no NVIDIA GPU here: use --backend cpu")

    def names(self) -> list[str]:
        properties = self._cupy.cuda.runtime.getDeviceProperties
        return [properties(number)["name"].decode() for number in range(self._count)]

    def free_bytes(self, number: int) -> int:
        with self._cupy.cuda.Device(number) as device:
            return int(device.mem_info[0] + self._cupy.get_default_memory_pool().free_bytes())

    @contextmanager
    def lane(self, number: int) -> Iterator[object]:
        with self._cupy.cuda.Device(number), self._cupy.cuda.Stream(non_blocking=True) as stream:
            yield stream


class TorchGpus:
    """As PyTorch sees them; none with TRITON_INTERPRET=1, under which Triton's kernels run on the CPU.

    Raises:
        KernregError: PyTorch or a GPU is missing.
    """

    def __init__(self) -> None:
        self._cuda = _library("torch", "PyTorch", "triton").cuda
        self._count = 0
        if os.environ.get("TRITON_INTERPRET") == "1":
            return
        if not self._cuda.is_available():
            raise KernregError("backend triton finds no GPU that PyTorch can use here: use --backend cpu")
        self._count = int(self._cuda.device_count())

    def names(self) -> list[str]:
        return [str(self._cuda.get_device_name(number)) for number in range(self._count)]

    def free_bytes(self, number: int) -> int:
        cached = self._cuda.memory_reserved(number) - self._cuda.memory_allocated(number)
        return int(self._cuda.mem_get_info(number)[0] + cached)

    @contextmanager
    def lane(self, number: int) -> Iterator[object]:
        with self._cuda.device(number):
            stream = self._cuda.Stream()
            with self._cuda.stream(stream):
                yield stream


# By backend; one that is not here computes on the host.
GPUS: dict[str, Callable[[], Gpus]] = {"cuda": CupyGpus, "triton": TorchGpus}


def gpu_in_sight() -> bool:
    """Whether the system shows a device of NVIDIA's; where it shows none, no GPU library need be imported to say so."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def absence(backend: str) -> str:
    """Why a backend cannot compute on this machine, in one line with the remedy; "" if it can."""
    if backend not in GPUS:
        return ""
    try:
        GPUS[backend]()
    except KernregError as error:
        return str(error)
    return ""


def lanes(backend: str) -> list[Lane]:
    """Of a resolved backend on this machine, all its GPUs.

    Raises:
        KernregError: the GPU or its library is missing.
    """
    if backend not in GPUS:
        return [nullcontext]
    gpus = GPUS[backend]()
    numbers = range(len(gpus.names()))
    return [partial(gpus.lane, number) for _ in range(LANES_PER_GPU) for number in numbers] or [nullcontext]


def lane_bytes(backend: str) -> int | None:
    """Memory that a lane may fill: that of the GPU which has least free, shared by its lanes; None on the host.

    Raises:
        KernregError: as `lanes`.
    """
    if backend not in GPUS:
        return None
    gpus = GPUS[backend]()
    free = [gpus.free_bytes(number) for number in range(len(gpus.names()))]
    return min(free) // LANES_PER_GPU if free else None


def _library(module: str, name: str, backend: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise KernregError(
            f"backend {backend} needs {name} ({error}): pip install 'kernreg[{backend}]', or use --backend cpu"
        ) from None
