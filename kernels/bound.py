"""How fast a machine could be: an issue bound from measured rates and a count of operations.

An update needs so many slots of the multiply-add pipes and, on a CPU, so many square roots and divisions, which have a
unit of their own there and overlap with the rest. The bound is the slower of the two. Loads, stores and the edges
of the planes are left out; a machine whose additions have pipes of their own (Zen) can beat it a little.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import math
import time
from functools import cache

import numpy as np
from numba import njit

from kernreg.architecture import Architecture
from kernreg.kernels import backends
from kernreg.kernels.threads import in_parallel
from kernreg.layers import Conv

SIMD = {"fastmath": {"contract", "nsz"}, "error_model": "numpy", "boundscheck": False}
LANES = 2048  # elements in flight: 8 or 16 KiB, in the first-level cache
ROUNDS = 2000
SIDE = 2048

# Slots of additions, multiplications, multiply-adds, comparisons and selections of one update, by hand from
# kernreg/kernels/stencil.py and maps.py: box sums, affine step, product of the variances, map.
SLOTS = {
    ("ntk", "float32"): 4 + 6 + 1 + 25,
    ("ntk", "float64"): 4 + 6 + 1 + 41,  # polynomials of degree 15 and 14, not 7 and 6
    ("nngp", "float32"): 2 + 3 + 1 + 14,
    ("nngp", "float64"): 2 + 3 + 1 + 22,
}
ROOTS = 3  # √(Qx·Qz), |S|/P, √D: square roots and divisions of one update
# Of one layer of a fully connected network (kernreg/kernels/dense.py); the input product has d more a pair.
DENSE_SLOTS = 45
# Issue slots of one update of the CUDA stencil on sm_90, ReLU, 3×3, 32×32, read from its machine code (docs/gpu.md).
GPU_SLOTS = {("ntk", "float32"): 31.1, ("nngp", "float32"): 23.8}


@njit(**SIMD)
def _chain(t, a, b):
    """16 multiply-adds, each of which waits for the one before."""
    t = a + b * (a + b * (a + b * (a + b * t)))
    t = a + b * (a + b * (a + b * (a + b * t)))
    t = a + b * (a + b * (a + b * (a + b * t)))
    return a + b * (a + b * (a + b * (a + b * t)))


@njit(nogil=True, cache=True, **SIMD)
def _multiply_adds(first, last, parts, rounds, a, b):
    """16 multiply-adds an element; four independent chains at a time cover their latency."""
    for p in range(first, last):
        n = parts.shape[1] // 4
        u, v, w, x = parts[p, :n], parts[p, n : 2 * n], parts[p, 2 * n : 3 * n], parts[p, 3 * n :]
        for _ in range(rounds):
            for m in range(n):
                u[m], v[m] = _chain(u[m], a, b), _chain(v[m], a, b)
                w[m], x[m] = _chain(w[m], a, b), _chain(x[m], a, b)


@njit(nogil=True, cache=True, **SIMD)
def _roots(first, last, parts, rounds, a, b):
    """Two square roots and a division an element, as in one update."""
    for p in range(first, last):
        row = parts[p]
        for _ in range(rounds):
            for m in range(row.size):
                t = np.sqrt(row[m] + a)
                row[m] = np.sqrt(t + b) / (t + a)


@cache
def peaks(dtype: str, threads: int) -> tuple[float, float]:
    """(multiply-adds/s, square roots and divisions/s) of the CPU on that many threads, best of five.

    Multiply-adds by chains of them or by a product of BLAS, whichever is faster: neither alone finds the peak of every processor.
    """
    real = np.dtype(dtype).type
    rates = []
    for loop, each in ((_multiply_adds, 16), (_roots, ROOTS)):
        parts = np.full((threads, LANES), 0.5, dtype)
        arguments = (parts, ROUNDS, real(0.3), real(0.1))
        in_parallel(loop, threads, arguments)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            in_parallel(loop, threads, arguments)
            seconds.append(time.perf_counter() - start)
        rates.append(each * parts.size * ROUNDS / min(seconds))
    return max(rates[0], _product_rate(dtype)), rates[1]


def _product_rate(dtype: str) -> float:
    """Multiply-adds/s of a square product, BLAS on its threads, best of five."""
    A = np.full((SIDE, SIDE), 0.5, dtype)
    out, seconds = A @ A, []
    for _ in range(5):
        start = time.perf_counter()
        np.matmul(A, A, out=out)
        seconds.append(time.perf_counter() - start)
    return float(SIDE**3 / min(seconds))


def updates_per_pair(architecture: Architecture, shape: tuple[int, ...]) -> int:
    """Shifts × pixels × layers; a fully connected network has one pixel."""
    if any(isinstance(layer, Conv) for layer in architecture.layers):
        return backends.updates(architecture, shape)
    return max(architecture.depth, 1)


def cpu_bound(
    architecture: Architecture, shape: tuple[int, ...], kernel: str, dtype: str, threads: int
) -> float:
    """Updates/s that the CPU could issue at most, by the count above; both kernels cost what the NTK costs."""
    multiply_adds, roots = peaks(dtype, threads)
    kernel = "nngp" if kernel == "nngp" else "ntk"
    slots: float = SLOTS[kernel, dtype]
    if not any(isinstance(layer, Conv) for layer in architecture.layers):
        # A dense layer divides twice, and its map takes one root: ROOTS again.
        slots = DENSE_SLOTS + math.prod(shape) / updates_per_pair(architecture, shape)
    return 1 / max(slots / multiply_adds, ROOTS / roots)
