"""CNN-GAP and CNN-VEC as a user would write them in PyTorch: the 4-D covariance of a batch of pairs, layer by layer.

3×3 SAME convolutions, ReLU. GAP keeps S and T between all pixels, (pairs, H, W, H, W), VEC between equal ones, (pairs, H, W).
"""

from __future__ import annotations

from typing import Any

import numpy as np


def prepare(
    x: np.ndarray[Any, Any],
    z: np.ndarray[Any, Any],
    depth: int,
    pooled: bool,
    dtype: str,
    device: str = "cuda",
) -> Any:
    """A function of nothing: the NTK (n, m), on the GPU; its inputs are there already.

    Raises:
        ImportError: no PyTorch.
    """
    import torch
    from torch.nn.functional import pad

    real = getattr(torch, dtype)
    X, Z = (torch.as_tensor(a, dtype=real, device=device) for a in (x, z))
    weight, bias = 2.0, 0.01

    def box(S: Any) -> Any:
        H, W = S.shape[-2:]
        P = pad(S, (1, 1) * (4 if pooled else 2))
        total = 0
        for dy in range(3):
            for dx in range(3):
                if pooled:
                    total = total + P[..., dy : dy + H, dx : dx + W, dy : dy + H, dx : dx + W]
                else:
                    total = total + P[..., dy : dy + H, dx : dx + W]
        return total / 9

    def relu(S: Any, Qx: Any, Qz: Any) -> tuple[Any, Any]:
        P = torch.sqrt(Qx * Qz)
        c = torch.clamp(S / P, -1, 1)
        theta = torch.acos(c)
        angle = (np.pi - theta) / (2 * np.pi)
        return P * torch.sqrt(1 - c * c) / (2 * np.pi) + S * angle, angle

    def variances(a: Any) -> list[Any]:
        S, found = (a * a).mean(-1), []
        for _ in range(depth):
            H, W = S.shape[-2:]
            P = pad(S, (1, 1, 1, 1))
            S = weight * sum(P[..., i : i + H, j : j + W] for i in range(3) for j in range(3)) / 9 + bias
            found.append(S)
            S = S / 2
        return found

    def run() -> Any:
        C = X.shape[-1]
        Qx, Qz = variances(X), variances(Z)
        if pooled:
            S = torch.einsum("nhwc,mijc->nmhwij", X, Z) / C
        else:
            S = torch.einsum("nhwc,mhwc->nmhw", X, Z) / C
        T = torch.zeros_like(S)
        for l in range(depth):
            S = weight * box(S) + bias
            T = S + weight * box(T)
            u, v = (
                (Qx[l][:, None, :, :, None, None], Qz[l][None, :, None, None])
                if pooled
                else (Qx[l][:, None], Qz[l])
            )
            S, slope = relu(S, u, v)
            T = T * slope
        axes = (-4, -3, -2, -1) if pooled else (-2, -1)
        S, T = S.mean(axes), T.mean(axes)
        S = weight * S + bias
        return S + weight * T

    return run
