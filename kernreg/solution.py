"""Solution: what a solver hands back. A failure is data with a sentence, not NaN and not silence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kernreg.cholesky import Matrix
from kernreg.errors import KernregError
from kernreg.iterations import Report
from kernreg.operators import Operator, Shifted


class Status(StrEnum):
    """How a solve ended."""

    CONVERGED = "converged"  # every column has the residual asked for; a direct solver: it has a factor
    MAX_ITERATIONS = "max iterations"
    STAGNATED = "stagnated"  # float64 gives no smaller residual
    NOT_POSITIVE_DEFINITE = "not positive definite"


@dataclass(frozen=True, eq=False)
class Stats:
    """What a solution cost and how good it is.

    Attributes:
        solver: its name.
        n: rows.
        ridge: λ as it was added to the diagonal, in the units of K.
        relative_ridge: λ divided by the mean diagonal of K.
        residuals: (c,) ‖Y − (K + λI)·value‖/‖Y‖ of each column, measured in float64; 0 for a zero column.
        iterations: (c,) iterations of each column; 0 for a direct solver.
        eigenvalues: (smallest, largest) of K + λI estimated by Lanczos, which sees the spectrum from inside; None if
            the solve ended before there was an estimate.
        preconditioned: likewise of the preconditioned matrix, whose quotient sets the number of iterations; None
            without a preconditioner.
        rank: of the preconditioner.
        products: matrix products with K, each with several columns at once.
        seconds: wall time of this call; a resumed solve does not count what was before.
        trace: of (K + λI)⁻¹ and its standard error, if it was asked for; else None.
        degrees_of_freedom: tr K(K + λI)⁻¹ = n − λ·trace and its standard error; None likewise.
        gcv: n·|value|²/trace², divided by the mean of |y|², and its standard error; None likewise.
        enough_ridge: an absolute ridge that should do where λ did not; None where nothing is amiss.
        why: why this solver was chosen, where it was chosen automatically.
    """

    solver: str
    n: int
    ridge: float
    relative_ridge: float
    residuals: Matrix
    iterations: npt.NDArray[np.int64]
    eigenvalues: tuple[float, float] | None = None
    preconditioned: tuple[float, float] | None = None
    rank: int = 0
    products: int = 0
    seconds: float = 0.0
    trace: tuple[float, float] | None = None
    degrees_of_freedom: tuple[float, float] | None = None
    gcv: tuple[float, float] | None = None
    enough_ridge: float | None = None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "residuals": self.residuals.tolist(), "iterations": self.iterations.tolist()}


@dataclass(frozen=True, eq=False)
class Solution:
    """(K + λI)⁻¹Y, or how far a solver came.

    Attributes:
        value: of the shape of Y, float64, finite: the last iterate where the status is not "converged", zeros where
            there is none. `stats.residuals` says what it is worth.
        status: how it ended.
        message: one line; for a failure cause and remedy.
        stats: residuals, iterations, eigenvalues, cost.
    """

    value: Matrix
    status: Status
    message: str
    stats: Stats

    @property
    def ok(self) -> bool:
        """Whether the residual asked for was reached."""
        return self.status is Status.CONVERGED

    def require(self) -> Solution:
        """This solution. Raises KernregError with its message unless it converged."""
        if not self.ok:
            raise KernregError(self.message)
        return self


class Solver(Protocol):
    """What `kernreg.solve.solve` calls: a frozen bag of tolerances with one method."""

    @property
    def name(self) -> str: ...

    def solve(
        self, K: Operator, B: Matrix, ridge: float, *, start: Matrix | None, progress: bool | Report
    ) -> Solution:
        """(K + ridge·I)⁻¹B for B (n, c) float64 and an absolute ridge ≥ 0, both checked by the caller.

        Args:
            start: (n, c) where to start from; a direct solver has no use for it.
            progress: True for a line on stderr, or a meter.
        """
        ...


def relative_residuals(K: Operator, X: Matrix, B: Matrix, ridge: float) -> Matrix:
    """(c,) ‖B − (K + λI)X‖/‖B‖ of each column in float64, one product; 0 where both are zero."""
    return relative(np.linalg.norm(B - Shifted(K, ridge) @ X, axis=0), np.linalg.norm(B, axis=0))


def relative(norms: Matrix, scale: Matrix) -> Matrix:
    """norms/scale, and the norms themselves where the scale is zero."""
    return np.asarray(np.divide(norms, scale, out=norms.astype(np.float64), where=scale > 0))


def relative_ridge(K: Operator, ridge: float) -> float:
    """λ divided by the mean diagonal; infinite if that is zero."""
    mean = float(K.diagonal().mean())
    return ridge / mean if mean else float("inf") if ridge else 0.0
