"""What every test shares: the skipping of GPU tests, and saying so; a real Slurm, where it can be had."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_machine import slurm as slurm

GPU = any(Path("/dev").glob("nvidia[0-9]*"))
gpu_tests = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def no_imitated_gpu_stays() -> Iterator[None]:
    """The door to the GPU remembers what it found; the next test finds out for itself."""
    yield
    if (door := sys.modules.get("kernreg.device")) is not None:
        door.cuda.cache_clear()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    config.stash[gpu_tests] = len(marked)
    if not GPU:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    count = config.stash.get(gpu_tests, 0)
    if count == 0:
        said = "no test asked for one"
    elif GPU:
        said = f"{count} ran"
    else:
        said = f"{count} skipped, no NVIDIA GPU on this machine"
    terminalreporter.write_line(f"gpu tests: {said}")
