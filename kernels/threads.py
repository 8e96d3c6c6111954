"""Worker threads for compiled loops that release the GIL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

CHUNKS = 8  # tasks a thread: small enough to even out, large enough to cost nothing


def count() -> int:
    """The number of worker threads: $KERNREG_THREADS, or the cores that this process may use."""
    asked = os.environ.get("KERNREG_THREADS", "")
    return max(int(asked), 1) if asked.isdigit() else len(os.sched_getaffinity(0))


def in_parallel(
    loop: Callable[..., None], n: int, arguments: tuple[Any, ...], step: int | None = None
) -> None:
    """Run loop(first, last, *arguments) over 0 … n − 1 in ranges, on all threads.

    The ranges write to disjoint places, so the result does not depend on their order. The threads do not keep a process
    alive that is told to end.
    """
    threads = count()
    if threads == 1 or n <= 1:
        loop(0, n, *arguments)
        return
    step = step or -(-n // (threads * CHUNKS))
    starts = iter(range(0, n, step))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for first in starts:  # one step of a range's iterator cannot be interrupted by another thread
                loop(first, min(first + step, n), *arguments)
        except BaseException as error:
            failures.append(error)

    crew = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    if failures:
        raise failures[0]


def one_blas_thread() -> AbstractContextManager[object]:
    """Within it a BLAS call stays on the thread that makes it."""
    return _libraries().limit(limits=1, user_api="blas")  # type: ignore[no-any-return]


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all loaded libraries: once
