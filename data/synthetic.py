"""synthetic: regression data on which kernel regression has a learning-curve exponent known in closed form.

Gaussian features g_1, g_2, …; kernel k(x, z) = Σ λ_k·g_k(x)·g_k(z) with λ_k ~ k^{-b}; targets y = Σ v_k·g_k
without noise, v_k² ~ k^{-a}, random signs. Without ridge the test error falls as m^{-β},

    β = min(a − 1, 2b)        (Bordelon, Canatar, Pehlevan 2020; Cui, Loureiro, Krzakala, Zdeborová 2021).

The rows are x = √(d·λ)∘g, so that the kernel is ⟨x, z⟩/d, which is `Architecture.fcn(depth=0,
weight_variance=1, bias_variance=0)`, NNGP and NTK alike. On other architectures the data are as good as any,
but β is not known.

A finite d would bend the curve: the eigenvalues and targets beyond it are missing. Their sums are therefore
put back: the last d/b features share Σ λ_k and Σ v_k² of all k > K = d − d/b equally, and since λ_k is far
below the resolution of m ≪ K samples there, only those sums matter. The local exponent of the expected curve
(eigenlearning equations) is then within 2 % of β for 60 ≤ m ≤ K/4 at (b, a) = (2, 2), 6 % at (2, 1.5), for
d = 4096 and 8192.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.data.dataset import Dataset, Floats
from kernreg.data.source import check_sizes, require_number, require_room
from kernreg.data.subsample import TEST, TRAIN
from kernreg.errors import KernregError

SIGNS = 2  # the stream of the target's signs, beside those of the train and the test rows
ROWS_AT_ONCE = 256


def synthetic(
    n: int = 512,
    test: int = 512,
    a: float = 2.0,
    b: float = 2.0,
    dimension: int = 4096,
    seed: int = 0,
    dtype: str = "float64",
) -> Dataset:
    """n train and `test` test rows whose exponent is provenance["exponent"] = min(a − 1, 2b).

    Args:
        a: target energies v_k² ~ k^{-a}, a > 1.
        b: kernel eigenvalues λ_k ~ k^{-b}, b > 1; the mean of the kernel's diagonal is 1, and so is E[y²].
        dimension: d, numbers a row. The exponent holds up to provenance["exponent_up_to"] = (d − d/b)/4
        samples. seed: of rows and signs; other sizes give the same rows in the same order.
        dtype: of x. The Gram matrix needs float64 arithmetic either way: its eigenvalues span n^b.

    Raises:
        KernregError: a size, exponent or seed out of range.
    """
    check_sizes("synthetic", n, test, seed, dtype, dimension=(dimension, 16))
    require_room("synthetic", (n + test + ROWS_AT_ONCE) * dimension)
    λ, energies = spectra(a, b, dimension)
    signs = 1.0 - 2.0 * (_stream(seed, SIGNS).random_raw(dimension) >> np.uint64(63)).astype(np.float64)
    scale = np.sqrt(dimension * λ)
    # y is a function of the stored x, whatever its dtype: f(x) = ⟨x, w⟩ exactly.
    w = signs * np.sqrt(energies) / scale
    x_train, y_train = _rows(n, scale, w, _stream(seed, TRAIN), dtype)
    x_test, y_test = _rows(test, scale, w, _stream(seed, TEST), dtype)
    provenance: dict[str, Any] = {
        "name": "synthetic",
        "n": int(n),
        "test": int(test),
        "a": float(a),
        "b": float(b),
        "dimension": int(dimension),
        "seed": int(seed),
        "dtype": dtype,
        "exponent": exponent(a, b),
        "exponent_up_to": int(dimension - round(dimension / b)) // 4,
        "exponent_architecture": linear().to_dict(),
    }
    return Dataset(
        name="synthetic",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        labels_train=None,
        labels_test=None,
        rows_train=np.arange(n, dtype=np.int64),
        rows_test=np.arange(test, dtype=np.int64),
        provenance=provenance,
    )


def exponent(a: float, b: float) -> float:
    """β = min(a − 1, 2b), the limit of large m."""
    return float(min(a - 1, 2 * b))


def linear() -> Architecture:
    """The architecture with the kernel ⟨x, z⟩/d, on which the exponent is known."""
    return Architecture.fcn(depth=0, weight_variance=1.0, bias_variance=0.0)


def spectra(a: float, b: float, dimension: int) -> tuple[Floats, Floats]:
    """Kernel eigenvalues λ (d,) and target energies v² (d,), each with sum 1.

    Raises:
        KernregError: a or b not above 1: the sums would not be finite.
    """
    for name, value in (("a", a), ("b", b)):
        require_number(f"synthetic: {name}", value, 1.0, 1e6)
        if value == 1:
            raise KernregError(f"synthetic: {name} is {value}; it must be a number above 1")
    last = max(1, dimension - round(dimension / b))
    k = np.arange(1, last + 1, dtype=np.float64)

    def folded(power: float) -> NDArray[np.float64]:
        # Σ_{k>K} k^{-p} = (K + ½)^{1-p}/(p − 1) to second order in 1/K.
        tail = (last + 0.5) ** (1 - power) / (power - 1)
        values = np.concatenate([k**-power, np.full(dimension - last, tail / (dimension - last))])
        normalised: NDArray[np.float64] = values / values.sum()
        return normalised

    return folded(b), folded(a)


def _stream(seed: int, stream: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence([int(seed), stream]))


def _rows(n: int, scale: Floats, w: Floats, stream: np.random.PCG64, dtype: str) -> tuple[Floats, Floats]:
    """x (n, d) and y (n, 1). A row takes the next d numbers of the stream: more rows leave the first alone.

    Normal numbers are the quantile function of raw 64-bit ones, because NumPy keeps the latter's stream for
    ever.
    """
    from scipy.special import ndtri

    d = len(scale)
    x = np.empty((n, d), dtype=dtype)
    y = np.empty((n, 1))
    for start in range(0, n, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, n))
        raw = stream.random_raw((rows.stop - rows.start) * d).reshape(-1, d)
        uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        x[rows] = scale * ndtri(uniform)
        # Row by row sums: a matrix product may round a row otherwise in a larger block.
        y[rows, 0] = (x[rows].astype(np.float64) * w).sum(axis=1)
    return x, y
