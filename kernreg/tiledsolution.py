"""(K + λI)⁻¹Y from a factor on disk, refined by residuals in float64 that are measured on the store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kernreg.cholesky import Matrix
from kernreg.errors import KernregError
from kernreg.operators import Shifted, Stored
from kernreg.store import GramStore
from kernreg.storedgram import StoredGram
from kernreg.targets import targets
from kernreg.tiled import TiledCholesky, Traffic, factored
from kernreg.tiledfactor import TiledFactor

Inverse: TypeAlias = Callable[[Matrix], Matrix]

REFINEMENTS = 20
COPIES = (
    6  # of right-hand sides: themselves, solution, residual, correction, product, and in the factor's dtype
)


@dataclass(frozen=True, eq=False)
class TiledSolution:
    """What `tiled_solve` found.

    Attributes:
        value: (n, c) float64, (K + λI)⁻¹Y.
        residual: (c,) |Y − (K + λI)·value|/|Y| in float64, per column (0 for a column of zeros).
        refinements: how often the value was corrected by its residual.
        traffic: bytes moved.
    """

    value: Matrix
    residual: Matrix
    refinements: int
    traffic: Traffic


class RefinementError(KernregError):
    """The residual of a float32 factor stays above the tolerance.

    Attributes:
        found: how far it came.
    """

    def __init__(self, message: str, found: TiledSolution) -> None:
        super().__init__(message)
        self.found = found


def tiled_solve(
    store: GramStore,
    kernel: str,
    λ: float,
    solver: TiledCholesky,
    Y: npt.ArrayLike | None = None,
    n: int | None = None,
    rtol: float = 1e-10,
    measure: Callable[[Inverse], object] | None = None,
    columns: int = 0,
) -> TiledSolution:
    """(K + λI)⁻¹Y of the first n rows of a store, with the residual measured in float64 on the store.

    The value is refined, v ← v + (L·Lᵀ)⁻¹(Y − (K + λI)v), until the residual is at most rtol or ceases to
    halve (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 12); that is what gives a
    float32 factor float64 accuracy. Each residual reads the store once, each correction the factor twice.

    Args:
        store, kernel, λ, solver, n: as in `tiled_factor`.
        Y: (n, c) right-hand sides; default the store's targets.
        rtol: of |Y − (K + λI)v|/|Y|, per column.
        measure: called with (n, k) ↦ (K + λI)⁻¹·(n, k), refined likewise as far as it goes, while
            the factor is there.
        columns: the largest k that it asks for.

    Raises:
        RefinementError: the refinement of a float32 factor stops above rtol.
        KernregError: as `tiled_factor`.
    """
    gram = StoredGram(store, kernel, 0, n)
    right = targets(store.y_train[: len(gram)] if Y is None else Y, "Y")
    if len(right) != len(gram):
        raise KernregError(f"Y has {len(right)} rows, K has {len(gram)}")
    K = Stored.streamed(store, kernel, len(gram))
    A = Shifted(K, λ)
    others = 8 * len(gram) * COPIES * max(right.shape[1], columns) + K.reader.least_bytes

    def solution(factor: TiledFactor, B: Matrix) -> TiledSolution:
        scale = np.sqrt(np.square(B).sum(axis=0))
        scale[scale == 0] = 1.0

        def residual_of(value: Matrix) -> tuple[Matrix, Matrix]:
            rest = B - A @ value
            return rest, np.sqrt(np.square(rest).sum(axis=0)) / scale

        value = factor.solve(B)
        if not np.isfinite(value).all():  # the factor overflows its dtype
            value = np.zeros_like(B)
        rest, residual = residual_of(value)
        refinements = 0
        while residual.max() > rtol and refinements < REFINEMENTS:
            better = value + factor.solve(rest)
            rest, now = residual_of(better)
            if not now.max() <= residual.max() / 2:
                break
            value, residual, refinements = better, now, refinements + 1
        scratch = factor.scratch
        read = gram.read_bytes + K.reader.bytes_read
        traffic = Traffic(scratch.read_bytes, scratch.written_bytes, read, factor.blocks)
        return TiledSolution(value, residual, refinements, traffic)

    def remove(factor: TiledFactor) -> None:
        if not solver.keep_factor:
            shutil.rmtree(factor.scratch.folder.parent, ignore_errors=True)

    with factored(gram, λ, solver, others) as factor:
        try:
            found = solution(factor, right)
            if solver.dtype == "float32" and not found.residual.max() <= rtol:
                raise RefinementError(
                    f"refinement of the float32 factor stopped at a residual of {found.residual.max():.1e} after "
                    f"{found.refinements} steps, {rtol:.1e} was asked for: use a float64 factor (--factor-dtype float64), "
                    "or a larger ridge or rtol",
                    found,
                )
            if measure is not None:
                measure(lambda B: solution(factor, B).value)
        except RefinementError:
            remove(factor)
            raise
    remove(factor)
    return found
