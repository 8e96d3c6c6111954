"""Cholesky and Tiled: solvers by a factor, in memory or by tiles on disk, on the host or on GPUs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from kernreg.cholesky import Matrix, NotPositiveDefiniteError
from kernreg.device import HOST, Device
from kernreg.errors import KernregError
from kernreg.iterations import Report
from kernreg.lanczos import extreme_eigenvalues
from kernreg.operators import Operator, Shifted, Stored
from kernreg.solution import Solution, Stats, Status, relative_residuals, relative_ridge
from kernreg.tiled import TiledCholesky
from kernreg.tiledsolution import Inverse, RefinementError, tiled_solve
from kernreg.trace import xtrace

LANCZOS_STEPS = 12
STEPS_ON_DISK = 3  # with the inverse, each as dear as reading the factor twice


@dataclass(frozen=True)
class Cholesky:
    """The factor of the whole matrix in memory: n³/3 operations, one n² float64 array beside the operator's own.

    Attributes:
        device: that factors, `kernreg.device`; an array of n² is there, and one on the host on its way.
        probes: columns of the two solutions that estimate the trace of the inverse; 0: no estimate.
    """

    name: ClassVar[str] = "cholesky"

    device: Device = HOST
    probes: int = 0

    def solve(
        self,
        K: Operator,
        B: Matrix,
        ridge: float,
        *,
        start: Matrix | None = None,
        progress: bool | Report = False,
    ) -> Solution:
        """(K + ridge·I)⁻¹B, see `kernreg.solution.Solver`; it needs no start and is silent."""
        began, device = time.perf_counter(), self.device
        n, c = B.shape
        A = K.columns(np.arange(n))
        try:
            L = device.factor(A if device is HOST else device.gram(A, True), ridge, True)
        except NotPositiveDefiniteError as failure:
            return _without_factor(self.name, K, B, ridge, failure, began)
        del A

        def inverse(V: Matrix) -> Matrix:
            return device.get(device.solve(L, V))

        X = inverse(B)
        least, trace = _of_inverse(inverse, n, LANCZOS_STEPS, self.probes)
        residuals = relative_residuals(K, X, B, ridge)
        stats = Stats(
            solver=self.name,
            n=n,
            ridge=ridge,
            relative_ridge=relative_ridge(K, ridge),
            residuals=residuals,
            iterations=np.zeros(c, dtype=np.int64),
            eigenvalues=(least, _largest(K, ridge)),
            trace=trace,
            products=LANCZOS_STEPS + 1,
            seconds=time.perf_counter() - began,
        )
        message = f"solved by a Cholesky factor: largest relative residual {residuals.max():.1e}"
        return Solution(X, Status.CONVERGED, message, stats)


@dataclass(frozen=True)
class Tiled:
    """The factor by tiles on disk of a stored Gram, see `kernreg.tiled`: n³/3 operations in any memory, n²/2 numbers of disk.

    Attributes:
        how: memory, scratch, dtype of the factor, GPUs.
        rtol: up to which a solution is refined; a float32 factor that does not get there has stagnated.
        probes: as in `Cholesky`.
    """

    name: ClassVar[str] = "tiled"

    how: TiledCholesky = field(default_factory=TiledCholesky)
    rtol: float = 1e-8
    probes: int = 0

    def solve(
        self,
        K: Operator,
        B: Matrix,
        ridge: float,
        *,
        start: Matrix | None = None,
        progress: bool | Report = False,
    ) -> Solution:
        """(K + ridge·I)⁻¹B, see `kernreg.solution.Solver`; it needs no start. Raises KernregError unless K is stored."""
        if not isinstance(K, Stored):
            raise KernregError(
                "the tiled factorisation reads a Gram store: use cholesky or cg for other operators"
            )
        began, eigenvalues, trace = time.perf_counter(), None, None
        how = replace(self.how, progress=progress is True)

        def measure(inverse: Inverse) -> None:
            nonlocal eigenvalues, trace
            least, trace = _of_inverse(inverse, K.n, STEPS_ON_DISK, self.probes)
            eigenvalues = (least, _largest(K, ridge))

        try:
            found = tiled_solve(K.store, K.kernel, ridge, how, B, K.n, self.rtol, measure, self.probes)
            status = Status.CONVERGED
            message = f"solved by a factor on disk: largest relative residual {found.residual.max():.1e}"
            if found.refinements:
                message = f"{message}, refined {found.refinements}× in float64"
        except NotPositiveDefiniteError as failure:
            return _without_factor(self.name, K, B, ridge, failure, began)
        except RefinementError as failure:
            found, status, message = failure.found, Status.STAGNATED, str(failure)
        stats = Stats(
            solver=self.name,
            n=K.n,
            ridge=ridge,
            relative_ridge=relative_ridge(K, ridge),
            residuals=found.residual,
            iterations=np.full(B.shape[1], found.refinements, dtype=np.int64),
            eigenvalues=eigenvalues,
            trace=trace,
            products=found.refinements + 1 + (LANCZOS_STEPS if eigenvalues else 0),
            seconds=time.perf_counter() - began,
        )
        return Solution(found.value, status, message, stats)


def _largest(K: Operator, ridge: float) -> float:
    """Eigenvalue of K + λI, by Lanczos."""
    return extreme_eigenvalues(Shifted(K, ridge).matmul, _start(K.n), LANCZOS_STEPS)[1]


def _of_inverse(
    inverse: Inverse, n: int, steps: int, probes: int
) -> tuple[float, tuple[float, float] | None]:
    """The smallest eigenvalue of K + λI, by Lanczos with its inverse; the trace of that with its standard error, if asked for."""
    least = 1 / extreme_eigenvalues(inverse, _start(n), steps)[1]
    if not probes:
        return least, None
    estimate = xtrace(inverse, n, probes)
    return least, (estimate.value, estimate.error)


def _start(n: int) -> Matrix:
    return np.random.default_rng(0).standard_normal((n,))


def _without_factor(
    name: str, K: Operator, B: Matrix, ridge: float, failure: NotPositiveDefiniteError, began: float
) -> Solution:
    """Zeros, whose relative residual is 1, and what LAPACK said."""
    stats = Stats(
        solver=name,
        n=K.n,
        ridge=ridge,
        relative_ridge=relative_ridge(K, ridge),
        residuals=np.asarray(B.any(axis=0), dtype=np.float64),
        iterations=np.zeros(B.shape[1], dtype=np.int64),
        seconds=time.perf_counter() - began,
        enough_ridge=failure.ridge,
    )
    return Solution(np.zeros_like(B), Status.NOT_POSITIVE_DEFINITE, str(failure), stats)
