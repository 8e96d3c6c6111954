"""Conjugate gradients with and without preconditioner, beside those of SciPy, lineax and GPyTorch on the same matrices.

    python benchmarks/solve_cg.py            about 3 minutes → benchmarks/results/solve_cg.{json,md}
    python benchmarks/solve_cg.py --quick    a smoke run; prints only

The matrix is the NTK of a fully connected network on digits (n = 1437, ten targets) and on synthetic images (n = 4000),
ridge relative to the mean diagonal, rtol 1e-8. Nothing is timed before its residual is checked in float64 and its
solution against LAPACK's. Contestants take turns in one process; seconds are medians, ratios medians of the turns'
ratios. Memory is the peak of the arrays allocated during a solve, beside the matrix itself.

SciPy's cg takes one right-hand side, so that ten columns are ten runs; its iterations are the largest of them. It gets the
dense float64 matrix, as ours does. lineax, and GPyTorch at the best of a few ranks of its pivoted Cholesky preconditioner, run in
environments of their own (peers/setup.py); one that is not installed is left out, and the result says so. Their tolerance is
halved until the residual is as small as is asked of all. "stored" streams the same numbers from a Gram store with no tile kept,
"free" computes the kernel anew in every product.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring.machine import facts
from measuring.rates import ratio, summary
from peers.client import Peer, PeerError
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import cg as scipy_cg

import kernreg
from kernreg.architecture import Architecture
from kernreg.cg import ConjugateGradients
from kernreg.directsolvers import Cholesky
from kernreg.gram import build
from kernreg.operators import Dense, MatrixFree, Operator, Stored
from kernreg.solve import solve
from kernreg.streaming import streaming_bytes

RESULTS = Path(__file__).parent / "results"
RTOL = 1e-8
ARCHITECTURE = Architecture.fcn(depth=3)
Result = tuple[np.ndarray, int]  # the solution, and the iterations of the slowest column
Run = Callable[[], Result]


@dataclass(frozen=True)
class Case:
    """One matrix and its targets."""

    name: str
    data: str
    n: int
    relative_ridge: float


CASES = (
    Case("digits", "digits", 1437, 1e-6),
    Case("digits, ridge 1e-3", "digits", 1437, 1e-3),
    Case("images", "synthetic-images", 4000, 1e-6),
)
QUICK = (Case("digits", "digits", 200, 1e-6),)


def contestants(case: Case, folder: Path) -> tuple[dict[str, Run], np.ndarray, np.ndarray]:
    """What is compared, by name; K + λI in float64 and the targets."""
    data = kernreg.load(case.data, n=case.n, test=0, dtype="float64")
    store = build(folder / f"{case.name}.gram", data, ARCHITECTURE, dtype="float64")
    K, Y = store.train("ntk"), data.y_train
    ridge = case.relative_ridge * float(K.diagonal().mean())
    A = K + ridge * np.eye(case.n)

    def ours(operator: Operator, solver: Any) -> Run:
        def run() -> Result:
            solution = solve(operator, Y, solver, ridge).require()
            return solution.value, int(solution.stats.iterations.max())

        return run

    def scipy_each() -> Result:
        steps, columns = [], []
        for y in Y.T:
            count = [0]

            def step(_: object, count: list[int] = count) -> None:
                count[0] += 1

            x, info = scipy_cg(A, y, rtol=RTOL, maxiter=20 * case.n, callback=step)
            if info:
                raise RuntimeError(f"SciPy's cg stopped with {info}")
            steps.append(count[0])
            columns.append(x)
        return np.column_stack(columns), max(steps)

    def scipy_direct() -> Result:
        return cho_solve(cho_factor(A, lower=True, check_finite=False), Y, check_finite=False), 0

    dense = Dense(K, checked=True)
    least = streaming_bytes(store, store.tiles("train", "ntk"))
    runs = {
        "cho_solve (SciPy)": scipy_direct,
        "cg, ten runs (SciPy)": scipy_each,
        "cholesky": ours(dense, Cholesky()),
        "cg, rank 0": ours(dense, ConjugateGradients(rtol=RTOL, rank=0)),
        "cg": ours(dense, ConjugateGradients(rtol=RTOL)),
        "cg, stored": ours(Stored(store, memory=least), ConjugateGradients(rtol=RTOL)),
        "cg, free": ours(MatrixFree(data.x_train, ARCHITECTURE), ConjugateGradients(rtol=RTOL)),
    }
    return runs, A, Y


PEERS = {"lineax": ("cg (lineax)", (0,)), "linear_operator": ("cg (GPyTorch)", (0, 15, 100, 300))}


class PeerRun:
    """A peer at its best settings for a matrix, timed in its own process."""

    def __init__(
        self, peer: Peer, K: np.ndarray, ridge: float, Y: np.ndarray, ranks: tuple[int, ...]
    ) -> None:
        self._peer, self._problem, self.rank, self.rtol = peer, (K, ridge, Y), 0, RTOL
        fastest = float("inf")
        for rank in ranks:
            for halvings in range(6):
                self._prepare(rank, RTOL / 2**halvings)
                X = peer.result()[:-1]
                residual = np.linalg.norm(Y - K @ X - ridge * X, axis=0) / np.linalg.norm(Y, axis=0)
                if residual.max() <= 2 * RTOL:
                    seconds = peer.seconds(1)
                    if seconds < fastest:
                        fastest, self.rank, self.rtol = seconds, rank, RTOL / 2**halvings
                    break
        if fastest == float("inf"):
            raise PeerError(f"{peer.name} does not reach a residual of {2 * RTOL:g}")
        self._prepare(self.rank, self.rtol)

    def __call__(self) -> Result:
        found = self._peer.result()
        return found[:-1], int(found[-1].max())

    def seconds(self) -> float:
        return self._peer.seconds(1)

    def _prepare(self, rank: int, rtol: float) -> None:
        K, ridge, Y = self._problem
        self._peer.prepare([], "", K, Y, {"ridge": ridge, "rtol": rtol, "rank": rank})


def peer_runs(peers: dict[str, Peer], A: np.ndarray, case: Case, Y: np.ndarray) -> dict[str, PeerRun]:
    """Peers by the names of their rows; one that fails is left out, and said so."""
    K, runs = A.copy(), {}
    ridge = case.relative_ridge * float(A.diagonal().mean()) / (1 + case.relative_ridge)
    K.reshape(-1)[:: case.n + 1] -= ridge
    for name, peer in peers.items():
        label, ranks = PEERS[name]
        try:
            run = PeerRun(peer, K, ridge, Y, tuple(rank for rank in ranks if rank <= case.n // 2))
        except PeerError as error:
            print(f"{case.name}: {label} left out: {error}", file=sys.stderr)
            continue
        runs[f"{label}, rank {run.rank}" if len(ranks) > 1 else label] = run
    return runs


def measure(case: Case, repeats: int, folder: Path, peers: dict[str, Peer]) -> list[dict[str, Any]]:
    """A row for each contestant: checked, then timed in turns, then its memory."""
    runs, A, Y = contestants(case, folder)
    theirs = peer_runs(peers, A, case, Y)
    runs |= theirs
    truth = cho_solve(cho_factor(A, lower=True), Y)
    rows: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        X, iterations = run()
        residual = float((np.linalg.norm(Y - A @ X, axis=0) / np.linalg.norm(Y, axis=0)).max())
        error = float(np.linalg.norm(A @ (X - truth)) / np.linalg.norm(Y))
        # SciPy stops by its recursive residual, which may be a little off the true one; the kernel computed anew
        # differs from the stored one by a rounding
        if not (residual <= 2 * RTOL and error <= 2 * RTOL):
            raise SystemExit(
                f"{case.name}, {name}: residual {residual:.1e}, error {error:.1e}: red, nothing is timed"
            )
        rows[name] = {"case": case.name, "n": case.n, "relative_ridge": case.relative_ridge, "solver": name}
        rows[name] |= {"iterations": iterations, "residual": residual, "error_in_training_predictions": error}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            if name in theirs:
                seconds[name].append(theirs[name].seconds())
                continue
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    for name, run in runs.items():
        rows[name] |= {"seconds": summary(seconds[name]), "peak_bytes_beside_matrix": None}
        if name not in theirs:
            tracemalloc.start()
            run()
            _, rows[name]["peak_bytes_beside_matrix"] = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        rows[name]["speed_of_scipy_cg"] = ratio(seconds["cg, ten runs (SciPy)"], seconds[name])
        rows[name]["speed_of_scipy_cho_solve"] = ratio(seconds["cho_solve (SciPy)"], seconds[name])
    saved = rows["cg, rank 0"]["iterations"] / rows["cg"]["iterations"]
    print(f"{case.name}: {saved:.1f} times fewer iterations with the preconditioner", file=sys.stderr)
    for row in rows.values():
        row["iterations_saved_by_preconditioner"] = saved
    return list(rows.values())


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']} before; {machine['date'][:10]}, "
        f"commit {machine['commit']}. FCN NTK of depth 3, ten targets, rtol {RTOL:g}. × SciPy: how many times faster.",
        "",
        "| case | n | ridge/mean diagonal | solver | iterations | seconds | 20–80 % | × SciPy cg | × cho_solve | residual "
        "| peak MiB beside K |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        t, peak = row["seconds"], row["peak_bytes_beside_matrix"]
        cells = (
            row["case"],
            str(row["n"]),
            f"{row['relative_ridge']:g}",
            row["solver"],
            str(row["iterations"] or "–"),
            f"{t['median']:.3g}",
            f"{t['q20']:.3g}–{t['q80']:.3g}",
            f"{row['speed_of_scipy_cg']['median']:.2g}",
            f"{row['speed_of_scipy_cho_solve']['median']:.2g}",
            f"{row['residual']:.1e}",
            "–" if peak is None else f"{peak / 2**20:.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    saved = {row["case"]: row["iterations_saved_by_preconditioner"] for row in result["rows"]}
    texts = (f"{case} {times:.1f} times" for case, times in saved.items())
    lines += ["", f"Fewer iterations with the preconditioner (target 5 times at 1e-6): {', '.join(texts)}."]
    versions = "; ".join(
        f"{name} {', '.join(f'{k} {v}' for k, v in of.items())}" for name, of in result["peers"].items()
    )
    lines += ["", f"Peers: {versions}." if versions else "Peers: none was installed."]
    if result["left_out"]:
        lines += ["", f"Left out: {'; '.join(result['left_out'])}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small case, once; prints only")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    out = options.out or (None if options.quick else RESULTS)
    result: dict[str, Any] = {"machine": facts(), "peers": {}, "left_out": [], "rows": []}
    peers: dict[str, Peer] = {}
    for name in PEERS:
        try:
            peers[name] = Peer(name, "float64")
            result["peers"][name] = peers[name].versions
        except PeerError as error:
            result["left_out"].append(str(error).replace(" (or name --ours-only)", ""))
            print(f"left out: {result['left_out'][-1]}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for case in QUICK if options.quick else CASES:
            print(f"{case.name} …", file=sys.stderr, flush=True)
            result["rows"] += measure(case, 1 if options.quick else options.repeats, Path(folder), peers)
    for peer in peers.values():
        peer.close()
    print(markdown(result))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "solve_cg.json").write_text(json.dumps(result, indent=1) + "\n")
        (out / "solve_cg.md").write_text(markdown(result))


if __name__ == "__main__":
    main()
