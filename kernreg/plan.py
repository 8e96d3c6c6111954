"""Plan: how a Gram is cut into tiles, what it takes on disk and in memory, and how long it takes here.

The cut is integer arithmetic of n, t, the cost of a pair and the memory allowed, not of a measured time:
the same command makes the same tiles on every machine. One exception: where a tile would take the workers of a cluster
longer than LONGEST_TILE_SECONDS, as measured on one of them, tiles are cut smaller.
"""

from __future__ import annotations

import bisect
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import backends
from kernreg.kernels.lanes import LANES_PER_GPU
from kernreg.provenance import KERNELS, Array
from kernreg.tiles import TileGrid

TILE_SECONDS = 30  # a killed run loses at most about one tile of work in each lane
LONGEST_TILE_SECONDS = 1800  # on a worker of a cluster, which may be lost at any time
UPDATES_PER_SECOND = {"host": 500_000_000, "gpu": 400_000_000_000}
SMALLEST, LARGEST = 64, 4096
# h5py opens all shards of a virtual dataset at once when it is read whole, and a process may open 1024 files:
# past that HDF5 fills with NaN without an error (docs/format.md).
MOST_SHARDS = 512
PROCESS_BYTES = 320 << 20  # the interpreter, NumPy, Numba and HDF5 themselves
GPU_WORK_BYTES = 512 << 20  # of a lane: widened images, partial sums
_ITEM = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class Workers:
    """How many tiles a machine has in hand at once while it fills a store, see `kernreg.pipeline`.

    Attributes:
        computing: lanes: one on a CPU, two on every GPU.
        writing: tiles that wait for their commit, or are being committed.
        lane_bytes: memory of the GPU that a lane may fill; None where the host computes.
    """

    computing: int = 1
    writing: int = 1
    lane_bytes: int | None = None

    @property
    def devices(self) -> int:
        """That compute: all cores of the CPU count as one."""
        return 1 if self.lane_bytes is None else self.computing // LANES_PER_GPU


HOST = Workers()


@dataclass(frozen=True)
class Plan:
    """What filling a store takes.

    Attributes:
        tile: rows of a tile.
        tiles: number of tiles, of K(train, train) and K(test, train) together.
        pairs: kernel values to compute, per kernel.
        updates: arithmetic of one pair, `backends.updates`.
        disk_bytes: of the finished store, its overhead of a few kilobytes a tile included.
        memory_bytes: estimated peak of the process, the rows x and all tiles in hand included.
    """

    tile: int
    tiles: int
    pairs: int
    updates: int
    disk_bytes: int
    memory_bytes: int


def plan(
    n: int,
    t: int,
    shape: tuple[int, ...],
    architecture: Architecture,
    kernel: str = "ntk",
    dtype: str = "float64",
    memory: int | str | None = None,
    x_bytes: int | None = None,
    workers: Workers = HOST,
    pace: float | None = None,
) -> Plan:
    """The tiles of n train and t test rows of `shape`.

    Args:
        n, t: rows.
        shape: (H, W, C) or (d,).
        architecture, kernel, dtype: as in `kernreg.gram.gram`.
        memory: most bytes that the process may use, or text such as "4GiB"; None sets no bound.
        x_bytes: size of the rows in memory, by default that of float32.
        workers: what computes; the tiles are made for it, and stay as they are when others go on.
        pace: seconds of a pair on a worker of a cluster; None bounds the time of a tile nowhere.

    Raises:
        KernregError: the memory, or that of the GPU, does not suffice for the smallest tiles, by amount.
    """
    x_bytes = (n + t) * math.prod(shape) * 4 if x_bytes is None else x_bytes
    widest = max(n, t)

    def need(tile: int) -> int:
        return memory_bytes(min(tile, widest), x_bytes, shape, architecture, kernel, dtype, workers)

    cost = backends.updates(architecture, shape)
    rate = UPDATES_PER_SECOND["host" if workers.lane_bytes is None else "gpu"]
    tile = math.isqrt(TILE_SECONDS * rate // cost) // SMALLEST * SMALLEST
    tile = max(SMALLEST, min(tile, LARGEST))
    if _shards(n, t, tile) > MOST_SHARDS:
        multiples = range(tile // SMALLEST, widest // SMALLEST + 2)
        few = bisect.bisect_left(multiples, True, key=lambda k: _shards(n, t, k * SMALLEST) <= MOST_SHARDS)
        tile = multiples[few] * SMALLEST
    if pace is not None and tile**2 * pace > LONGEST_TILE_SECONDS:
        tile = max(SMALLEST, math.isqrt(int(LONGEST_TILE_SECONDS / pace)) // SMALLEST * SMALLEST)
    if memory is not None:
        allowed = parse_bytes(memory)
        tile = _largest(tile, lambda rows: need(rows) <= allowed)
        require_memory(need(tile), allowed)
    if workers.lane_bytes is not None:
        tile = _fitting(
            tile,
            lambda rows: tile_bytes(min(rows, widest), shape, architecture, kernel, dtype),
            workers.lane_bytes - GPU_WORK_BYTES,
        )
    triangle, rectangle = TileGrid.triangle(n, tile), TileGrid.rectangle(t, n, tile)
    grids = (triangle, rectangle)
    values = sum(math.prod(part.shape) for grid in grids for part in grid)
    tiles = len(triangle) + len(rectangle)
    return Plan(
        tile,
        tiles,
        sum(grid.pairs for grid in grids),
        cost,
        disk_bytes(values, tiles, kernel, dtype),
        need(tile),
    )


def memory_bytes(
    tile: int,
    x_bytes: int,
    shape: tuple[int, ...],
    architecture: Architecture,
    kernel: str,
    dtype: str,
    workers: Workers = HOST,
) -> int:
    """Estimated peak: the process, all rows, what every lane needs, and every tile that waits or is written."""
    lane = tile_bytes(tile, shape, architecture, kernel, dtype)
    finished = tile**2 * (_item(dtype) * len(kernels_of(kernel)) + 1)  # a mask tells what is not finite
    return PROCESS_BYTES + x_bytes + workers.computing * lane + workers.writing * finished


def tile_bytes(tile: int, shape: tuple[int, ...], architecture: Architecture, kernel: str, dtype: str) -> int:
    """Of one tile while it is computed: its rows as the kernel wants them, its values, float64 sums."""
    item = _item(dtype)
    pixels = math.prod(shape[:2]) if len(shape) == 3 else 1
    row = math.prod(shape) + architecture.depth * pixels  # a variance per layer and pixel goes with every row
    return item * 4 * tile * row + tile**2 * (item * (len(kernels_of(kernel)) + 1) + 16)


def disk_bytes(values: int, tiles: int, kernel: str, dtype: str) -> int:
    """Of `values` numbers per kernel in so many files, each with a few kilobytes of its own."""
    return values * _item(dtype) * len(kernels_of(kernel)) + tiles * 8192


def require_memory(needed: int, allowed: int) -> None:
    """Raise KernregError, with the amounts, when more is needed than allowed."""
    if needed > allowed:
        raise KernregError(
            f"this needs about {show_bytes(needed)} of memory and {show_bytes(allowed)} are allowed: "
            f"use --memory {math.ceil(needed / 2**30 * 10) / 10:g}GiB, or fewer rows"
        )


def seconds_per_pair(x: Array, architecture: Architecture, kernel: str, backend: str, dtype: str) -> float:
    """Measured on leading rows of the real data x (n, …): warmed up, then doubled until a block takes 0.3 s.

    Raises:
        NotImplementedError, KernregError: as `backends.compute`.
    """
    n = len(x)
    backends.compute(x[:1], x[: min(n, 64)], architecture, kernel, backend, dtype)
    rows, columns = 1, min(n, 64)
    while True:
        start = time.perf_counter()
        backends.compute(x[:rows], x[:columns], architecture, kernel, backend, dtype)
        elapsed = time.perf_counter() - start
        if elapsed > 0.3 or rows >= min(n, 2048):
            return elapsed / (rows * columns)
        rows = min(n, 2048, rows * 4)
        columns = max(columns, rows)


def kernels_of(kernel: str) -> tuple[str, ...]:
    """("nngp", "ntk") for "both", else the one named. Raises KernregError for other names."""
    if kernel == "both":
        return KERNELS
    if kernel not in KERNELS:
        raise KernregError(f"kernel is nngp, ntk or both, not {kernel!r}")
    return (kernel,)


def parse_bytes(text: int | str) -> int:
    """Bytes of "4GiB", "500 MB", "2g" (binary unless written …B without i) or a number.

    Raises:
        KernregError: no amount of memory.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?b)?|b)?\s*", str(text).lower())
    if not match:
        raise KernregError(f"{text!r} is no amount of memory; write it like 4GiB")
    unit = 1000 if match[3] == "b" else 1024
    amount = float(match[1]) * unit ** ("kmgt".index(match[2]) + 1 if match[2] else 0)
    if amount > 2.0**63:
        raise KernregError(f"{match[0][:40]!r} is more memory than any machine has; write it like 4GiB")
    return int(amount)


def show_bytes(amount: int) -> str:
    """3.4 GiB."""
    value, units = float(amount), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.3g} {units[0]}" if value < 1024 else f"{value / 1024:.3g} TiB"


def _fitting(tile: int, need: Callable[[int], int], lane: int) -> int:
    """The largest tile up to `tile` that a lane of the GPU holds."""
    tile = _largest(tile, lambda rows: need(rows) <= lane)
    if need(tile) > lane:
        raise KernregError(
            f"the smallest tiles need {show_bytes(need(tile) + GPU_WORK_BYTES)} of the GPU for each of its lanes and "
            f"{show_bytes(lane + GPU_WORK_BYTES)} are free: end other programs on it, or use --backend cpu"
        )
    return tile


def _largest(tile: int, fits: Callable[[int], bool]) -> int:
    """The largest tile up to `tile` that fits, as smaller ones then do; the smallest one if none does."""
    multiples = range(1, tile // SMALLEST + 1)
    return max(1, bisect.bisect_left(multiples, True, key=lambda k: not fits(k * SMALLEST))) * SMALLEST


def _shards(n: int, t: int, tile: int) -> int:
    blocks = -(-n // tile)
    return max(blocks * (blocks + 1) // 2, blocks * -(-t // tile))


def _item(dtype: str) -> int:
    if dtype not in _ITEM:
        raise KernregError(f"dtype is float32 or float64, not {dtype!r}")
    return _ITEM[dtype]
