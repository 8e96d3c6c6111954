"""Small stores and data sets for tests, and stand-ins for kernels that need no backend."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernreg.architecture import Architecture
from kernreg.data import Dataset
from kernreg.store import GramStore

N, T, TILE = 23, 9, 5
ARCHITECTURE = Architecture.fcn(depth=2)


def rows(n: int = N, t: int = T) -> dict[str, Any]:
    """Random rows, nested: those of a smaller n are the first ones of a larger n."""
    x = np.random.default_rng(1).normal(size=(100, 4))
    z = np.random.default_rng(2).normal(size=(100, 4))
    return {
        "x_train": x[:n],
        "y_train": x[:n, :2] - 0.5,
        "x_test": z[:t],
        "y_test": z[:t, :2],
        "labels_train": np.arange(n) % 2,
        "labels_test": np.arange(t) % 2,
        "rows_train": 1000 + np.arange(n),
        "rows_test": 5000 + np.arange(t),
    }


def made(path: Path, n: int = N, t: int = T, **changed: Any) -> GramStore:
    given: dict[str, Any] = {
        "architecture": ARCHITECTURE,
        "kernels": ("nngp", "ntk"),
        "dtype": "float64",
        "backend": "reference",
        "provenance": {"name": "random", "seed": 1, "n": n, "test": t, "shape": (4,)},
        "tile": TILE,
        **rows(n, t),
        **changed,
    }
    return GramStore.create(path, **given)


def numbers(part: str, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Stand-ins for kernels: inner products, symmetric to the bit."""
    every = rows(100, 100)
    x, z = every["x_train"], every["x_test"]
    a = np.einsum("id,jd->ij", x if part == "train" else z, x)
    return {"nngp": a.astype(dtype), "ntk": (2 * a + 1).astype(dtype)}


def filled(store: GramStore) -> GramStore:
    for part, tile in store.missing():
        values = numbers(part, store.dtype)
        store.write(part, tile, {k: values[k][tile.rows, tile.columns] for k in store.kernels})
    return store


def images(n: int = 21, t: int = 10) -> Dataset:
    """Random images 3×3×2, nested."""
    x = np.random.default_rng(3).normal(size=(64, 3, 3, 2))
    z = np.random.default_rng(4).normal(size=(64, 3, 3, 2))
    return Dataset(
        name="random",
        x_train=x[:n],
        y_train=np.ascontiguousarray(x[:n, 0, 0]),
        x_test=z[:t],
        y_test=np.ascontiguousarray(z[:t, 0, 0]),
        labels_train=None,
        labels_test=None,
        rows_train=np.arange(n),
        rows_test=np.arange(t),
        provenance={"name": "random", "seed": 3, "n": n, "test": t},
    )


@pytest.fixture(autouse=True)
def without_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not cut the power: a busy disk makes fsync slow."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
