"""One contestant of solve.py: runs, and prints what it measured as a line of JSON."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kernreg.curve import curve_from_store
from kernreg.store import GramStore
from kernreg.tiled import TiledCholesky, tiled_factor

PROBE = 64  # numbers of a solution that are compared


def dgemm(store: GramStore, ridge: float, solver: TiledCholesky, sizes: list[int]) -> dict[str, Any]:
    """Operations a second of 3072³ products in place, the best of five."""
    from scipy.linalg.blas import dgemm as product

    n = 3072
    A, B, C = (np.asfortranarray(np.random.default_rng(i).standard_normal((n, n))) for i in range(3))
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        product(1e-3, A, B, 1.0, C, overwrite_c=1)
        seconds.append(time.perf_counter() - start)
    return {"flops": 2 * n**3 / min(seconds[1:])}


def factor(store: GramStore, ridge: float, solver: TiledCholesky, sizes: list[int]) -> dict[str, Any]:
    """K + λI = L·Lᵀ out of core, then one solution."""
    λ = _absolute(store, ridge)
    start = time.perf_counter()
    made = tiled_factor(store, "ntk", λ, solver)
    seconds = time.perf_counter() - start
    with made:
        solution = made.solve(store.y_train)
        folder = made.scratch.folder.parent
    _remove(folder)
    return {"seconds": seconds, "solution": solution[-PROBE:].ravel().tolist()}


def curve(store: GramStore, ridge: float, solver: TiledCholesky, sizes: list[int]) -> dict[str, Any]:
    """The loss at every m, out of core."""
    return _curve(store, ridge, solver, sizes, 0)


def replicates(store: GramStore, ridge: float, solver: TiledCholesky, sizes: list[int]) -> dict[str, Any]:
    """The same with curves on disjoint training sets."""
    return _curve(store, ridge, solver, sizes, 4)


def _curve(
    store: GramStore, ridge: float, solver: TiledCholesky, sizes: list[int], halvings: int
) -> dict[str, Any]:
    start = time.perf_counter()
    found = curve_from_store(
        store,
        "ntk",
        ridge,
        "relative",
        solver=solver,
        loo=False,
        replicates=halvings,
        labels_test=_labels(store),
    )
    seconds = time.perf_counter() - start
    if found.traffic is None:
        sys.exit("the matrix fits into the memory given: nothing is measured")
    blocks = found.traffic.blocks
    return {
        "seconds": seconds,
        "mse": [float(found.mse[m - 1]) for m in sizes],
        "outputs": store.y_train.shape[1],
        "blocks": [blocks.tile, blocks.panel],
        "traffic": {
            "factor_read": found.traffic.factor_read,
            "factor_written": found.traffic.factor_written,
            "store_read": found.traffic.store_read,
            "by_formula_read": 8 * (blocks.read + len(blocks.strips(store.t)) * blocks.written),
            "by_formula_written": 8 * blocks.written,
        },
    }


def scipy(store: GramStore, ridge: float, solver: TiledCholesky, sizes: list[int]) -> dict[str, Any]:
    """cho_factor in place, cho_solve, predictions; the matrix is there."""
    from scipy.linalg import cho_factor, cho_solve

    λ = _absolute(store, ridge)
    K, K_test = store.train("ntk").T, store.test("ntk")
    start = time.perf_counter()
    np.fill_diagonal(K, K.diagonal() + λ)
    made = cho_factor(K, lower=True, overwrite_a=True, check_finite=False)
    factor_seconds = time.perf_counter() - start
    solution = cho_solve(made, store.y_train, check_finite=False)
    _ = K_test @ solution
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "factor_seconds": factor_seconds,
        "solution": solution[-PROBE:].ravel().tolist(),
    }


def sklearn(store: GramStore, ridge: float, solver: TiledCholesky, sizes: list[int]) -> dict[str, Any]:
    """KernelRidge refitted, with predictions, at each size; the matrix is there."""
    from sklearn.kernel_ridge import KernelRidge

    λ = _absolute(store, ridge)
    K, K_test, y = store.train("ntk"), store.test("ntk"), store.y_train
    seconds, mse = [], []
    for m in sizes:
        start = time.perf_counter()
        f = KernelRidge(kernel="precomputed", alpha=λ).fit(K[:m, :m], y[:m]).predict(K_test[:, :m])
        seconds.append(time.perf_counter() - start)
        mse.append(float(np.square(f - store.y_test).sum() / store.t))
    return {"seconds": seconds, "mse": mse}


def _absolute(store: GramStore, ridge: float) -> float:
    from kernreg.operators import Stored

    return ridge * float(Stored.streamed(store, "ntk").diagonal().mean())


def _labels(store: GramStore) -> Any:
    return store.labels_test if store.y_train.shape[1] > 1 else None


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


CONTESTANTS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function for function in (dgemm, factor, curve, replicates, scipy, sklearn)
}


def main() -> None:
    name, path, ridge, memory, scratch, *sizes = sys.argv[1:]
    solver = TiledCholesky(memory=int(memory), scratch=scratch)
    result = CONTESTANTS[name](GramStore.open(path), float(ridge), solver, [int(m) for m in sizes])
    # Of a program that was just started, getrusage may tell the peak of the one that started it.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    result["peak"] = int(peak[1]) << 10 if peak else 0
    print(json.dumps(result))


if __name__ == "__main__":
    main()
