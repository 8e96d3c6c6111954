"""A whole learning curve from one Cholesky factorisation.

Fix one order of the training rows; m samples means the first m. Every m = 1…n is solved exactly
(`kernreg.prefix`); curves on further, disjoint training sets come from diagonal blocks of the same Gram.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kernreg.cholesky import Matrix, check_gram, factor, factor_in_place, forward, invert, real_array
from kernreg.errors import KernregError
from kernreg.prefix import PrefixErrors, prefix_errors, prefix_leave_one_out
from kernreg.ridge import RidgeMode, absolute_ridge
from kernreg.targets import Counts, check_shapes, given_labels, inferred_labels, targets

if TYPE_CHECKING:
    from kernreg.store import GramStore

HALVINGS = 4
SMALLEST_REPLICATE = 8


@dataclass(frozen=True, eq=False)
class Replicate:
    """The curve of one block of consecutive training rows; m samples means its first m.

    Attributes:
        start, size: its rows are start…start+size−1.
        loss, mse: (size,) as in `LearningCurve`.
        error: (size,) error rate, or None.
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
        """(size,) 1, 2, … size."""
        return np.arange(1, self.size + 1)


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Errors at every sample count m = 1…n, float64.

    Attributes:
        samples: (n,) 1, 2, … n.
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
) -> LearningCurve:
    """Kernel ridge regression (K_m + λI)⁻¹y_m on the first m rows, for every m = 1…n, from one factorisation.

    Args:
        K: (n, n) kernel of the training rows, float32 or float64; the arithmetic is float64.
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

    Memory: one n² float64 array beside K (none with overwrite=True), n²/4 while replicates are made, and
    twice n × 1,024 at most for a block of test rows. "loo" and "gcv" as ridge take three n² first, four if
    K is float32.

    Source: nested Cholesky factors; LOO and GCV: Golub, Heath and Wahba, Technometrics 21 (1979), 215–223.

    Raises:
        KernregError: shapes that do not match, entries that are not finite, asymmetric K, ridge out of range.
        NotPositiveDefiniteError: K + λI has no Cholesky factor; names pivot, row and a ridge that is enough.
    """
    K = check_gram(K)
    n = len(K)
    K_test = real_array(K_test, "K_test")
    y, y_test = targets(y, "y"), targets(y_test, "y_test")
    check_shapes(n, y, K_test, y_test)
    labels = inferred_labels(y, y_test) if labels_test is None else given_labels(labels_test, y_test)
    marks = _anchors(n, anchors)
    squared_targets = np.square(y_test).sum(axis=1)
    if not squared_targets.any():
        raise KernregError("y_test is zero everywhere, so the loss has nothing to be normalised by")
    zero_error = float(np.square(y).sum() / n)
    if loo and not zero_error:
        raise KernregError("y is zero everywhere, so loo has nothing to be normalised by; use loo=False")
    if not isinstance(replicates, int) or replicates < 0:
        raise KernregError(f"replicates must be a whole number of halvings ≥ 0, not {replicates!r}")

    diagonal = K.diagonal().astype(np.float64)
    λ = absolute_ridge(K, y, ridge, ridge_mode, ridge_grid)
    L = factor(K, λ, overwrite=overwrite)
    z = forward(L, y)

    def replicate(L: Matrix, z: Matrix, start: int) -> Replicate:
        size = len(L)
        block, at = K_test[:, start : start + size], marks[marks <= size]
        return _replicate(start, prefix_errors(L, z, block, y_test, labels, at), at, squared_targets)

    whole = replicate(L, z, 0)
    left_out = generalised = None
    if loo:
        left_out, generalised = (v / zero_error for v in prefix_leave_one_out(invert(L), z))
    rest = []
    for start, size in _odd_blocks(n, replicates):
        rows = slice(start, start + size)
        block = L[rows, rows].copy()
        if pivot := factor_in_place(block, diagonal[rows] + λ):
            raise KernregError(f"rounding: row {start + pivot - 1} fails in a replicate; use a larger ridge")
        rest.append(replicate(block, forward(block, y[rows]), start))
    return LearningCurve(
        samples=whole.samples,
        loss=whole.loss,
        mse=whole.mse,
        error=whole.error,
        loo=left_out,
        gcv=generalised,
        ridge=λ,
        relative_ridge=λ / float(diagonal.mean()) if diagonal.any() else np.inf,
        anchors=marks,
        squared_errors=whole.squared_errors,
        squared_targets=squared_targets,
        replicates=(whole, *rest),
    )


def curve_from_store(
    store: GramStore,
    kernel: str | None = None,
    ridge: float | str = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    *,
    n: int | None = None,
    **settings: Any,
) -> LearningCurve:
    """`learning_curve` of a Gram store, with the error rate by its labels.

    Args:
        store: open; the tiles of the first n rows must be there.
        kernel: "nngp" or "ntk"; default: the NTK if the store has it.
        n: use the first n training rows only; default all.
        settings: further keyword arguments of `learning_curve`.

    Memory: that of `learning_curve` with overwrite=True, which is K and K_test in float64 and K/4.

    Raises:
        KernregError: no test rows, no such kernel, tiles missing or damaged; and as `learning_curve`.
    """
    if not store.t:
        raise KernregError("the Gram store has no test rows to measure a loss on; extend it by some")
    kernel = kernel or ("ntk" if "ntk" in store.kernels else store.kernels[0])
    K, K_test = store.train(kernel, n), store.test(kernel, n)
    y = store.y_train[: len(K)]
    if store.labels_test is not None and y.shape[1] > 1:
        settings.setdefault("labels_test", store.labels_test)
    return learning_curve(K, y, K_test, store.y_test, ridge, ridge_mode, overwrite=True, **settings)


def _replicate(start: int, errors: PrefixErrors, anchors: Counts, squared_targets: Matrix) -> Replicate:
    t = len(squared_targets)
    return Replicate(
        start=start,
        size=len(errors.summed),
        loss=errors.summed / squared_targets.sum(),
        mse=errors.summed / t,
        error=None if errors.mistakes is None else errors.mistakes / t,
        anchors=anchors,
        squared_errors=errors.squared_errors,
    )


def _odd_blocks(n: int, halvings: int) -> list[tuple[int, int]]:
    """(start, size) of every second half; a first half has the curve of the block it begins."""
    starts, blocks = [0], []
    for halving in range(1, halvings + 1):
        size = n >> halving
        if size < SMALLEST_REPLICATE:
            break
        seconds = [start + size for start in starts]
        blocks += [(start, size) for start in seconds]
        starts = sorted(starts + seconds)
    return blocks


def _anchors(n: int, given: Sequence[int] | None) -> Counts:
    if given is None:
        return np.unique([max(1, int(n / 2 ** (j / 2))) for j in range(2 * n.bit_length())]).astype(np.int64)
    marks = np.unique(np.asarray(given))
    if marks.dtype.kind not in "iu" or not marks.size or marks[0] < 1 or marks[-1] > n:
        raise KernregError(f"anchors must be whole numbers in 1…{n}")
    return marks.astype(np.int64)
