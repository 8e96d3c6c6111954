"""Every class of instances compiles for the GPUs of three generations, within ceilings on registers and on what is spilled."""

from __future__ import annotations

from typing import Any

import pytest
from cuda_cases import preset

from kernreg.kernels import cubin
from kernreg.kernels.instance import instance

pytestmark = pytest.mark.skipif(
    not cubin.compiler(),
    reason="no CUDA compiler: nvidia-cuda-nvrtc is not installed and nvcc not on the PATH",
)

# Bytes of a thread's stack. Where 128 registers are just too few (more would let fewer warps run), the compiler keeps a few of
# them in memory, once a layer; a kernel that spills in earnest takes hundreds of bytes.
STACK = 32

# (preset, settings, shape, kernel, dtype, capability, ceiling on registers of `pairs`)
CLASSES: list[tuple[str, dict[str, Any], tuple[int, int, int], str, str, int, int]] = [
    ("gap", {}, (32, 32, 3), "ntk", "float32", 90, 128),
    ("gap", {}, (32, 32, 3), "ntk", "float32", 80, 128),
    ("gap", {}, (32, 32, 3), "ntk", "float32", 100, 128),
    ("gap", {}, (32, 32, 3), "nngp", "float32", 90, 128),
    ("gap", {}, (32, 32, 3), "ntk", "float64", 90, 255),
    ("gap", {"padding": "CIRCULAR"}, (28, 28, 1), "ntk", "float32", 90, 168),
    ("vec", {}, (32, 32, 3), "ntk", "float32", 90, 128),
    ("vec", {"activation": "erf"}, (32, 32, 3), "ntk", "float32", 90, 128),
    ("vec", {}, (64, 64, 3), "ntk", "float64", 80, 255),
    ("lcn-gap", {}, (8, 8, 1), "ntk", "float32", 90, 168),
    ("lap", {"filter": 5}, (28, 28, 1), "ntk", "float32", 90, 255),
    ("gap", {"filter": 7}, (32, 32, 3), "ntk", "float32", 90, 255),
]


@pytest.mark.parametrize(
    ("name", "settings", "shape", "kernel", "dtype", "capability", "ceiling"),
    CLASSES,
    ids=lambda v: "-".join(
        map(str, v.values() if isinstance(v, dict) else v if isinstance(v, tuple) else (v,))
    ),
)
def test_instance_compiles_within_its_ceiling(
    name: str,
    settings: dict[str, Any],
    shape: tuple[int, ...],
    kernel: str,
    dtype: str,
    capability: int,
    ceiling: int,
) -> None:
    stencil = instance(preset(name, **settings), shape, kernel, dtype)
    found = cubin.resources(cubin.compile(stencil.definitions, capability))
    assert set(found) == {
        "images_float32",
        "images_float64",
        "variances",
        "roots",
        "widen",
        "pairs",
        "readout",
    }
    assert 0 < found["pairs"].registers <= ceiling
    for kernel_name, needs in found.items():
        assert needs.stack <= STACK, f"{kernel_name} spills {needs.stack} bytes"


def test_a_compiler_error_has_a_file_and_a_line() -> None:
    stencil = instance(preset("vec"), (8, 8, 1), "nngp", "float32")
    broken = tuple(d.replace("KR_COLUMNS=", "KR_COLUMNS=3+") for d in stencil.definitions)
    with pytest.raises(Exception, match=r"(plane|real)\.cuh\(\d+\): error"):
        cubin.compile(broken, 90)
