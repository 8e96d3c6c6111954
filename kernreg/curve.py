"""A whole learning curve from one Cholesky factorisation.

Fix one order of the training rows; m samples means the first m. Every m = 1…n is solved exactly
(`kernreg.prefix`); curves on further, disjoint training sets come from diagonal blocks of the same Gram.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernreg.cholesky import Matrix, NotPositiveDefiniteError, real_array
from kernreg.device import Device, choose
from kernreg.duplicates import twin
from kernreg.errors import KernregError
from kernreg.operators import Stored
from kernreg.placement import place
from kernreg.prefix import PrefixErrors
from kernreg.question import Question, halves, question
from kernreg.ridge import RidgeMode, absolute_ridge, ridge_in_units
from kernreg.store import GramStore
from kernreg.storedgram import StoredGram
from kernreg.targets import Counts, check_shapes, targets
from kernreg.tiled import TiledCholesky, Traffic
from kernreg.tiledcurve import sweep

HALVINGS = 4


@dataclass(frozen=True, eq=False)
class Replicate:
    """The curve of one block of consecutive training rows; m samples means its first m.

    Attributes:
        start, size: its rows are start…start+size−1.
        loss, mse: (size,) as in `LearningCurve`; (a,) of trained networks, whose curves have points at the anchors alone.
        error: likewise, the error rate, or None.
        anchors: (a,) the anchors of the whole curve up to `size`.
        squared_errors: (a, t) squared error of each test row at those anchors, summed over outputs.
    """

    start: int
    size: int
    loss: Matrix
    mse: Matrix
    error: Matrix | None
    anchors: Counts
    squared_errors: Matrix

    @property
    def samples(self) -> Counts:
        """Of `loss`: 1, 2, … size, or the anchors."""
        return self.anchors if len(self.loss) < self.size else np.arange(1, self.size + 1)


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Errors at every sample count m = 1…n, float64; of trained networks (`kernreg.finite.curves`) at the anchors alone.

    Attributes:
        samples: (n,) 1, 2, … n; of trained networks the anchors, and what is (n,) below is then (a,).
        loss: (n,) normalised MSE: Σ|y − f_m|²/Σ|y|² over test rows and outputs; 1 is the zero predictor.
        mse: (n,) mean over test rows of the squared error summed over outputs.
        error: (n,) share of test rows whose largest prediction is not their label's (ties go to the first
            output); None for targets that are not of the form a + b·one-hot.
        loo: (n,) leave-one-out error of the first m rows, (1/m)·Σ_{i<m} |y_i − f_m^{(without i)}(x_i)|²,
            divided by the zero predictor's error on all training rows, (1/n)·Σ_{i<n} |y_i|², which makes it
            comparable with `loss`; None if not asked for.
        gcv: (n,) generalised cross-validation, m·|α|²/(tr(K_m + λI)⁻¹)², divided likewise; None likewise.
        ridge: λ as added to the diagonal, in the units of K.
        relative_ridge: λ divided by the mean diagonal of K (n rows).
        anchors: (a,) sample counts in steps of √2 down from n, increasing.
        squared_errors: (a, t) squared error of each test row at the anchors, summed over outputs.
        squared_targets: (t,) |y|² of each test row; a bootstrap over test rows forms `loss` from these two.
        replicates: curves on blocks of rows, this one first; see `replicates_at`.
        traffic: bytes that were moved, if the factor was larger than memory; else None.
    """

    samples: Counts
    loss: Matrix
    mse: Matrix
    error: Matrix | None
    loo: Matrix | None
    gcv: Matrix | None
    ridge: float
    relative_ridge: float
    anchors: Counts
    squared_errors: Matrix
    squared_targets: Matrix
    replicates: tuple[Replicate, ...]
    traffic: Traffic | None = None

    def replicates_at(self, m: int) -> tuple[Replicate, ...]:
        """Those whose first m rows are disjoint training sets: 2^j of them for n/2^(j+1) < m ≤ n/2^j."""
        return tuple(r for r in self.replicates if r.size >= m)


def learning_curve(
    K: npt.ArrayLike,
    y: npt.ArrayLike,
    K_test: npt.ArrayLike,
    y_test: npt.ArrayLike,
    ridge: float | str = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    *,
    ridge_grid: Sequence[float] | None = None,
    loo: bool = True,
    replicates: int = HALVINGS,
    anchors: Sequence[int] | None = None,
    labels_test: npt.ArrayLike | None = None,
    overwrite: bool = False,
    device: str | Device = "cpu",
) -> LearningCurve:
    """Kernel ridge regression (K_m + λI)⁻¹y_m on the first m rows, for every m = 1…n, from one factorisation.

    Args:
        K: (n, n) kernel of the training rows, float32 or float64, of NumPy, or of CuPy with device "cuda"; the arithmetic
            is float64.
        y: (n,) or (n, c) targets.
        K_test: (t, n) kernel of test rows with training rows.
        y_test: (t,) or (t, c) targets of the test rows; not all zero.
        ridge: λ, or "loo" or "gcv": chosen from `ridge_grid` on the training rows, never by test error.
        ridge_mode: "absolute" (default): λ is added to the diagonal as it is. "relative": times the mean
            of K's diagonal, over all n rows, so that every m and every replicate has the same λ.
        ridge_grid: candidates for "loo" and "gcv", relative to the mean diagonal (default 1e-10 to 10).
        loo: also the leave-one-out and GCV curves; twice the time.
        replicates: how many times the rows are halved for curves on disjoint training sets (n, n/2, n/4, …
            rows, not below 8); 0 for none. All halvings together cost 1/6 of the first factorisation, not
            1/3, because the first half of a block has the block's own curve.
        anchors: sample counts at which the squared errors of single test rows are kept; default n/√2^j.
        labels_test: (t,) right column of each test row; default: read from targets of the form a + b·one-hot.
        overwrite: K may be destroyed, which saves an n² array if it is C-contiguous float64.
        device: "cpu"; "cuda", the current NVIDIA GPU; "auto", the GPU if there is one whose memory suffices; or a `Device`.

    Memory: one n² float64 array beside K (none with overwrite=True), n²/4 while replicates are made, and
    twice n × 1,024 at most for a block of test rows. "loo" and "gcv" as ridge take three n² first, four if
    K is float32.

    Source: nested Cholesky factors; LOO and GCV: Golub, Heath and Wahba, Technometrics 21 (1979), 215–223.

    Raises:
        KernregError: shapes that do not match, entries that are not finite, asymmetric K, ridge out of range.
        NotPositiveDefiniteError: K + λI has no Cholesky factor; names pivot, row and a ridge that is enough.
    """
    chosen = device if not isinstance(device, str) else choose(device, _count(K, 0), _count(y, 1))
    A: Any = chosen.gram(K, overwrite)
    n = len(A)
    K_test = real_array(K_test, "K_test")
    y, y_test = targets(y, "y"), targets(y_test, "y_test")
    check_shapes(n, y, K_test, y_test)
    asked = question(y, y_test, labels_test, anchors, loo)
    blocks = [(0, n), *halves(n, replicates)]

    diagonal = A.diagonal().astype(np.float64)
    λ = absolute_ridge(A, y, ridge, ridge_mode, ridge_grid, chosen.ridge_path)
    L = chosen.factor(A, λ, overwrite)

    def errors(L: Any, z: Any, start: int) -> PrefixErrors:
        block, marks = K_test[:, start : start + len(L)], asked.anchors[asked.anchors <= len(L)]
        return chosen.errors(L, z, block, y_test, asked.labels, marks)

    z = chosen.forward(L, y)
    found = [errors(L, z, 0)]
    left_out = chosen.leave_one_out(L, z) if loo else None
    for start, size in blocks[1:]:
        rows = slice(start, start + size)
        block = L[rows, rows].copy()
        if pivot := chosen.factor_in_place(block, diagonal[rows] + λ):
            raise KernregError(f"rounding: row {start + pivot - 1} fails in a replicate; use a larger ridge")
        found.append(errors(block, chosen.forward(block, y[rows]), start))
    return _curve(asked, λ, diagonal, blocks, found, left_out)


def curve_from_store(
    store: GramStore,
    kernel: str | None = None,
    ridge: float | str = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    *,
    n: int | None = None,
    solver: TiledCholesky | None = None,
    device: str | Device = "cpu",
    **settings: Any,
) -> LearningCurve:
    """`learning_curve` of a Gram store, with the error rate by its labels, in memory or beyond it.

    Args:
        store: open; the tiles of the first n rows must be there.
        kernel: "nngp" or "ntk"; default: the NTK if the store has it.
        n: use the first n training rows only; default all.
        solver: how to factor by tiles on disk what exceeds `solver.memory`, by default three quarters of the machine's
            memory, or on a GPU `solver.device_memory`, by default what is free. The numbers are the same to rounding;
            with loo=True it takes twice the time and three times the reads. A ridge "loo" or "gcv" needs the matrix
            in memory.
        device: "cpu"; "cuda": the current GPU, or all GPUs and tiles on disk where its memory does not suffice; "auto":
            the GPU if its memory suffices, see `kernreg.placement`; or a `Device`, whose memory holds the matrix.
        settings: further keyword arguments of `learning_curve`.

    Memory: that of `learning_curve` with overwrite=True, which is K and K_test in float64 and K/4; at most
    `solver.memory`.

    Raises:
        KernregError: no test rows, no such kernel, tiles missing or damaged; and as `learning_curve`.
        NotPositiveDefiniteError: also says which row the failing one is a duplicate of, if it is.
    """
    if not store.t:
        raise KernregError("the Gram store has no test rows to measure a loss on; extend it by some")
    kernel = kernel or ("ntk" if "ntk" in store.kernels else store.kernels[0])
    solver = solver or TiledCholesky()
    if store.labels_test is not None and store.y_train.shape[1] > 1:
        settings.setdefault("labels_test", store.labels_test)
    where = place(store, solver, device, n)
    if where.solver is not None:
        gram = StoredGram(store, kernel, 0, n)
        return _tiled_curve(gram, ridge, ridge_mode, where.solver, where.why, **settings)
    device = where.device
    K, K_test = store.train(kernel, n, xp=device.xp), store.test(kernel, n)
    y = store.y_train[: len(K)]
    try:
        settings |= {"overwrite": True, "device": device}
        return learning_curve(K, y, K_test, store.y_test, ridge, ridge_mode, **settings)
    except NotPositiveDefiniteError as failure:
        if not (also := twin(store, failure.row)):
            raise
        raise NotPositiveDefiniteError(
            f"{failure}; {also}", failure.pivot, failure.row, failure.ridge
        ) from None


def _count(values: Any, axis: int) -> int:
    """Rows or columns of what is not checked yet."""
    shape = np.shape(values)
    return int(shape[axis]) if len(shape) > axis else 1


def _tiled_curve(
    gram: StoredGram,
    ridge: float | str,
    ridge_mode: RidgeMode,
    solver: TiledCholesky,
    why: str,
    *,
    ridge_grid: Sequence[float] | None = None,
    loo: bool = True,
    replicates: int = HALVINGS,
    anchors: Sequence[int] | None = None,
    labels_test: npt.ArrayLike | None = None,
) -> LearningCurve:
    if isinstance(ridge, str) or ridge_grid is not None:
        raise KernregError(
            f"a ridge chosen by {ridge} needs all eigenvalues, which only a matrix in memory gives, but {why}; "
            "use a number for --ridge, or more --memory"
        )
    y, y_test = targets(gram.store.y_train[: len(gram)], "y"), targets(gram.store.y_test, "y_test")
    asked = question(y, y_test, labels_test, anchors, loo)
    blocks = [(0, len(gram)), *halves(len(gram), replicates)]
    K = Stored.streamed(gram.store, gram.kernel, len(gram))
    diagonal = K.diagonal()
    gram.read_bytes += K.reader.bytes_read
    λ = ridge_in_units(diagonal, ridge, ridge_mode)
    found = sweep(gram, asked, λ, blocks, solver)
    return _curve(asked, λ, diagonal, blocks, found.errors, found.left_out, found.traffic)


def _curve(
    asked: Question,
    λ: float,
    diagonal: Matrix,
    blocks: Sequence[tuple[int, int]],
    found: Sequence[PrefixErrors],
    left_out: tuple[Matrix, Matrix] | None,
    traffic: Traffic | None = None,
) -> LearningCurve:
    squared_targets, t = np.square(asked.y_test).sum(axis=1), len(asked.y_test)
    replicates = tuple(
        Replicate(
            start=start,
            size=size,
            loss=errors.summed / squared_targets.sum(),
            mse=errors.summed / t,
            error=None if errors.mistakes is None else errors.mistakes / t,
            anchors=asked.anchors[asked.anchors <= size],
            squared_errors=errors.squared_errors,
        )
        for (start, size), errors in zip(blocks, found, strict=True)
    )
    whole, zero_error = replicates[0], float(np.square(asked.y).sum() / len(asked.y))
    loo, gcv = (None, None) if left_out is None else (v / zero_error for v in left_out)
    return LearningCurve(
        samples=whole.samples,
        loss=whole.loss,
        mse=whole.mse,
        error=whole.error,
        loo=loo,
        gcv=gcv,
        ridge=λ,
        relative_ridge=λ / float(diagonal.mean()) if diagonal.any() else np.inf,
        anchors=asked.anchors,
        squared_errors=whole.squared_errors,
        squared_targets=squared_targets,
        replicates=replicates,
        traffic=traffic,
    )
