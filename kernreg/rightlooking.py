"""Right-looking Cholesky in place, block by block: no routine sees more than a panel of the matrix at once.

For libraries that count the entries of a matrix in 32 bits, which n² passes at n = 46,341. Of every block of columns,

    L11 = chol(A11),   L21 = A21·L11⁻ᵀ,   A22 ← A22 − L21·L21ᵀ  (lower triangle only)

so that the strict upper triangle is never touched. Golub and Van Loan, Matrix Computations, §4.2.
"""

from __future__ import annotations

from typing import Any, Protocol


class Routines(Protocol):
    """What LAPACK and BLAS do with C-ordered blocks of one array, in place."""

    def potrf(self, A: Any) -> int:
        """A (b, b): its factor into the lower triangle; 0, or the failing pivot counting from 1."""

    def trsm(self, L: Any, B: Any) -> None:
        """B (r, b) ← B·L⁻ᵀ with the lower triangle of L (b, b)."""

    def syrk(self, B: Any, C: Any) -> None:
        """C (r, r) ← C − B·Bᵀ in the lower triangle, with B (r, b)."""


def factor_lower(A: Any, block: int, routines: Routines) -> int:
    """The Cholesky factor of the lower triangle of A (n, n), in its place.

    Returns 0, or the failing pivot counting from 1.
    """
    n = len(A)
    for start in range(0, n, block):
        stop = min(start + block, n)
        if pivot := routines.potrf(A[start:stop, start:stop]):
            return start + pivot
        if stop < n:
            below = A[stop:, start:stop]
            routines.trsm(A[start:stop, start:stop], below)
            routines.syrk(below, A[stop:, stop:])
    return 0
