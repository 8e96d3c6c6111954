"""NNGP and NTK on an NVIDIA GPU with Triton: fully connected networks, and convolutional ones whose windows do not overlap.

A tile of a fully connected K is one GEMM with all layers fused behind it; the patch networks of Xiao (2022) are trees of means
over small ones (kernels/triton_tree.py). `compute` and `matmul` take NumPy arrays. `gram` and `product` take rows
on the device (`triton_rows.prepare`) and launch on its current stream without waiting, so that copies can overlap.

Equal arguments give equal bits: block sizes come from a table, never from a timing, and no sum depends on the order of programs.
With TRITON_INTERPRET=1 in the environment everything runs on the CPU, slowly, for tests.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels.tree import Tree, tree
from kernreg.kernels.triton_device import Tensor, current, device, fetched, moved, torch
from kernreg.kernels.triton_rows import Rows, prepare

Array: TypeAlias = NDArray[np.floating[Any]]

PROGRAMS = 512  # of a product, at least, where its matrix has that many tiles
VECTORS = 16  # that a tile is multiplied with, once computed
NEAR = {4: 1e-2, 8: 1e-4}  # by bytes of a number: 1 − |c| below which a GEMM is not exact enough


@dataclass(frozen=True)
class Blocks:
    """Rows and columns of a tile, terms of a sum at a time; segment: terms summed before they join the total."""

    rows: int
    columns: int
    terms: int
    segment: int
    warps: int
    stages: int


# By (long leaf, bytes of a number); docs/triton.md has the registers that the compiler gives each.
BLOCKS = {
    (True, 4): Blocks(128, 64, 32, 512, warps=8, stages=2),
    (True, 8): Blocks(64, 64, 16, 1 << 30, warps=8, stages=3),
    (False, 4): Blocks(32, 32, 16, 1, warps=4, stages=1),
    (False, 8): Blocks(32, 32, 16, 1, warps=8, stages=1),
}


def covers(architecture: Architecture, shape: tuple[int, ...]) -> None:
    """Return if this machine computes the network on rows of this shape.

    Raises:
        NotImplementedError: a layer outside the tree networks, by name.
        KernregError: torch, triton or a GPU is missing.
    """
    tree(architecture, shape)
    device()


def compute(
    x: Array, z: Array | None, architecture: Architecture, kernel: str = "ntk", dtype: str = "float64"
) -> dict[str, Array]:
    """K(x, z) between all rows; arguments and result as in `reference.compute`.

    Raises:
        NotImplementedError: a layer outside the tree networks, by name.
        KernregError: torch, triton or a GPU is missing; inputs whose squares leave the range of the dtype.
    """
    X = prepare(moved(x), architecture, dtype)
    Z = None if z is None else prepare(moved(z), architecture, dtype)
    return {name: fetched(K) for name, K in gram(X, Z, kernel).items()}


def matmul(
    x: Array,
    architecture: Architecture,
    kernel: str,
    V: Array,
    dtype: str = "float32",
    z: Array | None = None,
) -> Array:
    """K(x, z)·V without K: its tiles are computed, multiplied and dropped.

    Args:
        x: (n, …) rows.
        architecture: the network.
        kernel: "nngp" or "ntk".
        V: (m,) or (m, c), float32 or float64, which is also the precision of the sums and of the result.
        dtype: of the entries of K.
        z: (m, …) rows; None means x.

    Returns:
        (n,) or (n, c), in the dtype of V.

    Raises:
        NotImplementedError, KernregError: as `compute`, and as `product`.
    """
    X = prepare(moved(x), architecture, dtype)
    Z = None if z is None else prepare(moved(z), architecture, dtype)
    return fetched(product(X, Z, kernel, moved(V)))


def gram(
    X: Rows,
    Z: Rows | None,
    kernel: str = "ntk",
    out: Mapping[str, Tensor] | None = None,
    precision: str = "ieee",
) -> dict[str, Tensor]:
    """K(X, Z) on the device by name, launched on the current stream.

    Args:
        X, Z: n and m rows; Z None means X, and the result is exactly symmetric.
        kernel: "nngp", "ntk" or "both".
        out: (n, m) tensors to write to, rows contiguous, by name; new ones when None.
        precision: of the GEMM of long float32 leaves: "ieee", or "tf32x3", three products on tensor cores.

    Raises:
        KernregError: X and Z prepared for different networks or dtypes.
    """
    same, Z = Z is None, X if Z is None else Z
    _require_alike(X, Z)
    n, m, real, place = len(X), len(Z), X.table.dtype, X.table.device
    names = [name for name in ("nngp", "ntk") if kernel in (name, "both")]
    K = {name: out[name] if out else torch().empty((n, m), dtype=real, device=place) for name in names}
    nngp, ntk = (K.get(name, K[names[0]]) for name in ("nngp", "ntk"))
    tiles = _tiles(n, m, BLOCKS[X.long, real.itemsize], same, place)
    with current(place):
        _kernels().gram_kernel[(len(tiles),)](
            *_arguments(X, Z), tiles, nngp, ntk, n, m, *_sizes(X, Z), nngp.stride(0), ntk.stride(0),
            *_counts(X.tree), NNGP="nngp" in K, NTK="ntk" in K, **_settings(X, same, precision),
        )  # fmt: skip
    return K


def product(X: Rows, Z: Rows | None, kernel: str, V: Tensor, precision: str = "ieee") -> Tensor:
    """K(X, Z)·V on the device: (n,) or (n, c), launched on the current stream.

    Args:
        X, Z: n and m rows; Z None means X.
        kernel: "nngp" or "ntk".
        V: (m,) or (m, c), float32 or float64: the precision of the sums.
        precision: as in `gram`.

    Raises:
        KernregError: V of a wrong shape or dtype, both kernels, or rows prepared for different networks.
    """
    same, Z = Z is None, X if Z is None else Z
    _require_alike(X, Z)
    n, m = len(X), len(Z)
    wide = (torch().float32, torch().float64)
    if V.ndim not in (1, 2) or len(V) != m or V.numel() == 0 or V.dtype not in wide:
        raise KernregError(
            f"K is {n}×{m}: V must be ({m},) or ({m}, c), float32 or float64, not {tuple(V.shape)} {V.dtype}"
        )
    if kernel not in ("nngp", "ntk"):
        raise KernregError(f"a product is with one kernel, nngp or ntk, not {kernel!r}")
    vectors = V.reshape(m, -1).T.contiguous()
    count, blocks = len(vectors), BLOCKS[X.long, X.table.dtype.itemsize]
    rows, columns = -(-n // blocks.rows), -(-m // blocks.columns)
    each = -(-columns // min(columns, -(-PROGRAMS // rows)))
    parts = -(-columns // each)
    out = torch().empty((parts, count, n), dtype=V.dtype, device=V.device)
    with current(V.device):
        _kernels().product_kernel[(rows, parts, -(-count // VECTORS))](
            *_arguments(X, Z), vectors, out, n, m, *_sizes(X, Z), m, *_counts(X.tree), count, each,
            NTK=kernel == "ntk", BC=VECTORS, **_settings(X, same, precision),
        )  # fmt: skip
    return out.sum(0).T.reshape(n, *V.shape[1:])


def _kernels() -> Any:
    return importlib.import_module("kernreg.kernels.triton_tree")


def _require_alike(X: Rows, Z: Rows) -> None:
    if not X.tree.equals(Z.tree) or X.table.dtype != Z.table.dtype:
        raise KernregError("x and z were prepared for different networks or dtypes: prepare both alike")


def _arguments(X: Rows, Z: Rows) -> tuple[Tensor, ...]:
    constants = _constants(X.tree, X.table.dtype, X.table.device)
    return (X.units, Z.units, X.table, Z.table, X.scale, Z.scale, *constants)


@lru_cache(maxsize=64)
def _constants(t: Tree, real: Any, place: Any) -> tuple[Tensor, ...]:
    """starts, affines, kinds, groups and readout of the kernels."""
    affines = [(stage.weight, stage.bias) for stage in t.stages]
    readout = [(layer.weight_variance, layer.bias_variance) for layer in t.readout]
    whole = ([stage.kind for stage in t.stages], [stage.children for stage in t.stages])
    return (
        torch().tensor(np.cumsum([0, *t.nodes[:-1]]), dtype=torch().int64, device=place),
        torch().tensor(affines, dtype=real, device=place),
        *(torch().tensor(numbers, dtype=torch().int32, device=place) for numbers in whole),
        torch().tensor([*readout, (0.0, 0.0)], dtype=real, device=place),
    )


def _sizes(X: Rows, Z: Rows) -> tuple[int, ...]:
    """q, and the leading dimensions of units and tables."""
    return (X.q, X.units.stride(0), Z.units.stride(0), X.table.stride(1), Z.table.stride(1))


def _counts(t: Tree) -> tuple[int, int, int]:
    return len(t.stages), t.tops, len(t.readout)


def _settings(X: Rows, same: bool, precision: str) -> dict[str, Any]:
    """What the kernels are compiled for."""
    t, itemsize = X.tree, X.table.dtype.itemsize
    blocks = BLOCKS[X.long, itemsize]
    return {
        "LEVELS": t.levels,
        "POOLED": t.tops > 1,
        "SIGNED": t.signed,
        "KINDS": sum(1 << kind for kind in t.kinds),
        "LONG": X.long,
        "SAME": same,
        "NEAR": NEAR[itemsize],
        "PRECISION": "ieee" if itemsize == 8 else precision,
        "SEGMENT": blocks.segment,
        "BM": blocks.rows,
        "BN": blocks.columns,
        "BK": blocks.terms,
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
        "enable_fp_fusion": True,
    }


@lru_cache(maxsize=64)
def _tiles(n: int, m: int, blocks: Blocks, same: bool, place: Any) -> Tensor:
    """(tiles, 2) int32: block row and block column, eight block rows at a time, which stay in the cache."""
    i, j = np.meshgrid(np.arange(-(-n // blocks.rows)), np.arange(-(-m // blocks.columns)), indexing="ij")
    places = np.stack([i.ravel(), j.ravel()], axis=1)
    if same:
        places = places[places[:, 0] * blocks.rows < (places[:, 1] + 1) * blocks.columns]
    order = np.lexsort((places[:, 0], places[:, 1], places[:, 0] // 8))
    return torch().tensor(places[order], dtype=torch().int32, device=place)
