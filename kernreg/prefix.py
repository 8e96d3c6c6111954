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
    (t, n), c = K_test.shape, z.shape[1]
    block = _block(c)
    summed, squared_errors = np.zeros(n), np.empty((len(anchors), t))
    mistakes = None if labels is None else np.zeros(n, dtype=np.int64)
    at = {int(m) - 1: place for place, m in enumerate(anchors)}
    for start in range(0, t, block):
        rows = slice(start, start + block)
        V = forward(L, K_test[rows].T)
        y = np.asfortranarray(y_test[rows])
        f, residual = np.zeros_like(y), np.empty_like(y)
        flat = residual.ravel(order="K")
        for k in range(n):
            dger(1.0, V[k], z[k], a=f, overwrite_a=1)
            np.subtract(f, y, out=residual)
            summed[k] += flat @ flat
            if mistakes is not None and labels is not None:
                mistakes[k] += np.count_nonzero(f.argmax(axis=1) != labels[rows])
            if k in at:
                squared_errors[at[k], rows] = np.square(residual).sum(axis=1)
    return PrefixErrors(summed, mistakes, squared_errors)


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
    left_out, norm, trace = np.zeros(n), np.zeros(n), np.zeros(n)
    for start in range(0, n, _block(c)):
        stop = min(start + _block(c), n)
        row, diagonal = np.zeros(stop - start), np.zeros(stop - start)
        alpha = np.zeros((stop - start, c), order="F")
        squares = np.empty_like(alpha)
        for k in range(start, n):
            width = min(k + 1, stop) - start
            row[:width] = M[k, start : start + width]
            dger(1.0, row, z[k], a=alpha, overwrite_a=1)
            diagonal += np.square(row)
            norms = np.multiply(alpha, alpha, out=squares).sum(axis=1)
            left_out[k] += (norms[:width] / np.square(diagonal[:width])).sum()
            norm[k] += norms.sum()
            trace[k] += diagonal.sum()
    m = np.arange(1, n + 1)
    return left_out / m, m * norm / np.square(trace)


def _block(outputs: int) -> int:
    return int(np.clip(CACHED_ENTRIES // outputs, *BLOCK_ROWS))
