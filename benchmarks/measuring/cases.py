"""What is measured: networks, images, sizes, the peers' settings to search, and the targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture


@dataclass(frozen=True)
class Case:
    """One kernel on images of one size.

    Attributes:
        name: of the rows in the tables.
        architecture, kernel: what is computed.
        shape: of a row, (H, W, C) or (d,).
        dtypes: that we are measured in; the peers are always searched in both.
        rows: (n, m) of our K(x, z), chosen for about a second.
        symmetric: n of our K(x, x) in float32; float64, with half as many images a block, takes half of it.
        peer: the environment in peers/.
        settings: the peer's settings to search, "batch" (it computes batch × batch pairs a call) among them.
        target: how many times the rate of the peer's faster dtype, by our dtype.
        same_dtype_target: how many times the peer's rate in our own dtype.
    """

    name: str
    architecture: Architecture
    kernel: str
    shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    rows: tuple[int, int]
    symmetric: int
    peer: str
    settings: tuple[dict[str, Any], ...]
    target: dict[str, float] = field(default_factory=dict)
    same_dtype_target: dict[str, float] = field(default_factory=dict)

    @property
    def updates(self) -> int:
        """Of one pair: shifts × pixels × layers; shifts are H·W for GAP, else 1, and an FCN has one pixel."""
        pixels = self.shape[0] * self.shape[1] if len(self.shape) == 3 else 1
        return (pixels if self.architecture.name == "gap" else 1) * pixels * self.architecture.depth

    @property
    def layers(self) -> list[dict[str, Any]]:
        """The network in the JSON that the peers read."""
        described: list[dict[str, Any]] = self.architecture.to_dict()["layers"]
        return described

    def size(self, dtype: str, symmetric: bool) -> tuple[int, int]:
        """(n, m) of our kernel."""
        n = self.symmetric * 4 // np.dtype(dtype).itemsize
        return (n, n) if symmetric else self.rows

    def images(self, count: int, seed: int) -> NDArray[np.float64]:
        """Rows of standard normal numbers, (count, *shape); their values change no speed."""
        return np.random.default_rng(seed).standard_normal((count, *self.shape))


def batches(*sizes: int) -> tuple[dict[str, Any], ...]:
    return tuple({"batch": size} for size in sizes)


def torch_settings(threads: int, *sizes: int) -> tuple[dict[str, Any], ...]:
    """Batches × {all cores, one}."""
    counts = sorted({1, threads}, reverse=True)
    return tuple({"batch": size, "threads": count} for count in counts for size in sizes)


def cases(threads: int) -> tuple[Case, ...]:
    """The cases of the committed table. 3×3 SAME, ReLU, σw² = 2, σb² = 0.01 throughout."""
    gap = {
        "dtypes": ("float32", "float64"),
        "target": {"float32": 20.0},
        "same_dtype_target": {"float32": 60.0, "float64": 6.0},
    }
    return (
        _case("gap-8x8x1", Architecture.gap, 4, (256, 256), 384, batches(8, 12, 16, 20, 28, 40), **gap),
        _case("gap-28x28x1", Architecture.gap, 4, (16, 32), 64, batches(2, 3, 4, 6), **gap),
        # a batch of 4 was tried: a third slower, a minute a call in float32
        _case("gap-32x32x3", Architecture.gap, 8, (8, 16), 64, batches(2, 3), **gap),
        _case(
            "vec-32x32x3",
            Architecture.vec,
            8,
            (384, 384),
            640,
            batches(16, 32, 50, 70, 100, 140),
            target={"float32": 10.0},
        ),
        _case(
            "vec-32x32x3",
            Architecture.vec,
            8,
            (384, 384),
            640,
            torch_settings(threads, 6, 10, 15, 25, 50, 100),
            kernel="nngp",
            peer="cnn_gp_like",
            target={"float32": 8.0},
        ),
        _case(
            "fcn-3072",
            Architecture.fcn,
            3,
            (6000, 6000),
            8192,
            batches(250, 500, 1000, 2000, 4000),
            target={"float32": 1.5},
        ),
    )


def _case(
    images: str,
    network: Callable[..., Architecture],
    depth: int,
    rows: tuple[int, int],
    symmetric: int,
    settings: tuple[dict[str, Any], ...],
    kernel: str = "ntk",
    peer: str = "neural_tangents",
    dtypes: tuple[str, ...] = ("float32",),
    **targets: Any,
) -> Case:
    """A case from its images' name, ARCH-HxWxC or fcn-d."""
    shape = tuple(int(size) for size in images.partition("-")[2].split("x"))
    architecture = network(depth=depth, weight_variance=2.0, bias_variance=0.01)
    return Case(
        f"{images}-{kernel}", architecture, kernel, shape, dtypes, rows, symmetric, peer, settings, **targets
    )


def quick(case: Case) -> Case:
    """The same case at a size for a smoke run: one setting for the peer, few pairs."""
    few = (64, 64) if len(case.shape) == 1 else (2, 16)
    setting = case.settings[0] | {"batch": 1 if case.updates > 1_000_000 else 4}
    values = case.__dict__ | {
        "rows": few,
        "symmetric": 16,
        "settings": (setting,),
        "target": {},
        "same_dtype_target": {},
    }
    return Case(**values)
