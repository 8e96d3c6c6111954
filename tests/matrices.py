"""Kernel matrices of known properties, and stores of them, whose tiles need no backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from kernreg.architecture import Architecture
from kernreg.store import GramStore

OUTPUTS = 3


@dataclass(frozen=True)
class Problem:
    """K (n, n) and K_test (t, n) of a Laplace kernel, one-hot targets less 1/3, labels."""

    x: np.ndarray
    x_test: np.ndarray
    K: np.ndarray
    K_test: np.ndarray
    y: np.ndarray
    y_test: np.ndarray
    labels: np.ndarray
    labels_test: np.ndarray


def problem(
    n: int, t: int = 9, seed: int = 0, dtype: str = "float64", twins: tuple[int, ...] = ()
) -> Problem:
    """Random rows; those named in `twins` are copies of row 0."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + t, 4))
    for row in twins:
        x[row] = x[0]
    labels = (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0.3)
    y = np.eye(OUTPUTS)[labels] - 1 / OUTPUTS
    K = np.exp(-cdist(x, x[:n])).astype(dtype)
    return Problem(x[:n], x[n:], K[:n], K[n:], y[:n], y[n:], labels[:n], labels[n:])


def stored(folder: Path, given: Problem, tile: int = 16) -> GramStore:
    """A complete store of a problem, its K as "ntk"."""
    settings: Any = {"kernels": ("ntk",), "dtype": given.K.dtype.name, "backend": "reference", "tile": tile}
    store = GramStore.create(
        folder,
        architecture=Architecture.fcn(depth=1),
        **settings,
        x_train=given.x,
        y_train=given.y,
        x_test=given.x_test,
        y_test=given.y_test,
        labels_train=given.labels,
        labels_test=given.labels_test,
        rows_train=1000 + np.arange(len(given.x)),
    )
    with store:
        for part, place in store.missing():
            K = given.K if part == "train" else given.K_test
            store.write(part, place, {"ntk": np.ascontiguousarray(K[place.rows, place.columns])})
    return store
