"""K(train, train) spread over the workers of a Dask cluster: an operator whose tiles stay in their memory.

Sums are added in an order that the partition alone decides (`kernreg.partition`): a product has the same bits whoever computes
which part of it, by either way of the vectors, and also after a worker is lost and others have read its tiles again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from kernreg.actors import Lost, Member
from kernreg.cg import ConjugateGradients
from kernreg.cholesky import Matrix
from kernreg.computedtiles import ComputedTiles
from kernreg.crew import Crew
from kernreg.errors import KernregError
from kernreg.exchange import Exchange, pays
from kernreg.holding import Source, StoredTiles, add_parts, crossings
from kernreg.iterations import Report
from kernreg.operators import Rows, Symmetric
from kernreg.partition import CUTS, Partition, places
from kernreg.plan import show_bytes
from kernreg.progress import Progress
from kernreg.ridge import RidgeMode
from kernreg.solution import Solution
from kernreg.solve import from_fewer, solve, tile_budget
from kernreg.store import GramStore
from kernreg.tiles import Tile, TileGrid

if TYPE_CHECKING:
    from distributed import Client

EXCHANGES = ("client", "workers", "auto")


@dataclass
class Traffic:
    """Bytes of numbers; Dask's own headers are not counted.

    Attributes:
        sent, received: by the client, of all operations.
        between: workers, of products.
        products: so far.
    """

    sent: int = 0
    received: int = 0
    between: int = 0
    products: int = 0


class Distributed(Symmetric):
    """A Gram whose tiles the workers of a cluster hold. Usable in a `with` statement, which lets go of them.

    Attributes:
        n, store: rows, and the store they are of, or None.
        partition: which tiles are multiplied together, and in what order the sums are added.
        crew: who holds what, and who was lost.
        exchange: the way of the vectors: "client" sends each worker what it needs and adds what comes back; with
            "workers" each vector leaves the client once, and the workers pull what they need from each other.
        traffic: what was sent and received so far.
    """

    def __init__(
        self,
        client: Client,
        gram: GramStore | ComputedTiles,
        kernel: str | None = None,
        n: int | None = None,
        *,
        shares: int | None = None,
        cuts: int = CUTS,
        exchange: str = "auto",
        device: str = "auto",
        progress: bool | Progress = False,
        note: Callable[[str], object] = lambda text: None,
    ) -> None:
        """The first n rows (default: all) of one kernel (default: the NTK if it is there), read or computed by the workers.

        Args:
            client: of a `distributed` cluster whose workers see the store under the same path. Vectors go to the workers
                directly if they can be reached from here, else through the scheduler.
            gram: a store with the tiles of the first n rows; or what the workers compute by themselves, all of it.
            shares: of the partition; default: as many as there are workers. The same number gives the same bits with any
                number of workers.
            cuts: parts of a share; more if a worker has more threads and `shares` is not given.
            exchange: "client", "workers" or "auto", see `kernreg.exchange.pays`.
            device: "cpu", "cuda" or "auto": the GPU of a worker that has one.
            progress: True for a bar of the bytes read, or a function of (done, all).
            note: is told in a line when a worker is lost.

        Raises:
            KernregError: no such kernel, n out of range, a tile that is missing or damaged, workers that do not see the store
                or have no room for its tiles, no worker.
        """
        if exchange not in EXCHANGES:
            raise KernregError(f"exchange is {', '.join(EXCHANGES)}, not {exchange!r}")
        self.store, source, tiles = _source(gram, kernel, n)

        def partition(workers: int, threads: int) -> Partition:
            if shares is None:
                return Partition.of(tiles, source.n, workers, max(cuts, threads))
            return Partition.of(tiles, source.n, shares, cuts)

        self.crew = Crew(client, source, partition, device, progress, note)
        self.partition, self.traffic = self.crew.partition, Traffic()
        self.exchange = exchange
        if exchange == "auto":
            touched = [self.partition.rows([m.parts], source.n) for m in self.crew.members.values()]
            self.exchange = "workers" if pays(touched, source.n) else "client"
        self._lead(source.n)

    def _lead(self, m: int) -> None:
        self.n = m
        self._shares = self.partition.shares(m)
        self._share_of = {part: share for share in self._shares for part in share}
        self._parts = sorted(self._share_of)
        self._spans: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        self._diagonal: Matrix | None = None
        self._plan: tuple[int, Exchange] | None = None

    def matmul(self, V: Matrix) -> Matrix:
        V = np.ascontiguousarray(self._fitting(V), dtype=np.float64)
        product = self._by_workers(V) if self.exchange == "workers" else self._by_client(V)
        self.traffic.products += 1
        return product

    def diagonal(self) -> Matrix:
        if self._diagonal is None:
            values = np.empty(self.n)
            for parts, answer in self.crew.collect(
                self._parts, lambda member, parts: ("diagonal", parts, self.n)
            ):
                for part, numbers in zip(parts, answer, strict=True):
                    self.traffic.received += numbers.nbytes
                    on = (tile for tile in self.partition.parts[part] if tile.diagonal)
                    ranges = [(t.row_start, min(t.row_stop, self.n)) for t in on if t.row_start < self.n]
                    for (start, stop), at in zip(ranges, places(ranges).values(), strict=True):
                        values[start:stop] = numbers[at]
            self._diagonal = values
        return self._diagonal.copy()

    def columns(self, rows: Rows) -> Matrix:
        rows = np.asarray(rows, dtype=np.int64)
        out = np.empty((self.n, len(rows)))
        for parts, answer in self.crew.collect(
            self._parts, lambda member, parts: ("columns", parts, self.n, rows)
        ):
            for part, blocks in zip(parts, answer, strict=True):
                found = crossings(self.partition.parts[part], self.n, rows)
                for (_, index, place), block in zip(found, blocks, strict=True):
                    self.traffic.received += block.nbytes
                    out[place] = block if len(index) == 2 else block.T
        return out

    def leading(self, m: int) -> Distributed:
        """The operator of the first m rows, on the same workers and tiles."""
        self._require_leading(m)
        smaller = object.__new__(type(self))
        smaller.crew, smaller.partition, smaller.traffic = self.crew, self.partition, self.traffic
        smaller.store, smaller.exchange = self.store, self.exchange
        smaller._lead(m)
        return smaller

    def bytes_per_product(self, c: int) -> tuple[int, int, int]:
        """(sent, received, between workers) of a product with c columns, by the parts that each worker holds now."""
        if self.exchange == "workers":
            return 8 * c * self.n, 8 * c * self.n, 8 * c * self._exchange().rows_between
        sent = received = 0
        for member in self.crew.members.values():
            parts = [part for part in self._parts if part in member.parts]
            sent += self.partition.rows([parts], self.n)
            received += self.partition.rows(self._groups(parts), self.n)
        return 8 * c * sent, 8 * c * received, 0

    def about(self) -> str:
        """Who holds how much, in one line."""
        members = self.crew.members.values()
        devices = sorted({member.about["device"] for member in members})
        of = " and ".join(f"{sum(m.about['device'] == name for m in members)} on {name}" for name in devices)
        held, most = sum(m.bytes_held for m in members), max(m.bytes_held for m in members)
        what = (
            f"hold {show_bytes(held)} of tiles, {show_bytes(most)} at most" if held else "compute tiles anew"
        )
        return f"{len(members)} worker{'s' if len(members) > 1 else ''} ({of}) {what}"

    def close(self) -> None:
        """Let the workers forget the tiles."""
        self.crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _by_client(self, V: Matrix) -> Matrix:
        sums: dict[tuple[int, ...], Matrix] = {}

        def ask(member: Member, parts: list[int]) -> tuple[Any, ...]:
            rows = np.concatenate([V[a:b] for a, b in self._touched(tuple(parts))])
            self.traffic.sent += rows.nbytes
            return "multiply", rows, self.n, self._groups(parts)

        for parts, answer in self.crew.collect(self._parts, ask):
            self.traffic.received += sum(block.nbytes for block in answer)
            sums |= zip(self._groups(parts), answer, strict=True)
        out = np.zeros_like(V)
        for share in self._shares:
            touched = self._touched(share)
            if share in sums:
                total = sums[share]
            else:
                total = np.zeros((sum(b - a for a, b in touched), V.shape[1]))
                add_parts(total, places(touched), [(self._touched((part,)), sums[part,]) for part in share])
            add_parts(out, {a: slice(a, b) for a, b in touched}, [(touched, total)])
        return out

    def _by_workers(self, V: Matrix) -> Matrix:
        while True:
            self.crew.settle()
            try:
                product, between = self._exchange().multiply(self.crew, V)
            except Lost:
                continue
            self.traffic.sent += V.nbytes
            self.traffic.received += V.nbytes
            self.traffic.between += between
            return product

    def _exchange(self) -> Exchange:
        if self._plan is None or self._plan[0] != self.crew.generation:
            plan = Exchange.of(self.crew, self.n, self._groups)
            plan.meet(self.crew)
            self._plan = (self.crew.generation, plan)
        return self._plan[1]

    def _groups(self, parts: list[int]) -> list[tuple[int, ...]]:
        """Parts of one worker: whole shares, which it adds up itself, and single parts of others."""
        held = set(parts)
        return sorted(
            {self._share_of[part] if held.issuperset(self._share_of[part]) else (part,) for part in parts}
        )

    def _touched(self, parts: tuple[int, ...]) -> list[tuple[int, int]]:
        if parts not in self._spans:
            self._spans[parts] = self.partition.spans(parts, self.n)
        return self._spans[parts]


def _source(
    gram: GramStore | ComputedTiles, kernel: str | None, n: int | None
) -> tuple[GramStore | None, Source, list[Tile]]:
    if not isinstance(gram, GramStore):
        if kernel is not None or n is not None:
            raise KernregError(
                "computed tiles are of one kernel and of all rows: choose there, or take leading(n)"
            )
        return None, gram, list(TileGrid.triangle(gram.n, gram.tile))
    kernel = kernel or ("ntk" if "ntk" in gram.kernels else gram.kernels[0])
    tiles = gram.tiles("train", kernel, n)
    return gram, StoredTiles.of(gram, kernel, gram.n if n is None else n), tiles


def solve_on(
    client: Client,
    store: GramStore,
    kernel: str | None = None,
    n: int | None = None,
    ridge: float = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    *,
    memory: int | str | None = None,
    iteration: ConjugateGradients | None = None,
    start: npt.NDArray[Any] | None = None,
    probes: int = 0,
    progress: bool | Report = False,
    note: Callable[[str], object] = lambda text: None,
    **given: Any,
) -> Solution:
    """The coefficients of the first n training rows of a store by conjugate gradients on a cluster.

    Args:
        client, store, kernel, n: as in `Distributed`, whose `shares`, `cuts`, `exchange` and `device` may be given, too.
        ridge, ridge_mode, iteration, start, probes: as in `kernreg.solve.solve_store`.
        memory: most bytes that this process, which keeps the vectors and the preconditioner, may use, or "4GiB"; None: three
            quarters of this machine.
        progress: True for a bar, of the bytes read and then of the iterations; or a meter of the iterations.
        note: is told, a line each, who holds what, and of losses.

    A worker that is lost costs the product it was at. A checkpoint of `iteration` serves a solve on one machine as well.

    Raises:
        KernregError: as `Distributed` and `kernreg.solve.solve`; too little memory, by amount.
    """
    cg, n = iteration or ConjugateGradients(), store.n if n is None else n
    tile_budget(n, max(store.y_train.shape[1], probes), cg, memory, 0)
    whole = None if start is None else from_fewer(start, n)
    with Distributed(client, store, kernel, n, progress=progress is True, note=note, **given) as K:
        note(K.about())
        solution = solve(
            K, store.y_train[:n], cg, ridge, ridge_mode, start=whole, probes=probes, progress=progress
        )
        return replace(solution, stats=replace(solution.stats, why=f"cg: {K.about()}"))
