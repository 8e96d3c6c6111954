"""Predictions K(test, train)·α: of the test rows of a store, streamed, or of new rows, whose kernel is computed tile by tile."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernreg.architecture import Architecture
from kernreg.cholesky import Matrix, all_finite
from kernreg.errors import KernregError
from kernreg.kernels import backends
from kernreg.provenance import Array
from kernreg.store import GramStore
from kernreg.streaming import BAND, TileReader
from kernreg.tiles import Tile, TileGrid


class DenseRows:
    """K(test, train) in memory, (t, n) float32 or float64."""

    def __init__(self, K: npt.NDArray[Any]) -> None:
        if K.ndim != 2 or not all_finite(K):
            raise KernregError(f"K_test must be (test rows, training rows) and finite; it is {K.shape}")
        self.K, self.t = K, len(K)

    def matmul(self, α: Matrix) -> Matrix:
        """(t, c) from (m, c): the first m training rows."""
        if len(α) > self.K.shape[1]:
            raise KernregError(f"K_test has {self.K.shape[1]} columns, for {len(α)} coefficients")
        bands = (self.K[a : a + BAND, : len(α)] for a in range(0, self.t, BAND))
        return np.concatenate([band.astype(np.float64, copy=False) @ α for band in bands])


class StoredRows:
    """K(test, train) of a Gram store, streamed tile by tile.

    Attributes:
        store, kernel, t: which rows.
    """

    def __init__(
        self,
        store: GramStore,
        kernel: str,
        n: int | None = None,
        t: int | None = None,
        memory: int | str | None = None,
    ) -> None:
        """The first t test rows with the first n training rows; `memory` as in `kernreg.operators.Stored`.

        Raises:
            KernregError: no test rows, no such kernel, tiles missing, or a budget below two tiles.
        """
        tiles = store.tiles("test", kernel, n, t)
        if not tiles:
            raise KernregError(
                f"{store.path} has no test rows; extend it by some (--test), or name new images"
            )
        self.store, self.kernel, self.t = store, kernel, store.t if t is None else t
        self._reader = TileReader(store, "test", kernel, tiles, memory)

    def matmul(self, α: Matrix) -> Matrix:
        """(t, c) from (m, c): the first m training rows."""
        out = np.zeros((self.t, α.shape[1]))

        def multiply(tile: Tile, block: Array) -> None:
            block = block[: self.t - tile.row_start, : len(α) - tile.column_start]
            coefficients = α[tile.column_start : tile.column_start + block.shape[1]]
            for a in range(0, len(block), BAND):
                band = block[a : a + BAND].astype(np.float64, copy=False)
                out[tile.row_start + a : tile.row_start + a + len(band)] += band @ coefficients
                del band  # before the next one is made

        self._reader.walk(self.store.tiles("test", self.kernel, len(α), self.t), multiply)
        return out


@dataclass(frozen=True, eq=False)
class ComputedRows:
    """K(z, x) of new rows z with training rows x, computed block by block and thrown away.

    Attributes:
        z, x: (t, …) and (n, …), scaled alike.
        architecture, kernel, backend, dtype: as in `kernreg.gram`.
        block: rows of a block.
    """

    z: Array
    x: Array
    architecture: Architecture
    kernel: str
    backend: str = "auto"
    dtype: str = "float64"
    block: int = 1024

    @property
    def t(self) -> int:
        return len(self.z)

    def matmul(self, α: Matrix) -> Matrix:
        """(t, c) from (m, c): the first m training rows. Raises KernregError where the kernel overflows."""
        settings = (self.architecture, self.kernel, self.backend, self.dtype)
        if (fused := backends.matmul(self.z, self.x[: len(α)], *settings, α)) is not None:
            return self._finite(fused)
        out = np.zeros((self.t, α.shape[1]))
        for tile in TileGrid.rectangle(self.t, len(α), self.block):
            with np.errstate(all="ignore"):  # what is not finite is refused below, with a remedy
                K = backends.compute(self.z[tile.rows], self.x[tile.columns], *settings)[self.kernel]
            out[tile.rows] += self._finite(K) @ α[tile.columns]
        return out

    def _finite(self, K: Array) -> Matrix:
        if not np.isfinite(K).all():
            raise KernregError(
                f"the {self.kernel} overflows {self.dtype} on these rows: rescale them as the training rows were"
            )
        return K.astype(np.float64, copy=False)


@dataclass(frozen=True)
class Errors:
    """How good predictions are.

    Attributes:
        loss: Σ|y − f|²/Σ|y|² over rows and outputs; 1 is the zero predictor, None if all targets are zero.
        mse: mean over rows of the squared error summed over outputs.
        error: share of rows whose largest prediction is not their label's; None without labels.
    """

    loss: float | None
    mse: float
    error: float | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def errors(f: Matrix, y: Matrix, labels: npt.NDArray[np.int64] | None = None) -> Errors:
    """Errors of predictions f (t, c) against targets y (t, c) and labels (t,)."""
    summed, energy = float(np.square(f - y).sum()), float(np.square(y).sum())
    wrong = None if labels is None else float(np.mean(f.argmax(axis=1) != labels))
    return Errors(summed / energy if energy else None, summed / len(y), wrong)
