"""The CUDA sources, executed on the CPU (tests/shim), against the definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cuda_cases
import numpy as np
import pytest
from cuda_cases import Case, check, check_case, degenerate, images, preset
from cuda_on_cpu import OnCpu, missing
from numpy.typing import NDArray
from test_golden import check as check_golden

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import backends, on_cuda
from kernreg.kernels.instance import instance

Array = NDArray[Any]

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "runs")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def shim(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> OnCpu:
    device = OnCpu(compiled)
    monkeypatch.setattr(on_cuda, "gpu", lambda: device)
    return device


def name(case: Case) -> str:
    architecture, shape, _, _ = case
    conv = architecture.layers[0].__dict__
    return f"{architecture.name}-{'x'.join(map(str, shape))}-{conv['filter'][0]}x{conv['filter'][1]}-{conv['padding']}"


@pytest.mark.parametrize("case", cuda_cases.shapes(), ids=name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shapes(case: Case, dtype: str) -> None:
    check_case(case, dtype)


@pytest.mark.parametrize("case", cuda_cases.windows(), ids=name)
def test_windows(case: Case) -> None:
    check_case(case, "float64")


@pytest.mark.parametrize("case", cuda_cases.erf(), ids=name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_erf(case: Case, dtype: str) -> None:
    check_case(case, dtype)


def test_golden_networks_with_pools() -> None:
    """Average pools by neural-tangents' numbers; the GPU runs all groups (test_cuda_device.py)."""
    assert check_golden("extras_8x8x3", "cuda", "float64") == 16


@pytest.mark.parametrize("preset_name", ["vec", "gap"])
def test_nngp_alone(preset_name: str) -> None:
    for dtype in ("float32", "float64"):
        check(images(4, 8, 8, 1), None, preset(preset_name), dtype, "nngp")


@pytest.mark.parametrize("depth", [3, 20])
@pytest.mark.parametrize("bias", [0.0, 0.05])
@pytest.mark.parametrize("preset_name", ["vec", "gap", "lap"])
def test_degenerate_images_at_any_depth(preset_name: str, bias: float, depth: int) -> None:
    x = degenerate(6, 6).astype(np.float32)
    check(x, None, preset(preset_name, depth=depth, bias_variance=bias), "float32")


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("shape", [(8, 8, 1), (48, 64, 1)])
def test_bits_do_not_depend_on_the_order_of_threads(
    shape: tuple[int, ...], order: int, shim: OnCpu, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of rows meet within a warp, and across warps: a barrier too few would show under some order."""
    x, architecture = images(3, *shape), preset("vec", depth=2, padding="CIRCULAR")
    forwards = backends.compute(x, None, architecture, "ntk", "cuda", "float32")["ntk"]
    other = OnCpu(compiled, order)
    monkeypatch.setattr(on_cuda, "gpu", lambda: other)
    assert (backends.compute(x, None, architecture, "ntk", "cuda", "float32")["ntk"] == forwards).all()


def test_the_shim_sees_missing_barriers_and_divergent_shuffles(compiled: Path) -> None:
    definitions = instance(preset("vec"), (8, 8, 1), "nngp", "float64").definitions
    x = images(1, 64, 1, 1)
    results = []
    for order in (0, 1):
        device = OnCpu(compiled, order)
        a, b = device.put(x.ravel()), device.empty((64,), np.float64)
        device.launch(definitions, "race", (1, 1), 64, 0, (a, b))
        results.append(device.get(b))
    assert not (results[0] == results[1]).all()
    with pytest.raises(RuntimeError, match="deadlock"):
        device.launch(definitions, "divergence", (1, 1), 32, 0, (a, b))


@pytest.mark.parametrize("preset_name", ["vec", "gap"])
def test_blocks_of_pairs_do_not_matter(preset_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and columns that no launch divides, many launches, one triangle."""
    x, z, architecture = images(7, 5, 5, 1), images(5, 5, 5, 1, seed=1), preset(preset_name, depth=1)
    whole = [backends.compute(x, other, architecture, "both", "cuda", "float32") for other in (None, z)]
    monkeypatch.setattr(on_cuda, "WORK_BYTES", 3 * 5 * 16)
    for other, expected in zip((None, z), whole, strict=True):
        again = backends.compute(x, other, architecture, "both", "cuda", "float32")
        for kind in ("nngp", "ntk"):
            assert (again[kind] == expected[kind]).all()


def test_slices_of_prepared_images_are_images(shim: OnCpu) -> None:
    x, architecture = images(6, 5, 4, 2), preset("gap", depth=2)
    stencil = instance(architecture, x.shape[1:], "ntk", "float64")
    X = on_cuda.prepare(x, stencil, shim)
    tile = shim.get(on_cuda.kernels(X[1:3], X[2:6], stencil, shim)["ntk"])
    whole = shim.get(on_cuda.kernels(X, None, stencil, shim)["ntk"])
    assert (tile == whole[1:3, 2:6]).all()


def test_scales(compiled: Path) -> None:
    """ReLU without bias is homogeneous at any scale and σw²; with a bias float32 has a range."""
    x, architecture = images(3, 4, 4, 2), preset("gap", bias_variance=0.0)
    K = backends.compute(x, None, architecture, "ntk", "cuda", "float32")["ntk"]
    for size in (1e-30, 1e12):
        scaled = backends.compute(x * size, x, architecture, "ntk", "cuda", "float32")["ntk"]
        np.testing.assert_allclose(scaled / size, K, rtol=1e-6)
    check(x, None, preset("gap", depth=12, bias_variance=0.0, weight_variance=0.01), "float32")
    check(x * 1e3, None, preset("gap", bias_variance=0.1), "float32")
    with pytest.raises(KernregError, match=r"magnitude \d.\de\+12 .*float64"):
        backends.compute(x * 1e12, None, preset("vec"), "ntk", "cuda", "float32")


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 3e-8), ("float64", 2e-16)])
def test_polynomials(dtype: str, bound: float, shim: OnCpu) -> None:
    """acos itself, in units of π, and asin(√y)/√y, against long doubles."""
    definitions = instance(preset("vec"), (8, 8, 1), "nngp", dtype).definitions
    a = np.concatenate([np.linspace(0, 1, 4001), 1 - np.logspace(-14, -3, 100)]).astype(dtype)
    arccos, arcsin = shim.empty(a.shape, dtype), shim.empty(a.shape, dtype)
    shim.launch(definitions, "polynomials", (1, 1), 32, 0, (shim.put(a), arccos, arcsin, np.int32(a.size)))
    wide = a.astype(np.longdouble)
    sine = np.sqrt((1 - wide) * (1 + wide))
    assert np.max(np.abs(sine * arccos - np.arccos(wide))) / np.pi < 2 * bound
    y = np.sqrt(a[1:].astype(np.longdouble) / 4)
    assert np.max(np.abs(arcsin[1:] / (np.arcsin(y) / y) - 1)) < 8 * bound


WINDOW = {"filter": [3, 3], "strides": [1, 1], "padding": "SAME", "W_var": 2.0, "b_var": 0.1}


def network(*layers: dict[str, Any]) -> Architecture:
    end = [{"type": "flatten"}, {"type": "dense", "W_var": 2.0, "b_var": 0.1}]
    return Architecture.from_dict({"layers": [*layers, *end]})


@pytest.mark.parametrize(
    ("architecture", "shape", "named"),
    [
        (Architecture.fcn(), (8, 8, 1), "dense layers.*'cpu'"),
        (preset("vec", stride=2), (8, 8, 1), "stride 1, not layer 1.*'cpu'"),
        (preset("gap", padding="VALID"), (9, 9, 1), "SAME and CIRCULAR padding, not layer 1"),
        (preset("gap", filter=9), (9, 9, 1), "filters up to 7×7, not layer 1"),
        (preset("vec"), (65, 8, 1), "up to 64×64, not 65×8"),
        (
            network(
                {"type": "conv", **WINDOW},
                {"type": "act", "fn": "relu"},
                {"type": "conv", **WINDOW, "filter": [5, 5]},
                {"type": "act", "fn": "relu"},
            ),
            (8, 8, 1),
            "one filter and padding in all layers, not layer 3",
        ),
        (
            network(
                {"type": "conv", **WINDOW},
                {"type": "act", "fn": "relu"},
                {"type": "conv", **WINDOW},
                {"type": "act", "fn": "erf"},
            ),
            (8, 8, 1),
            "one activation in all layers, not the one after layer 3",
        ),
        (network({"type": "conv", **WINDOW}, {"type": "act", "fn": "abs"}), (8, 8, 1), "abs.*reference"),
    ],
)
def test_what_is_not_covered_is_named(architecture: Architecture, shape: tuple[int, ...], named: str) -> None:
    with pytest.raises(NotImplementedError, match=named):
        backends.compute(images(2, *shape), None, architecture, "ntk", "cuda", "float64")
