"""kill −9 and a full disk on the command line: what was computed is kept, the answer is the same, the store is only read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from matrices import problem, stored

from kernreg.blocks import PROCESS_BYTES
from kernreg.store import GramStore
from kernreg.verify import verify

ROOT = str(Path(__file__).parents[1])
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT}
N, T = 700, 20

# Every write, read, rename and sync is a place to be killed at. Conjugate gradients keep their state once a minute: here a
# minute passes at every look at the clock.
DRIVER = """
import itertools, json, os, random, signal, sys
from types import SimpleNamespace
import numpy, scipy.linalg, h5py  # once, before the children
from kernreg import cg, measure, results, solve
from kernreg.cli.main import main

minutes = itertools.count(step=60.0)
cg.time = SimpleNamespace(perf_counter=lambda: next(minutes))
results.figure = lambda *_, **__: []  # slow, and drawn after all that can be lost
rng, wanted, command = random.Random(int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:]

def run(last):
    calls = 0
    def counted(call):
        def wrapper(*arguments):
            nonlocal calls
            calls += 1
            if calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)
        return wrapper
    for name in ("pwrite", "fsync", "replace", "preadv"):
        setattr(os, name, counted(getattr(os, name)))
    main(command, standalone_mode=False)

kills = 0
while True:
    child = os.fork()
    if not child:
        run(rng.randrange(2, 90) if kills < wanted else 0)
        os._exit(0)
    rng.random()
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    kills += 1
print(json.dumps({"kills": kills}))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> GramStore:
    return stored(tmp_path_factory.mktemp("store") / "s.gram", problem(N, T), tile=128)


def killed(kills: int, *command: object) -> int:
    """Run a command of kernreg that is killed so many times at most; how often it was."""
    given = [sys.executable, "-c", DRIVER, "3", str(kills), *map(str, command)]
    done = subprocess.run(given, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout.splitlines()[-1])["kills"])


SOLVE = {
    "tiled": ("--solver", "tiled", "--memory", PROCESS_BYTES + 3_500_000),
    "float32": ("--factor-dtype", "float32", "--memory", PROCESS_BYTES + 3_000_000),
    "cg": ("--solver", "cg", "--rank", 20, "--rtol", 1e-9),
}


@pytest.mark.parametrize("solver", sorted(SOLVE))
def test_a_killed_solve_goes_on_and_gives_the_same_numbers(
    solver: str, store: GramStore, tmp_path: Path
) -> None:
    found = []
    for name, kills in (("killed.h5", 6), ("whole.h5", 0)):
        options = ("--ridge", 1e-2, "--scratch", tmp_path / "scratch", "--out", tmp_path / name)
        assert killed(kills, "solve", store.path, *SOLVE[solver], *options) >= min(kills, 3)
        with h5py.File(tmp_path / name) as file:
            found.append(file["coefficients"][...])
            assert json.loads(file.attrs["facts"])["solver"] == ("cg" if solver == "cg" else "tiled")
    np.testing.assert_array_equal(found[0], found[1])
    A, y = store.train("ntk") + 1e-2 * np.eye(N), store.y_train
    assert np.linalg.norm(A @ found[0] - y) <= 1e-8 * np.linalg.norm(y)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in left) == ["killed.h5", "whole.h5"]
    assert verify(store).ok


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_a_killed_curve_goes_on_and_gives_the_same_numbers(
    solver: str, store: GramStore, tmp_path: Path
) -> None:
    limits = {
        "cholesky": ("--memory", PROCESS_BYTES + 4_500_000, "--no-loo", "--device", "cpu"),
        "cg": ("--solver", "cg", "--rank", 20),
    }
    tables = []
    for name, kills in (("killed", 5), ("whole", 0)):
        options = ("--ridge", 1e-2, "--scratch", tmp_path / "scratch", "--out", tmp_path / name)
        assert killed(kills, "fit", store.path, *limits[solver], *options) >= min(kills, 2)
        tables.append((tmp_path / name / "fit.csv").read_text(encoding="utf-8"))
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["fit.csv", "fit.json"]
    assert tables[0] == tables[1]
    assert not list((tmp_path / "scratch").rglob("panel*"))
    assert verify(store).ok


# The kernel refuses a file beyond the limit as it refuses one on a full disk, and no root is needed.
FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from kernreg.cli.main import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize("solver", ["tiled", "cg"])
def test_a_full_disk_is_one_line_and_the_store_is_intact(
    solver: str, store: GramStore, tmp_path: Path
) -> None:
    command = [
        "solve",
        store.path,
        *SOLVE[solver],
        "--scratch",
        tmp_path / "scratch",
        "--out",
        tmp_path / "a.h5",
    ]
    limit = 1_000_000 if solver == "tiled" else 10_000
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(limit), *map(str, command)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 1, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("kernreg: error: ")]
    assert len(said) == 1
    assert "Traceback" not in done.stderr
    assert (
        "file too large; finished tiles are kept: free some space and run the same command again" in said[0]
    )
    assert not (tmp_path / "a.h5").exists()
    assert not list(tmp_path.rglob("*.partial"))
    assert verify(store).ok
    assert killed(0, *command) == 0
    assert (tmp_path / "a.h5").exists()
