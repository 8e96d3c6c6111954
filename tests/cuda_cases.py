"""What the CUDA stencil is tested on, with the sources on the CPU and on a real GPU alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tolerances import relative, worst

from kernreg.architecture import Architecture
from kernreg.kernels import backends

Array = NDArray[Any]

LARGEST = 32 * 32  # pixels that the definition, quadratic in them, is asked for

PRESETS = ("lcn", "vec", "gap", "lcn-gap", "lap")


def preset(name: str, **settings: Any) -> Architecture:
    if name == "lap":
        settings.setdefault("radius", 1)
    return Architecture.preset(name, **settings)


def images(n: int, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, *shape))


def degenerate(H: int, W: int) -> Array:
    """Borders as in MNIST, duplicates, proportional, black, grey and translated images; no pixel negative."""
    x = np.abs(images(2, H, W, 1))
    x[:, 0], x[:, :, 0] = 0, 0
    return np.concatenate([x, x[:1], 2 * x[:1], 0 * x[:1], 0 * x[:1] + 0.7, np.roll(x[:1], (1, 2), (1, 2))])


# (architecture, shape of an image, rows of x, rows of z or 0 for K(x, x))
Case = tuple[Architecture, tuple[int, int, int], int, int]


def shapes() -> list[Case]:
    """Every preset on ragged, small and large images: 1, primes, several planes a warp and several warps a plane."""
    deep, flat = {"depth": 3}, {"depth": 2}
    return [
        (preset("gap", **deep), (1, 1, 3), 3, 2),
        (preset("gap", **deep), (5, 5, 2), 3, 0),
        (preset("lcn-gap", **deep), (7, 9, 1), 5, 3),
        (preset("gap", **deep), (7, 9, 1), 2, 3),
        (preset("gap", **deep), (8, 8, 3), 5, 0),
        (preset("lap", **deep), (8, 8, 3), 3, 0),
        (preset("gap", **flat, padding="CIRCULAR"), (8, 8, 1), 3, 0),
        (preset("gap", depth=1), (28, 28, 1), 2, 1),
        (preset("gap", **flat), (16, 32, 3), 1, 1),
        (preset("vec", **flat), (32, 32, 3), 2, 0),
        (preset("lcn", **flat), (33, 33, 1), 3, 2),
        (preset("vec", **flat), (40, 64, 1), 2, 3),
        (preset("vec", **flat), (64, 64, 1), 3, 0),
        (preset("vec", **flat, padding="CIRCULAR"), (64, 48, 1), 2, 1),
        (preset("vec", **flat, padding="CIRCULAR"), (31, 37, 1), 2, 1),
    ]


def windows() -> list[Case]:
    """Filters 1, 3, 5, 7 and some that are not square, both paddings."""
    found: list[Case] = []
    for padding in ("SAME", "CIRCULAR"):
        for filter in (1, 5, 7, (2, 3)):
            found.append((preset("vec", depth=2, filter=filter, padding=padding), (9, 8, 2), 2, 3))
        for filter in (1, 5, 7):
            found.append((preset("gap", depth=2, filter=filter, padding=padding), (4, 6, 2), 2, 2))
    return found


def erf() -> list[Case]:
    settings: dict[str, Any] = {"depth": 3, "activation": "erf"}
    return [(preset(name, **settings), (6, 6, 2), 4, 0) for name in ("vec", "gap", "lcn-gap")]


def diagonal(x: Array, architecture: Architecture, oracle: str) -> dict[str, Array]:
    """K(x, x) of each image alone, (n,)."""
    each = [backends.compute(row[None], None, architecture, "both", oracle, "float64") for row in x]
    return {name: np.array([K[name][0, 0] for K in each]) for name in ("nngp", "ntk")}


def check(
    x: Array,
    z: Array | None,
    architecture: Architecture,
    dtype: str,
    kernel: str = "both",
    backend: str = "cuda",
) -> None:
    """Against the definition, or the CPU in float64 where that would take minutes; exactly symmetric where it should be."""
    K = backends.compute(x, z, architecture, kernel, backend, dtype)
    oracle = "reference" if x.shape[1] * x.shape[2] <= LARGEST else "cpu"
    truth = backends.compute(x, z, architecture, "both", oracle, "float64")
    xx = diagonal(x, architecture, oracle)
    zz = xx if z is None else diagonal(z, architecture, oracle)
    assert list(K) == (["nngp", "ntk"] if kernel == "both" else [kernel])
    for name, values in K.items():
        assert values.dtype == dtype
        assert values.shape == truth[name].shape
        error = worst(values, truth[name], xx[name], zz[name])
        assert error <= relative(dtype, architecture), f"{architecture} {name} {dtype} {x.shape}: {error:.1e}"
        if z is None:
            assert (values == values.T).all()


def check_case(case: Case, dtype: str, kernel: str = "both") -> None:
    architecture, shape, n, m = case
    x = images(n, *shape).astype(dtype)
    check(x, images(m, *shape, seed=1).astype(dtype) if m else None, architecture, dtype, kernel)
