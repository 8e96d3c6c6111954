"""Verify: every checksum of a store, and a random sample of its numbers against a computation in float64."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernreg.errors import KernregError
from kernreg.gramfile import TileError
from kernreg.kernels import backends
from kernreg.provenance import Array
from kernreg.shards import Place
from kernreg.store import GramStore
from kernreg.tiles import Tile

SAMPLE = 64
GROUP = 4  # rows of one block of recomputed entries
REFERENCE_COVARIANCES = 10**8  # of all sampled pairs and layers, pixel by pixel: seconds of the reference
# Relative to the definition in float64, see docs/kernels.md: at worst, off and on the diagonal. The reference computes in
# float64 whatever it stores.
TOLERANCES = {"reference": {"float32": 2.0**-23, "float64": 1e-11}}
OF_ANY_BACKEND = {"float32": 1e-5, "float64": 1e-11}
FLOOR = 1e-2  # an entry below this share of √(K(x,x)·K(z,z)) is compared with that share of it


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        tiles: files read whole, their checksums right.
        missing: files of tiles not computed yet.
        corrupt: file and what is wrong with it.
        dropped: corrupt files that were deleted, to be computed again by the next fill.
        entries: numbers recomputed in float64.
        backend: the backend that recomputed them, or "".
        worst: relative error of the one that is worst for the backend of its tile, 0 without any.
        where: part, kernel, row, column and backend of that one, or "".
        tolerance: bound of `worst`, that of the backend.
    """

    tiles: int
    missing: tuple[Path, ...]
    corrupt: tuple[tuple[Path, str], ...]
    dropped: tuple[Path, ...]
    entries: int
    backend: str
    worst: float
    where: str
    tolerance: float

    @property
    def ok(self) -> bool:
        """No corrupt tile and no entry beyond the tolerance; tiles may be missing."""
        return not self.corrupt and self.worst <= self.tolerance


def verify(
    store: GramStore,
    x_train: Array | None = None,
    x_test: Array | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    drop: bool = False,
) -> Report:
    """Check a store against itself and, when the rows are given, against its definition.

    Args:
        store: open; for writing if `drop`.
        x_train, x_test: (n, …) and (t, …), the rows that the store was made of; None leaves recomputing out.
        sample: entries to recompute, about; diagonal ones are among them.
        seed: of the sample.
        drop: delete corrupt tiles, so that the next fill computes them again.

    Returns:
        A `Report`. The numbers are recomputed in float64 by the backend "reference", or by "cpu" where the
        images are too large for it.

    Raises:
        KernregError: rows are given that are not those of the store.
    """
    places = store.shards.needed(store.n, store.t, store.n)
    missing = store.shards.missing(places)
    good: dict[str, list[Place]] = {}  # by the backend that computed them
    corrupt: list[tuple[Path, str]] = []
    dropped: list[Path] = []
    for part, tile in sorted(set(places) - set(missing), key=lambda place: (place[0], place[1].column_start)):
        try:
            backend = store.shards.check(part, tile)["backend"]
            good.setdefault(backend, []).append((part, tile))
        except TileError as error:
            corrupt.append((error.path, error.reason))
            if drop:
                store.drop(part, tile)
                dropped.append(error.path)
    tolerance = tolerance_of(store.backend, store.dtype)
    entries, backend, worst, where = 0, "", 0.0, ""
    if x_train is not None and good:
        x_test = x_train[:0] if x_test is None else x_test
        if len(x_train) < store.n or len(x_test) < store.t:
            raise KernregError(f"{store.path} needs {store.n} train and {store.t} test rows to be verified")
        store.require_inputs(x_train, x_test)
        backend = _backend(store, sample)
        rng, share = np.random.default_rng(seed), -(-sample // len(good))
        for made_by, tiles in good.items():
            found = _recompute(store, tiles, x_train, x_test, backend, share, rng)
            entries += found[0]
            allowed = tolerance_of(made_by, store.dtype)
            if not found[1] / allowed <= worst / tolerance:
                worst, where, tolerance = found[1], f"{found[2]}, by {made_by}", allowed
    paths = tuple(store.shards.path(*place) for place in missing)
    whole = sum(map(len, good.values()))
    return Report(whole, paths, tuple(corrupt), tuple(dropped), entries, backend, worst, where, tolerance)


def tolerance_of(backend: str, dtype: str) -> float:
    """Largest relative error of an entry of a tile that this backend computed."""
    return TOLERANCES.get(backend, OF_ANY_BACKEND)[dtype]


def _backend(store: GramStore, sample: int) -> str:
    shape = store.settings.input_shape
    pixels = shape[0] * shape[1] if len(shape) == 3 else 1
    cost = sample * (pixels**2) * max(store.architecture.depth, 1)
    try:
        backends.covers("cpu", store.architecture, shape)
    except NotImplementedError:
        return "reference"
    return "reference" if cost <= REFERENCE_COVARIANCES else "cpu"


def _recompute(
    store: GramStore,
    good: list[Place],
    x_train: Array,
    x_test: Array,
    backend: str,
    sample: int,
    rng: np.random.Generator,
) -> tuple[int, float, str]:
    """Entries computed again, the largest relative error, and where it is."""
    kernel = "both" if len(store.kernels) == 2 else store.kernels[0]
    weights = np.array([tile.pairs for _, tile in good], float)
    entries, worst, where = 0, 0.0, ""
    while entries < sample:
        part, tile = good[int(rng.choice(len(good), p=weights / weights.sum()))]
        rows = _some(rng, tile.row_start, tile.row_stop)
        columns = rows if tile.diagonal else _some(rng, tile.column_start, tile.column_stop)
        x, z = (x_train if part == "train" else x_test)[rows], x_train[columns]
        exact = _compute(store, x, z, kernel, backend)
        xx, zz = _compute(store, x, x, kernel, backend), _compute(store, z, z, kernel, backend)
        for name in store.kernels:
            floor = FLOOR * np.sqrt(np.outer(np.diag(xx[name]), np.diag(zz[name])))
            stored = _stored(store, part, tile, name, rows, columns)
            error = np.abs(stored - exact[name]) / np.maximum(np.abs(exact[name]), floor)
            i, j = np.unravel_index(int(np.argmax(error)), error.shape)
            entries += error.size
            if not error[i, j] <= worst:
                worst = float(error[i, j])
                where = f"K({part}, train) {name}, row {rows[i]}, column {columns[j]}"
    return entries, worst, where


def _some(rng: np.random.Generator, start: int, stop: int) -> Array:
    return np.sort(rng.choice(np.arange(start, stop), size=min(GROUP, stop - start), replace=False))


def _compute(store: GramStore, x: Array, z: Array, kernel: str, backend: str) -> dict[str, Array]:
    wide = (x.astype(np.float64), z.astype(np.float64))
    return backends.compute(*wide, store.architecture, kernel, backend, "float64")


def _stored(store: GramStore, part: str, tile: Tile, name: str, rows: Array, columns: Array) -> Array:
    return np.array([[store.shards.entry(part, tile, name, int(i), int(j)) for j in columns] for i in rows])
