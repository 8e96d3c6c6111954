"""What a worker that is started here does before its first task: a preload of Dask's, run before any GPU library is.

It takes one GPU: workers of one machine are numbered at the end of their names, and number i takes GPU i of those that it sees.
And it leaves Ctrl-C, which reaches all processes of a terminal, to the client, which lets the tiles in hand be committed.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, or the numbers of all GPUs that the system shows."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return sorted((match[1] for match in found if match), key=int)


def dask_setup(worker: Any) -> None:
    """Called by Dask in the main thread of the worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gpus, number = visible_gpus(), re.search(r"\d+$", str(worker.name))
    if gpus and number:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(number[0]) % len(gpus)]
