"""Speed of the CUDA stencil on a real GPU, against peers on the same GPU in one run: about five minutes.

    python benchmarks/gpu_kernels.py          → benchmarks/results/gpu_kernels.{json,md}
    python benchmarks/gpu_kernels.py --quick  does it run? small sizes; prints, and writes to --out only

Every result is held against the definition before it is timed. The unit is the update, one (pair, shift, pixel, layer);
the bound is the rate of a multiply-add chain measured on the device, over the issue slots of an update (results/sass.json).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import gpu
from measuring.machine import facts
from measuring.rates import Contestant, calls_for, ratio, summary, take_turns

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import backends, on_cuda
from kernreg.kernels.instance import instance

RESULTS = Path(__file__).parent / "results"
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}
PEER_TOLERANCE = 2e-3  # of a peer's float32 NTK: its arccos loses half the digits near c = 1
SECONDS = 0.5  # of one timing


@dataclass(frozen=True)
class Case:
    """K(x, z) of n × m images of side × side × 3. target: updates/s on an H200, asked for."""

    name: str
    kernel: str
    dtype: str
    side: int
    n: int
    m: int
    depth: int = 8
    target: float | None = None

    @property
    def architecture(self) -> Architecture:
        return Architecture.preset(self.name, depth=self.depth)

    @property
    def updates(self) -> int:
        stencil = self.stencil
        return max(len(stencil.shifts), 1) * self.side**2 * self.depth

    @property
    def stencil(self) -> Any:
        return instance(self.architecture, (self.side, self.side, 3), self.kernel, self.dtype)

    def __str__(self) -> str:
        return f"{self.name}-{self.side}x{self.side}-{self.kernel}-{self.dtype}"


CASES = (
    Case("gap", "ntk", "float32", 32, 128, 128, target=4e11),
    Case("gap", "nngp", "float32", 32, 128, 128, target=7.2e11),
    Case("gap", "ntk", "float64", 32, 64, 64),
    Case("gap", "ntk", "float32", 28, 128, 128),
    Case("gap", "ntk", "float32", 8, 1024, 1024),
    Case("lap", "ntk", "float32", 32, 256, 256),
    Case("vec", "ntk", "float32", 32, 4096, 4096, target=2e11),
    Case("vec", "nngp", "float32", 32, 4096, 4096),
    Case("vec", "ntk", "float64", 32, 2048, 2048),
    Case("vec", "ntk", "float32", 64, 2048, 2048),
    Case("lcn-gap", "ntk", "float32", 32, 4096, 4096),
)
PEERS = {("gap", 32, "ntk", "float32"): ("dense", "layerwise"), ("vec", 32, "ntk", "float32"): ("dense",)}
PEER_ROWS = {"gap": (2, 4), "vec": (64, 128)}


def main() -> None:
    options = parse()
    try:
        device: Any = on_cuda.gpu()
    except KernregError as error:
        sys.exit(str(error))
    rate = gpu.issue_rate(device.cupy)
    slots = _slots()
    result: dict[str, Any] = {
        "quick": options.quick,
        "gpu": gpu.facts(device.cupy),
        "machine": facts(),
        "multiply_adds_per_s": rate,
        "rows": [],
    }
    for case in CASES:
        if options.case and str(case) not in options.case:
            continue
        row = compare(case, device, options)
        needed = slots.get(str(case))
        if needed:
            row["slots"], row["share_of_bound"] = needed, row["updates_per_s"]["median"] * needed / rate
        result["rows"].append(row)
        print(_line(row), flush=True)
    print("\n" + markdown(result))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu_kernels.json").write_text(json.dumps(result, indent=1) + "\n")
        (options.out / "gpu_kernels.md").write_text(markdown(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: it runs, not how fast")
    parser.add_argument("--case", action="append", help="only this one; may be repeated")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    if options.out is None and not (options.quick or options.case):
        options.out = RESULTS
    return options


def compare(case: Case, device: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Verify, then time ours and the peers in turns."""
    n, m = (8, 16) if options.quick else (case.n, case.m)
    x, z = (
        np.random.default_rng(seed).standard_normal((size, case.side, case.side, 3))
        for seed, size in ((0, n), (1, m))
    )
    x, z = x.astype(case.dtype), z.astype(case.dtype)
    stencil = case.stencil
    X, Z = (on_cuda.prepare(a, stencil, device) for a in (x, z))
    run = lambda: on_cuda.kernels(X, Z, stencil, device)  # noqa: E731
    K = device.get(run()[case.kernel])
    truth = backends.compute(x[:1], z[:2], case.architecture, case.kernel, "reference", "float64")[
        case.kernel
    ]
    error = _error(K[:1, :2], truth)
    if not error <= TOLERANCE[case.dtype]:
        sys.exit(f"{case}: off the definition by {error:.1e}; nothing is timed on a red check")
    contestants = {"ours": _contestant(n * m * case.updates, gpu.seconds(device.cupy, run))}
    for name in PEERS.get((case.name, case.side, case.kernel, case.dtype), ()):
        contestant = _peer(name, case, x, z, K, device)
        if contestant is not None:
            contestants[name] = contestant
    rates = take_turns(contestants, 1 if options.quick else options.repeats)
    return {
        "case": str(case),
        "n": n,
        "m": m,
        "updates_per_pair": case.updates,
        "error": error,
        "updates_per_s": summary(rates["ours"]),
        "target": case.target,
        "peers": {
            name: {"updates_per_s": summary(values), "ratio": ratio(rates["ours"], values)}
            for name, values in rates.items()
            if name != "ours"
        },
    }


def _peer(name: str, case: Case, x: Any, z: Any, ours: Any, device: Any) -> Contestant | None:
    rows, columns = (min(a, b) for a, b in zip(PEER_ROWS[case.name], (len(x), len(z)), strict=True))
    if name == "layerwise":
        from peers import gpu_layerwise

        run, wait = gpu_layerwise.prepare(device.cupy, x[:rows], z[:columns], case.depth), None
    else:
        try:
            import torch
            from peers import gpu_dense
        except ImportError:
            print("PyTorch is not installed: the dense peer does not take part", file=sys.stderr)
            return None
        run, wait = (
            gpu_dense.prepare(x[:rows], z[:columns], case.depth, case.name == "gap", case.dtype),
            torch.cuda,
        )
    K = run()
    K = K.cpu().numpy() if wait else device.get(K)
    error = _error(ours[:rows, :columns], K)
    if not error <= PEER_TOLERANCE:
        sys.exit(f"{case}: the peer {name} is off by {error:.1e}")

    def everything() -> None:
        run()
        if wait:
            wait.synchronize()

    return _contestant(rows * columns * case.updates, gpu.seconds(device.cupy, everything))


def _contestant(work: float, seconds: Any) -> Contestant:
    seconds(1)
    return Contestant(work, seconds, calls_for(SECONDS, seconds(1)))


def _error(values: Any, truth: Any) -> float:
    return float(np.max(np.abs(np.float64(values) / np.float64(truth) - 1)))


def _slots() -> dict[str, float]:
    """Issue slots an update, idle lanes counted in, by case."""
    path = RESULTS / "sass.json"
    if not path.exists():
        return {}
    return {row["case"]: row["slots"] / row["busy"] for row in json.loads(path.read_text())["rows"]}


def markdown(result: dict[str, Any]) -> str:
    machine, device = result["machine"], result["gpu"]
    heads = "| case | pairs | updates/s | 20–80 % | target | of bound | peers: updates/s, ours over theirs | error |"
    return "\n".join(
        [
            f"{device['device']} ({device['processors']} multiprocessors, {device['smi']}), CuPy {device['cupy']}, CUDA "
            f"{device['cuda_runtime']}, driver {device['cuda_driver']}. {machine['date'][:10]}, commit {machine['commit']}. "
            f"Multiply-adds measured: {result['multiply_adds_per_s']:.3g}/s.",
            "",
            heads,
            "|---|---|---|---|---|---|---|---|",
            *(_line(row) for row in result["rows"]),
            "",
        ]
    )


def _line(row: dict[str, Any]) -> str:
    rate, target = row["updates_per_s"], row["target"]
    met = "–" if target is None else f"{target:.1e}: {'met' if rate['median'] >= target else 'MISSED'}"
    share = f"{row['share_of_bound']:.0%}" if "share_of_bound" in row else "–"
    peers = "; ".join(
        f"{name} {peer['updates_per_s']['median']:.2e}, {peer['ratio']['median']:.0f}×"
        for name, peer in row["peers"].items()
    )
    cells = (
        row["case"],
        f"{row['n']}×{row['m']}",
        f"{rate['median']:.3e}",
        f"{rate['q20']:.2e}–{rate['q80']:.2e}",
        met,
        share,
        peers or "–",
        f"{row['error']:.0e}",
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
