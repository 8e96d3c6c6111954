"""kill −9, a full disk, a memory budget: a curve beyond memory keeps its word, and the store is only read."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matrices import problem, stored

from kernreg import blocks, placement, tiled
from kernreg.blocks import Blocks
from kernreg.curve import curve_from_store, learning_curve
from kernreg.errors import KernregError
from kernreg.tiled import TiledCholesky
from kernreg.tiledfactor import PivotError, TiledFactor
from kernreg.verify import verify

AGREE = 1e-9
λ = 1e-2


@pytest.fixture(autouse=True)
def _beyond_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "PROCESS_BYTES", 1 << 60)
    monkeypatch.setattr(tiled, "choose_blocks", lambda n, *_: Blocks(n, 8, 16))


# Every write, rename and sync of a factorisation is a place to be killed at.
DRIVER = """
import json, os, random, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from kernreg import placement, tiled
from kernreg.blocks import Blocks
from kernreg.curve import curve_from_store
from kernreg.store import GramStore

placement.PROCESS_BYTES = 1 << 60
tiled.choose_blocks = lambda n, *_: Blocks(n, 8, 16)
store, rng, kills = GramStore.open(sys.argv[2]), random.Random(int(sys.argv[3])), 0

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
    return curve_from_store(store, ridge=1e-2)

while True:
    child = os.fork()
    if not child:
        found = run(rng.randrange(5, 160) if kills < 8 else 0)
        arrays = {name: getattr(found, name) for name in ("loss", "error", "loo", "gcv", "squared_errors")}
        arrays |= {f"loss{i}": r.loss for i, r in enumerate(found.replicates)}
        np.savez(sys.argv[4], **arrays)
        os._exit(0)
    rng.random()
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    kills += 1
print(json.dumps({"kills": kills}))
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_runs_end_bit_for_bit_where_an_uninterrupted_one_does(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(tmp_path / "s.gram", problem(60, 20))
    command = [sys.executable, "-c", DRIVER, str(Path(__file__).parents[1]), str(store.path), str(seed)]
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "killed.npz")],
        capture_output=True,
        text=True,
        env={**os.environ, **threads},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kills"] >= 3
    exact = curve_from_store(store, ridge=λ)
    with np.load(tmp_path / "killed.npz") as found:
        for name in ("loss", "error", "loo", "gcv", "squared_errors"):
            np.testing.assert_array_equal(found[name], getattr(exact, name))
        for i, replicate in enumerate(exact.replicates):
            np.testing.assert_array_equal(found[f"loss{i}"], replicate.loss)
    assert not list(tmp_path.glob("*.factor"))
    assert verify(store).ok


@pytest.mark.parametrize("writes", [0, 1, 20, 40])
def test_a_full_disk_is_one_line_and_the_rest_is_kept(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = problem(61)
    store, left, write = stored(tmp_path / "s.gram", p), writes, os.pwrite

    def full(file: int, numbers: Any, offset: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, numbers, offset)

    monkeypatch.setattr("kernreg.scratch.os.pwrite", full)
    with pytest.raises(KernregError, match="no space left on device; finished tiles are kept") as caught:
        curve_from_store(store, ridge=λ)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.partial"))
    assert verify(store).ok
    monkeypatch.setattr("kernreg.scratch.os.pwrite", write)
    expected = learning_curve(p.K, p.y, p.K_test, p.y_test, λ, labels_test=p.labels_test)
    np.testing.assert_allclose(curve_from_store(store, ridge=λ).loss, expected.loss, rtol=AGREE)


def test_a_curve_stays_until_its_results_are_written(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.gram", problem(60, 20))
    found = curve_from_store(store, ridge=λ, solver=TiledCholesky(keep_curve=True))
    assert found.traffic is not None
    assert found.traffic.folder is not None
    left = {path.name.split("-")[0] for path in found.traffic.folder.iterdir()}
    assert left == {"curve", "lock"}
    again = curve_from_store(store, ridge=λ, solver=TiledCholesky(keep_curve=True))
    assert again.traffic is not None
    assert again.traffic.factor_written == 0
    np.testing.assert_array_equal(again.loss, found.loss)
    one, two = sorted(found.traffic.folder.glob("curve-*"))[:2]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    with pytest.raises(KernregError, match=rf"{one.name} cannot be used: it is {two.name}; delete this file"):
        curve_from_store(store, ridge=λ, solver=TiledCholesky(keep_curve=True))
    again.traffic.discard()
    assert not found.traffic.folder.exists()


def test_a_factor_that_was_begun_with_more_memory_asks_for_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(tmp_path / "s.gram", problem(200))
    monkeypatch.setattr(tiled, "choose_blocks", lambda n, *_: Blocks(n, 40, 200))
    curve_from_store(store, ridge=λ, solver=TiledCholesky(keep_factor=True))
    monkeypatch.setattr(tiled, "choose_blocks", lambda n, *_: Blocks(n, 40, 40))
    # 200² float64 are 312 KiB; what rides along is 830 KiB.
    little = blocks.PROCESS_BYTES + 1_000_000
    with pytest.raises(KernregError, match="are allowed: use --memory"):
        curve_from_store(store, ridge=λ, solver=TiledCholesky(little), anchors=[3])
    again = curve_from_store(store, ridge=λ, solver=TiledCholesky(), anchors=[3])
    assert again.traffic is not None
    assert again.traffic.blocks.panel == 200


def test_a_block_that_rounding_spoils_is_named_by_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, make = stored(tmp_path / "s.gram", problem(60)), TiledFactor.make

    def spoiled(factor: TiledFactor, *arguments: Any) -> None:
        if factor.blocks.n < 60:
            raise PivotError(2)
        make(factor, *arguments)

    monkeypatch.setattr(TiledFactor, "make", spoiled)
    with pytest.raises(KernregError, match="row 32 fails in a replicate; use a larger ridge"):
        curve_from_store(store, ridge=λ)
    assert len(curve_from_store(store, ridge=λ, replicates=0).replicates) == 1


# Of a program that was just started, getrusage may tell the peak of the one that started it.
PEAK = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from kernreg.curve import curve_from_store
from kernreg.store import GramStore
from kernreg.tiled import TiledCholesky
store = GramStore.open(sys.argv[2])
found = curve_from_store(store, ridge=1e-2, solver=TiledCholesky(int(sys.argv[3])), loo=False, replicates=1)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak[1]) << 10, found.traffic.blocks.panel, found.loss[-1])
"""


def test_the_memory_budget_is_kept(tmp_path: Path) -> None:
    n, t = 2500, 40
    p = problem(n, t, dtype="float32")
    store = stored(tmp_path / "s.gram", p, tile=500)
    losses = []
    for room in (28, 52):
        budget = blocks.PROCESS_BYTES + (room << 20)
        command = [sys.executable, "-c", PEAK, str(Path(__file__).parents[1]), str(store.path), str(budget)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peak, panel, loss = done.stdout.split()
        assert int(peak) <= budget
        assert int(panel) * n * 8 > 0.4 * (room << 20), done.stdout  # and used
        losses.append(float(loss))
    K = p.K.astype(np.float64)
    expected = learning_curve(K, p.y, p.K_test, p.y_test, λ, loo=False, replicates=0)
    np.testing.assert_allclose(losses, expected.loss[-1], rtol=AGREE)


PEAK_OF_A_SOLUTION = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from kernreg.solve import solve_store
from kernreg.store import GramStore
store = GramStore.open(sys.argv[2])
found = solve_store(store, solver="tiled", factor_dtype=sys.argv[4], ridge=1e-2, probes=20, memory=int(sys.argv[3])).require()
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak[1]) << 10, found.stats.residuals.max(), found.stats.trace[0])
"""


@pytest.mark.parametrize(("dtype", "room"), [("float64", 45), ("float32", 65)])
def test_a_solution_with_its_trace_keeps_the_budget_too(dtype: str, room: int, tmp_path: Path) -> None:
    n = 2500
    p = problem(n, 40, dtype="float32")
    store = stored(tmp_path / "s.gram", p, tile=500)
    budget = blocks.PROCESS_BYTES + (room << 20)
    given = [str(Path(__file__).parents[1]), str(store.path), str(budget), dtype]
    done = subprocess.run([sys.executable, "-c", PEAK_OF_A_SOLUTION, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, residual, trace = map(float, done.stdout.split())
    assert peak <= budget
    assert residual <= 1e-8
    exact = float(np.trace(np.linalg.inv(p.K.astype(np.float64) + λ * np.eye(n))))
    assert trace == pytest.approx(exact, rel=0.05)
    assert not list(tmp_path.glob("*.factor"))
