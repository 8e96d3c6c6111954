"""Average pools before the readout as weights of pixel pairs: K = Σ Y[q_y, q'_y]·X[q_x, q'_x]·S[q, q'].

A pool averages the two sides independently, so that along one axis it is a matrix A (outputs × pixels) and what a readout makes
of it a quadratic form: AᵀA/outputs for flatten, aaᵀ with a = mean over outputs of A for a global average pool.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernreg.kernels.geometry import output_size, padding_low
from kernreg.layers import AvgPool, GlobalAvgPool, Layer


def weights(
    pool: AvgPool, readout: Layer, height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(Y, X), (height, height) and (width, width), of a pool and the flatten or gap layer behind it.

    Raises:
        KernregError: a VALID window larger than the image.
    """
    return tuple(_axis(pool, readout, axis, size) for axis, size in enumerate((height, width)))  # type: ignore[return-value]


def _axis(pool: AvgPool, readout: Layer, axis: int, size: int) -> NDArray[np.float64]:
    k, s = pool.window[axis], pool.strides[axis]
    low, outputs = padding_low(size, k, s, pool.padding), output_size(size, k, s, pool.padding)
    A = np.zeros((outputs, size))
    for p in range(outputs):
        for q in range(s * p - low, s * p - low + k):
            if pool.padding == "CIRCULAR":
                A[p, q % size] += 1
            elif 0 <= q < size:
                A[p, q] += 1
    if pool.padding == "SAME" and pool.normalize_edges:
        A /= A.sum(axis=1, keepdims=True)
    else:
        A /= k
    if isinstance(readout, GlobalAvgPool):
        a = A.mean(axis=0)
        return np.outer(a, a)
    return A.T @ A / outputs
