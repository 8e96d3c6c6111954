"""`kernreg gram` in processes of its own, slowly enough to be met on the way, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kernreg.cli.main import main
from kernreg.store import GramStore
from kernreg.verify import verify

ROOT = Path(__file__).resolve().parent.parent
GRAM = ("gram", "--arch", "fcn", "--depth", "60", "--data", "digits", "--n", "400", "--test", "100")
SLOWLY = (
    "--backend",
    "reference",
    "--memory",
    "325MiB",
    "--out",
    "a.gram",
)  # the least memory makes many tiles
SECONDS = 120.0


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
    assert finish_here(folder).exit_code == 0
    return GramStore.open(folder / "a.gram")


def environment() -> dict[str, str]:
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS")} | {"KERNREG_THREADS": "1"}
    return os.environ | threads | {"PYTHONPATH": str(ROOT)}


def start(
    folder: Path, *arguments: str, module: str = "kernreg", variables: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment() | (variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _begun.append(process)
    return process


def finish_here(folder: Path) -> Result:
    """The same command in this process, without a cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(main, [*GRAM, *SLOWLY])


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
