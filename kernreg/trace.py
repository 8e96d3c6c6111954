"""tr (K + λI)⁻¹ without the inverse, and what hangs on it: degrees of freedom and generalised cross-validation.

XTrace (Epperly, Tropp and Webber, SIAM J. Matrix Anal. Appl. 45 (2024)): with test vectors Ω (n, k), Y = AΩ = QR, each
vector in turn is left out of the basis Q and used to estimate what the basis misses; the k estimates are averaged, and
their scatter is the error. With s_i the normalised columns of R⁻ᵀ, the basis without vector i is Q(I − s_i s_iᵀ)Qᵀ, so
that all k of them cost one more product, AQ. Both products are solves of k columns here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from kernreg.cg import ConjugateGradients
from kernreg.cholesky import Matrix
from kernreg.errors import KernregError
from kernreg.iterations import Report
from kernreg.operators import Operator

PROBES = 20


@dataclass(frozen=True)
class Estimate:
    """A number and the standard error of its estimate; 0 where it is exact up to the solver's tolerance."""

    value: float
    error: float


def xtrace(apply: Callable[[Matrix], Matrix], n: int, probes: int = PROBES, seed: int = 0) -> Estimate:
    """tr A of a symmetric matrix from two products with `probes` columns each; exact for n ≤ probes.

    Args:
        apply: A, (n, k) → (n, k).
        probes: k ≥ 2.
        seed: of the test vectors.

    Raises:
        KernregError: fewer than two probes, from which there is no error estimate.
    """
    if probes < 2:
        raise KernregError(f"a trace estimate needs at least 2 probes, not {probes}")
    if n <= probes:
        return Estimate(float(np.trace(apply(np.eye(n)))), 0.0)
    Ω = np.random.default_rng(seed).standard_normal((n, probes))
    Ω *= np.sqrt(n) / np.linalg.norm(Ω, axis=0)  # uniform on the sphere of radius √n
    Y = apply(Ω)
    Q, R = np.linalg.qr(Y)
    S = np.linalg.inv(R).T
    S /= np.linalg.norm(S, axis=0)
    H, W = Q.T @ apply(Q), Q.T @ Ω
    X = W - S * _inner(S, W)  # Q·x_i is the projection of ω_i onto the basis without it
    # ωᵀAω, xᵀQᵀAω with QᵀAω = R, xᵀHx
    missed = _inner(Ω, Y) - 2 * _inner(X, R) + _inner(X, H @ X)
    scale = (n - probes + 1) / (n - _inner(X, X))
    estimates = np.trace(H) - _inner(S, H @ S) + scale * missed
    return Estimate(float(estimates.mean()), float(estimates.std(ddof=1) / np.sqrt(probes)))


def trace_of_inverse(
    K: Operator,
    ridge: float,
    solver: ConjugateGradients | None = None,
    probes: int = PROBES,
    seed: int = 0,
    progress: bool | Report = False,
) -> Estimate:
    """tr (K + ridge·I)⁻¹ by XTrace, from two solves with `probes` right-hand sides that share a preconditioner.

    Args:
        K: positive semidefinite.
        ridge: λ ≥ 0, absolute.
        solver: default `ConjugateGradients()`; its tolerance bounds the error that the estimate does not count. Its
            checkpoint is not used.

    Raises:
        KernregError: a solve that does not converge, with its message.
    """
    solver = replace(solver or ConjugateGradients(), checkpoint=None)
    prepared = solver.prepare(K, ridge)

    def inverse(V: Matrix) -> Matrix:
        return solver.solve(K, V, ridge, progress=progress, prepared=prepared).require().value

    return xtrace(inverse, K.n, probes, seed)


def degrees_of_freedom(n: int, ridge: float, trace: Estimate) -> Estimate:
    """tr K(K + λI)⁻¹ = n − λ·tr (K + λI)⁻¹."""
    return Estimate(n - ridge * trace.value, ridge * trace.error)


def gcv(α: Matrix, trace: Estimate) -> Estimate:
    """Generalised cross-validation n·|α|²/(tr (K + λI)⁻¹)², summed over outputs, as in `kernreg.learning_curve`.

    Args:
        α: (n, c) solution of (K + λI)α = y.
        trace: of (K + λI)⁻¹; its error enters to first order.

    Source: Golub, Heath and Wahba, Technometrics 21 (1979), 215–223; the stochastic trace: Hutchinson (1989).
    """
    value = len(α) * float(np.square(α).sum()) / trace.value**2
    return Estimate(value, 2 * value * trace.error / abs(trace.value))


def _inner(U: Matrix, V: Matrix) -> Matrix:
    return np.asarray(np.einsum("nk,nk->k", U, V))
