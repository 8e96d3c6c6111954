"""The resumable loop that fills a store: which backend goes on with it, and its tiles, computed and committed at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kernreg import gramfile
from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import backends
from kernreg.kernels.lanes import absence, lane_bytes, lanes
from kernreg.pipeline import Pipeline
from kernreg.plan import HOST, Workers, disk_bytes, show_bytes
from kernreg.progress import Interruption, Meter, Progress
from kernreg.provenance import Array
from kernreg.shards import Place
from kernreg.sharing import GRACE_SECONDS, Alone, Member, Share
from kernreg.store import GramStore


def fill(
    store: GramStore,
    x_train: Array,
    x_test: Array | None = None,
    progress: bool | Progress = False,
    member: Member | None = None,
) -> None:
    """Compute the tiles that a store lacks, and commit each while the next ones are computed: kill it and call it again.

    All GPUs of the machine take part if the store's backend has some. The first SIGINT or SIGTERM ends it once the tiles
    in hand are committed, the second at once; finished tiles are kept. SIGUSR1, ahead of a time limit, is such a signal.

    Args:
        store: open for writing; by a member, open to be shared.
        x_train, x_test: (n, …) and (t, …), the rows that the store was made of.
        progress: True for a bar on stderr, or a function of (pairs done, pairs in all).
        member: one of several processes that fill the store, which see `kernreg.sharing`.

    Raises:
        KernregError: other rows than the store's, a damaged tile, not enough disk, or the disk refuses; the backend is
            not on this machine.
        KeyboardInterrupt: SIGINT, SIGTERM or, as `TimeIsUp`, SIGUSR1.
    """
    x_test = x_train[:0] if x_test is None else x_test
    missing, done, total = remaining(store, x_train, x_test)
    kernel = "both" if len(store.kernels) == 2 else store.kernels[0]

    def compute(place: Place) -> Mapping[str, Array]:
        part, tile = place
        x = (x_train if part == "train" else x_test)[tile.rows]
        z = None if tile.diagonal else x_train[tile.columns]
        with np.errstate(all="ignore"):  # `write` refuses what is not finite, with a remedy
            return backends.compute(x, z, store.architecture, kernel, store.backend, store.dtype)

    grace = None if member is None else GRACE_SECONDS
    with Meter(done, total, progress) as meter, Interruption(meter.note, grace) as interruption:

        def stopping() -> bool:
            return interruption.requested

        note = meter.note
        tiles: Alone | Share = Alone(missing) if member is None else Share(store, member, stopping, note)

        def committed(place: Place) -> None:
            meter.advance(place[1].pairs)
            meter.skip(tiles.by_others())

        with tiles:
            threads = lanes(store.backend) if missing else []
            pipeline = Pipeline(
                compute,
                lambda place, block: tiles.commit(place, lambda: store.write(*place, block)),
                threads,
                writers=len(threads),
                stopping=stopping,
            )
            pipeline.run(tiles, committed)
        if interruption.requested:
            raise interruption.error


def remaining(
    store: GramStore, x_train: Array, x_test: Array, extra_bytes: int = 0
) -> tuple[list[Place], int, int]:
    """What is left to do, once rows, finished tiles and disk are checked: tiles that are missing; pairs done, and in all.

    Args:
        store, x_train, x_test: as in `fill`; all x_test, of which there may be none.
        extra_bytes: that the run writes beside the tiles.

    Raises:
        KernregError: other rows than the store's, a damaged tile, not enough disk.
    """
    if len(x_train) < store.n or len(x_test) < store.t:
        raise KernregError(f"{store.path} needs {store.n} train and {store.t} test rows to be filled")
    store.require_inputs(x_train, x_test)
    missing = store.missing()
    places = store.shards.needed(store.n, store.t, store.n)
    for place in set(places) - set(missing):
        store.shards.describe(*place)
    total = sum(tile.pairs for _, tile in places)
    done = total - sum(tile.pairs for _, tile in missing)
    kernel = "both" if len(store.kernels) == 2 else store.kernels[0]
    values = sum(tile.shape[0] * tile.shape[1] for _, tile in missing)
    _require_disk(store.path, disk_bytes(values, len(missing), kernel, store.dtype) + extra_bytes)
    return missing, done, total


def backend_for(
    path: str | os.PathLike[str],
    backend: str,
    architecture: Architecture,
    shape: tuple[int, ...],
    n: int,
    t: int,
) -> tuple[str, Workers]:
    """The backend that `build` computes n train and t test rows of `shape` with, and how many tiles it has in hand.

    A new store takes what the name stands for. One that is there goes on with its own for "auto", else with the one named.

    Raises:
        KernregError: the backend cannot run on this machine, and tiles are missing.
        NotImplementedError: a layer that it does not cover, by name.
    """
    folder = Path(path)
    if backend == "auto" and (folder / gramfile.MAIN).exists():
        store = GramStore.open(folder)
        backend = store.backend
        if absent := absence(backend):
            if n <= store.n and t <= store.t and not store.missing(n, t):
                return backend, HOST
            raise KernregError(
                f"{folder} is computed by backend {backend}, which cannot run here ({absent}); "
                "a backend that you name goes on with it, and every tile says its own"
            )
    backend = backends.resolve(backend, architecture, shape)
    backends.covers(backend, architecture, shape)
    count = len(lanes(backend))
    return backend, Workers(count, count, lane_bytes(backend))


def _require_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise KernregError(
            f"{folder} needs {show_bytes(needed)} more and its disk has {show_bytes(free)} free: "
            "free some space, use another disk (--out), fewer rows (--n) or --dtype float32"
        )
