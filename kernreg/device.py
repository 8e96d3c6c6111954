"""Where a factorisation and its learning curve are computed: the host, or an NVIDIA GPU through CuPy.

The only file here that opens CuPy; importing it does not.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kernreg import cholesky, prefix, ridge
from kernreg.cholesky import Matrix
from kernreg.cublas import Cublas
from kernreg.cuda import Cuda
from kernreg.errors import KernregError
from kernreg.gputiles import Gpu
from kernreg.plan import show_bytes
from kernreg.prefix import PrefixErrors
from kernreg.running import PANEL, ROWS_AT_ONCE

DEVICES = ("cpu", "cuda", "auto")
LIBRARY_BYTES = 1 << 30  # cuBLAS's and cuSOLVER's work spaces, and what a pool of memory wastes


class Device(Protocol):
    """Matrices are C-ordered float64 arrays of `xp`; a factor L is a lower triangle, as in `kernreg.cholesky`."""

    @property
    def name(self) -> str:
        """Of the device: cpu or cuda."""

    @property
    def xp(self) -> Any:
        """The array namespace: numpy or cupy."""

    def gram(self, K: Any, overwrite: bool) -> Any:
        """K (n, n), checked, on the device."""

    def get(self, values: Any) -> npt.NDArray[Any]:
        """An array of the device on the host."""

    def factor(self, K: Any, ridge: float, overwrite: bool) -> Any:
        """As `kernreg.cholesky.factor`, of what `gram` gave; on a GPU in its place."""

    def factor_in_place(self, A: Any, diagonal: Any) -> int:
        """As `kernreg.cholesky.factor_in_place`; A is float64 or float32."""

    def forward(self, L: Any, B: Any) -> Any:
        """L⁻¹B in the dtype of L; B (n, c), of the host or the device, is left alone."""

    def solve(self, L: Any, B: Any) -> Any:
        """(L·Lᵀ)⁻¹B, likewise."""

    def errors(
        self,
        L: Any,
        z: Any,
        K_test: npt.NDArray[Any],
        y_test: Matrix,
        labels: npt.NDArray[np.int64] | None,
        anchors: npt.NDArray[np.int64],
    ) -> PrefixErrors:
        """As `kernreg.prefix.prefix_errors`; L and z are on the device, all else is on the host."""

    def leave_one_out(self, L: Any, z: Any) -> tuple[Matrix, Matrix]:
        """As `kernreg.prefix.prefix_leave_one_out` of the factor L, which may be destroyed."""

    def ridge_path(self, K: Any, y: Matrix, ridges: Matrix) -> tuple[Matrix, Matrix]:
        """As `kernreg.ridge.ridge_path`, of what `gram` gave."""


class Host:
    """LAPACK on all cores."""

    name, xp = "cpu", np

    def gram(self, K: Any, overwrite: bool) -> npt.NDArray[Any]:
        return cholesky.check_gram(K)

    def get(self, values: Any) -> npt.NDArray[Any]:
        return np.asarray(values)

    def factor(self, K: npt.NDArray[Any], ridge: float, overwrite: bool) -> Matrix:
        return cholesky.factor(K, ridge, overwrite=overwrite)

    def factor_in_place(self, A: npt.NDArray[Any], diagonal: npt.NDArray[Any]) -> int:
        return cholesky.factor_in_place(A, diagonal)

    def forward(self, L: Matrix, B: npt.NDArray[Any]) -> Matrix:
        return cholesky.forward(L, B)

    def solve(self, L: Matrix, B: npt.NDArray[Any]) -> Matrix:
        return cholesky.solve(L, B)

    def errors(
        self,
        L: Matrix,
        z: Matrix,
        K_test: npt.NDArray[Any],
        y_test: Matrix,
        labels: npt.NDArray[np.int64] | None,
        anchors: npt.NDArray[np.int64],
    ) -> PrefixErrors:
        return prefix.prefix_errors(L, z, K_test, y_test, labels, anchors)

    def leave_one_out(self, L: Matrix, z: Matrix) -> tuple[Matrix, Matrix]:
        return prefix.prefix_leave_one_out(cholesky.invert(L), z)

    def ridge_path(self, K: npt.NDArray[Any], y: Matrix, ridges: Matrix) -> tuple[Matrix, Matrix]:
        return ridge.ridge_path(K, y, ridges)


HOST = Host()


def curve_bytes(n: int, outputs: int) -> int:
    """Memory of a GPU for the learning curve of n rows: the factor, that of a replicate, blocks of V or L⁻¹, panels."""
    panels = 4 * outputs * PANEL * ROWS_AT_ONCE
    return 8 * (n * n + (n // 2) ** 2 + 3 * n * ROWS_AT_ONCE + panels) + LIBRARY_BYTES


def choose(name: str, n: int, outputs: int) -> Device:
    """The device of this name for the learning curve of n training rows.

    Args:
        name: "cpu"; "cuda", an error where it cannot be; or "auto": the GPU if there is one whose memory suffices.
        n, outputs: of the curve.

    Raises:
        KernregError: unknown name, CuPy or the GPU is missing, or its memory does not suffice, by amount.
    """
    if not wanted(name):
        return HOST
    device, beyond = cuda(), beyond_gpu(f"the learning curve of {n} rows", curve_bytes(n, outputs))
    if not beyond:
        return device
    if name == "auto":
        return HOST
    raise KernregError(f"{beyond}: use --device cpu, or fewer rows")


def wanted(name: str) -> bool:
    """Whether a device's name stands for a GPU: "cuda" does, "auto" does where there is one.

    Raises:
        KernregError: unknown name.
    """
    if name not in DEVICES:
        raise KernregError(f"device is {', '.join(DEVICES)}, not {name!r}")
    return name == "cuda" or (name == "auto" and not absence())


def beyond_gpu(what: str, needed: int, allowed: int | None = None) -> str:
    """Why `what`, which needs so many bytes, exceeds the memory of the current GPU or what is allowed of it; "" if it does not.

    Raises:
        KernregError: as `cuda`.
    """
    free = free_bytes()
    limit = free if allowed is None else min(allowed, free)
    if needed <= limit:
        return ""
    bound = "are free" if limit == free else "are allowed"
    return f"{what} needs {show_bytes(needed)} of the GPU's memory and {show_bytes(limit)} {bound}"


def absence() -> str:
    """Why the GPU cannot be used, in one line; "" if it can."""
    try:
        cuda()
    except KernregError as error:
        return str(error)
    return ""


@cache
def cuda() -> Cuda:
    """The current GPU.

    Raises:
        KernregError: CuPy or a GPU is missing.
    """
    cupy = _cupy()
    return Cuda(cupy, _routines(cupy))


def gpus() -> tuple[Gpu, ...]:
    """All GPUs that CUDA shows, for a factor by tiles; their routines are for the calling thread.

    Raises:
        KernregError: as `cuda`.
    """
    cupy, found = _cupy(), []
    for number in range(cupy.cuda.runtime.getDeviceCount()):
        with cupy.cuda.Device(number):
            found.append(Gpu(cupy, number, _routines(cupy)))
    return tuple(found)


def free_bytes() -> int:
    """Of the current GPU's memory. Raises KernregError as `cuda`."""
    cupy = _cupy()
    return int(cupy.cuda.Device().mem_info[0] + cupy.get_default_memory_pool().free_bytes())


def _cupy() -> ModuleType:
    try:
        import cupy
    except ImportError as error:
        raise KernregError(
            f"device cuda needs CuPy ({_line(error)}): pip install 'kernreg[cuda]', or use --device cpu"
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise KernregError(f"device cuda finds no NVIDIA GPU here ({error}): use --device cpu") from None
    if not count:
        raise KernregError("device cuda finds no NVIDIA GPU here: use --device cpu")
    return cupy  # type: ignore[no-any-return]


def _routines(cupy: Any) -> Cublas:
    """cuBLAS and cuSOLVER on the current device, for the calling thread."""
    try:
        from cupy.cuda import cublas, cusolver, device
    except ImportError as error:  # CuPy looks for NVIDIA's libraries only now
        raise KernregError(
            f"device cuda needs cuBLAS and cuSOLVER ({_line(error)}): pip install 'cupy-cuda13x[ctk]', or use --device cpu"
        ) from None
    handles = (device.get_cublas_handle(), device.get_cusolver_handle())
    return Cublas(cupy, cublas, cusolver, handles, lambda array: int(array.data.ptr))


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:120]
