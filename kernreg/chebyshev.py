"""Training that stops, from products with the kernel alone: a Chebyshev series whose coefficients are probabilities.

Let the eigenvalues of A lie in [0, b] and V = I − 2A/b. Both filters of `kernreg.filters` are generating functions of a symmetric
walk on the whole numbers, whose law after the training is w_j, and T_j(cos θ) = cos jθ:

    r(A) = w_0 + 2·Σ_{j≥1} w_j·T_j(V)
    gradient flow         w_j = e^{−z}·I_j(z), z = tb/2             jumps ±1 at random times
    gradient descent      coefficient of u^j in (q/2u + p + qu/2)^k, q = ηb/2, p = 1 − q    k lazy steps
    g(A) = (1 − r(A))/A = G_0 + 2·Σ_{i≥1} G_i·T_i(V),    G_i = (4/b)·Σ_{j>i} (j − i)·w_j

The last line is Fejér's (1 − cos jθ)/(1 − cos θ) = Σ_{|i|<j} (j − |i|)·cos iθ. Nothing is subtracted, so that the tail of
either series bounds what its truncation loses. With the terms up to d kept, on the training rows

    |A·(ĝ(A) − g(A))·y| ≤ E·|y|,    E = 2b·Σ_{i>d} G_i = 4·Σ_{j>d} (j − d)(j − d − 1)·w_j,

and on any row x the prediction is off by at most E·√(K(x, x)/b)·|y|/√m, since the error is a function of norm ≤ E·|y|/√(mb)
in the space of the kernel. The walk spreads over √z, hence about √(2z·log 1/E) products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernreg.cholesky import EPS, Matrix
from kernreg.errors import KernregError
from kernreg.filters import GradientDescent, Stop
from kernreg.lanczos import extreme_eigenvalues
from kernreg.operators import Operator
from kernreg.progress import Meter, Progress

RTOL = 1e-8
MOST_PRODUCTS = 20_000
LANCZOS_STEPS = 24
MARGIN = 0.01  # added to the largest Ritz value
ATTEMPTS = 4  # each time with a larger b
WIDER = 1.3
SHORTEST = 1e-12  # z of a walk
TINIEST = 80.0  # −log of the probability at which a walk is cut off


@dataclass(frozen=True, eq=False)
class Series:
    """What a series gave for s stops.

    Attributes:
        coefficients: (s, m, c) α of each.
        left: (s, m, c) r(A)·y.
        largest: b, in units of A.
        products: with K, of all c columns.
        bound: E of the stop that is worst.
        defect: max |A·g(A)y + r(A)y − y|/|y| over stops, measured: the two series, and the interval, agree so far.
    """

    coefficients: Matrix
    left: Matrix
    largest: float
    products: int
    bound: float
    defect: float


def walk(stop: Stop, largest: float) -> Matrix:
    """w_0 … w_J (J + 1,), whose omitted tail is below e^−80, by the backward recurrence of Miller.

    Going backwards the law grows, and the other solution, of alternating signs, dies out; unless the steps of a descent hardly
    ever rest. So two starts are followed, and joined such that Σ w_j = r(0) = 1 and Σ (−1)^j·w_j = r(b).
    """
    z, J = stop.time * largest / 2, reach(stop, largest)
    w = np.zeros((J + 2, 2))
    w[J, 0] = w[J + 1, 1] = 1e-280
    for j in range(J, 0, -1):
        if isinstance(stop, GradientDescent):
            k, q = stop.steps, stop.step * largest / 2
            w[j - 1] = ((k + j + 1) * w[j + 1] + 2 * (1 - q) / q * j * w[j]) / (k - j + 1)
        else:
            w[j - 1] = w[j + 1] + 2 * j / z * w[j]
        if w[j - 1].max() > 1e200:
            w[j - 1 :] *= 1e-200
    at_its_end = J == 0 or (isinstance(stop, GradientDescent) and J == stop.steps)  # there is nothing beyond
    w = w[: J + 1, : 1 if at_its_end else 2]
    doubled = np.where(np.arange(J + 1) == 0, 1.0, 2.0)
    w = w / (doubled @ w)
    sums = np.stack([doubled @ w, (doubled * (-1.0) ** np.arange(J + 1)) @ w])
    joined, *_ = np.linalg.lstsq(sums, stop.residual(np.array([0.0, largest])), rcond=1e-12)
    return np.asarray(np.maximum(w @ joined, 0.0))


def reach(stop: Stop, largest: float) -> int:
    """J: further away than that a walk is with a probability below e^−80 (Bernstein's inequality)."""
    z = stop.time * largest / 2
    if z == 0:
        return 0
    J = int(TINIEST / 3 + np.sqrt(TINIEST**2 / 9 + 2 * TINIEST * z)) + 2
    return min(J, stop.steps) if isinstance(stop, GradientDescent) else J


def gains(w: Matrix, largest: float) -> Matrix:
    """G_0 … G_J (J + 1,), the last one 0, of a walk (J + 1,)."""
    beyond = np.cumsum(w[:0:-1])  # Σ_{j>i} w_j for i = J − 1 … 0
    return np.append(4 / largest * np.cumsum(beyond)[::-1], 0.0)


def degree(w: Matrix, rtol: float) -> tuple[int, float]:
    """The smallest d for which E, and what r(A) loses, is at most rtol; and the larger of the two."""
    G = gains(w, 1.0)
    lost_gain, lost_residual = (2 * np.append(np.cumsum(terms[:0:-1])[::-1], 0.0) for terms in (G, w))
    E = np.maximum(lost_gain, lost_residual)
    d = int(np.argmax(E <= rtol))
    return d, float(E[d])


def apply(
    K: Operator,
    Y: Matrix,
    stops: Sequence[Stop],
    ridge: float = 0.0,
    *,
    rtol: float = RTOL,
    most_products: int = MOST_PRODUCTS,
    progress: bool | Progress = False,
) -> Series:
    """α = g((K + λI)/m)·Y/m of every stop from one run of products.

    Args:
        K: (m, m), positive semidefinite up to what its entries are rounded by.
        Y: (m, c) float64.
        stops: with finite times.
        ridge: λ ≥ 0, absolute.
        rtol: bound of the error on the training rows, relative to |Y|.
        most_products: refuse what takes more.
        progress: as in `kernreg.gram`, of products with K.

    Memory: (3 + 2s)·m·c float64.

    Raises:
        KernregError: a step above the stability limit, with the limit; more products than allowed; a matrix that is not
            positive semidefinite; a defect above what rounding explains.
    """
    m, longest = K.n, max(stop.time for stop in stops)
    # of a matrix that is zero any interval will do
    a = max(largest_eigenvalue(K, ridge) / m, SHORTEST / longest if longest else 1.0)
    for stop in stops:
        require_stable(stop, a / (1 + MARGIN), m)
    for _ in range(ATTEMPTS):
        found = _run(K, Y, stops, ridge, a, rtol, most_products, progress)
        if found is not None:
            return found
        a *= WIDER
    raise KernregError(
        f"K of {m} rows has an eigenvalue too far below 0 for times up to {longest:g}: use a larger "
        "ridge, or shorter times"
    )


def largest_eigenvalue(K: Operator, ridge: float) -> float:
    """Of K + λI, from a few products with a random vector: the largest Ritz value and 1 % on top."""
    _, largest = extreme_eigenvalues(K.matmul, np.random.default_rng(0).standard_normal(K.n), LANCZOS_STEPS)
    return (1 + MARGIN) * (largest + ridge)


def require_stable(stop: Stop, largest: float, m: int) -> None:
    """Raise KernregError if the step exceeds 2/a, a the largest eigenvalue of (K + λI)/m."""
    if isinstance(stop, GradientDescent) and stop.step * largest > 2 * (1 + 1e-9):
        raise KernregError(
            f"a step of {stop.step:g} is above the stability limit of gradient descent on {m} rows, 2m/λmax = "
            f"{2 / largest:.6g}: use a smaller one"
        )


def _run(
    K: Operator,
    Y: Matrix,
    stops: Sequence[Stop],
    ridge: float,
    b: float,
    rtol: float,
    most_products: int,
    progress: bool | Progress,
) -> Series | None:
    """None if some |T_j(V)·Y| exceeds 2·|Y|: with a spectrum in [0, b] it stays below |Y|."""
    m, size = K.n, float(np.linalg.norm(Y)) or 1.0
    for stop in stops:
        if isinstance(stop, GradientDescent):
            b = min(b, 2 / stop.step)
    if max(reach(stop, b) for stop in stops) > 4 * most_products:
        raise _too_many(
            stops, m, int(np.sqrt(max(stop.time for stop in stops) * b * -np.log(rtol))), most_products
        )
    walks = [walk(stop, b) for stop in stops]
    cuts = [degree(w, rtol) for w in walks]
    last = max(d for d, _ in cuts)
    if last + 1 > most_products:
        raise _too_many(stops, m, last + 1, most_products)
    series = [(gains(w, b)[: d + 1] / m, w[: d + 1]) for w, (d, _) in zip(walks, cuts, strict=True)]
    α, left = np.zeros((len(stops), *Y.shape)), np.zeros((len(stops), *Y.shape))

    def multiplied(T: Matrix) -> Matrix:
        """V·T."""
        product = K.matmul(T)
        product += ridge * T
        product *= -2 / (m * b)
        product += T
        return product

    with Meter(0, last + 1, progress, unit="product", title="flow") as meter:
        before, T = np.zeros_like(Y), Y.copy()
        for j in range(last + 1):
            if np.linalg.norm(T) > 2 * size:
                return None
            for s, (G, w) in enumerate(series):
                if j < len(G):
                    α[s] += (1 if j == 0 else 2) * G[j] * T
                if j < len(w):
                    left[s] += (1 if j == 0 else 2) * w[j] * T
            if j < last:
                before, T = T, multiplied(T) if j == 0 else 2 * multiplied(T) - before
                meter.advance(1)
        columns = np.concatenate(list(α), axis=1)
        product = K.matmul(columns) + ridge * columns
        meter.advance(1)
    gaps = product.reshape(m, len(stops), -1).swapaxes(0, 1) + left - Y
    defect = float(np.max(np.linalg.norm(gaps, axis=(1, 2)), initial=0.0)) / size
    # entries of α are of the size of the time, so that A·α has digits of b·t to lose
    allowed = 4 * rtol + 100 * EPS * (1 + b * max(stop.time for stop in stops)) * np.sqrt(last + 1)
    if not defect <= allowed:
        raise KernregError(
            f"the series of {last + 1} products misses its own equation by {defect:.1e}, more than {allowed:.1e}: the "
            "products of this operator are not those of one symmetric matrix"
        )
    return Series(α, left, b, last + 1, max(E for _, E in cuts), defect)


def _too_many(stops: Sequence[Stop], m: int, products: int, allowed: int) -> KernregError:
    return KernregError(
        f"a time of {max(stop.time for stop in stops):g} on {m} rows takes about {products} products with K, and {allowed} are "
        "allowed: use shorter times, or more memory (--memory) for an eigendecomposition"
    )
