"""Empirical NNGP and NTK of finite networks, and their means over initialisations: an oracle that shares no code with `kernels/`.

With θ the parameters of a network in the NTK parameterization, all N(0, 1), θ_r those of its readout and c its outputs,

    NTK    Θ̂(x, z) = (1/c)·Σ_o ⟨∂f_o(x)/∂θ, ∂f_o(z)/∂θ⟩
    NNGP   Σ̂(x, z) = (1/c)·Σ_o ⟨∂f_o(x)/∂θ_r, ∂f_o(z)/∂θ_r⟩ = E[f_o(x)·f_o(z) | all weights but the readout's].

The network is linear in θ_r, so that the second line is the covariance of the outputs with the readout integrated out exactly:
the second moment of the last hidden features, σw²·⟨h(x), h(z)⟩/width + σb². Both converge to the kernels of infinite width; a
single draw is off by O(1/√width), the mean over draws by O(1/width) (Dyer and Gur-Ari 2020).

Two ways, the same numbers (Novak, Sohl-Dickstein and Schoenholz 2022):

    jacobian    the derivatives of rows, chunked to a memory budget, are multiplied parameter by parameter
    products    for each row of z a vector-Jacobian product, which a Jacobian-vector product over all x turns into a column:
                memory of two copies of the parameters, whatever the rows are
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.finite import torch
from kernreg.finite.modules import LocalConvLayer, Weights
from kernreg.finite.networks import Network, network
from kernreg.layers import Activation, Conv, Dense, Residual
from kernreg.plan import kernels_of, parse_bytes, show_bytes
from kernreg.progress import Meter, Progress

Array = npt.NDArray[np.float64]
Function: TypeAlias = Callable[[dict[str, Any], Any], Any]  # parameters, rows → outputs

MEMORY = "1GiB"
METHODS = ("auto", "jacobian", "products")
DTYPES = ("float32", "float64")


@dataclass(frozen=True, eq=False)
class MonteCarlo:
    """Draws of an empirical kernel.

    Attributes:
        draws: (d, n, m) float64, one for each initialisation.
    """

    draws: Array

    @property
    def mean(self) -> Array:
        """(n, m) over initialisations."""
        return np.asarray(self.draws.mean(axis=0))

    @property
    def error(self) -> Array:
        """(n, m) standard error of the mean; needs two draws."""
        return np.asarray(self.draws.std(axis=0, ddof=1) / np.sqrt(len(self.draws)))

    def relative_errors(self, K: npt.ArrayLike) -> Array:
        """(d,) ‖draw − K‖/‖K‖, in the norm of Frobenius."""
        gaps = np.linalg.norm(self.draws - np.asarray(K), axis=(1, 2))
        return np.asarray(gaps / np.linalg.norm(np.asarray(K)))


def empirical(
    net: Network,
    x: npt.ArrayLike,
    z: npt.ArrayLike | None = None,
    kernel: str = "ntk",
    *,
    output: int | None = None,
    method: str = "auto",
    memory: int | str = MEMORY,
) -> dict[str, Array]:
    """The kernels of one network with the weights that it has, in the dtype and on the device of its parameters.

    Args:
        net: `kernreg.finite.networks.network(…)`.
        x: (n, H, W, C), or (n, d).
        z: likewise with m rows; None means x, and the result is exactly symmetric.
        kernel: "ntk", "nngp" or "both".
        output: that of the network whose kernel is wanted; None is the mean over all c outputs, the trace over c.
        method: "jacobian", "products", or "auto": derivatives if those of two rows fit into the memory, but products for locally
            connected networks, whose derivatives PyTorch takes row by row.
        memory: most bytes of derivatives at once, or text such as "4GiB".

    Returns:
        {"nngp": (n, m), "ntk": (n, m)} float64, or the one asked for.

    Raises:
        KernregError: rows that are not finite or do not fit the network, an unknown name or output, derivatives of two rows
            that the memory does not hold, a network that is not linear in its readout or, for the NNGP, not in the NTK
            parameterization.
    """
    names = kernels_of(kernel)
    if method not in METHODS:
        raise KernregError(f"unknown method {method!r}; use {', '.join(METHODS)}")
    if output is not None and not 0 <= output < net.outputs:
        raise KernregError(f"output {output} is asked for; the network has 0…{net.outputs - 1}")
    outputs = range(net.outputs) if output is None else range(output, output + 1)
    X = _rows(net, x, "x")
    Z = X if z is None else _rows(net, z, "z")
    weights = {key: p.detach() for key, p in net.named_parameters()}

    def f(θ: dict[str, Any], rows: Any) -> Any:
        return torch.func.functional_call(net, weights | θ, (rows,))

    found = {}
    for name in names:
        θ = weights if name == "ntk" else {key: weights[key] for key in _readout(net)}
        way = "products" if method == "auto" and θ is weights and _is_local(net) else method
        K = _contract(f, θ, X, Z, outputs, way, parse_bytes(memory))
        found[name] = (K + K.T) / 2 if z is None else K
    return found


def monte_carlo(
    architecture: Architecture,
    x: npt.ArrayLike,
    z: npt.ArrayLike | None = None,
    kernel: str = "ntk",
    *,
    width: int,
    draws: int,
    outputs: int = 1,
    seed: int = 0,
    dtype: str = "float64",
    device: str = "cpu",
    memory: int | str = MEMORY,
    progress: bool | Progress = False,
) -> dict[str, MonteCarlo]:
    """Empirical kernels of independent initialisations of one network.

    Args:
        architecture: any that ends in one number a channel.
        x, z, kernel, memory: as in `empirical`.
        width: channels of every hidden layer.
        draws: initialisations, at least 2.
        outputs: c, whose kernels are averaged.
        seed: of all draws; the same seed gives the same numbers on a CPU.
        dtype: "float64" or "float32", of the network; sums over draws are float64.
        device: of PyTorch, such as "cpu" or "cuda".
        progress: True for a bar on stderr, or a function of (draws done, draws in all).

    Returns:
        {"nngp": …, "ntk": …}, or the one asked for.

    Raises:
        KernregError: fewer than two draws, an unknown dtype; and as `empirical` and `network`.
    """
    names = kernels_of(kernel)
    if draws < 2:
        raise KernregError(f"a standard error needs at least 2 draws, not {draws}")
    if dtype not in DTYPES:
        raise KernregError(f"unknown dtype {dtype!r}; use {', '.join(DTYPES)}")
    shape = np.asarray(x).shape[1:]
    net = network(architecture, shape, width, outputs, dtype=getattr(torch, dtype))
    seeds = np.random.SeedSequence(seed).generate_state(draws, np.uint64) >> np.uint64(1)
    found: dict[str, list[Array]] = {name: [] for name in names}
    with Meter(0, draws, progress, unit="network", title="draws") as meter:
        for one in seeds.tolist():
            net.to("cpu").reset(one)
            for name, K in empirical(net.to(device), x, z, kernel, memory=memory).items():
                found[name].append(K)
            meter.advance(1)
    return {name: MonteCarlo(np.stack(each)) for name, each in found.items()}


def _contract(
    f: Function,
    θ: dict[str, Any],
    X: Any,
    Z: Any,
    outputs: range,
    method: str,
    memory: int,
) -> Array:
    """(1/c)·Σ_o of ⟨∂f_o(x)/∂θ, ∂f_o(z)/∂θ⟩."""
    row_bytes = len(outputs) * sum(p.numel() * p.element_size() for p in θ.values())
    rows = memory // (2 * row_bytes)  # of x and of z
    if method == "auto":
        method = "jacobian" if rows else "products"
    if method == "jacobian" and not rows:
        raise KernregError(
            f"the derivatives of two rows take {show_bytes(2 * row_bytes)}, more than the memory allowed: use method='products'"
        )
    out = np.empty((len(X), len(Z)))
    if method == "products":
        for j in range(len(Z)):
            out[:, j] = _column(f, θ, X, Z[j : j + 1], outputs)
    else:
        for a, J_x in _derivatives(f, θ, X, outputs, rows):
            for b, J_z in _derivatives(f, θ, Z, outputs, rows):
                block = sum((J_x[key] @ J_z[key].T).double() for key in θ)
                out[a : a + len(block), b : b + block.shape[1]] = block.cpu().numpy()
    return out / len(outputs)


def _derivatives(
    f: Function, θ: dict[str, Any], rows: Any, outputs: range, size: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The first row of a chunk, and of each parameter ∂f_o(row), (chunk, c·parameter)."""

    def of_row(θ: dict[str, Any], row: Any) -> Any:
        return f(θ, row[None])[0, outputs.start : outputs.stop]

    derivative = torch.func.vmap(torch.func.jacrev(of_row), in_dims=(None, 0))
    for a in range(0, len(rows), size):
        with warnings.catch_warnings():
            # PyTorch has no batched rule for the windows of local layers, and says that a loop is slower
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            J = derivative(θ, rows[a : a + size])
        yield a, {key: part.flatten(1) for key, part in J.items()}


def _column(f: Function, θ: dict[str, Any], X: Any, z: Any, outputs: range) -> Array:
    """Σ_o ⟨∂f_o(x)/∂θ, ∂f_o(z)/∂θ⟩ (n,) of all x and one row z (1, …)."""
    value, back = torch.func.vjp(lambda θ: f(θ, z), θ)
    total = np.zeros(len(X))
    for o in outputs:
        one = torch.zeros_like(value)
        one[0, o] = 1
        (v,) = back(one)
        with warnings.catch_warnings():
            # PyTorch scripts its own forward derivatives when the first one is asked for, and deprecates scripting
            warnings.simplefilter("ignore", FutureWarning)
            _, moved = torch.func.jvp(lambda θ: f(θ, X), (θ,), (v,))
        total += moved[:, o].double().cpu().numpy()
    return total


def _readout(net: Network) -> list[str]:
    """The names of the parameters of the last layer with weights.

    Raises:
        KernregError: an activation or a residual sum comes after it, or its weights are not N(0, 1).
    """
    layers = net.architecture.layers
    last = max(i for i, layer in enumerate(layers) if isinstance(layer, Dense | Conv))
    bent = [layer for layer in layers[last + 1 :] if isinstance(layer, Activation | Residual)]
    if bent or not isinstance(net.layers[last], Weights):
        raise KernregError("the empirical NNGP is that of a readout: end the network with a layer of weights")
    if net.parameterization != "ntk":
        raise KernregError(
            "the empirical NNGP takes a network in the NTK parameterization; in the standard one it is the same"
        )
    return [f"layers.{last}.{key}" for key, _ in net.layers[last].named_parameters()]


def _is_local(net: Network) -> bool:
    return any(isinstance(module, LocalConvLayer) for module in net.modules())


def _rows(net: Network, rows: npt.ArrayLike, name: str) -> Any:
    """As a tensor of the dtype and on the device of the network; the network itself checks the shape."""
    array = np.asarray(rows)
    if array.dtype.kind not in "fiub" or not len(array) or not np.isfinite(array).all():
        raise KernregError(f"{name} must hold at least one row of finite numbers")
    like = next(net.parameters())
    return torch.as_tensor(array).to(device=like.device, dtype=like.dtype)
