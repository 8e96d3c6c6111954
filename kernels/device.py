"""The door to CuPy: arrays on one NVIDIA GPU, and launches of the kernels in cuda/.

Importing this module imports no GPU library; `Cuda()` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from kernreg.errors import KernregError

FOLDER = Path(__file__).parent / "cuda"
STATIC_SHARED = 48 << 10  # of a block without asking
OPTIONS = ("--std=c++17", "--fmad=false")  # mad() alone fuses: cuda/real.cuh


@cache
def source() -> str:
    """stencil.cu, with its name and line numbers for the compiler's messages."""
    return f'#line 1 "{FOLDER / "stencil.cu"}"\n' + (FOLDER / "stencil.cu").read_text(encoding="utf-8")


@cache
def digest() -> str:
    """Of all sources: caches of compiled code look at the text that is compiled, not at what it includes."""
    texts = (path.read_bytes() for path in sorted(FOLDER.glob("*.cu*")))
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:12]


def options(definitions: Sequence[str]) -> tuple[str, ...]:
    """Of NVRTC and nvcc alike."""
    macros = (f"-D{macro}" for macro in (*definitions, f"KR_SOURCE=0x{digest()}"))
    return (*OPTIONS, f"-I{FOLDER}", *macros)


class Cuda:
    """The current GPU.

    Arrays are CuPy's; launches and copies go to the current stream.

    Raises:
        KernregError: CuPy is not installed, or finds no GPU.
    """

    def __init__(self) -> None:
        self.cupy: Any = _cupy()
        self._functions: dict[tuple[int, tuple[str, ...], str], Any] = {}

    def put(self, host: Any, dtype: Any = None) -> Any:
        """A host array (or a device array, which is not copied) on the device, C order."""
        return self.cupy.ascontiguousarray(self.cupy.asarray(host, dtype=dtype))

    def get(self, array: Any) -> Any:
        """A device array as a NumPy array, when it is done: in page-locked memory, which a pool gives out again, so that
        the copy is fast and runs beside the arithmetic of other streams."""
        host = import_module("cupyx").empty_pinned(array.shape, array.dtype)
        array.get(out=host)
        return host

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of anything.

        Raises:
            KernregError: the GPU's memory does not suffice.
        """
        try:
            return self.cupy.empty(shape, dtype)
        except self.cupy.cuda.memory.OutOfMemoryError as error:
            raise KernregError(f"the GPU's memory does not suffice: {error}; use smaller tiles") from None

    def launch(
        self,
        definitions: tuple[str, ...],
        name: str,
        grid: tuple[int, int],
        threads: int,
        shared_bytes: int,
        arguments: Sequence[Any],
    ) -> None:
        """Run one kernel of stencil.cu; arguments are arrays, NumPy scalars of the parameter's type, or None for a null."""
        function = self._function(definitions, name, shared_bytes)
        null = self.cupy.uint64(0)
        function(
            grid, (threads,), tuple(null if a is None else a for a in arguments), shared_mem=shared_bytes
        )

    def _function(self, definitions: tuple[str, ...], name: str, shared_bytes: int) -> Any:
        key = (self.cupy.cuda.Device().id, definitions, name)
        if key not in self._functions:
            module = self.cupy.RawModule(code=source(), options=options(definitions), backend="nvrtc")
            function = module.get_function(name)
            if shared_bytes > STATIC_SHARED:
                function.max_dynamic_shared_size_bytes = shared_bytes
            self._functions[key] = function
        return self._functions[key]


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise KernregError(f"backend cuda needs CuPy ({error}): pip install 'kernreg[cuda]'") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise KernregError(f"backend cuda finds no NVIDIA GPU ({error}): use --backend cpu") from None
    if count == 0:
        raise KernregError("backend cuda finds no NVIDIA GPU: use --backend cpu")
    return cupy
