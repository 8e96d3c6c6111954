"""Are breaks found where they were planted, and none where none was?

    python benchmarks/break_detection.py [--seeds 100] [--out benchmarks/results/break_detection.json]

Each family is drawn once per seed and given to `kernreg.breaks.detect_break` with its defaults.

regression   kernel regression on Gaussian features, λ_k ~ k^-2, 512 training and 512 test rows, with replicates:
             targets whose energies fall slowly up to mode k* and fast beyond it (a DIDE break; where the curve
             breaks is read off its own expectation, the eigenlearning curve without scatter), plain power
             laws, and the same with noise in all labels (a floor)
law          a law times correlated noise, as bare losses without replicates

A break counts as located if it is of the planted kind and within a factor 1.5 of the planted place.
Exits with 1 if a planted DIDE break is located in fewer than 90 %, a break reported for more than 5 % of the smooth
curves of a family, or a crossover ever taken for DIDE.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import kernreg
from kernreg.breaks import CROSSOVER, DIDE, NONE, Break, detect_break
from kernreg.curve import learning_curve
from kernreg.data.synthetic import spectra
from kernreg.exponent import FIRST_SAMPLES
from kernreg.powerlaws import PowerLaw, fit_law
from kernreg.scatter import points_of_arrays
from kernreg.theory import eigenlearning

ROWS, TESTS, MODES, B = 512, 512, 2048, 2.0
ANCHORS = np.unique(np.floor(ROWS / 2 ** (np.arange(0, 13) / 2)))
LAW_SAMPLES = np.unique(np.round(8 * 2 ** (np.arange(0, 16) / 2)))
NEAR = 1.5


@dataclass(frozen=True)
class Family:
    """One kind of curve.

    Attributes:
        name: for the table.
        kind: what `detect_break` should call it.
        at: the planted place, or None.
        draw: seed → break found.
    """

    name: str
    kind: str
    at: float | None
    draw: Callable[[int], Break]


def broken_energies(a: float, beyond: float, place: int) -> np.ndarray:
    """v_k² ~ k^-a up to mode `place`, k^-beyond after it, summing to 1; the last modes hold the tail."""
    energies = spectra(a, B, MODES)[1].copy()
    steep = spectra(beyond, B, MODES)[1]
    energies[place:] = steep[place:] * energies[place - 1] / steep[place - 1]
    return np.asarray(energies / energies.sum())


def regression(energies: np.ndarray, noise: float, seed: int) -> Break:
    """Kernel regression on Gaussian features; the ridge is the noise variance, or 0."""
    rng = np.random.default_rng(seed)
    λ = spectra(2.0, B, MODES)[0]
    g = rng.standard_normal((ROWS + TESTS, MODES))
    y = g @ (np.sqrt(energies) * rng.choice([-1.0, 1.0], MODES)) + noise * rng.standard_normal(len(g))
    K = (g * λ) @ g[:ROWS].T
    square = (K[:ROWS] + K[:ROWS].T) / 2
    return detect_break(learning_curve(square, y[:ROWS], K[ROWS:], y[ROWS:], ridge=0.0, loo=False))


def expected_place(energies: np.ndarray) -> float:
    """Where the expectation of the curve breaks: the broken law nearest to the eigenlearning curve."""
    m = ANCHORS[ANCHORS >= FIRST_SAMPLES]
    loss = eigenlearning(spectra(2.0, B, MODES)[0], energies, m).mse
    return fit_law("broken", m, np.log(loss), np.eye(len(m)))[0].parameters["d"]


def law(law: PowerLaw, noise: float, seed: int) -> Break:
    """A law times noise as one nested curve has it: variance ~ m^-1/2, correlation m/m'."""
    G = np.linalg.cholesky(points_of_arrays(LAW_SAMPLES, np.ones(len(LAW_SAMPLES))).training)
    rng = np.random.default_rng(seed)
    scatter = noise * G @ rng.standard_normal(len(LAW_SAMPLES))
    return detect_break(LAW_SAMPLES, law.predict(LAW_SAMPLES) * np.exp(scatter))


def families() -> list[Family]:
    found = []
    for a, beyond, place in ((1.3, 3.0, 48), (1.5, 4.0, 48), (1.2, 2.5, 64)):
        v2 = broken_energies(a, beyond, place)
        name = f"regression, a = {a:g} → {beyond:g} at mode {place}"
        found.append(Family(name, DIDE, expected_place(v2), lambda s, v2=v2: regression(v2, 0.0, s)))
    for f in (0.1, 0.5):
        dide = PowerLaw("broken", {"A": 1.0, "c0": 0.2, "c1": 0.6, "d": 120.0, "f": f})
        found.append(Family(f"law, 0.2 → 0.8, f = {f:g}", DIDE, 120.0, lambda s, p=dide: law(p, 0.1, s)))
    for a in (1.1, 1.5, 2.0, 3.0):
        v2 = spectra(a, B, MODES)[1]
        found.append(Family(f"regression, a = {a:g}", NONE, None, lambda s, v2=v2: regression(v2, 0.0, s)))
    for β in (0.1, 0.5, 1.5):
        plain = PowerLaw("power", {"A": 1.0, "beta": β})
        found.append(Family(f"law, power {β:g}", NONE, None, lambda s, p=plain: law(p, 0.1, s)))
    mild = PowerLaw("offset", {"A": 1.0, "beta": 0.5, "E": 0.01})
    found.append(Family("law, power 0.5 + 0.01", NONE, None, lambda s: law(mild, 0.1, s)))
    for noise in (0.1, 0.3):
        v2 = spectra(2.0, B, MODES)[1]
        found.append(
            Family(
                f"regression, label noise {noise:g}",
                CROSSOVER,
                None,
                lambda s, v2=v2, e=noise: regression(v2, e, s),
            )
        )
    floor = PowerLaw("offset", {"A": 1.0, "beta": 1.0, "E": 0.01})
    found.append(Family("law, power 1 + 0.01", CROSSOVER, None, lambda s: law(floor, 0.1, s)))
    slower = PowerLaw("broken", {"A": 1.0, "c0": 1.2, "c1": -0.8, "d": 100.0, "f": 0.3})
    found.append(Family("law, 1.2 → 0.4", CROSSOVER, 100.0, lambda s: law(slower, 0.1, s)))
    return found


def summary(family: Family, breaks: list[Break]) -> dict[str, Any]:
    kinds = Counter(b.kind for b in breaks)
    record: dict[str, Any] = {
        "family": family.name,
        "planted": family.kind,
        "planted_at": family.at,
        "kinds": dict(kinds),
        "right": kinds[family.kind],
        "median_p_value": float(np.median([b.p_value for b in breaks])),
    }
    if family.at is not None:
        off = np.array([abs(np.log(b.at / family.at)) if b.kind == family.kind else np.inf for b in breaks])
        record["located"] = int((off <= np.log(NEAR)).sum())
        record["median_factor"] = float(np.exp(np.median(off)))
        record["interval_holds_it"] = sum(b.at_interval[0] <= family.at <= b.at_interval[1] for b in breaks)
    return record


def failed(record: dict[str, Any], seeds: int) -> bool:
    """Whether a family misses what it must show; smooth curves may bend to a crossover no more than to DIDE."""
    if record["planted"] == DIDE:
        return bool(record["located"] < 0.9 * seeds)
    if record["planted"] == NONE:
        return bool(seeds - record["right"] > 0.05 * seeds)
    return DIDE in record["kinds"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--only", default="", help="families whose name begins so")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "break_detection.json"
    )
    given = parser.parse_args(arguments)
    began, records = time.perf_counter(), []
    for family in families():
        if not family.name.startswith(given.only):
            continue
        record = summary(family, [family.draw(seed) for seed in range(given.seeds)])
        record["failed"] = failed(record, given.seeds)
        records.append(record)
        place = f"  located {record['located']}" if family.at is not None else ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in record["kinds"].items())
        print(f"{'FAILED ' if record['failed'] else ''}{family.name}: {kinds}{place}", flush=True)
    result = {
        "seeds": given.seeds,
        "near": NEAR,
        "families": records,
        "seconds": round(time.perf_counter() - began, 1),
        "kernreg": kernreg.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(any(record["failed"] for record in records))


if __name__ == "__main__":
    sys.exit(main())
