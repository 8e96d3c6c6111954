"""Are breaks found where they were planted, and none where none was?

    python benchmarks/break_detection.py [--seeds 100] [--out benchmarks/results/break_detection.json]

Each family is drawn once per seed and given to `kernreg.breaks.detect_break` with its defaults.

regression   kernel regression on Gaussian features, λ_k ~ k^-2, 512 training and 512 test rows, with replicates:
             targets whose energy beyond mode k follows a broken law (DIDE; where the curve itself then breaks
             is read off its own expectation, the eigenlearning curve without scatter), plain power laws, and
             the same with noise in all labels (a floor)
law          a law times correlated noise, as bare losses without replicates

A break counts as located if it is of the planted kind and within a factor 1.5 of the planted place. Families marked
faint change the slope by less than this scatter lets one place, or call, nine times of ten; they are shown, not judged.
A law with a small offset may be called a crossover or no break. Exits with 1 if a DIDE break that is not faint is located
in fewer than 90 % of the seeds, DIDE or a crossover reported for more than 5 % of the smooth curves of a family, or a
planted crossover called otherwise in more than 10 %.
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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import kernreg
from kernreg.breaks import CROSSOVER, DIDE, NONE, Break, detect_break
from kernreg.curve import learning_curve
from kernreg.data.synthetic import spectra
from kernreg.exponent import FIRST_SAMPLES
from kernreg.powerlaws import PowerLaw
from kernreg.scatter import points_of_arrays
from kernreg.theory import eigenlearning

ROWS, TESTS, MODES, B = 512, 512, 2048, 2.0
ANCHORS = np.unique(np.floor(ROWS / 2 ** (np.arange(0, 13) / 2)))
LAW_SAMPLES = np.unique(np.round(8 * 2 ** (np.arange(0, 16) / 2)))
NEAR, NOISE = 1.5, 0.1


@dataclass(frozen=True)
class Family:
    """One kind of curve.

    Attributes:
        name: for the table.
        kinds: what `detect_break` may call it; the first is what was planted.
        at: the planted place, or None.
        draw: seed → break found.
        judged: whether the exit status depends on it.
    """

    name: str
    kinds: tuple[str, ...]
    at: float | None
    draw: Callable[[int], Break]
    judged: bool = True


def broken_energies(before: float, after: float, place: float, f: float = 0.1) -> np.ndarray:
    """v_k² (MODES,) whose sum beyond k is k^-before·(1 + (k/place)^(1/f))^((before − after)·f), 1 in all.

    As in `spectra`, the last modes share what lies beyond the others.
    """
    last = MODES - round(MODES / B)
    k = np.arange(last + 1) + 0.5
    tail = k**-before * (1 + (k / place) ** (1 / f)) ** ((before - after) * f)
    energies = np.concatenate([tail[:-1] - tail[1:], np.full(MODES - last, tail[-1] / (MODES - last))])
    return np.asarray(energies / energies.sum())


def regression(energies: np.ndarray, noise: float, seed: int) -> Break:
    """Kernel regression on Gaussian features without ridge; noise in training and test labels."""
    rng = np.random.default_rng(seed)
    λ = spectra(2.0, B, MODES)[0]
    g = rng.standard_normal((ROWS + TESTS, MODES))
    y = g @ (np.sqrt(energies) * rng.choice([-1.0, 1.0], MODES)) + noise * rng.standard_normal(len(g))
    K = (g * λ) @ g[:ROWS].T
    square = (K[:ROWS] + K[:ROWS].T) / 2
    return detect_break(learning_curve(square, y[:ROWS], K[ROWS:], y[ROWS:], ridge=0.0, loo=False))


def expected_place(energies: np.ndarray) -> float:
    """Where the expectation of the curve breaks: the best break of the eigenlearning curve."""
    m = ANCHORS[ANCHORS >= FIRST_SAMPLES]
    return detect_break(m, eigenlearning(spectra(2.0, B, MODES)[0], energies, m).mse).at


def law(law: PowerLaw, noise: float, seed: int) -> Break:
    """A law times noise as one nested curve has it: variance ~ m^-1/2, correlation m/m'."""
    G = np.linalg.cholesky(points_of_arrays(LAW_SAMPLES, np.ones(len(LAW_SAMPLES))).training)
    rng = np.random.default_rng(seed)
    scatter = noise * G @ rng.standard_normal(len(LAW_SAMPLES))
    return detect_break(LAW_SAMPLES, law.predict(LAW_SAMPLES) * np.exp(scatter))


def families() -> list[Family]:
    found = []
    for before, after, place, faint in ((0.3, 2.0, 64, ""), (0.5, 2.5, 48, ""), (0.2, 1.0, 64, ", faint")):
        v2 = broken_energies(before, after, place)
        name = f"regression, {before:g} → {after:g} at mode {place}{faint}"
        draw = partial(regression, v2, 0.0)
        found.append(Family(name, (DIDE,), expected_place(v2), draw, judged=not faint))
    for f in (0.1, 0.35):
        dide = PowerLaw("broken", {"A": 1.0, "c0": 0.2, "c1": 0.6, "d": 120.0, "f": f})
        found.append(Family(f"law, 0.2 → 0.8, f = {f:g}", (DIDE,), 120.0, partial(law, dide, NOISE)))
    for a in (1.1, 1.5, 2.0, 3.0):
        smooth = partial(regression, spectra(a, B, MODES)[1], 0.0)
        found.append(Family(f"regression, a = {a:g}", (NONE,), None, smooth))
    for β in (0.1, 0.5, 1.5):
        plain = PowerLaw("power", {"A": 1.0, "beta": β})
        found.append(Family(f"law, power {β:g}", (NONE,), None, partial(law, plain, NOISE)))
    for E in (0.003, 0.01):
        mild = PowerLaw("offset", {"A": 1.0, "beta": 0.5, "E": E})
        found.append(Family(f"law, power 0.5 + {E:g}", (NONE, CROSSOVER), None, partial(law, mild, NOISE)))
    for noise, faint in ((0.05, ", faint"), (0.1, "")):
        noisy = partial(regression, spectra(2.0, B, MODES)[1], noise)
        name = f"regression, label noise {noise:g}{faint}"
        found.append(Family(name, (CROSSOVER,), None, noisy, judged=not faint))
    floor = PowerLaw("offset", {"A": 1.0, "beta": 1.0, "E": 0.01})
    found.append(Family("law, power 1 + 0.01", (CROSSOVER,), None, partial(law, floor, NOISE)))
    slower = PowerLaw("broken", {"A": 1.0, "c0": 1.2, "c1": -0.8, "d": 100.0, "f": 0.3})
    found.append(Family("law, 1.2 → 0.4", (CROSSOVER,), 100.0, partial(law, slower, NOISE)))
    return found


def summary(family: Family, breaks: list[Break]) -> dict[str, Any]:
    kinds = Counter(b.kind for b in breaks)
    record: dict[str, Any] = {
        "family": family.name,
        "planted": family.kinds[0],
        "planted_at": family.at,
        "kinds": dict(kinds),
        "right": sum(kinds[kind] for kind in family.kinds),
        "median_p_value": float(np.median([b.p_value for b in breaks])),
        "judged": family.judged,
    }
    if family.at is not None:
        right = [b.kind == family.kinds[0] for b in breaks]
        off = np.where(right, np.abs(np.log([b.at / family.at for b in breaks])), np.inf)
        record["located"] = int((off <= np.log(NEAR)).sum())
        record["median_factor"] = float(np.exp(np.median(off))) if np.isfinite(np.median(off)) else None
        record["interval_holds_it"] = sum(b.at_interval[0] <= family.at <= b.at_interval[1] for b in breaks)
    return record


def failed(record: dict[str, Any], seeds: int) -> bool:
    """Whether a family misses what it must show."""
    if not record["judged"]:
        return False
    if record["planted"] == DIDE:
        return bool(record["located"] < 0.9 * seeds)
    return bool(record["right"] < (0.95 if record["planted"] == NONE else 0.9) * seeds)


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
