"""`kernreg gram --cluster` in processes of its own: killed, told to stop, bereft of its scheduler; and what it says of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernreg.store import GramStore
from kernreg.verify import verify

pytest.importorskip("distributed", reason="pip install 'kernreg[cluster]'")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
GRAM = ("gram", "--arch", "fcn", "--depth", "60", "--data", "digits", "--n", "500", "--test", "100")
SLOWLY = (
    "--backend",
    "reference",
    "--memory",
    "325MiB",
    "--out",
    "a.gram",
)  # the least memory makes many tiles
SECONDS = 120.0
FILE = "scheduler.json"


_begun: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    yield
    while _begun:
        process = _begun.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> GramStore:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("whole")
    done = finish(folder)
    assert done.returncode == 0, done.stderr
    return GramStore.open(folder / "a.gram")


def environment() -> dict[str, str]:
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS")} | {"KERNREG_THREADS": "1"}
    return os.environ | threads | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""}


def start(folder: Path, *arguments: str, module: str = "kernreg") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _begun.append(process)
    return process


def finish(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, *GRAM, *SLOWLY, *more)
    out, err = process.communicate(timeout=SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def until(what: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, "it never came to that"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def tiles(folder: Path) -> int:
    return len(list(folder.glob("a.gram/tiles/*.h5")))


def members(group: int) -> list[int]:
    """The processes of a session that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        if int(fields[3]) == group and fields[0] != "Z":
            found.append(int(name.split()[0]))
    return found


def same(whole: GramStore, path: Path) -> bool:
    store = GramStore.open(path)
    places = whole.shards.needed(whole.n, whole.t, whole.n)
    ours = [store.shards.describe(*place)["checksums"] for place in places]
    return verify(store).ok and ours == [whole.shards.describe(*place)["checksums"] for place in places]


def complaint(err: str) -> str:
    """The one line that an error is."""
    assert "Traceback" not in err, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("kernreg: error: ")
    return last


def scheduler(folder: Path, workers: int) -> tuple[subprocess.Popen[str], list[subprocess.Popen[str]]]:
    """One that the command did not start, and its workers; its address is in scheduler.json."""
    head = dask(
        folder, "scheduler", "--scheduler-file", FILE, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"
    )
    until((folder / FILE).exists, head)
    return head, [worker(folder) for _ in range(workers)]


def worker(folder: Path) -> subprocess.Popen[str]:
    return dask(folder, "worker", "--scheduler-file", FILE, "--nthreads", "1", "--no-dashboard", "--no-nanny")


def dask(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return start(folder, *arguments, module="dask")


def test_a_killed_client_leaves_whole_tiles_and_no_process_and_the_same_command_goes_on(
    whole: GramStore, tmp_path: Path
) -> None:
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", "local:2")
    until(lambda: tiles(tmp_path) >= 3, process)
    process.kill()
    process.communicate()
    until(lambda: not members(process.pid))
    store = GramStore.open(tmp_path / "a.gram")
    assert verify(store).ok
    assert 3 <= tiles(tmp_path) < len(whole.shards.needed(whole.n, whole.t, whole.n))
    done = finish(tmp_path, "--cluster", "local:2")
    assert done.returncode == 0, done.stderr
    assert "tiles begun there are done" in done.stdout
    assert "2 workers; dashboard: http://127.0.0.1:" in done.stderr
    assert same(whole, tmp_path / "a.gram")
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_ends_it_cleanly(number: int, whole: GramStore, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group of a terminal, the workers too."""
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", "local:2")
    until(lambda: tiles(tmp_path) >= 2, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "finished tiles are kept" in complaint(err)
    assert not list(tmp_path.rglob("*.partial"))
    until(lambda: not members(process.pid))
    assert finish(tmp_path).returncode == 0, "and without a cluster"
    assert same(whole, tmp_path / "a.gram")


def test_a_scheduler_that_dies_is_one_line_and_costs_nothing(whole: GramStore, tmp_path: Path) -> None:
    head, _ = scheduler(tmp_path, 2)
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", FILE)
    until(lambda: tiles(tmp_path) >= 2, process)
    head.kill()
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "the scheduler of the cluster is gone" in complaint(err)
    assert finish(tmp_path).returncode == 0
    assert same(whole, tmp_path / "a.gram")


def test_all_workers_die_and_a_new_one_goes_on(whole: GramStore, tmp_path: Path) -> None:
    _, workers = scheduler(tmp_path, 2)
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", FILE, "--json")
    until(lambda: tiles(tmp_path) >= 2, process)
    for lost in workers:
        lost.kill()
    worker(tmp_path)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert json.loads(out)["complete"]
    assert same(whole, tmp_path / "a.gram")


def test_no_worker_in_time_and_none_left(tmp_path: Path) -> None:
    scheduler(tmp_path, 0)
    address = json.loads((tmp_path / FILE).read_text())["address"]
    (tmp_path / "c.toml").write_text(f'kind = "address"\naddress = "{address}"\ntimeout = 2')
    done = finish(tmp_path, "--cluster", "c.toml")
    assert done.returncode == 1
    assert f"has no worker after 2 s: start some with `dask worker {address}`" in complaint(done.stderr)
    assert not (tmp_path / "a.gram").exists()
    only = worker(tmp_path)
    (tmp_path / "c.toml").write_text(f'kind = "address"\naddress = "{address}"\ntimeout = 20')
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", "c.toml")
    until(lambda: tiles(tmp_path) >= 2, process)
    only.kill()
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "no worker was left for" in complaint(err)


def test_info_watches_a_run_to_its_end(tmp_path: Path) -> None:
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", "local:2")
    until(lambda: tiles(tmp_path) >= 1, process)
    watch = start(tmp_path, "info", "a.gram", "--watch", "0.1", "--json")
    out, err = watch.communicate(timeout=SECONDS)
    assert watch.returncode == 0, err
    assert process.wait(SECONDS) == 0
    process.communicate()
    looks: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    done = [look["tiles_done"] for look in looks]
    assert done == sorted(done)
    assert looks[-1]["complete"]
    assert looks[-1]["tiles_done"] == looks[-1]["tiles"] == looks[-1]["tiles_by_backend"]["reference"]
    on_the_way = [look for look in looks if 0 < look["tiles_done"] < look["tiles"]]
    assert on_the_way, "it was watched while it went on"
    assert all(look["seconds_left"] > 0 and look["pairs_per_second"] > 0 for look in on_the_way)
