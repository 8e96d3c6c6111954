"""`kernreg theory`: what the spectrum of a Gram matrix predicts, beside what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernreg.cli.arguments import DEFAULT_FOLDER, as_json, kernel_of_store, ridge, ridge_mode, threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernreg.overlay import Overlay


@click.command("theory", short_help="Spectra, and the learning curve they predict.")
@click.argument("grams", nargs=-1, metavar="[GRAM]...", type=click.Path(path_type=Path))
@click.option(
    "--ridge",
    type=ridge,
    default="1e-6",
    show_default=True,
    metavar="λ|loo|gcv",
    help="Added to the diagonal; loo and gcv choose it on the training rows.",
)
@ridge_mode
@kernel_of_store
@click.option(
    "--part",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the training rows, from the end, that the spectrum knows; 0.5: the curve up to n/2 has other rows.",
)
@click.option(
    "--groups",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Of the jackknife behind the intervals, each one more eigendecomposition; 0: none.",
)
@click.option(
    "--from",
    "first",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Smallest sample count at which prediction and measurement are compared.",
)
@threads
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder for theory.json, theory.csv, theory-spectrum.csv, theory.png and theory.svg.",
)
@as_json
def command(grams: tuple[Path, ...], out: Path, as_json: bool, kernel: str | None, **settings: Any) -> None:
    """Predict learning curves from spectra of training rows, and lay the measured ones beside them.

    GRAM is a store, or a folder of stores; without one it is the default folder, kernreg-out. a and b are the
    exponents of target energies and kernel eigenvalues, v_k² ~ k^-a and λ_k ~ k^-b; β theory is
    min(a − 1, 2b), the limit of many samples; β local the slope that the theory expects at this n. The last four columns
    are the largest relative departures of four predictions from the measured loss. No test row takes part.

    \b
    kernreg theory                                     every complete store here
    kernreg theory a.gram --part 0.5 --from 200
    """
    from kernreg.cli.fit import stores_of
    from kernreg.overlay import overlay
    from kernreg.theoryfigure import save

    overlays = []
    for store in stores_of(grams or (DEFAULT_FOLDER,)):
        for name in store.kernels if kernel is None else (kernel,):
            click.echo(f"{store.path}: {name}, n = {store.n}", err=True)
            overlays.append(overlay(store, name, **settings))
    _print(overlays, save(overlays, out), as_json)


def _print(overlays: Sequence[Overlay], files: Sequence[Path], as_json: bool) -> None:
    from kernreg.cli.output import echo_json, table
    from kernreg.theoryfigure import names
    from kernreg.theoryfigure import table as rows_of

    named = dict(zip(names(overlays), overlays, strict=True))
    if as_json:
        echo_json({"results": [{"label": name, **o.to_dict()} for name, o in named.items()], "files": files})
        return
    head, *rows = rows_of(overlays)
    click.echo(table(head, rows, left=("curve",)))
    for name, o in named.items():
        for sentence in (*(o.exponents.warnings if o.exponents else ()), *([o.unfit] if o.unfit else ())):
            click.echo(f"* {name}: {sentence}")
    click.echo("")
    for name, o in named.items():
        click.echo(f"{name}: {_departure(o)}")
    for file in files:
        click.echo(f"wrote {file}")


def _departure(o: Overlay) -> str:
    own = o.departures.get("theory")
    if own is None or o.mean_departure is None:
        return f"no sample count from {o.first} on to compare; choose a smaller --from"
    return (
        f"the theory, from {o.spectrum.rows} training rows, departs from the measured loss by at most "
        f"{own.worst:.1%} (at m = {own.at}) for m ≥ {o.first}, from its mean over disjoint training sets by at "
        f"most {o.mean_departure.worst:.1%}"
    )
