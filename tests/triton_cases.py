"""What the Triton kernels are held to, on whatever device runs them: a GPU, or the interpreter in a process of its own.

Every function here allocates its results full of NaN, so that an entry that no program writes is seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from tolerances import relative, worst

from kernreg.architecture import Architecture
from kernreg.kernels import backends, on_triton, reference, triton_device
from kernreg.kernels.triton_rows import prepare
from kernreg.layers import Dense

Array = NDArray[Any]

PI = 4 * np.arctan(np.longdouble(1))


def vectors(n: int, d: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, d))


def near_parallel(d: int, scale: float = 1.0) -> Array:
    """Rows at angles of 1 … 1e-6 from the first, its double, its opposite, one a little off that, and zeros."""
    x, noise = vectors(1, d, seed=2), vectors(11, d, seed=3)
    angles = np.array([1, 0.3, 0.1, 3e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 0, 0])[:, None]
    x = np.concatenate([x + angles * noise, 2 * x, -x, -x + 1e-4 * noise[:1], 0 * x, 0 * x])
    return (scale * x).astype(np.float32)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN."""
    torch = triton_device.torch()
    empty = torch.empty

    def nan(*arguments: Any, **settings: Any) -> Any:
        fresh = empty(*arguments, **settings)
        return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

    with mock.patch.object(torch, "empty", nan):
        yield


def error(x: Array, z: Array | None, architecture: Architecture, kernel: str, dtype: str) -> float:
    """The largest error of K against the reference, in units of what is allowed."""
    with poisoned():
        found = on_triton.compute(x, z, architecture, kernel, dtype)
    truth = reference.compute(x, z, architecture, kernel)
    errors = []
    for name, K in found.items():
        assert K.dtype == dtype
        assert K.shape == truth[name].shape
        assert z is not None or (K == K.T).all()
        xx, zz = (diagonal(rows, architecture, name) for rows in (x, x if z is None else z))
        errors.append(worst(K, truth[name], xx, zz) / relative(dtype, architecture))
    assert sorted(found) == (["nngp", "ntk"] if kernel == "both" else [kernel])
    return max(errors)


def extended(x: Array, z: Array, architecture: Architecture) -> dict[str, Array]:
    """K of a fully connected ReLU network in 80 bits: float64 cannot tell angles below 1e-4 apart well enough."""
    X, Z = x.astype(np.longdouble), z.astype(np.longdouble)
    S = (X[:, None] * Z).sum(-1) / X.shape[1]  # one order of summation: duplicates agree to the bit
    Qx, Qz = (X**2).sum(-1)[:, None] / X.shape[1], (Z**2).sum(-1) / X.shape[1]
    T = np.zeros_like(S)
    for layer in architecture.layers:
        if isinstance(layer, Dense):
            S, Qx, Qz = (layer.weight_variance * value + layer.bias_variance for value in (S, Qx, Qz))
            T = S + layer.weight_variance * T
        else:
            P = np.sqrt(Qx * Qz)
            acute = 2 * np.arcsin(
                np.sqrt(np.divide(np.maximum(P - abs(S), 0), 2 * P, out=0 * P, where=P > 0))
            )
            theta = np.where(S < 0, PI - acute, acute)
            turn = (PI - theta) / (2 * PI)
            S, T, Qx, Qz = P * np.sin(acute) / (2 * PI) + turn * S, turn * T, Qx / 2, Qz / 2
    return {"nngp": S.astype(np.float64), "ntk": T.astype(np.float64)}


def parallel_error(x: Array, z: Array | None, architecture: Architecture, dtype: str) -> float:
    """As `error`, against `extended`."""
    with poisoned():
        found = on_triton.compute(x, z, architecture, "both", dtype)
    truth = extended(x, x if z is None else z, architecture)
    errors = []
    for name, K in found.items():
        xx, zz = (np.diag(extended(rows, rows, architecture)[name]) for rows in (x, x if z is None else z))
        errors.append(worst(K, truth[name], xx, zz) / relative(dtype, architecture))
    return max(errors)


def diagonal(x: Array, architecture: Architecture, kernel: str) -> Array:
    return np.array([reference.compute(a[None], None, architecture, kernel)[kernel][0, 0] for a in x])


def alone(x: Array, architecture: Architecture, dtype: str) -> float:
    """How far one kernel alone is from the same of both, in units of rounding."""
    both = on_triton.compute(x, None, architecture, "both", dtype)
    single = {name: on_triton.compute(x, None, architecture, name, dtype)[name] for name in both}
    eps = float(np.finfo(dtype).eps)
    return max(float(np.max(np.abs(single[name] / both[name] - 1))) for name in both) / eps


def product_error(
    n: int, m: int | None, d: int, columns: int | None, architecture: Architecture, kernel: str, dtype: str, wide: str
) -> float:  # fmt: skip
    """The largest error of K·V against the same kernel's K times V in float64, relative to |K|·|V|."""
    x, z = vectors(n, d), None if m is None else vectors(m, d, seed=1)
    V = (
        np.random.default_rng(4)
        .standard_normal((m or n, *(() if columns is None else (columns,))))
        .astype(wide)
    )
    K = on_triton.compute(x, z, architecture, kernel, dtype)[kernel].astype(np.float64)
    with poisoned():
        found = on_triton.matmul(x, architecture, kernel, V, dtype, z)
        again = on_triton.matmul(x, architecture, kernel, V, dtype, z)
    assert found.dtype == wide
    assert found.shape == (n, *V.shape[1:])
    assert (found == again).all()
    return float(np.max(np.abs(found - K @ V) / (np.abs(K) @ np.abs(V))))


def slices(architecture: Architecture, x: Array, dtype: str) -> bool:
    """Whether views of prepared rows give the blocks of the whole matrix."""
    rows = prepare(triton_device.moved(x), architecture, dtype)
    whole = on_triton.gram(rows, None, "ntk")["ntk"].cpu().numpy()
    torch = triton_device.torch()
    out = torch.full((len(x), len(x)), float("nan"), dtype=rows.table.dtype, device=rows.table.device)
    cut = len(x) // 3
    for a in (slice(0, cut), slice(cut, len(x))):
        for b in (slice(0, cut), slice(cut, len(x))):
            on_triton.gram(rows[a], None if a == b else rows[b], "ntk", {"ntk": out[a, b]})
    return bool(np.allclose(out.cpu().numpy(), whole, rtol=8 * float(np.finfo(dtype).eps), atol=0))


def far_addresses(path: str) -> bool:
    """Whether entries more than 2³¹ elements apart land where they should: K of three rows, in a sparse file."""
    stride = 2**31 + 64
    file = np.memmap(path, dtype=np.float32, mode="w+", shape=(2 * stride + 3,))
    torch = triton_device.torch()
    out = torch.from_numpy(file).as_strided((3, 3), (stride, 1))
    rows = prepare(triton_device.moved(vectors(3, 5)), Architecture.fcn(), "float32")
    K = on_triton.gram(rows, None, "ntk")["ntk"]
    on_triton.gram(rows, None, "ntk", {"ntk": out})
    return bool((out == K).all())


def refused(x: Array, architecture: Architecture, dtype: str = "float32") -> str:
    """The message of what is refused, "" if nothing is."""
    try:
        backends.compute(x, None, architecture, "ntk", "triton", dtype)
    except Exception as refusal:
        return f"{type(refusal).__name__}: {refusal}"
    return ""


def product_refused(shape: tuple[int, ...], dtype: str, kernel: str) -> str:
    try:
        on_triton.matmul(vectors(4, 3), Architecture.fcn(), kernel, np.ones(shape, dtype))
    except Exception as refusal:
        return f"{type(refusal).__name__}: {refusal}"
    return ""
