"""The driver's side of the conversation with a peer that lives in its own process and environment."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers.setup import HERE, interpreter

# glibc is told to keep freed memory: page faults of every call would cost the peers 10–30 % of their speed.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


class PeerError(RuntimeError):
    """The peer answered that it could not; its one line."""


class Peer:
    """A worker process: one peer in one dtype, started once and kept.

    Attributes:
        name, dtype: which peer.
        versions: of its packages.
    """

    def __init__(self, name: str, dtype: str) -> None:
        if not interpreter(name).exists():
            raise PeerError(
                f"{name} is not installed: run python benchmarks/peers/setup.py (or name --ours-only)"
            )
        self.name, self.dtype = name, dtype
        self._folder = tempfile.TemporaryDirectory(prefix="kernreg-peer-")
        self._log = Path(self._folder.name) / "stderr"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [interpreter(name), HERE / f"{name}_worker.py", dtype],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | KEEP_FREED_MEMORY,
            )
        self.versions: dict[str, str] = self._ask(op="info")["versions"]

    @property
    def alive(self) -> bool:
        """The process has not ended (of memory, say)."""
        return self._process.poll() is None

    def prepare(
        self,
        layers: list[dict[str, Any]],
        kernel: str,
        x: NDArray[np.float64],
        z: NDArray[np.float64] | None,
        settings: dict[str, Any],
    ) -> float:
        """Compile and run once, in seconds; `seconds` and `result` mean these inputs from now on."""
        paths: dict[str, str | None] = {"x": None, "z": None}
        for key, rows in {"x": x, "z": z}.items():
            if rows is not None:
                paths[key] = str(Path(self._folder.name) / f"{key}.npy")
                np.save(paths[key], rows)
        return self._ask(op="prepare", layers=layers, kernel=kernel, settings=settings, **paths)["seconds"]

    def seconds(self, calls: int) -> float:
        """Of that many warm calls, each waited for."""
        return self._ask(op="time", calls=calls)["seconds"]

    def result(self) -> NDArray[np.floating]:
        """K(x, z) of the inputs prepared last."""
        path = Path(self._folder.name) / "k.npy"
        self._ask(op="result", path=str(path))
        return np.load(path)

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            tail = " | ".join(self._log.read_text().splitlines()[-3:])
            raise PeerError(f"{self.name} ({self.dtype}) ended with status {self._process.wait()}: {tail}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer
