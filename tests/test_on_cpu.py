"""The CPU path beyond the golden cases: ragged shapes, degenerate images, precision in depth, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import relative, worst

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import backends, threads

Array = NDArray[Any]


def images(n: int, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, *shape))


def agree(x: Array, z: Array | None, architecture: Architecture, dtype: str) -> None:
    """Both kernels of the CPU path against the reference."""
    truth = backends.compute(x, z, architecture, "both", "reference", "float64")
    result = backends.compute(x, z, architecture, "both", "cpu", dtype)
    other = x if z is None else z
    for name in ("nngp", "ntk"):
        xx, zz = (
            np.array(
                [
                    backends.compute(a[None], None, architecture, name, "reference", "float64")[name][0, 0]
                    for a in i
                ]
            )
            for i in (x, other)
        )
        assert result[name].dtype == dtype
        error = worst(result[name], truth[name], xx, zz)
        assert error <= relative(dtype, architecture), f"{name} {error:.1e}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 2), (2, 3, 1), (7, 1, 4), (5, 11, 3), (9, 4, 1)])
@pytest.mark.parametrize("name", ["fcn", "lcn", "vec", "gap", "lcn-gap"])
def test_any_image_size(name: str, shape: tuple[int, int, int], dtype: str) -> None:
    agree(images(3, *shape), images(2, *shape, seed=1), Architecture.preset(name), dtype)


@pytest.mark.parametrize("n", [1, 7, 63, 64, 65])
@pytest.mark.parametrize("name", ["fcn", "vec", "gap"])
def test_any_number_of_images(name: str, n: int) -> None:
    """Blocks of images are padded; nothing of the padding may show."""
    x, z = images(n, 3, 4, 2), images(5, 3, 4, 2, seed=1)
    architecture = Architecture.preset(name)
    agree(x, z, architecture, "float32")
    K = backends.compute(x, None, architecture, "ntk", "cpu", "float64")["ntk"]
    assert (K == K.T).all()
    row = backends.compute(x[-1:], x, architecture, "ntk", "cpu", "float64")["ntk"]
    np.testing.assert_allclose(K[-1], row[0], rtol=1e-13)


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR", "VALID"])
@pytest.mark.parametrize("filter", [1, 2, 3, 4, 5, (1, 3), (5, 2)])
@pytest.mark.parametrize("name", ["vec", "gap"])
def test_windows_of_any_size_and_padding(name: str, filter: int | tuple[int, int], padding: str) -> None:
    shape = (11, 12, 2) if padding == "VALID" else (5, 6, 2)
    architecture = Architecture.preset(name, depth=2, filter=filter, padding=padding)
    agree(images(2, *shape), images(2, *shape, seed=1), architecture, "float64")


@pytest.mark.parametrize(
    ("stride", "padding"), [(2, "SAME"), (3, "VALID"), (2, "CIRCULAR"), ((1, 2), "SAME")]
)
@pytest.mark.parametrize("name", ["vec", "gap", "lcn", "lcn-gap"])
def test_strides(name: str, stride: int | tuple[int, int], padding: str) -> None:
    architecture = Architecture.preset(name, depth=2, stride=stride, padding=padding, filter=3)
    agree(images(2, 16, 12, 2), images(2, 16, 12, 2, seed=1), architecture, "float64")


def test_a_window_wider_than_a_circular_image_wraps_more_than_once() -> None:
    agree(images(2, 2, 3, 1), None, Architecture.gap(depth=2, filter=5, padding="CIRCULAR"), "float64")


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_local_average_pooling(dtype: str, padding: str) -> None:
    x = images(3, 5, 7, 2)
    for radius in (0, 1, 3):
        agree(x, None, Architecture.lap(depth=2, radius=radius, padding=padding), dtype)
    agree(x, images(2, 5, 7, 2, seed=1), Architecture.lap(depth=2, filter=(5, 3), padding=padding), dtype)


@pytest.mark.parametrize("end", ["flatten", "gap"])
@pytest.mark.parametrize(
    "pool",
    [
        {"window": [2, 2]},
        {"window": [3, 2], "strides": [2, 1], "padding": "SAME", "normalize_edges": True},
        {"window": [5, 3], "strides": [1, 1], "padding": "CIRCULAR"},
    ],
)
def test_any_average_pool_before_the_readout(pool: dict[str, Any], end: str) -> None:
    layers = Architecture.vec(depth=2).to_dict()["layers"]
    layers[-2:-1] = [{"type": "avg_pool", **pool}, {"type": end}]
    agree(images(2, 6, 5, 2), None, Architecture.from_dict({"layers": layers}), "float64")


def test_local_average_pooling_lies_between_vec_and_gap() -> None:
    x = images(3, 5, 5, 1)
    for radius, other in (
        (0, Architecture.vec(padding="CIRCULAR")),
        (2, Architecture.gap(padding="CIRCULAR")),
    ):
        K = [
            backends.compute(x, None, net, "ntk", "cpu", "float64")["ntk"]
            for net in (Architecture.lap(radius=radius, padding="CIRCULAR"), other)
        ]
        np.testing.assert_allclose(K[0], K[1], rtol=1e-13)


@pytest.mark.parametrize("depth", [3, 8, 20])
@pytest.mark.parametrize("bias", [0.0, 0.05])
@pytest.mark.parametrize("name", ["fcn", "vec", "gap"])
def test_float32_holds_on_the_diagonal_and_for_duplicates_at_any_depth(
    name: str, bias: float, depth: int
) -> None:
    """neural-tangents in float32 is off by 7e-5, 3e-4, 6e-4 on the diagonal of the NTK at depths 3, 10, 20."""
    x = images(4, 6, 6, 1)
    x[:, 0], x[:, :, 0] = 0, 0  # borders as in MNIST
    x = np.abs(np.concatenate([x, x[:2], 0 * x[:1], 0 * x[:1] + 0.7]))  # duplicates, a black and a grey image
    agree(x.astype(np.float32), None, Architecture.preset(name, depth=depth, bias_variance=bias), "float32")


@pytest.mark.parametrize("name", ["fcn", "vec", "gap", "lcn-gap"])
def test_nngp_alone_equals_nngp_of_both(name: str) -> None:
    x, architecture = images(5, 6, 5, 3), Architecture.preset(name)
    for dtype in ("float32", "float64"):
        both = backends.compute(x, None, architecture, "both", "cpu", dtype)
        for kernel in ("nngp", "ntk"):
            alone = backends.compute(x, None, architecture, kernel, "cpu", dtype)
            assert list(alone) == [kernel]
            np.testing.assert_allclose(alone[kernel], both[kernel], rtol=4 * float(np.finfo(dtype).eps))


def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, z = images(40, 6, 6, 1), images(21, 6, 6, 1, seed=1)
    results = []
    for n in (1, 2, 5):
        monkeypatch.setattr(threads, "count", lambda n=n: n)
        results.append(backends.compute(x, z, Architecture.gap(), "ntk", "cpu", "float32")["ntk"])
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()


@pytest.mark.parametrize("name", ["fcn", "vec", "gap"])
@pytest.mark.parametrize("size", [1e-30, 1e12])
def test_float32_without_bias_survives_any_scale(name: str, size: float) -> None:
    """ReLU without bias is homogeneous: the scale is taken out and put back; the results stay in the range of float32."""
    x, architecture = images(3, 4, 4, 2), Architecture.preset(name, bias_variance=0.0)
    K = backends.compute(x, None, architecture, "ntk", "cpu", "float32")["ntk"]
    scaled = backends.compute(x * size, x, architecture, "ntk", "cpu", "float32")["ntk"]
    np.testing.assert_allclose(scaled / size, K, rtol=1e-6)


@pytest.mark.parametrize("name", ["fcn", "vec"])
def test_float32_refuses_what_it_cannot_hold(name: str) -> None:
    with pytest.raises(KernregError, match=r"magnitude \d.\de\+12 .*float64"):
        backends.compute(images(2, 4, 4, 1) * 1e12, None, Architecture.preset(name), "ntk", "cpu", "float32")


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        (["conv", "abs", "flatten", "dense"], "abs"),
        (["conv", "relu", "avg_pool", "conv", "relu", "flatten", "dense"], "AvgPool"),
        (["conv_local", "relu", "avg_pool", "flatten", "dense"], "AvgPool"),
        (["conv", "relu", "gap", "dense", "relu", "dense"], "Activation"),
        (["conv_local", "relu", "conv", "relu", "gap", "dense"], "layer 3"),
        (["conv", "residual", "flatten", "dense"], "Residual"),
    ],
)
def test_what_the_cpu_does_not_cover_is_named_and_runs_on_the_reference(
    layers: list[str], named: str
) -> None:
    window: dict[str, Any] = {
        "filter": [3, 3],
        "strides": [1, 1],
        "padding": "SAME",
        "W_var": 2.0,
        "b_var": 0.1,
    }
    known: dict[str, dict[str, Any]] = {
        "conv": {"type": "conv", **window},
        "conv_local": {"type": "conv_local", **window},
        "dense": {"type": "dense", "W_var": 2.0, "b_var": 0.1},
        "avg_pool": {"type": "avg_pool", "window": [2, 2], "strides": [2, 2], "padding": "VALID"},
        "residual": {"type": "residual", "branch": [{"type": "conv", **window}], "shortcut": []},
        "flatten": {"type": "flatten"},
        "gap": {"type": "gap"},
    }
    architecture = Architecture.from_dict(
        {"layers": [known.get(name, {"type": "act", "fn": name}) for name in layers]}
    )
    x = images(2, 4, 4, 1)
    with pytest.raises(NotImplementedError, match=f"{named}.*reference"):
        backends.compute(x, None, architecture, "ntk", "cpu", "float64")
    K = backends.compute(x, None, architecture, "ntk", "reference", "float64")["ntk"]
    assert np.isfinite(K).all()
    assert K[0, 0] > 0


def test_unknown_names_and_shapes_are_refused() -> None:
    x = images(2, 4, 4, 1)
    with pytest.raises(KernregError, match="unknown backend 'tpu'"):
        backends.compute(x, None, Architecture.fcn(), "ntk", "tpu", "float64")
    with pytest.raises(KernregError, match="unknown kernel"):
        backends.compute(x, None, Architecture.fcn(), "rbf", "cpu", "float64")
    with pytest.raises(KernregError, match="unknown dtype"):
        backends.compute(x, None, Architecture.fcn(), "ntk", "cpu", "float16")
    with pytest.raises(KernregError, match="needs images"):
        backends.compute(x.reshape(2, -1), None, Architecture.gap(), "ntk", "cpu", "float64")
    with pytest.raises(KernregError, match="does not fit"):
        backends.compute(x, None, Architecture.vec(filter=5, padding="VALID"), "ntk", "cpu", "float64")


def test_the_table_of_the_documentation() -> None:
    """docs/kernels.md: sines on 6×6×3, three layers, σw² = 2, σb² = 0.01."""
    a = np.arange(2 * 6 * 6 * 3).reshape(2, 6, 6, 3)
    x, z = np.sin(0.1 * a + 0.3), np.sin(0.1 * a + 1.1)
    rows = {
        "fcn": (0.9208683684324775, 0.8071304869457979, 2.541745381245673, 2.112355102496643),
        "vec": (0.5127876767069784, 0.4848728390232758, 1.384116099257988, 1.278828651800036),
        "lcn": (0.5127876767069784, 0.4848728390232758, 1.384116099257988, 1.278828651800036),
        "gap": (0.3474457543790985, 0.3316962706997179, 0.6560379725375336, 0.6183810145674000),
        "lcn-gap": (0.2044440218161507, 0.1961056255860308, 0.2286475891092343, 0.2181599537187185),
    }
    for name, row in rows.items():
        for backend in ("reference", "cpu"):
            K = backends.compute(x, z, Architecture.preset(name), "both", backend, "float64")
            found = (*np.diag(K["nngp"]), *np.diag(K["ntk"]))
            np.testing.assert_allclose(found, row, rtol=1e-13)
