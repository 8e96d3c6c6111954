"""K + λI = L·Lᵀ out of core: a left-looking tiled factorisation, one panel of rows in memory at a time.

Panel X holds rows r…r+b−1 of K. For its column blocks J = 0, 1, … in turn

    X_J ← X_J − Σ_{k<J} X_k·L[J,k]ᵀ,     X_J ← X_J·L[J,J]⁻ᵀ

where the tiles of L come from disk for the rows above r and are the panel's own from r on; there L[J,J] is the
factor of X_J's own rows. What is finished goes to disk while the next block is made. Test rows are rows of the
same border: for X = K(test, train) the first half of this gives Vᵀ = (L⁻¹K(train, test))ᵀ, for X = I it gives
L⁻ᵀ, for X = Yᵀ it gives (L⁻¹Y)ᵀ.

Source: Golub and Van Loan, Matrix Computations, 4th ed., 4.2 (the left-looking form). Costs: `kernreg.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kernreg.cholesky import EPS, Matrix
from kernreg.errors import KernregError
from kernreg.panel import Arrival, Panel
from kernreg.progress import Meter
from kernreg.scratch import Scratch
from kernreg.tileblas import Arithmetic, Blas


class Rows(Protocol):
    """What is read of K: fills a panel with its rows top… up to the diagonal, see `StoredGram.train`."""

    def train(self, top: int, panel: Panel) -> Iterator[int]: ...


class PivotError(KernregError):
    """No positive pivot.

    Attributes:
        row: of K, counting from 0.
    """

    def __init__(self, row: int) -> None:
        super().__init__(f"pivot {row + 1} (counting from 1; row {row} counting from 0) is not positive")
        self.row = row


class TiledFactor:
    """L on disk, and z = L⁻¹y in memory. Used in a `with` statement, which closes the files.

    Attributes:
        scratch, blocks: its files and its cut.
        z: (n, c) float64; complete once `make` is.
    """

    def __init__(self, scratch: Scratch, device: Arithmetic | None = None) -> None:
        """`device` computes the tiles of L, of scratch.dtype; the default is the host's BLAS."""
        self.scratch, self.blocks, self._host = scratch, scratch.blocks, Blas(scratch.dtype.name)
        self._device = device or self._host
        if device is not None:
            scratch.use_memory(device.empty)
        self.z = np.zeros((self.blocks.n, scratch.outputs))
        self._loader = ThreadPoolExecutor(1, "load")
        self._memory: npt.NDArray[Any] = np.empty(0, scratch.dtype)

    @classmethod
    def open(cls, folder: Path) -> TiledFactor:
        """A finished factor, every byte of it verified.

        Raises:
            KernregError: there is none, it is not finished, or it is damaged.
        """
        factor = cls(Scratch.open(folder))
        try:
            for p, (top, bottom) in enumerate(factor.blocks.panels):
                if not factor.scratch.has(p):
                    raise KernregError(
                        f"the factor in {folder} is not finished; run the command that began it"
                    )
                factor.z[top:bottom] = factor.scratch.adopt(p)
        except BaseException:
            factor.close()
            raise
        return factor

    def make(self, K: Rows, y: Matrix, λ: float, meter: Meter) -> None:
        """Every panel that is not finished yet.

        Raises:
            PivotError: a pivot is not positive, or (float64) at most n·ε times its diagonal entry.
            KernregError: the store or the disk refuses; finished panels are kept.
        """
        self._reserve(min(self.blocks.panel, self.blocks.n) * self.blocks.n)
        for p, (top, bottom) in enumerate(self.blocks.panels):
            if self.scratch.has(p):
                self.z[top:bottom] = self.scratch.adopt(p)
                meter.skip(self.work_of_panel(top, bottom))
                continue
            panel = self.panel(bottom - top, bottom)
            self.scratch.create(p)
            arrival = Arrival(self._loader, K.train(top, panel))
            try:
                self._make_panel(p, panel, arrival, λ, meter)
            finally:
                arrival.stop()
            self.z[top:bottom] = y[top:bottom]
            self._substitute_own(panel, top)
            self.scratch.finish(p, self.z[top:bottom])
        self.scratch.drain()

    def panel(self, rows: int, columns: int | None = None) -> Panel:
        """An uninitialised panel of `rows` rows; there is one place for panels, so one at a time."""
        edges = self.blocks.edges if columns is None else self.blocks.edges[: self._block(columns) + 1]
        self._reserve(rows * edges[-1])
        return Panel(self._memory, rows, edges)

    def substitute(
        self,
        panel: Panel,
        fill: Iterator[int],
        done: Callable[[int, npt.NDArray[Any]], object] = lambda J, block: None,
        first: int = 0,
    ) -> None:
        """X ← X·L⁻ᵀ for a panel that `fill` fills, zero before column block `first`; calls done(J, X_J)."""
        arrival = Arrival(self._loader, fill)
        try:
            self._finish(panel, arrival, done, first, len(panel))
        finally:
            arrival.stop()

    def solve(self, B: npt.ArrayLike) -> Matrix:
        """(L·Lᵀ)⁻¹B in the factor's dtype, as float64; B (n, c) is left alone. Reads the factor twice."""
        right = np.asarray(B, dtype=self.scratch.dtype)
        if right.ndim != 2 or len(right) != self.blocks.n:
            raise KernregError(f"B must be ({self.blocks.n}, c), not {right.shape}")
        solution = np.empty(right.shape)
        for start, stop in self.blocks.strips(right.shape[1]):
            panel = self.panel(stop - start)
            panel.put(right[:, start:stop], 0, 0, transposed=True)
            self.substitute(panel, iter((len(panel),)))
            self._substitute_back(panel)
            for J, (left, behind) in enumerate(zip(panel.edges, panel.edges[1:], strict=False)):
                solution[left:behind, start:stop] = panel[J].T
        return solution

    def work(self, rows: int, J: int, first: int = 0) -> int:
        """Operations that column block J of a panel costs, if the panel begins at block `first`."""
        e, origin = self.blocks.edges, self.blocks.edges[first]
        return rows * ((e[J + 1] - origin) ** 2 - (e[J] - origin) ** 2)

    def work_of_panel(self, top: int, bottom: int) -> int:
        """Operations that rows top…bottom−1 of L cost."""
        e = self.blocks.edges
        return sum(self.work(bottom - max(top, e[J]), J) for J in range(self._block(bottom)))

    def close(self) -> None:
        """End the threads, close the files, give the panel back."""
        self._loader.shutdown()
        self._device.close()
        self.scratch.close()
        self._memory = np.empty(0, self.scratch.dtype)

    def __enter__(self) -> TiledFactor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _block(self, edge: int) -> int:
        """The column block that begins at an edge."""
        return self.blocks.edges.index(edge)

    def _reserve(self, numbers: int) -> None:
        if numbers > self._memory.size:
            self._memory = np.empty(0, self.scratch.dtype)  # first, so that never both are there
            self._memory = self._device.empty(numbers)

    def _make_panel(self, p: int, panel: Panel, arrival: Arrival, λ: float, meter: Meter) -> None:
        def finished(J: int, block: npt.NDArray[Any]) -> None:
            self.scratch.put(p, J, block)
            meter.advance(self.work(len(block), J))

        self._finish(panel, arrival, finished, 0, self._block(self.blocks.panels[p][0]), λ)

    def _finish(
        self,
        panel: Panel,
        arrival: Arrival,
        done: Callable[[int, npt.NDArray[Any]], object],
        first: int,
        above: int,
        λ: float = 0.0,
    ) -> None:
        """Column blocks first… of X·L⁻ᵀ, each handed to `done` while the next one is in work.

        The rows of L before block `above` are on disk; from there on they are the panel's own.
        """
        device, e = self._device, panel.edges
        held: list[Any] = []
        given: list[tuple[int, npt.NDArray[Any]]] = []

        def deliver() -> None:
            if given:
                device.settle()
                done(*given.pop())

        device.begin()
        places = ((J, k) for J in range(first, above) for k in range(first, J + 1))
        with closing(self.scratch.tiles(places)) as tiles:
            for J in range(first, len(panel)):
                arrival.wait(J)
                hidden = max(e[J] - e[above], 0)
                height = e[J + 1] - e[J]
                block, below = panel[J][hidden:], hidden + height
                if J >= above:
                    pivots = np.einsum("ii->i", block[:height])
                    pivots += λ
                    diagonal = pivots.copy()
                X = device.take(block, hidden)
                for k, Y in enumerate(held, first):
                    if k == J - 1:
                        deliver()
                    if J < above:
                        device.subtract_product(X, Y, device.bring(next(tiles)))
                        continue
                    tile = device.bring(panel[k][hidden:below])
                    device.subtract_square(X[:height], tile)
                    device.subtract_product(X[height:], Y[below - max(e[k] - e[above], 0) :], tile)
                if J < above:
                    device.divide(X, device.bring(next(tiles)))
                    device.give(X, block)
                else:
                    self._divide_own(X, block, e[J], diagonal)
                held.append(X)
                given.append((J, block))
                if device is self._host:  # there it is at once
                    deliver()
            deliver()

    def _divide_own(self, X: Any, block: npt.NDArray[Any], row: int, diagonal: Matrix) -> None:
        """L of the corner that `block` begins with at this row, and the rows below it divided by that."""
        device, height = self._device, block.shape[1]
        corner, X, below = block[:height], X[:height], X[height:]
        if pivot := device.factor(X):
            raise PivotError(row + pivot - 1)
        device.give(X, corner)
        device.settle()
        for i in range(height):
            corner[i, i + 1 :] = 0
        lost = np.square(corner.diagonal()) <= self.blocks.n * EPS * diagonal
        if self.scratch.dtype == np.float64 and lost.any():
            raise PivotError(row + int(lost.argmax()))
        device.divide(below, device.bring(corner))
        device.give(below, block[height:])

    def _substitute_own(self, panel: Panel, top: int) -> None:
        """z of the panel's rows, which hold y, from the finished panel and the z above it."""
        edges = panel.edges
        own = self.z[top : top + panel.rows]
        for k in range(len(panel)):
            start, stop = edges[k], edges[k + 1]
            if start < top:
                own -= panel[k] @ self.z[start:stop]
                continue
            X, z = panel[k], self.z[start:stop]
            turned = np.ascontiguousarray(z.T, dtype=self.scratch.dtype)
            self._host.divide(turned, X[start - top : stop - top])
            z[...] = turned.T
            own[stop - top :] -= X[stop - top :] @ z

    def _substitute_back(self, panel: Panel) -> None:
        """X ← X·L⁻¹."""
        places = ((J, k) for J in reversed(range(len(panel))) for k in (J, *range(J)))
        device = self._device
        device.begin()
        held = [device.take(panel[k]) for k in range(len(panel))]
        with closing(self.scratch.tiles(places)) as tiles:
            for J in reversed(range(len(panel))):
                device.divide(held[J], device.bring(next(tiles)), transposed=False)
                for k in range(J):
                    device.subtract_plain_product(held[k], held[J], device.bring(next(tiles)))
                device.give(held[J], panel[J])
        device.settle()
