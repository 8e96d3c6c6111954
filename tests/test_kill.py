"""kill −9 at any moment: the store opens, verifies, resumes, and ends as an uninterrupted run does."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_killed_runs_end_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    result = runpy.run_path(str(SCRIPT))["run"](tmp_path, kills=3, seed=1, n=90, t=20)
    assert result["kills"] == 3
    assert result["stores_completed"] >= 1
    assert result["different"] == 0
    assert result["unreadable"] == 0
