"""Does a wide network trained by gradient descent agree with the kernel at the same time?

    python benchmarks/wide_training.py            widths 32 … 1024 → results/wide_training.{json,md,png}; about 5 minutes
    python benchmarks/wide_training.py --quick    a smoke run; prints, and writes to --out only

A fully connected ReLU network with three hidden layers in the NTK parameterization, one output, learns digits ≥ 5 from digits
< 5 (targets ±1, 48 images) by full-batch gradient descent with the loss (1/2m)·Σ|h(x_i) − y_i|², h = f_θ − f_θ₀: its output at
initialisation is subtracted, so that every network starts at the function 0. After k steps of η, t = ηk, the limit of infinite
width is K(x, X)·g(K/m)·y/m, `kernreg.flow`, without a free parameter. On 48 test images, relative to the norm of that prediction:

network     error of one trained network, root mean square over initialisations. Stated error: C/√width.
kernel      the same of the flow on the network's own empirical NTK at initialisation: what the fluctuation of the kernel makes.
            It predicts C, nothing being fitted.
nonlinear   the trained network beside the flow on its own empirical NTK: what the linearisation leaves out, smaller.

Exits with 1 if the slope of "network" misses [−0.65, −0.35], or its ratio to "kernel" leaves [1/1.5, 1.5] at the largest width.
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

import kernreg
from kernreg.architecture import Architecture
from kernreg.drawing import canvas, logarithmic, look
from kernreg.filters import Stop, stop_at
from kernreg.finite import torch
from kernreg.finite.empirical import empirical
from kernreg.finite.networks import Network, network
from kernreg.flow import trained

RESULTS = Path(__file__).parent / "results"
WIDTHS = (32, 64, 128, 256, 512, 1024)
NETWORKS = (16, 16, 12, 8, 6, 4)
TRAIN, TEST = 48, 48
STEP = 0.05  # a tenth of the stability limit: kernels of narrow networks have larger eigenvalues
TIMES = (1, 5, 20)  # 0.78, 0.33 and 0.03 of the loss on the training rows are left then
SLOPES, RATIO = (-0.65, -0.35), 1.5
ARCHITECTURE = Architecture.fcn(3)


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, their targets (m, 1) and test rows."""
    digits = kernreg.load("digits", n=TRAIN, test=TEST, dtype="float64")
    assert digits.labels_train is not None
    return digits.x_train, np.where(digits.labels_train >= 5, 1.0, -1.0)[:, None], digits.x_test


def descend(net: Network, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, stops: list[Stop]) -> np.ndarray:
    """f_t − f_0 on the test rows (s, t, 1) after each number of steps; increasing stops of one step size."""
    like = next(net.parameters())
    rows, targets, tests = (torch.as_tensor(a, dtype=like.dtype) for a in (x, y, x_test))
    with torch.no_grad():
        start, start_test = net(rows), net(tests)
    optimizer = torch.optim.SGD(net.parameters(), lr=STEP)
    found, done = [], 0
    for stop in stops:
        for _ in range(round(stop.time / STEP) - done):
            optimizer.zero_grad()
            loss = (net(rows) - start - targets).square().sum() / (2 * len(rows))
            loss.backward()
            optimizer.step()
        done = round(stop.time / STEP)
        with torch.no_grad():
            found.append((net(tests) - start_test).double().numpy())
    return np.stack(found)


def predict(K: np.ndarray, K_test: np.ndarray, y: np.ndarray, stops: list[Stop]) -> np.ndarray:
    """The kernel's f_t (s, t, 1)."""
    return np.stack([K_test @ α for α in trained(K, y, stops).coefficients])


def measure(widths: tuple[int, ...], networks: tuple[int, ...], out: Path | None) -> dict[str, Any]:
    machine, start = facts(), time.perf_counter()
    x, y, x_test = data()
    K = kernreg.gram(x, None, ARCHITECTURE, kernel="ntk", backend="cpu", dtype="float64")
    K_test = kernreg.gram(x_test, x, ARCHITECTURE, kernel="ntk", backend="cpu", dtype="float64")
    stops = [stop_at(t, STEP) for t in TIMES]
    limit = predict(K, K_test, y, stops)
    norms = np.linalg.norm(limit, axis=(1, 2))
    left = [float(np.square(r).sum() / np.square(y).sum()) for r in trained(K, y, stops).left]

    def errors(a: np.ndarray, b: np.ndarray) -> list[float]:
        return (np.linalg.norm(a - b, axis=(1, 2)) / norms).tolist()

    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for width, count in zip(widths, networks, strict=True):
        began = time.perf_counter()
        found: dict[str, list[list[float]]] = {"network": [], "kernel": [], "nonlinear": []}
        for seed in range(count):
            net = network(ARCHITECTURE, x.shape[1:], width, seed=1000 * width + seed)
            Θ = empirical(net, np.concatenate([x, x_test]), x, "ntk", memory="1GiB")["ntk"]
            own = predict((Θ[:TRAIN] + Θ[:TRAIN].T) / 2, Θ[TRAIN:], y, stops)
            h = descend(net, x, y, x_test, stops)
            for name, value in (
                ("network", errors(h, limit)),
                ("kernel", errors(own, limit)),
                ("nonlinear", errors(h, own)),
            ):
                found[name].append(value)
        rows.append(
            {"width": width, "networks": count, **{k: np.array(v).T.tolist() for k, v in found.items()}}
        )
        print(
            f"width {width}: {count} networks, {time.perf_counter() - began:.1f} s; "
            + ", ".join(f"{k} {rms(np.array(v)[:, -1]):.4f}" for k, v in found.items()),
            flush=True,
        )
        if len(rows) > 1:
            result = {
                "architecture": str(ARCHITECTURE),
                "train": TRAIN,
                "test": TEST,
                "step": STEP,
                "steps": [round(t / STEP) for t in TIMES],
                "times": [s.time for s in stops],
                "training_loss": left,
                "rows": rows,
                "fits": [_fits(rows, i) for i in range(len(stops))],
                "machine": machine,
                "torch": torch.__version__,
                "seconds": round(time.perf_counter() - start, 1),
            }
            if out is not None:
                save(result, out)
    return result


def _fits(rows: list[dict[str, Any]], i: int) -> dict[str, Any]:
    """Slopes at one time with bootstrap intervals, C, and the ratio of network and kernel at the largest width."""
    rng, found = np.random.default_rng(0), {}
    log_width = np.log([row["width"] for row in rows])
    for name in ("network", "kernel", "nonlinear"):
        each = [np.array(row[name][i]) for row in rows]
        slopes = [
            np.polyfit(log_width, [np.log(rms(rng.choice(e, len(e)))) for e in each], 1)[0]
            for _ in range(1000)
        ]
        found[name] = {
            "slope": float(np.polyfit(log_width, [np.log(rms(e)) for e in each], 1)[0]),
            "interval": np.quantile(slopes, [0.025, 0.975]).tolist(),
        }
    last = rows[-1]
    found["C"] = float(
        np.exp(np.mean([np.log(rms(np.array(row["network"][i])) * np.sqrt(row["width"])) for row in rows]))
    )
    found["ratio"] = rms(np.array(last["network"][i])) / rms(np.array(last["kernel"][i]))
    return found


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"Networks trained by gradient descent beside their kernel: {result['architecture']}; {result['train']} training and "
        f"{result['test']} test images, η = {result['step']:g}. {machine['cpu']}, {machine['cores']} cores, PyTorch "
        f"{result['torch']}, commit {machine['commit']}, {machine['date']}, {result['seconds']:.0f} s. What the columns are "
        "stands at the top of `benchmarks/wide_training.py`.",
        "",
        "| t | width | networks | network | stated C/√width | kernel | nonlinear |",
        "|---|---|---|---|---|---|---|",
    ]
    for i, (t, fit) in enumerate(zip(result["times"], result["fits"], strict=True)):
        for row in result["rows"]:
            numbers = [f"{rms(np.array(row[name][i])):.4f}" for name in ("network", "kernel", "nonlinear")]
            stated = f"{fit['C'] / np.sqrt(row['width']):.4f}"
            cells = (f"{t:g}", row["width"], row["networks"], numbers[0], stated, *numbers[1:])
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        "| t | training loss left | C | slope network | slope kernel | slope nonlinear | network/kernel |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for t, left, fit in zip(result["times"], result["training_loss"], result["fits"], strict=True):
        slopes = [
            "{slope:.2f} [{0:.2f}, {1:.2f}]".format(*fit[k]["interval"], slope=fit[k]["slope"])
            for k in ("network", "kernel", "nonlinear")
        ]
        cells = (f"{t:g}", f"{left:.3f}", f"{fit['C']:.2f}", *slopes, f"{fit['ratio']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(result: dict[str, Any], path: Path) -> None:
    names = ("network", "kernel", "nonlinear")
    with canvas(11.0, 3.8) as drawn:
        for i, axes in enumerate(drawn.subplots(1, len(result["times"]), sharey=True)):
            widths = np.array([row["width"] for row in result["rows"]])
            for k, name in enumerate(names):
                values = [rms(np.array(row[name][i])) for row in result["rows"]]
                slope = result["fits"][i][name]["slope"]
                axes.plot(widths, values, lw=1.3, ms=4, label=f"{name}  {slope:.2f}", **look(k))
            axes.plot(widths, result["fits"][i]["C"] / np.sqrt(widths), color="0.5", lw=0.9, label="C/√width")
            logarithmic(axes)
            axes.set_title(f"t = {result['times'][i]:g}", fontsize=10)
            axes.set_xlabel("width")
            axes.legend(fontsize=7.5, title="slope", title_fontsize=7.5)
            if not i:
                axes.set_ylabel("error / norm of the kernel's prediction")
        drawn.savefig(path)


def save(result: dict[str, Any], out: Path) -> None:
    """After every width but the first, so that a run that is cut short has its results."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    (out / "wide_training.json").write_text(text + "\n", encoding="utf-8")
    (out / "wide_training.md").write_text(markdown(result), encoding="utf-8")
    figure(result, out / "wide_training.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few networks, narrow: it runs, not how well")
    parser.add_argument("--widths", type=int, nargs="+", help="in place of all")
    parser.add_argument("--networks", type=int, nargs="+", help="of each of them")
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    out = options.out or (None if options.quick else RESULTS)
    widths, networks = ((16, 32), (3, 3)) if options.quick else (WIDTHS, NETWORKS)
    result = measure(tuple(options.widths or widths), tuple(options.networks or networks), out)
    print(markdown(result))
    agree = all(
        SLOPES[0] <= fit["network"]["slope"] <= SLOPES[1] and 1 / RATIO <= fit["ratio"] <= RATIO
        for fit in result["fits"]
    )
    if not options.quick and not agree:
        sys.exit("the trained networks do not agree with the kernel as stated")


if __name__ == "__main__":
    main()
