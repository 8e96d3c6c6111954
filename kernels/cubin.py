"""One instance of the stencil compiled for a GPU that is not here, and what it takes of it: registers and stack.

By NVRTC, the compiler that CuPy runs (a wheel, `nvidia-cuda-nvrtc`, or a toolkit's), else by a toolkit's nvcc.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernreg.errors import KernregError
from kernreg.kernels.device import FOLDER, options, source


@dataclass(frozen=True)
class Resources:
    """Of a kernel: registers of a thread, and bytes of stack, where spilled registers go."""

    registers: int
    stack: int


def compiler() -> str:
    """ "nvrtc", "nvcc", or nothing where there is neither."""
    if _nvrtc() is not None:
        return "nvrtc"
    return "nvcc" if shutil.which("nvcc") else ""


def compile(definitions: Sequence[str], capability: int) -> bytes:
    """The cubin of stencil.cu, e.g. for capability 90.

    Raises:
        KernregError: no compiler, or its messages.
    """
    match compiler():
        case "nvrtc":
            return _by_nvrtc(definitions, capability)
        case "nvcc":
            return _by_nvcc(definitions, capability)
        case _:
            raise KernregError("no CUDA compiler: pip install nvidia-cuda-nvrtc, or put nvcc on the PATH")


def resources(cubin: bytes) -> dict[str, Resources]:
    """By kernel, from the attributes that the assembler leaves in the ELF file."""
    sections = _sections(cubin)
    names = _symbols(cubin, sections)
    found: dict[tuple[int, str], int] = {}
    for attribute, payload in _attributes(sections[".nv.info"]):
        if attribute in _ATTRIBUTES and len(payload) == 8:
            symbol, value = struct.unpack("<II", payload)
            found[symbol, _ATTRIBUTES[attribute]] = value
    return {
        names[symbol]: Resources(value, found.get((symbol, "stack"), 0))
        for (symbol, what), value in found.items()
        if what == "registers" and names[symbol]
    }


_ATTRIBUTES = {0x2F: "registers", 0x11: "stack"}  # EIATTR_REGCOUNT, EIATTR_FRAME_SIZE


def _attributes(info: bytes) -> Iterator[tuple[int, bytes]]:
    """(attribute, payload): four bytes each, format 4 followed by as many as the last two say."""
    at = 0
    while at + 4 <= len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        length = size if form == 4 else 0
        yield attribute, info[at : at + length]
        at += length


def _sections(elf: bytes) -> dict[str, bytes]:
    offset, size, count, names_at = *struct.unpack_from("<Q", elf, 40), *struct.unpack_from("<HHH", elf, 58)
    heads = [struct.unpack_from("<IIQQQQ", elf, offset + k * size) for k in range(count)]
    names = elf[heads[names_at][4] :]
    return {
        names[head[0] : names.index(b"\0", head[0])].decode(): elf[head[4] : head[4] + head[5]]
        for head in heads
        if head[1] != 8  # no bytes in the file
    }


def _symbols(elf: bytes, sections: dict[str, bytes]) -> list[str]:
    texts, table = sections[".strtab"], sections[".symtab"]
    starts = [struct.unpack_from("<I", table, k)[0] for k in range(0, len(table), 24)]
    return [texts[start : texts.index(b"\0", start)].decode() for start in starts]


@cache
def _nvrtc() -> ctypes.CDLL | None:
    """The library from its wheel, or from a toolkit."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(path) for path in (spec.submodule_search_locations or []) if spec] if spec else []
    toolkit = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    patterns = ("*/lib/libnvrtc.so.1[0-9]", "libnvrtc.so.1[0-9]")
    for folder in (*folders, Path(toolkit) / "lib64"):
        for path in (path for pattern in patterns for path in sorted(folder.glob(pattern))):
            return ctypes.CDLL(str(path))
    return None


def _by_nvrtc(definitions: Sequence[str], capability: int) -> bytes:
    library = _nvrtc()
    assert library is not None
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    given = [o.encode() for o in (*options(definitions), f"--gpu-architecture=sm_{capability}")]
    library.nvrtcCreateProgram(ctypes.byref(program), source().encode(), b"stencil.cu", 0, None, None)
    try:
        failed = library.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
        if failed:
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            library.nvrtcGetProgramLog(program, log)
            raise KernregError(log.value.decode())
        library.nvrtcGetCUBINSize(program, ctypes.byref(size))
        cubin = ctypes.create_string_buffer(size.value)
        library.nvrtcGetCUBIN(program, cubin)
        return cubin.raw
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _by_nvcc(definitions: Sequence[str], capability: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stencil.cubin"
        flags = ["-cubin", f"-arch=sm_{capability}", *options(definitions)]
        command = ["nvcc", *flags, str(FOLDER / "stencil.cu"), "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise KernregError(done.stderr)
        return path.read_bytes()
