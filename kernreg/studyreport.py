"""The report of a study: one page without a network, its figures as files, and the data of every figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from kernreg import __version__
from kernreg.drawing import Figure
from kernreg.durable import refusal, write_text
from kernreg.ladder import Group, groups, sentences
from kernreg.outcomes import Outcomes
from kernreg.report import finite
from kernreg.studyfigures import figures
from kernreg.studytables import (
    Table,
    break_table,
    coincidence_table,
    curve_table,
    pair_table,
    provenance,
    rung_table,
    warning_list,
)
from kernreg.theorypanels import theory_figures

PAGE, NUMBERS = "report.html", "results.json"
_CAPTIONS = {
    "ladder": "Thin lines: one training set; markers: mean over disjoint training sets, with a band of two "
    "standard deviations of that mean; thick: the fitted law over its window.",
    "slopes": "Slopes over a factor 2 of m with their bands; the horizontal line is the fitted exponent over its window.",
    "forest": "A star marks an exponent that should not be quoted without its warnings, which stand below.",
    "symmetry": "“=”: theory says that the transform does not change the kernel, and the two curves are equal to "
    "1e-6 at every m. A number: the loss is that many times the loss on the data as they are. A framed cell "
    "contradicts the theory.",
    "theory": "None of the predictions sees a test row: GCV and LOO from the first m rows, the prediction from the "
    "spectrum of the training rows. For other transforms see the CSV file.",
    "spectra": "Of the Gram matrix of the first rows, ridge included. For other transforms see the CSV file.",
}


def report(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Write report.html, results.json, and figures/NAME.{svg,png,csv} into a folder, which is made.

    Returns:
        The files; the page first.

    Raises:
        KernregError: the disk refuses.
    """
    pictures = folder / "figures"
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(error, folder) from error
    drawn = [(group, _figures(group, outcomes)) for group in groups(outcomes)]
    text, numbers = page(outcomes, drawn), json.dumps(finite(to_dict(outcomes)), indent=1, ensure_ascii=False)
    written = []
    for name, content in ((PAGE, text), (NUMBERS, numbers + "\n")):
        write_text(folder / name, content)
        written.append(folder / name)
    return [*written, *(path for _, made in drawn for figure in made for path in figure.save(pictures))]


def page(outcomes: Outcomes, drawn: Sequence[tuple[Group, Sequence[Figure]]]) -> str:
    """The HTML text."""
    file = outcomes.file
    title = file.title or file.name
    template = Template(files("kernreg").joinpath("studypage.html").read_text(encoding="utf-8"))
    said = sentences(outcomes)
    return template.substitute(
        version=escape(__version__),
        title=escape(title),
        lead=escape(_lead(outcomes)),
        note="".join(f"<p>{escape(part)}</p>" for part in file.note.split("\n\n") if part.strip()),
        verdict=_verdict(outcomes),
        sentences=_list(said) if said else "<p>One curve, nothing to lay beside it.</p>",
        figures="\n".join(_section(group, made, len(drawn) > 1) for group, made in drawn),
        curves=_table(curve_table(outcomes)),
        coincide=_table(coincidence_table(outcomes)),
        breaks=_breaks(outcomes) if file.fit.breaks else "",
        rungs=_table(rung_table(outcomes)),
        pairs=_table(pair_table(outcomes)),
        warnings=_list(warning_list(outcomes)) if warning_list(outcomes) else "<p>None.</p>",
        provenance=_provenance(outcomes),
    )


def to_dict(outcomes: Outcomes) -> dict[str, Any]:
    """Everything but the pictures, JSON-able once infinities are gone."""
    return {
        "study": outcomes.file.name,
        "ok": outcomes.ok,
        "absent": list(outcomes.absent),
        "sentences": sentences(outcomes),
        "curves": [
            {
                "label": o.label,
                **o.entry.axes(),
                "t": o.entry.t,
                "loss": o.loss,
                "mse": float(o.curve.mse[-1]),
                "error": None if o.curve.error is None else float(o.curve.error[-1]),
                "ridge": o.curve.ridge,
                "relative_ridge": o.curve.relative_ridge,
                "fit": None if o.fit is None else o.fit.to_dict(),
                "unfit": o.unfit,
                "break": None if o.broken is None else o.broken.to_dict(),
                "about": o.about,
            }
            for o in outcomes.measured
        ],
        **{
            name: [dict(zip(table.keys, row, strict=True)) for row in table.values]
            for name, table in (
                ("coincidences", coincidence_table(outcomes)),
                ("rungs", rung_table(outcomes)),
                ("comparisons", pair_table(outcomes)),
            )
        },
    }


def _breaks(outcomes: Outcomes) -> str:
    return f'<section id="breaks">\n<h2>Breaks: does the exponent change?</h2>\n{_table(break_table(outcomes))}\n</section>'


def _figures(group: Group, outcomes: Outcomes) -> list[Figure]:
    suffix = "" if len(groups(outcomes)) == 1 else f"-{group.kernel}-n{group.n}-seed{group.seed}"
    return [*figures(group, outcomes, suffix), *theory_figures(group, suffix)]


def _lead(outcomes: Outcomes) -> str:
    file, data = outcomes.file, outcomes.file.data
    n = ", ".join(f"{size:,}" for size in data.sizes)
    parts = [f"{Path(data.name).stem}, n = {n} training and {data.test:,} test rows"]
    if file.architectures:
        kernels = " and ".join(kernel.upper() for kernel in file.kernels)
        parts.append(f"{kernels} in {file.dtype}")
        parts.append(f"ridge {file.fit.ridge} ({file.fit.ridge_mode})")
    if file.networks:
        trained = sum(len(o.about["networks"]) for o in outcomes.measured if o.entry.network is not None)
        parts.append(f"{trained:,} trained networks")
    return " · ".join([*parts, f"{len(outcomes.measured)} curves"])


def _verdict(outcomes: Outcomes) -> str:
    failed, absent = outcomes.failures, outcomes.absent
    count = len(outcomes.coincidences)
    if failed:
        named = ", ".join(f"{c.first.label} and {c.second.label} ({c.gap:.1e} at m = {c.at})" for c in failed)
        head, text = f"✗ {len(failed)} of {count} pairs of curves that must be one are not", named
    elif absent:
        head, text = f"✗ {len(absent)} curves are not measured yet", ", ".join(absent)
    elif count:
        worst = max(c.gap for c in outcomes.coincidences)
        head = f"✓ All {count} pairs of curves that must be one are"
        text = f"largest relative difference of two losses at any m: {worst:.1e}"
    else:
        head, text = "✓ Everything is measured", "no curves of this study must coincide"
    red = "" if outcomes.ok else " red"
    return f'<div class="verdict{red}" role="status"><strong>{escape(head)}</strong>{escape(text)}</div>'


def _section(group: Group, made: Sequence[Figure], several: bool) -> str:
    where = f": {group.kernel.upper()}, n = {group.n}, seed {group.seed}" if several else ""
    shown = "\n".join(_figure(figure) for figure in made)
    return f"<section>\n<h2>Figures{escape(where)}</h2>\n{shown}\n</section>"


def _figure(figure: Figure) -> str:
    caption = _CAPTIONS[figure.name.split("-")[0]]
    links = " · ".join(
        f'<a href="figures/{figure.name}{suffix}">{suffix[1:].upper()}</a>'
        for suffix in (".svg", ".png", ".csv")
    )
    return (
        f'<figure id="{figure.name}"><div role="img" aria-label="{escape(figure.alt, quote=True)}">{figure.inline}</div>'
        f"<figcaption><b>{escape(figure.title)}.</b> {escape(caption)} {links}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    if not table.rows:
        return f"<p>{escape(table.empty)}</p>"
    kinds = [f' class="{kind}"' if kind else "" for kind in table.kinds]
    head = "".join(f'<th scope="col"{k}>{escape(h)}</th>' for h, k in zip(table.head, kinds, strict=True))
    body = []
    for i, (cells, values) in enumerate(zip(table.rows, table.values, strict=True)):
        red = ' class="red"' if i in table.red else ""
        cell = [
            f"<td{kind}{_value(value)}>{escape(text)}</td>"
            for text, value, kind in zip(cells, values, kinds, strict=True)
        ]
        body.append(f"<tr{red}>{''.join(cell)}</tr>")
    rows = "\n".join(body)
    return f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _value(value: Any) -> str:
    """What a cell is sorted by, where that is not its text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return f' data-value="{value!r}"'


def _provenance(outcomes: Outcomes) -> str:
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in provenance(outcomes))
    return f"<dl>{facts}</dl>\n<h3>The study file</h3>\n<pre>{escape(outcomes.file.source)}</pre>"


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
