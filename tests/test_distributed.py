"""Products and conjugate gradients on a real LocalCluster: the numbers of one process, bytes as counted, workers killed."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matrices import problem, stored
from tolerances import solved

from kernreg import actors, crew
from kernreg.actors import Member
from kernreg.architecture import Architecture
from kernreg.cg import ConjugateGradients
from kernreg.computedtiles import ComputedTiles
from kernreg.distributed import Distributed, solve_on
from kernreg.errors import KernregError
from kernreg.kernels.reference import compute
from kernreg.operators import Dense, Shifted, Stored
from kernreg.solve import solve, solve_store
from kernreg.store import GramStore

distributed = pytest.importorskip("distributed", reason="pip install 'kernreg[cluster]'")

EPS = np.finfo(np.float64).eps
WORKERS = 3
HEADERS = 20_000  # bytes of Dask's own around the numbers of a message, and heartbeats
EXCHANGES = ("client", "workers")
N, RIDGE = 53, 0.3  # some twelve iterations


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Of a cluster of three processes; a nanny brings back those that are killed."""
    dask = pytest.importorskip("dask")
    with (
        # a cluster gives up a worker whose name is not there so long after a loss, even if it has come back between
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            local_directory=str(tmp_path_factory.mktemp("dask")),
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


@pytest.fixture(autouse=True)
def _all_workers_are_there(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    client.wait_for_workers(WORKERS, timeout=30)


def made(folder: Path, n: int, dtype: str = "float32", tile: int = 16) -> GramStore:
    return stored(folder / "a.gram", problem(n, dtype=dtype), tile)


def kill(member: Member) -> None:
    os.kill(member.about["pid"], signal.SIGKILL)


@pytest.mark.parametrize(
    ("n", "m", "dtype", "exchange"),
    [
        (1, 1, "float64", "client"),
        (1, 1, "float32", "workers"),
        (15, 15, "float32", "client"),
        (17, 17, "float64", "workers"),
        (97, 97, "float32", "client"),
        (97, 41, "float32", "workers"),
    ],
)
def test_it_is_its_matrix(client: Any, n: int, m: int, dtype: str, exchange: str, tmp_path: Path) -> None:
    store = made(tmp_path, n, dtype)
    K = store.train("ntk", m)
    tolerance = 10 * m * EPS * np.abs(K).max()
    rng = np.random.default_rng(0)
    with Distributed(client, store, n=m, exchange=exchange) as operator:
        assert operator.n == m
        for c in (1, 4):
            V = rng.standard_normal((m, c))
            before = V.copy()
            product = operator @ V
            np.testing.assert_allclose(product, Dense(K) @ V, atol=tolerance)
            np.testing.assert_array_equal(operator @ V, product)
            np.testing.assert_array_equal(V, before)
            np.testing.assert_allclose(Shifted(operator, 0.3) @ V, K @ V + 0.3 * V, atol=tolerance)
        np.testing.assert_array_equal(operator.diagonal(), K.diagonal())
        for rows in (np.array([m - 1, 0, m - 1]), np.zeros(0, dtype=np.int64)):
            np.testing.assert_array_equal(operator.columns(rows), K[:, rows])
        k = m // 2 or 1
        leading, V = operator.leading(k), rng.standard_normal((k, 2))
        np.testing.assert_allclose(leading @ V, K[:k, :k] @ V, atol=tolerance)
        np.testing.assert_array_equal(leading.diagonal(), K.diagonal()[:k])
        for wrong in (np.ones((m + 1, 1)), np.ones(m)):
            with pytest.raises(KernregError, match="multiplies"):
                operator.matmul(wrong)


def test_the_bits_depend_on_the_partition_alone(client: Any, tmp_path: Path) -> None:
    store = made(tmp_path, 97)
    V = np.random.default_rng(0).standard_normal((97, 3))
    with (
        Distributed(client, store) as three,
        Distributed(client, store, shares=5, exchange="client") as five,
        Distributed(client, store, exchange="workers") as relayed,
    ):
        assert three.exchange == "client"
        first, other = three @ V, five @ V
        np.testing.assert_allclose(first, other, atol=10 * 97 * EPS)
        np.testing.assert_array_equal(relayed @ V, first)
        kill(next(iter(three.crew.members.values())))
        np.testing.assert_array_equal(relayed @ V, first)
        np.testing.assert_array_equal(three @ V, first)
        np.testing.assert_array_equal(five @ V, other)
        for operator in (three, five, relayed):
            assert len(operator.crew.lost) == 1
            assert operator.bytes_per_product(1)[0] > 0


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes that this process writes to its connections and reads from them, as Dask's TCP counts them."""
    from distributed.comm import tcp

    counted = {"sent": 0, "received": 0}
    write, read = tcp.TCP.write, tcp.read_bytes_rw

    async def writing(comm: Any, *args: Any, **kwargs: Any) -> Any:
        size = await write(comm, *args, **kwargs)
        counted["sent"] += size
        return size

    async def reading(stream: Any, n: int) -> Any:
        counted["received"] += n
        return await read(stream, n)

    monkeypatch.setattr(tcp.TCP, "write", writing)
    monkeypatch.setattr(tcp, "read_bytes_rw", reading)
    return counted


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_bytes_of_a_product_are_those_of_the_formula(
    client: Any, exchange: str, tmp_path: Path, wire: dict[str, int]
) -> None:
    n, c = 400, 60
    store = made(tmp_path, n, tile=50)
    with Distributed(client, store, exchange=exchange) as operator:
        V = np.random.default_rng(0).standard_normal((n, c))
        operator @ V  # connections are made, workers meet
        before, operator.traffic = dict(wire), type(operator.traffic)()
        operator @ V
        sent, received, between = operator.bytes_per_product(c)
        traffic = operator.traffic
        assert (traffic.sent, traffic.received, traffic.between) == (sent, received, between)
        assert traffic.products == 1
        slack = (1 if exchange == "client" else 3) * WORKERS * HEADERS
        assert sent <= wire["sent"] - before["sent"] <= sent + slack
        assert received <= wire["received"] - before["received"] <= received + slack
        if exchange == "workers":
            assert sent == received == V.nbytes
            assert 0 < between < 2 * WORKERS * V.nbytes
        else:
            # every row is needed by somebody, and by fewer than all
            assert V.nbytes <= sent < WORKERS * V.nbytes
            assert received == sent
            assert between == 0


@pytest.mark.parametrize(("rank", "exchange"), [(12, "client"), (0, "workers")])
def test_conjugate_gradients_are_those_of_one_process(
    client: Any, rank: int, exchange: str, tmp_path: Path
) -> None:
    store, rtol, ridge = made(tmp_path, N), 1e-9, RIDGE
    cg = ConjugateGradients(rtol=rtol, rank=rank)
    ours = solve_on(client, store, ridge=ridge, iteration=cg, exchange=exchange).require()
    theirs = solve_store(store, solver="cg", ridge=ridge, iteration=cg).require()
    A = store.train("ntk") + ridge * np.eye(N)
    scale, allowed = np.linalg.norm(theirs.value), solved(A, rtol)
    assert np.linalg.norm(ours.value - theirs.value) <= 2 * allowed * scale
    direct = solve(Dense(store.train("ntk")), store.y_train, "cholesky", ridge).value
    assert np.linalg.norm(ours.value - direct) <= allowed * scale
    assert ours.stats.residuals.max() <= rtol
    assert f"{WORKERS} workers" in ours.stats.why


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_worker_killed_in_the_middle_changes_nothing(client: Any, exchange: str, tmp_path: Path) -> None:
    store, ridge = made(tmp_path, N, tile=8), RIDGE
    B, cg = store.y_train, ConjugateGradients(rtol=1e-9, rank=0)
    with Distributed(client, store, exchange=exchange) as operator:
        whole = solve(operator, B, cg, ridge).require()
    notes: list[str] = []
    with Distributed(client, store, exchange=exchange, note=notes.append) as operator:
        victim = list(operator.crew.members.values())[1]
        held = set(victim.parts)

        def meter(done: int, total: int, residual: float) -> None:
            if done == 5:
                kill(victim)

        survived = solve(operator, B, cg, ridge, progress=meter).require()
        assert operator.crew.lost == [victim.address]
        assert victim.address in notes[0]
        taken = [part for member in operator.crew.members.values() for part in member.parts]
        assert sorted(taken) == list(range(len(operator.partition.parts)))
        assert len([m for m in operator.crew.members.values() if held & m.parts.keys()]) > 1
    np.testing.assert_array_equal(survived.value, whole.value)
    assert survived.stats.iterations.tolist() == whole.stats.iterations.tolist()


def test_one_killed_while_it_reads_and_then_all_come_back(client: Any, tmp_path: Path) -> None:
    store = made(tmp_path, 40)
    V = np.ones((40, 1))
    victims = list(client.run(os.getpid).values())[-1:]

    def meter(done: int, total: int) -> None:
        if done and victims:
            os.kill(victims.pop(), signal.SIGKILL)

    with Distributed(client, store, exchange="workers", progress=meter) as operator:
        product = operator @ V
        np.testing.assert_allclose(product, store.train("ntk") @ V, atol=10 * 40 * EPS)
        assert len(operator.crew.lost) == 1
        for member in list(operator.crew.members.values()):
            kill(member)
        np.testing.assert_array_equal(operator @ V, product)
        assert len(operator.crew.lost) >= WORKERS  # the first one, and those that were left


def test_a_checkpoint_serves_one_process_as_well(client: Any, tmp_path: Path) -> None:
    store, ridge = made(tmp_path, N), RIDGE
    state = tmp_path / "cg.state"
    cg = ConjugateGradients(rtol=1e-9, rank=0, checkpoint=state, checkpoint_seconds=0)

    def stop(done: int, total: int, residual: float) -> None:
        if done == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        solve_on(client, store, ridge=ridge, iteration=cg, progress=stop)
    calls: list[int] = []
    rest = solve(Stored(store), store.y_train, cg, ridge, progress=lambda done, *_: calls.append(done))
    assert calls[0] == 8
    assert rest.ok


@pytest.mark.parametrize("keeps", [True, False])
def test_workers_compute_the_tiles_themselves(client: Any, keeps: bool, tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((29, 5))
    np.save(tmp_path / "x.npy", x)
    network, V = Architecture.fcn(depth=2), np.random.default_rng(0).standard_normal((29, 2))
    given: Any = {"backend": "reference", "dtype": "float64", "tile": 8, "keeps": keeps}
    with Distributed(client, ComputedTiles.of(tmp_path / "x.npy", network, **given)) as operator:
        K = compute(x, x, network, "ntk", "float64")["ntk"]
        np.testing.assert_allclose(operator @ V, K @ V, atol=10 * 29 * EPS * np.abs(K).max())
        assert ("anew" in operator.about()) != keeps
        with pytest.raises(KernregError, match="of all rows"):
            Distributed(client, ComputedTiles.of(tmp_path / "x.npy", network, **given), n=3)


def test_what_cannot_be_is_one_line(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made(tmp_path, 40)
    victim = store.shards.path("train", store.tiles("train", "ntk")[-1])
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-100])
    with pytest.raises(KernregError, match=rf"{victim.name}.*delete this file"):
        Distributed(client, store)
    victim.write_bytes(whole)
    with pytest.raises(KernregError, match=r"device cuda"):
        Distributed(client, store, device="cuda")
    with pytest.raises(KernregError, match=r"exchange is client, workers, auto, not 'tree'"):
        Distributed(client, store, exchange="tree")
    with pytest.raises(KernregError, match=r"needs about .* of memory"):
        solve_on(client, store, memory="1MiB")
    monkeypatch.setattr(crew, "PAUSE", 0.0)
    monkeypatch.setattr(actors, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(KernregError, match=r"room for 0 B: start more workers"):
        Distributed(client, store)


def test_tiles_are_let_go(client: Any, tmp_path: Path) -> None:
    with Distributed(client, made(tmp_path, 40)):
        assert sum(client.run(_actors).values()) == WORKERS
    for _ in range(50):
        if not sum(client.run(_actors).values()):
            break
        time.sleep(0.1)
    assert sum(client.run(_actors).values()) == 0


def test_the_example_of_the_page_runs(client: Any, tmp_path: Path) -> None:
    made(tmp_path, 40)
    page = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "example.py").write_text(
        code.replace("LocalCluster(", "LocalCluster(dashboard_address=None, ")
    )
    run = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    assert re.match(r"converged: .*\n2 workers \(2 on cpu\) hold .*\nTraffic\(", run.stdout)


def _actors(dask_worker: Any) -> int:
    return len(dask_worker.state.actors)
