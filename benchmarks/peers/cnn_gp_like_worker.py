"""A stand-in for cnn-gp (Garriga-Alonso et al., 2019), which no package index has: its design, written anew.

NNGP only, diagonal path: the covariances of all pairs of a batch are images of one channel, (n·m, 1, H, W); a
convolution is torch's conv2d with a constant filter σw²/k²; ReLU is the arc-cosine formula in eager tensor
operations. avg_pool2d instead of conv2d, and einsum instead of the broadcast product, were tried: slower. The
number of threads is a setting. The argument is the dtype.
"""

import math
import sys

import numpy as np
import torch
import torch.nn.functional as F
from serving import serve

DTYPE = getattr(torch, sys.argv[1])
EPSILON = 1e-30  # keeps an all-zero patch from dividing by zero


def box(S, layer):
    """σw²/k²·Σ_δ S[p+δ] + σb²; zeros outside."""
    kh, kw = layer["filter"]
    if layer["padding"] != "SAME" or layer["strides"] != [1, 1] or kh % 2 == 0 or kw % 2 == 0:
        raise ValueError("this worker has odd filters, SAME, stride 1 only")
    weight = torch.full((1, 1, kh, kw), layer["W_var"] / (kh * kw), dtype=DTYPE)
    return F.conv2d(S, weight, padding=(kh // 2, kw // 2)) + layer["b_var"]


def relu(xz, xx, zz):
    """E[ReLU ReLU] of xz (n, m, H, W) with variances xx (n, 1, H, W) and zz (1, m, H, W)."""
    product = xx * zz + EPSILON
    theta = torch.acos((xz * product.rsqrt()).clamp(-1.0, 1.0))
    sine = (product - xz * xz).clamp(min=0.0).sqrt()
    return (sine + (math.pi - theta) * xz) / (2.0 * math.pi)


def nngp(x, z, layers):
    """NNGP of images (n, C, H, W) and (m, C, H, W) → (n, m)."""
    n, m = len(x), len(z)
    H, W = x.shape[2:]
    xz = (x[:, None] * z).mean(2)
    xx, zz = (x * x).mean(1, keepdim=True), (z * z).mean(1, keepdim=True)
    for layer in layers:
        if layer["type"] == "conv":
            xz = box(xz.reshape(n * m, 1, H, W), layer).reshape(n, m, H, W)
            xx, zz = box(xx, layer), box(zz, layer)
        elif layer["type"] == "act" and layer["fn"] == "relu":
            xz = relu(xz, xx, zz.reshape(1, m, H, W))
            xx, zz = xx / 2, zz / 2
        elif layer["type"] == "flatten":
            xz = xz.mean((2, 3))
        elif layer["type"] == "dense":
            xz = layer["W_var"] * xz + layer["b_var"]
        else:
            raise ValueError(f"this worker has no layer {layer}")
    return xz


def prepare(layers, kernel, x, z, settings):
    if kernel != "nngp":
        raise ValueError("this peer has the NNGP kernel only")
    torch.set_num_threads(settings["threads"])
    x, z = (
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(a, -1, 1))).to(DTYPE)
        for a in (x, x if z is None else z)
    )

    def run():
        with torch.inference_mode():
            return nngp(x, z, layers)

    return run


serve(prepare, {"torch": torch.__version__, "numpy": np.__version__})
