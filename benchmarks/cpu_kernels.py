"""Speed of the CPU kernels against their peers, in one run on one machine: about 20 minutes.

    python benchmarks/peers/setup.py           once
    python benchmarks/cpu_kernels.py           all cases → benchmarks/results/cpu_kernels.{json,md}
    python benchmarks/cpu_kernels.py --quick   a smoke run of all cases; prints, and writes to --out only
    python benchmarks/cpu_kernels.py --ours-only --case gap-8x8x1-ntk
    python benchmarks/cpu_kernels.py --case fcn-3072-ntk --out benchmarks/results     that case again, the others stay

The unit is the update, one (pair, shift, pixel, layer). benchmarks/README.md says what is compared, and how.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from measuring.cases import Case, cases, quick
from measuring.checking import against_definition, against_peer
from measuring.machine import cores, facts
from measuring.rates import Contestant, calls_for, clock, ratio, take_turns
from measuring.table import grid, markdown
from numpy.typing import NDArray
from peers.client import KEEP_FREED_MEMORY, Peer, PeerError
from peers.search import LONG, best_settings

from kernreg.bench import RedCheckError, summary
from kernreg.kernels import backends
from kernreg.kernels.bound import cpu_bound

RESULTS = Path(__file__).parent / "results"
DTYPES = ("float32", "float64")


def main() -> None:
    options = parse()
    # the same terms for both; glibc reads them once, at the start
    if not os.environ.keys() >= KEEP_FREED_MEMORY.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_FREED_MEMORY)
    if os.getloadavg()[0] > 0.5:
        print(f"busy machine (load {os.getloadavg()[0]:.1f}): trust no number of this run", file=sys.stderr)
    known = cases(cores())
    unknown = set(options.case or ()) - {case.name for case in known}
    if unknown:
        sys.exit(f"unknown case {', '.join(unknown)}; known: {', '.join(case.name for case in known)}")
    chosen = [quick(c) if options.quick else c for c in known if not options.case or c.name in options.case]
    result: dict[str, Any] = {"machine": facts(), "quick": options.quick, "peer_versions": {}, "rows": []}
    workers: dict[str, dict[str, Peer]] = {}
    try:
        for case in chosen:
            if not options.ours_only and case.peer not in workers:
                workers[case.peer] = {dtype: Peer(case.peer, dtype) for dtype in DTYPES}
                result["peer_versions"][case.peer] = workers[case.peer]["float64"].versions
            peers = workers.get(case.peer, {})
            best = {dtype: best_settings(case, peer, options.quick) for dtype, peer in peers.items()}
            for symmetric in (False, True):
                run = {key: result["machine"][key] for key in ("date", "commit", "cpu", "load_before")}
                repeats = 1 if options.quick else options.repeats
                rows = [{**row, "run": run} for row in compare(case, symmetric, peers, best, repeats)]
                result["rows"] += rows
                print("\n".join(grid(rows)[2:]), flush=True)
    except (PeerError, RedCheckError) as error:
        sys.exit(str(error))
    finally:
        for peer in (peer for pair in workers.values() for peer in pair.values()):
            peer.close()
    result["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        keep_other_cases(result, options.out / "cpu_kernels.json", [case.name for case in known])
    print("\n" + markdown(result))
    if options.out:
        (options.out / "cpu_kernels.json").write_text(json.dumps(result, indent=1) + "\n")
        (options.out / "cpu_kernels.md").write_text(markdown(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one repeat: it runs, not how fast")
    parser.add_argument("--ours-only", action="store_true", help="verified against the definition only")
    parser.add_argument("--case", action="append", help="only this one; may be repeated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    if options.out is None and not (options.quick or options.ours_only or options.case):
        options.out = RESULTS
    return options


def keep_other_cases(result: dict[str, Any], file: Path, order: list[str]) -> None:
    """Take rows of cases that were not run now from an earlier result; each row names its own run."""
    if not file.exists():
        return
    earlier, now = json.loads(file.read_text()), {row["case"] for row in result["rows"]}
    result["rows"] += [row for row in earlier["rows"] if row["case"] not in now]
    result["rows"].sort(key=lambda row: order.index(row["case"]))  # stable: the order within a case stays
    result["peer_versions"] = earlier["peer_versions"] | result["peer_versions"]


def compare(
    case: Case,
    symmetric: bool,
    peers: dict[str, Peer],
    best: dict[str, tuple[dict[str, Any], float]],
    repeats: int,
) -> list[dict[str, Any]]:
    """Verify, then time in turns: ours in each dtype, the peer in each of its own; one row for each of ours.

    A pair of K(x, x) counts twice, as (i, j) and as (j, i), for us and for the peer, which computes both.

    Raises:
        RedCheckError: a result is wrong.
    """
    sizes = {dtype: case.size(dtype, symmetric) for dtype in case.dtypes}
    settings = {dtype: setting for dtype, (setting, _) in best.items()}
    largest = max(max(sizes.values())[0], max(sizes.values())[1], *(s["batch"] for s in settings.values()), 1)
    x, z = case.images(largest, 0), None if symmetric else case.images(largest, 1)
    contestants: dict[tuple[str, str], Contestant] = {}
    truth: NDArray[np.floating] | None = None
    fastest = min((seconds / setting["batch"] ** 2 for setting, seconds in best.values()), default=0.0)
    for dtype, peer in peers.items():
        setting, seconds = best[dtype]
        b = setting["batch"]
        peer.prepare(case.layers, case.kernel, x[:b], None if z is None else z[:b], setting)
        slow = seconds > LONG and seconds / b**2 > 1.2 * fastest  # its ratio is not the one to watch
        contestants["peer", dtype] = Contestant(
            b * b * case.updates,
            peer.seconds,
            1 if repeats == 1 else calls_for(0.5, seconds),
            2 if slow else None,
        )
        truth = peer.result() if dtype == "float64" else truth
    errors: dict[str, float] = {}
    for dtype, (n, m) in sizes.items():
        X, Z = x[:n].astype(dtype), None if z is None else z[:m].astype(dtype)

        def run(X: Any = X, Z: Any = Z, dtype: str = dtype) -> NDArray[np.floating]:
            return backends.compute(X, Z, case.architecture, case.kernel, "cpu", dtype)[case.kernel]

        K = run()  # compiles, and warms
        errors[dtype] = against_definition(case, X, Z, K, dtype)
        if truth is not None:
            errors[dtype] = max(errors[dtype], against_peer(case, symmetric, K, truth[:n, :m], dtype))
        contestants["ours", dtype] = Contestant(n * m * case.updates, clock(run))
    rates = take_turns(contestants, repeats)
    same_for_all = {
        "case": case.name,
        "kernel": case.kernel,
        "symmetric": symmetric,
        "updates_per_pair": case.updates,
        "peer": case.peer if peers else None,
        "peer_settings": settings,
    }
    theirs = {dtype: rates["peer", dtype] for dtype in peers}
    return [
        same_for_all
        | {"rows": sizes[dtype], "error": errors[dtype]}
        | judge(case, symmetric, dtype, rates["ours", dtype], theirs)
        for dtype in case.dtypes
    ]


def judge(
    case: Case, symmetric: bool, dtype: str, ours: list[float], theirs: dict[str, list[float]]
) -> dict[str, Any]:
    """Rates, ratios turn by turn, targets and the share of the bound, of one of our dtypes."""
    faster = max(theirs, key=lambda key: float(np.median(theirs[key])), default=None)
    times = 2 if symmetric else 1
    target, same = case.target.get(dtype), case.same_dtype_target.get(dtype)
    limit = cpu_bound(case.architecture, case.shape, case.kernel, dtype, cores())
    n = case.size(dtype, symmetric)[0]
    computed = (n + 1) / (2 * n) if symmetric else 1.0
    return {
        "dtype": dtype,
        "updates_per_s": summary(ours),
        "peer_updates_per_s": {key: summary(values) for key, values in theirs.items()},
        "faster_dtype_of_peer": faster,
        "ratio_to_faster": ratio(ours, theirs[faster]) if faster else None,
        "ratio_to_same_dtype": ratio(ours, theirs[dtype]) if theirs else None,
        "target": target and times * target,
        "same_dtype_target": same and times * same,
        "bound_updates_per_s": limit,
        "share_of_bound": computed * summary(ours)["median"] / limit,
    }


if __name__ == "__main__":
    main()
