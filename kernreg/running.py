"""Running sums as matrix products: `kernreg.prefix` for a device whose speed is in products, on any array namespace.

With V = L⁻¹K(train, test), z = L⁻¹y and F the predictions before a panel of b training rows, those after each of its rows are

    F + Σ_{j≤k} z[j]·V[j]   for k = 0…b−1,    one product of a (c·b, b) triangle of z with V (b, test rows)

On a CPU the rank-one updates of `kernreg.prefix`, which stay in its cache, were measured to be as fast or faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kernreg.cholesky import Matrix, mirror_upper
from kernreg.prefix import PrefixErrors

PANEL = 64
ROWS_AT_ONCE = 2048  # test rows, or columns of L⁻¹


class Triangles(Protocol):
    """What is needed of a device; arrays are its own, factors and inverses lower triangles."""

    @property
    def xp(self) -> Any:
        """The array namespace."""

    def put(self, values: Any) -> Any:
        """An array on the device."""

    def get(self, values: Any) -> npt.NDArray[Any]:
        """An array of the device on the host."""

    def factor_in_place(self, A: Any, diagonal: Any) -> int:
        """As `kernreg.cholesky.factor_in_place`."""

    def forward(self, L: Any, B: Any) -> Any:
        """L⁻¹B; B (n, c) is left alone."""

    def inverse(self, L: Any, size: int) -> Iterator[tuple[slice, Any]]:
        """L⁻¹ in blocks of so many columns, each from the diagonal down, zeros above it."""


def running_sums(V: Any, z: Any, start: Any, xp: Any) -> Any:
    """(c, b, s): start + Σ_{j≤k} z[j]·V[j] for k = 0…b−1.

    Args:
        V: (b, s); z: (b, c); start: (c, s); xp: their namespace.
    """
    b, c = z.shape
    weights = xp.tril(xp.ones((b, b))) * z.T[:, None, :]
    sums = (weights.reshape(c * b, b) @ V).reshape(c, b, V.shape[1])
    sums += start[:, None, :]
    return sums


def errors_by_panels(
    device: Triangles,
    L: Any,
    z: Any,
    K_test: npt.NDArray[Any],
    y_test: Matrix,
    labels: npt.NDArray[np.int64] | None,
    anchors: npt.NDArray[np.int64],
) -> PrefixErrors:
    """As `kernreg.prefix.prefix_errors`; L and z are on the device, the others on the host.

    Memory of the device: three n × 2,048 arrays.
    """
    xp, (n, c), t = device.xp, z.shape, len(y_test)
    summed, squared_errors = xp.zeros(n), xp.empty((len(anchors), t))
    mistakes = None if labels is None else xp.zeros(n, dtype=np.int64)
    for start in range(0, t, ROWS_AT_ONCE):
        tests = slice(start, min(start + ROWS_AT_ONCE, t))
        V = device.forward(L, device.put(K_test[tests]).T)
        y = device.put(np.ascontiguousarray(y_test[tests].T))[:, None, :]
        right = None if labels is None else device.put(labels[tests])
        f = xp.zeros((c, tests.stop - tests.start))
        for first in range(0, n, PANEL):
            rows = slice(first, min(first + PANEL, n))
            F = running_sums(V[rows], z[rows], f, xp)
            f = F[:, -1].copy()
            if mistakes is not None:
                mistakes[rows] += (F.argmax(axis=0) != right).sum(axis=1)
            F -= y
            F *= F
            summed[rows] += F.sum(axis=(0, 2))
            for place in range(*np.searchsorted(anchors, (rows.start + 1, rows.stop + 1))):
                squared_errors[place, tests] = F[:, int(anchors[place]) - 1 - first].sum(axis=0)
    wrong = None if mistakes is None else device.get(mistakes)
    return PrefixErrors(device.get(summed), wrong, device.get(squared_errors))


def leave_one_out_by_panels(device: Triangles, L: Any, z: Any) -> tuple[Matrix, Matrix]:
    """As `kernreg.prefix.prefix_leave_one_out`, but of the factor, which stays; L and z are on the device.

    Columns of L⁻¹ are made a block at a time, n³/3 operations in all, and no n² array beside L.
    """
    xp, (n, c) = device.xp, z.shape
    left_out, norm, trace = xp.zeros(n), xp.zeros(n), xp.zeros(n)
    for columns, M in device.inverse(L, ROWS_AT_ONCE):
        alpha, diagonal = xp.zeros((c, M.shape[1])), xp.zeros((1, M.shape[1]))
        for first in range(columns.start, n, PANEL):
            rows = slice(first, min(first + PANEL, n))
            panel = M[first - columns.start : rows.stop - columns.start]
            squares = running_sums(panel, z[rows], alpha, xp)
            alpha = squares[:, -1].copy()
            A_ii = running_sums(xp.square(panel), xp.ones((len(panel), 1)), diagonal, xp)[0]
            diagonal = A_ii[-1:].copy()
            squares *= squares
            norms = squares.sum(axis=0)
            norm[rows] += norms.sum(axis=1)
            trace[rows] += A_ii.sum(axis=1)
            # A row that is not yet among the first m has α = 0 and A_ii = 0.
            left_out[rows] += (norms / xp.square(xp.where(A_ii > 0, A_ii, 1))).sum(axis=1)
    m = np.arange(1, n + 1)
    left_out, norm, trace = (device.get(sums) for sums in (left_out, norm, trace))
    return left_out / m, m * norm / np.square(trace)


def ridge_path_by_factors(device: Triangles, A: Any, y: Matrix, ridges: Matrix) -> tuple[Matrix, Matrix]:
    """As `kernreg.ridge.ridge_path`, by a factor for each ridge: with M = L⁻¹, A_ii = Σ_k M[k,i]² and α = Mᵀ·L⁻¹y.

    2n³/3 operations for each ridge and no n² array beside K = A on the device, whose lower triangle is used, then restored.
    """
    xp, n = device.xp, len(A)
    kept = A.diagonal().copy()
    loo, gcv = np.full(len(ridges), np.inf), np.full(len(ridges), np.inf)
    for place, λ in enumerate(ridges):
        if device.factor_in_place(A, kept + float(λ)):
            continue
        z = device.forward(A, y)
        left_out = norm = trace = 0.0
        for columns, M in device.inverse(A, ROWS_AT_ONCE):
            A_ii, norms = xp.square(M).sum(axis=0), xp.square(M.T @ z[columns.start :]).sum(axis=1)
            left_out += float((norms / xp.square(A_ii)).sum())
            norm, trace = norm + float(norms.sum()), trace + float(A_ii.sum())
        loo[place], gcv[place] = left_out / n, n * norm / trace**2
    mirror_upper(A, xp)
    A.reshape(-1)[:: n + 1] = kept
    return loo, gcv
