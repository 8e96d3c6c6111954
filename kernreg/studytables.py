"""Tables of a study: every curve, curves that must be one, rungs, pairs, and where the numbers come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernreg.ladder import groups, placements, ratio_text
from kernreg.outcomes import Outcomes
from kernreg.pairs import Difference
from kernreg.studyfile import AXES
from kernreg.theorypanels import departures


@dataclass(frozen=True)
class Table:
    """Rows as text for people and as values for JSON and for sorting.

    Attributes:
        head: of the columns.  keys: their names in JSON.
        kinds: "" for numbers, "text" or "prose" for words.
        rows: text.  values: (len(rows), len(head)).
        red: numbers of rows that are wrong.
        empty: what to say if there are no rows.
    """

    head: tuple[str, ...]
    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    values: tuple[tuple[Any, ...], ...]
    red: frozenset[int] = frozenset()
    empty: str = "None."


# head, key in JSON, kind
_Column = tuple[str, str, str]


def curve_table(outcomes: Outcomes) -> Table:
    """One row for each curve; an axis on which all agree has no column."""
    columns: list[_Column] = [
        ("architecture", "architecture", "text"),
        ("kernel", "kernel", "text"),
        ("transform", "transform", "text"),
        ("seed", "transform_seed", ""),
        ("rows", "seed", ""),
        ("n", "n", ""),
        ("exponent", "exponent", ""),
        ("interval", "interval", "text"),
        ("model", "model", "text"),
        ("window", "window", "text"),
        ("loss at n", "loss", ""),
        ("error", "error", ""),
        ("GCV off", "gcv_departure", ""),
        ("theory off", "theory_departure", ""),
        ("β of spectrum", "spectral_exponent", ""),
    ]
    rows = []
    for o in outcomes.measured:
        e, fit, off = o.entry, o.fit, departures(o)
        star = "*" if fit is not None and fit.warnings else ""
        told = (None, "–", "–", "–") if fit is None else (
            fit.exponent, f"[{fit.interval[0]:.3f}, {fit.interval[1]:.3f}]{star}", fit.model,
            f"{fit.window[0]:g}…{fit.window[1]:g}",
        )  # fmt: skip
        error = None if o.curve.error is None else float(o.curve.error[-1])
        spectral = (o.about["spectral_exponents"] or {}).get("beta")
        gcv, theory = (off[name].worst if name in off else None for name in ("gcv", "theory"))
        texts = (
            e.architecture.name,
            e.kernel,
            e.transform,
            _text(e.transform_seed),
            str(e.seed),
            str(e.n),
            _text(told[0], ".3f"),
            *map(str, told[1:]),
            f"{o.loss:.4g}",
            _percent(error, 2),
            _percent(gcv, 0),
            _percent(theory, 0),
            _text(spectral, ".2f"),
        )
        values = (*e.axes().values(), *told, o.loss, error, gcv, theory, spectral)
        rows.append((texts, values))
    varied = [i for i in range(len(AXES)) if i == 0 or len({values[i] for _, values in rows}) > 1]
    kept = [*varied, *range(len(AXES), len(columns))]
    return _made([columns[i] for i in kept], [([t[i] for i in kept], [v[i] for i in kept]) for t, v in rows])


def break_table(outcomes: Outcomes) -> Table:
    """One row for each curve in which a break was looked for."""
    columns: list[_Column] = [
        ("curve", "label", "text"),
        ("found", "kind", "text"),
        ("at m", "at", ""),
        ("exponent before", "before", ""),
        ("after", "after", ""),
        ("p", "p_value", ""),
        ("", "sentence", "prose"),
    ]
    rows: list[tuple[tuple[str, ...], tuple[Any, ...]]] = []
    for o in outcomes.measured:
        if (b := o.broken) is None:
            continue
        numbers = (b.at, b.before, b.after) if b.found else (None, None, None)
        texts = (o.label, b.kind, *(_text(v, ".3g") for v in numbers), f"{b.p_value:.2g}", b.sentence())
        rows.append((texts, (o.label, b.kind, *numbers, b.p_value, b.sentence())))
    return _made(columns, rows, empty="Breaks were not looked for, or the curves have too few points.")


def coincidence_table(outcomes: Outcomes) -> Table:
    """One row for each pair that must be one, the failing ones first."""
    columns: list[_Column] = [
        ("curve", "first", "text"),
        ("and", "second", "text"),
        ("largest difference", "gap", ""),
        ("at m", "at", ""),
        ("allowed", "tolerance", ""),
        ("says", "by", "text"),
        ("", "holds", "text"),
    ]
    ordered = sorted(outcomes.coincidences, key=lambda c: c.holds)
    rows = [
        (
            (c.first.label, c.second.label, f"{c.gap:.1e}", str(c.at), f"{c.tolerance:.0e}", f"the {c.by}",
             "✓ one" if c.holds else "✗ not one"),
            (c.first.label, c.second.label, c.gap, c.at, c.tolerance, c.by, c.holds),
        )
        for c in ordered
    ]  # fmt: skip
    red = frozenset(i for i, c in enumerate(ordered) if not c.holds)
    return _made(columns, rows, red, "No curves of this study must coincide.")


def rung_table(outcomes: Outcomes) -> Table:
    """One row for each transformed curve whose architecture was measured untransformed too."""
    columns: list[_Column] = [
        ("curve", "label", "text"),
        ("loss at n", "loss", ""),
        ("× its own untransformed", "own", "text"),
        ("× the lowest rung", "floor", "text"),
        ("place", "place", "text"),
    ]
    rows = []
    for group in groups(outcomes):
        for p in placements(group):
            floor = "–" if p.floor is None else ratio_text(p.floor)
            texts = (p.outcome.label, f"{p.outcome.loss:.4g}", ratio_text(p.own), floor, p.place)
            rows.append((texts, (p.outcome.label, p.outcome.loss, *texts[2:])))
    return _made(columns, rows, empty="No transformed curve has its architecture untransformed beside it.")


def pair_table(outcomes: Outcomes) -> Table:
    """One row for each comparison; ρ is the correlation of the training scatter."""
    columns: list[_Column] = [
        ("curve", "first", "text"),
        ("beside", "second", "text"),
        ("exponents", "exponents", "text"),
        ("difference", "difference", ""),
        ("interval", "interval", "text"),
        ("", "sign", "text"),
        ("window", "window", "text"),
        ("ρ", "correlation", ""),
        ("loss ratio at n", "loss_ratio", "text"),
    ]
    rows = []
    for c in outcomes.comparisons:
        d, ratio = c.exponent, ratio_text(c.loss)
        if d is None:
            texts: tuple[str, ...] = ("–", "–", c.reason, "", "–", "–")
            numbers: tuple[Any, ...] = (None, None, c.reason, "", None, None)
        else:
            both, interval = (
                f"{d.both[0]:.3f}, {d.both[1]:.3f}",
                f"[{d.interval[0]:+.3f}, {d.interval[1]:+.3f}]",
            )
            window = f"{d.window[0]:g}…{d.window[1]:g} {d.model}"
            texts = (both, f"{d.value:+.3f}", interval, _sign(d), window, _text(d.correlation, ".2f"))
            numbers = (list(d.both), d.value, list(d.interval), _sign(d), list(d.window), d.correlation)
        names = (c.first.label, c.second.label)
        rows.append(((*names, *texts, ratio), (*names, *numbers, math.exp(c.loss.value))))
    return _made(columns, rows, empty="No two curves of this study are compared.")


def warning_list(outcomes: Outcomes) -> list[str]:
    """Sentences, each with the curve that it is about."""
    said = []
    for o in outcomes.measured:
        if o.unfit:
            said.append(f"{o.label}: {o.unfit}")
        said += [f"{o.label}: {sentence}" for sentence in (o.fit.warnings if o.fit is not None else ())]
        said += [f"{o.label}: {sentence}" for sentence in (o.broken.warnings if o.broken is not None else ())]
    unpaired = sum(c.loss.correlation is None for c in outcomes.comparisons)
    if unpaired:
        said.append(
            f"{unpaired} of {len(outcomes.comparisons)} comparisons are of curves on different rows or without "
            "replicates: their draws are independent, and the intervals wider"
        )
    if len(outcomes.comparisons) > 1:
        said.append(
            f"{len(outcomes.comparisons)} comparisons at 95 % each: about one in twenty excludes 0 by chance alone"
        )
    return said


def provenance(outcomes: Outcomes) -> list[tuple[str, str]]:
    """Names and values: versions, data and their hashes, stores and the checksums of their numbers."""
    first = outcomes.measured[0].about
    data = first["data"]
    facts = [
        ("measured with", ", ".join(sorted({_versions(o.about["versions"]) for o in outcomes.measured}))),
        *_computed(outcomes),
        (
            "data",
            f"{data.get('name')}: seed {data.get('seed')}, normalise {data.get('normalise')}, {data.get('targets')}",
        ),
        *((f"sha256 of {name}", value) for name, value in sorted(data.get("hashes", {}).items())),
    ]
    made = {o.about["store"]: o for o in outcomes.measured if o.entry.network is None}
    for store, o in sorted(made.items()):
        checks = f"K(train) xxh3 {o.about['train_checksum']}, K(test) {o.about['test_checksum']}"
        facts.append(
            (
                store,
                f"{o.entry.architecture} [{o.entry.architecture.digest}]; {checks}; made {o.about['store_created']}",
            )
        )
    facts += [(o.label, _training(o.about)) for o in outcomes.measured if o.entry.network is not None]
    return facts


def _computed(outcomes: Outcomes) -> list[tuple[str, str]]:
    """Backends and precisions of kernels and networks."""
    found = []
    for what, trained in (("kernels", False), ("networks", True)):
        used = {
            (o.about["backend"], o.about["dtype"])
            for o in outcomes.measured
            if (o.entry.network is not None) == trained
        }
        if used:
            found.append((what, ", ".join(f"backend {backend}, {dtype}" for backend, dtype in sorted(used))))
    return found


def _training(about: dict[str, Any]) -> str:
    """How the networks of a curve were trained."""
    t = about["training"]
    of = "" if t["optimizer"] == "gd" else f", batches of {t['batch']}"
    held = f", {100 * t['validation']:g} % of the rows for early stopping" if t["validation"] else ""
    return (
        f"{len(about['networks'])} networks of width {t['width']}, {t['parameterization']} parameterization, "
        f"{t['optimizer']} at step size {about['lr']:.3g}{of}, {t['epochs']:g} epochs and at least {t['steps']} steps{held}, "
        f"{t['replicates']} a training set; PyTorch {about['torch']}; made {about['created']}"
    )


def _versions(versions: dict[str, str]) -> str:
    return " ".join(f"{name} {version}" for name, version in versions.items())


def _sign(difference: Difference) -> str:
    if difference.nothing:
        return "="
    return "≈" if not difference.apart else ">" if difference.value > 0 else "<"


def _text(value: float | None, form: str = "") -> str:
    return "–" if value is None else format(value, form)


def _percent(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _made(
    columns: Sequence[_Column],
    rows: Sequence[tuple[Sequence[str], Sequence[Any]]],
    red: frozenset[int] = frozenset(),
    empty: str = "None.",
) -> Table:
    head, keys, kinds = zip(*columns, strict=True)
    texts = tuple(tuple(text) for text, _ in rows)
    return Table(head, keys, kinds, texts, tuple(tuple(values) for _, values in rows), red, empty)
