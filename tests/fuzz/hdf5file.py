"""A grammar of HDF5 files: any bytes → a file that libhdf5 itself wrote, sane or strange.

Mutating the bytes of an HDF5 file mostly breaks its checksums; here the fuzzer chooses among what the format allows instead:
layouts, filters, types, links that loop or lead elsewhere, sizes claimed without a number behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SECRET = 0.7320508075688772  # stands in files that no parse may follow a link to
ROWS, COLUMNS = 6, 3
NAMES = ("X", "y", "X_test", "y_test", "x", "Y", "other", "inner/X", "é")
DTYPES = ("u1", "i1", "u2", "<i4", ">i8", "u8", "f2", "<f4", ">f8", "f8", "?", "c16", "S4", "V3")
HUGE = (2**31, 2**32 + 1, 2**40, 2**61, 2**63 - 1)
PLUGIN = 32015  # Zstandard, which no libhdf5 has built in


class Choices:
    """Choices that bytes make, one byte each; all 0 once they are used up."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    @property
    def left(self) -> bool:
        return self._at < len(self._content)

    def number(self, below: int) -> int:
        self._at += 1
        return self._content[self._at - 1] % below if self._at <= len(self._content) else 0

    def of(self, *several: Any) -> Any:
        return several[self.number(len(several))]


def secrets(folder: Path) -> None:
    """The files that hold SECRET, made once."""
    numbers = np.full((ROWS, COLUMNS), SECRET)
    if not (folder / "secret.h5").exists():
        with h5py.File(folder / "secret.h5", "w") as file:
            file["X"], file["y"] = numbers, np.arange(ROWS) % 2
        numbers.tofile(folder / "secret.bin")


def build(content: bytes, path: Path, elsewhere: Path) -> None:
    """Write the file that the bytes describe; `elsewhere` has the `secrets`."""
    choices = Choices(content)
    libver = choices.of("earliest", "latest", ("earliest", "v110"))
    with h5py.File(path, "w", libver=libver, userblock_size=choices.of(0, 0, 512)) as file:
        for _ in range(8):
            if not choices.left:
                break
            name, make = choices.of(*NAMES), choices.of(*MAKERS)
            with suppress(ValueError, OSError, RuntimeError, TypeError, KeyError, MemoryError, OverflowError):
                make(file, name, choices, elsewhere)


def _numbers(name: str, choices: Choices) -> Any:
    rows = choices.of(ROWS, ROWS, ROWS, 1, 0, ROWS + 1)
    tail = choices.of((COLUMNS,), (), (2, 2), (2, 2, 1), (1,), (3, 2, 2), (0,), (1, 1, 1, 1))
    if name.lower().startswith("y"):
        tail = choices.of((), (), (1,), (2,), (2, 2))
    dtype = choices.of(*DTYPES)
    values = np.arange(rows * int(np.prod(tail))) % choices.of(2, 3, 255)
    special = choices.of(None, None, None, np.nan, np.inf, 1e300, -1.0)
    made = np.zeros((rows, *tail), dtype)
    if made.dtype.kind in "uifc?b":
        made[...] = values.reshape(made.shape).astype(made.dtype)
        if special is not None and made.dtype.kind in "fc" and made.size:
            with np.errstate(all="ignore"):
                made.flat[-1] = special
    return made


def _plain(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    file[name] = _numbers(name, choices)


def _filtered(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    numbers = _numbers(name, choices)
    settings = choices.of(
        {"compression": "gzip"},
        {"compression": "lzf"},
        {"shuffle": True, "fletcher32": True},
        {"scaleoffset": 0},
        {"compression": "szip"},
        {},
    )
    file.create_dataset(name, data=numbers, chunks=True, maxshape=(None,) * numbers.ndim, **settings)


def _unfinished(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    made = file.create_dataset(
        name, (ROWS, COLUMNS), "f8", chunks=(2, 2), compression=choices.of(None, "gzip")
    )
    made[: choices.number(ROWS), : choices.number(COLUMNS + 1)] = 1.0


def _huge(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    shape = choices.of(
        (choices.of(*HUGE),), (ROWS, choices.of(*HUGE)), (choices.of(*HUGE), choices.of(*HUGE)), (0, 2**40)
    )
    chunks = choices.of(None, (4,) * len(shape), (2**16,) * len(shape))
    made = file.create_dataset(
        name, shape, choices.of(*DTYPES), chunks=chunks, compression=choices.of(None, "gzip")
    )
    if chunks is not None and choices.number(2):
        made[(0,) * len(shape)] = 1


def _huge_chunk(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    """A small array whose one chunk unpacks to gigabytes, from a few bytes."""
    rows = choices.of(2**20, 2**27, 2**28 - 1)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((rows,))
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    choices.of(lambda: plist.set_deflate(9), lambda: plist.set_scaleoffset(h5py.h5z.SO_INT, 0))()
    space = h5py.h5s.create_simple((ROWS,), (h5py.h5s.UNLIMITED,))
    made = h5py.h5d.create(file.id, name.encode(), h5py.h5t.STD_I32LE, space, plist)
    made.write_direct_chunk((0,), choices.of(b"x\x9cc`\x80\x01\x00\x00\x04\x00\x01", bytes(21), b""), 0)


def _plugin(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((ROWS, COLUMNS))
    plist.set_filter(choices.of(PLUGIN, 32004, 511), h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
    space = h5py.h5s.create_simple((ROWS, COLUMNS))
    made = h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F64LE, space, plist)
    made.write_direct_chunk((0, 0), bytes(ROWS * COLUMNS * 8), choices.number(2))


def _soft(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    file[name] = h5py.SoftLink(choices.of("/" + name, "/other", "/nowhere", "/y", "X/X/X", "/" * 300))


def _external(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    target = choices.of(str(elsewhere / "secret.h5"), "../secret.h5", "/dev/zero", "file.h5", "\n")
    file[name] = h5py.ExternalLink(target, choices.of("/X", "/y", "/", "/inner"))


def _virtual(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    layout = h5py.VirtualLayout((ROWS, COLUMNS), "f8")
    source = choices.of(str(elsewhere / "secret.h5"), ".", "../secret.h5", "%b")
    layout[:] = h5py.VirtualSource(source, choices.of("X", name), (ROWS, COLUMNS))
    file.create_virtual_dataset(name, layout, fillvalue=choices.of(0, np.nan))


def _outside(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    place = choices.of(str(elsewhere / "secret.bin"), "../secret.bin", "/dev/zero", "/proc/self/environ")
    file.create_dataset(name, (ROWS, COLUMNS), "f8", external=[(place, 0, ROWS * COLUMNS * 8)])


def _other_type(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    texts = np.array(["a", "b" * 9] * 3, dtype=object)
    lists = np.empty(ROWS, dtype=object)
    lists[:] = [np.arange(k) for k in range(ROWS)]
    pairs = np.zeros(ROWS, dtype=[("X", "f8"), ("y", "i4", (2,))])
    match choices.number(9):
        case 0:
            file.create_dataset(name, data=texts, dtype=h5py.string_dtype())
        case 1:
            file.create_dataset(name, data=lists, dtype=h5py.vlen_dtype("i4"))
        case 2:
            file[name] = pairs
        case 3:
            references = file.create_dataset(name, (ROWS,), h5py.ref_dtype)
            references[0] = file.ref
        case 4:
            kind = h5py.enum_dtype({"CAT": 0, "DOG": 1}, basetype="i1")
            file.create_dataset(name, data=np.arange(ROWS) % 3, dtype=kind)
        case 5:
            file[name] = h5py.Empty("f8")
        case 6:
            file[name] = 3.0
        case 7:
            file[name] = np.dtype("f8")  # a type with a name
        case _:
            file.create_dataset(name, (ROWS,), np.dtype(("f8", (COLUMNS,))))


def _group(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    made = file.require_group(name)
    if choices.number(2):
        made["X"] = file["/"]  # a loop of hard links


def _hard(file: Any, name: str, choices: Choices, elsewhere: Path) -> None:
    file[name] = file[choices.of("X", "y", "other", "/")]


Maker = Callable[[Any, str, Choices, Path], None]
ODD: tuple[Maker, ...] = (
    _huge,
    _huge_chunk,
    _plugin,
    _soft,
    _external,
    _virtual,
    _outside,
    _other_type,
    _group,
    _hard,
)
MAKERS: tuple[Maker, ...] = (_plain, _plain, _plain, _filtered, _filtered, _unfinished, *ODD)
