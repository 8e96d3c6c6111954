"""Parity with 2,088 golden networks: the float64 reference and the CPU path in both precisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import PARALLEL, relative, worst

from kernreg.architecture import Architecture
from kernreg.kernels import backends

GROUPS = sorted(path.stem for path in (Path(__file__).parent / "golden").glob("*.npz"))
# the golden values of these are good to 1e-10: proportional images, and images so small beside a bias that all are alike
PARALLEL_GROUPS = ("proportional", "extreme1em12", "scaled1em3")

UNLIKE_PRESETS = {"extras_8x8x3": 17}


def load(group: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with np.load(Path(__file__).parent / "golden" / f"{group}.npz") as file:
        data = dict(file)
    return data, json.loads(str(data.pop("meta")))["cases"]


def check(group: str, backend: str, dtype: str) -> int:
    """Compare every case that the backend covers; the number of those."""
    data, cases = load(group)
    covered = 0
    for k, case in enumerate(cases):
        architecture = Architecture.from_dict(case)
        try:
            backends.covers(backend, architecture, data["x1"].shape[1:])
        except NotImplementedError:
            continue
        covered += 1
        rectangle = backends.compute(data["x1"], data["x2"], architecture, "both", backend, dtype)
        square = backends.compute(data["x1"], None, architecture, "both", backend, dtype)
        zz = backends.compute(data["x2"], None, architecture, "both", "reference", "float64")
        bound = relative(dtype, architecture)
        if any(name in group for name in PARALLEL_GROUPS):
            bound = max(bound, PARALLEL)
        for name in ("nngp", "ntk"):
            xx = np.diag(data[f"{name}11_ref"][k])
            error = worst(rectangle[name], data[f"{name}12_ref"][k], xx, np.diag(zz[name]))
            assert error <= bound, f"{case['id']} {name} K(x1, x2): {error:.1e}"
            error = worst(square[name], data[f"{name}11_ref"][k], xx, xx)
            assert error <= bound, f"{case['id']} {name} K(x1, x1): {error:.1e}"
            diagonal = np.abs(np.diag(square[name]) - xx)
            assert (diagonal <= relative(dtype, architecture) * xx).all(), f"{case['id']} {name} diagonal"
            assert (square[name] == square[name].T).all()
    return covered


@pytest.mark.parametrize("group", GROUPS)
def test_the_reference_equals_the_golden_values(group: str) -> None:
    assert check(group, "reference", "float64") == len(load(group)[1])


@pytest.mark.parametrize("group", GROUPS)
def test_the_cpu_in_float64_equals_the_golden_values(group: str) -> None:
    covered = check(group, "cpu", "float64")
    # pools between layers, residual blocks, hidden dense layers and other activations run on the reference alone
    assert covered == (UNLIKE_PRESETS.get(group) or len(load(group)[1]))


# 1e±12 with a bias or an erf leaves the range of float32 and is refused by name (test_on_cpu.py)
@pytest.mark.parametrize("group", [g for g in GROUPS if "extreme" not in g])
def test_the_cpu_in_float32_is_as_good_as_float32_allows(group: str) -> None:
    check(group, "cpu", "float32")
