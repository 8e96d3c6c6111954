"""CuPy for tests of code that has streams: GPUs whose work is done late, in any order that their events allow.

What is asked of a stream waits in it. Only when the host waits for an event or a stream is work done, and then that of any
stream whose turn it could be, drawn at random: a wait that is missing shows as a wrong number. Memory is counted as CuPy's
pool has it, new memory is NaN; arrays and routines that are used on another GPU than their own, and copies from memory that is
not page-locked, are refused.
"""

from __future__ import annotations

import random
import weakref
from collections import Counter, deque
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import columnmajor
import numpy as np

from kernreg.cublas import Cublas
from kernreg.gputiles import Gpu

# Places of the scalars in a routine's arguments, which the library reads when it is called, not when it runs.
SCALARS = {"gemm": (6, 11), "trsm": (7,), "syrk": (5, 8), "potrf": (), "potrf_bufferSize": ()}


class OutOfMemoryError(Exception):
    pass


class CUDARuntimeError(Exception):
    pass


class Machine:
    """Some GPUs.

    Attributes:
        xp: the namespace, as module `cupy`.
        used, peak: by GPU, bytes of its memory now and at most, those that the pool keeps included.
        copies: by GPU and direction, bytes.
        calls: routines by (GPU, name).
    """

    def __init__(self, gpus: int = 1, memory: int = 1 << 30, seed: int = 0, *, idle: bool = False) -> None:
        """GPUs with so many bytes each; `idle` ones do nothing that is not waited for."""
        self.count, self.memory, self._random = gpus, memory, random.Random(seed)
        self._haste = (0,) if idle else (0, 0, 0, 1, 3)
        self.used, self.peak, self.kept = Counter[int](), Counter[int](), Counter[int]()
        self.copies, self.calls = Counter[tuple[int, str]](), Counter[tuple[int, str]]()
        self.devices, self.streams, self.current = [0], list[Stream](), list[Stream]()
        self.places = list[tuple[int, int, int]]()  # first address, address behind, GPU; -1: page-locked
        self.pinned = 0
        self.xp = self._namespace()

    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(Gpu(self.xp, g, self.routines(g)) for g in range(self.count))

    def routines(self, g: int) -> Cublas:
        libraries = self.libraries()
        return Cublas(self.xp, *libraries, (100 + g, 200 + g), lambda array: int(array.data.ptr))

    def libraries(self) -> tuple[Any, Any]:
        found = []
        for base, of in ((100, columnmajor.blas), (200, columnmajor.solver)):
            letters = {"s": np.float32, "d": np.float64}
            routines = {l + name: self._late(name, f, base, real)
                        for l, real in letters.items() for name, f in of(real).items()}  # fmt: skip
            found.append(SimpleNamespace(**routines))
        return found[0], found[1]

    def _late(self, name: str, routine: Callable[..., Any], base: int, real: Any) -> Callable[..., Any]:
        def call(handle: int, *rest: int) -> Any:
            g = self.devices[-1]
            assert handle == base + g, f"{name} with the handle of another GPU"
            arguments = [columnmajor.HANDLES[base // 200], *rest]
            if name.endswith("bufferSize"):
                return routine(*arguments)
            for argument in rest:
                if argument > 1 << 32:
                    owner = self.owner(argument)
                    assert owner in (None, g), f"{name} on GPU {g} with memory of {owner}"
            held = [np.array(columnmajor.scalar(arguments[at], real), real) for at in SCALARS[name]]
            for at, value in zip(SCALARS[name], held, strict=True):
                arguments[at] = value.ctypes.data
            self.calls[g, name] += 1
            self.stream().ask(lambda: (routine(*arguments), held))
            return None

        return call

    def stream(self) -> Stream:
        """The current one, which this code always names."""
        assert self.current, "work on the null stream"
        assert self.current[-1].device == self.devices[-1]
        return self.current[-1]

    def owner(self, address: int) -> int | None:
        return next((g for first, behind, g in self.places if first <= address < behind), None)

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            ready = [stream for stream in self.streams if stream.ready]
            assert ready, "a deadlock: what is waited for was never asked for"
            self._random.choice(ready).step()

    def perhaps(self) -> None:
        """A GPU may also be fast."""
        for _ in range(self._random.choice(self._haste)):
            ready = [stream for stream in self.streams if stream.ready]
            if ready:
                self._random.choice(ready).step()

    def _empty(self, shape: Any, dtype: Any = float) -> Far:
        hidden, g = np.empty(shape, dtype), self.devices[-1]
        if hidden.dtype.kind == "f":
            hidden[...] = np.nan
        if self.used[g] + hidden.nbytes > self.memory:
            self._release()
        if self.used[g] + hidden.nbytes > self.memory:
            raise OutOfMemoryError(f"out of memory allocating {hidden.nbytes} bytes")
        self.used[g] += hidden.nbytes
        self.peak[g] = max(self.peak[g], self.used[g])
        place = (hidden.ctypes.data, hidden.ctypes.data + hidden.nbytes, g)
        self.places.append(place)
        weakref.finalize(hidden, self._freed, place)
        return Far(self, hidden, g)

    def _freed(self, place: tuple[int, int, int]) -> None:
        self.places.remove(place)
        self.kept[place[2]] += place[1] - place[0]

    def _release(self) -> None:
        g = self.devices[-1]
        self.used[g] -= self.kept.pop(g, 0)

    def _zeros(self, shape: Any, dtype: Any = float) -> Far:
        array = self._empty(shape, dtype)
        array.hidden[...] = 0
        return array

    def _pinned(self, size: int, flags: int) -> np.ndarray:
        assert flags == 1
        memory = np.full(size, 0xFF, np.uint8)  # NaN
        self.pinned += size
        place = (memory.ctypes.data, memory.ctypes.data + size, -1)
        self.places.append(place)

        def freed() -> None:
            self.pinned -= size
            self.places.remove(place)

        weakref.finalize(memory, freed)
        return memory

    def _namespace(self) -> Any:
        machine = self

        class Device:
            def __init__(self, number: int | None = None) -> None:
                self.id = machine.devices[-1] if number is None else number

            @property
            def mem_info(self) -> tuple[int, int]:
                return machine.memory - machine.used[self.id], machine.memory

            def __enter__(self) -> Device:
                machine.devices.append(self.id)
                return self

            def __exit__(self, *error: object) -> None:
                machine.devices.pop()

        xp, cuda = ModuleType("cupy"), ModuleType("cupy.cuda")
        cuda.__dict__.update(
            Device=Device,
            Stream=lambda non_blocking: Stream(machine),
            PinnedMemory=self._pinned,
            PinnedMemoryPointer=lambda memory, offset: memoryview(memory)[offset:],
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=SimpleNamespace(
                hostAllocPortable=1, CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: self.count
            ),
            device=SimpleNamespace(
                get_cublas_handle=lambda: 100 + self.devices[-1],
                get_cusolver_handle=lambda: 200 + self.devices[-1],
            ),
        )
        cuda.__dict__["cublas"], cuda.__dict__["cusolver"] = self.libraries()
        pool = SimpleNamespace(free_bytes=lambda: self.kept[self.devices[-1]], free_all_blocks=self._release)
        xp.__dict__.update(
            cuda=cuda, empty=self._empty, zeros=self._zeros, get_default_memory_pool=lambda: pool
        )
        return xp


class Event:
    done = False

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def synchronize(self) -> None:
        self._machine.until(lambda: self.done)

    def happen(self) -> None:
        self.done = True


class Stream:
    def __init__(self, machine: Machine) -> None:
        self.machine, self.device = machine, machine.devices[-1]
        self.queue: deque[Callable[[], Any] | Event] = deque()
        machine.streams.append(self)

    @property
    def ready(self) -> bool:
        return bool(self.queue) and (not isinstance(self.queue[0], Event) or self.queue[0].done)

    def step(self) -> None:
        work = self.queue.popleft()
        if not isinstance(work, Event):
            work()

    def ask(self, work: Callable[[], Any]) -> None:
        self.queue.append(work)
        self.machine.perhaps()

    def record(self) -> Event:
        assert self.device == self.machine.devices[-1], "an event on the stream of another GPU"
        event = Event(self.machine)
        self.queue.append(event.happen)
        return event

    def wait_event(self, event: Event) -> None:
        self.queue.append(event)

    def synchronize(self) -> None:
        self.machine.until(lambda: not self.queue)

    def __enter__(self) -> Stream:
        assert self.device == self.machine.devices[-1]
        self.machine.current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.machine.current.pop()


class Far:
    """An array of a GPU: it can be cut, reshaped and copied, and nothing else."""

    def __init__(self, machine: Machine, hidden: np.ndarray, device: int) -> None:
        self._machine, self.hidden, self._device = machine, hidden, device
        self.shape, self.strides, self.size = hidden.shape, hidden.strides, hidden.size
        self.dtype, self.itemsize = hidden.dtype, hidden.itemsize

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, int):  # a number comes to the host
            self._machine.stream().synchronize()
            return self.hidden[at]
        return Far(self._machine, self.hidden[at], self._device)

    def reshape(self, *shape: Any) -> Far:
        cut = self.hidden.reshape(*shape)
        assert np.shares_memory(cut, self.hidden) or not cut.size
        return Far(self._machine, cut, self._device)

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.hidden.ctypes.data)

    def set(self, values: np.ndarray, stream: Stream) -> None:
        self._check(values, stream, "in")

        def copy() -> None:
            self.hidden[...] = values

        stream.ask(copy)

    def get(self, stream: Stream, *, out: np.ndarray, blocking: bool) -> None:
        assert not blocking
        self._check(out, stream, "out")

        def copy() -> None:
            out[...] = self.hidden

        stream.ask(copy)

    def _check(self, host: np.ndarray, stream: Stream, way: str) -> None:
        machine = self._machine
        assert machine.devices[-1] == self._device == stream.device, "a copy on another GPU"
        assert (host.shape, host.dtype) == (self.shape, self.dtype)
        assert host.flags.c_contiguous
        assert self.hidden.flags.c_contiguous
        assert machine.owner(host.ctypes.data) == -1, "a copy of memory that is not page-locked"
        machine.copies[self._device, way] += host.nbytes
