"""A learning curve at every m from a factor on disk: test rows, and rows of I, go through the same sweep.

A panel of test rows becomes Vᵀ = (L⁻¹K(train, test))ᵀ column block by column block; with z = L⁻¹y the running
predictions of `kernreg.prefix` advance by each block as soon as it is there. A panel of rows of I becomes L⁻ᵀ in
the same way, which is what leave-one-out needs. Finished panels leave small files, so that all of it resumes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kernreg.archive import read_archive, write_archive
from kernreg.blocks import TILES, Blocks
from kernreg.cholesky import Matrix
from kernreg.errors import KernregError, reason
from kernreg.panel import Panel
from kernreg.prefix import (
    BLOCK_ROWS,
    LeftOut,
    Predictions,
    PrefixErrors,
    cached_blocks,
    cross_validation,
    no_errors,
)
from kernreg.progress import Meter
from kernreg.provenance import checksum, text_checksum
from kernreg.question import Question
from kernreg.storedgram import StoredGram
from kernreg.targets import Counts
from kernreg.tiled import TiledCholesky, Traffic, Work, working
from kernreg.tiledfactor import PivotError, TiledFactor

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Sweep:
    """What it found.

    Attributes:
        errors: for each block of rows, as asked for.
        left_out: loo and gcv (n,) of the first block, not normalised; None if not wanted.
        traffic: of all blocks, with the cut of the first.
    """

    errors: tuple[PrefixErrors, ...]
    left_out: tuple[Matrix, Matrix] | None
    traffic: Traffic


def sweep(
    gram: StoredGram, question: Question, λ: float, parts: Sequence[tuple[int, int]], solver: TiledCholesky
) -> Sweep:
    """The curves of blocks of rows, each from its own factor.

    Args:
        gram: all training rows, and the test rows.
        question: what to measure.
        λ: absolute.
        parts: (start, size) of each block, all rows first.
        solver: float64.

    Raises:
        NotPositiveDefiniteError: as `kernreg.tiled.tiled_factor`.
        KernregError: memory or disk do not suffice; or the solver is float32.
    """
    if solver.dtype != "float64":
        raise KernregError("a learning curve needs a float64 factor: float32 refines solutions only")
    n, t = len(gram), len(question.y_test)
    # Leave-one-out takes n³/3, and more for the corners of its panels.
    total = sum(size**3 // 3 + t * size**2 for _, size in parts) + question.loo * n**3 // 2
    with (
        working(gram, question.y, λ, solver) as work,
        Meter(0, total, solver.progress, "FLOP", "curve") as meter,
    ):
        found = [_Part(work, question, start, start + size, meter).measured() for start, size in parts]
    errors, sums, traffic = zip(*found, strict=True)
    moved = Traffic(
        sum(part.factor_read for part in traffic),
        sum(part.factor_written for part in traffic),
        gram.read_bytes,
        traffic[0].blocks,
        work.folder,
    )
    return Sweep(errors, None if sums[0] is None else cross_validation(sums[0]), moved)


class _Part:
    """One block of rows of a sweep: its factor, and what the test rows and the rows of I become in it."""

    def __init__(self, work: Work, question: Question, start: int, stop: int, meter: Meter) -> None:
        self._work, self._start, self._stop, self._meter = work, start, stop, meter
        self._gram = work.gram.part(start, stop)
        self._q, self._n = question, stop - start
        self._anchors = question.anchors[question.anchors <= self._n]
        self._loo = question.loo and self._n == len(work.gram)
        asked = (question.y_test, question.labels, self._anchors)
        told = [None if array is None else checksum(array) for array in asked]
        self._name = text_checksum(repr([told, self._loo, self._gram.test_digest()]))[:12]
        self._moved = (0, 0)

    def measured(self) -> tuple[PrefixErrors, Matrix | None, Traffic]:
        """The errors, the sums of `LeftOut` or None, what was moved; from an earlier run if that got so far."""
        result = self._work.folder / f"curve-{self._start}-{self._stop}-{self._name}.npz"
        if not result.exists():
            with self._factor() as factor:
                errors = self._errors(factor)
                sums = self._sums(factor) if self._loo else None
                scratch = factor.scratch
                self._moved = (scratch.read_bytes, scratch.written_bytes)
                cut = np.array([factor.blocks.tile, factor.blocks.panel])
            _save(result, {**_arrays(errors), "cut": cut, **({} if sums is None else {"sums": sums})})
        self._work.gram.read_bytes += self._gram.read_bytes
        place = self._work.place(self._start, self._stop)
        if not (self._n == len(self._work.gram) and self._work.solver.keep_factor):
            shutil.rmtree(place, ignore_errors=True)
        arrays = _load(result)
        traffic = Traffic(*self._moved, self._gram.read_bytes, Blocks(self._n, *arrays["cut"].tolist()))
        return _errors_of(arrays), arrays.get("sums"), traffic

    def _factor(self) -> TiledFactor:
        t, c = self._q.y_test.shape
        sums = 8 * self._n * (8 if self._loo else 4)
        kept = 8 * t * (2 * len(self._anchors) + 4 * c)
        others = sums + kept + 8 * TILES[0] * min(BLOCK_ROWS[1], max(t, self._n))
        try:
            return self._work.factor(self._start, self._stop, self._meter, others)
        except PivotError as failure:
            if self._n == len(self._work.gram):
                raise
            row = self._start + failure.row
            raise KernregError(f"rounding: row {row} fails in a replicate; use a larger ridge") from None

    def _errors(self, factor: TiledFactor) -> PrefixErrors:
        q, (t, c) = self._q, self._q.y_test.shape
        errors = no_errors(self._n, t, q.labels is not None, self._anchors)
        for top, bottom in factor.blocks.strips(t):
            labels = None if q.labels is None else q.labels[top:bottom]

            def strip(top: int = top, bottom: int = bottom, labels: Counts | None = labels) -> Arrays:
                part = no_errors(self._n, bottom - top, labels is not None, self._anchors)
                panel = factor.panel(bottom - top)
                pieces = [
                    (rows, Predictions(rows, q.y_test[top:bottom], labels, self._anchors, part))
                    for rows in cached_blocks(bottom - top, c)
                ]

                def advance(J: int, X: npt.NDArray[Any]) -> None:
                    here = slice(*panel.edges[J : J + 2])
                    for rows, predictions in pieces:
                        predictions.advance(here.start, np.ascontiguousarray(X[rows].T), factor.z[here])
                    self._meter.advance(factor.work(panel.rows, J))

                factor.substitute(panel, self._gram.test(top, panel), advance)
                return _arrays(part)

            part = _errors_of(self._kept(f"test-{top}", strip))
            errors.summed[...] += part.summed
            errors.squared_errors[:, top:bottom] = part.squared_errors
            if errors.mistakes is not None and part.mistakes is not None:
                errors.mistakes[...] += part.mistakes
        return errors

    def _sums(self, factor: TiledFactor) -> Matrix:
        sums = np.zeros((3, self._n))
        for top, bottom in factor.blocks.panels:

            def strip(top: int = top, bottom: int = bottom) -> Arrays:
                part = np.zeros((3, self._n))
                panel, first = factor.panel(bottom - top), factor.blocks.edges.index(top)
                pieces = [
                    (rows, LeftOut(slice(top + rows.start, top + rows.stop), factor.z.shape[1], part))
                    for rows in cached_blocks(bottom - top, factor.z.shape[1])
                ]

                def advance(J: int, X: npt.NDArray[Any]) -> None:
                    start, stop = panel.edges[J : J + 2]
                    for rows, left_out in pieces:
                        here = max(start, top + rows.start)  # L⁻¹ is zero above
                        if here < stop:
                            M = np.ascontiguousarray(X[rows, here - start :].T)
                            left_out.advance(here, M, factor.z[here:stop])
                    self._meter.advance(factor.work(panel.rows, J, first))

                factor.substitute(panel, _identity(panel, first), advance, first)
                return {"sums": part}

            sums += self._kept(f"loo-{top}", strip)["sums"]
        return sums

    def _kept(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """What `compute` returns, or what an earlier run kept of it."""
        path = self._work.place(self._start, self._stop) / f"{name}-{self._name}.npz"
        if not path.exists():
            _save(path, compute())
        return _load(path)


def _identity(panel: Panel, first: int) -> Iterator[int]:
    """Fill a panel with rows of I, the first of which has its one at the head of column block `first`."""
    for k in range(first, len(panel)):
        block, row = panel[k], panel.edges[k] - panel.edges[first]
        block[...] = 0
        if row < panel.rows:
            np.einsum("ii->i", block[row : row + block.shape[1]][:, : panel.rows - row])[...] = 1
        yield k + 1


def _arrays(errors: PrefixErrors) -> Arrays:
    arrays = {"summed": errors.summed, "squared_errors": errors.squared_errors}
    return arrays if errors.mistakes is None else {**arrays, "mistakes": errors.mistakes}


def _errors_of(arrays: Arrays) -> PrefixErrors:
    return PrefixErrors(arrays["summed"], arrays.get("mistakes"), arrays["squared_errors"])


def _save(path: Path, arrays: Arrays) -> None:
    write_archive(path, {**arrays, "name": np.array(path.name)})


def _load(path: Path) -> Arrays:
    try:
        arrays = read_archive(path)
        if str(arrays["name"]) != path.name:
            raise ValueError(f"it is {arrays['name']}")
        return arrays
    except OSError as error:
        raise KernregError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, LookupError) as error:
        raise KernregError(
            f"{path} cannot be used: {reason(error)}; delete this file, it is computed again"
        ) from None
