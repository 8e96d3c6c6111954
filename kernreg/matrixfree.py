"""The kernel of a store without its tiles, computed anew in every product: for more rows than a disk holds tiles of.

The rows are loaded again by what the store says of their source, and must be the same by their hashes. Meant for fully connected
networks, whose kernel costs little more than reading it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernreg.cg import ConjugateGradients
from kernreg.curvebycg import CurveByCG, curve_by_cg
from kernreg.data import reload
from kernreg.errors import KernregError
from kernreg.iterations import Report
from kernreg.operators import MatrixFree
from kernreg.predict import ComputedRows
from kernreg.provenance import require_hashes, row_hashes
from kernreg.ridge import RidgeMode
from kernreg.solution import Solution
from kernreg.solve import from_fewer, solve, tile_budget
from kernreg.store import GramStore

BLOCK = 1024  # rows of a block, see `MatrixFree`
BLOCKS_ALIVE = 4  # of values: as computed, in float64, their product, and what the backend needs


def without_tiles(
    store: GramStore, kernel: str, n: int | None = None, data_dir: str | Path | None = None
) -> tuple[MatrixFree, ComputedRows | None]:
    """K(train, train) of the first n rows, and K(test, train) if there are test rows.

    Args:
        store: its tiles need not be there; its backend computes.
        kernel: "nngp" or "ntk".
        n: default all rows.
        data_dir: of the original data files.

    Raises:
        KernregError: n is out of range, the kernel is not the store's, or the data cannot be loaded again or have changed.
        NotImplementedError: a layer that the backend does not cover, by name.
    """
    if kernel not in store.kernels:
        raise KernregError(f"{store.path} holds {', '.join(store.kernels)}, not {kernel!r}")
    if n is not None and not 1 <= n <= store.n:
        raise KernregError(f"n={n} rows are asked for, {store.path} has {store.n}")
    data = reload(store.provenance, data_dir)
    require_hashes(store.hashes_train, row_hashes(data.x_train), "train", str(store.path))
    settings = (store.architecture, kernel, store.backend, store.dtype, BLOCK)
    x = data.x_train[:n]
    rows = ComputedRows(data.x_test, x, *settings) if store.t else None
    return MatrixFree(x, *settings), rows


def solve_without_tiles(
    store: GramStore,
    kernel: str,
    n: int | None = None,
    ridge: float = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    *,
    memory: int | str | None = None,
    iteration: ConjugateGradients | None = None,
    start: npt.NDArray[Any] | None = None,
    probes: int = 0,
    data_dir: str | Path | None = None,
    progress: bool | Report = False,
) -> Solution:
    """The coefficients of the first n training rows by conjugate gradients, arguments as in `kernreg.solve.solve_store`.

    Raises:
        KernregError: as `without_tiles` and `kernreg.solve.solve`; a budget that cannot be kept, by amount.
    """
    K, _ = without_tiles(store, kernel, n, data_dir)
    cg, y = iteration or ConjugateGradients(), store.y_train[: K.n]
    tile_budget(K.n, max(y.shape[1], probes), cg, memory, _bytes(K))
    whole = None if start is None else from_fewer(start, K.n)
    return solve(K, y, cg, ridge, ridge_mode, start=whole, probes=probes, progress=progress)


def curve_without_tiles(
    store: GramStore,
    kernel: str,
    ridge: float = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    *,
    memory: int | str | None = None,
    data_dir: str | Path | None = None,
    **settings: Any,
) -> CurveByCG:
    """`kernreg.curvebycg.curve_by_cg_from_store` without tiles.

    Raises:
        KernregError: no test rows; as `without_tiles` and `curve_by_cg`.
    """
    K, rows = without_tiles(store, kernel, None, data_dir)
    if rows is None:
        raise KernregError("the Gram store has no test rows to measure a loss on; extend it by some")
    y, cg = store.y_train, settings.get("solver") or ConjugateGradients()
    tile_budget(K.n, max(y.shape[1], settings.get("probes", 0)), cg, memory, _bytes(K))
    if store.labels_test is not None and y.shape[1] > 1:
        settings.setdefault("labels_test", store.labels_test)
    return curve_by_cg(K, y, rows, store.y_test, ridge, ridge_mode, **settings)


def _bytes(K: MatrixFree) -> int:
    """Of the rows, twice while they are loaded, and of a block of values while it is computed."""
    return 2 * int(np.asarray(K.x).nbytes) + BLOCKS_ALIVE * 8 * min(BLOCK, K.n) ** 2
