"""The Triton kernels on a GPU: what the interpreter is held to, and sizes that it has no time for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import triton_cases as cases
from test_on_triton import DTYPES, LONG, PATCHES, SHAPES, SHORT
from tolerances import relative

from kernreg.architecture import Architecture
from kernreg.kernels import on_triton, triton_device
from kernreg.kernels.triton_rows import prepare

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "m", "d"), [(1, 1, 1), (67, 33, SHORT), (129, 65, LONG), (300, 257, 784), (130, 70, 3072)]
)
def test_fully_connected_of_any_size(n: int, m: int, d: int, dtype: str) -> None:
    x, z = cases.vectors(n, d), cases.vectors(m, d, seed=1)
    assert cases.error(x, z, Architecture.fcn(), "both", dtype) <= 1
    assert cases.error(x, None, Architecture.fcn(8), "both", dtype) <= 1
    assert cases.alone(x, Architecture.fcn(2), dtype) <= 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [0.0, 0.05])
@pytest.mark.parametrize(("d", "depth"), [(SHORT, 3), (LONG, 20), (3072, 20)])
def test_near_parallel_rows(d: int, depth: int, bias: float, dtype: str) -> None:
    x = cases.near_parallel(d)
    assert cases.parallel_error(x, None, Architecture.fcn(depth, bias_variance=bias), dtype) <= 1


@pytest.mark.parametrize("activation", ["erf", "rbf"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(activation: str, dtype: str) -> None:
    for d in (SHORT, LONG):
        x = cases.vectors(140, d)
        assert cases.error(x, None, Architecture.fcn(2, activation=activation), "both", dtype) <= 1
    large = cases.near_parallel(LONG, scale=1e3)
    assert cases.error(large, None, Architecture.fcn(2, activation="erf"), "both", "float32") <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PATCHES)
def test_patch_networks(name: str, dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal((70, *SHAPES.get(name, (8, 8, 2))))
    x[1:3, :2], x[3:5], x[-1] = 0, x[5:7], 0
    assert cases.error(x, None, PATCHES[name], "both", dtype) <= 1


def test_tensor_cores_in_three_products_keep_float32() -> None:
    x = cases.near_parallel(3072)
    for architecture in (Architecture.fcn(), Architecture.fcn(20)):
        rows = prepare(triton_device.moved(x), architecture, "float32")
        truth = cases.extended(x, x, architecture)
        for name, K in on_triton.gram(rows, None, "both", precision="tf32x3").items():
            np.testing.assert_allclose(
                K.cpu().numpy()[:11, :11], truth[name][:11, :11], rtol=relative("float32", architecture)
            )


@pytest.mark.parametrize(
    ("n", "m", "d", "columns", "dtype", "wide"),
    [
        (5, None, SHORT, None, "float32", "float64"),
        (1000, 1030, LONG, 17, "float64", "float64"),
        (1000, None, 784, 3, "float32", "float32"),
    ],
)
def test_products_with_vectors(
    n: int, m: int | None, d: int, columns: int | None, dtype: str, wide: str
) -> None:
    bound = 4 * np.sqrt(n) * float(np.finfo(wide).eps) + relative(dtype, Architecture.fcn(2))
    assert cases.product_error(n, m, d, columns, Architecture.fcn(2), "ntk", dtype, wide) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_calls_give_equal_bits(dtype: str) -> None:
    x = cases.vectors(700, 784)
    first, second = (on_triton.compute(x, None, Architecture.fcn(), "both", dtype) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
    assert cases.slices(Architecture.fcn(2), x[:200], dtype)


def test_more_entries_than_an_int32_counts() -> None:
    """46,342² > 2³¹: the last rows of a matrix of 8.6 GB."""
    torch: Any = triton_device.torch()
    n = 46_400
    if torch.cuda.mem_get_info()[0] < 10 << 30:
        pytest.skip("needs 10 GB of free GPU memory")
    x = cases.vectors(n, 8).astype(np.float32)
    rows = prepare(triton_device.moved(x), Architecture.fcn(1), "float32")
    K = on_triton.gram(rows, None, "ntk")["ntk"]
    last = on_triton.gram(rows[n - 200 : n], rows, "ntk")["ntk"]
    torch.testing.assert_close(K[n - 200 :], last, rtol=1e-6, atol=0)
    assert bool((K[:, n - 200 :].T == K[n - 200 :]).all())
