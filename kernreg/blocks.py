"""Blocks: how a factor larger than memory is cut, and what the cut costs in memory, disk and traffic.

L is made panel by panel. A panel is b rows of it, in memory as a whole; the rows above pass by it from disk in
tiles of w × w, each once. With s bytes a number (8, or 4 for a float32 factor)

    memory     s·b·n + s·w²·(READ_AHEAD + 1) + one tile of the store + what rides along + PROCESS_BYTES
    a GPU      s·b·n/g + s·w²·RING + GPU_BYTES             of each of g GPUs, b/g rounded up to tiles
    written    s·Σ_J w_J·e_J               = s·n(n + w)/2           each tile of L once; also the disk it takes
    read       s·Σ_p r_p(r_p + w)/2        ≈ s·n³/(6b)              panel p begins at row r_p = p·b
    read later s·n(n + w)/2                for every b test rows, and in each direction of a solution

(w_J and e_J are the rows of block J and where it ends; all counts are exact, ragged edges included.) Only b buys
traffic, and w costs little of it, so w is as large as BLAS likes and b takes the memory that is left. Then both
shrink to where all panels are equal, which takes less memory for the same traffic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from kernreg.errors import KernregError
from kernreg.plan import require_memory, show_bytes

TILES = (512, 256, 128, 64)  # largest w: the first one that leaves a panel as many rows
TILES_ON_GPU = (2048, 1024, *TILES)  # a product with fewer columns does not fill a GPU
ALIGNED = 2  # w is a multiple: rounding b up by more would cost more traffic than alignment is worth
READ_AHEAD = 3  # tiles on their way from disk while one is in use
RING = 3  # tiles of L on a GPU: one on its way, one in use, one whose product waits
# The interpreter, NumPy, SciPy and HDF5, 75 MiB, and the packing buffers of BLAS.
PROCESS_BYTES = 128 << 20
# Of the host, for NVIDIA's libraries and the driver's own tables; of a GPU, for cuBLAS's and cuSOLVER's work spaces.
GPU_PROCESS_BYTES = 1 << 30
GPU_BYTES = 256 << 20
# Every panel is an open file, and a process may usually open 1024.
MOST_PANELS = 512


@dataclass(frozen=True)
class Blocks:
    """The cut of an n×n factor.

    Attributes:
        n: rows.
        tile: w, rows and columns of a tile; the last ones are ragged.
        panel: b, rows of a panel, a multiple of w; the last panel is ragged.
    """

    n: int
    tile: int
    panel: int

    def __post_init__(self) -> None:
        if self.n < 1 or self.tile < 1 or self.panel < 1 or self.panel % self.tile:
            raise KernregError(
                f"a panel of {self.panel} rows must be whole tiles of {self.tile} rows, and n = {self.n} ≥ 1"
            )

    @property
    def edges(self) -> tuple[int, ...]:
        """0, w, 2w, … n."""
        return (*range(0, self.n, self.tile), self.n)

    @property
    def panels(self) -> tuple[tuple[int, int], ...]:
        """(first row, row behind the last one) of every panel."""
        return tuple((top, min(top + self.panel, self.n)) for top in range(0, self.n, self.panel))

    @property
    def written(self) -> int:
        """Numbers in the tiles of L; a panel of test rows, or one way of a solution, reads as many."""
        return triangle(self.edges)

    @property
    def read(self) -> int:
        """Numbers read to make the factor."""
        return sum(triangle(self.edges[: top // self.tile + 1]) for top, _ in self.panels)

    @property
    def read_for_inverse(self) -> int:
        """Numbers read to make L⁻¹ by panels of its columns, which leave-one-out needs."""
        return sum(triangle(self.edges[top // self.tile :]) for top, _ in self.panels)

    def strips(self, rows: int) -> tuple[tuple[int, int], ...]:
        """`rows` rows of a right-hand side in as few equal panels as fit in the place of one."""
        count = max(1, -(-rows // min(self.panel, self.n)))
        size = -(-rows // count)
        return tuple((top, min(top + size, rows)) for top in range(0, rows, size)) if rows else ()

    def bytes(self, itemsize: int) -> int:
        """Memory of a panel and of the tiles on their way."""
        widest = min(self.panel, self.n)
        return itemsize * (widest * self.n + min(self.tile, self.n) ** 2 * (READ_AHEAD + 1))

    def gpu_rows(self, gpus: int) -> int:
        """Rows of a panel that a GPU holds at most: whole tiles, dealt out in turn."""
        rows = min(self.panel, self.n)
        return rows if gpus == 1 else min(rows, math.ceil(rows / self.tile / gpus) * self.tile)

    def gpu_bytes(self, itemsize: int, gpus: int) -> int:
        """Memory of each of several GPUs: its rows of a panel, tiles of L, and what the libraries take."""
        numbers = self.gpu_rows(gpus) * self.n + min(self.tile, self.n) ** 2 * RING
        return itemsize * numbers + GPU_BYTES


def triangle(edges: tuple[int, ...]) -> int:
    """Numbers in the tiles on and below the diagonal between the first and the last edge."""
    return sum((stop - start) * (stop - edges[0]) for start, stop in itertools.pairwise(edges))


def choose_blocks(
    n: int, memory: int, itemsize: int = 8, others: int = 0, gpus: int = 0, gpu_memory: int = 0
) -> Blocks:
    """The blocks of an n×n factor with the least traffic that memory allows.

    Args:
        n: rows.
        memory: bytes that the process may take.
        itemsize: 8 or 4.
        others: bytes of what is in memory beside the panel and its tiles, PROCESS_BYTES apart.
        gpus: how many compute; 0: the host.
        gpu_memory: bytes of each GPU that may be taken.

    Raises:
        KernregError: not even panels of one small tile fit, by amount.
    """
    room = memory - PROCESS_BYTES - others

    def held(blocks: Blocks) -> bool:
        return not gpus or blocks.gpu_bytes(itemsize, gpus) <= gpu_memory

    found = []
    for tile in TILES_ON_GPU if gpus else TILES:
        rows = min((room - itemsize * min(tile, n) ** 2 * (READ_AHEAD + 1)) // (itemsize * n), n)
        enough = rows == n or (rows >= tile and rows // ALIGNED * ALIGNED * MOST_PANELS >= 2 * n)
        if enough and (blocks := _balanced(n, tile, rows, held)):
            found.append(blocks)
            if not gpus:
                break
    if found:
        return min(found, key=lambda blocks: len(blocks.panels))
    tile = TILES[-1]
    least = Blocks(n, tile, max(tile, math.ceil(2 * n / MOST_PANELS / tile) * tile))
    require_memory(PROCESS_BYTES + others + least.bytes(itemsize), memory)
    if gpus:
        require_gpu_memory(least.gpu_bytes(itemsize, gpus), gpu_memory)
    return least


def require_gpu_memory(needed: int, allowed: int) -> None:
    """Raise KernregError, with the amounts, when a GPU needs more than allowed."""
    if needed > allowed:
        raise KernregError(
            f"the tiles of the factor need about {show_bytes(needed)} of each GPU's memory and {show_bytes(allowed)} "
            f"are allowed: use --device-memory {math.ceil(needed / 2**30 * 10) / 10:g}GiB, or --device cpu"
        )


def _balanced(n: int, tile: int, rows: int, held: Callable[[Blocks], bool]) -> Blocks | None:
    """As few panels of at most `rows` rows, whole tiles of at most `tile`, as can be; and equal ones.

    None if the GPUs hold none of them, or only in more panels than there may be.
    """
    for panels in range(math.ceil(n / rows), MOST_PANELS + 1):
        tiles = math.ceil(n / panels / tile)
        even = math.ceil(n / (panels * tiles) / ALIGNED) * ALIGNED
        blocks = Blocks(n, even, even * tiles)
        if min(even * tiles, n) <= rows and held(blocks):
            return blocks
    return None
