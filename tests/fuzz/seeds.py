"""Where a campaign begins: for every parser some inputs that are right, and the attacks that one would try by hand."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from kernreg.architecture import PRESETS, Architecture
from kernreg.data import load

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def seeds() -> dict[str, list[bytes]]:
    """Inputs by name of the parser."""
    return {
        "pickle": _pickles(),
        "idx": _idx(),
        "archive": _archives(),
        "npz": [*_npz(), b"n" + b"".join(_member(i, 0, array) for i, array in enumerate(_arrays()))],
        "npy": [_npy(array) for array in _arrays()] + [_header("(1000000000, 1000000)"), _header("(-6, 3)")],
        "hdf5": _hdf5(),
        "study": [path.read_bytes() for path in sorted(EXAMPLES.glob("*.toml"))] + _studies(),
        "setting": _settings(),
        "architecture": _architectures(),
        "store": _stores(),
        "tile": [
            b"{}",
            b'{"offsets": {"ntk": 4096}}',
            b'{"checksums": {}, "backend": ["cpu"]}',
            b'{"size": 9}',
        ],
        "solution": [*_stores(), b'{"head": {"facts": {"status": 1}}, "arrays": {"coefficients": [[1.5]]}}'],
        "curve": [b'n{"about": {"n": 3}}', b'n{"blocks": [[0, 2], [2, 2]], "eigenvalues": [1.0]}', *_npz()],
        "state": [b"n{}", b'n{"probe": [[1.0, 2.0]], "probe_diagonal": [1.0], "probe_off": []}', *_npz()],
        "factor": _factors(),
        "provenance": _provenances(),
    }


def _text(content: bytes) -> bytes:
    return (
        b"U" + bytes([len(content)]) + content
        if len(content) < 256
        else b"T" + struct.pack("<i", len(content)) + content
    )


def _pickles() -> list[bytes]:
    dtype = (
        b"cnumpy\ndtype\n"
        + _text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + _text(b"|")
        + b"NNN"
        + 2 * b"J\xff\xff\xff\xff"
    )
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _text(b"b") + b"\x87R"
    array = empty + b"(K\x01K\x01M\x00\x0c\x86" + dtype + b"K\x00tb\x89" + _text(bytes(3072)) + b"tb"
    python2 = b"\x80\x02}q\x01(" + _text(b"labels") + b"](K\x03e" + _text(b"data") + array + b"u."
    batch = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [3], b"filenames": [b"a.png"]}
    return [
        python2,
        *(pickle.dumps(batch, protocol) for protocol in (2, 4)),
        pickle.dumps([1, "a", None, True, (1, 2)], 0),
    ]


def _idx() -> list[bytes]:
    labels, images = (
        struct.pack(">4BI", 0, 0, 8, 1, 3) + b"\1\2\3",
        struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 1) + bytes(4),
    )
    return [
        b"1" + labels,
        b"3" + images,
        b"Z" + images,
        b"zjunk",
        b"3" + struct.pack(">4B3I", 0, 0, 8, 3, *3 * (2**32 - 1,)),
    ]


def _archives() -> list[bytes]:
    made = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
            for name in ("x/data_batch_1", "a" * 120 + "/test_batch"):
                member = tarfile.TarInfo(name)
                member.size = 5
                archive.addfile(member, io.BytesIO(b"bytes"))
        made.append(b"t" + buffer.getvalue().rstrip(b"\0") + bytes(1024))
    return [
        *made,
        b"n0" + bytes(6) + b"data_batch_1".ljust(32) + b"abc\n0+" + bytes(6) + b"test_batch",
        b"zjunk",
    ]


def _arrays() -> list[Any]:
    return [np.arange(18.0).reshape(6, 3), np.arange(6) % 2, np.ones((2, 3)), np.array([0, 1])]


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _header(shape: str, descr: str = "<f8") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def _member(name: int, method: int, array: Any) -> bytes:
    content = _npy(array)
    return struct.pack("<BBH", name, method, len(content)) + content


def _npz() -> list[bytes]:
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, array in zip(("X", "y", "X_test", "y_test"), _arrays(), strict=True):
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _npy(array), method)
        made.append(buffer.getvalue())
    return made


def _hdf5() -> list[bytes]:
    """libver, user block, then for each array: its name, how it is made, and choices (`hdf5file.build`)."""
    plain = bytes([0, 0, *(0, 0, 0, 0, 9, 2, 0), *(1, 0, 0, 0, 0, 3, 0, 0)])
    return [plain, *(plain + bytes([0, maker, *range(k, k + 8)]) for maker in range(16) for k in (0, 1, 3))]


def _studies() -> list[bytes]:
    head = b'[study]\nname = "a"\n[data]\nname = "synthetic"\nn = 8\ntest = 4\n'
    network = b'[[architecture]]\npreset = "gap"\ndepth = 2\nfilter = [3, 1]\npadding = "CIRCULAR"\n'
    layers = b'[[architecture]]\nname = "b"\n[[architecture.layers]]\ntype = "dense"\nW_var = 1\nb_var = 0\n'
    pair = b'[[compare]]\nfirst = {architecture = "gap"}\nsecond = {architecture = "b"}\n'
    return [
        head + network + layers + pair,
        head
        + b'settings = {a = 1.5, dimension = 64}\n[fit]\nridge = "loo"\nwindow = [2, 8]\nmodel = "power"\n'
        + network,
        head.replace(b"n = 8", b"n = 0x" + b"f" * 60) + network,
        head.replace(b"n = 8", b"n." + b".".join([b"a"] * 40)) + network,
    ]


def _settings() -> list[bytes]:
    return [
        b"a = 1.5\nb = 3\ndimension = 64\n",
        b'name = "sphere"\ndimension = 10\ndegrees = [1, 2]\ncyclic = true\n',
        b'name = "sphere-product"\nheight = 4\nwidth = 4\np = 3\nrange = 2\nseed = 7\n',
        b'name = "synthetic-images"\nsize = 4\nchannels = 2\nclasses = 3\nsignal = 0.5\nspectrum = 1\nshift = 2\n',
        b'name = "eigenspaces"\np = 3\n',
        b'name = "digits"\nn = 10\ntest = 5\nnormalise = "unit"\nbalanced = false\n',
    ]


def _architectures() -> list[bytes]:
    made = [Architecture.preset(name, depth=1) for name in PRESETS]
    residual = {"type": "residual", "branch": [{"type": "act", "fn": "leaky_relu_0.1"}], "shortcut": []}
    pool = {
        "type": "avg_pool",
        "window": [2, 2],
        "strides": [1, 1],
        "padding": "SAME",
        "normalize_edges": True,
    }
    strange = {
        "name": "../a",
        "layers": [residual, pool, {"type": "flatten"}, {"type": "dense", "W_var": 1, "b_var": 0}],
    }
    return [json.dumps(d).encode() for d in (*(a.to_dict() for a in made), strange)]


def _stores() -> list[bytes]:
    changes: list[dict[str, Any]] = [
        {},
        {
            "head": {
                "input_shape": [4, 4, 1],
                "architecture": Architecture.vec(depth=1).to_dict(),
                "kernels": ["nngp", "ntk"],
            }
        },
        {
            "head": {
                "provenance": {
                    "transform": {"name": "rotation", "seed": 0, "patch": None, "hash": "a"},
                    "classes": 2,
                }
            }
        },
        {
            "head": {
                "provenance": {"name": "digits", "n": 3, "test": 2, "balanced": True, "normalise": "unit"}
            }
        },
        {"arrays": {"train/labels": [0, 1, 0], "test/labels": [1, 1], "train/edges": [0, 1, 3]}},
        {"arrays": {"train/targets": {"shape": [3, 1099511627776]}, "test/rows": {"link": "/train/rows"}}},
        {"arrays": {"train/hashes": {"link": "../secret.h5", "out": 1}}, "seal": {"format_version": 2}},
    ]
    return [json.dumps(change).encode() for change in changes]


def _factors() -> list[bytes]:
    good: dict[str, Any] = {
        "format": "kernreg-factor",
        "format_version": 2,
        "identity": {"rows": [0, 61], "ridge": 0.5},
    }
    good |= {"n": 61, "tile": 8, "panel": 24, "dtype": "float64", "outputs": 3}
    return [
        json.dumps({**good, **change}).encode()
        for change in ({}, {"tile": 2**30, "panel": 2**30}, {"n": "61"})
    ]


def _provenances() -> list[bytes]:
    made = [
        load("synthetic", n=4, test=2, dtype="float64", dimension=16),
        load("synthetic-images", n=3, test=1, size=4, channels=1, classes=2),
        load("sphere", n=2, test=2, dimension=8, degrees=[1]),
        load("digits", n=5, test=5, transform="shift", transform_seed=3),
    ]
    return [json.dumps(data.provenance).encode() for data in made] + [b'{"name": "../a.npz"}']
