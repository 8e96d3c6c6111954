"""kill −9 at any moment: the store opens, verifies, resumes, and ends as an uninterrupted run does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.mark.slow
def test_killed_runs_end_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    import kills

    result = kills.run(tmp_path, kills=4, seed=1)
    assert result["kills"] == 4
    assert result["stores_completed"] >= 1
    assert result["different"] == 0
    assert result["unreadable"] == 0
