"""The Triton kernels compile for sm_80 and sm_90 without a GPU, within their registers and a ceiling on spills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TIME_LIMIT_S = 120  # a tile too large for the registers compiles for minutes
REGISTERS = 255  # the most that a thread can have
ROOT = Path(__file__).parent

# bytes of stack that a thread may spill, none of it in the loop over terms (docs/triton.md), with room for another release of the
# compiler; every tile is sized to fill the 255 registers
CEILINGS = {
    ("fcn-float32-both", 90): 320,
    ("fcn-float64-product", 80): 640,
    ("hr-cnn-float32-both", 80): 0,
    ("hr-cnn-gap-float32-both", 90): 512,
}


@pytest.mark.parametrize(("case", "capability"), CEILINGS)
def test_compiles_within_its_registers(case: str, capability: int, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(ROOT / "triton_build.py"), case, str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT_S)
    assert done.returncode == 0, done.stderr[-2000:]
    built = json.loads(done.stdout)
    assert built["REG"] <= REGISTERS
    assert built["STACK"] + built["LOCAL"] <= CEILINGS[case, capability]
