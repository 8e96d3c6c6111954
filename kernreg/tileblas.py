"""The operations of a tiled factorisation, in place on C-contiguous tiles.

A C-contiguous tile is its own transpose to BLAS, so each call below is the transposed statement; nothing is
copied. The factorisation computes with what `take` and `bring` returned, by the other methods, and reads it only
once it is given back and settled: another device is another class with these methods, see `kernreg.gputiles`.
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

    def empty(self, numbers: int) -> Tile: ...
    def begin(self) -> None: ...
    def take(self, block: Tile, first: int = 0) -> Any: ...
    def bring(self, tile: Tile) -> Any: ...
    def give(self, taken: Any, block: Tile) -> None: ...
    def settle(self) -> None: ...
    def subtract_product(self, C: Any, A: Any, B: Any) -> None: ...
    def subtract_plain_product(self, C: Any, A: Any, B: Any) -> None: ...
    def subtract_square(self, C: Any, A: Any) -> None: ...
    def divide(self, C: Any, L: Any, *, transposed: bool = True) -> None: ...
    def factor(self, C: Any) -> int: ...
    def close(self) -> None: ...


class Blas:
    """LAPACK and BLAS of the host in float64 or float32."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        names = ("gemm", "syrk", "trsm")
        self._gemm, self._syrk, self._trsm = get_blas_funcs(names, dtype=self.dtype)
        (self._potrf,) = get_lapack_funcs(("potrf",), dtype=self.dtype)

    def empty(self, numbers: int) -> Tile:
        """Memory of the host that tiles come from and go to; a device may want it page-locked."""
        return np.empty(numbers, self.dtype)

    def begin(self) -> None:
        """A new panel: what was taken of the one before is dropped."""

    def take(self, block: Tile, first: int = 0) -> Tile:
        """Rows first… of a panel's column block where the arithmetic is, until the next panel: here, themselves.

        What is returned can be cut by rows, at edges of tiles.
        """
        return block

    def bring(self, tile: Tile) -> Tile:
        """A tile of L where the arithmetic is, until the next one is brought; the host's memory is free at once."""
        return tile

    def give(self, taken: Tile, block: Tile) -> None:
        """What was made of taken rows goes back to the host's memory, and is there after `settle`."""

    def settle(self) -> None:
        """Wait for all that was given."""

    def subtract_product(self, C: Tile, A: Tile, B: Tile) -> None:
        """C −= A·Bᵀ with C (p, q), A (p, k), both taken, B (q, k) brought."""
        if C.size:
            self._gemm(-1.0, B.T, A.T, 1.0, C.T, trans_a=1, overwrite_c=1)

    def subtract_plain_product(self, C: Tile, A: Tile, B: Tile) -> None:
        """C −= A·B with C (p, q), A (p, k), both taken, B (k, q) brought."""
        if C.size:
            self._gemm(-1.0, B.T, A.T, 1.0, C.T, overwrite_c=1)

    def subtract_square(self, C: Tile, A: Tile) -> None:
        """The lower triangle of C −= A·Aᵀ with C (q, q) taken, A (q, k) brought."""
        self._syrk(-1.0, A.T, 1.0, C.T, trans=1, lower=0, overwrite_c=1)

    def divide(self, C: Tile, L: Tile, *, transposed: bool = True) -> None:
        """C ← C·L⁻ᵀ, or C·L⁻¹ if not `transposed`; C (p, q) taken, L (q, q) lower, brought."""
        if C.size:
            self._trsm(1.0, L.T, C.T, lower=0, trans_a=int(transposed), overwrite_b=1)

    def factor(self, C: Tile) -> int:
        """C (q, q), taken, ← L of its lower triangle. Returns 0, or the failing pivot counting from 1."""
        _, info = self._potrf(C.T, lower=0, clean=0, overwrite_a=1)
        if info < 0:
            raise KernregError(f"LAPACK potrf refused its argument {-info}; the matrix is damaged")
        return int(info)

    def close(self) -> None:
        """Nothing is computed any more: a device gives its memory back."""
