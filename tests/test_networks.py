"""Finite networks against a forward pass by hand, their parameterizations, and the symmetries of what they learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.finite.modules import Weights
from kernreg.finite.networks import network
from kernreg.finite.stack import stacked
from kernreg.layers import (
    Activation,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Layer,
    LocalConv,
    Residual,
)

Array = NDArray[np.float64]

SHAPE = (5, 4, 2)
ROUNDING = 1e-12  # float64 sums of some hundred terms of order 1
DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def by_hand(layers: tuple[Layer, ...], weights: list[tuple[Array, Array | None]], x: Array) -> Array:
    """The network of docs/kernels.md, pixel by pixel; takes its weights, of the NTK parameterization, from the front."""
    for layer in layers:
        x = _layer(layer, weights, x)
    return x


def _layer(layer: Layer, weights: list[tuple[Array, Array | None]], x: Array) -> Array:
    match layer:
        case Dense():
            W, b = weights.pop(0)
            y: Array = math.sqrt(layer.weight_variance / len(W)) * x @ W
            return y if b is None else np.asarray(y + math.sqrt(layer.bias_variance) * b)
        case Conv():
            W, b = weights.pop(0)
            fan_in = math.prod(layer.filter) * x.shape[3]
            local = isinstance(layer, LocalConv)
            out = np.zeros((len(x), *_grid(layer, layer.filter, x), W.shape[-1]))
            for i in range(out.shape[1]):
                for j in range(out.shape[2]):
                    seen = _window(layer, layer.filter, x, i, j).reshape(len(x), -1)
                    own = W[i * out.shape[2] + j] if local else W.reshape(fan_in, -1)
                    out[:, i, j] = math.sqrt(layer.weight_variance / fan_in) * seen @ own
            return out if b is None else np.asarray(out + math.sqrt(layer.bias_variance) * b)
        case Activation():
            if layer.fn == "erf":
                return np.asarray(np.vectorize(math.erf)(x))
            if layer.fn == "rbf":
                return np.asarray(np.sqrt(2) * np.sin(np.sqrt(2) * x + np.pi / 4))
            assert layer.slope is not None
            return np.where(x > 0, x, layer.slope * x)
        case AvgPool():
            out = np.zeros((len(x), *_grid(layer, layer.window, x), x.shape[3]))
            for i in range(out.shape[1]):
                for j in range(out.shape[2]):
                    seen = _window(layer, layer.window, x, i, j)
                    real = _window(layer, layer.window, np.ones_like(x), i, j)
                    size = real.sum(axis=(1, 2)) if layer.normalize_edges else math.prod(layer.window)
                    out[:, i, j] = seen.sum(axis=(1, 2)) / size
            return out
        case GlobalAvgPool():
            return np.asarray(x.mean(axis=(1, 2), keepdims=True))
        case Flatten():
            return x.reshape(len(x), 1, 1, -1)
        case Residual(branch, shortcut):
            return by_hand(branch, weights, x) + by_hand(shortcut, weights, x)


def _grid(layer: Conv | AvgPool, window: tuple[int, int], x: Array) -> tuple[int, int]:
    sizes = []
    for size, k, s in zip(x.shape[1:3], window, layer.strides, strict=True):
        sizes.append((size - k) // s + 1 if layer.padding == "VALID" else math.ceil(size / s))
    return sizes[0], sizes[1]


def _window(layer: Conv | AvgPool, window: tuple[int, int], x: Array, i: int, j: int) -> Array:
    """(n, kh, kw, C): what output (i, j) reads."""
    grid, at = _grid(layer, window, x), []
    for size, k, s, out, p in zip(x.shape[1:3], window, layer.strides, grid, (i, j), strict=True):
        total = 0 if layer.padding == "VALID" else max((out - 1) * s + k - size, 0)
        at.append([p * s + d - total // 2 for d in range(k)])
    if layer.padding == "CIRCULAR":
        wrapped: Array = x[:, np.mod(at[0], x.shape[1])][:, :, np.mod(at[1], x.shape[2])]
        return wrapped
    seen = np.zeros((len(x), *window, x.shape[3]))
    for a, row in enumerate(at[0]):
        for b, column in enumerate(at[1]):
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                seen[:, a, b] = x[:, row, column]
    return seen


def weights_of(net: torch.nn.Module) -> list[tuple[Array, Array | None]]:
    found = []
    for module in net.modules():
        if isinstance(module, Weights):
            bias = None if module.bias is None else module.bias.detach().numpy()
            found.append((module.weight.detach().numpy(), bias))
    return found


V: dict[str, Any] = {"weight_variance": 1.7, "bias_variance": 0.3}
RESIDUAL = (
    Conv((3, 3), (1, 1), "SAME", 1.5, 0.1),
    Activation("relu"),
    Residual(
        (Conv((3, 3), (2, 1), "SAME", 1.2, 0.0), Activation("erf"), Conv((1, 1), (1, 1), "SAME", 1.0, 0.1)),
        (LocalConv((1, 1), (2, 1), "SAME", 1.1, 0.0),),
    ),
    Activation("relu"),
    AvgPool((2, 3), (1, 2), "SAME", True),
    GlobalAvgPool(),
    Dense(2.0, 0.05),
)
CASES = {
    "fcn": Architecture.fcn(3, **V),
    "fcn without biases": Architecture.fcn(2, 2.0, 0.0),
    "vec": Architecture.vec(2, **V),
    "vec of even windows": Architecture.vec(2, (2, 4), padding="CIRCULAR", **V),
    "vec with strides": Architecture.vec(2, 3, stride=(2, 3), **V),
    "circular strides": Architecture.vec(2, 3, stride=2, padding="CIRCULAR", **V),
    "windows beyond the image": Architecture.vec(1, (11, 9), padding="CIRCULAR", **V),
    "lcn": Architecture.lcn(2, **V),
    "lcn valid": Architecture.lcn(2, 2, padding="VALID", **V),
    "gap": Architecture.gap(2, activation="erf", **V),
    "lcn-gap": Architecture.lcn_gap(1, 3, activation="leaky_relu_0.2", **V),
    "lap": Architecture.lap(1, 3, 1, **V),
    "patches": Architecture.patches(1, 2, hidden=1, activation="rbf", **V),
    "residual": Architecture(RESIDUAL, "residual"),
    "pooled": Architecture(
        (
            *Architecture.vec(1, **V).layers[:2],
            AvgPool((2, 2), (2, 2), "CIRCULAR"),
            Flatten(),
            Dense(1.0, 0.1),
        )
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_network_is_what_the_definitions_say(name: str) -> None:
    architecture = CASES[name]
    net = network(architecture, SHAPE, 3, outputs=2, seed=1, **DOUBLE)
    x = np.random.default_rng(0).standard_normal((4, *SHAPE))
    given = x.reshape(4, 1, 1, -1) if "fcn" in name else x
    weights = weights_of(net)
    expected = by_hand(architecture.layers, weights, given).reshape(4, 2)
    assert not weights
    np.testing.assert_allclose(net(torch.from_numpy(x)).detach(), expected, atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.parametrize("name", CASES)
def test_a_stack_is_vmap_over_its_networks(name: str, parameterization: str) -> None:
    """Values and gradients, against `torch.func`."""
    nets = [network(CASES[name], SHAPE, 3, 2, parameterization, seed=s, **DOUBLE) for s in range(3)]
    weights, _ = torch.func.stack_module_state(nets)
    x = torch.randn(3, 4, *SHAPE, dtype=torch.float64)

    def one(parameters: Any, rows: Any) -> Any:
        return torch.func.functional_call(nets[0], parameters, (rows,))

    ends = stacked(nets[0], weights, x), torch.func.vmap(one)(weights, x)
    torch.testing.assert_close(*ends, rtol=ROUNDING, atol=ROUNDING)
    along = torch.randn(ends[0].shape, dtype=torch.float64)
    found, expected = (torch.autograd.grad(f, list(weights.values()), along) for f in ends)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=10 * ROUNDING, atol=10 * ROUNDING)


def test_vectors_and_images_of_one_pixel() -> None:
    x = torch.randn(3, 7, dtype=torch.float64)
    flat = network(Architecture.fcn(1), (7,), 5, **DOUBLE)
    image = network(Architecture.fcn(1), (1, 1, 7), 5, **DOUBLE)
    torch.testing.assert_close(flat(x), image(x.reshape(3, 1, 1, 7)))
    assert flat(x).shape == (3, 1)


def test_a_seed_is_a_network_in_every_precision() -> None:
    one, same, other = (network(CASES["lcn"], SHAPE, 3, seed=s) for s in (4, 4, 5))
    double = network(CASES["lcn"], SHAPE, 3, seed=4, **DOUBLE)
    for a, b, c, d in zip(*(net.parameters() for net in (one, same, other, double)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert not torch.equal(a, c)
        torch.testing.assert_close(a, d.float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["fcn", "vec with strides", "lcn", "gap", "residual"])
def test_the_parameterizations_draw_one_function_and_learn_alike_at_matched_rates(name: str) -> None:
    """η in the NTK parameterization is η·σw²/n, η·σb² in the standard one, layer by layer."""
    nets = [network(CASES[name], SHAPE, 4, 2, p, seed=3, **DOUBLE) for p in ("ntk", "standard")]
    x, y = torch.randn(6, *SHAPE, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(nets[0](x), nets[1](x), rtol=ROUNDING, atol=ROUNDING)
    η = 0.1
    groups: list[dict[str, Any]] = []
    for module in nets[1].modules():
        if isinstance(module, Weights):
            groups.append({"params": [module.weight], "lr": η * module.weight_factor**2})
            if module.bias is not None:
                groups.append({"params": [module.bias], "lr": η * module.bias_factor**2})
    optimizers = (torch.optim.SGD(nets[0].parameters(), η, 0.5), torch.optim.SGD(groups, η, 0.5))
    before = nets[0](x).detach()
    for _ in range(5):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(nets[0](x), nets[1](x), rtol=1e3 * ROUNDING, atol=1e3 * ROUNDING)
    assert (nets[0](x) - before).abs().max() > 1e-3  # something was learned


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((Activation("relu"), Dense(1.0, 0.0)), "not its limit"),
        ((Dense(1.0, 0.0), Flatten(), Activation("relu"), Dense(1.0, 0.0)), "not its limit"),
        ((Conv((3, 3), (1, 1), "SAME", 1.0, 0.0), GlobalAvgPool()), ""),
        ((Conv((3, 3), (1, 1), "SAME", 1.0, 0.0),), "end it with flatten or gap"),
        ((Conv((9, 9), (1, 1), "VALID", 1.0, 0.0), Flatten(), Dense(1.0, 0.0)), "does not fit"),
        ((Flatten(),), "last layer with weights"),
        ((Residual((Dense(1.0, 0.0),), ()), Flatten(), Dense(1.0, 0.0)), "residual sum of"),
        (
            (
                Dense(1.0, 0.0),
                Activation("relu"),
                Residual((Dense(1.0, 0.0), Activation("relu")), ()),
                Dense(1.0, 0.0),
            ),
            "not independent",
        ),
    ],
)
def test_what_has_no_kernel_as_its_limit_is_refused(layers: tuple[Layer, ...], said: str) -> None:
    if not said:
        assert network(Architecture(layers), SHAPE, 3, 2)(torch.zeros(1, *SHAPE)).shape == (1, 2)
        return
    with pytest.raises(KernregError, match=said):
        network(Architecture(layers), SHAPE, 3)


def test_wrong_rows_and_settings_are_named() -> None:
    with pytest.raises(KernregError, match="takes images"):
        network(Architecture.vec(1), (12,), 4)
    with pytest.raises(KernregError, match="parameterization 'mup'"):
        network(Architecture.fcn(1), (12,), 4, parameterization="mup")
    with pytest.raises(KernregError, match="at least 1"):
        network(Architecture.fcn(1), (12,), 0)
    with pytest.raises(KernregError, match="rows of shape"):
        network(Architecture.fcn(1), (12,), 4)(torch.zeros(2, 13))
