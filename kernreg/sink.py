"""A sink for HDF5: a file whose writes never fail, but remember.

HDF5 does not survive a disk that is full: it tries again what is left in its caches when objects die, says so in a traceback
of its own, and may crash. So it is told that all went well, and the first refusal is raised once it has let go of the file.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Sink:
    """What h5py takes for a file, around an unbuffered one.

    Attributes:
        refusal: the first error of the system, or None.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.refusal: OSError | None = None

    def write(self, data: Any) -> int:
        """All of the data, or nothing once the system has refused."""
        left = memoryview(data).cast("B")
        size = len(left)
        with self._remembering():
            while left and self.refusal is None:
                left = left[self._file.write(left) :]
        return size

    def truncate(self, size: int) -> int:
        """Set the size of the file."""
        with self._remembering():
            self._file.truncate(size)
        return size

    def flush(self) -> None:
        """Nothing: there is no buffer."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()

    def readinto(self, memory: Any) -> int:
        """As of a file; what was never written is zeros."""
        view = memoryview(memory).cast("B")
        count = self._file.readinto(view) or 0
        view[count:] = bytes(len(view) - count)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        return self._file.read(size) or b""

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.refusal = self.refusal or error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Sink]:
    """A new file for HDF5 to write into, which must have closed it at the end.

    Raises:
        OSError: the first one of the system.
    """
    with path.open("w+b", buffering=0) as file:
        sink = Sink(file)
        try:
            yield sink
        except Exception as error:
            if sink.refusal is None:
                raise
            raise sink.refusal from error
        if sink.refusal is not None:
            raise sink.refusal
