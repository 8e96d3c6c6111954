"""How long the Gram and the conjugate gradients take for n rows on P GPUs: a model, with constants measured here.

    python benchmarks/cluster_model.py            about 4 minutes → benchmarks/results/cluster_model.{json,md,png}
    python benchmarks/cluster_model.py --quick    smaller measurements; prints only

No cluster and no GPU was used. Measured on this machine: seconds of a call through Dask, seconds a byte through its
connections, the rate of a worker's product, the rates of what the client does itself, and iterations against n. The bytes are
those of the partition that the code would use. The GPU's constants are assumptions, named in `ASSUMED` with where each is from.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster
from measuring.machine import facts

import kernreg
from kernreg.architecture import Architecture
from kernreg.cg import ConjugateGradients
from kernreg.exchange import pays
from kernreg.gram import gram
from kernreg.holding import Holder
from kernreg.operators import Dense
from kernreg.partition import Partition
from kernreg.preconditioner import default_rank
from kernreg.solve import solve
from kernreg.tiles import Tile, TileGrid

RESULTS = Path(__file__).parent / "results"
COLUMNS, OUTPUTS, TILE = 11, 10, 4096
ROWS, WORKERS = (10_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000), (1, 4, 16, 64)
RECORD = (5_000_000, 1024)  # rows of the record, and GPUs whose memory holds them
# What no machine here could measure.
ASSUMED = {
    "updates_per_s": (
        9.5e11,
        "a GPU, S and T in float32: bound of docs/gpu.md for an H100 or H200, computed, not measured",
    ),
    "dense_flops": (4e13, "float32 products of a GPU, two thirds of an H100's data sheet"),
    "memory_bytes": (72e9, "of a GPU for tiles: 80 GB less work space"),
    "memory_bytes_per_s": (2.4e12, "seven tenths of an H100's data sheet"),
    "flops": (2.4e13, "float64 products of a GPU, seven tenths of an H100's data sheet without tensor cores"),
    "network_bytes_per_s": (12.5e9, "100 Gbit/s at the client"),
    "disk_bytes_per_s": (20e9, "of the shared file system, all workers together"),
    "client_speedup": (16.0, "a client of 32 cores and eight memory channels, beside the two cores measured"),
}
DEPTH, PIXELS, FEATURES = 8, 1024, 3072
UPDATES = {"fcn": 0, "vec": DEPTH * PIXELS, "gap": DEPTH * PIXELS**2}  # of a pair of 32×32×3 images


class Echo:
    """An actor that measures the way to a worker."""

    def nothing(self) -> None:
        return None

    def back(self, values: np.ndarray) -> np.ndarray:
        return values


@dataclass
class Ones:
    """Tiles of a `kernreg.holding.Source`, of ones."""

    n: int
    itemsize: int = 4
    keeps: bool = True

    def open(self) -> None:
        return None

    def read(self, tile: Tile) -> np.ndarray:
        return np.ones(tile.shape, np.float32)


def best(call: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measured(quick: bool) -> dict[str, Any]:
    """The constants of this machine, two processes beside this one."""
    n, rank, size = (2048, 64, 1 << 20) if quick else (8192, 512, 1 << 25)
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            local_directory=folder,
        ) as cluster,
        Client(cluster, direct_to_workers=True) as client,
    ):
        actors = [
            client.submit(Echo, actor=True, pure=False, workers=[w]).result() for w in client.nthreads()
        ]
        actors[0].nothing().result()
        calls = 20 if quick else 200
        found["call_s"] = best(lambda: actors[0].nothing().result(), calls)
        many = best(lambda: [f.result() for f in [actors[0].nothing() for _ in range(32)]], calls // 4)
        found["each_further_call_s"] = (many - found["call_s"]) / 31
        values = np.random.default_rng(0).standard_normal(size // 8)
        seconds = best(lambda: actors[0].back(values).result(), 15)
        found["connection_bytes_per_s"] = 2 * values.nbytes / (seconds - found["call_s"])
    holder = Holder(Ones(n), "cpu")
    tiles = tuple(TileGrid.triangle(n, n // 4))
    holder.load(0, tiles)
    V = np.random.default_rng(1).standard_normal((n, COLUMNS))
    found["entries_per_s"] = sum(t.shape[0] * t.shape[1] for t in tiles) / best(
        lambda: holder.multiply(V, n, [(0,)]), 10
    )
    R, Q = V[:, :OUTPUTS], np.random.default_rng(2).standard_normal((n, rank))
    D = np.eye(rank)
    found["preconditioner_bytes_per_s"] = 2 * Q.nbytes / best(lambda: R - Q @ (D @ (Q.T @ R)), 20)
    found["client_flops"] = 2.0 * n * rank**2 / best(lambda: Q.T @ Q, 15)
    found["vector_bytes_per_s"] = 4 * 8 * n * OUTPUTS / best(lambda: R * 1.1 + R, 20)
    found["iterations"] = iterations((200, 400) if quick else (500, 1000, 2000, 4000))
    return found


def iterations(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Of the NTK of a fully connected network of depth 3 on synthetic images, ridge 1e-6 of the mean diagonal, rtol 1e-8."""
    data = kernreg.load("synthetic-images", n=sizes[-1], test=0, dtype="float64")
    K = gram(data.x_train, None, Architecture.fcn(depth=3), kernel="ntk", backend="cpu", dtype="float32")
    rows = []
    for n in sizes:
        operator, Y = Dense(K[:n, :n], checked=True), data.y_train[:n]
        with_rank = solve(operator, Y, ConjugateGradients(), 1e-6, "relative")
        without = solve(operator, Y, ConjugateGradients(rank=0), 1e-6, "relative")
        rows.append({"n": n, "rank": with_rank.stats.rank})
        for name, solution in (("with", with_rank), ("without", without)):
            rows[-1] |= {name: int(solution.stats.iterations.max()), f"{name}_status": str(solution.status)}
    return rows


def model(n: int, P: int, constants: dict[str, Any], steps: int) -> dict[str, Any]:
    """Seconds of each part, for n rows on P GPUs. `steps` is iterations."""
    a = {name: value for name, (value, _) in ASSUMED.items()} | {
        k: v for k, v in constants.items() if k != "iterations"
    }
    link = min(a["network_bytes_per_s"], a["connection_bytes_per_s"])
    tile = min(TILE if n <= 1_000_000 else 4 * TILE, n // 64)
    partition = Partition.of(list(TileGrid.triangle(n, tile)), n, P, 1)
    most = max(partition.entries)
    rows = [partition.rows([(s,)], n) for s in range(P)]
    touched = sum(rows)
    rank = default_rank(n)
    pairs, stored = n * (n + 1) / 2, 4.0 * sum(partition.entries)
    build = {name: pairs * updates / (P * a["updates_per_s"]) for name, updates in UPDATES.items()}
    build["fcn"] = pairs * 2 * FEATURES / (P * a["dense_flops"])
    # a float32 entry is read, written as float64 and read twice; both triangles cost 2·c operations each
    product = max(most * 28 / a["memory_bytes_per_s"], 4.0 * most * COLUMNS / a["flops"])
    calls = a["call_s"] + (P - 1) * a["each_further_call_s"]
    # by way of the client all that the workers need and give passes its connection; by way of the workers each vector once, and
    # the rows of the busiest worker its own: three calls of each instead of one, and one call of every peer that it pulls from
    peers = min(P - 1, 2 * max(rows) * P // n + 1)
    wire = {
        "client": 2 * 8 * COLUMNS * touched / link + calls,
        "workers": 2 * 8 * COLUMNS * (n + max(rows)) / link
        + 3 * calls
        + 2 * peers * a["each_further_call_s"],
    }
    way = "workers" if pays(rows, n) else "client"
    fast = a["client_speedup"]
    client = 2 * 8 * n * rank / (fast * a["preconditioner_bytes_per_s"]) + 30 * 8 * n * OUTPUTS / (
        fast * a["vector_bytes_per_s"]
    )
    columns = 4.0 * n * rank / link + 6.0 * n * rank**2 / (fast * a["client_flops"])
    return {
        "n": n,
        "gpus": P,
        "fits": 4.0 * most <= a["memory_bytes"],
        "bytes_a_gpu": 4.0 * most,
        "touched": touched / n,
        "sent_bytes": 8 * COLUMNS * touched,
        "client_bytes": 8 * n * (12 * OUTPUTS + 2 * rank),
        "rank": rank,
        "build_s": build,
        "write_and_read_s": 2 * stored / a["disk_bytes_per_s"],
        "preconditioner_s": columns,
        "iteration_s": {
            "product": product,
            **{f"by {name}": value for name, value in wire.items()},
            "client": client,
        },
        "exchange": way,
        "cg_s": steps * (product + wire[way] + client),
    }


def figure(rows: list[dict[str, Any]], steps: int, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chart, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for P in WORKERS:
        of = [row for row in rows if row["gpus"] == P]
        for axis, name in zip(axes, ("vec", "gap"), strict=True):
            seconds = [_total(row, name) for row in of]
            (line,) = axis.loglog([row["n"] for row in of], seconds, ":", lw=1)
            kept = [(row["n"], s) for row, s in zip(of, seconds, strict=True) if row["fits"]]
            axis.loglog(
                *zip(*kept, strict=True), "o-", color=line.get_color(), label=f"{P} GPU{'s' if P > 1 else ''}"
            )
            axis.set_title(f"CNN-{name.upper()}, 8 layers, 32×32×3")
            axis.set_xlabel("training rows n")
    axes[0].set_ylabel(f"seconds: Gram, preconditioner, {steps} iterations")
    axes[0].legend(frameon=False)
    for axis in axes:
        for seconds, text in ((60, "a minute"), (3600, "an hour"), (86400, "a day")):
            axis.axhline(seconds, color="0.8", lw=0.6, zorder=0)
            axis.annotate(text, (ROWS[0], seconds), color="0.5", fontsize=7, va="bottom")
    chart.suptitle(
        "Simulated from measured constants and an assumed GPU; dotted where the tiles exceed its memory",
        fontsize=9,
    )
    chart.savefig(path, dpi=120)
    plt.close(chart)


def _total(row: dict[str, Any], name: str) -> float:
    disk = 0.0 if name == "free" else row["write_and_read_s"]
    return float(max(row["build_s"][name], disk) + row["preconditioner_s"] + row["cg_s"])


def markdown(result: dict[str, Any]) -> str:
    machine, m = result["machine"], result["measured"]
    lines = [
        f"Constants measured on {machine['cpu']}, {machine['cores']} cores, load {machine['load_before']} before; "
        f"{machine['date'][:10]}, commit {machine['commit']}. **Simulated: no GPU and no cluster ran this.**",
        "",
        "| measured | |",
        "|---|---|",
        f"| a call of one worker | {1e3 * m['call_s']:.2f} ms |",
        f"| each further one at once | {1e3 * m['each_further_call_s']:.2f} ms |",
        f"| a connection | {m['connection_bytes_per_s'] / 1e9:.2f} GB/s |",
        f"| a worker's product on one core, {COLUMNS} columns | {m['entries_per_s']:.2e} entries/s |",
        f"| client: preconditioner | {m['preconditioner_bytes_per_s'] / 1e9:.1f} GB/s |",
        f"| client: products | {m['client_flops'] / 1e9:.0f} GFlop/s |",
        "| iterations with the preconditioner (without) | "
        + ", ".join(f"n = {row['n']}: {row['with']} ({row['without']})" for row in m["iterations"])
        + " |",
        "",
        "| assumed | | |",
        "|---|---|---|",
        *(f"| {name.replace('_', ' ')} | {value:.3g} | {why} |" for name, (value, why) in ASSUMED.items()),
        "",
        f"{result['steps']} iterations, {COLUMNS} columns, rank 8·√n up to 2,000. Seconds; Gram: computed, or written to and "
        "read from the file system if that takes longer. CG: vectors by the way that the code would choose. "
        "*Italics*: the tiles exceed the memory of the GPUs.",
        "",
        "| n | GPUs | GB a GPU | rows sent ÷ n | MB each way | Gram FCN | VEC | GAP | file system | preconditioner "
        "| iteration: product | vectors by the client | by the workers | client's own | CG | VEC in all | GAP in all |",
        "|" + "---|" * 17,
    ]
    for row in result["rows"]:
        t, build = row["iteration_s"], row["build_s"]
        cells = [
            f"{row['n']:,}",
            str(row["gpus"]),
            f"{row['bytes_a_gpu'] / 1e9:.2g}",
            f"{row['touched']:.1f}",
        ]
        numbers = [row["sent_bytes"] / 1e6, *(build[k] for k in UPDATES), row["write_and_read_s"]]
        numbers += [row["preconditioner_s"], *t.values(), row["cg_s"], _total(row, "vec"), _total(row, "gap")]
        cells += [f"{number:.2g}" if number < 1000 else f"{number:,.0f}" for number in numbers]
        lines.append("| " + " | ".join(cell if row["fits"] else f"*{cell}*" for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller measurements; prints only")
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    parser.add_argument("--steps", type=int, default=100, help="iterations that the model assumes")
    options = parser.parse_args()
    out = options.out or (None if options.quick else RESULTS)
    result: dict[str, Any] = {"machine": facts(), "steps": options.steps, "assumed": ASSUMED}
    result["measured"] = measured(options.quick)
    grid = [(n, P) for n in ROWS[:-1] for P in WORKERS] + [RECORD]
    if options.quick:
        grid = [(n, P) for n, P in grid if n <= 100_000]
    result["rows"] = [model(n, P, result["measured"], options.steps) for n, P in grid]
    print(markdown(result))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "cluster_model.json").write_text(json.dumps(result, indent=1) + "\n")
        (out / "cluster_model.md").write_text(markdown(result))
        figure(
            [row for row in result["rows"] if row["gpus"] in WORKERS],
            options.steps,
            out / "cluster_model.png",
        )
        print(f"wrote {out / 'cluster_model.json'}", file=sys.stderr)


if __name__ == "__main__":
    main()
