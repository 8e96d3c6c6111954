"""What training by SGD does not see of a change of coordinates, step by step; Adam sees all of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.finite.modules import LocalConvLayer, Weights
from kernreg.finite.networks import Network, network
from kernreg.haar import haar

Array = NDArray[np.float64]

SHAPE = (5, 4, 2)
ROUNDING = 1e-12  # float64 sums of some hundred terms of order 1
DOUBLE: dict[str, Any] = {"dtype": torch.float64}
V: dict[str, Any] = {"weight_variance": 1.7, "bias_variance": 0.3}


def rotation(d: int, seed: int) -> Array:
    drawn: Array = haar(1, d, np.random.PCG64(seed))[0]
    return drawn


def trained(net: Network, x: Array, y: Array, test: Array, adam: bool = False) -> Array:
    """Predictions after some steps of SGD with momentum, or of Adam."""
    X, Y = torch.from_numpy(x), torch.from_numpy(y)
    kind = torch.optim.Adam(net.parameters(), 0.01) if adam else torch.optim.SGD(net.parameters(), 0.05, 0.9)
    for step in range(12):
        rows = [(3 * step + i) % len(x) for i in range(3)]
        kind.zero_grad()
        (net(X[rows]) - Y[rows]).square().sum().backward()
        kind.step()
    f: Array = net(torch.from_numpy(test)).detach().numpy()
    return f


@pytest.mark.parametrize(
    ("name", "group"), [("fcn", "all"), ("lcn", "pixel"), ("vec", "channel"), ("gap", "channel")]
)
def test_sgd_does_not_see_the_symmetry_of_its_network(name: str, group: str) -> None:
    """Rotated data and rotated first weights, which a Gaussian draws as likely, give the predictions as they were; what theory
    says of the distribution of trained networks (docs/symmetry.md). Adam, which looks at coordinates, does not."""
    rng = np.random.default_rng(2)
    x, y, test = (
        rng.standard_normal((8, *SHAPE)),
        rng.standard_normal((8, 1)),
        rng.standard_normal((3, *SHAPE)),
    )
    H, W, C = SHAPE
    pixels = [rotation(C, seed) if group == "pixel" else rotation(C, 9) for seed in range(H * W)]
    R = rotation(H * W * C, 9)

    def turn(images: Array) -> Array:
        if group == "all":
            return np.ascontiguousarray((images.reshape(len(images), -1) @ R.T).reshape(images.shape))
        flat = images.reshape(len(images), H * W, C)
        return np.ascontiguousarray(np.einsum("pij,npj->npi", np.array(pixels), flat).reshape(images.shape))

    architecture = Architecture.preset(name, depth=2, **V)
    for adam in (False, True):
        plain = network(architecture, SHAPE, 4, seed=5, **DOUBLE)
        turned = network(architecture, SHAPE, 4, seed=5, **DOUBLE)
        first = next(m for m in turned.modules() if isinstance(m, Weights))
        with torch.no_grad():
            if group == "all":
                first.weight.copy_(torch.from_numpy(R) @ first.weight)
            elif isinstance(first, LocalConvLayer):
                _turn_local(first, pixels)
            else:
                first.weight.copy_(torch.einsum("ij,abjo->abio", torch.from_numpy(pixels[0]), first.weight))
        start = plain(torch.from_numpy(test)).detach().numpy()
        np.testing.assert_allclose(turned(torch.from_numpy(turn(test))).detach(), start, atol=1e2 * ROUNDING)
        ends = trained(plain, x, y, test, adam), trained(turned, turn(x), y, turn(test), adam)
        assert np.abs(ends[0] - start).max() > 0.01
        if adam:
            assert np.abs(ends[0] - ends[1]).max() > 1e-3
        else:
            np.testing.assert_allclose(ends[0], ends[1], atol=1e4 * ROUNDING)  # the steps amplify rounding


def _turn_local(first: LocalConvLayer, pixels: list[Array]) -> None:
    """Every weight that reads pixel q is rotated with q."""
    H, W, C = SHAPE
    weight = first.weight.unflatten(1, (3, 3, C))
    for p in range(H * W):
        for a in range(3):
            for b in range(3):
                row, column = p // W + a - 1, p % W + b - 1
                if 0 <= row < H and 0 <= column < W:
                    turn = torch.from_numpy(pixels[row * W + column])
                    weight[p, a, b] = turn @ weight[p, a, b]
