"""Symmetric matrices known by their product K·V: in memory, streamed from a store, shifted, or never stored.

A solver that asks for products, a diagonal and a few columns never needs the matrix itself: n is bounded by the
disk with `Stored`, and by patience with `MatrixFree`. Products are float64 whatever the entries are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from kernreg.architecture import Architecture
from kernreg.cholesky import BLOCK, Matrix, check_gram
from kernreg.errors import KernregError
from kernreg.kernels import backends
from kernreg.plan import kernels_of
from kernreg.provenance import Array
from kernreg.store import GramStore
from kernreg.streaming import BAND, TileReader, add_products, streaming_bytes
from kernreg.tiles import Tile, TileGrid

Rows = npt.NDArray[np.int64]

FEW = 3  # columns up to which one gemv each is faster than OpenBLAS's gemm, by 2.6 for two
SQUARE = 32  # rows of the small blocks whose diagonal is K(x, x)


class Operator(Protocol):
    """A symmetric n×n matrix K."""

    @property
    def n(self) -> int: ...

    def matmul(self, V: Matrix) -> Matrix:
        """K·V: (n, c) float64 from (n, c) float64."""
        ...

    def __matmul__(self, V: Matrix) -> Matrix: ...

    def diagonal(self) -> Matrix:
        """(n,) float64."""
        ...

    def columns(self, rows: Rows) -> Matrix:
        """K[:, rows]: (n, r) float64."""
        ...


class Nested(Operator, Protocol):
    """An operator whose leading m×m block is one too."""

    def leading(self, m: int) -> Nested:
        """The operator of the first m rows."""
        ...


class Symmetric:
    """What the operators below share: @, and the checks of shapes."""

    n: int

    def matmul(self, V: Matrix) -> Matrix:
        raise NotImplementedError

    def __matmul__(self, V: Matrix) -> Matrix:
        return self.matmul(V)

    def _fitting(self, V: Matrix) -> Matrix:
        if V.ndim != 2 or len(V) != self.n:
            raise KernregError(f"an operator of {self.n} rows multiplies ({self.n}, c), not {V.shape}")
        return V

    def _require_leading(self, m: int) -> None:
        if not 1 <= m <= self.n:
            raise KernregError(f"the first {m} rows are asked for, the operator has {self.n}")


class Dense(Symmetric):
    """A matrix in memory, float32 or float64; of one that is symmetric up to rounding the upper triangle counts."""

    def __init__(self, K: npt.ArrayLike, *, checked: bool = False) -> None:
        """Take K (n, n). Raises KernregError unless it is finite and symmetric; `checked` says it is."""
        self.K: npt.NDArray[Any] = np.asarray(K) if checked else _exactly_symmetric(check_gram(K))
        self.n = len(self.K)

    def matmul(self, V: Matrix) -> Matrix:
        V = self._fitting(V)
        if self.K.dtype == np.float64:
            if V.shape[1] <= FEW:
                return np.column_stack([self.K @ v for v in V.T]) if V.size else np.zeros_like(V)
            return np.asarray(self.K @ V)
        out = np.empty((self.n, V.shape[1]))
        for a in range(0, self.n, BAND):
            out[a : a + BAND] = self.K[a : a + BAND].astype(np.float64) @ V
        return out

    def diagonal(self) -> Matrix:
        return np.asarray(self.K.diagonal().astype(np.float64))

    def columns(self, rows: Rows) -> Matrix:
        return np.asarray(self.K[:, rows].astype(np.float64))

    def leading(self, m: int) -> Dense:
        self._require_leading(m)
        return Dense(self.K[:m, :m], checked=True)


@dataclass(frozen=True, eq=False)
class Shifted:
    """K + ridge·I."""

    K: Operator
    ridge: float

    @property
    def n(self) -> int:
        return self.K.n

    def matmul(self, V: Matrix) -> Matrix:
        out = self.K.matmul(V)
        out += self.ridge * V
        return out

    def __matmul__(self, V: Matrix) -> Matrix:
        return self.matmul(V)

    def diagonal(self) -> Matrix:
        return self.K.diagonal() + self.ridge

    def columns(self, rows: Rows) -> Matrix:
        out = self.K.columns(rows)
        out[rows, np.arange(len(rows))] += self.ridge
        return out


class Stored(Symmetric):
    """K(train, train) of a Gram store, streamed tile by tile.

    Each tile of the triangle is read once a product and serves as K[i, j] and K[j, i]. Tiles that fit into the
    budget stay in memory, in the dtype of the store; the others are read again each time, the next one while the
    present one is multiplied.

    Attributes:
        store, kernel: where the tiles come from.
        reader: counts what was read (`tiles_read`, `bytes_read`) and what is kept (`bytes_kept`).
    """

    def __init__(
        self,
        store: GramStore,
        kernel: str | None = None,
        n: int | None = None,
        memory: int | str | None = None,
        prefetch: bool = True,
        *,
        reader: TileReader | None = None,
    ) -> None:
        """The first n rows (default: all) of one kernel (default: the NTK if it is there).

        Args:
            store: the tiles of the first n rows must be there.
            memory: most bytes of tiles, kept ones and the two in flight, or "4GiB"; None sets no bound.
            prefetch: read one tile ahead in a thread of its own.
            reader: that of another operator on the same store, to share what it keeps.

        Raises:
            KernregError: no such kernel, n out of range, tiles missing, or a budget below two tiles.
        """
        self.store = store
        self.kernel = kernel or ("ntk" if "ntk" in store.kernels else store.kernels[0])
        self.tiles = store.tiles("train", self.kernel, n)
        self.n = store.n if n is None else n
        self.reader = reader or TileReader(store, "train", self.kernel, self.tiles, memory, prefetch)
        self._diagonal: Matrix | None = None

    @classmethod
    def streamed(cls, store: GramStore, kernel: str, n: int | None = None) -> Stored:
        """One that keeps no tile and reads none ahead, in the least memory that there can be."""
        least = streaming_bytes(store, store.tiles("train", kernel, n), prefetch=False)
        return cls(store, kernel, n, least, prefetch=False)

    def matmul(self, V: Matrix) -> Matrix:
        V = self._fitting(V)
        out = np.zeros((self.n, V.shape[1]))

        def multiply(tile: Tile, block: Array) -> None:
            block = self._inside(tile, block)
            rows = slice(tile.row_start, tile.row_start + len(block))
            columns = slice(tile.column_start, tile.column_start + block.shape[1])
            add_products(block, tile.diagonal, V[rows], V[columns], out[rows], out[columns])

        self.reader.walk(self.tiles, multiply)
        return out

    def diagonal(self) -> Matrix:
        if self._diagonal is None:
            values = np.empty(self.n)

            def copy(tile: Tile, block: Array) -> None:
                block = self._inside(tile, block)
                values[tile.row_start : tile.row_start + len(block)] = block.diagonal()

            self.reader.walk([tile for tile in self.tiles if tile.diagonal], copy)
            self._diagonal = values
        return self._diagonal.copy()

    def columns(self, rows: Rows) -> Matrix:
        rows = np.asarray(rows, dtype=np.int64)
        out = np.empty((self.n, len(rows)))

        def within(start: int, stop: int) -> Rows:
            return np.flatnonzero((rows >= start) & (rows < stop))

        def copy(tile: Tile, block: Array) -> None:
            block = self._inside(tile, block)
            (height, width), (top, left) = block.shape, (tile.row_start, tile.column_start)
            at = within(left, left + width)
            out[top : top + height, at] = block[:, rows[at] - left]
            if not tile.diagonal:
                at = within(top, top + height)
                out[left : left + width, at] = block[rows[at] - top].T

        def touched(tile: Tile) -> bool:
            return bool(
                within(tile.row_start, tile.row_stop).size or within(tile.column_start, tile.column_stop).size
            )

        self.reader.walk([tile for tile in self.tiles if touched(tile)], copy)
        return out

    def leading(self, m: int) -> Stored:
        self._require_leading(m)
        return Stored(self.store, self.kernel, m, reader=self.reader)

    def _inside(self, tile: Tile, block: Array) -> Array:
        return block[: self.n - tile.row_start, : self.n - tile.column_start]


class MatrixFree(Symmetric):
    """K(x, x) computed anew block by block in every product, and never stored.

    A product costs n²/2 kernel values and n·c numbers of memory, and goes to the backend as a whole where that multiplies
    its own tiles: for a fully connected network, whose kernel is a
    BLAS product with an epilogue, recomputing beats reading from most disks, and n may pass what a disk holds.
    """

    def __init__(
        self,
        x: Array,
        architecture: Architecture,
        kernel: str = "ntk",
        backend: str = "auto",
        dtype: str = "float64",
        block: int = 1024,
    ) -> None:
        """The kernel of rows x, (n, H, W, C) or (n, d), under an architecture.

        Args:
            kernel: "nngp" or "ntk".
            backend, dtype: as in `kernreg.gram`; the sums of a product are float64 whatever the dtype is.
            block: rows of a block, whose values take 8·block² bytes a few times over.

        Raises:
            KernregError: rows that are not finite or do not fit the network, or an unknown name.
            NotImplementedError: a layer that the backend does not cover, by name.
        """
        if len(kernels_of(kernel)) != 1:
            raise KernregError(f"one kernel has a product: use ntk or nngp, not {kernel!r}")
        backends.covers(backends.resolve(backend), architecture, x.shape[1:])
        if not len(x) or not np.isfinite(x).all():
            raise KernregError("x must hold at least one row, and no NaN or infinity")
        self.x, self.architecture, self.kernel = x, architecture, kernel
        self.backend, self.dtype, self.block = backends.resolve(backend), dtype, block
        self.n = len(x)

    def matmul(self, V: Matrix) -> Matrix:
        V = self._fitting(V)
        settings = (self.architecture, self.kernel, self.backend, self.dtype)
        if (fused := backends.matmul(self.x, None, *settings, V)) is not None:
            return self._finite(fused)
        out = np.zeros((self.n, V.shape[1]))
        for tile in TileGrid.triangle(self.n, self.block):
            K = self._values(self.x[tile.rows], None if tile.diagonal else self.x[tile.columns])
            out[tile.rows] += K @ V[tile.columns]
            if not tile.diagonal:
                out[tile.columns] += K.T @ V[tile.rows]
        return out

    def diagonal(self) -> Matrix:
        blocks = (self.x[a : a + SQUARE] for a in range(0, self.n, SQUARE))
        return np.concatenate([self._values(x, None).diagonal() for x in blocks])

    def columns(self, rows: Rows) -> Matrix:
        out = np.empty((self.n, len(rows)))
        for a in range(0, self.n if len(rows) else 0, self.block):
            out[a : a + self.block] = self._values(self.x[a : a + self.block], self.x[rows])
        return out

    def leading(self, m: int) -> Self:
        self._require_leading(m)
        settings = (self.architecture, self.kernel, self.backend, self.dtype, self.block)
        return type(self)(self.x[:m], *settings)

    def _values(self, x: Array, z: Array | None) -> Matrix:
        with np.errstate(all="ignore"):  # what is not finite is refused below, with a remedy
            computed = backends.compute(x, z, self.architecture, self.kernel, self.backend, self.dtype)
        return self._finite(computed[self.kernel])

    def _finite(self, K: Array) -> Matrix:
        if not np.isfinite(K).all():
            raise KernregError(
                f"the {self.kernel} overflows {self.dtype} on these rows: rescale them, or use dtype='float64'"
            )
        return K.astype(np.float64, copy=False)


def _exactly_symmetric(K: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """K, or a copy with the upper triangle in both where float32 arithmetic left the two different."""
    starts = range(0, len(K), BLOCK)
    if all(np.array_equal(K[a : a + BLOCK, a:], K[a:, a : a + BLOCK].T) for a in starts):
        return K
    return np.asarray(np.triu(K) + np.triu(K, 1).T)
