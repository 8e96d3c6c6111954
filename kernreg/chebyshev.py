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

import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernreg.cholesky import EPS, Matrix
from kernreg.durable import replace
from kernreg.errors import KernregError
from kernreg.filters import GradientDescent, Stop
from kernreg.lanczos import extreme_eigenvalues
from kernreg.operators import Operator
from kernreg.progress import Interruption, Meter, Progress
from kernreg.provenance import checksum
from kernreg.walks import degree, gains, reach, walk

RTOL = 1e-8
MOST_PRODUCTS = 20_000
LANCZOS_STEPS = 24
MARGIN = 0.01  # added to the largest Ritz value
ATTEMPTS = 4  # each time with a larger b
WIDER = 1.3
SHORTEST = 1e-12  # z of a walk


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


@dataclass
class State:
    """Where a series is, for s stops.

    Attributes:
        b: in units of A.
        j: the next term.
        before, T: (m, c) T_{j−1}(V)·Y and T_j(V)·Y.
        coefficients, left: (s, m, c) sums of the terms before j.
    """

    b: float
    j: int
    before: Matrix
    T: Matrix
    coefficients: Matrix
    left: Matrix

    def save(self, path: Path, problem: str) -> None:
        """Replace the file by this state, whole or not at all. Raises KernregError if the disk refuses."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                about = {"problem": np.array(problem), "b": np.array(self.b), "j": np.array(self.j)}
                np.savez(file, **about, **arrays)  # type: ignore[arg-type]

        replace(path, write)


_ARRAYS = ("before", "T", "coefficients", "left")


@dataclass(frozen=True)
class Checkpoint:
    """The file that a series survives kill −9 in.

    Attributes:
        path: replaced atomically; it stays when the series is complete, which then is not computed again.
        seconds: between two states.
    """

    path: Path
    seconds: float = 60.0

    def load(self, problem: str) -> State | None:
        """The state there, or None where there is no file.

        Raises:
            KernregError: the file is damaged, or of another problem.
        """
        if not self.path.exists():
            return None
        try:
            with self.path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            state = State(float(found["b"]), int(found["j"]), *(found[name] for name in _ARRAYS))
            given = str(found["problem"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise KernregError(
                f"{self.path} is no state of a training ({error}): remove it to begin anew"
            ) from None
        if given != problem:
            raise KernregError(
                f"{self.path} is the state of another training: the matrix, the targets, the times or the ridge differ; "
                "remove it to begin anew"
            )
        return state


def apply(
    K: Operator,
    Y: Matrix,
    stops: Sequence[Stop],
    ridge: float = 0.0,
    *,
    rtol: float = RTOL,
    most_products: int = MOST_PRODUCTS,
    checkpoint: Checkpoint | None = None,
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
        checkpoint: where to keep the state, and to go on from; a run that was killed ends as it would have ended.
        progress: as in `kernreg.gram`, of products with K.

    Memory: (3 + 2s)·m·c float64.

    Raises:
        KernregError: a step above the stability limit, with the limit; more products than allowed; a matrix that is not
            positive semidefinite; a defect above what rounding explains; a checkpoint of another problem.
        KeyboardInterrupt: SIGINT or SIGTERM, after the state is saved.
    """
    m, longest = K.n, max(stop.time for stop in stops)
    task = _Task(K, Y, tuple(stops), ridge, rtol, most_products, checkpoint)
    state = checkpoint.load(task.problem) if checkpoint else None
    if state is None:
        # of a matrix that is zero any interval will do
        b = max(largest_eigenvalue(K, ridge) / m, SHORTEST / longest if longest else 1.0)
        for stop in stops:
            require_stable(stop, b / (1 + MARGIN), m)
        state = task.begin(b)
    for _ in range(ATTEMPTS):
        found = task.run(state, progress)
        if found is not None:
            return found
        state = task.begin(WIDER * state.b)
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


@dataclass(frozen=True)
class _Task:
    K: Operator
    Y: Matrix
    stops: tuple[Stop, ...]
    ridge: float
    rtol: float
    most_products: int
    checkpoint: Checkpoint | None

    @property
    def problem(self) -> str:
        told = (self.stops, self.ridge, self.rtol)
        return f"{checksum(self.K.diagonal())} {checksum(self.Y)} {told!r}"

    def begin(self, b: float) -> State:
        """The first term; b is made to fit the steps of descents that are just stable."""
        for stop in self.stops:
            if isinstance(stop, GradientDescent):
                b = min(b, 2 / stop.step)
        nothing = np.zeros((len(self.stops), *self.Y.shape))
        return State(b, 0, np.zeros_like(self.Y), self.Y.copy(), nothing, nothing.copy())

    def run(self, state: State, progress: bool | Progress) -> Series | None:
        """None if some |T_j(V)·Y| exceeds 2·|Y|: with a spectrum in [0, b] it stays below |Y|."""
        m, b, size = self.K.n, state.b, float(np.linalg.norm(self.Y)) or 1.0
        longest = max(stop.time for stop in self.stops)
        if max(reach(stop, b) for stop in self.stops) > 4 * self.most_products:
            raise self._too_many(int(np.sqrt(longest * b * -np.log(self.rtol))))
        walks = [walk(stop, b) for stop in self.stops]
        cuts = [degree(w, self.rtol) for w in walks]
        last = max(d for d, _ in cuts)
        if last + 1 > self.most_products:
            raise self._too_many(last + 1)
        series = [(gains(w, b)[: d + 1] / m, w[: d + 1]) for w, (d, _) in zip(walks, cuts, strict=True)]
        saved = time.perf_counter()
        with (
            Meter(0, last + 1, progress, unit="product", title="training") as meter,
            Interruption(
                lambda _: meter.note("stopping after this product; once more stops at once")
            ) as interruption,
        ):
            meter.skip(min(state.j, last))
            while state.j <= last:
                if np.linalg.norm(state.T) > 2 * size:
                    return None
                self._advance(state, series, last)
                meter.advance(1 if state.j <= last else 0)
                late = self.checkpoint and time.perf_counter() - saved >= self.checkpoint.seconds
                if self.checkpoint and (late or interruption.requested or state.j > last):
                    state.save(self.checkpoint.path, self.problem)
                    saved = time.perf_counter()
                if interruption.requested:
                    raise KeyboardInterrupt
            columns = np.concatenate(list(state.coefficients), axis=1)
            product = self.K.matmul(columns) + self.ridge * columns
        gaps = product.reshape(m, len(self.stops), -1).swapaxes(0, 1) + state.left - self.Y
        defect = float(np.max(np.linalg.norm(gaps, axis=(1, 2)), initial=0.0)) / size
        # entries of α are of the size of the time, so that A·α has digits of b·t to lose
        allowed = 4 * self.rtol + 100 * EPS * (1 + b * longest) * np.sqrt(last + 1)
        if not defect <= allowed:
            raise KernregError(
                f"the series of {last + 1} products misses its own equation by {defect:.1e}, more than {allowed:.1e}: the "
                "products of this operator are not those of one symmetric matrix"
            )
        return Series(state.coefficients, state.left, b, last + 1, max(E for _, E in cuts), defect)

    def _advance(self, state: State, series: Sequence[tuple[Matrix, Matrix]], last: int) -> None:
        """Add the terms of T_j, and go on to T_{j+1} = 2V·T_j − T_{j−1}."""
        j, factor = state.j, 1 if state.j == 0 else 2
        for s, (G, w) in enumerate(series):
            if j < len(G):
                state.coefficients[s] += factor * G[j] * state.T
                state.left[s] += factor * w[j] * state.T
        if j < last:
            product = self.K.matmul(state.T)
            product += self.ridge * state.T
            product *= -2 / (self.K.n * state.b)
            product += state.T
            if j:
                product *= 2
                product -= state.before
            state.before, state.T = state.T, product
        state.j += 1

    def _too_many(self, products: int) -> KernregError:
        return KernregError(
            f"a time of {max(stop.time for stop in self.stops):g} on {self.K.n} rows takes about {products} products with K, and "
            f"{self.most_products} are allowed: use shorter times, or more memory (--memory) for an eigendecomposition"
        )
