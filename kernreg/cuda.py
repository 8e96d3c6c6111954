"""One NVIDIA GPU as a `kernreg.device.Device`: written against an array namespace, with cuBLAS and cuSOLVER given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kernreg.cholesky import EPS, Matrix, NotPositiveDefiniteError, check_gram, mirror_upper, round_up
from kernreg.cublas import Cublas
from kernreg.prefix import PrefixErrors
from kernreg.rightlooking import factor_lower
from kernreg.running import errors_by_panels, leave_one_out_by_panels, ridge_path_by_factors

PANEL_ROWS = 4096  # of a factorisation
# Eight chains a thread of multiply-adds, each of which waits for the one before.
CHAIN_THREADS, CHAIN_ROUNDS, CHAIN_LENGTH = 256, 2000, 8 * 16
CHAIN = """
extern "C" __global__ void chain(real* out, real a, real b, int rounds) {
    real t[8];
    #pragma unroll
    for (int i = 0; i < 8; ++i) t[i] = threadIdx.x + i;
    for (int round = 0; round < rounds; ++round) {
        #pragma unroll
        for (int k = 0; k < 16; ++k) {
            #pragma unroll
            for (int i = 0; i < 8; ++i) t[i] = fma(t[i], a, b);
        }
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = t[0] + t[1] + t[2] + t[3] + t[4] + t[5] + t[6] + t[7];
}
"""


class Cuda:
    """The current GPU; see `kernreg.device.Device` for what a method is.

    Args:
        xp: cupy.
        routines: cuBLAS and cuSOLVER on it.
    """

    name = "cuda"

    def __init__(self, xp: Any, routines: Cublas) -> None:
        self.xp, self.routines = xp, routines

    def gram(self, K: Any, overwrite: bool) -> Any:
        if isinstance(K, np.ndarray) or not isinstance(K, self.xp.ndarray):
            K = check_gram(K)
        elif overwrite and K.dtype == np.float64 and K.flags.c_contiguous:
            return K
        A = self.xp.empty(K.shape, np.float64)
        for start in range(0, len(K), PANEL_ROWS):  # so that no second n² array is made on the way
            A[start : start + PANEL_ROWS] = self.xp.asarray(K[start : start + PANEL_ROWS])
        return A

    def put(self, values: Any) -> Any:
        """An array on the device."""
        return self.xp.asarray(values)

    def get(self, values: Any) -> npt.NDArray[Any]:
        return np.asarray(values if isinstance(values, np.ndarray) else values.get())

    def factor(self, K: Any, ridge: float, overwrite: bool) -> Any:
        diagonal = K.diagonal().copy()
        if pivot := self.factor_in_place(K, diagonal + ridge):
            raise self._refusal(K, diagonal, ridge, pivot)
        return K

    def factor_in_place(self, A: Any, diagonal: Any) -> int:
        mirror_upper(A, self.xp)
        A.reshape(-1)[:: len(A) + 1] = diagonal
        if pivot := factor_lower(A, PANEL_ROWS, self.routines):
            return pivot
        rounding = len(A) * float(np.finfo(str(A.dtype)).eps)
        lost = self.get(self.xp.flatnonzero(self.xp.square(A.diagonal()) <= rounding * diagonal))
        return int(lost[0]) + 1 if lost.size else 0

    def forward(self, L: Any, B: Any) -> Any:
        X = self.xp.array(self.put(B), dtype=L.dtype, order="C")
        self.routines.forward(L, X)
        return X

    def solve(self, L: Any, B: Any) -> Any:
        X = self.forward(L, B)
        self.routines.backward(L, X)
        return X

    def inverse(self, L: Any, size: int) -> Iterator[tuple[slice, Any]]:
        """L⁻¹ in blocks of so many columns, each from the diagonal down, zeros above it."""
        n = len(L)
        for start in range(0, n, size):
            width = min(size, n - start)
            M = self.xp.zeros((n - start, width), L.dtype)
            M.reshape(-1)[: width * width : width + 1] = 1
            self.routines.forward(L[start:, start:], M)
            yield slice(start, start + width), M

    def errors(
        self,
        L: Any,
        z: Any,
        K_test: npt.NDArray[Any],
        y_test: Matrix,
        labels: npt.NDArray[np.int64] | None,
        anchors: npt.NDArray[np.int64],
    ) -> PrefixErrors:
        return errors_by_panels(self, L, z, K_test, y_test, labels, anchors)

    def leave_one_out(self, L: Any, z: Any) -> tuple[Matrix, Matrix]:
        return leave_one_out_by_panels(self, L, z)

    def ridge_path(self, K: Any, y: Matrix, ridges: Matrix) -> tuple[Matrix, Matrix]:
        return ridge_path_by_factors(self, K, y, ridges)

    def multiply_adds(self, dtype: str) -> float:
        """Multiply-adds a second of all multiprocessors, measured: chains that cover each other's latency, best of five."""
        real = {"float32": "float", "float64": "double"}[dtype]
        chain = self.xp.RawKernel(CHAIN.replace("real", real), "chain")
        blocks = 16 * self.xp.cuda.Device().attributes["MultiProcessorCount"]
        out = self.xp.empty(blocks * CHAIN_THREADS, dtype)
        number = np.dtype(dtype).type
        arguments = (out, number(0.999), number(0.001), np.int32(CHAIN_ROUNDS))
        seconds = self._seconds(lambda: chain((blocks,), (CHAIN_THREADS,), arguments))
        return float(out.size) * CHAIN_ROUNDS * CHAIN_LENGTH / seconds

    def product_seconds(self, n: int, d: int, dtype: str) -> float:
        """Of a plain product (n, d)·(d, n) in that precision, best of five."""
        a, b = self.xp.ones((n, d), dtype), self.xp.ones((d, n), dtype)
        return self._seconds(lambda: a @ b)

    def _seconds(self, run: Callable[[], object]) -> float:
        run()
        events = self.xp.cuda.Event(), self.xp.cuda.Event()
        milliseconds = []
        for _ in range(5):
            events[0].record()
            run()
            events[1].record()
            events[1].synchronize()
            milliseconds.append(self.xp.cuda.get_elapsed_time(*events))
        return float(min(milliseconds)) / 1e3

    def _refusal(self, A: Any, diagonal: Any, ridge: float, pivot: int) -> NotPositiveDefiniteError:
        """Only a factorisation that succeeds proves a ridge enough: they are tried from the rounding error up."""
        mean = float(abs(diagonal).mean()) or 1.0
        enough = round_up(max(2 * ridge, len(A) * EPS * mean))
        while self.factor_in_place(A, diagonal + enough):
            enough = round_up(4 * enough)
        in_units = f" ({round_up(enough / mean):.3g} of the mean diagonal)"
        message = (
            f"K + ridge·I with ridge = {ridge:.3g} is not positive definite in float64: pivot {pivot} (counting "
            f"from 1; row {pivot - 1} counting from 0) fails; ridge = {enough:.3g}{in_units} is enough"
        )
        return NotPositiveDefiniteError(message, pivot, pivot - 1, enough)
