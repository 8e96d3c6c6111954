"""The whole learning curve on the GPU beside the host: factor, every sample count, LOO and GCV, replicates.

    python benchmarks/gpu_solve.py            n = 50,000 on the GPU, 8,000 on both → results/gpu_solve.json
    python benchmarks/gpu_solve.py --quick    a smoke run at n = 1,000; prints only

The curves of both are compared at the smaller size before anything is timed (1e-8). The matrix is exp(−|x−z|) of normal rows,
made on the device. Asked of an H200: n = 50,000 in less than a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring.machine import facts

from kernreg.bench import driver
from kernreg.curve import LearningCurve, learning_curve
from kernreg.device import HOST, Device, choose, curve_bytes
from kernreg.errors import KernregError
from kernreg.provenance import versions

RESULTS = Path(__file__).parent / "results"
OUTPUTS, TESTS, AGREE = 10, 10_000, 1e-8


def problem(n: int, t: int, device: Device) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """K on the device, y, K_test and y_test on the host."""
    xp, rng = device.xp, np.random.default_rng(0)
    x = rng.standard_normal((n + t, 16))
    rows = xp.asarray(x)
    squares = xp.square(rows).sum(axis=1)

    def kernel(first: int, last: int) -> Any:
        distances = squares[first:last, None] + squares[:n] - 2 * rows[first:last] @ rows[:n].T
        return xp.exp(-xp.sqrt(xp.maximum(distances, 0)))

    K = xp.empty((n, n))
    for start in range(0, n, 2048):
        K[start : start + 2048] = kernel(start, min(start + 2048, n))
    K = K if n > 20_000 else (K + K.T) / 2
    K_test = np.concatenate([device.get(kernel(a, min(a + 2048, n + t))) for a in range(n, n + t, 2048)])
    y = np.eye(OUTPUTS)[(np.abs(x[:, 0]) * 4).astype(int) % OUTPUTS] - 1 / OUTPUTS
    return K, y[:n], K_test, y[n:]


def timed(n: int, t: int, device: Device) -> tuple[float, LearningCurve]:
    arguments = problem(n, t, device)
    start = time.perf_counter()
    curve = learning_curve(*arguments, ridge=1e-3, overwrite=True, device=device)
    return time.perf_counter() - start, curve


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    n, both, t = (1000, 500, 200) if options.quick else (options.n, min(options.n, 8000), TESTS)
    try:
        device = choose("cuda", n, OUTPUTS)
    except KernregError as error:
        sys.exit(str(error))
    on_host, on_gpu = timed(both, t, HOST), timed(both, t, device)
    for name in ("loss", "loo", "gcv"):
        host, gpu = (np.asarray(getattr(curve, name)) for _, curve in (on_host, on_gpu))
        if not np.allclose(host, gpu, rtol=AGREE, atol=0):
            sys.exit(
                f"the {name} of host and GPU differ by {np.abs(gpu / host - 1).max():.1e}: no time is reported"
            )
    repeats = [timed(both, t, device)[0] for _ in range(3)]
    result = {
        "machine": facts(),
        "driver": driver(),
        "versions": versions(),
        "tests": t,
        "outputs": OUTPUTS,
        "both": {"n": both, "host_seconds": on_host[0], "gpu_seconds": min(repeats)},
        "whole": {
            "n": n,
            "gpu_seconds": timed(n, t, device)[0],
            "gpu_bytes_planned": curve_bytes(n, OUTPUTS),
        },
    }
    text = json.dumps(result, indent=1)
    print(text)
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu_solve.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
