"""A learning curve at chosen sample counts by conjugate gradients, for Grams that no factor fits.

m samples means the first m rows. The solution for fewer rows, padded with zeros, is where the next one starts: √2 apart it
is right to about the loss, which saves the first iterations of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from kernreg.cg import ConjugateGradients
from kernreg.cholesky import Matrix, real_array
from kernreg.curve import LearningCurve
from kernreg.errors import KernregError
from kernreg.iterations import Report
from kernreg.operators import Dense, Nested, Stored
from kernreg.predict import DenseRows, StoredRows
from kernreg.question import question
from kernreg.ridge import RidgeMode, ridge_in_units
from kernreg.solution import Solution, relative_ridge
from kernreg.solve import solve, tile_budget
from kernreg.streaming import streaming_bytes
from kernreg.targets import targets
from kernreg.trace import gcv, trace_of_inverse

if TYPE_CHECKING:
    from kernreg.store import GramStore

SMALLEST = 8  # below it a curve is about the first samples


class Predictor(Protocol):
    """K(test, train), known by its products: `kernreg.predict` has three."""

    @property
    def t(self) -> int: ...

    def matmul(self, α: Matrix) -> Matrix:
        """K(test, train)[:, :m]·α, (t, c) from (m, c)."""
        ...


@dataclass(frozen=True, eq=False)
class CurveByCG:
    """A curve at a anchors, and the solutions it rests on.

    Attributes:
        curve: as `kernreg.learning_curve` gives it, with samples, loss, mse, error and gcv at the anchors alone, and
            without replicates and leave-one-out.
        gcv_error: (a,) standard error of gcv from the estimate of the trace; None without gcv.
        solutions: one for each anchor, all converged.
    """

    curve: LearningCurve
    gcv_error: Matrix | None
    solutions: tuple[Solution, ...]


def curve_by_cg(
    K: Nested | npt.NDArray[Any],
    y: npt.ArrayLike,
    K_test: Predictor | npt.NDArray[Any],
    y_test: npt.ArrayLike,
    ridge: float = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    *,
    solver: ConjugateGradients | None = None,
    anchors: Sequence[int] | None = None,
    probes: int = 0,
    labels_test: npt.ArrayLike | None = None,
    progress: bool | Report = False,
) -> CurveByCG:
    """Test errors of (K_m + λI)⁻¹y_m at chosen m, by iterations that start from one another.

    Args:
        K: operator of the training rows with leading blocks, or an (n, n) array.
        y: (n,) or (n, c) targets.
        K_test: operator of test rows with training rows, or a (t, n) array.
        y_test: (t,) or (t, c) targets of the test rows; not all zero.
        ridge, ridge_mode: as in `kernreg.learning_curve`: "relative" refers to all n rows, and λ is the same at every m.
        solver: default `ConjugateGradients()`. Beside its checkpoint every anchor has a state of its own until the curve
            is done, so that a run that was killed solves no anchor again.
        anchors: sample counts; default n/√2^j down to 8.
        probes: columns of each solve that estimates the trace for GCV, at least 2; 0: no GCV.
        labels_test: (t,) right column of each test row; default: read from targets of the form a + b·one-hot.
        progress: as in `kernreg.solve.solve`, of the anchor at work.

    Raises:
        KernregError: shapes, NaN, anchors out of range; a solve that does not converge, with its m and remedy.
    """
    K = Dense(K) if isinstance(K, np.ndarray) else K
    K_test = DenseRows(real_array(K_test, "K_test")) if isinstance(K_test, np.ndarray) else K_test
    y, y_test = targets(y, "y"), targets(y_test, "y_test")
    n, t, c = K.n, len(y_test), y.shape[1]
    if len(y) != n or K_test.t != t or y_test.shape[1] != c:
        raise KernregError(
            f"K has {n} rows and K_test {K_test.t}, but y is {y.shape} and y_test {y_test.shape}: rows and outputs must agree"
        )
    asked, solver = question(y, y_test, labels_test, anchors, loo=probes > 0), solver or ConjugateGradients()
    marks, labels = asked.anchors, asked.labels
    marks = marks[marks >= SMALLEST] if anchors is None and n >= SMALLEST else marks
    λ = ridge_in_units(K.diagonal(), ridge, ridge_mode)
    zero_error = float(np.square(y).sum() / n)
    squared_targets = np.square(y_test).sum(axis=1)
    squared_errors, mistakes = np.empty((len(marks), t)), np.empty(len(marks))
    scores: list[tuple[float, float]] = []
    solutions: list[Solution] = []
    α = np.zeros((0, c))
    for j, m in enumerate(marks.tolist()):
        K_m, start = K.leading(m), np.vstack([α, np.zeros((m - len(α), c))])
        at = replace(solver, checkpoint=_of_anchor(solver, m))
        try:
            solution = solve(K_m, y[:m], at, λ, start=start, progress=progress).require()
        except KernregError as error:
            raise KernregError(f"m = {m}: {error}") from error
        α = solution.value
        f = K_test.matmul(α)
        squared_errors[j] = np.square(f - y_test).sum(axis=1)
        if labels is not None:
            mistakes[j] = np.mean(f.argmax(axis=1) != labels)
        if probes:
            score = gcv(α, trace_of_inverse(K_m, λ, solver, probes, progress=progress))
            scores.append((score.value / zero_error, score.error / zero_error))
        solutions.append(solution)
    for m in marks.tolist():
        if (state := _of_anchor(solver, m)) is not None:
            state.unlink(missing_ok=True)
    summed = squared_errors.sum(axis=1)
    curve = LearningCurve(
        samples=marks,
        loss=summed / squared_targets.sum(),
        mse=summed / t,
        error=None if labels is None else mistakes,
        loo=None,
        gcv=np.array(scores)[:, 0] if probes else None,
        ridge=λ,
        relative_ridge=relative_ridge(K, λ),
        anchors=marks,
        squared_errors=squared_errors,
        squared_targets=squared_targets,
        replicates=(),
    )
    return CurveByCG(curve, np.array(scores)[:, 1] if probes else None, tuple(solutions))


def curve_by_cg_from_store(
    store: GramStore,
    kernel: str | None = None,
    ridge: float = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    *,
    n: int | None = None,
    memory: int | str | None = None,
    **settings: Any,
) -> CurveByCG:
    """`curve_by_cg` of a Gram store that is streamed, with the error rate by its labels.

    Args:
        store, kernel, n: as in `kernreg.curve.curve_from_store`.
        memory: most bytes that the process may use, or "4GiB"; None: three quarters of what this machine has.
        settings: further keyword arguments of `curve_by_cg`.

    Raises:
        KernregError: no test rows, no such kernel, tiles missing or damaged; and as `curve_by_cg`.
    """
    if not store.t:
        raise KernregError("the Gram store has no test rows to measure a loss on; extend it by some")
    kernel = kernel or ("ntk" if "ntk" in store.kernels else store.kernels[0])
    c, cg = store.y_train.shape[1], settings.get("solver") or ConjugateGradients()
    tiles = store.tiles("train", kernel, n)
    rows_bytes = streaming_bytes(store, store.tiles("test", kernel, n))
    least = streaming_bytes(store, tiles) + rows_bytes + 8 * store.t * c * 4
    kept = tile_budget(n or store.n, max(c, settings.get("probes", 0)), cg, memory, least)
    K = Stored(store, kernel, n, kept - least + streaming_bytes(store, tiles))
    y = store.y_train[: K.n]
    if store.labels_test is not None and y.shape[1] > 1:
        settings.setdefault("labels_test", store.labels_test)
    rows = StoredRows(store, K.kernel, K.n, memory=rows_bytes)
    return curve_by_cg(K, y, rows, store.y_test, ridge, ridge_mode, **settings)


def _of_anchor(solver: ConjugateGradients, m: int) -> Any:
    path = solver.checkpoint
    return None if path is None else path.with_name(f"{path.name}-{m}")
