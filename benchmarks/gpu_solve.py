"""The whole learning curve on the GPU beside the host: factor, every sample count, LOO and GCV, replicates; and factors by tiles.

    python benchmarks/gpu_solve.py            n = 50,000 on the GPU, 8,000 on both → results/gpu_solve.json
    python benchmarks/gpu_solve.py --quick    a smoke run at n = 1,000; prints only

The curves of both are compared at the smaller size before anything is timed (1e-8). The matrix is exp(−|x−z|) of normal rows,
made on the device. Asked of an H200: n = 50,000 in less than a minute.

By tiles: L of a stored Gram of --tiled rows in a folder of --scratch (20 GB at 50,000 rows, and the store), on one GPU and
on all, with memory for all of L and for a quarter; checked by the residual of a solution; the share of the product
measured in the same run says whether disk and copies are hidden.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring.machine import facts

from kernreg.architecture import Architecture
from kernreg.bench import driver
from kernreg.curve import LearningCurve, learning_curve
from kernreg.device import HOST, Device, choose, cuda, curve_bytes, gpus
from kernreg.errors import KernregError
from kernreg.operators import Shifted, Stored
from kernreg.provenance import versions
from kernreg.store import GramStore
from kernreg.tiled import TiledCholesky, tiled_factor

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


def stored(path: Path, n: int, device: Device) -> GramStore:
    """The same kind of matrix in a store, float32, without test rows; its tiles are made on the device."""
    x = np.random.default_rng(0).standard_normal((n, 16))
    settings: Any = {"kernels": ("ntk",), "dtype": "float32", "backend": "reference", "tile": min(n, 4096)}
    store = GramStore.create(
        path, architecture=Architecture.fcn(depth=1), x_train=x, y_train=x[:, :OUTPUTS].copy(), **settings
    )
    xp, rows = device.xp, device.xp.asarray(x)
    squares = xp.square(rows).sum(axis=1)
    with store:
        for part, tile in store.missing():
            distances = (
                squares[tile.rows, None] + squares[tile.columns] - 2 * rows[tile.rows] @ rows[tile.columns].T
            )
            K = xp.exp(-xp.sqrt(xp.maximum(distances, 0))).astype(np.float32)
            K = K if not tile.diagonal else xp.triu(K) + xp.triu(K, 1).T
            store.write(part, tile, {"ntk": np.ascontiguousarray(device.get(K))})
    return store


def by_tiles(n: int, device: Device, folder: Path) -> list[dict[str, Any]]:
    """Factors of a store on one GPU and on all, each checked, with the rate of a plain product before."""
    store, everything, rows = stored(folder / "tiles.gram", n, device), gpus(), []
    rate = {
        dtype: 2 * 8192**3 / cuda().product_seconds(8192, 8192, dtype) for dtype in ("float32", "float64")
    }
    K, y = Stored(store, "ntk"), store.y_train[:, :1].astype(np.float64)
    for count in sorted({1, len(everything)}):
        for dtype in ("float64", "float32"):
            item = np.dtype(dtype).itemsize
            for share in (1.0, 0.25):
                allowed = min(
                    int(share * item * n * n / count) + (1 << 30), int(0.9 * everything[0].free_bytes)
                )
                solver = TiledCholesky(
                    scratch=folder / "scratch", dtype=dtype, gpus=everything[:count], device_memory=allowed
                )
                start = time.perf_counter()
                with tiled_factor(store, "ntk", 1e-2, solver) as factor:
                    seconds = time.perf_counter() - start
                    α, blocks, scratch = factor.solve(y), factor.blocks, factor.scratch
                residual = float(np.linalg.norm(Shifted(K, 1e-2) @ α - y) / np.linalg.norm(y))
                shutil.rmtree(folder / "scratch")
                if not residual <= (1e-9 if dtype == "float64" else 1e-2):
                    sys.exit(f"{dtype} on {count} GPUs: a residual of {residual:.1e}: no time is reported")
                rows.append({
                    "n": n, "gpus": count, "dtype": dtype, "tile": blocks.tile, "panel": blocks.panel,
                    "device_bytes_allowed": allowed, "device_bytes_planned": blocks.gpu_bytes(item, count),
                    "seconds": seconds, "residual": residual, "read_bytes": scratch.read_bytes,
                    "written_bytes": scratch.written_bytes, "flops": n**3 / 3 / seconds,
                    "share_of_product": n**3 / 3 / seconds / rate[dtype] / count,
                })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--tiled", type=int, default=50_000, help="rows of the factor by tiles")
    parser.add_argument("--scratch", type=Path, help="folder on a fast disk for store and factor")
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
    result: dict[str, Any] = {
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
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        result["tiled"] = by_tiles(3000 if options.quick else options.tiled, device, Path(folder))
    text = json.dumps(result, indent=1)
    print(text)
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu_solve.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
