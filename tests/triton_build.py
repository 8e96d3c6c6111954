"""Compile the Triton kernels ahead of time, without a GPU: registers, spills and instructions, by target.

    python tests/triton_build.py CASE SM

prints JSON, for CASE one of CASES below and SM 80 or 90.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernreg.architecture import Architecture
from kernreg.kernels import on_triton, triton_tree
from kernreg.kernels.triton_rows import prepare

NETWORKS: dict[str, tuple[Architecture, tuple[int, ...]]] = {
    "fcn": (Architecture.fcn(3), (3072,)),
    "fcn-short": (Architecture.fcn(3), (24,)),
    "fcn-erf": (Architecture.fcn(3, activation="erf"), (3072,)),
    "hr-cnn": (Architecture.preset("hr-cnn"), (16, 16, 3)),
    "hr-cnn-gap": (Architecture.preset("hr-cnn-gap", activation="erf"), (16, 16, 3)),
    "d-cnn": (Architecture.preset("d-cnn"), (32, 32, 3)),
}
# name: network, dtype, what is made, precision of a long float32 leaf
CASES: dict[str, tuple[str, str, str, str]] = {
    f"{network}-{dtype}-{made}{'-tf32x3' if precision != 'ieee' else ''}": (network, dtype, made, precision)
    for network in NETWORKS
    for dtype in ("float32", "float64")
    for made in ("nngp", "ntk", "both", "product", "product32")
    for precision in (("ieee", "tf32x3") if dtype == "float32" else ("ieee",))
}


REAL = ("x", "z", "x_table", "z_table", "x_scale", "z_scale", "affines", "readout", "nngp", "ntk")


def signature(case: str) -> tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]:
    """The kernel, the types of its arguments, its constants and its options."""
    import torch

    network, dtype, made, precision = CASES[case]
    architecture, shape = NETWORKS[network]
    rows = prepare(torch.tensor(np.ones((2, *shape)), dtype=torch.float64), architecture, dtype)
    settings = on_triton._settings(rows, True, precision)
    options = {name: settings.pop(name) for name in ("num_warps", "num_stages", "enable_fp_fusion")}
    real, wide = {"float32": "*fp32", "float64": "*fp64"}[dtype], "*fp32" if made == "product32" else "*fp64"
    types = dict.fromkeys(REAL, real)
    types |= {"vectors": wide, "out": wide, "starts": "*i64"} | dict.fromkeys(
        ("kinds", "groups", "tiles"), "*i32"
    )
    product = made.startswith("product")
    kernel = triton_tree.product_kernel if product else triton_tree.gram_kernel
    settings |= (
        {"NTK": True, "BC": on_triton.VECTORS} if product else {"NNGP": made != "ntk", "NTK": made != "nngp"}
    )
    arguments = {name: types.get(name, "i32") for name in kernel.arg_names}
    return kernel, arguments | dict.fromkeys(settings, "constexpr"), settings, options


def build(case: str, capability: int) -> dict[str, Any]:
    """Registers a thread, bytes of stack (spills), bytes of shared memory, seconds, and the instructions by name."""
    import time

    kernel, types, constants, options = signature(case)
    # what a launch finds out itself: pointers and leading dimensions are multiples of 16 bytes
    aligned = [name for name, kind in types.items() if kind[0] == "*" or name in ("q", "ld_x", "ld_z")]
    places = {name: (kernel.arg_names.index(name),) for name in types}
    attributes = {places[name]: [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, types, {places[name]: value for name, value in constants.items()}, attributes)
    start = time.perf_counter()
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    seconds = time.perf_counter() - start
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = tool("cuobjdump", "-res-usage", file.name)
        listing = tool("cuobjdump", "-sass", file.name)
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    names = Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]+)", listing))
    return {
        "seconds": round(seconds, 1),
        "shared": built.metadata.shared,
        **found,
        "instructions": dict(names.most_common()),
    }


def tool(name: str, *arguments: str) -> str:
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    return subprocess.run([str(folder / name), *arguments], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print(json.dumps(build(sys.argv[1], int(sys.argv[2]))))
