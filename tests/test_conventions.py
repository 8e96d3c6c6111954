"""The conversions of docs/architectures.md, against the other conventions written out literally."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.kernels.reference import compute

Array = NDArray[np.float64]
DEPTH, CHANNELS, PIXELS = 3, 2, 5 * 4


def images(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((1, 5, 4, CHANNELS))


def window_mean(s: Array) -> Array:
    """(1/9)·Σ_δ s[p+δ, p'+δ] of (H, W, H, W) with zeros outside the image."""
    H, W = s.shape[:2]
    padded = np.pad(s, 1)
    shifts = [(a, b) for a in range(3) for b in range(3)]
    return sum((padded[a : a + H, b : b + W, a : a + H, b : b + W] for a, b in shifts), np.zeros_like(s)) / 9


def cntk(x: Array, z: Array) -> tuple[Array, Array]:
    """The CNTK of Arora et al. 2019 (§4 and appendix H), all layers trained: (H, W, H, W) NNGP and NTK.

    Sums over channels; no factor before the first convolution, c_σ = 2 after every ReLU; no biases.
    """
    s = {ab: window_mean(np.einsum("ijc,klc->ijkl", a, b)) for ab, (a, b) in pairs(x, z).items()}
    t = s["xz"]
    for layer in range(DEPTH):
        norm = np.sqrt(np.multiply.outer(diagonal(s["xx"]), diagonal(s["zz"])))
        angle = np.arccos(np.clip(s["xz"] / norm, -1, 1))
        xz = norm * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
        derivative = (np.pi - angle) / np.pi
        s = {"xx": rectified(s["xx"]), "zz": rectified(s["zz"]), "xz": xz}
        if layer < DEPTH - 1:
            s = {key: window_mean(value) for key, value in s.items()}
            t = window_mean(t * derivative) + s["xz"]
        else:
            t = t * derivative + s["xz"]
    return s["xz"], t


def pairs(x: Array, z: Array) -> dict[str, tuple[Array, Array]]:
    return {"xx": (x, x), "zz": (z, z), "xz": (x, z)}


def diagonal(s: Array) -> Array:
    return np.asarray(np.einsum("ijij->ij", s))


def rectified(s: Array) -> Array:
    norm = np.sqrt(np.multiply.outer(diagonal(s), diagonal(s)))
    angle = np.arccos(np.clip(s / norm, -1, 1))
    return np.asarray(norm * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi)


@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
def test_arora_sums_where_we_average(kernel: str) -> None:
    x, z = images(1), images(2)
    theirs = cntk(x[0], z[0])[("nngp", "ntk").index(kernel)]
    gap, vec = (
        compute(x, z, Architecture.preset(name, depth=DEPTH, bias_variance=0.0), kernel, "float64")[kernel][
            0, 0
        ]
        for name in ("gap", "vec")
    )
    np.testing.assert_allclose(theirs.mean(), CHANNELS / 2 * gap, rtol=1e-12)
    np.testing.assert_allclose(np.einsum("ijij->", theirs), CHANNELS * PIXELS / 2 * vec, rtol=1e-12)


@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
@pytest.mark.parametrize("preset", ["fcn", "vec", "gap", "lcn-gap"])
def test_bias_free_relu_is_homogeneous_in_the_weight_variance(preset: str, kernel: str) -> None:
    x, z, a = images(1), images(2), 1.3
    ours, other = (
        compute(x, z, Architecture.preset(preset, depth=DEPTH, **settings), kernel, "float64")[kernel]
        for settings in ({"bias_variance": 0.0}, {"bias_variance": 0.0, "weight_variance": a})
    )
    np.testing.assert_allclose(other, (a / 2) ** (DEPTH + 1) * ours, rtol=1e-12)
