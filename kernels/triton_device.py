"""PyTorch and the device that the Triton kernels run on, or what is missing and how to get it."""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import KernregError

Tensor: TypeAlias = Any  # torch.Tensor: torch is imported when it is needed


def torch() -> Any:
    """The module torch.

    Raises:
        KernregError: torch or triton is not installed, or broken.
    """
    for name in ("torch", "triton"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise KernregError(
                f"backend triton needs {name} ({error}): pip install 'kernreg[triton]'"
            ) from None
    return importlib.import_module("torch")


def device() -> Any:
    """Where inputs go: the current GPU, or the CPU with TRITON_INTERPRET=1.

    Raises:
        KernregError: torch, triton or a GPU is missing.
    """
    library = torch()
    if os.environ.get("TRITON_INTERPRET") == "1":
        return library.device("cpu")
    if not library.cuda.is_available():
        raise KernregError(
            "backend triton needs an NVIDIA GPU, and PyTorch finds none here: use --backend cpu "
            "(TRITON_INTERPRET=1 runs the kernels on the CPU, for tests)"
        )
    return library.device("cuda", library.cuda.current_device())


def moved(x: NDArray[Any]) -> Tensor:
    """A copy on the device, float64 unless float32."""
    x = x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)
    return torch().tensor(x, device=device())


def fetched(K: Tensor) -> NDArray[Any]:
    """On the host. From a GPU through page-locked memory, which its copy engine fills while another stream computes."""
    if K.device.type != "cuda":
        here: NDArray[Any] = K.numpy()
        return here
    host = torch().empty(K.shape, dtype=K.dtype, pin_memory=True)
    host.copy_(K, non_blocking=True)
    torch().cuda.current_stream(K.device).synchronize()
    there: NDArray[Any] = host.numpy()
    return there


def current(place: Any) -> contextlib.AbstractContextManager[Any]:
    """Launches inside go to this device."""
    if place.type != "cuda":
        return contextlib.nullcontext()
    guard: contextlib.AbstractContextManager[Any] = torch().cuda.device(place)
    return guard
