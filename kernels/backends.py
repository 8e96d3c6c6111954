"""The backends by name: which one computes, what it covers, and what a pair costs."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import device
from kernreg.kernels.geometry import output_size
from kernreg.layers import Activation, AvgPool, Conv, GlobalAvgPool, LocalConv, Residual

MODULES = {
    "cpu": "kernreg.kernels.on_cpu",
    "cuda": "kernreg.kernels.on_cuda",
    "triton": "kernreg.kernels.on_triton",
    "reference": "kernreg.kernels.reference",
}


def resolve(name: str, architecture: Architecture | None = None, shape: tuple[int, ...] | None = None) -> str:
    """The backend that a name stands for; "auto" is the fastest one that this machine has and that covers the network.

    Args:
        name: "auto", or a backend, which need not be there.
        architecture, shape: the network and the shape of a row; without them "auto" is the backend that covers all presets.

    Raises:
        KernregError: unknown name.
    """
    if name == "auto":
        return "cuda" if architecture and shape and _on_gpu(architecture, shape) else "cpu"
    if name not in MODULES:
        raise KernregError(f"unknown backend {name!r}; this version has: auto, {', '.join(MODULES)}")
    return name


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
        backend: "auto", "cpu", "cuda", "triton" or "reference".
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
    _module(backend).covers(architecture, shape)


def require(backend: str) -> None:
    """Return if the machine has what the backend needs.

    Raises:
        KernregError: names what is missing, and the remedy.
    """
    if resolve(backend) == "cuda":
        device.Cuda()


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


def _on_gpu(architecture: Architecture, shape: tuple[int, ...]) -> bool:
    """Whether the CUDA backend is there and computes this network."""
    if not device.present():
        return False
    try:
        covers("cuda", architecture, shape)
    except NotImplementedError:
        return False
    return True


def _module(backend: str) -> ModuleType:
    return importlib.import_module(MODULES[resolve(backend)])


def _check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise KernregError(f"unknown {what} {value!r}; use {', '.join(known)}")
