"""Training many small networks in one pass beside a loop that trains them one by one.

A pass is `kernreg.finite.descent.descend` of an ensemble. The loop is plain PyTorch, as one writes it for a single network: a
module (conv2d, a batched product for local weights), `torch.optim.SGD(fused=True)`, rows by index; and, as a second peer,
`descend` of one network at a time. All see the same rows in the same order from the same weights; before anything is timed the
predictions of the trained networks are compared.

    python benchmarks/ensemble.py            full, minutes; writes results/ensemble.json and .md
    python benchmarks/ensemble.py --quick    one case, once; prints only
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring.machine import facts
from measuring.rates import ratio, summary

import kernreg
from kernreg.architecture import Architecture
from kernreg.finite.batches import Batches, Images, Member
from kernreg.finite.curves import make
from kernreg.finite.descent import descend
from kernreg.finite.ensemble import Ensemble
from kernreg.finite.stepsize import step_size
from kernreg.training import Trained, Training

RESULTS = Path(__file__).parent / "results"
PEER = "loop, plain PyTorch"
TARGET = 5.0  # times faster per network than the faster loop
AGREE = 1e-6  # of predictions of order 1 in float64. In float32 a ReLU's input within rounding of 0 falls on
# either side, after which two trainings may be 1e-2 apart: told, not judged


@dataclass(frozen=True)
class Case:
    """Networks of one architecture on disjoint sets of m digits."""

    name: str
    preset: str
    width: int
    m: int
    batch: int
    networks: int
    steps: int
    alone: int  # networks that the loops train, of the same ensemble

    def trained(self, precision: str) -> Trained:
        """Architecture and training."""
        training = Training(
            width=self.width, batch=self.batch, steps=self.steps, epochs=0.0, precision=precision
        )
        return Trained(Architecture.preset(self.preset), training)


CASES = (
    Case("fcn-w64", "fcn", 64, 64, 16, 32, 400, 6),
    Case("lcn-w8", "lcn", 8, 64, 16, 32, 200, 6),
    Case("vec-w8", "vec", 8, 64, 16, 32, 200, 6),
    Case("gap-w8", "gap", 8, 64, 16, 32, 200, 6),
    Case("vec-w16", "vec", 16, 64, 16, 32, 200, 6),
    Case("gap-w16, batch 8", "gap", 16, 32, 8, 32, 200, 6),
)
QUICK = (Case("fcn-w64", "fcn", 64, 32, 16, 16, 40, 3),)


class Contest:
    """One case: weights, rows and step size, and the three ways to train."""

    def __init__(self, case: Case, precision: str = "float32") -> None:
        self.case, self.trained = case, case.trained(precision)
        self.training = self.trained.training
        dtype = getattr(torch, precision)
        data = kernreg.load("digits", n=1024, test=64)
        self.images = Images(data.x_train, data.y_train, dtype, "cpu")
        self.tests = torch.from_numpy(data.x_test).to(dtype)
        sets = 1024 // case.m
        self.members = [Member(case.m, case.m * (e % sets), e // sets) for e in range(case.networks)]
        self.shape, self.outputs = data.shape, data.y_train.shape[1]
        self.lr = step_size(self.template(), self.images.x, self.training)

    def template(self, seed: int = 0) -> Any:
        return make(self.trained, self.shape, self.outputs, seed)

    def passed(self) -> torch.Tensor:
        """(E, t, outputs): all networks in one pass."""
        ensemble = Ensemble(self.template(), [m.seeds(self.training)[0] for m in self.members])
        descend(ensemble, self.images, Batches(self.members, self.training), self.training, self.lr)
        return ensemble.predict(self.tests, 64)

    def one_by_one(self) -> torch.Tensor:
        """(alone, t, outputs): ours, one network at a time."""
        found = []
        for member in self.members[: self.case.alone]:
            ensemble = Ensemble(self.template(), [member.seeds(self.training)[0]])
            descend(ensemble, self.images, Batches([member], self.training), self.training, self.lr)
            found.append(ensemble.predict(self.tests, 64))
        return torch.cat(found)

    def plain(self) -> torch.Tensor:
        """(alone, t, outputs): PyTorch as one writes it."""
        found, t, x, y = [], self.training, self.images.x, self.images.y
        for member in self.members[: self.case.alone]:
            net = self.template(member.seeds(t)[0])
            optimizer = torch.optim.SGD(net.parameters(), self.lr, t.momentum, fused=True)
            batches = Batches([member], t)
            for block in range(batches.blocks):
                for rows in batches.rows(block)[:, 0]:
                    optimizer.zero_grad()
                    loss = (net(x[rows]) - y[rows]).square().sum() / (2 * len(rows))
                    loss.backward()
                    optimizer.step()
            with torch.no_grad():
                found.append(net(self.tests))
        return torch.stack(found)


def differences(contest: Contest) -> dict[str, float]:
    """The largest from the peer's predictions, of the networks that the loops train."""
    truth, alone = contest.plain(), contest.case.alone
    contest.members = contest.members[: max(alone, 2)]
    found = {"pass": contest.passed()[:alone], "loop of passes of one": contest.one_by_one()}
    return {name: float((f - truth).abs().max()) for name, f in found.items()}


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Verified, then timed in turns; rates in networks/s."""
    errors = {precision: differences(Contest(case, precision)) for precision in ("float64", "float32")}
    for name, error in errors["float64"].items():
        if not error <= AGREE:
            raise SystemExit(f"{case.name}, {name}: predictions differ by {error:.1e}: red, nothing is timed")
    contest = Contest(case)
    runs: dict[str, tuple[Callable[[], torch.Tensor], int]] = {
        "pass": (contest.passed, case.networks),
        "loop of passes of one": (contest.one_by_one, case.alone),
        PEER: (contest.plain, case.alone),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (run, networks) in runs.items():
            start = time.perf_counter()
            run()
            rates[name].append(networks / (time.perf_counter() - start))
    loops = [name for name in runs if name != "pass"]
    faster = max(loops, key=lambda name: summary(rates[name])["median"])
    return {
        "case": case.name,
        "settings": vars(case),
        "lr": contest.lr,
        "largest_difference": errors,
        "networks_per_s": {name: summary(values) for name, values in rates.items()},
        "faster_loop": faster,
        "ratio_to_faster_loop": ratio(rates["pass"], rates[faster]),
        "target": TARGET,
    }


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']} before; {machine['date'][:10]}, "
        f"commit {machine['commit']}, PyTorch {result['torch']}, {result['threads']} threads. Digits, depth 3, float32, SGD.",
        "",
        "| case | networks | m | batch | steps | pass, networks/s | plain PyTorch loop | own loop | × faster loop | 20–80 % "
        "| difference, float64 | float32 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        s, rates, r = row["settings"], row["networks_per_s"], row["ratio_to_faster_loop"]
        cells = (
            row["case"],
            *(str(s[key]) for key in ("networks", "m", "batch", "steps")),
            *(f"{rates[n]['median']:.3g}" for n in ("pass", PEER, "loop of passes of one")),
            f"{r['median']:.2g}",
            f"{r['q20']:.2g}–{r['q80']:.2g}",
            *(f"{max(row['largest_difference'][p].values()):.0e}" for p in ("float64", "float32")),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\nTarget: {TARGET:g} times the faster loop, per network.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small case, once; prints only")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", action="append", help="by name; may be repeated")
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    out = options.out or (None if options.quick else RESULTS)
    cases = [
        case for case in (QUICK if options.quick else CASES) if not options.case or case.name in options.case
    ]
    result = {"machine": facts(), "torch": torch.__version__, "threads": torch.get_num_threads(), "rows": []}
    for case in cases:
        print(f"{case.name} …", file=sys.stderr, flush=True)
        result["rows"].append(measure(case, 1 if options.quick else options.repeats))
    print(markdown(result))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "ensemble.json").write_text(json.dumps(result, indent=1) + "\n")
        (out / "ensemble.md").write_text(markdown(result))


if __name__ == "__main__":
    main()
