"""A network trained by gradient descent beside the kernel at the same time: the error is that of its width."""

from __future__ import annotations

import numpy as np
import pytest

from kernreg.architecture import Architecture
from kernreg.filters import GradientDescent
from kernreg.flow import trained
from kernreg.kernels import backends

torch = pytest.importorskip("torch")

from kernreg.finite.empirical import empirical  # noqa: E402
from kernreg.finite.networks import Network, network  # noqa: E402

ARCHITECTURE = Architecture.fcn(2)
M, T, D = 10, 12, 6
WIDTHS, NETWORKS = (32, 128, 512), 6


def descend(net: Network, x: np.ndarray, y: np.ndarray, z: np.ndarray, stop: GradientDescent) -> np.ndarray:
    """f_t(z) − f_0(z) of the loss (1/2m)·Σ|f − f_0 − y|²."""
    rows, tests, targets = (torch.as_tensor(a) for a in (x, z, y))
    with torch.no_grad():
        start, start_test = net(rows), net(tests)
    parameters = list(net.parameters())
    for _ in range(stop.steps):
        loss = (net(rows) - start - targets).square().sum() / (2 * len(rows))
        slopes = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, slope in zip(parameters, slopes, strict=True):
                p -= stop.step * slope
    with torch.no_grad():
        return np.asarray((net(tests) - start_test).numpy())


def test_a_wide_network_follows_its_kernel() -> None:
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((M, D)), rng.standard_normal((T, D))
    y = x[:, :1] * x[:, 1:2]
    K = backends.compute(x, None, ARCHITECTURE, "ntk", "cpu", "float64")["ntk"]
    K_test = backends.compute(z, x, ARCHITECTURE, "ntk", "cpu", "float64")["ntk"]
    step = float(M / np.linalg.eigvalsh(K)[-1])
    stop = GradientDescent(step, 8)
    half = trained(K, y, [stop])
    # the time is one at which much is learned, and much is left
    assert 0.02 < np.square(half.left).sum() / np.square(y).sum() < 0.7
    limit = K_test @ half.coefficients[0]
    size = np.linalg.norm(limit)
    networks, kernels, nonlinear, means = [], [], [], []
    for width in WIDTHS:
        h, own = [], []
        for seed in range(NETWORKS):
            net = network(ARCHITECTURE, (D,), width, seed=100 * width + seed, dtype=torch.float64)
            Θ = empirical(net, np.concatenate([x, z]), x)["ntk"]
            own.append(Θ[M:] @ trained((Θ[:M] + Θ[:M].T) / 2, y, [stop]).coefficients[0])
            h.append(descend(net, x, y, z, stop))
        networks.append(np.sqrt(np.mean([np.linalg.norm(f - limit) ** 2 for f in h])) / size)
        kernels.append(np.sqrt(np.mean([np.linalg.norm(f - limit) ** 2 for f in own])) / size)
        nonlinear.append(
            np.sqrt(np.mean([np.linalg.norm(a - b) ** 2 for a, b in zip(h, own, strict=True)])) / size
        )
        means.append(np.linalg.norm(np.mean(h, axis=0) - limit) / size)
    slope = np.polyfit(np.log(WIDTHS), np.log(networks), 1)[0]
    # six networks: an error is good to 1/√(2·6) or better, over four octaves to 0.1 of slope
    assert -0.85 < slope < -0.25
    # the stated error: what the fluctuation of the kernel at initialisation makes of the same flow
    assert networks[-1] < 1.5 * kernels[-1]
    assert networks[-1] < 0.15
    # what the linearisation leaves out is smaller, and falls faster
    assert nonlinear[-1] < 0.6 * networks[-1]
    assert nonlinear[-1] < 0.3 * nonlinear[0]
    # the mean over networks is nearer than one network
    assert means[-1] < networks[-1]
