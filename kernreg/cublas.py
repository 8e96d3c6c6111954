"""The routines of cuBLAS and cuSOLVER that a factorisation needs, on C-ordered matrices and their blocks.

Both libraries are column-major: to them a C-ordered matrix is its transpose, and a lower triangle an upper one. A block of a
matrix is given by its address and by the row length of the whole. Every `info` is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kernreg.errors import KernregError

# Values of the enumerations of cublas_api.h.
LEFT, RIGHT = 0, 1
UPPER = 1
AS_IT_IS, TRANSPOSED = 0, 1
NOT_UNIT = 0


class Cublas:
    """`Routines` of `kernreg.rightlooking`, and triangular solves.

    Args:
        xp: namespace of the arrays.
        blas, solver: modules with cuBLAS's and cuSOLVER's functions under the names that CuPy gives them.
        handles: of the two, for the current device.
        address: of an array's first entry.
    """

    def __init__(
        self, xp: Any, blas: Any, solver: Any, handles: tuple[int, int], address: Callable[[Any], int]
    ) -> None:
        self._xp, self._blas, self._solver, self._address = xp, blas, solver, address
        self._blas_handle, self._solver_handle = handles

    def potrf(self, A: Any) -> int:
        """A (b, b): its factor into the lower triangle; 0, or the failing pivot counting from 1."""
        shape = (self._solver_handle, UPPER, len(A), self._address(A), _row_length(A))
        size = int(getattr(self._solver, f"{_letter(A)}potrf_bufferSize")(*shape))
        work, info = self._xp.empty(max(size, 1), A.dtype), self._xp.zeros(1, np.int32)
        getattr(self._solver, f"{_letter(A)}potrf")(*shape, self._address(work), size, self._address(info))
        status = int(info[0])
        if status < 0:
            raise KernregError(f"cuSOLVER potrf refused its argument {-status}; the matrix is damaged")
        return status

    def trsm(self, L: Any, B: Any, *, transposed: bool = True) -> None:
        """B (r, b) ← B·L⁻ᵀ with the lower triangle of L (b, b), or B·L⁻¹ if not `transposed`."""
        self._solve(LEFT, TRANSPOSED if transposed else AS_IT_IS, L, B, B.shape[::-1])

    def forward(self, L: Any, X: Any) -> None:
        """X (n, c) ← L⁻¹X with the lower triangle of L (n, n)."""
        self._solve(RIGHT, AS_IT_IS, L, X, X.shape[::-1])

    def backward(self, L: Any, X: Any) -> None:
        """X (n, c) ← L⁻ᵀX with the lower triangle of L (n, n)."""
        self._solve(RIGHT, TRANSPOSED, L, X, X.shape[::-1])

    def syrk(self, B: Any, C: Any) -> None:
        """C (r, r) ← C − B·Bᵀ in the lower triangle, with B (r, b)."""
        minus, one = np.array(-1, B.dtype), np.array(1, B.dtype)
        getattr(self._blas, f"{_letter(B)}syrk")(
            self._blas_handle, UPPER, TRANSPOSED, len(C), B.shape[1], minus.ctypes.data,
            self._address(B), _row_length(B), one.ctypes.data, self._address(C), _row_length(C),
        )  # fmt: skip

    def gemm(self, A: Any, B: Any, C: Any, *, transposed: bool = True) -> None:
        """C (p, q) ← C − A·Bᵀ with A (p, k) and B (q, k), or C − A·B with B (k, q) if not `transposed`."""
        minus, one = np.array(-1, C.dtype), np.array(1, C.dtype)
        getattr(self._blas, f"{_letter(C)}gemm")(
            self._blas_handle, TRANSPOSED if transposed else AS_IT_IS, AS_IT_IS, C.shape[1], C.shape[0], A.shape[1],
            minus.ctypes.data, self._address(B), _row_length(B), self._address(A), _row_length(A),
            one.ctypes.data, self._address(C), _row_length(C),
        )  # fmt: skip

    def _solve(self, side: int, operation: int, L: Any, B: Any, sizes: tuple[int, int]) -> None:
        one = np.array(1, B.dtype)
        getattr(self._blas, f"{_letter(B)}trsm")(
            self._blas_handle, side, UPPER, operation, NOT_UNIT, *sizes, one.ctypes.data,
            self._address(L), _row_length(L), self._address(B), _row_length(B),
        )  # fmt: skip


def _letter(A: Any) -> str:
    return {"float32": "s", "float64": "d"}[str(A.dtype)]


def _row_length(A: Any) -> int:
    """Of the C-ordered matrix that A is a block of."""
    if A.strides[1] != A.itemsize:
        raise ValueError(f"a block of a C-ordered matrix is asked for, not strides {A.strides}")
    return int(max(A.strides[0] // A.itemsize, A.shape[1]))
