"""The backends by name: which one computes, what it covers, and what a pair costs."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import lanes
from kernreg.kernels.geometry import output_size
from kernreg.layers import Activation, AvgPool, Conv, GlobalAvgPool, LocalConv, Residual

MODULES = {
    "cpu": "kernreg.kernels.on_cpu",
    "cuda": "kernreg.kernels.on_cuda",
    "triton": "kernreg.kernels.on_triton",
    "reference": "kernreg.kernels.reference",
}
# What "auto" tries before the CPU, in this order.
FASTEST = ("cuda", "triton")


def resolve(name: str, architecture: Architecture | None = None, shape: tuple[int, ...] = ()) -> str:
    """The backend that a name stands for.

    Args:
        name: of a backend; or "auto", the fastest one that this machine has and that covers the network.
        architecture, shape: the network and its rows, (H, W, C) or (d,); without them "auto" looks at the machine only.

    Raises:
        KernregError: unknown name, or a backend, named, that this machine cannot run, with the remedy.
    """
    if name == "auto":
        fast = FASTEST if lanes.gpu_in_sight() else ()
        return next((name for name in fast if _usable(name, architecture, shape)), "cpu")
    if name not in MODULES:
        raise KernregError(f"unknown backend {name!r}; this version has: auto, {', '.join(MODULES)}")
    if absent := lanes.absence(name):
        raise KernregError(absent)
    return name


def _usable(name: str, architecture: Architecture | None, shape: tuple[int, ...]) -> bool:
    if name not in MODULES or lanes.absence(name):
        return False
    try:
        if architecture is not None:
            covers(name, architecture, shape)
    except NotImplementedError:
        return False
    return True


def compute(
    x: NDArray[np.floating],
    z: NDArray[np.floating] | None,
    architecture: Architecture,
    kernel: str,
    backend: str,
    dtype: str,
) -> dict[str, NDArray[np.floating]]:
    """K(x, z) on a named backend: (n, m) for images (n, H, W, C) and (m, H, W, C) or vectors (n, d) and (m, d).

    Args:
        x, z: rows; z None means x, and the result is exactly symmetric.
        architecture: which network.
        kernel: "nngp", "ntk" or "both".
        backend: a name of `MODULES`, or "auto", of this machine.
        dtype: "float32" or "float64", of the arithmetic and the result (the reference always computes in float64).

    Returns:
        {"nngp": …, "ntk": …} or the one asked for. The same call gives the same bits.

    Raises:
        NotImplementedError: a layer that the backend does not cover, by name.
        KernregError: unknown name, or images that the network does not fit.
    """
    _check_choice("kernel", kernel, ("nngp", "ntk", "both"))
    _check_choice("dtype", dtype, ("float32", "float64"))
    backend = resolve(backend, architecture, x.shape[1:])
    covers(backend, architecture, x.shape[1:])
    out: dict[str, NDArray[np.floating]] = _module(backend).compute(x, z, architecture, kernel, dtype)
    return out


def matmul(
    x: NDArray[np.floating],
    z: NDArray[np.floating] | None,
    architecture: Architecture,
    kernel: str,
    backend: str,
    dtype: str,
    V: NDArray[np.float64],
) -> NDArray[np.floating] | None:
    """K(x, z)·V, (n, c) float64, by a backend that multiplies a tile where it has computed it; None if this one does not.

    Args:
        x, z, architecture, backend, dtype: as in `compute`; kernel: "nngp" or "ntk"; V: (m, c).

    Raises:
        NotImplementedError, KernregError: as `compute`.
    """
    backend = resolve(backend, architecture, x.shape[1:])
    fused = getattr(_module(backend), "matmul", None)
    if fused is None:
        return None
    covers(backend, architecture, x.shape[1:])
    out: NDArray[np.floating] = fused(x, architecture, kernel, V, dtype, z)
    return out


def covers(backend: str, architecture: Architecture, shape: tuple[int, ...]) -> None:
    """Return if the backend computes this network on rows of this shape, (H, W, C) or (d,).

    Raises:
        NotImplementedError: names the layer.
        KernregError: the images do not fit the network.
    """
    if len(shape) not in (1, 3):
        raise KernregError(f"a row must be a vector (d,) or an image (H, W, C), not of shape {tuple(shape)}")
    if len(shape) == 1 and any(isinstance(layer, Conv | AvgPool) for layer in architecture.layers):
        raise KernregError(
            f"architecture {architecture.name or architecture.digest!r} needs images (n, H, W, C), not vectors of {shape[0]} "
            "numbers: reshape them, or use --arch fcn"
        )
    name = backend if backend in MODULES else resolve(backend, architecture, shape)
    _module(name).covers(architecture, shape)


def updates(architecture: Architecture, shape: tuple[int, ...]) -> int:
    """The cost of one pair in updates, one (shift, pixel, layer) each (docs/performance.md)."""
    H, W = (shape[0], shape[1]) if len(shape) == 3 else (1, 1)
    pooled = any(isinstance(layer, GlobalAvgPool | AvgPool | Residual) for layer in architecture.layers)
    local = any(isinstance(layer, LocalConv) for layer in architecture.layers)
    total = 0
    if not any(isinstance(layer, Conv) for layer in architecture.layers):
        d = int(np.prod(shape))
        return (
            max(d // 32, 1) + architecture.depth
        )  # a multiply-add of the input product is ~1/32 of an update
    for layer in architecture.layers:
        if isinstance(layer, Conv | AvgPool):
            window = layer.filter if isinstance(layer, Conv) else layer.window
            H = output_size(H, window[0], layer.strides[0], layer.padding)
            W = output_size(W, window[1], layer.strides[1], layer.padding)
        if isinstance(layer, Activation):
            total += (H * W) ** 2 if pooled and not local else H * W
    return max(total, 1)


def _module(backend: str) -> ModuleType:
    return importlib.import_module(MODULES[backend])


def _check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise KernregError(f"unknown {what} {value!r}; use {', '.join(known)}")
