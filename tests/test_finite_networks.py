"""Monte-Carlo over wide finite networks: an oracle that shares no code with the kernels.

Each layer's weights are drawn with variance σw²/fan-in, so that the outputs' covariance over draws is the NNGP kernel, and the
sum of squared derivatives with respect to standard normal weights the NTK. With last-layer weights integrated out exactly, the
NNGP estimate is the mean product of last-layer activations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.kernels import backends
from kernreg.layers import Conv

Array = NDArray[np.float64]

WIDTH, DRAWS = 256, 48
W2, B2 = 1.7, 0.2


def relu(t: Array) -> Array:
    return np.maximum(t, 0)


def windows(x: Array, k: int, padding: str) -> Array:
    """(n, H, W, k·k·C): the pixels that each output pixel reads."""
    r = k // 2
    x = np.pad(x, ((0, 0), (r, r), (r, r), (0, 0)), mode="wrap" if padding == "CIRCULAR" else "constant")
    H, W = x.shape[1] - 2 * r, x.shape[2] - 2 * r
    return np.concatenate([x[:, i : i + H, j : j + W] for i in range(k) for j in range(k)], axis=-1)


def features(x: Array, architecture: Architecture, rng: np.random.Generator) -> Array:
    """Activations before the readout, (n, pixels, width), of one random network."""
    h = x
    for layer in architecture.layers:
        if not isinstance(layer, Conv):
            continue
        patches = windows(h, layer.filter[0], layer.padding)
        n, H, W, fan_in = patches.shape
        if "local" in type(layer).__name__.lower():
            weights = rng.standard_normal((H * W, fan_in, WIDTH))
            bias = rng.standard_normal((H * W, WIDTH)).reshape(H, W, WIDTH)
            h = np.einsum("npf,pfo->npo", patches.reshape(n, H * W, fan_in), weights).reshape(n, H, W, WIDTH)
        else:
            bias = rng.standard_normal(WIDTH)
            h = patches @ rng.standard_normal((fan_in, WIDTH))
        h = relu(h * np.sqrt(layer.weight_variance / fan_in) + bias * np.sqrt(layer.bias_variance))
    return h.reshape(len(x), -1, WIDTH)


@pytest.mark.parametrize("name", ["vec", "lcn", "gap", "lcn-gap"])
def test_random_convolutional_networks_have_the_nngp_kernel(name: str) -> None:
    settings: dict[str, Any] = {"padding": "CIRCULAR"} if name == "gap" else {}
    architecture = Architecture.preset(name, depth=2, weight_variance=W2, bias_variance=B2, **settings)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((4, 4, 3, 2))
    estimates = []
    for _ in range(DRAWS):
        h = features(x, architecture, rng)
        if "gap" in name:
            h = h.mean(axis=1, keepdims=True)
        estimates.append(W2 * np.einsum("npw,mpw->nm", h, h) / (h.shape[1] * WIDTH) + B2)
    mean, error = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(DRAWS)
    K = backends.compute(x, None, architecture, "nngp", "cpu", "float64")["nngp"]
    # 10 different entries: 4.5 standard errors is passed by chance in fewer than 1 of 10,000 seeds
    # the bias of a finite width is 1/WIDTH of the kernel
    assert (np.abs(mean - K) < 4.5 * error + 2 / WIDTH * K).all()


def test_derivatives_of_random_dense_networks_have_the_ntk() -> None:
    """Back-propagation by hand through two hidden layers."""
    architecture = Architecture.fcn(2, W2, B2)
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4, 5))
    s, b = np.sqrt(W2), np.sqrt(B2)
    estimates = []
    for _ in range(DRAWS * 4):
        W_1, W_2 = rng.standard_normal((5, WIDTH)), rng.standard_normal((WIDTH, WIDTH))
        readout = rng.standard_normal(WIDTH)
        h_1 = s / np.sqrt(5) * x @ W_1 + b * rng.standard_normal(WIDTH)
        h_2 = s / np.sqrt(WIDTH) * relu(h_1) @ W_2 + b * rng.standard_normal(WIDTH)
        back_2 = s / np.sqrt(WIDTH) * readout * (h_2 > 0)
        back_1 = s / np.sqrt(WIDTH) * (back_2 @ W_2.T) * (h_1 > 0)
        ntk = W2 / WIDTH * relu(h_2) @ relu(h_2).T + B2
        ntk = ntk + (back_2 @ back_2.T) * (W2 / WIDTH * relu(h_1) @ relu(h_1).T + B2)
        ntk = ntk + (back_1 @ back_1.T) * (W2 / 5 * x @ x.T + B2)
        estimates.append(ntk)
    mean, error = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(len(estimates))
    K = backends.compute(x, None, architecture, "ntk", "cpu", "float64")["ntk"]
    assert (np.abs(mean - K) < 4.5 * error + 2 / WIDTH * K).all()
