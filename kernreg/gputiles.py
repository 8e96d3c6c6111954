"""The operations of a tiled factorisation on one GPU or several: `kernreg.tileblas.Arithmetic` in CuPy's arrays.

Every GPU has its rows of a panel, in all columns, and a ring of tiles of L. Tiles of rows are dealt out in turn, so that all
GPUs have as much to do below a diagonal as above it; each of its products is one call, since what a GPU has lies together.

A GPU has three streams. Tiles and blocks come in on the first, products run on the second, finished blocks leave on the third;
events order them. The host waits for nothing but the copy of a tile, whose place it needs again, and, once the products of the
next block are on their way, for the block before: copies and arithmetic run side by side. All memory is taken at the start.

It is written against an array namespace, with cuBLAS and cuSOLVER given: `kernreg.device.gpus` opens CuPy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernreg.blocks import RING, Blocks
from kernreg.cublas import Cublas
from kernreg.errors import KernregError
from kernreg.plan import show_bytes
from kernreg.tileblas import Tile


@dataclass(frozen=True, eq=False)
class Gpu:
    """One GPU.

    Attributes:
        xp: cupy.
        number: of the device.
        routines: cuBLAS and cuSOLVER on it, for the thread that computes.
    """

    xp: Any
    number: int
    routines: Cublas

    @property
    def free_bytes(self) -> int:
        """Of its memory, what the pool keeps included."""
        with self.xp.cuda.Device(self.number) as device:
            return int(device.mem_info[0] + self.xp.get_default_memory_pool().free_bytes())


class Spread:
    """Rows of one column block, each on its GPU; cut by rows like an array.

    Attributes:
        parts: an array for each GPU, of the rows that it has.
        first, stop: they are rows first…stop−1 of the panel.
    """

    def __init__(self, deal: Deal, parts: Sequence[Any], first: int, stop: int) -> None:
        self._deal, self.parts, self.first, self.stop = deal, parts, first, stop

    def __getitem__(self, rows: slice) -> Spread:
        start, stop, _ = rows.indices(self.stop - self.first)
        start, stop = self.first + start, self.first + max(start, stop)
        parts = [part[self._place(g, start) : self._place(g, stop)] for g, part in enumerate(self.parts)]
        return Spread(self._deal, parts, start, stop)

    def _place(self, g: int, row: int) -> int:
        return self._deal.above(g, row) - self._deal.above(g, self.first)


@dataclass(frozen=True)
class Deal:
    """Which GPU has which rows of a panel: strips of rows in turn.

    Attributes:
        gpus: how many.
        strip: rows that stay together.
    """

    gpus: int
    strip: int

    def above(self, g: int, row: int) -> int:
        """How many rows above `row` GPU g has."""
        rounds, rest = divmod(row, self.gpus * self.strip)
        return rounds * self.strip + min(max(rest - g * self.strip, 0), self.strip)

    def pieces(self, g: int, block: Tile, first: int) -> Iterator[Tile]:
        """What GPU g has of a block of the host that begins at row `first` of the panel, strip by strip."""
        for strip in range(first // self.strip, -(-(first + len(block)) // self.strip)):
            piece = block[max(strip * self.strip - first, 0) : (strip + 1) * self.strip - first]
            if strip % self.gpus == g and len(piece):
                yield piece


class GpuTiles:
    """`Arithmetic` on GPUs.

    Args:
        gpus: at least one; equal ones, since each gets as many rows.
        blocks: the cut of the factor.
        dtype: "float64" or "float32".

    Raises:
        KernregError: a GPU has not the memory that `Blocks.gpu_bytes` says.
    """

    def __init__(self, gpus: Sequence[Gpu], blocks: Blocks, dtype: str) -> None:
        self.dtype, self._xp = np.dtype(dtype), gpus[0].xp
        rows = min(blocks.panel, blocks.n)
        # To a single GPU a block goes in one piece.
        self._deal = Deal(len(gpus), blocks.tile if len(gpus) > 1 else rows)
        side = min(blocks.tile, blocks.n)
        self._parts: list[_Part] = []
        for g, gpu in enumerate(gpus):
            self._parts.append(_Part(gpu, self._deal.above(g, rows) * blocks.n, side**2, self.dtype))

    def empty(self, numbers: int) -> Tile:
        cuda, size = self._xp.cuda, numbers * self.dtype.itemsize
        try:  # not from CuPy's pool, which would keep a panel for ever
            memory = cuda.PinnedMemory(size, cuda.runtime.hostAllocPortable)
        except cuda.runtime.CUDARuntimeError as error:
            raise KernregError(
                f"{show_bytes(size)} of memory cannot be page-locked ({error}): use a smaller --memory"
            ) from None
        return np.frombuffer(cuda.PinnedMemoryPointer(memory, 0), self.dtype, numbers)

    def begin(self) -> None:
        for part in self._parts:
            part.begin()

    def take(self, block: Tile, first: int = 0) -> Spread:
        arrays = [
            part.take(list(self._deal.pieces(g, block, first)), block.shape[1])
            for g, part in enumerate(self._parts)
        ]
        return Spread(self._deal, arrays, first, first + len(block))

    def bring(self, tile: Tile) -> list[Any]:
        brought = [part.bring(tile) for part in self._parts]
        for _, copied in brought:
            copied.synchronize()
        return [array for array, _ in brought]

    def give(self, taken: Spread, block: Tile) -> None:
        for g, (part, array) in enumerate(zip(self._parts, taken.parts, strict=True)):
            part.give(array, self._deal.pieces(g, block, taken.first))

    def settle(self) -> None:
        for part in self._parts:
            part.going.synchronize()

    def subtract_product(self, C: Spread, A: Spread, B: list[Any]) -> None:
        for part, c, a, b in zip(self._parts, C.parts, A.parts, B, strict=True):
            if c.size:
                with part.computes() as routines:
                    routines.gemm(a, b, c)

    def subtract_plain_product(self, C: Spread, A: Spread, B: list[Any]) -> None:
        for part, c, a, b in zip(self._parts, C.parts, A.parts, B, strict=True):
            if c.size:
                with part.computes() as routines:
                    routines.gemm(a, b, c, transposed=False)

    def subtract_square(self, C: Spread, A: list[Any]) -> None:
        for part, c, a in zip(self._parts, C.parts, A, strict=True):
            if c.size:
                with part.computes() as routines:
                    routines.syrk(a, c)

    def divide(self, C: Spread, L: list[Any], *, transposed: bool = True) -> None:
        for part, c, l in zip(self._parts, C.parts, L, strict=True):
            if c.size:
                with part.computes() as routines:
                    routines.trsm(l, c, transposed=transposed)

    def factor(self, C: Spread) -> int:
        for part, c in zip(self._parts, C.parts, strict=True):
            if c.size:
                with part.computes() as routines:
                    return routines.potrf(c)
        return 0

    def close(self) -> None:
        for part in self._parts:
            part.close()
        self._parts = []


class _Part:
    """What one GPU has of a factorisation: three streams, its rows of the panel, tiles of L."""

    def __init__(self, gpu: Gpu, numbers: int, tile: int, dtype: np.dtype[Any]) -> None:
        self._gpu, xp = gpu, gpu.xp
        self._taken = self._brought = 0
        self._used: deque[Any] = deque(maxlen=RING)
        with xp.cuda.Device(gpu.number):
            self.coming, self.computing, self.going = (xp.cuda.Stream(non_blocking=True) for _ in range(3))
            xp.get_default_memory_pool().free_all_blocks()  # what others left there counts too
            try:
                self._panel = xp.empty(numbers, dtype)
                self._ring = [xp.empty(tile, dtype) for _ in range(RING)]
            except xp.cuda.memory.OutOfMemoryError as error:
                raise KernregError(
                    f"GPU {gpu.number} has not the {show_bytes((numbers + RING * tile) * dtype.itemsize)} for the tiles "
                    f"of the factor ({error}): use a smaller --device-memory, or --device cpu"
                ) from None

    @contextmanager
    def computes(self) -> Iterator[Cublas]:
        """The routines, on the stream of products."""
        with self._gpu.xp.cuda.Device(self._gpu.number), self.computing:
            yield self._gpu.routines

    def begin(self) -> None:
        self._taken = 0
        with self._gpu.xp.cuda.Device(self._gpu.number):
            self.coming.wait_event(self.computing.record())
            self.coming.wait_event(self.going.record())

    def take(self, pieces: Sequence[Tile], columns: int) -> Any:
        rows, first = sum(map(len, pieces)), 0
        numbers = slice(self._taken, self._taken + rows * columns)
        self._taken = numbers.stop
        block = self._panel[numbers].reshape(rows, columns)
        with self._gpu.xp.cuda.Device(self._gpu.number):
            for piece in pieces:
                block[first : first + len(piece)].set(piece, self.coming)
                first += len(piece)
            self.computing.wait_event(self.coming.record())
        return block

    def bring(self, tile: Tile) -> tuple[Any, Any]:
        """The tile in the next place of the ring, and the event of its being there."""
        place = self._ring[self._brought % RING][: tile.size].reshape(tile.shape)
        self._brought += 1
        with self._gpu.xp.cuda.Device(self._gpu.number):
            # Whatever used the tile that was in this place had been asked for when the one after it was brought.
            self._used.append(self.computing.record())
            self.coming.wait_event(self._used[0])
            place.set(tile, self.coming)
            copied = self.coming.record()
            self.computing.wait_event(copied)
        return place, copied

    def give(self, array: Any, pieces: Iterator[Tile]) -> None:
        first = 0
        with self._gpu.xp.cuda.Device(self._gpu.number):
            self.going.wait_event(self.computing.record())
            for piece in pieces:
                array[first : first + len(piece)].get(self.going, out=piece, blocking=False)
                first += len(piece)

    def close(self) -> None:
        with self._gpu.xp.cuda.Device(self._gpu.number):
            for stream in (self.coming, self.computing, self.going):
                stream.synchronize()
            del self._panel, self._ring
            self._gpu.xp.get_default_memory_pool().free_all_blocks()
