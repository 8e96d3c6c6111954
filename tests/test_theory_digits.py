"""The example of theory on digits, on a few images."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest


def test_a_small_part_of_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parent.parent / "examples" / "theory_digits.py"
    spec = importlib.util.spec_from_file_location("theory_digits", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    code = module.main(["--splits", "2", "--arch", "fcn", "--images", "300", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "theory_digits.json").read_text(encoding="utf-8"))
    assert (found["rows"], found["tests"], found["first"]) == (200, 100, 50)
    worst = {case: r["theory"]["mean_of_splits"]["worst"] for case, r in found["cases"].items()}
    assert set(worst) == {"fcn, balanced", "fcn, shuffled"}
    assert code == int(max(worst.values()) > module.WITHIN)
    # Two splits with a hundred test images each scatter by about a tenth.
    assert worst["fcn, shuffled"] < 0.3
    half = found["cases"]["fcn, balanced"]["curve"]["half"]
    assert half[:3] == [value for value in half[:3] if value is not None]
    assert half[-1] is None
    assert "single splits" in capsys.readouterr().out
    assert (tmp_path / "theory_digits.png").stat().st_size > 10_000
