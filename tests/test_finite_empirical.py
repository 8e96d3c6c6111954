"""Empirical kernels of finite networks: their own definition, and their convergence to the analytic ones.

Nothing of `kernels/` takes part on the finite side, so that every preset of the fast backend is held against networks.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_readme import blocks, run

from kernreg.architecture import PRESETS, Architecture
from kernreg.errors import KernregError
from kernreg.kernels import backends
from kernreg.layers import Activation, AvgPool, Conv, Dense, Flatten, Residual

torch = pytest.importorskip("torch")

from kernreg.finite.empirical import MonteCarlo, empirical, monte_carlo  # noqa: E402
from kernreg.finite.networks import network  # noqa: E402

ROUNDING = 1e3 * float(np.finfo(np.float64).eps)  # of sums of some thousand products
WIDTH, DRAWS = 96, 40
SHAPES: dict[str, tuple[int, ...]] = {
    "lcn": (2, 3, 2),
    "lcn-gap": (2, 3, 2),
    "s-cnn": (4, 8, 2),
    "d-cnn": (4, 5, 2),
    "hr-cnn": (8, 8, 1),
    "hr-cnn-flatten": (8, 9, 1),
    "hr-cnn-gap": (8, 8, 1),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "fcn": {"depth": 2},
    "lap": {"depth": 2, "radius": 1},
    "s-cnn": {},
    "d-cnn": {"filter": 2},
    "hr-cnn": {},
    "hr-cnn-flatten": {},
    "hr-cnn-gap": {},
}
NAMES = [name for name in PRESETS if not name.startswith("cnn-")]


def case(name: str) -> tuple[Architecture, np.ndarray]:
    """A preset with biases, and three correlated rows."""
    settings = SETTINGS.get(name, {"depth": 2})
    architecture = Architecture.preset(name, weight_variance=1.7, bias_variance=0.2, **settings)
    x = np.random.default_rng(5).standard_normal((3, *SHAPES.get(name, (4, 3, 2))))
    x[1] = 0.8 * x[0] + 0.6 * x[1]
    return architecture, x


@cache
def drawn(name: str) -> tuple[dict[str, MonteCarlo], dict[str, np.ndarray]]:
    architecture, x = case(name)
    found = monte_carlo(architecture, x, kernel="both", width=WIDTH, draws=DRAWS, seed=11, dtype="float32")
    return found, analytic(architecture, x, "both")


def analytic(architecture: Architecture, x: np.ndarray, kernel: str) -> dict[str, np.ndarray]:
    """By the fast backend, or by the definition what that does not cover: hidden dense layers behind convolutions."""
    try:
        found: Any = backends.compute(x, None, architecture, kernel, "cpu", "float64")
    except NotImplementedError:
        found = backends.compute(x, None, architecture, kernel, "reference", "float64")
    exact: dict[str, np.ndarray] = found
    return exact


@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
@pytest.mark.parametrize("name", NAMES)
def test_the_mean_over_initialisations_is_the_kernel(name: str, kernel: str) -> None:
    found, exact = drawn(name)
    K, made = exact[kernel], found[kernel]
    # six different entries of 22 kernels: 5 standard errors of 40 draws are passed by chance in one of 500 seeds,
    # and the mean itself is off by about depth/width
    assert (np.abs(made.mean - K) <= 5 * made.error + 3 / WIDTH * np.abs(K)).all()
    # and the test has power: the interval is narrow
    assert np.linalg.norm(made.error) < 5 / np.sqrt(WIDTH * DRAWS) * np.linalg.norm(K)


@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
@pytest.mark.parametrize("name", ["fcn", "vec", "gap"])
def test_the_error_of_one_draw_falls_as_the_root_of_the_width(name: str, kernel: str) -> None:
    architecture, x = case(name)
    exact = analytic(architecture, x, kernel)
    widths = (16, 32, 64, 96)
    errors = []
    for width in widths:
        made = monte_carlo(architecture, x, kernel=kernel, width=width, draws=48, seed=width, dtype="float32")
        errors.append(np.sqrt(np.mean(made[kernel].relative_errors(exact[kernel]) ** 2)))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    # each error is good to 1/√(2·48), the slope over two octaves and a half to 0.08
    assert abs(slope + 0.5) < 0.25


@pytest.mark.parametrize("name", ["fcn", "lcn", "gap", "hr-cnn"])
def test_both_ways_and_every_chunk_give_the_same_numbers(name: str) -> None:
    architecture, x = case(name)
    net = network(architecture, x.shape[1:], 5, 3, dtype=torch.float64)
    z = np.concatenate([x[:1] + 0.3, x, x[::-1] - 0.1])
    row_bytes = 3 * 8 * sum(p.numel() for p in net.parameters())
    for kernel in ("ntk", "nngp"):
        whole = empirical(net, x, z, kernel, method="jacobian")[kernel]
        assert whole.shape == (3, 7)
        ways: list[dict[str, Any]] = [
            {"method": "products"},
            {"method": "jacobian", "memory": 2 * row_bytes},
            {"memory": 5 * row_bytes},
            {"memory": 1},
        ]
        for settings in ways:
            np.testing.assert_allclose(
                empirical(net, x, z, kernel, **settings)[kernel], whole, rtol=ROUNDING, atol=ROUNDING
            )


def test_the_ntk_is_the_sum_over_single_derivatives() -> None:
    """One output, one parameter at a time, by finite differences."""
    architecture, x = case("vec")
    architecture = Architecture.vec(1, 2, activation="erf", padding="VALID")
    net = network(architecture, x.shape[1:], 2, dtype=torch.float64)
    rows, h = torch.as_tensor(x), 1e-6
    columns = []
    with torch.no_grad():
        for p in net.parameters():
            flat = p.view(-1)
            for i in range(len(flat)):
                start = float(flat[i])
                flat[i] = start + h
                up = net(rows)
                flat[i] = start - h
                columns.append(((up - net(rows)) / (2 * h))[:, 0].numpy())
                flat[i] = start
    J = np.array(columns).T
    # central differences: h² and ε/h
    np.testing.assert_allclose(empirical(net, x)["ntk"], J @ J.T, rtol=1e-7, atol=1e-8)


def test_the_nngp_is_the_covariance_over_readouts() -> None:
    architecture, x = case("gap")
    net = network(architecture, x.shape[1:], 6, 20_000, dtype=torch.float64)
    with torch.no_grad():
        f = net(torch.as_tensor(x)).numpy()
    one = network(architecture, x.shape[1:], 6, 1, dtype=torch.float64)
    own = net.state_dict()
    with torch.no_grad():
        for key, p in one.named_parameters():
            p.copy_(
                own[key][..., :1] if key.startswith(f"layers.{len(architecture.layers) - 1}.") else own[key]
            )
    K = empirical(one, x, kernel="nngp")["nngp"]
    size = np.sqrt(np.outer(K.diagonal(), K.diagonal()))
    # five standard deviations of a mean of 20,000 products of Gaussians of variance 1
    assert (np.abs(f @ f.T / f.shape[1] - K) <= 5 * np.sqrt(2 / 20_000) * size).all()


def test_outputs_are_averaged_or_chosen() -> None:
    architecture, x = case("fcn")
    net = network(architecture, x.shape[1:], 4, 3, dtype=torch.float64)
    each = [empirical(net, x, output=o)["ntk"] for o in range(3)]
    np.testing.assert_allclose(empirical(net, x)["ntk"], np.mean(each, axis=0), rtol=ROUNDING)
    assert not np.allclose(each[0], each[1])
    K = empirical(net, x, kernel="both")
    assert list(K) == ["nngp", "ntk"]
    for values in K.values():
        np.testing.assert_array_equal(values, values.T)


def test_residual_networks_and_other_activations_have_their_kernel() -> None:
    hidden = (Conv((3, 3), (1, 1), "CIRCULAR", 1.5, 0.1),)
    branch = (Activation("erf"), *hidden, AvgPool((2, 2), (1, 1), "SAME", True))
    layers = (*hidden, Residual(branch, ()), Activation("leaky_relu_0.2"), Flatten(), Dense(1.3, 0.1))
    architecture, x = Architecture(layers), case("vec")[1]
    exact: Any = backends.compute(x, None, architecture, "both", "reference", "float64")
    found = monte_carlo(architecture, x, kernel="both", width=WIDTH, draws=DRAWS, seed=2, dtype="float32")
    for kernel, made in found.items():
        K = exact[kernel]
        assert (np.abs(made.mean - K) <= 5 * made.error + 3 / WIDTH * np.abs(K)).all()


def test_draws_are_seeded() -> None:
    architecture, x = case("vec")
    seen: list[tuple[int, int]] = []

    def draw(seed: int, **more: Any) -> MonteCarlo:
        return monte_carlo(architecture, x, x[:2], width=3, draws=3, seed=seed, **more)["ntk"]

    first = draw(1, progress=lambda *now: seen.append(now))
    np.testing.assert_array_equal(first.draws, draw(1).draws)
    assert not np.array_equal(first.draws, draw(2).draws)
    assert first.draws.shape == (3, 3, 2)
    assert len({first.draws[i].tobytes() for i in range(3)}) == 3
    assert seen[-1] == (3, 3)
    np.testing.assert_allclose(first.error, first.draws.std(axis=0, ddof=1) / np.sqrt(3))
    np.testing.assert_allclose(draw(1, dtype="float32").draws, first.draws, rtol=1e-4, atol=1e-4)


def test_refusals() -> None:
    architecture, x = case("vec")
    net = network(architecture, x.shape[1:], 3, 2)

    def says(match: str, *given: Any, **settings: Any) -> None:
        with pytest.raises(KernregError, match=match):
            empirical(*(given or (net, x)), **settings)

    says("takes rows of shape", net, x[:, :, :2])
    says("finite numbers", net, np.full_like(x, np.nan))
    says("at least one row", net, x[:0])
    says("unknown method", method="magic")
    says("kernel is nngp, ntk or both", kernel="rbf")
    says("output 2 is asked for", output=2)
    says("method='products'", method="jacobian", memory=1)
    says("NTK parameterization", network(architecture, x.shape[1:], 3, 2, "standard"), x, kernel="nngp")
    bent = Architecture((*architecture.layers, Activation("relu")))
    says("end the network with a layer of weights", network(bent, x.shape[1:], 3), x, kernel="nngp")
    with pytest.raises(KernregError, match="at least 2 draws"):
        monte_carlo(architecture, x, width=3, draws=1)
    with pytest.raises(KernregError, match="unknown dtype"):
        monte_carlo(architecture, x, width=3, draws=2, dtype="float16")


def test_the_page_runs(tmp_path: Path) -> None:
    run([sys.executable, "-W", "error", "-"], "\n".join(blocks("docs/empirical.md", "python")), tmp_path)
