"""Running sums over the rows of one factor: what every leading m×m block predicts, for all m at once.

The factor of the leading block of K + λI is the leading block of L, and forward substitution is nested too.
With z = L⁻¹y and V = L⁻¹K(train, test), the prediction from the first m rows is

    f_m(test) = Σ_{k<m} V[k,:]ᵀ z[k,:]

and with M = L⁻¹ the inverse A = (K_m + λI)⁻¹ of each leading block has

    A_ii = Σ_{k<m} M[k,i]²,        α = A·y_m = Σ_{k<m} M[k,:]ᵀ z[k,:]

so that each m is one rank-one update of the one before: n updates of BLAS-2 on arrays that stay in cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dger

from kernreg.cholesky import Matrix, forward

# Entries of one block of running predictions, 64 KiB: they stay in cache, and BLAS keeps to one thread, since
# waking a second one would cost more than the update.
CACHED_ENTRIES = 8192
BLOCK_ROWS = (64, 1024)


@dataclass(frozen=True, eq=False)
class PrefixErrors:
    """Test errors of the first m rows, m = 1…n.

    Attributes:
        summed: (n,) squared error summed over test rows and outputs.
        mistakes: (n,) number of test rows whose largest prediction is not their label's; None without labels.
        squared_errors: (a, t) squared error of each test row, summed over outputs, at the a anchors.
    """

    summed: Matrix
    mistakes: npt.NDArray[np.int64] | None
    squared_errors: Matrix


def prefix_errors(
    L: Matrix,
    z: Matrix,
    K_test: npt.NDArray[Any],
    y_test: Matrix,
    labels: npt.NDArray[np.int64] | None,
    anchors: npt.NDArray[np.int64],
) -> PrefixErrors:
    """The errors on the test rows after each row of training data.

    Args:
        L: (n, n) factor, lower triangle.
        z: (n, c) L⁻¹y.
        K_test: (t, n) kernel of test rows with training rows.
        y_test: (t, c) targets.
        labels: (t,) the column of y_test that is right, or None.
        anchors: (a,) increasing sample counts in 1…n.

    Memory: n × block of float64, where a block is 64 to 1,024 test rows.
    """
    errors = no_errors(len(z), len(y_test), labels is not None, anchors)
    for rows in cached_blocks(len(y_test), z.shape[1]):
        of_rows = Predictions(rows, y_test, labels, anchors, errors)
        of_rows.advance(0, forward(L, K_test[rows].T), z)
    return errors


def no_errors(n: int, t: int, labelled: bool, anchors: npt.NDArray[np.int64]) -> PrefixErrors:
    """For `Predictions` to add up in."""
    mistakes = np.zeros(n, dtype=np.int64) if labelled else None
    return PrefixErrors(np.zeros(n), mistakes, np.empty((len(anchors), t)))


def cached_blocks(rows: int, outputs: int) -> list[slice]:
    """`rows` in pieces whose predictions stay in cache."""
    size = int(np.clip(CACHED_ENTRIES // outputs, *BLOCK_ROWS))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


class Predictions:
    """f_m of a block of test rows as m grows; what it gets wrong is added to `errors`.

    Args:
        rows: the block, of the t test rows.
        y_test, labels, anchors: as in `prefix_errors`.
        errors: of the t test rows.
    """

    def __init__(
        self,
        rows: slice,
        y_test: Matrix,
        labels: npt.NDArray[np.int64] | None,
        anchors: npt.NDArray[np.int64],
        errors: PrefixErrors,
    ) -> None:
        self._rows, self._errors = rows, errors
        self._y = np.asfortranarray(y_test[rows])
        self._labels = None if labels is None else labels[rows]
        self._f, self._residual = np.zeros_like(self._y), np.empty_like(self._y)
        self._at = {int(m) - 1: place for place, m in enumerate(anchors)}

    def advance(self, first: int, V: Matrix, z: Matrix) -> None:
        """Training rows first, first + 1, …: V (rows, block) of L⁻¹K(train, test), z (rows, c) of L⁻¹y."""
        f, residual, errors = self._f, self._residual, self._errors
        flat = residual.ravel(order="K")
        for k, (v, targets) in enumerate(zip(V, z, strict=True), first):
            dger(1.0, v, targets, a=f, overwrite_a=1)
            np.subtract(f, self._y, out=residual)
            errors.summed[k] += flat @ flat
            if errors.mistakes is not None and self._labels is not None:
                errors.mistakes[k] += np.count_nonzero(f.argmax(axis=1) != self._labels)
            if k in self._at:
                errors.squared_errors[self._at[k], self._rows] = np.square(residual).sum(axis=1)


def prefix_leave_one_out(M: Matrix, z: Matrix) -> tuple[Matrix, Matrix]:
    """Leave-one-out and generalised cross-validation errors of the first m rows, m = 1…n.

    Args:
        M: (n, n) inverse factor L⁻¹, lower triangle.
        z: (n, c) L⁻¹y.

    Returns:
        loo (n,): (1/m)·Σ_{i<m} |α_i/A_ii|², the exact squared error on row i of the fit without row i.
        gcv (n,): m·Σ_{i<m} |α_i|²/(tr A)². Both are summed over outputs.
    """
    n, c = z.shape
    sums = np.zeros((3, n))
    for columns in cached_blocks(n, c):
        LeftOut(columns, c, sums).advance(columns.start, M[columns.start :, columns], z[columns.start :])
    return cross_validation(sums)


def cross_validation(sums: Matrix) -> tuple[Matrix, Matrix]:
    """loo and gcv (n,) of what `LeftOut` added up in (3, n)."""
    left_out, norm, trace = sums
    m = np.arange(1, sums.shape[1] + 1)
    return left_out / m, m * norm / np.square(trace)


class LeftOut:
    """α_i and A_ii of a block of training rows i as m grows, added to `sums`.

    Args:
        columns: the block, of the n columns of M = L⁻¹.
        outputs: c.
        sums: (3, n) Σ_i |α_i/A_ii|², Σ_i |α_i|² and Σ_i A_ii over i < m.
    """

    def __init__(self, columns: slice, outputs: int, sums: Matrix) -> None:
        size = columns.stop - columns.start
        self._start, self._sums = columns.start, sums
        self._row, self._diagonal = np.zeros(size), np.zeros(size)
        self._alpha = np.zeros((size, outputs), order="F")

    def advance(self, first: int, M: Matrix, z: Matrix) -> None:
        """Rows first, first + 1, … of M (rows, block), of which the first is not above the block, and of z."""
        row, diagonal, alpha = self._row, self._diagonal, self._alpha
        squares = np.empty_like(alpha)
        left_out, norm, trace = self._sums
        for k, (inverse, targets) in enumerate(zip(M, z, strict=True), first):
            width = min(k + 1 - self._start, len(row))
            row[:width] = inverse[:width]
            dger(1.0, row, targets, a=alpha, overwrite_a=1)
            diagonal += np.square(row)
            norms = np.multiply(alpha, alpha, out=squares).sum(axis=1)
            left_out[k] += (norms[:width] / np.square(diagonal[:width])).sum()
            norm[k] += norms.sum()
            trace[k] += diagonal.sum()
