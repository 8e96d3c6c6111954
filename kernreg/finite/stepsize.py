"""The step size "auto": as large as the tangent kernel of the network lets gradient descent be.

With J the derivatives of all outputs on m rows the loss ½·mean |f − y|² has the Gauss-Newton matrix JᵀJ/m, whose nonzero
eigenvalues are those of Θ/m, Θ = JJᵀ the empirical tangent kernel. Gradient descent with momentum μ is stable for η < 2(1 + μ)/λ,
λ the largest of them; batches of B rows scatter by about τ/B, τ the mean of Θ(x, x), which momentum multiplies by 1/(1 − μ).
Taken is η = 1/(λ + τ/(B·(1 − μ))), half of what is stable or less, since λ grows while small networks learn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernreg.training import AUTO, Training

ROWS = 256  # that the kernel is taken of
ITERATIONS = 20  # of the power method; an error of some percent in λ does not matter
PROBES = 4
ADAM = 1e-3  # the step size of Kingma and Ba; that of Adam has no kernel to be taken from
NORMALISED = 0.05  # with batch normalisation the kernel at the start says little about later steps


def step_size(template: nn.Module, x: Tensor, training: Training) -> float:
    """η of a training: its number, or the one that the network `template` as it is has on the rows x.

    Args:
        x: training rows in an order that does not matter; the first 256 are used.
    """
    if training.lr != AUTO:
        return float(training.lr)
    if training.optimizer == "adam":
        return ADAM
    if any(isinstance(module, nn.BatchNorm2d) for module in template.modules()):
        return NORMALISED
    x = x[:ROWS]
    λ, τ = curvature(template, x)
    noise = 0.0 if training.optimizer == "gd" else τ / (training.batch * (1 - training.momentum))
    return 1 / (λ + noise)


def curvature(template: nn.Module, x: Tensor) -> tuple[float, float]:
    """λ, the largest eigenvalue of Θ/m on m rows, and τ, the mean of Θ(x, x) over rows and outputs."""
    weights = list(template.parameters())
    out = template(x)
    generator = torch.Generator().manual_seed(0)
    trace = 0.0
    for _ in range(PROBES):
        sign = torch.randint(0, 2, out.shape, generator=generator).to(out) * 2 - 1
        back = torch.autograd.grad(out, weights, sign, retain_graph=True)
        trace += sum(float(part.square().sum()) for part in back) / PROBES
    # Jᵀu is linear in u, so that its derivative along Jᵀv is J·Jᵀv
    u = torch.zeros_like(out, requires_grad=True)
    linear = torch.autograd.grad(out, weights, u, create_graph=True)
    v = torch.randn(out.shape, generator=generator).to(out)
    largest = 0.0
    for _ in range(ITERATIONS):
        v = v / v.norm()
        along = torch.autograd.grad(out, weights, v, retain_graph=True)
        (v,) = torch.autograd.grad(linear, u, along, retain_graph=True)
        largest = float(v.norm())
    return largest / len(x), trace / out.numel()
