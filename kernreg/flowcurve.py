"""Learning curves of training that stops: what `kernreg.flow` says at several sample counts, measured on test rows.

A Gram matrix in memory is diagonalised at every sample count, which costs half as much again as doing it once for all rows; a
stored one is streamed, and its products are shared by all times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kernreg import chebyshev
from kernreg.chebyshev import Checkpoint
from kernreg.cholesky import Matrix, check_gram, real_array
from kernreg.curve import LearningCurve
from kernreg.curvebycg import SMALLEST, Predictor
from kernreg.errors import KernregError
from kernreg.filters import Stop
from kernreg.flow import by_eigenvalues, by_products, require_stops
from kernreg.operators import Nested, Stored
from kernreg.plan import PROCESS_BYTES, show_bytes
from kernreg.predict import DenseRows, StoredRows
from kernreg.progress import Progress
from kernreg.question import question
from kernreg.ridge import RidgeMode, ridge_in_units
from kernreg.solve import allowed_bytes
from kernreg.streaming import streaming_bytes
from kernreg.targets import targets

if TYPE_CHECKING:
    from kernreg.store import GramStore


@dataclass(frozen=True, eq=False)
class FlowCurves:
    """Learning curves at s stops and a sample counts.

    Attributes:
        stops: as given.
        curves: one for each stop, with samples = anchors, without replicates and leave-one-out; gcv where it is known.
        train: (s, a) training loss: mean over the m rows of |y − f_m|², divided by the mean of |y|² over all n rows.
        method: "eigendecomposition" or "chebyshev".
        products: with K, at all sample counts together; 0 for eigendecompositions.
        bound, defect: of the series that is worst, see `kernreg.chebyshev.Series`; 0 for eigendecompositions.
    """

    stops: tuple[Stop, ...]
    curves: tuple[LearningCurve, ...]
    train: Matrix
    method: str
    products: int
    bound: float
    defect: float


def flow_curves(
    K: Nested | npt.NDArray[Any],
    y: npt.ArrayLike,
    K_test: Predictor | npt.NDArray[Any],
    y_test: npt.ArrayLike,
    stops: Sequence[Stop],
    ridge: float = 0.0,
    ridge_mode: RidgeMode = "absolute",
    *,
    anchors: Sequence[int] | None = None,
    labels_test: npt.ArrayLike | None = None,
    rtol: float = chebyshev.RTOL,
    checkpoint: Path | None = None,
    progress: bool | Progress = False,
) -> FlowCurves:
    """Test errors at chosen sample counts m and stops, f_0 = 0.

    Args:
        K: (n, n) array, or operator of the training rows with leading blocks.
        y: (n,) or (n, c) targets.
        K_test: (t, n) array, or operator of test rows with training rows.
        y_test: (t,) or (t, c) targets of the test rows; not all zero.
        stops, ridge, rtol, progress: as in `kernreg.flow.trained`; λ is the same at every m.
        ridge_mode: "relative" refers to the mean diagonal of all n rows.
        anchors: sample counts; default n/√2^j down to 8.
        labels_test: (t,) right column of each test row; default: read from targets of the form a + b·one-hot.
        checkpoint: of an operator: the state of each sample count m is kept in the file NAME-m beside this path until all are
            done.

    Raises:
        KernregError: as `kernreg.flow.trained`, with the sample count, and as `kernreg.learning_curve`.
    """
    in_memory = isinstance(K, np.ndarray)
    A: Any = check_gram(K) if isinstance(K, np.ndarray) else K
    rows = DenseRows(real_array(K_test, "K_test")) if isinstance(K_test, np.ndarray) else K_test
    y, y_test = targets(y, "y"), targets(y_test, "y_test")
    n, t, c = len(A) if in_memory else A.n, len(y_test), y.shape[1]
    if len(y) != n or rows.t != t or y_test.shape[1] != c:
        raise KernregError(
            f"K has {n} rows and K_test {rows.t}, but y is {y.shape} and y_test {y_test.shape}: rows and outputs must agree"
        )
    require_stops(stops)
    if not y.any():
        raise KernregError("y is zero everywhere, so there is nothing to learn")
    asked = question(y, y_test, labels_test, anchors, loo=True)
    marks = asked.anchors
    marks = marks[marks >= SMALLEST] if anchors is None and n >= SMALLEST else marks
    diagonal = A.diagonal()
    λ = ridge_in_units(diagonal, ridge, ridge_mode)
    per_row, squared_targets = float(np.square(y).sum() / n), np.square(y_test).sum(axis=1)
    s, a = len(stops), len(marks)
    squared_errors, mistakes = np.empty((s, a, t)), np.empty((s, a))
    train, scores = np.empty((s, a)), np.empty((s, a))
    costs = np.zeros((a, 3))
    for j, m in enumerate(marks.tolist()):
        K_m = A[:m, :m] if in_memory else A.leading(m)
        try:
            at_m = (
                by_eigenvalues(K_m, y[:m], stops, λ)
                if in_memory
                else by_products(K_m, y[:m], stops, λ, rtol, _kept(checkpoint, m), progress)
            )
        except KernregError as error:
            raise KernregError(f"m = {m}: {error}") from error
        f = rows.matmul(np.concatenate(list(at_m.coefficients), axis=1)).reshape(t, s, c).swapaxes(0, 1)
        squared_errors[:, j] = np.square(f - y_test).sum(axis=2)
        train[:, j] = np.square(at_m.left).sum(axis=(1, 2)) / m / per_row
        if asked.labels is not None:
            mistakes[:, j] = np.mean(f.argmax(axis=2) != asked.labels, axis=1)
        if at_m.scores is not None:
            scores[:, j] = at_m.scores / per_row
        costs[j] = at_m.products, at_m.bound, at_m.defect
    for m in marks.tolist():
        if not in_memory and (kept := _kept(checkpoint, m)):
            kept.path.unlink(missing_ok=True)
    summed = squared_errors.sum(axis=2)
    curves = tuple(
        LearningCurve(
            samples=marks,
            loss=summed[i] / squared_targets.sum(),
            mse=summed[i] / t,
            error=None if asked.labels is None else mistakes[i],
            loo=None,
            gcv=scores[i] if in_memory else None,
            ridge=λ,
            relative_ridge=λ / float(diagonal.mean()) if diagonal.any() else np.inf,
            anchors=marks,
            squared_errors=squared_errors[i],
            squared_targets=squared_targets,
            replicates=(),
        )
        for i in range(s)
    )
    return FlowCurves(
        stops=tuple(stops),
        curves=curves,
        train=train,
        method="eigendecomposition" if in_memory else "chebyshev",
        products=int(costs[:, 0].sum()),
        bound=float(costs[:, 1].max()),
        defect=float(costs[:, 2].max()),
    )


def flow_from_store(
    store: GramStore,
    kernel: str | None = None,
    stops: Sequence[Stop] = (),
    ridge: float = 0.0,
    ridge_mode: RidgeMode = "absolute",
    *,
    n: int | None = None,
    memory: int | str | None = None,
    **settings: Any,
) -> FlowCurves:
    """`flow_curves` of a Gram store, by eigendecompositions within the memory, else streamed.

    Args:
        store: open; the tiles of the first n rows must be there.
        kernel: "nngp" or "ntk"; default: the NTK if the store has it.
        stops, ridge, ridge_mode: as in `flow_curves`.
        n: use the first n training rows only; default all.
        memory: most bytes that the process may use, or "4GiB"; None: three quarters of what this machine has.
        settings: further keyword arguments of `flow_curves`.

    Raises:
        KernregError: no test rows, no such kernel, tiles missing or damaged, a budget that streaming does not keep, by amount;
            and as `flow_curves`.
    """
    if not store.t:
        raise KernregError("the Gram store has no test rows to measure a loss on; extend it by some")
    kernel = kernel or ("ntk" if "ntk" in store.kernels else store.kernels[0])
    rows = store.n if n is None else n
    c = store.y_train.shape[1]
    if store.labels_test is not None and c > 1:
        settings.setdefault("labels_test", store.labels_test)
    given = (stops, ridge, ridge_mode)
    if not beyond_memory(rows, store.t, memory):
        K = store.train(kernel, n).astype(np.float64, copy=False)
        return flow_curves(
            K, store.y_train[: len(K)], store.test(kernel, n), store.y_test, *given, **settings
        )
    # two terms and a product; sums, their product and what is left, for every stop
    vectors = 8 * rows * c * (4 + 4 * len(stops))
    least = streaming_bytes(store, store.tiles("train", kernel, n))
    least_test = streaming_bytes(store, store.tiles("test", kernel, n, store.t))
    spare = allowed_bytes(memory) - PROCESS_BYTES - vectors - least - least_test
    if spare < 0:
        needed = allowed_bytes(memory) - spare
        raise KernregError(
            f"training on {rows} rows up to {len(stops)} times takes about {show_bytes(needed)} of memory, streamed, and "
            f"{show_bytes(allowed_bytes(memory))} are allowed: use --memory {-(-needed // 2**20)}MiB, or fewer times"
        )
    K_stored = Stored(store, kernel, n, least + spare)
    predictor = StoredRows(store, kernel, K_stored.n, memory=least_test)
    return flow_curves(K_stored, store.y_train[: K_stored.n], predictor, store.y_test, *given, **settings)


def beyond_memory(n: int, t: int, memory: int | str | None = None) -> str:
    """Why the Gram of n training and t test rows is streamed, or "" where memory holds its eigendecomposition."""
    needed, allowed = PROCESS_BYTES + 8 * (4 * n * n + 2 * n * t), allowed_bytes(memory)
    if needed <= allowed:
        return ""
    return (
        f"an eigendecomposition of {n} rows takes {show_bytes(needed)} of memory and {show_bytes(allowed)} are allowed: "
        "training is followed by products with K, streamed"
    )


def _kept(path: Path | None, m: int) -> Checkpoint | None:
    return None if path is None else Checkpoint(path.with_name(f"{path.name}-{m}"))
