"""Conjugate gradients on a cluster of local processes beside one process that streams the same store.

    python benchmarks/distributed_cg.py            about 3 minutes → benchmarks/results/distributed_cg.{json,md}
    python benchmarks/distributed_cg.py --quick    a smoke run; prints only

The matrix is exp(−|x − z|) of normal rows, float32, in a Gram store; 10 targets, ridge 0.1, rtol 1e-8, no
preconditioner, so that all iterations are products. Nothing is timed before the products agree with float64 BLAS on the
whole matrix and the solutions with LAPACK's. Contestants take turns; every process multiplies on one thread (with two workers on
two cores), and the single process keeps all tiles in memory, so that no disk is in the comparison. Bytes are counted and must
be those of the formula. At last a worker is killed in the middle: the solution must have the same bits as without.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster
from measuring.machine import cores, facts
from measuring.rates import ratio, summary
from scipy.linalg import cho_factor, cho_solve

from kernreg.architecture import Architecture
from kernreg.cg import ConjugateGradients
from kernreg.cholesky import EPS
from kernreg.distributed import Distributed, Traffic
from kernreg.kernels.threads import one_blas_thread
from kernreg.operators import Operator, Stored
from kernreg.solve import solve
from kernreg.store import GramStore

RESULTS = Path(__file__).parent / "results"
OUTPUTS, COLUMNS, RIDGE, RTOL = 10, 11, 0.1, 1e-8


@dataclass(frozen=True)
class Size:
    """Of the matrix and its tiles; products and solves that are timed in a turn."""

    n: int
    tile: int
    products: int
    repeats: int


FULL, QUICK = Size(6000, 500, 10, 3), Size(600, 100, 3, 1)


def problem(size: Size, folder: Path) -> GramStore:
    """A complete store."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size.n, 6))
    y = np.eye(OUTPUTS)[rng.integers(0, OUTPUTS, size.n)] - 1 / OUTPUTS
    squares = np.square(x).sum(axis=1)
    store = GramStore.create(
        folder / "laplace.gram",
        architecture=Architecture.fcn(depth=1),
        kernels=("ntk",),
        dtype="float32",
        backend="reference",
        tile=size.tile,
        x_train=x,
        y_train=y,
        x_test=x[:0],
        y_test=y[:0],
    )
    with store:
        for part, tile in store.missing():
            distances = (
                squares[tile.rows, None] + squares[tile.columns] - 2 * x[tile.rows] @ x[tile.columns].T
            )
            if tile.diagonal:
                distances = np.minimum(distances, distances.T)
                np.fill_diagonal(distances, 0)
            store.write(part, tile, {"ntk": np.exp(-np.sqrt(np.maximum(distances, 0))).astype(np.float32)})
    return store


def verify(name: str, K: Operator, dense: np.ndarray, B: np.ndarray, truth: np.ndarray) -> int:
    """Iterations of a solve; products and solution must be right."""
    V = np.random.default_rng(1).standard_normal((K.n, COLUMNS))
    error = float(np.abs(K @ V - dense @ V).max() / np.abs(dense @ np.abs(V)).max())
    if not error <= 10 * K.n * EPS:
        raise SystemExit(f"{name}: the product is off by {error:.1e}: red, nothing is timed")
    solution = run(K, B)
    off = float(np.linalg.norm((dense + RIDGE * np.eye(K.n)) @ (solution.value - truth)) / np.linalg.norm(B))
    if not off <= 2 * RTOL:
        raise SystemExit(f"{name}: the solution is off by {off:.1e}: red, nothing is timed")
    return int(solution.stats.iterations.max())


def run(K: Operator, B: np.ndarray, **given: Any) -> Any:
    return solve(K, B, ConjugateGradients(rtol=RTOL, rank=0), RIDGE, **given).require()


def clocked(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(size: Size, folder: Path) -> dict[str, Any]:
    store = problem(size, folder)
    dense, B = store.train("ntk"), store.y_train
    truth = cho_solve(cho_factor(dense + RIDGE * np.eye(size.n)), B)
    V = np.random.default_rng(2).standard_normal((size.n, COLUMNS))
    counts = sorted({1, 2, cores()})
    clusters = {
        count: LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            local_directory=str(folder / f"dask{count}"),
        )
        for count in counts
    }
    clients = {count: Client(cluster, direct_to_workers=True) for count, cluster in clusters.items()}
    operators: dict[str, Any] = {"one process": Stored(store)}
    for count in counts:
        for exchange in ("client", "workers")[: 1 if count == 1 else 2]:
            name = f"{count} worker{'s' if count > 1 else ''}, vectors by way of the {exchange}"
            operators[name] = Distributed(clients[count], store, exchange=exchange)
    rows: dict[str, dict[str, Any]] = {}
    with one_blas_thread():
        for name, K in operators.items():
            rows[name] = {"contestant": name, "n": size.n, "iterations": verify(name, K, dense, B, truth)}
        seconds: dict[str, dict[str, list[float]]] = {
            name: {"product": [], "solve": []} for name in operators
        }
        for _ in range(size.repeats):
            for name, K in operators.items():
                of = seconds[name]
                of["product"] += [clocked(lambda K=K: K @ V) for _ in range(size.products)]
                of["solve"].append(clocked(lambda K=K: run(K, B)))
        for name, K in operators.items():
            rows[name] |= {what: summary(values) for what, values in seconds[name].items()}
            rows[name]["speed_of_one_process"] = ratio(
                seconds["one process"]["product"], seconds[name]["product"]
            )
            if isinstance(K, Distributed):
                rows[name] |= counted(K, V)
        lost = killed(clients[counts[-1]], store, B) if counts[-1] > 1 else {}
    for K in operators.values():
        if isinstance(K, Distributed):
            K.close()
    for count in counts:
        clients[count].close()
        clusters[count].close()
    return {"rows": list(rows.values()), "lost": lost, "tile": size.tile}


def counted(K: Distributed, V: np.ndarray) -> dict[str, Any]:
    """Bytes of a product, which must be those of the formula."""
    K.traffic = Traffic()
    _ = K @ V
    found = (K.traffic.sent, K.traffic.received, K.traffic.between)
    if found != K.bytes_per_product(V.shape[1]):
        raise SystemExit(f"{found} bytes a product, by the formula {K.bytes_per_product(V.shape[1])}: red")
    names = ("bytes_sent", "bytes_received", "bytes_between")
    return dict(zip(names, found, strict=True)) | {"times_the_vectors": found[0] / V.nbytes}


def killed(client: Client, store: GramStore, B: np.ndarray) -> dict[str, Any]:
    """A solve without a loss, and one in whose fifth iteration a worker is killed with −9."""
    with Distributed(client, store) as K:
        whole, victim = run(K, B), list(K.crew.members.values())[-1]

        def meter(done: int, total: int, residual: float) -> None:
            if done == 5:
                os.kill(victim.about["pid"], signal.SIGKILL)

        survived = run(K, B, progress=meter)
        if K.crew.lost != [victim.address] or not np.array_equal(survived.value, whole.value):
            raise SystemExit("the solution after a loss is another one: red")
    return {"seconds_whole": whole.stats.seconds, "seconds_with_a_loss": survived.stats.seconds}


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']} before; {machine['date'][:10]}, "
        f"commit {machine['commit']}. float32 tiles of {result['tile']} rows, {COLUMNS} columns a product, {OUTPUTS} targets; "
        "one thread a process. ×: how many times faster than one process.",
        "",
        "| | n | product, ms | 20–80 % | × | solve, s | iterations | sent, MB a product | received | between workers "
        "| sent ÷ vectors |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        t, on_wire = row["product"], "bytes_sent" in row
        cells = (
            row["contestant"],
            str(row["n"]),
            f"{1e3 * t['median']:.3g}",
            f"{1e3 * t['q20']:.3g}–{1e3 * t['q80']:.3g}",
            f"{row['speed_of_one_process']['median']:.2f}",
            f"{row['solve']['median']:.3g}",
            str(row["iterations"]),
            f"{row['bytes_sent'] / 1e6:.3g}" if on_wire else "–",
            f"{row['bytes_received'] / 1e6:.3g}" if on_wire else "–",
            f"{row['bytes_between'] / 1e6:.3g}" if on_wire else "–",
            f"{row['times_the_vectors']:.2f}" if on_wire else "–",
        )
        lines.append("| " + " | ".join(cells) + " |")
    if lost := result["lost"]:
        lines += [
            "",
            f"A worker killed in the fifth iteration: {lost['seconds_with_a_loss']:.2f} s instead of "
            f"{lost['seconds_whole']:.2f} s, the same solution to the bit.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small matrix, once; prints only")
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    out = options.out or (None if options.quick else RESULTS)
    result: dict[str, Any] = {"machine": facts()}
    with tempfile.TemporaryDirectory() as folder:
        result |= measure(QUICK if options.quick else FULL, Path(folder))
    print(markdown(result))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "distributed_cg.json").write_text(json.dumps(result, indent=1) + "\n")
        (out / "distributed_cg.md").write_text(markdown(result))
        print(f"wrote {out / 'distributed_cg.json'}", file=sys.stderr)


if __name__ == "__main__":
    main()
