"""Scratch: the panels of a factor as raw files; each is whole and checksummed, or absent.

A folder with `factor.json`, which says of what matrix this is the factor, and `panel-00000`, `panel-00001`, …:

    column block 0 of the panel, block 1, … each (rows, w) in C order; of a block on the diagonal only the rows
    from the diagonal on are written, the place of the others is a hole
    z = L⁻¹y of the panel's rows, (rows, outputs) in C order
    16 bytes: xxh3-128 of what factor.json says and of what was written, in that order

A tile is one stretch of a file and is read by one call. Writing and reading run in a thread each. A panel is
written under a partial name; once all of it is on the disk it is renamed, while the next one is made.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from kernreg.blocks import READ_AHEAD, Blocks
from kernreg.durable import PARTIAL, refusal, sync, write_text
from kernreg.errors import KernregError, reason, shown
from kernreg.plan import show_bytes
from kernreg.provenance import text_checksum

FORMAT, VERSION = "kernreg-factor", 2
HEAD = "factor.json"
_DIGEST = 16


class Scratch:
    """The files of one factor.

    Attributes:
        folder: where.
        identity: JSON-able, of what K, λ and y this is the factor.
        blocks, dtype, outputs: the cut, the dtype of the numbers, columns of y.
        read_bytes, written_bytes: of tiles of L, by this object.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], blocks: Blocks, dtype: str, outputs: int
    ) -> None:
        self.folder, self.identity, self.blocks, self.outputs = folder, dict(identity), blocks, outputs
        self.dtype = np.dtype(dtype)
        self.read_bytes = self.written_bytes = 0
        # In the names of half-written files, should a lock have been deleted.
        self._mine = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._files: dict[int, int] = {}
        self._digests: dict[int, xxhash.xxh3_128] = {}
        self._writer, self._reader = (ThreadPoolExecutor(1, name) for name in ("write", "read"))
        self._writing: deque[Future[None]] = deque()
        self.use_memory(lambda numbers: np.empty(numbers, self.dtype))

    @classmethod
    def begin(
        cls, folder: Path, identity: Mapping[str, Any], blocks: Blocks, dtype: str, outputs: int
    ) -> Scratch:
        """The factor in `folder`, its finished panels included; a new folder if there is none.

        A factor that is there keeps its own blocks: they decide how rounding falls. Half-written panels go.

        Raises:
            KernregError: the folder has the factor of another matrix, is damaged, or the disk is too small.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refusal(error, folder) from error
        if (folder / HEAD).exists():
            scratch = cls.open(folder, identity)
        else:
            scratch = cls(folder, identity, blocks, dtype, outputs)
            head = {"format": FORMAT, "format_version": VERSION, **scratch.head}
            head["checksum"] = text_checksum(_text(scratch.head))
            write_text(folder / HEAD, json.dumps(head, indent=1))
        for leftover in folder.glob(f"*{PARTIAL}"):
            leftover.unlink(missing_ok=True)
        scratch.require_disk()
        return scratch

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any] | None = None) -> Scratch:
        """The factor in a folder.

        Raises:
            KernregError: there is none, it is damaged, of another format, or not of the `identity` given.
        """
        try:
            head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
            if (head["format"], head["format_version"]) != (FORMAT, VERSION):
                raise ValueError(f"format {head['format']} {head['format_version']}")
            told = {key: head[key] for key in ("identity", "n", "tile", "panel", "dtype", "outputs")}
            if head["checksum"] != text_checksum(_text(told)):
                raise ValueError("its checksum does not fit")
            blocks = Blocks(*(_whole(head, key) for key in ("n", "tile", "panel")))
            known, dtype, outputs = dict(head["identity"]), head["dtype"], _whole(head, "outputs")
            if dtype not in ("float32", "float64"):
                raise ValueError(f"dtype {shown(dtype)}")
            if "rows" in known and known["rows"][1] - known["rows"][0] != blocks.n:
                raise ValueError(f"n is {blocks.n}, and its rows are {shown(known['rows'])}")
        except FileNotFoundError:
            raise KernregError(f"{folder} holds no factor: {HEAD} is missing") from None
        except OSError as error:
            raise KernregError(f"cannot read {folder / HEAD}: {error.strerror}") from None
        except (ValueError, LookupError, TypeError, RecursionError, KernregError) as error:
            raise KernregError(
                f"{folder / HEAD} cannot be used: {reason(error)}; delete this file and run the same command again: "
                "it keeps the finished panels"
            ) from None
        for field, value in (identity or {}).items():
            if known.get(field) != value:
                raise KernregError(
                    f"{folder} holds the factor of another matrix: its {field} is {shown(known.get(field))}, "
                    f"not {shown(value)}; choose another folder (--scratch)"
                )
        return cls(folder, known, blocks, dtype, outputs)

    @property
    def head(self) -> dict[str, Any]:
        """What `factor.json` says of the panels, JSON-able."""
        blocks, dtype = self.blocks, self.dtype.name
        cut = {"n": blocks.n, "tile": blocks.tile, "panel": blocks.panel}
        return {"identity": self.identity, **cut, "dtype": dtype, "outputs": self.outputs}

    def use_memory(self, empty: Callable[[int], npt.NDArray[Any]]) -> None:
        """Read tiles into arrays that `empty` makes of so many numbers."""
        side = min(self.blocks.tile, self.blocks.n)
        self._ring = [empty(side * side) for _ in range(READ_AHEAD + 1)]

    def path(self, p: int) -> Path:
        """File of panel p."""
        return self.folder / f"panel-{p:05d}"

    def require_disk(self) -> None:
        """Raise KernregError, with the amounts, if the disk cannot take the panels that are not there yet."""
        there = sum(self.path(p).stat().st_size for p in range(len(self.blocks.panels)) if self.has(p))
        needed = self.blocks.written * self.dtype.itemsize - there
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise KernregError(
                f"the factor needs {show_bytes(needed)} in {self.folder} and its disk has {show_bytes(free)} "
                "free: free some space, or name a folder on another disk (--scratch)"
            )

    def has(self, p: int) -> bool:
        """Whether panel p is finished."""
        return self.path(p).exists()

    def adopt(self, p: int) -> npt.NDArray[Any]:
        """Take up the finished panel p, every byte of it verified; its z (rows, outputs).

        Raises:
            KernregError: damaged; names the file.
        """
        self._files[p] = file = os.open(self.path(p), os.O_RDONLY)
        digest = xxhash.xxh3_128(_text(self.head).encode())
        try:
            for offset, count in self._stretches(p):
                for start in range(0, count, self._ring[0].size):
                    part = self._ring[0][: min(self._ring[0].size, count - start)]
                    _read(file, part, offset + start * self.dtype.itemsize)
                    digest.update(part.data)
            z = np.empty((self._rows(p), self.outputs), np.float64)
            _read(file, z, self._tail(p))
            digest.update(z.data)
            written = os.pread(file, _DIGEST + 1, self._tail(p) + z.nbytes)
        except EOFError:
            written = b""
        if written != digest.digest():
            raise KernregError(f"{self.path(p)} is damaged; delete this file, it is computed again")
        return z

    def create(self, p: int) -> None:
        """Begin the file of panel p."""
        partial = self._partial(p)
        try:
            self._files[p] = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        except OSError as error:
            raise refusal(error, partial) from error
        # One each: the next panel begins before this one is committed.
        self._digests[p] = xxhash.xxh3_128(_text(self.head).encode())

    def put(self, p: int, k: int, block: npt.NDArray[Any]) -> None:
        """Write the lower rows of column block k of panel p, in the background: block stays as it is."""
        offset = self._place(p, k) + (self._rows(p) - len(block)) * block.shape[1] * self.dtype.itemsize
        self._submit(self._write, p, block, offset)
        self.written_bytes += block.nbytes

    def finish(self, p: int, z: npt.NDArray[np.float64]) -> None:
        """Once this returns the panel's blocks may change; its file becomes whole in the background."""
        self._submit(self._write, p, np.ascontiguousarray(z), self._tail(p))
        self.drain()
        self._submit(self._commit, p)

    def drain(self) -> None:
        """Wait for everything written so far. Raises KernregError where the disk refused."""
        while self._writing:
            self._writing.popleft().result()

    def tiles(self, places: Iterable[tuple[int, int]]) -> Generator[npt.NDArray[Any], None, None]:
        """The tiles L[J, k] in the order given, (w_J, w_k), read ahead; each is good until the next one."""
        order, free = iter(places), deque(self._ring)
        coming: deque[tuple[npt.NDArray[Any], Future[npt.NDArray[Any]]]] = deque()

        def ask() -> None:
            if (place := next(order, None)) is not None:
                memory = free.popleft()
                coming.append((memory, self._reader.submit(self._tile, *place, memory)))

        for _ in range(READ_AHEAD):
            ask()
        try:
            while coming:
                memory, tile = coming.popleft()
                ask()
                yield tile.result()
                free.append(memory)
        finally:
            for _, tile in coming:
                tile.cancel()
                if not tile.cancelled():
                    tile.exception()

    def close(self) -> None:
        """End the threads and close the files; half-written panels go."""
        self._writer.shutdown()
        self._reader.shutdown(cancel_futures=True)
        for p, file in self._files.items():
            os.close(file)
            with contextlib.suppress(OSError):
                self._partial(p).unlink()
        self._files.clear()

    def _submit(self, work: Any, *arguments: Any) -> None:
        while self._writing and self._writing[0].done():
            self._writing.popleft().result()
        self._writing.append(self._writer.submit(work, *arguments))

    def _write(self, p: int, values: npt.NDArray[Any], offset: int) -> None:
        memory, done = values.data.cast("B"), 0
        self._digests[p].update(memory)
        try:
            while done < len(memory):
                done += os.pwrite(self._files[p], memory[done:], offset + done)
        except OSError as error:
            raise refusal(error, self.path(p)) from error

    def _commit(self, p: int) -> None:
        try:
            end = self._tail(p) + self._rows(p) * self.outputs * 8
            os.pwrite(self._files[p], self._digests.pop(p).digest(), end)
            os.fsync(self._files[p])
            os.replace(self._partial(p), self.path(p))
            sync(self.folder)
        except OSError as error:
            raise refusal(error, self.path(p)) from error

    def _tile(self, J: int, k: int, memory: npt.NDArray[Any]) -> npt.NDArray[Any]:
        edges = self.blocks.edges
        top, height, width = edges[J], edges[J + 1] - edges[J], edges[k + 1] - edges[k]
        p = top // self.blocks.panel
        tile = memory[: height * width].reshape(height, width)
        inside = (top - p * self.blocks.panel) * width * self.dtype.itemsize
        _read(self._files[p], tile, self._place(p, k) + inside)
        self.read_bytes += tile.nbytes
        return tile

    def _partial(self, p: int) -> Path:
        return self.path(p).with_name(f"{self.path(p).name}.{self._mine}{PARTIAL}")

    def _rows(self, p: int) -> int:
        top, bottom = self.blocks.panels[p]
        return bottom - top

    def _place(self, p: int, k: int) -> int:
        return self._rows(p) * self.blocks.edges[k] * self.dtype.itemsize

    def _tail(self, p: int) -> int:
        return self._rows(p) * self.blocks.panels[p][1] * self.dtype.itemsize

    def _stretches(self, p: int) -> Iterator[tuple[int, int]]:
        """(offset, numbers) of what is written of the column blocks."""
        (top, bottom), edges = self.blocks.panels[p], self.blocks.edges
        for k, start in enumerate(edges[:-1]):
            if start < bottom:
                hidden, width = max(start - top, 0), edges[k + 1] - start
                offset = self._place(p, k) + hidden * width * self.dtype.itemsize
                yield offset, (self._rows(p) - hidden) * width


def _read(file: int, values: npt.NDArray[Any], offset: int) -> None:
    memory, done = values.data.cast("B"), 0
    while done < len(memory):
        count = os.preadv(file, [memory[done:]], offset + done)
        if not count:
            raise EOFError("the file ends early")
        done += count


def _whole(head: Mapping[str, Any], key: str) -> int:
    if type(head[key]) is not int or not 0 < head[key] < 2**31:
        raise ValueError(f"{key} is {shown(head[key])}")
    return int(head[key])


def _text(head: Mapping[str, Any]) -> str:
    return json.dumps(head, sort_keys=True)
