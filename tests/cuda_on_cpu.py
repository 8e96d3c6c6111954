"""A device that runs kernels/cuda on the CPU: the same sources, compiled by g++ with shim/cuda.h in front.

Arrays are NumPy's, between guards that must not change, and begin as NaN.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.kernels.device import FOLDER, digest

SHIM = Path(__file__).parent / "shim"
GUARD = 64  # numbers before and after an array
RECENT = 32  # arrays whose guards are looked at after a launch

# Contraction would fuse what the GPU's compiler is told not to. -march=native for the fused multiply-add itself.
OPTIONS = (
    "-std=c++17",
    "-O1",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-w",
    "-fPIC",
    "-shared",
)


def missing() -> str:
    """Why this machine cannot run kernels/cuda on its CPU, or nothing."""
    if platform.machine() != "x86_64":
        return f"the fibers of tests/shim are written for x86-64, not {platform.machine()}"
    return "" if shutil.which("g++") else "g++ is not installed"


class OnCpu:
    """Takes the place of `kernreg.kernels.device.Cuda`.

    Args:
        folder: for compiled code; what is there is used again.
        order: of the threads' turns: 0 forwards, 1 backwards, 2 with a stride.
    """

    def __init__(self, folder: Path, order: int = 0) -> None:
        self.folder, self.order = folder, order
        self._libraries: dict[tuple[str, ...], ctypes.CDLL] = {}
        self._guarded: list[NDArray[Any]] = []

    def put(self, host: Any, dtype: Any = None) -> NDArray[Any]:
        host = np.asarray(host, dtype=dtype)
        array = self.empty(host.shape, host.dtype)
        array[...] = host
        return array

    def get(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.copy()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        size = int(np.prod(shape, dtype=np.int64))
        poison = np.nan if np.dtype(dtype).kind == "f" else -(2**30)
        whole = np.full(size + 2 * GUARD, poison, dtype)
        array = whole[GUARD : GUARD + size].reshape(shape)
        self._guarded = [*self._guarded[-RECENT:], whole]
        return array

    def launch(
        self,
        definitions: tuple[str, ...],
        name: str,
        grid: tuple[int, int],
        threads: int,
        shared_bytes: int,
        arguments: Sequence[Any],
    ) -> None:
        boxes = [np.asarray(_value(a)) for a in arguments]
        pointers = (ctypes.c_void_p * len(boxes))(*(box.ctypes.data for box in boxes))
        launch = self._library(definitions).launch
        launch.restype = ctypes.c_char_p
        launch.argtypes = (
            ctypes.c_char_p,
            *(ctypes.c_uint,) * 3,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_void_p,
        )
        error = launch(name.encode(), *grid, threads, shared_bytes, self.order, pointers)
        if error:
            raise RuntimeError(f"{name}: {error.decode()}")
        for whole in self._guarded:
            for guard in (whole[:GUARD], whole[-GUARD:]):
                untouched = np.isnan(guard) if guard.dtype.kind == "f" else guard == -(2**30)
                if not untouched.all():
                    raise RuntimeError(f"{name} writes outside of an array")

    def _library(self, definitions: tuple[str, ...]) -> ctypes.CDLL:
        if definitions not in self._libraries:
            key = hashlib.sha256(" ".join((digest(), *OPTIONS, *definitions)).encode()).hexdigest()[:20]
            path = self.folder / f"{key}.so"
            if not path.exists():
                build(definitions, path)
            self._libraries[definitions] = ctypes.CDLL(str(path))
        return self._libraries[definitions]


def _value(argument: Any) -> Any:
    """What is passed: an address, or the number itself."""
    if argument is None:
        return np.uint64(0)
    return np.uint64(argument.ctypes.data) if isinstance(argument, np.ndarray) else argument


def build(definitions: tuple[str, ...], path: Path) -> None:
    """Compile one instance to a shared library."""
    macros = [f"-D{macro}" for macro in definitions]
    command = ["g++", *OPTIONS, *macros, f"-I{SHIM}", f"-I{FOLDER}", str(SHIM / "host.cpp"), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[:2000])
