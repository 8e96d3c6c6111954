"""`kernreg solve --cluster`: the coefficients of one process, and refusals in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matrices import problem, stored
from tolerances import solved

from kernreg.cli.main import main
from kernreg.solutionfile import SavedSolution

pytest.importorskip("distributed", reason="pip install 'kernreg[cluster]'")
pytest.importorskip("kernreg.cluster", reason="the door to dask is not in this tree")
N, RIDGE, RTOL = 53, 0.3, 1e-9


def test_workers_of_this_machine_solve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = stored(tmp_path / "a.gram", problem(N, dtype="float32"))
    words = ("solve", "a.gram", "--cluster", "local:2", "--ridge", str(RIDGE), "--rtol", str(RTOL), "--json")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["solver"] == "cg"
    assert "2 workers" in facts["why"]
    A = store.train("ntk") + RIDGE * np.eye(N)
    found, exact = SavedSolution.read(Path(facts["path"])).coefficients, np.linalg.solve(A, store.y_train)
    assert np.linalg.norm(found - exact) <= solved(A, RTOL) * np.linalg.norm(exact)
    assert not list(tmp_path.glob("**/*.state"))


def test_what_a_cluster_cannot_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "a.gram", problem(20))
    result = CliRunner().invoke(main, ["solve", "a.gram", "--solver", "cholesky", "--cluster", "local"])
    assert result.exit_code == 2
    assert "use --solver cg" in result.stderr
    result = CliRunner().invoke(main, ["solve", "a.gram", "--cluster", "nowhere"])
    assert result.exit_code == 1
    assert result.stderr.startswith("kernreg: error: --cluster nowhere: a cluster is local")
