"""Targets and kernels of a regression, checked: matching shapes, finite entries, labels if there are any."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kernreg.cholesky import Matrix, all_finite, real_array
from kernreg.errors import KernregError

Counts: TypeAlias = npt.NDArray[np.int64]


def targets(values: npt.ArrayLike, name: str) -> Matrix:
    """(rows, outputs) float64 from (rows,) or (rows, outputs)."""
    y = real_array(values, name).astype(np.float64)
    if y.ndim not in (1, 2) or not y.size:
        raise KernregError(
            f"{name} must have shape (rows,) or (rows, outputs) and at least one row, not {y.shape}"
        )
    if not all_finite(y):
        raise KernregError(f"{name} has NaN or infinity at row {np.argwhere(~np.isfinite(y))[0][0]}")
    return y.reshape(len(y), -1)


def check_shapes(n: int, y: Matrix, K_test: npt.NDArray[Any], y_test: Matrix) -> None:
    """Raise KernregError unless y (n, c), K_test (t, n) and y_test (t, c) belong together."""
    if len(y) != n:
        raise KernregError(f"K has {n} rows but y has {len(y)}")
    if K_test.ndim != 2 or K_test.shape[1] != n:
        raise KernregError(f"K_test must be (test rows, {n} training rows), not of shape {K_test.shape}")
    if len(K_test) != len(y_test):
        raise KernregError(f"K_test has {len(K_test)} rows but y_test has {len(y_test)}")
    if y.shape[1] != y_test.shape[1]:
        raise KernregError(f"y has {y.shape[1]} outputs but y_test has {y_test.shape[1]}")
    if not all_finite(K_test):
        row, column = np.argwhere(~np.isfinite(K_test))[0]
        raise KernregError(f"K_test[{row}, {column}] is {K_test[row, column]}; every entry must be finite")


def inferred_labels(y: Matrix, y_test: Matrix) -> Counts | None:
    """(t,) The right columns of the test rows if all targets are a + b·one-hot, b > 0, else None."""
    low, high = min(y.min(), y_test.min()), max(y.max(), y_test.max())
    slack = 1e-6 * (high - low)
    for rows in (y, y_test):
        up = rows > high - slack
        if rows.shape[1] < 2 or not (up | (rows < low + slack)).all() or (up.sum(axis=1) != 1).any():
            return None
    labels: Counts = y_test.argmax(axis=1).astype(np.int64)
    return labels


def given_labels(values: npt.ArrayLike, y_test: Matrix) -> Counts:
    """(t,) The labels of the test rows as the caller states them."""
    labels = np.asarray(values)
    (t, c) = y_test.shape
    if labels.shape != (t,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= c:
        raise KernregError(f"labels_test must be {t} whole numbers in 0…{c - 1}")
    return labels.astype(np.int64)
