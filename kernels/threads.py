"""Worker threads for compiled loops that release the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

CHUNKS = 8  # tasks a thread: small enough to even out, large enough to cost nothing


def count() -> int:
    """The number of worker threads: $KERNREG_THREADS, or the cores that this process may use."""
    asked = os.environ.get("KERNREG_THREADS", "")
    return max(int(asked), 1) if asked.isdigit() else len(os.sched_getaffinity(0))


def in_parallel(loop: Callable[..., None], n: int, arguments: tuple[Any, ...]) -> None:
    """Run loop(first, last, *arguments) over 0 … n − 1 in ranges, on all threads.

    The ranges write to disjoint places, so the result does not depend on their order.
    """
    threads = count()
    if threads == 1 or n <= 1:
        loop(0, n, *arguments)
        return
    step = -(-n // (threads * CHUNKS))
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(loop, i, min(i + step, n), *arguments) for i in range(0, n, step)]:
            done.result()


def one_blas_thread() -> AbstractContextManager[object]:
    """Within it a BLAS call stays on the thread that makes it."""
    return _libraries().limit(limits=1, user_api="blas")  # type: ignore[no-any-return]


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all loaded libraries: once
