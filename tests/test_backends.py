"""Which backend computes: "auto" by machine and network, named ones or an error; and a store that several went on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import twodevices
from click.testing import CliRunner
from stores import images, without_power_cuts
from twodevices import NAME, State

from kernreg import verify as verification
from kernreg.architecture import Architecture
from kernreg.cli.main import main
from kernreg.errors import KernregError
from kernreg.fill import backend_for
from kernreg.gram import build
from kernreg.kernels import backends, lanes
from kernreg.plan import GPU_WORK_BYTES, HOST, Workers, memory_bytes, plan, tile_bytes
from kernreg.store import GramStore
from kernreg.verify import verify

FCN, GAP = Architecture.fcn(depth=2), Architecture.gap(depth=1)
__all__ = ["without_power_cuts"]


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> State:
    """A backend on two devices, the fastest one that "auto" knows."""
    monkeypatch.setattr("kernreg.plan.SMALLEST", 4)
    monkeypatch.setattr("kernreg.plan.LARGEST", 8)
    monkeypatch.setattr(twodevices, "state", State())
    monkeypatch.setitem(backends.MODULES, NAME, "twodevices")
    monkeypatch.setitem(lanes.GPUS, NAME, twodevices.Gpus)
    monkeypatch.setattr(lanes, "gpu_in_sight", lambda: True)
    monkeypatch.setattr(backends, "FASTEST", ("not in this version", NAME))
    return twodevices.state


def begun(twin: State, path: Path, **settings: Any) -> GramStore:
    """A store that the twin began and left unfinished."""
    twin.fails_at = {twin.calls + 5: KernregError("stopped")}
    with pytest.raises(KernregError, match="stopped"):
        build(path, images(), FCN, "ntk", NAME, **settings)
    twin.fails_at = {}
    return GramStore.open(path)


def made_by(store: GramStore) -> set[str]:
    places = store.shards.needed(store.n, store.t, store.n)
    return {store.shards.describe(*place)["backend"] for place in places}


def test_auto_is_the_fastest_one_that_covers_the_network_and_is_here(twin: State) -> None:
    shape = (3, 3, 2)
    assert backends.resolve("auto", FCN, shape) == NAME
    assert backends.resolve("auto") == NAME
    assert backends.resolve("auto", GAP, shape) == "cpu"
    twin.missing = "no twin on this machine: use --backend cpu"
    assert backends.resolve("auto", FCN, shape) == "cpu"
    with pytest.raises(KernregError, match="no twin on this machine: use --backend cpu"):
        backends.resolve(NAME)
    twin.missing = ""
    with pytest.raises(NotImplementedError, match="layer gap"):
        backends.compute(images().x_train, None, GAP, "ntk", NAME, "float64")


@pytest.mark.parametrize(("backend", "library"), [("cuda", "cupy"), ("triton", "torch")])
def test_a_gpu_backend_without_its_library_names_the_remedy(
    backend: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    assert rf"pip install 'kernreg[{backend}]', or use --backend cpu" in lanes.absence(backend)
    with pytest.raises(KernregError, match=f"backend {backend} needs .*{library}"):
        lanes.lanes(backend)
    with pytest.raises(KernregError, match=f"backend {backend} needs .*{library}"):
        lanes.lane_bytes(backend)


def test_the_host_is_one_lane() -> None:
    for backend in ("cpu", "reference"):
        assert len(lanes.lanes(backend)) == 1
        assert lanes.lane_bytes(backend) is None
        assert lanes.absence(backend) == ""
    assert backend_for("nowhere", "cpu", FCN, (3, 3, 2), 5, 1) == ("cpu", HOST)


def test_a_store_that_is_there_goes_on_with_its_own_backend(twin: State, tmp_path: Path) -> None:
    path = tmp_path / "a.gram"
    build(path, images(9, 2), FCN, "ntk", "reference")
    assert build(path, images(), FCN, "ntk", "auto").backend == "reference"
    assert twin.calls == 0


def test_another_backend_that_is_named_goes_on_and_every_tile_says_its_own(
    twin: State, tmp_path: Path
) -> None:
    path = tmp_path / "a.gram"
    first = begun(twin, path)
    kept = sorted(set(first.shards.needed(21, 10, 21)) - set(first.missing()), key=str)
    store = build(path, images(), FCN, "ntk", "cpu")
    assert made_by(store) == {NAME, "cpu"}
    assert (store.backend, store.backends) == ("cpu", (NAME, "cpu"))
    np.testing.assert_allclose(
        store.train("ntk"),
        build(tmp_path / "b.gram", images(), FCN, "ntk", "reference").train("ntk"),
        rtol=1e-11,
    )
    assert {store.shards.describe(*place)["backend"] for place in kept} == {NAME}
    again = build(path, images(25, 10), FCN, "ntk", NAME)
    assert (again.backend, again.backends) == (NAME, (NAME, "cpu"))
    report = verify(again, images(25, 10).x_train, images(25, 10).x_test)
    assert report.ok
    assert report.tiles == sum(len(grid) for grid in again.grids.values())


def test_a_complete_store_needs_no_backend_and_an_unfinished_one_names_the_remedy(
    twin: State, tmp_path: Path
) -> None:
    whole, part = tmp_path / "a.gram", tmp_path / "b.gram"
    build(whole, images(), FCN, "ntk", NAME)
    begun(twin, part)
    twin.missing = "backend twin finds no twin: use --backend cpu"
    assert build(whole, images(9, 4), FCN, "ntk", "auto").complete
    assert backend_for(whole, "auto", FCN, (3, 3, 2), 21, 10) == (NAME, HOST)
    shown = r"b\.gram is computed by backend twin, which cannot run here .*finds no twin.*a backend that you name goes on"
    with pytest.raises(KernregError, match=shown):
        build(part, images(), FCN, "ntk", "auto")
    with pytest.raises(KernregError, match=r"a\.gram is computed by backend twin"):
        build(whole, images(25), FCN, "ntk", "auto")
    assert build(part, images(), FCN, "ntk", "reference").complete


def test_a_tile_of_a_backend_that_the_store_does_not_know_is_refused(twin: State, tmp_path: Path) -> None:
    mine = build(tmp_path / "a.gram", images(), FCN, "ntk", "reference")
    other = build(tmp_path / "b.gram", images(), FCN, "ntk", NAME)
    tile = mine.grids["train"].tile(0, 0)
    mine.shards.path("train", tile).write_bytes(other.shards.path("train", tile).read_bytes())
    with pytest.raises(
        KernregError, match="was made by backend 'twin', and its store knows of reference only"
    ):
        mine.train("ntk")


def test_every_tile_is_verified_by_the_tolerance_of_its_own_backend(
    twin: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, d, plain = tmp_path / "a.gram", images(), twodevices.compute
    coarse = lambda *a: {name: K * (1 + 1e-9) for name, K in plain(*a).items()}  # noqa: E731
    monkeypatch.setattr(twodevices, "compute", coarse)
    begun(twin, path, dtype="float64")
    store = build(path, d, FCN, "ntk", "reference", "float64")
    report = verify(store, d.x_train, d.x_test, sample=200)
    assert not report.ok
    assert report.where.endswith("by twin")
    monkeypatch.setitem(verification.TOLERANCES, NAME, {"float64": 1e-8})
    report = verify(store, d.x_train, d.x_test, sample=200)
    assert report.ok
    assert report.worst < 1e-11 or report.where.endswith("by twin")


def test_a_store_of_one_backend_reads_as_before_there_were_several(tmp_path: Path) -> None:
    store = build(tmp_path / "a.gram", images(5, 1), FCN, "ntk", "reference")
    described = store.settings.to_json()
    described.pop("backends")
    assert type(store.settings).from_json(described) == store.settings


def test_info_counts_the_tiles_of_each(twin: State, tmp_path: Path) -> None:
    begun(twin, tmp_path / "a.gram")
    build(tmp_path / "a.gram", images(), FCN, "ntk", "reference")
    text = CliRunner().invoke(main, ["info", str(tmp_path / "a.gram")]).output
    assert "by backend reference (" in text
    assert "twin (" in text
    tile = GramStore.open(tmp_path / "a.gram").grids["train"].tile(0, 0)
    GramStore.open(tmp_path / "a.gram").shards.path("train", tile).write_bytes(b"")
    assert "unreadable (1 tiles)" in CliRunner().invoke(main, ["info", str(tmp_path / "a.gram")]).output


def test_the_command_says_who_goes_on(twin: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["gram", "--arch", "fcn", "--data", "digits", "--n", "20", "--test", "5"]
    twin.fails_at = {twin.calls + 8: KernregError("stopped")}
    first = CliRunner().invoke(main, command)
    assert "by backend twin on 2 GPUs" in first.output
    assert first.exit_code == 1
    twin.fails_at = {}
    second = CliRunner().invoke(main, [*command, "--backend", "reference"])
    assert "from here on by backend reference, so far by twin; every tile says its own" in second.output
    assert second.exit_code == 0, second.output
    assert len(list(Path("kernreg-out").iterdir())) == 1
    twin.missing = "backend twin finds no twin: use --backend cpu"
    assert CliRunner().invoke(main, command).exit_code == 0


def test_tiles_fit_the_gpu_and_the_memory_counts_every_tile_in_hand() -> None:
    shape, gap = (32, 32, 3), Architecture.gap(depth=8)
    wide = plan(9_000, 0, shape, gap, "ntk", "float32", workers=Workers(2, 2, 40 << 30))
    on_host = plan(9_000, 0, shape, gap, "ntk", "float32")
    assert wide.tile > on_host.tile
    assert wide.tile % 64 == 0
    vec = Architecture.vec(depth=8)
    sizes = [
        plan(50_000, 0, shape, vec, "ntk", "float32", workers=Workers(2, 2, GPU_WORK_BYTES + (m << 20))).tile
        for m in (64, 256, 600, 4000)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3] == 4096
    assert tile_bytes(sizes[0], shape, vec, "ntk", "float32") <= 64 << 20
    with pytest.raises(
        KernregError, match=r"smallest tiles need .* of the GPU .* are free: end other programs"
    ):
        plan(50_000, 0, shape, vec, "ntk", "float32", workers=Workers(2, 2, 1 << 20))
    one, four = (memory_bytes(4096, 0, shape, vec, "ntk", "float32", Workers(k, k)) for k in (1, 4))
    each = tile_bytes(4096, shape, vec, "ntk", "float32") + 4096**2 * 5
    assert four - one == 3 * each


def test_the_devices_of_a_plan() -> None:
    assert HOST.devices == 1
    assert Workers(4, 4, 1 << 30).devices == 2
