"""Speed of the Triton kernels on one GPU: is a fully connected kernel as fast as a plain matrix product of its precision?

    python benchmarks/gpu_dense.py           all cases → benchmarks/results/gpu_dense.{json,md}; about 3 minutes
    python benchmarks/gpu_dense.py --quick   does it run? small sizes; with TRITON_INTERPRET=1 also without a GPU

Each case is first held against the reference, then timed in turns with torch.matmul on matrices of the same size, dtype and
number of products (no TF32). The unit is a multiply-add of the leaves' product; patch networks are given in updates, one
(pair, node, stage), beside it. Without a GPU it says so and does nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from measuring.checking import TOLERANCE, RedCheckError, relative_error
from measuring.machine import facts
from measuring.rates import Contestant, calls_for, ratio, summary, take_turns

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import on_triton, reference, triton_device
from kernreg.kernels.triton_rows import prepare

RESULTS = Path(__file__).parent / "results"
TARGET = 0.8  # of the plain product, for a fully connected K
FEW = 4  # rows and columns that are checked


@dataclass(frozen=True)
class Case:
    """What is made ("gram", "triangle" or "product") of n rows with themselves or n others."""

    name: str
    architecture: Architecture
    shape: tuple[int, ...]
    n: int
    made: str
    dtype: str
    precision: str = "ieee"

    @property
    def label(self) -> str:
        return f"{self.name} {self.made} {self.dtype}{' tf32x3' if self.precision != 'ieee' else ''}"


def cases(quick: bool) -> list[Case]:
    found = []
    size, row = (40, 40) if quick else (16384, 3072)
    for depth in (3, 8):
        for dtype, precision in (("float32", "ieee"), ("float32", "tf32x3"), ("float64", "ieee")):
            n = size if dtype == "float32" else size * 3 // 4
            for made in ("gram", "triangle", "product"):
                fcn = Architecture.fcn(depth)
                found.append(Case(f"fcn-{depth}", fcn, (row,), n, made, dtype, precision))
    for name in ("s-cnn", "d-cnn", "hr-cnn", "hr-cnn-gap"):
        for dtype in ("float32", "float64"):
            image = (8, 8, 1) if quick and name != "d-cnn" else (16, 16, 3)
            found.append(Case(name, Architecture.preset(name), image, 4 if quick else 4096, "gram", dtype))
    return found[:1] + found[2::4] if quick else found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: it runs, not how fast")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    try:
        place = triton_device.device()
    except KernregError as missing:
        print(f"gpu_dense: nothing measured: {missing}")
        return
    result: dict[str, Any] = {"machine": facts() | gpu(place), "quick": options.quick, "rows": []}
    try:
        for case in cases(options.quick):
            result["rows"].append(measure(case, place, 1 if options.quick else options.repeats))
            print(line(result["rows"][-1]), flush=True)
    except RedCheckError as error:
        sys.exit(str(error))
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu_dense.json").write_text(json.dumps(result, indent=1) + "\n")
        (out / "gpu_dense.md").write_text(markdown(result))


def measure(case: Case, place: Any, repeats: int) -> dict[str, Any]:
    """Verify, then time ours and the plain product in turns.

    Raises:
        RedCheckError: a result is wrong.
    """
    torch = triton_device.torch()
    torch.backends.cuda.matmul.allow_tf32 = False
    real, n = getattr(torch, case.dtype), case.n
    x, z = (
        torch.randn((n, *case.shape), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    )
    X, Z = (prepare(rows.to(place), case.architecture, case.dtype) for rows in (x, z))
    columns = X if case.made != "gram" else Z
    V = torch.randn((n, on_triton.VECTORS), dtype=torch.float64, device=place)
    K = torch.empty((n, n), dtype=real, device=place)
    run: dict[str, Callable[[], Any]] = {
        "gram": lambda: on_triton.gram(X, Z, "ntk", {"ntk": K}, case.precision),
        "triangle": lambda: on_triton.gram(X, None, "ntk", {"ntk": K}, case.precision),
        "product": lambda: on_triton.product(X, None, "ntk", V, case.precision),
    }
    found = run[case.made]()
    error = verify(case, (found if case.made == "product" else found["ntk"]), x, x if columns is X else z, V)
    tree = X.tree
    products = n * (n + 1) // 2 if case.made == "triangle" else n * n
    length = tree.order.size * tree.tops
    a, b = (torch.randn((n, length), dtype=real, device=place) for _ in range(2))
    plain = torch.empty((n, n), dtype=real, device=place)
    clocks = {
        "ours": clock(run[case.made], place),
        "plain": clock(lambda: torch.matmul(a, b.T, out=plain), place),
    }
    work = {"ours": products * length, "plain": n * n * length}
    turns = {
        key: Contestant(work[key], seconds, 1 if repeats == 1 else calls_for(0.1, seconds(1)))
        for key, seconds in clocks.items()
    }
    rates = take_turns(turns, repeats)
    updates = products * sum(tree.nodes) * tree.tops
    return {
        "case": case.label,
        "n": n,
        "row": list(case.shape),
        "multiply_adds_per_s": summary(rates["ours"]),
        "plain_per_s": summary(rates["plain"]),
        "share_of_plain": ratio(rates["ours"], rates["plain"]),
        "updates_per_s": summary([rate * updates / work["ours"] for rate in rates["ours"]]),
        "target": TARGET if case.name.startswith("fcn") else None,
        "error": error,
    }


def verify(case: Case, found: Any, x: Any, z: Any, V: Any) -> float:
    """The largest relative error of a few entries, in a corner and along the diagonal's end.

    Raises:
        RedCheckError: larger than allowed.
    """
    rows, others = x.numpy(), z.numpy()
    error = 0.0
    for part in (slice(0, FEW), slice(len(rows) - FEW, len(rows))):
        if case.made == "product":
            K, v = reference.compute(rows[part], others, case.architecture, "ntk")["ntk"], V.cpu().numpy()
            off = np.abs(found[part].cpu().numpy() - K @ v) / (np.abs(K) @ np.abs(v))
            error = max(error, float(np.max(off)))
        else:
            truth = reference.compute(rows[part], others[part], case.architecture, "ntk")["ntk"]
            error = max(error, relative_error(found[part, part].cpu().numpy(), truth))
    if not error <= TOLERANCE[case.dtype]:
        raise RedCheckError(
            f"{case.label}: off the definition by {error:.1e}, allowed {TOLERANCE[case.dtype]:.0e}"
        )
    return error


def clock(run: Callable[[], Any], place: Any) -> Callable[[int], float]:
    """`run` as the `seconds` of a contestant, by the GPU's own clock where there is one."""
    torch = triton_device.torch()

    def seconds(calls: int) -> float:
        if place.type != "cuda":
            start = time.perf_counter()
            for _ in range(calls):
                run()
            return time.perf_counter() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(calls):
            run()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000

    return seconds


def gpu(place: Any) -> dict[str, Any]:
    """Its name, multiprocessors and clock, and the versions of what drives it."""
    found: dict[str, Any] = {"gpu": "none: Triton's interpreter"}
    torch = triton_device.torch()
    if place.type == "cuda":
        about = torch.cuda.get_device_properties(place)
        question = ["nvidia-smi", "--query-gpu=clocks.max.sm,driver_version", "--format=csv,noheader,nounits"]
        answer = subprocess.run(question, capture_output=True, text=True).stdout.splitlines()
        mhz, driver = (answer[place.index] if answer else "?,?").split(",")
        found = {
            "gpu": about.name,
            "multiprocessors": about.multi_processor_count,
            "max_MHz": mhz,
            "driver": driver.strip(),
        }
    return found | {"torch": torch.__version__, "triton": version("triton")}


def line(row: dict[str, Any]) -> str:
    share, target = row["share_of_plain"]["median"], row["target"]
    verdict = "" if target is None else f" ({target:.0%}: {'met' if share >= target else 'MISSED'})"
    rate, updates = row["multiply_adds_per_s"]["median"], row["updates_per_s"]["median"]
    return f"| {row['case']} | {row['n']} | {rate:.3g} | {share:.0%}{verdict} | {updates:.3g} | {row['error']:.0e} |"


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    head = f"{machine['gpu']}, torch {machine['torch']}, triton {machine['triton']}; "
    head += f"{machine['date'][:10]}, commit {machine['commit']}."
    table = [
        "| case | n | multiply-adds/s | of a plain product (target) | updates/s | error |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([head, "", *table, *map(line, result["rows"])]) + "\n"


if __name__ == "__main__":
    main()
