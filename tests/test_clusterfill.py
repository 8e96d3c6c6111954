"""Stores filled by the processes of a Dask cluster on this machine, compared to the bit with those of one process."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stores import images, made, rows

from kernreg import clusterfill, plan
from kernreg.architecture import Architecture
from kernreg.cluster import connect, worker_count
from kernreg.errors import KernregError
from kernreg.gram import build, fill
from kernreg.progress import Meter
from kernreg.store import GramStore
from kernreg.tiletask import Ability, TileTask
from kernreg.verify import verify

pytest.importorskip("distributed", reason="pip install 'kernreg[cluster]'")

N, T = 23, 9


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two processes of one thread; a nanny brings back one that is killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERNREG_THREADS", "1")
        with connect("local:2") as connected:
            yield connected


@pytest.fixture(autouse=True)
def two_workers(client: Any) -> None:
    """Those of the test before have been replaced."""
    client.wait_for_workers(2, timeout=30)


def checksums(store: GramStore) -> list[dict[str, str]]:
    places = store.shards.needed(store.n, store.t, store.n)
    return [store.shards.describe(*place)["checksums"] for place in places]


def same(a: Path, b: Path) -> bool:
    """Tiles and main files, but for the time that they were made."""
    first, second = GramStore.open(a), GramStore.open(b)
    assert verify(second).ok
    return (
        checksums(first) == checksums(second)
        and first.settings == second.settings
        and first.grids == second.grids
    )


def inputs(n: int = N, t: int = T) -> tuple[Any, Any]:
    given = rows(n, t)
    return given["x_train"], given["x_test"]


@pytest.mark.parametrize(("n", "t"), [(N, T), (1, 0), (4, 1), (5, 5), (6, 11)])
def test_the_store_is_that_of_one_process(client: Any, n: int, t: int, tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    with made(tmp_path / "a.gram", n, t) as alone, made(tmp_path / "b.gram", n, t) as store:
        fill(alone, *inputs(n, t))
        clusterfill.fill(
            client, store, *inputs(n, t), progress=lambda done, total: said.append((done, total))
        )
        assert store.complete
    assert same(tmp_path / "a.gram", tmp_path / "b.gram")
    total = sum(tile.pairs for _, tile in store.shards.needed(n, t, n))
    assert said[0] == (0, total)
    assert said[-1] == (total, total)
    assert sorted(path.name for path in store.path.iterdir()) == ["gram.h5", "lock", "tiles"]
    assert not list(store.path.rglob("*.partial"))


def test_build_with_a_cluster_is_build(client: Any, tmp_path: Path) -> None:
    fcn, gap = Architecture.fcn(depth=1), Architecture.gap(depth=1)
    for backend, dtype, network in (("cpu", "float32", fcn), ("reference", "float64", gap)):
        settings: dict[str, Any] = {"architecture": network, "backend": backend, "dtype": dtype}
        paths = [tmp_path / f"{name}-{backend}-{dtype}.gram" for name in ("alone", "cluster")]
        build(paths[0], images(), **settings)
        assert build(paths[1], images(), **settings, cluster=client).complete
        assert same(*paths)


def test_extends_resumes_and_leaves_what_is_complete(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SMALLEST", 4)
    monkeypatch.setattr(plan, "LARGEST", 4)
    path = tmp_path / "a.gram"
    alone: dict[str, Any] = {"architecture": Architecture.fcn(depth=1), "backend": "reference"}
    settings = alone | {"cluster": client}
    build(path, images(9, 3), **settings)
    before = {tile: tile.stat().st_mtime_ns for tile in path.glob("tiles/*")}
    gone = next(iter(before))
    gone.unlink()
    build(path, images(21, 10), **settings)
    after = {tile: tile.stat().st_mtime_ns for tile in path.glob("tiles/*")}
    assert [tile for tile in before if before[tile] != after[tile]] == [gone]
    build(path, images(21, 10), **settings)
    assert {tile: tile.stat().st_mtime_ns for tile in path.glob("tiles/*")} == after
    build(tmp_path / "b.gram", images(9, 3), **alone)
    build(tmp_path / "b.gram", images(21, 10), **alone)
    assert same(tmp_path / "b.gram", path)


def test_who_fills_holds_the_lock(client: Any, tmp_path: Path) -> None:
    with made(tmp_path / "a.gram"):
        with pytest.raises(KernregError, match="is being written by process"):
            GramStore.open(tmp_path / "a.gram", writer=True)
        with pytest.raises(KernregError, match="open for reading only"):
            clusterfill.fill(client, GramStore.open(tmp_path / "a.gram"), *inputs())


def test_what_the_callers_progress_raises_is_not_swallowed(client: Any, tmp_path: Path) -> None:
    def full(done: int, total: int) -> None:
        if done:
            raise ZeroDivisionError

    with made(tmp_path / "a.gram") as store:
        with pytest.raises(ZeroDivisionError):
            clusterfill.fill(client, store, *inputs(), progress=full)
        assert not list(store.path.glob("rows*"))


def test_other_rows_are_refused_before_any_task(client: Any, tmp_path: Path) -> None:
    x, z = inputs()
    with made(tmp_path / "a.gram") as store, pytest.raises(KernregError, match="x_train, row 0"):
        clusterfill.fill(client, store, x + 1, z)
    assert not list(tmp_path.glob("a.gram/rows*"))


def test_what_a_worker_refuses_is_one_line_and_the_others_are_kept(client: Any, tmp_path: Path) -> None:
    x, z = inputs()
    x = x.copy()
    x[-1] *= 1e200  # its norm overflows: every tile of the last block of columns
    with made(tmp_path / "a.gram", x_train=x) as store:
        with pytest.raises(
            KernregError, match=r"worker on .*\(pid \d+\): .* train row 22 came out as"
        ) as refusal:
            clusterfill.fill(client, store, x, z)
        assert "\n" not in str(refusal.value)
        assert verify(store).ok
        assert not list(store.path.glob("rows*"))


def test_a_named_backend_that_a_worker_lacks_names_the_worker(client: Any, tmp_path: Path) -> None:
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has it")
    with pytest.raises(KernregError, match=r"worker tcp://.*: backend (cuda|triton)"):
        build(tmp_path / "a.gram", images(), Architecture.fcn(), backend="cuda", cluster=client)
    assert not (tmp_path / "a.gram").exists()


def test_workers_that_do_not_agree_are_named(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    able = [Ability(name, plan.HOST) for name in ("cpu", "cuda")]
    monkeypatch.setattr(
        client, "run", lambda *_, **__: dict(zip(("tcp://a:1", "tcp://b:1"), able, strict=True))
    )
    with pytest.raises(KernregError, match="cpu on tcp://a:1, cuda on tcp://b:1"):
        clusterfill.backend_for(client, tmp_path, "auto", Architecture.fcn(), (4,), 1, 0)


def test_the_first_signal_ends_it_and_the_same_call_goes_on(client: Any, tmp_path: Path) -> None:
    seen: list[int] = []  # of 138 tiles, far more than are done between two looks of the client

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 2:  # the first tile
            os.kill(os.getpid(), signal.SIGTERM)

    with made(tmp_path / "b.gram", tile=2) as store:
        with pytest.raises(KeyboardInterrupt):
            clusterfill.fill(client, store, *inputs(), progress=interrupt)
        left = store.missing()
        assert left, "tiles that were not begun are left"
        assert not list(store.path.rglob("*.partial"))
        clusterfill.fill(client, store, *inputs())
    with made(tmp_path / "a.gram", tile=2) as alone:
        fill(alone, *inputs())
    assert same(tmp_path / "a.gram", tmp_path / "b.gram")


def test_a_tile_that_takes_too_long_for_a_worker_is_cut_smaller() -> None:
    sizes = (5000, 0, (32, 32, 3), Architecture.gap(depth=20))
    usual = plan.plan(*sizes)
    assert plan.plan(*sizes, pace=1e-9).tile == usual.tile
    slow = plan.plan(*sizes, pace=0.1)
    assert slow.tile < usual.tile
    assert slow.tile**2 * 0.1 <= plan.LONGEST_TILE_SECONDS
    assert plan.plan(*sizes, pace=1e6).tile == plan.SMALLEST


def test_a_scheduler_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    def silent(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("Timed out\nafter 30 s")

    gone: Any = type("Gone", (), dict.fromkeys(("run", "submit", "map", "nthreads"), silent))()
    sizes = ((4,), "float64", Architecture.fcn(), "ntk", "cpu", "float64")
    said = r"scheduler of the cluster is gone \(ConnectionRefusedError: Timed out after 30 s\); finished tiles are kept"
    with pytest.raises(KernregError, match=said):
        clusterfill.backend_for(gone, tmp_path, "auto", Architecture.fcn(), (4,), 1, 0)
    with pytest.raises(KernregError, match=said):
        clusterfill.seconds_per_pair(gone, *sizes)
    with made(tmp_path / "a.gram") as store, pytest.raises(KernregError, match=said):
        clusterfill.fill(gone, store, *inputs())
    assert worker_count(gone) == 0


def test_a_run_bears_to_be_without_workers_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, there = [100.0], [0]
    # Only there: the loops of the cluster live by the clock of this process.
    monkeypatch.setattr("kernreg.clusterfill.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(clusterfill, "worker_count", lambda client: there[0])
    monkeypatch.setattr(clusterfill, "patience", lambda client: 50.0)
    with made(tmp_path / "a.gram") as store, Meter(0, 1, False) as meter:
        run = clusterfill._Run(None, store, TileTask(str(store.path), "", ""), meter)
        run.pending = dict.fromkeys("ab", store.missing()[0])
        for clock[0], there[0] in ((100.0, 0), (149.0, 0), (152.0, 1), (155.0, 0), (204.0, 0)):
            run.take_census()
        clock[0] = 206.0
        with pytest.raises(KernregError, match="no worker was left for 51 s, with 2 tiles not done"):
            run.take_census()
        run.withdraw()
        clock[0] = 300.0
        run.take_census()
        assert not run.pending, "whoever stops does not wait for workers that are gone"


class Killer:
    """A plugin of workers, new ones too: the process that would commit this tile dies, `lives` times in all."""

    def __init__(self, name: str, marks: Path, lives: int) -> None:
        self._name, self._marks, self._lives = name, marks, lives

    def setup(self, worker: Any) -> None:
        from kernreg.shards import Shards

        write, name, marks, lives = Shards.write, self._name, self._marks, self._lives

        def deadly(shards: Any, part: str, tile: Any, values: Any) -> None:
            if shards.path(part, tile).name == name and len(list(marks.iterdir())) < lives:
                (marks / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            write(shards, part, tile, values)

        setattr(Shards, "write", deadly)  # noqa: B010

    def teardown(self, worker: Any) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [1, 3])
def test_workers_killed_in_the_middle(deaths: int, tmp_path: Path) -> None:
    """One death costs a tile's time; three with the same tile, and it is named, once all others are done."""
    from distributed.diagnostics.plugin import WorkerPlugin

    plugin = type("Plugin", (Killer, WorkerPlugin), {})
    name, marks = "train-00001-00002.h5", tmp_path / "marks"
    marks.mkdir()
    with made(tmp_path / "a.gram") as alone:
        fill(alone, *inputs())
    with connect("local:2") as client, made(tmp_path / "b.gram") as store:
        client.register_plugin(plugin(name, marks, deaths))
        if deaths < 3:
            clusterfill.fill(client, store, *inputs())
        else:
            with pytest.raises(KernregError, match="given up: train-00001-00002, whose workers died"):
                clusterfill.fill(client, store, *inputs())
            assert [store.shards.path(*place).name for place in store.missing()] == [name]
            clusterfill.fill(client, store, *inputs())
        assert len(list(marks.iterdir())) == deaths
    assert same(tmp_path / "a.gram", tmp_path / "b.gram")


@pytest.mark.slow
def test_adaptive_workers_come(tmp_path: Path) -> None:
    path = tmp_path / "local.toml"
    path.write_text('kind = "local"\nadaptive = [1, 2]\nthreads = 1')
    with connect(str(path)) as client, made(tmp_path / "a.gram") as store:
        assert worker_count(client) == 1
        clusterfill.fill(client, store, *inputs())
        assert store.complete
        assert client.cluster.worker_spec, "the least stays"


def test_settings_of_the_store_are_json(client: Any, tmp_path: Path) -> None:
    """Nothing of the cluster enters the store: the same main file, whoever fills it."""
    with made(tmp_path / "a.gram") as store:
        clusterfill.fill(client, store, *inputs())
        assert "tcp" not in json.dumps(store.settings.to_json())
        assert np.isfinite(store.train("ntk")).all()
