"""The CUDA backend on a real GPU, on the cases that everywhere run on the CPU; and its absence, said in one line."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import cuda_cases
import numpy as np
import pytest
from cuda_cases import Case, check, check_case, degenerate, images, preset
from test_golden import GROUPS
from test_golden import check as check_golden

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import backends, lanes, on_cuda
from kernreg.kernels.device import Cuda
from kernreg.kernels.instance import instance


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*cuda_cases.shapes(), *cuda_cases.windows(), *cuda_cases.erf()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cases(case: Case, dtype: str) -> None:
    check_case(case, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("name", cuda_cases.PRESETS)
@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
def test_one_kernel_alone(name: str, kernel: str) -> None:
    for dtype in ("float32", "float64"):
        check(images(5, 9, 8, 2), None, preset(name), dtype, kernel)


@pytest.mark.gpu
@pytest.mark.parametrize("depth", [3, 20])
@pytest.mark.parametrize("bias", [0.0, 0.05])
@pytest.mark.parametrize("name", cuda_cases.PRESETS)
def test_degenerate_images(name: str, bias: float, depth: int) -> None:
    check(degenerate(8, 8).astype(np.float32), None, preset(name, depth=depth, bias_variance=bias), "float32")


@pytest.mark.gpu
@pytest.mark.parametrize("group", [g for g in GROUPS if "fcn" not in g])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_golden_networks(group: str, dtype: str) -> None:
    if dtype == "float64" or "extreme" not in group:
        check_golden(group, "cuda", dtype)


@pytest.mark.gpu
def test_many_pairs_give_the_same_bits_twice() -> None:
    x, architecture = images(300, 14, 14, 1).astype(np.float32), Architecture.vec()
    K = backends.compute(x, None, architecture, "ntk", "cuda", "float32")["ntk"]
    assert (backends.compute(x, None, architecture, "ntk", "cuda", "float32")["ntk"] == K).all()
    few = backends.compute(x[:7], x[290:], architecture, "ntk", "cuda", "float32")["ntk"]
    assert (few == K[:7, 290:]).all()


@pytest.mark.gpu
def test_arrays_and_a_stream_of_the_device() -> None:
    gpu: Any = on_cuda.gpu()
    x, architecture = images(6, 8, 8, 1), Architecture.gap()
    stencil = instance(architecture, x.shape[1:], "ntk", "float32")
    X = on_cuda.prepare(gpu.cupy.asarray(x), stencil, gpu)
    gpu.cupy.cuda.get_current_stream().synchronize()
    stream = gpu.cupy.cuda.Stream(non_blocking=True)
    with stream:
        K = on_cuda.kernels(X[:2], X, stencil, gpu)["ntk"]
    stream.synchronize()
    assert isinstance(K, gpu.cupy.ndarray)
    expected = backends.compute(x[:2], x, architecture, "ntk", "cuda", "float32")["ntk"]
    assert (gpu.get(K) == expected).all()


def test_without_cupy_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    on_cuda.gpu.cache_clear()
    with pytest.raises(KernregError, match=r"needs CuPy .*pip install 'kernreg\[cuda\]'"):
        backends.compute(images(2, 8, 8, 1), None, Architecture.vec(), "ntk", "cuda", "float64")


def test_auto_is_the_gpu_where_it_is_there_and_covers_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "gpu_in_sight", lambda: False)
    assert backends.resolve("auto", Architecture.gap(), (8, 8, 1)) == "cpu"
    monkeypatch.setattr(lanes, "gpu_in_sight", lambda: True)
    monkeypatch.setattr(lanes, "absence", lambda name: "" if name == "cuda" else "not here")
    assert backends.resolve("auto", Architecture.gap(), (8, 8, 1)) == "cuda"
    assert backends.resolve("auto", Architecture.gap(stride=2), (8, 8, 1)) == "cpu"
    assert backends.resolve("auto", Architecture.fcn(), (64,)) == "cpu"
    assert backends.resolve("cuda") == "cuda"


def test_a_copy_to_the_host_goes_to_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = list[np.ndarray]()

    def empty_pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        pinned.append(np.empty(shape, dtype))
        return pinned[-1]

    monkeypatch.setitem(sys.modules, "cupyx", SimpleNamespace(empty_pinned=empty_pinned))
    on_device: Any = SimpleNamespace(shape=(2, 3), dtype=np.float32, get=lambda out: out.fill(7))
    host = Cuda.get(Cuda.__new__(Cuda), on_device)
    assert host is pinned[0]
    np.testing.assert_array_equal(host, np.full((2, 3), 7, np.float32))
