"""Attacks by hand: inputs made by a few lines that once did harm, too large or too regular for the corpus."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from parsers import PARSERS
from warm import folder
from watch import emptied, outcome

from kernreg.data.hdf5reader import read_hdf5

__all__ = ["folder"]

PICKLE = b"\x80\x02"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
STUDY = '[study]\nname = "a"\n[data]\nname = "synthetic"\nn = 8\ntest = 4\n[[architecture]]\npreset = "fcn"\n'


def tuples(depth: int) -> bytes:
    """Items of a list: a tuple of two, each the same tuple of two, and so on: 2^depth leaves in a few bytes."""
    return b"K\x00q\x00" + b"".join(2 * (b"h" + bytes([i])) + b"\x86q" + bytes([i + 1]) for i in range(depth))


def lists(depth: int) -> bytes:
    """The same of lists."""
    return b"]q\x00" + b"".join(
        b"]q" + bytes([i + 1]) + b"(" + 2 * (b"h" + bytes([i])) + b"e" for i in range(depth)
    )


def one_long(digits: int) -> bytes:
    return b"\x8b" + struct.pack("<i", digits) + bytes(digits - 1) + b"\x01"


def chain_of_names(count: int) -> bytes:
    """A tar in which each header says that the next one has a long name: tarfile calls itself for each."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1
    return b"t" + count * (member.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0"))


def pax_size(text: str) -> bytes:
    member = tarfile.TarInfo("data_batch_1")
    member.pax_headers = {"GNU.sparse.map": text, "GNU.sparse.size": text, "size": text}
    return b"t" + member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


def bomb() -> bytes:
    """A tar of 300 MB of a header's zeros, which gzip makes 300 kB."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 300 << 20
    return b"t" + member.tobuf(tarfile.GNU_FORMAT) + bytes(300 << 20)


def npz(flags: int = 0, method: int = 0) -> bytes:
    """A whole curve or state file, but for one field of the zip's directory and header."""
    buffer = io.BytesIO()
    np.savez(buffer, loss=np.ones(3), X=np.ones((3, 2)))
    content = bytearray(buffer.getvalue())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.index(magic) + at
        content[start : start + 4] = struct.pack("<HH", flags, method)
    return bytes(content)


def header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("loss.npy", content)
    return buffer.getvalue()


def study(**lines: str) -> bytes:
    text = STUDY
    for key, value in lines.items():
        text = text.replace({"n": "n = 8", "head": "[data]", "end": '"fcn"\n'}[key], value)
    return text.encode()


HUGE_CHUNK = bytes([0, 0, 0, 7])  # of hdf5file.build: X by _huge_chunk

ATTACKS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    # Python's unpickler hashes keys and shows values, both for ever
    "a key of shared tuples": (
        "pickle",
        lambda: PICKLE + b"}(U\x01a](" + tuples(60) + b"eh<K\x01u.",
        "nests tuples",
    ),
    "a set of shared tuples": (
        "pickle",
        lambda: b"\x80\x04](" + tuples(60) + b"e\x8f(h<\x90.",
        "nests tuples",
    ),
    "a dtype of shared lists": (
        "pickle",
        lambda: PICKLE + b"](" + lists(60) + b"ecnumpy\ndtype\nh<K\x00K\x01\x87R.",
        "nests tuples",
    ),
    "a key of 5000 digits": (
        "pickle",
        lambda: PICKLE + b"}" + one_long(2100) + b"K\x01s.",
        "key that is a int",
    ),
    "a shape of long integers": (
        "pickle",
        lambda: (
            PICKLE
            + b"]("
            + one_long(100_000)
            + b"q\x00e"
            + ARRAY
            + b"(K\x01("
            + b"h\x00" * 3000
            + b"tcnumpy\ndtype\nU\x02u1K\x00K\x01\x87RK\x00U\x00tb."
        ),
        "nests tuples",
    ),
    "one text encoded many times": (
        "pickle",
        lambda: (
            PICKLE
            + b"c_codecs\nencode\nq\x00X"
            + struct.pack("<I", 100_000)
            + b"a" * 100_000
            + b"U\x06latin1\x86q\x01]("
            + b"h\x00h\x01R" * 10_000
            + b"e."
        ),
        "copies its bytes",
    ),
    "an empty array with long sides": (
        "idx",
        lambda: b"3" + struct.pack(">4B3I", 0, 0, 8, 3, 0, 2**32 - 1, 2**32 - 1),
        "claims|IDX",
    ),
    "a chain of long names": ("archive", lambda: chain_of_names(2000), "not a whole .tar.gz"),
    "a sparse file": ("archive", lambda: pax_size("1,x"), "not a whole .tar.gz|lacks"),
    "a gzip bomb in a header": ("archive", bomb, "claims 314572800 bytes"),
    "an encrypted member": ("curve", lambda: npz(flags=1), "is damaged"),
    "a method that is not there": ("curve", lambda: npz(method=9), "is damaged"),
    "a stored member that says deflate": ("curve", lambda: npz(method=8), "is damaged"),
    "an encrypted state": ("state", lambda: npz(flags=1), "is no state"),
    "a stored state that says deflate": ("state", lambda: npz(method=8), "is no state"),
    "a claimed shape in a curve": (
        "curve",
        lambda: npz_of(header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000,)}")),
        "claims",
    ),
    "a header that is no literal": ("curve", lambda: npz_of(header(b"'" * 3 + b"\n")), "is damaged"),
    "a header of brackets": ("npy", lambda: header(b"(" * 5000), "cannot read"),
    "a header of signs": ("npy", lambda: header(b"-" * 9000), "cannot read"),
    "a chunk of gigabytes": ("hdf5", lambda: bytes([0, 0, 0, 7, 1, 1, 1]), "claims"),
    "a number of 5000 digits": ("study", lambda: study(n="n = 0x" + "f" * 4200), "too large to show"),
    "tables in tables in tables": (
        "study",
        lambda: study(n="n." + ".".join("a" * 150) + " = 1"),
        r"[data] n is {",
    ),
    "a key of half the file": (
        "study",
        lambda: study(n="n." + ".".join("a" * 30_000) + " = 1"),
        "more than 200 dots",
    ),
    "a file beyond the limit": ("study", lambda: study(end='"fcn"\n' + "#" * 70_000), "more than 65536"),
    "seeds without end": (
        "study",
        lambda: study(n="n = 8\nseeds = [" + ",".join(map(str, range(9000))) + "]"),
        "",
    ),
    "curves without end": (
        "study",
        lambda: study(n=f"n = {list(range(2, 900))}\nseeds = {list(range(900))}"),
        "asks for 808,200 curves",
    ),
    "rows without end": ("study", lambda: study(n=f"n = {2**62}"), ""),
    "a name of two lines": ("study", lambda: study(end='"fcn"\nname = "a\\nb"\n'), "printable"),
    "a name that is a broken formula": (
        "architecture",
        lambda: b'{"name": "$\\\\frac$", "layers": [{"type": "dense", "W_var": 1, "b_var": 0}]}',
        "take for a formula",
    ),
    "brackets in brackets": ("architecture", lambda: b"[" * 2000, "not JSON"),
    "layers in layers": (
        "architecture",
        lambda: b'{"layers": [' + b'{"type": "residual", "branch": [' * 150 + b"]}" * 150 + b"]}",
        "nested at most",
    ),
    "a type that is a list": ("architecture", lambda: b'{"layers": [{"type": []}]}', "unknown layer type"),
    "a variance beyond float": (
        "architecture",
        lambda: b'{"layers": [{"type": "dense", "W_var": 1' + b"0" * 400 + b', "b_var": 0}]}',
        "dense",
    ),
    "an infinite window": (
        "architecture",
        lambda: b'{"layers": [{"type": "conv", "filter": [Infinity, 1], "W_var": 1, "b_var": 0}]}',
        "conv",
    ),
    "a window of 10^30": (
        "architecture",
        lambda: b'{"layers": [{"type": "conv", "filter": [1' + b"0" * 30 + b', 1], "W_var": 1, "b_var": 0}]}',
        "from 1 to 65536",
    ),
    "a factor's tiles beyond memory": (
        "factor",
        lambda: json.dumps(
            {"format": "kernreg-factor", "format_version": 2, "identity": {"rows": [0, 61], "ridge": 0.5}}
            | {"n": 2**30, "tile": 2**30, "panel": 2**30, "dtype": "float64", "outputs": 1}
        ).encode(),
        "its rows are",
    ),
    "a store's infinite shape": ("store", lambda: b'{"head": {"input_shape": [Infinity]}}', "cannot be used"),
    "a store of other rows": (
        "store",
        lambda: b'{"arrays": {"train/edges": [0, 1, 99]}}',
        "does not hold rows",
    ),
    "a store of a link": (
        "store",
        lambda: b'{"arrays": {"train/targets": {"link": "../secret.h5", "out": 1}}}',
        "link",
    ),
    "a tile without places": ("tile", lambda: b'{"offsets": null}', "cannot be used"),
    "a tile beyond its file": ("tile", lambda: b'{"offsets": {"ntk": 99999999}}', "too small"),
    "a solution without columns": (
        "solution",
        lambda: b'{"arrays": {"coefficients": [1, 2, 3]}}',
        "no solution",
    ),
    "a setting that is a text": ("setting", lambda: b'a = "x"', "synthetic: a is 'x'"),
    "a setting that is a date": ("setting", lambda: b"a = 1979-05-27", "synthetic: a is"),
    "a setting beyond memory": ("setting", lambda: b"dimension = 1000000000", "this machine has"),
    "a sphere of millions of monomials": (
        "setting",
        lambda: b'name = "sphere"\ndimension = 3000000',
        "this machine has",
    ),
    "a provenance that is a list": ("provenance", lambda: b"[]", "is a table"),
    "a transform without a seed": (
        "provenance",
        lambda: (
            b'{"name": "digits", "n": 1, "test": 1, "seed": 0, "dtype": "float32", "transform": {"name": "shift"}}'
        ),
        "provenance.transform",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.filterwarnings("ignore")
def test_an_attack_is_refused_at_once(attack: str, folder: Path) -> None:
    name, content, said = ATTACKS[attack]
    error = outcome(PARSERS[name].parse, content(), emptied(folder))
    if said:
        assert error is not None
        assert any(part in str(error) for part in said.split("|")), str(error)


def test_a_file_that_libhdf5_reads_for_ever_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parent / "files" / "endless.h5"
    monkeypatch.setattr("kernreg.data.hdf5reader.SECONDS", 2)
    assert read_hdf5(path, [("X", "X")])["X"].shape == (6, 3)
    with pytest.raises(ValueError, match="HDF5 does not come to an end with it"):
        read_hdf5(path, [("X_test", "X_test")])


def test_a_file_that_libhdf5_dies_of_is_refused() -> None:
    path = Path(__file__).parent / "files" / "crash.h5"
    assert read_hdf5(path, [("X", "X")])["X"].shape == (6, 3)
    with pytest.raises(ValueError, match=r"HDF5 itself fails on it \(SIGSEGV\)"):
        read_hdf5(path, [("X_test", "X_test")])
