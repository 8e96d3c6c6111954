"""The operations of a tiled factorisation, in place on C-contiguous tiles.

A C-contiguous tile is its own transpose to BLAS, so each call below is the transposed statement; nothing is
copied. The factorisation computes with what `take` returned, by the other methods, and reads it only after `give`:
another device is another class with these methods.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from kernreg.errors import KernregError

Tile: TypeAlias = npt.NDArray[Any]


class Arithmetic(Protocol):
    """What a factorisation asks of a device; see `Blas` for each method."""

    def take(self, tile: Tile) -> Any: ...
    def give(self, taken: Any, tile: Tile) -> None: ...
    def subtract_product(self, C: Any, A: Any, B: Any) -> None: ...
    def subtract_plain_product(self, C: Any, A: Any, B: Any) -> None: ...
    def subtract_square(self, C: Any, A: Any) -> None: ...
    def divide(self, C: Any, L: Any, *, transposed: bool = True) -> None: ...
    def factor(self, C: Any) -> int: ...


class Blas:
    """LAPACK and BLAS of the host in float64 or float32."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        names = ("gemm", "syrk", "trsm")
        self._gemm, self._syrk, self._trsm = get_blas_funcs(names, dtype=self.dtype)
        (self._potrf,) = get_lapack_funcs(("potrf",), dtype=self.dtype)

    def take(self, tile: Tile) -> Tile:
        """The tile where the arithmetic is: here, itself. A device copies it; the copy is good until it is dropped."""
        return tile

    def give(self, taken: Tile, tile: Tile) -> None:
        """What was made of a taken tile, back in the host's memory: here it is there."""

    def subtract_product(self, C: Tile, A: Tile, B: Tile) -> None:
        """C −= A·Bᵀ with C (p, q), A (p, k), B (q, k)."""
        if C.size:
            self._gemm(-1.0, B.T, A.T, 1.0, C.T, trans_a=1, overwrite_c=1)

    def subtract_plain_product(self, C: Tile, A: Tile, B: Tile) -> None:
        """C −= A·B with C (p, q), A (p, k), B (k, q)."""
        if C.size:
            self._gemm(-1.0, B.T, A.T, 1.0, C.T, overwrite_c=1)

    def subtract_square(self, C: Tile, A: Tile) -> None:
        """The lower triangle of C −= A·Aᵀ with C (q, q), A (q, k)."""
        self._syrk(-1.0, A.T, 1.0, C.T, trans=1, lower=0, overwrite_c=1)

    def divide(self, C: Tile, L: Tile, *, transposed: bool = True) -> None:
        """C ← C·L⁻ᵀ, or C·L⁻¹ if not `transposed`; C (p, q), L (q, q) lower."""
        if C.size:
            self._trsm(1.0, L.T, C.T, lower=0, trans_a=int(transposed), overwrite_b=1)

    def factor(self, C: Tile) -> int:
        """C ← L of its lower triangle, zeros above. Returns 0, or the failing pivot counting from 1."""
        _, info = self._potrf(C.T, lower=0, clean=1, overwrite_a=1)
        if info < 0:
            raise KernregError(f"LAPACK potrf refused its argument {-info}; the matrix is damaged")
        return int(info)
