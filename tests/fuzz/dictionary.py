"""What a fuzzer would take long to guess, by parser: libFuzzer's dictionaries."""

from __future__ import annotations

from ownfiles import MAIN, PARTS

_JSON: tuple[bytes, ...] = (
    b"NaN",
    b"Infinity",
    b"1e999",
    b"null",
    b"true",
    b"-1",
    b"[[",
    b"]]",
    b'{"',
    b'":',
    b"99999999999999999999",
)
_HEAD: tuple[bytes, ...] = tuple(
    f'"{key}"'.encode()
    for key in (*MAIN, "head", "arrays", "seal", *PARTS, "shape", "chunks", "dtype", "link")
)
_LAYERS: tuple[bytes, ...] = (
    b'"layers"',
    b'"type"',
    b'"conv"',
    b'"conv_local"',
    b'"dense"',
    b'"act"',
    b'"avg_pool"',
    b'"gap"',
    b'"flatten"',
)
_LAYERS += (
    b'"residual"',
    b'"branch"',
    b'"shortcut"',
    b'"filter"',
    b'"strides"',
    b'"padding"',
    b'"W_var"',
    b'"b_var"',
)
_LAYERS += (
    b'"window"',
    b'"normalize_edges"',
    b'"relu"',
    b'"leaky_relu_',
    b'"SAME"',
    b'"VALID"',
    b'"CIRCULAR"',
    b'"name"',
)
_PICKLE: tuple[bytes, ...] = (
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"c_codecs\nencode\n",
)
_PICKLE += (
    b"\x80\x02",
    b"\x80\x04\x95",
    b"U\x04data",
    b"U\x06labels",
    b"U\x02u1",
    b"U\x02i8",
    b"U\x01b",
    b"U\x01|",
    b"tb.",
)
_NPY: tuple[bytes, ...] = (
    b"\x93NUMPY\x01\x00",
    b"\x93NUMPY\x02\x00",
    b"'descr': '<f8'",
    b"'fortran_order': False",
    b"'shape': (",
    b"|O",
    b"PK\x03\x04",
)
_TOML: tuple[bytes, ...] = (
    b"[study]\n",
    b"[data]\n",
    b"[fit]\n",
    b"[[architecture]]\n",
    b"[[compare]]\n",
    b"[[coincide]]\n",
    b"0x",
    b"nan",
)
_TOML += tuple(
    f"{key} = ".encode()
    for key in ("name", "n", "test", "seeds", "preset", "layers", "depth", "kernels", "patch")
)
_TOML += tuple(
    f"{key} = ".encode() for key in ("transforms", "transform_seeds", "ridge", "window", "settings", "filter")
)
_TOML += (
    b"first = {",
    b"second = {",
    b"synthetic",
    b"sphere-product",
    b"patch-rotation",
    b'"gap"',
    b"1979-05-27",
)
_KNOBS: tuple[bytes, ...] = tuple(
    f"{key} = ".encode() for key in ("name", "n", "test", "seed", "a", "b", "dimension", "degrees", "range")
)
_KNOBS += tuple(
    f"{key} = ".encode()
    for key in ("cyclic", "height", "width", "p", "size", "channels", "classes", "signal")
)
_KNOBS += (
    b'"synthetic-images"',
    b'"sphere"',
    b'"sphere-product"',
    b'"digits"',
    b'dtype = "float32"',
    b"balanced = false",
)

TOKENS: dict[str, tuple[bytes, ...]] = {
    "pickle": _PICKLE,
    "idx": (b"\x00\x00\x08\x01", b"\x00\x00\x08\x03", b"\xff\xff\xff\xff", b"\x1f\x8b\x08"),
    "archive": (b"ustar", b"././@LongLink", b"data_batch_1", b"GNU.sparse.map=", b"size=", b"x+"),
    "npz": _NPY,
    "npy": _NPY,
    "study": _TOML,
    "setting": _KNOBS,
    "architecture": (*_LAYERS, *_JSON),
    "store": (*_HEAD, *_JSON),
    "tile": (b'"offsets"', b'"checksums"', b'"ntk"', b'"size"', b'"checksum"', *_JSON),
    "solution": (*_HEAD, b'"coefficients"', b'"residuals"', b'"facts"', *_JSON),
    "curve": (b'"blocks"', b'"about"', b'"eigenvalues"', b'"anchors"', *_NPY),
    "state": (b'"probe"', b'"counts"', b'"probe_diagonal"', *_NPY),
    "factor": (b'"identity"', b'"tile"', b'"panel"', b'"outputs"', *_JSON),
    "provenance": (*_HEAD, b'"transform"', b'"hashes"', b'"dimension"', *_JSON),
}
