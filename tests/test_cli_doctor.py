"""kernreg doctor: what it finds here, and what it says and does about something broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import columnmajor
import pytest
import twodevices
from click.testing import CliRunner
from twodevices import NAME, State

from kernreg import device as devices
from kernreg import doctor
from kernreg.cli.main import main
from kernreg.kernels import backends, lanes


def findings(*arguments: str) -> tuple[int, Mapping[str, Any]]:
    result = CliRunner().invoke(main, ["doctor", "--json", *arguments], catch_exceptions=False)
    return result.exit_code, {finding["name"]: finding for finding in json.loads(result.stdout)}


def test_this_machine_is_healthy() -> None:
    status, found = findings()
    assert status == 0
    assert {f["name"] for f in found.values() if f["status"] == "broken"} == set()
    for name in (
        "python",
        "numpy",
        "numba",
        "hdf5",
        "cores",
        "memory",
        "disk",
        "backend cpu",
        "store",
        "figures",
    ):
        assert found[name]["status"] == "ok"
    assert found["torch"]["status"] in ("ok", "absent")
    assert "--backend auto means it for" in found["backend cpu"]["detail"]
    assert found["backend reference"]["detail"] == "computes"
    assert found["device cuda"]["status"] in ("ok", "absent")
    assert "data digits" in found
    text = CliRunner().invoke(main, ["doctor"]).output
    assert len(text.splitlines()) == len(found)
    assert "broken" not in text


def test_a_broken_library_is_one_line_and_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    status, found = findings()
    assert status == 1
    assert found["hdf5"]["status"] == "broken"
    assert "h5py" in found["hdf5"]["detail"]
    assert found["store"]["status"] == "broken"
    assert found["numpy"]["status"] == "ok"


def test_an_old_python_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PYTHON", (99, 0))
    status, found = findings()
    assert status == 1
    assert "99.0" in found["python"]["detail"]


def test_an_absent_gpu_library_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "GPU_LIBRARIES", ("no_such_gpu_library",))
    status, found = findings()
    assert status == 0
    assert found["no_such_gpu_library"]["status"] == "absent"


def test_a_gpu_and_its_backend_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twodevices, "state", State())
    monkeypatch.setitem(backends.MODULES, NAME, "twodevices")
    monkeypatch.setattr(lanes, "GPUS", {NAME: twodevices.Gpus})
    monkeypatch.setattr(lanes, "gpu_in_sight", lambda: True)
    monkeypatch.setattr(backends, "FASTEST", (NAME,))
    monkeypatch.setattr(devices, "cuda", columnmajor.cuda)
    monkeypatch.setattr(devices, "free_bytes", lambda: 3 << 30)
    _, found = findings()
    assert found["gpu"]["detail"] == "twin 0, 8.0 GiB free; twin 1, 6.0 GiB free"
    assert found["backend twin"]["detail"] == "computes; --backend auto means it for fcn, lcn, vec, lcn-gap"
    assert found["backend cpu"]["detail"] == "computes; --backend auto means it for gap"
    assert found["device cuda"]["detail"] == "factors; 3.0 GiB free"
    twodevices.state.missing = "backend twin finds no twin: use --backend cpu"
    _, found = findings()
    assert found["gpu"]["status"] == "absent"
    assert (found["backend twin"]["status"], found["backend twin"]["detail"]) == (
        "absent",
        twodevices.state.missing,
    )
