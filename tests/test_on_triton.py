"""The Triton kernels in the interpreter, against the reference: every kind of leaf, stage, readout and product, ragged sizes.

The interpreter is chosen when the kernels are imported, so it lives in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_cases as cases
from numpy.typing import NDArray
from tolerances import relative

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import on_triton, triton_device
from kernreg.layers import Activation, Conv, Dense, Flatten, GlobalAvgPool, Layer

Array = NDArray[Any]
Run = Callable[..., Any]

DTYPES = ["float32", "float64"]
LONG, SHORT = 37, 24  # numbers in a row: a GEMM, and squares of differences


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Run]:
    """Calls a function of triton_cases in a process that has TRITON_INTERPRET=1."""
    context = multiprocessing.get_context("spawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        pool = ProcessPoolExecutor(1, mp_context=context)
        pool.submit(abs, 0).result()
    with pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=300)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "m", "d"), [(1, 1, 1), (5, 3, 2), (67, 33, SHORT), (129, 65, LONG), (3, 2, 1030)]
)
def test_fully_connected_of_any_size(interpreter: Run, n: int, m: int, d: int, dtype: str) -> None:
    x, z = cases.vectors(n, d), cases.vectors(m, d, seed=1)
    assert interpreter(cases.error, x, z, Architecture.fcn(), "both", dtype) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [SHORT, LONG])
@pytest.mark.parametrize("n", [1, 129])
def test_a_matrix_of_rows_with_themselves(interpreter: Run, n: int, d: int, dtype: str) -> None:
    assert interpreter(cases.error, cases.vectors(n, d), None, Architecture.fcn(2), "both", dtype) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [0.0, 0.05])
@pytest.mark.parametrize(("d", "depth"), [(SHORT, 3), (LONG, 3), (LONG, 20)])
def test_near_parallel_rows(interpreter: Run, d: int, depth: int, bias: float, dtype: str) -> None:
    x = cases.near_parallel(d)
    architecture = Architecture.fcn(depth, bias_variance=bias)
    assert interpreter(cases.parallel_error, x, None, architecture, dtype) <= 1
    assert interpreter(cases.parallel_error, x[::-1].copy(), x, architecture, dtype) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "activations", ["erf", "rbf", "relu erf", "erf erf relu", "identity relu", "rbf relu", ""]
)
def test_activations(interpreter: Run, activations: str, dtype: str) -> None:
    layers: list[Layer] = []
    for fn in activations.split():
        layers += [Dense(1.7, 0.2), Activation(fn)]
    architecture = Architecture((*layers, Dense(1.3, 0.0), Dense(0.8, 0.1)))
    allowed = 1 if layers else 5  # a linear kernel passes through 0, like that of an erf
    for d in (SHORT, LONG):
        x = cases.vectors(9, d)
        assert interpreter(cases.error, x, None, architecture, "both", dtype) <= allowed
        assert (
            interpreter(cases.error, x, cases.vectors(4, d, seed=1), architecture, "both", dtype) <= allowed
        )


def test_an_erf_of_large_inputs(interpreter: Run) -> None:
    """float32 alone: at this size and angle the reference in float64 is good to 1e-10 only."""
    x = cases.near_parallel(LONG, scale=1e3)
    assert interpreter(cases.error, x, None, Architecture.fcn(2, activation="erf"), "both", "float32") <= 1


PATCHES = {
    "hr-cnn": Architecture.preset("hr-cnn"),
    "hr-cnn-rbf": Architecture.preset("hr-cnn", filter=(4, 1), activation="rbf", weight_variance=0.25),
    "hr-cnn-gap": Architecture.preset("hr-cnn-gap", depth=2),
    "hr-cnn-flatten-erf": Architecture.preset("hr-cnn-flatten", depth=2, activation="erf"),
    "d-cnn": Architecture.preset("d-cnn", filter=2, bias_variance=0.0),
    "d-cnn-gap-erf": Architecture.patches(2, 2, hidden=0, pooled=True, activation="erf"),
    "s-cnn": Architecture.preset("s-cnn"),
    "same": Architecture((Conv((3, 3), (1, 1), "SAME", 1.5, 0.0), Activation("relu"), GlobalAvgPool(), Dense(2.0, 0.1))),
    "linear": Architecture((Conv((2, 2), (2, 2), "VALID", 1.5, 0.1), Conv((2, 2), (2, 2), "VALID", 1.5, 0.1),
                            Activation("relu"), Dense(1.2, 0.1), Activation("relu"), Flatten(), Dense(2.0, 0.1))),
}  # fmt: skip
SHAPES = {
    "hr-cnn": (8, 16, 1), "hr-cnn-rbf": (64, 1, 1), "d-cnn": (9, 8, 2), "s-cnn": (4, 8, 3), "same": (2, 3, 2),
    "hr-cnn-gap": (4, 8, 2), "d-cnn-gap-erf": (8, 4, 2),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PATCHES)
def test_patch_networks(interpreter: Run, name: str, dtype: str) -> None:
    """Images with black borders, duplicates, a constant and a black one; ragged numbers of them."""
    shape = SHAPES.get(name, (8, 8, 2))
    x = np.random.default_rng(0).standard_normal((5, *shape))
    x[1:3, :2], x[3:, :, :1] = 0, 0
    x = np.concatenate([x, x[1:3], 0 * x[:1] + 0.7, 0 * x[:1]]).astype(np.float32)
    assert interpreter(cases.error, x, None, PATCHES[name], "both", dtype) <= 1
    assert interpreter(cases.error, x[:3], x[2:], PATCHES[name], "both", dtype) <= 1


@pytest.mark.parametrize("name", ["hr-cnn-flatten-erf", "same"])
def test_more_images_than_a_tile_holds(interpreter: Run, name: str) -> None:
    x = np.random.default_rng(0).standard_normal((66, *((4, 4, 1) if name != "same" else (1, 2, 1))))
    assert interpreter(cases.error, x, None, PATCHES[name], "both", "float32") <= 1
    assert interpreter(cases.error, x, x[:33], PATCHES[name], "ntk", "float64") <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [SHORT, LONG])
def test_one_kernel_alone_equals_the_same_of_both(interpreter: Run, d: int, dtype: str) -> None:
    for architecture in (Architecture.fcn(2), Architecture.fcn(2, activation="erf")):
        assert interpreter(cases.alone, cases.vectors(9, d), architecture, dtype) <= 4


@pytest.mark.parametrize("size", [1e-30, 1e12])
def test_float32_without_bias_survives_any_scale(interpreter: Run, size: float) -> None:
    for architecture, shape in (
        (Architecture.fcn(bias_variance=0.0), (LONG,)),
        (PATCHES["d-cnn"], (4, 4, 1)),
    ):
        x = np.random.default_rng(0).standard_normal((4, *shape))
        K, scaled = (
            interpreter(on_triton.compute, a, x, architecture, "ntk", "float32")["ntk"] for a in (x, size * x)
        )
        np.testing.assert_allclose(scaled / size, K, rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "m", "d", "columns", "kernel", "dtype", "wide"),
    [
        (5, None, SHORT, None, "ntk", "float32", "float64"),
        (129, 131, LONG, 3, "nngp", "float32", "float64"),
        (66, None, LONG, 17, "ntk", "float64", "float64"),
        (130, None, SHORT, 1, "ntk", "float32", "float32"),
    ],
)
def test_products_with_vectors(
    interpreter: Run, n: int, m: int | None, d: int, columns: int | None, kernel: str, dtype: str, wide: str
) -> None:
    arguments = (n, m, d, columns, Architecture.fcn(2), kernel, dtype, wide)
    # the matrix is computed as one triangle, the product is not: entries below it are rounded otherwise
    bound = 4 * np.sqrt(n) * float(np.finfo(wide).eps) + relative(dtype, Architecture.fcn(2))
    assert interpreter(cases.product_error, *arguments) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [SHORT, LONG])
def test_views_of_prepared_rows(interpreter: Run, d: int, dtype: str) -> None:
    assert interpreter(cases.slices, Architecture.fcn(2), cases.vectors(31, d), dtype)


def test_addresses_beyond_int32(interpreter: Run, tmp_path: Path) -> None:
    assert interpreter(cases.far_addresses, str(tmp_path / "sparse"))


def test_refusals(interpreter: Run) -> None:
    x = np.ones((2, 8, 8, 1))
    assert "NotImplementedError: backend triton covers" in interpreter(cases.refused, x, Architecture.gap())
    assert "layer 3" in interpreter(cases.refused, x, Architecture.gap())
    assert "KernregError: inputs of magnitude 1.0e+12" in interpreter(
        cases.refused, 1e12 * x, Architecture.fcn()
    )
    assert not interpreter(cases.refused, 1e12 * x, Architecture.fcn(), "float64")
    for shape, dtype, kernel in [((5,), "float64", "ntk"), ((4, 0), "float64", "ntk")]:
        assert "KernregError: K is 4×4: V must be" in interpreter(cases.product_refused, shape, dtype, kernel)
    assert "one kernel" in interpreter(cases.product_refused, (4,), "float64", "both")


def test_a_missing_library_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(KernregError, match=r"needs triton .*pip install 'kernreg\[triton\]'"):
        on_triton.covers(Architecture.fcn(), (3,))


def test_a_missing_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = triton_device.torch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KernregError, match="needs an NVIDIA GPU"):
        on_triton.compute(cases.vectors(2, 3), None, Architecture.fcn())
