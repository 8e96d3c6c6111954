"""Flipped bytes in HDF5 files, read by the C library in a child: what a crash of libhdf5 looks like from outside.

    python tests/fuzz/hdf5bytes.py [--seconds 60] [--seed 0]

Coverage cannot guide this (libhdf5 is not instrumented); mutations are blind but many, of files of every layout that the grammar
of `hdf5file` makes. A child reads one after the other and says how far it is; when a signal ends it, the input that it was at is
kept in build/fuzz/hdf5bytes/, and the next child goes on behind it. Adds to benchmarks/results/fuzzing.json.
"""

from __future__ import annotations

import argparse
import collections
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import hdf5file
from campaign import WORK, record
from seeds import seeds
from watch import ROOM

from kernreg.data.files import SPELLINGS
from kernreg.data.hdf5reader import read_hdf5_here

SECONDS = 5  # of wall-clock time, for one input
BATCH = 2000


def files(folder: Path) -> list[bytes]:
    """Files to begin with: those of the seeds, and of what the grammar makes of random bytes behind an X and a y."""
    hdf5file.secrets(folder)
    made, plain, rng = [], seeds()["hdf5"][0][2:], random.Random(0)
    grown = [bytes([i % 3, i % 2, *plain]) + rng.randbytes(60) for i in range(300)]
    for i, content in enumerate([*seeds()["hdf5"], *grown]):
        path = folder / f"{i}.h5"
        try:
            hdf5file.build(content, path, folder)
            if path.stat().st_size < 1 << 16:  # a claimed size may be a hole
                made.append(path.read_bytes())
        except (OSError, RuntimeError):
            continue
    return sorted(set(made), key=len)


def mutated(good: list[bytes], rng: random.Random) -> bytes:
    """One of the files with one to eight changes: bytes, whole words of a size that hurts, pieces moved or left out."""
    content = bytearray(rng.choice(good))
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(min(len(content), rng.choice((200, 1000, len(content)))))
        match rng.randrange(5):
            case 0:
                content[at] = rng.randrange(256)
            case 1:
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                word = rng.choice((0, 1, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(content), at))
                size = rng.choice((2, 4, 8))
                content[at : at + size] = (word % 2 ** (8 * size)).to_bytes(size, "little")
            case 3:
                other, size = rng.randrange(len(content)), rng.choice((4, 8, 16, 64))
                content[at : at + size] = content[other : other + size]
            case _:
                del content[at + 1 + rng.randrange(64) :][:0]
                if rng.random() < 0.1:
                    del content[max(at, 8) :]
    return bytes(content)


def one(content: bytes, path: Path) -> str:
    """Read a file in this process."""
    path.write_bytes(content)
    try:
        read_hdf5_here(path, SPELLINGS)
        return "read"
    except Exception:  # of Python: the reader's process says it in one line
        return "refused"


def child(good: list[bytes], seed: int, first: int, shared: mmap.mmap, path: Path) -> None:
    """Read inputs first, first + 1, … of this seed, then end."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for i in range(first, first + BATCH):
        shared[:8] = i.to_bytes(8, "little")
        signal.alarm(SECONDS)
        one(mutated(good, random.Random(f"{seed}-{i}")), path)
    signal.alarm(0)


def main() -> int:
    parser = argparse.ArgumentParser(description="flipped bytes in HDF5 files; see docs/security.md")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    given = parser.parse_args()
    kept = WORK / "hdf5bytes"
    kept.mkdir(parents=True, exist_ok=True)
    shared, ends = mmap.mmap(-1, 8), collections.Counter[str]()
    before, until, at, crashes = (
        resource.getrusage(resource.RUSAGE_CHILDREN),
        time.monotonic() + given.seconds,
        given.first,
        [],
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        folder = Path(name)
        good = files(folder)
        while time.monotonic() < until:
            process = os.fork()
            if process == 0:
                status = 1
                try:
                    devnull = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(devnull, 2)
                    child(good, given.seed, at, shared, folder / "input.h5")
                    status = 0
                finally:
                    os._exit(status)
            _, status = os.waitpid(process, 0)
            reached = int.from_bytes(shared[:8], "little")
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                at += BATCH
                continue
            what = signal.Signals(-code).name if code < 0 else "exception"
            ends[what] += 1
            path = kept / f"{what}-{given.seed}-{reached}.h5"
            path.write_bytes(mutated(good, random.Random(f"{given.seed}-{reached}")))
            crashes.append(str(path))
            at = reached + 1
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    record("hdf5bytes", {"cpu_seconds": spent, "inputs": at - given.first, "crashes": crashes})
    print(f"hdf5bytes: {spent:.0f} s of CPU time, {at - given.first:,} inputs, {dict(ends)}")
    for crash in crashes[:20]:
        print(f"  {crash}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
