"""images → Gram: in memory with `gram`, tile by tile into a store with `build` and `fill`, which resume."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, overload

import numpy as np

from kernreg import clusterfill, gramfile
from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.fill import backend_for
from kernreg.fill import fill as fill
from kernreg.kernels import backends
from kernreg.plan import Workers, kernels_of, memory_bytes, parse_bytes, plan, require_memory
from kernreg.progress import Progress
from kernreg.provenance import Array, Arrays
from kernreg.sharing import Member, open_shared
from kernreg.store import GramStore
from kernreg.tiles import TileGrid

if TYPE_CHECKING:
    from distributed import Client

BLOCK = 2048  # rows and columns of one call in memory: temporaries stay at a few times 32 MB


class Kernels(NamedTuple):
    """Both kernels of an architecture."""

    nngp: Array
    ntk: Array


class HasRows(Protocol):
    """What `build` takes from a data set, see `kernreg.data.Dataset`."""

    @property
    def x_train(self) -> Array: ...
    @property
    def y_train(self) -> Array: ...
    @property
    def x_test(self) -> Array: ...
    @property
    def y_test(self) -> Array: ...
    @property
    def labels_train(self) -> Array | None: ...
    @property
    def labels_test(self) -> Array | None: ...
    @property
    def rows_train(self) -> Array: ...
    @property
    def rows_test(self) -> Array: ...
    @property
    def provenance(self) -> dict[str, Any]: ...


@overload
def gram(
    x: Array,
    z: Array | None,
    arch: Architecture,
    kernel: Literal["ntk", "nngp"] = "ntk",
    backend: str = "auto",
    dtype: str = "float64",
) -> Array: ...
@overload
def gram(
    x: Array,
    z: Array | None,
    arch: Architecture,
    kernel: Literal["both"],
    backend: str = "auto",
    dtype: str = "float64",
) -> Kernels: ...
@overload
def gram(
    x: Array, z: Array | None, arch: Architecture, kernel: str, backend: str = "auto", dtype: str = "float64"
) -> Array | Kernels: ...
def gram(
    x: Array,
    z: Array | None,
    arch: Architecture,
    kernel: str = "ntk",
    backend: str = "auto",
    dtype: str = "float64",
) -> Array | Kernels:
    """K(x, z), in memory.

    Args:
        x: (n, H, W, C) images or (n, d) vectors, n ≥ 1, finite; whole numbers are converted.
        z: likewise, m rows of the same shape; None means x, and the result is exactly symmetric.
        arch: the network.
        kernel: "ntk", "nngp" or "both".
        backend: a name of `kernreg.kernels.backends.MODULES`, or "auto": the fastest one here that covers the network.
        dtype: "float32" or "float64", of the arithmetic and the result.

    Returns:
        (n, m) in dtype; for "both" the pair `Kernels(nngp, ntk)`.

    Raises:
        KernregError: rows of a wrong shape or not finite, unknown names, a kernel value that is not finite.
        NotImplementedError: names the layer that the backend does not cover.
    """
    if not isinstance(arch, Architecture):
        raise KernregError(f"arch must be an Architecture such as kernreg.Architecture.fcn(), not {arch!r}")
    x = _checked(x, "x")
    z = None if z is None else _checked(z, "z")
    if z is not None and z.shape[1:] != x.shape[1:]:
        raise KernregError(f"rows of x are {x.shape[1:]} and of z {z.shape[1:]}: give both one shape")
    names, backend = kernels_of(kernel), backends.resolve(backend, arch, x.shape[1:])
    n, m = len(x), len(x) if z is None else len(z)
    grid = TileGrid.triangle(n, BLOCK) if z is None else TileGrid.rectangle(n, m, BLOCK)
    out = {name: np.empty((n, m), np.dtype(dtype)) for name in names}
    for tile in grid:
        columns = None if tile.diagonal else (x if z is None else z)[tile.columns]
        with np.errstate(all="ignore"):  # what is not finite is refused below, with a remedy
            block = backends.compute(x[tile.rows], columns, arch, kernel, backend, dtype)
        for name in names:
            _require_finite_values(block[name], name, dtype)
            out[name][tile.rows, tile.columns] = block[name]
            if z is None and not tile.diagonal:
                out[name][tile.columns, tile.rows] = block[name].T
    return Kernels(out["nngp"], out["ntk"]) if kernel == "both" else out[kernel]


def build(
    path: str | os.PathLike[str],
    dataset: HasRows,
    architecture: Architecture,
    kernel: str = "ntk",
    backend: str = "auto",
    dtype: str = "float64",
    memory: int | str | None = None,
    progress: bool | Progress = False,
    member: Member | None = None,
    cluster: Client | None = None,
    tiles: bool = True,
) -> GramStore:
    """The Gram of a data set on disk: created, resumed or extended, whichever is needed.

    A store that holds more rows than the data set, and is complete for those, is returned as it is: readers
    take the first rows.

    Args:
        path: folder of the store, by habit NAME.gram.
        dataset: rows, targets and provenance.
        architecture, kernel, dtype: as in `gram`.
        backend: as in `gram`; for a store that is there "auto" means the backend that it was computed by so far,
            and another one, named, goes on with it: each tile says by which it was computed.
        memory: most bytes that the process may use, or "4GiB"; None sets no bound.
        progress: True for a bar on stderr, or a function of (pairs done, pairs in all).
        member: this process is one of several, on any hosts, that were given the same data set and settings and fill the
            store together, see `kernreg.sharing`; whichever is first creates it.
        cluster: of `kernreg.cluster.connect`: its workers fill the store, and `memory` is that of each.
        tiles: False begins or extends the store and computes no tile, see `kernreg.matrixfree`.

    Returns:
        The store, complete unless tiles=False, open for reading.

    Raises:
        KernregError: the store there was made with other settings or rows, by field; another process
            writes it; memory or disk do not suffice; its backend is not on this machine.
        KeyboardInterrupt: SIGINT, SIGTERM or, as `TimeIsUp`, SIGUSR1; finished tiles are kept.
    """
    arrays, folder = _arrays(dataset), Path(path)
    n, t, shape = len(dataset.x_train), len(dataset.x_test), tuple(dataset.x_train.shape[1:])
    if member is not None and cluster is not None:
        raise KernregError("a member shares a store without a cluster: give member or cluster, not both")
    if member is not None and not tiles:
        raise KernregError("a member computes tiles: begin a store without them by a process of its own")
    sizes = (architecture, shape, n, t)
    x_bytes = int(dataset.x_train.nbytes + dataset.x_test.nbytes)

    def compute(store: GramStore) -> None:
        rows = (store, dataset.x_train, dataset.x_test, progress)
        if cluster is None:
            fill(*rows, member)
        else:
            clusterfill.fill(cluster, *rows)

    settings: dict[str, Any] = {
        "architecture": architecture,
        "kernels": kernels_of(kernel),
        "dtype": dtype,
        "provenance": dataset.provenance,
    }

    def cut() -> tuple[str, Workers, int]:
        pace = None
        if cluster is None:
            name, workers = backend_for(folder, backend, *sizes)
        else:
            name, workers = clusterfill.backend_for(cluster, folder, backend, *sizes)
            timed = (shape, str(dataset.x_train.dtype), architecture, kernel, name, dtype)
            pace = clusterfill.seconds_per_pair(cluster, *timed)
        tile = plan(n, t, shape, architecture, kernel, dtype, memory, x_bytes, workers, pace).tile
        return name, workers, tile

    if not (folder / gramfile.MAIN).exists():
        name, _, tile = cut()
        shared = member is not None
        with GramStore.create(folder, backend=name, tile=tile, shared=shared, **settings, **arrays) as store:
            if not shared:
                if tiles:
                    compute(store)
                return GramStore.open(folder)
    name, workers, tile = cut()
    settings["input_shape"] = shape
    store = resumable(folder, dataset, settings, tiles)
    if _holds(store, n, t, tiles):
        return store
    if memory is not None:
        widest = max(max(tile.shape) for tile in store.grids["train"])
        needed = memory_bytes(widest, x_bytes, shape, architecture, kernel, dtype, workers)
        require_memory(needed, parse_bytes(memory))

    def prepare(store: GramStore) -> None:
        if name != store.backend:
            store.compute_by(name)
        if (n, t) != (store.n, store.t):
            store.extend(tile=tile, provenance=dataset.provenance, **arrays)

    if member is None:
        with GramStore.open(folder, writer=True, **settings) as store:
            prepare(store)
            if tiles:
                compute(store)
    else:
        ready = {**settings, "backend": name}
        with open_shared(folder, n, t, ready, prepare) as store:
            compute(store)
    return GramStore.open(folder)


def resumable(folder: Path, dataset: HasRows, settings: Mapping[str, Any], tiles: bool = True) -> GramStore:
    """The store in a folder, for reading, once `build` can go on with it, or extend it, for these rows and settings.

    Raises:
        KernregError: other settings or rows, by field; it was begun with more rows and is not complete for these.
    """
    n, t = len(dataset.x_train), len(dataset.x_test)
    store = GramStore.open(folder, **settings)
    store.require_rows(**_arrays(dataset))
    if (n < store.n or t < store.t) and not _holds(store, n, t, tiles):
        raise KernregError(
            f"{folder} was begun with {store.n} train and {store.t} test rows, {n} and {t} are asked for, "
            f"and tiles for them are missing: use --n {max(n, store.n)} --test {max(t, store.t)}, "
            "or another folder (--out)"
        )
    return store


def _holds(store: GramStore, n: int, t: int, tiles: bool) -> bool:
    return n <= store.n and t <= store.t and not (tiles and store.missing(n, t))


def _arrays(dataset: HasRows) -> Arrays:
    return {
        "x_train": dataset.x_train,
        "y_train": dataset.y_train,
        "x_test": dataset.x_test,
        "y_test": dataset.y_test,
        "labels_train": dataset.labels_train,
        "labels_test": dataset.labels_test,
        "rows_train": dataset.rows_train,
        "rows_test": dataset.rows_test,
    }


def _checked(x: Array, name: str) -> Array:
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise KernregError(f"{name} holds {x.dtype}, not real numbers")
    if x.ndim == 3:
        raise KernregError(
            f"{name} is {x.shape}: images are (n, H, W, C); for grey ones pass {name}[..., None]"
        )
    if x.ndim not in (2, 4):
        raise KernregError(f"{name} is {x.shape}: give images (n, H, W, C) or vectors (n, d)")
    if x.size == 0:
        raise KernregError(f"{name} is empty: its shape is {x.shape}")
    if x.dtype not in (np.float32, np.float64):
        x = x.astype(np.float64)
    for start in range(0, len(x), BLOCK):
        finite = np.isfinite(x[start : start + BLOCK]).reshape(len(x[start : start + BLOCK]), -1).all(axis=1)
        if not finite.all():
            raise KernregError(
                f"{name}: row {start + int(np.argmin(finite))} holds NaN or infinity; remove it"
            )
    return np.ascontiguousarray(x)


def _require_finite_values(K: Array, name: str, dtype: str) -> None:
    if not np.isfinite(K).all():
        raise KernregError(
            f"the {name} overflows {dtype} on these rows: rescale them, or use dtype='float64'"
        )
