"""HDF5 files of others are read in a process of their own: libhdf5 is C, and a file can make it crash or loop for ever.

`main` is what runs there: it writes one line of JSON, the arrays' names, dtypes and shapes or an error, and then their bytes.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kernreg.data.hdf5 import own_array
from kernreg.errors import reason
from kernreg.npzfile import DEFLATE_LIMIT

SECONDS = 30  # of CPU time, and one more for each of
BYTES_PER_SECOND = 1 << 20  # of the file
_LONGEST_HEAD = 1 << 16

Named = tuple[str, str]  # what an array is called in the file, and what it is


def read_hdf5(path: Path, keys: Sequence[Named]) -> dict[str, NDArray[Any]]:
    """The arrays of these names that a file has, read in another process.

    Args:
        path: of the file.
        keys: (name in the file, name in the result); two names of one result must not both be there.

    Raises:
        ValueError: the file is damaged, strange, or libhdf5 does not survive it; one line says why.
    """
    code, names = f"from {__name__} import main; main()", (text for pair in keys for text in pair)
    seconds = SECONDS + path.stat().st_size // BYTES_PER_SECOND
    given = [sys.executable, "-c", code, str(seconds), str(path.resolve()), *names]
    # the same kernreg, wherever this one came from
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as child:
        assert child.stdout is not None
        try:
            arrays = _received(child.stdout, DEFLATE_LIMIT * path.stat().st_size)
        except EOFError:
            raise ValueError(_death(child.wait())) from None
        finally:
            child.kill()
    return arrays


def read_hdf5_here(path: Path, keys: Sequence[Named]) -> dict[str, NDArray[Any]]:
    """The same in this process.

    Raises:
        ValueError, OSError, RuntimeError and whatever else h5py raises of a damaged file.
    """
    import h5py

    arrays: dict[str, NDArray[Any]] = {}
    with h5py.File(path, "r") as file:
        for name, key in keys:
            if not file.id.links.exists(name.encode()):
                continue
            if key in arrays:
                raise ValueError(f"it has {key} twice; keep one")
            arrays[key] = own_array(file, name, path.stat().st_size)
    return arrays


def main() -> None:
    """Read the file of the command line, within limits, and write what `_received` reads."""
    seconds, path, names = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = sys.stdout.buffer
    try:
        arrays = read_hdf5_here(path, list(zip(names[::2], names[1::2], strict=True)))
    except Exception as error:  # a damaged file makes h5py raise anything
        out.write(json.dumps({"error": reason(error)}).encode() + b"\n")
        return
    head = [[key, array.dtype.str, array.shape] for key, array in arrays.items()]
    out.write(json.dumps({"arrays": head}).encode() + b"\n")
    for array in arrays.values():
        out.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _received(stream: IO[bytes], most: int) -> dict[str, NDArray[Any]]:
    line = stream.readline(_LONGEST_HEAD)
    if not line.endswith(b"\n"):
        raise EOFError
    head = json.loads(line)
    if "error" in head:
        raise ValueError(head["error"])
    arrays = {}
    for key, dtype, shape in head["arrays"]:
        if math.prod(shape) * np.dtype(dtype).itemsize > most:
            raise ValueError(f"{key} is larger than the file can hold")
        array = np.empty(shape, dtype)
        room, done = array.reshape(-1).view(np.uint8).data, 0
        while done < len(room):
            count = stream.readinto(room[done:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            done += count
        arrays[key] = array
    return arrays


def _death(status: int) -> str:
    if status == -signal.SIGXCPU or status == -signal.SIGKILL:
        return "HDF5 does not come to an end with it"
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"HDF5 itself fails on it ({name})"
