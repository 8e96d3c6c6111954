"""Actors of Dask, one on each worker of a cluster: started, called, and given up when the scheduler has dropped their worker.

An actor is called directly, without a task of the scheduler. Whether a worker is lost is for the scheduler to say: it drops one
whose connection ends at once, and one that is silent after its `worker-ttl`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernreg.errors import KernregError
from kernreg.peer import RoundLost

if TYPE_CHECKING:
    from distributed import Client

POLL_SECONDS = 1.0  # between two questions whether a worker that has not answered is still there
GRACE_SECONDS = 5.0  # in which the scheduler notices that a worker whose connection failed is gone
PATIENCE_SECONDS = 60.0  # for a worker, where there is none
REACH_SECONDS = 3.0  # to connect to a worker; clients behind a firewall wait so long once

_numbers = itertools.count()


class Lost(Exception):
    """A worker that the scheduler has dropped, by address."""


@dataclass(eq=False)
class Member:
    """A worker with its actor.

    Attributes:
        address: of the worker.
        future, actor: Dask's.
        about: what `kernreg.holding.Holder.about` says.
        parts: that it holds, to their bytes.
    """

    address: str
    future: Any
    actor: Any
    about: dict[str, Any] = field(default_factory=dict)
    parts: dict[int, int] = field(default_factory=dict)

    @property
    def bytes_held(self) -> int:
        return sum(self.parts.values())


class Actors:
    """Those of one class on the workers of a client's cluster."""

    def __init__(self, client: Client) -> None:
        """None yet. Raises KernregError where there is no worker."""
        self._client = client
        if not client.direct_to_workers and all(map(_reachable, self.resources())):
            client.direct_to_workers = (
                True  # else whatever is sent passes through the scheduler, twice on the wire
            )

    def start(
        self, kind: type, arguments: Callable[[int, int | None], tuple[Any, ...]], known: set[str]
    ) -> list[Member]:
        """An actor on every worker whose address is not known.

        Args:
            kind: its class, which has a method `about`.
            arguments: of it, for the threads of a worker and its memory limit in bytes or None.

        Raises:
            KernregError: in the words of a worker where it cannot be started; no worker is left.
        """
        resources = self.resources()
        coming = {}
        for address in sorted(resources.keys() - known):
            given = arguments(*resources[address])
            key = f"kernreg-{kind.__name__.lower()}-{next(_numbers)}-{time.time_ns()}"
            coming[address] = self._client.submit(kind, *given, key=key, workers=[address], actor=True)
        started: list[Member] = []
        try:
            for address, future in coming.items():
                with contextlib.suppress(Lost), self._client.as_current():  # an actor looks for its client
                    member = Member(address, future, self._answer(future, {address: future}))
                    member.about = self._answer(self.call(member, "about"), {address: future})
                    started.append(member)
        except BaseException:
            started.clear()
            raise
        finally:
            kept = {member.address for member in started}
            self.dismiss([future for address, future in coming.items() if address not in kept])
        return started

    def dismiss(self, futures: list[Any]) -> None:
        """End actors, even if some object here or on another worker still refers to them."""
        if futures:
            with contextlib.suppress(Exception):  # a scheduler that is gone has ended them
                self._client.cancel(futures, force=True)

    def call(self, member: Member, method: str, *arguments: Any) -> Any:
        """Begin a call; `answer` takes what this returns."""
        try:
            return getattr(member.actor, method)(*arguments)
        except (OSError, ValueError, RuntimeError) as error:  # Dask knows already that the worker is gone
            return error

    def answer(self, member: Member, call: Any, beside: Sequence[Member] = ()) -> Any:
        """What a call returned.

        Args:
            beside: others without whom the worker may wait for ever.

        Raises:
            Lost: one of them is.
            KernregError: in the worker's own words. RoundLost: as `kernreg.peer.Peer`.
        """
        return self._answer(call, {m.address: m.future for m in (member, *beside)})

    def resources(self) -> dict[str, tuple[int, int | None]]:
        """Threads of every worker, and its memory limit, once there is one. Raises KernregError if none comes."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not (self.alive() and (found := dict(self._client.run(_resources, on_error="ignore")))):
            if time.monotonic() > until:
                raise KernregError(
                    f"the cluster at {self._client.scheduler.address} has had no worker for {PATIENCE_SECONDS:.0f} s: "
                    "start some, and run the same command again"
                )
            time.sleep(POLL_SECONDS / 10)
        return found

    def alive(self) -> set[str]:
        """Every worker that the scheduler knows. Raises KernregError if there is no scheduler."""
        try:
            return set(self._client.nthreads())
        except Exception as error:  # it says so in many ways
            raise KernregError(
                f"the scheduler is gone ({error}): run the same command on another cluster"
            ) from None

    def _answer(self, call: Any, actors: dict[str, Any]) -> Any:
        """What a call of the first of these actors, by address, returned."""
        until = None
        while True:
            try:
                if isinstance(call, Exception):
                    raise call
                return call.result(timeout=POLL_SECONDS)
            except (KernregError, RoundLost):
                raise
            except Exception as error:
                alive = self.alive()
                for address, actor in actors.items():
                    # a worker may have come back under the same address, without the actor
                    if address not in alive or actor.status in ("lost", "cancelled"):
                        raise Lost(address) from None
                if isinstance(error, TimeoutError) and not call.done():
                    continue
                # a connection that failed: the scheduler has to notice, too
                until = until or time.monotonic() + GRACE_SECONDS
                if not isinstance(error, OSError | ValueError | RuntimeError) or time.monotonic() > until:
                    raise KernregError(
                        f"worker {next(iter(actors))}: {type(error).__name__}: {error}"
                    ) from error
                time.sleep(POLL_SECONDS / 10)


def _reachable(address: str) -> bool:
    """Whether this process can connect to a worker at tcp://host:port or the like."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def _resources(dask_worker: Any) -> tuple[int, int | None]:
    """Of this worker: Dask's threads tell how many tasks it may have in hand, $KERNREG_THREADS how many cores it has."""
    asked = os.environ.get("KERNREG_THREADS", "")
    return int(
        asked
    ) if asked.isdigit() else dask_worker.state.nthreads, dask_worker.memory_manager.memory_limit
