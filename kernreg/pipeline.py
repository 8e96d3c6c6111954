"""A pipeline: some threads compute tiles while others commit them, and only so many tiles are alive at once.

    tiles → lanes (compute) → writers (commit) → the caller (progress)

The caller's thread only watches, so that a signal reaches it at any moment. Which thread computes a tile, and in what
order tiles end, has no influence on their numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from queue import SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Block = TypeVar("Block")
Lane: TypeAlias = Callable[[], AbstractContextManager[object]]


class Pipeline(Generic[Item, Block]):
    """Compute a block for every item, and commit it.

    Args:
        compute: item → block, in the thread of a lane.
        commit: takes an item and its block, in the thread of a writer.
        lanes: one thread each, which enters it first: a device and a stream of its own, or nothing.
        writers: threads that commit.
        stopping: asked before an item is begun; once it says True no further one is.
    """

    def __init__(
        self,
        compute: Callable[[Item], Block],
        commit: Callable[[Item, Block], object],
        lanes: Sequence[Lane],
        writers: int,
        stopping: Callable[[], bool],
    ) -> None:
        self._compute, self._commit, self._stopping = compute, commit, stopping
        self._lanes, self._writers = tuple(lanes), writers
        # One place for every item that is being computed, waits, or is being committed.
        self._places = threading.Semaphore(len(self._lanes) + writers)
        self._turn = threading.Lock()
        self._items: Iterator[Item] = iter(())
        self._computed: SimpleQueue[tuple[Item, Block] | None] = SimpleQueue()
        self._events: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._halted = self._abandoned = False

    def run(self, items: Iterable[Item], done: Callable[[Item], object]) -> None:
        """Begin the items in their order; `done` is called in this thread after each commit.

        Raises:
            BaseException: the first one of any lane or writer, once all that was begun is computed and committed. One
                that `done` or a signal raises in this thread waits for commits that have begun, and for nothing else.
        """
        self._items = iter(items)
        work = [threading.Thread(target=self._work, args=(lane,), daemon=True) for lane in self._lanes]
        write = [threading.Thread(target=self._write, daemon=True) for _ in range(self._writers)]
        try:
            for thread in (*write, *work):
                thread.start()
            self._watch(done)
        except BaseException:
            self._abandoned = True
            self._halt()
            self._dismiss_writers()
            raise
        finally:
            for thread in write:
                if thread.ident is not None:
                    thread.join()

    def _watch(self, done: Callable[[Item], object]) -> None:
        working, writing, failure = len(self._lanes), self._writers, None
        while working or writing:
            event, value = self._events.get()
            if event == "committed":
                done(value)
            elif event == "failed":
                failure = failure or value
            elif event == "lane ends":
                working -= 1
                if not working:
                    self._dismiss_writers()
            else:
                writing -= 1
        if failure is not None:
            raise failure

    def _work(self, lane: Lane) -> None:
        try:
            with lane():
                while claimed := self._claim():
                    self._computed.put((claimed[0], self._compute(claimed[0])))
        except BaseException as error:
            self._fail(error)
        self._events.put(("lane ends", None))

    def _claim(self) -> list[Item]:
        """The next item, once there is a place for it; empty if none is left or it is time to stop."""
        self._places.acquire()
        with self._turn:
            claimed = [] if self._halted or self._stopping() else list(islice(self._items, 1))
        if not claimed:
            self._places.release()
        return claimed

    def _write(self) -> None:
        while self._write_one():
            self._places.release()
        self._events.put(("writer ends", None))

    def _write_one(self) -> bool:
        """In a function of its own, so that no name keeps a block alive while the next one is waited for."""
        work = self._computed.get()
        if work is None:
            return False
        if not self._abandoned:
            try:
                self._commit(*work)
                self._events.put(("committed", work[0]))
            except BaseException as error:
                self._fail(error)
        return True

    def _fail(self, error: BaseException) -> None:
        self._halt()
        self._events.put(("failed", error))

    def _halt(self) -> None:
        self._halted = True
        self._places.release(len(self._lanes))

    def _dismiss_writers(self) -> None:
        for _ in range(self._writers):
            self._computed.put(None)
