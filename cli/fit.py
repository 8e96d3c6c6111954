"""`kernreg fit`: Gram matrices → learning curves and exponents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernreg.cli.arguments import (
    DEFAULT_FOLDER,
    ITERATION,
    as_json,
    data_dir,
    device,
    device_memory,
    iteration_options,
    kernel_of_store,
    matrix_free,
    memory,
    probes,
    ridge,
    ridge_mode,
    sample_window,
    scratch,
    threads,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernreg.measure import Measurement
    from kernreg.store import GramStore


@click.command("fit", short_help="Gram matrices → learning curves and exponents.")
@click.argument("grams", nargs=-1, metavar="[GRAM]...", type=click.Path(path_type=Path))
@click.option(
    "--exponent/--no-exponent",
    default=True,
    show_default=True,
    help="Fit power laws to the curves, or measure the curves alone.",
)
@click.option(
    "--ridge",
    type=ridge,
    default="1e-6",
    show_default=True,
    metavar="λ|loo|gcv",
    help="Added to the diagonal; loo and gcv choose it on the training rows, never by test error.",
)
@ridge_mode
@kernel_of_store
@click.option(
    "--model",
    type=click.Choice(["auto", "power", "offset", "broken"]),
    default="auto",
    show_default=True,
    help="Of the loss: A·m^−β, with an offset E, or with a break; auto takes the best by AICc.",
)
@click.option(
    "--window",
    type=sample_window,
    metavar="LO:HI",
    help="Sample counts to fit. [default: the last decade, after any peak]",
)
@click.option(
    "--loo/--no-loo",
    default=True,
    show_default=True,
    help="Leave-one-out and GCV curves too, which doubles the time; not with --solver cg.",
)
@click.option(
    "--solver",
    type=click.Choice(["cholesky", "cg"]),
    default="cholesky",
    show_default=True,
    help="cholesky: the curve at every m from one factor, in memory or on disk; cg: at m = n/√2^j, by iterations that "
    "start from one another, for a Gram that no disk holds a factor of.",
)
@iteration_options
@click.option("--gcv", is_flag=True, help="With --solver cg: GCV too, by a trace that is estimated.")
@probes
@matrix_free
@data_dir
@memory
@device
@device_memory
@scratch
@click.option("--keep-factor", is_flag=True, help="Leave the tiles of a factor there when all is done.")
@click.option(
    "--breaks", is_flag=True, help="Also look for a change of the exponent (DIDE, or a noise crossover)."
)
@threads
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder for fit.json, fit.csv, fit.png and fit.svg.",
)
@as_json
def command(grams: tuple[Path, ...], exponent: bool, out: Path, as_json: bool, **settings: Any) -> None:
    """Measure learning curves and scaling exponents of Gram matrices, and lay them side by side.

    GRAM is a store, or a folder of stores; without one it is the default folder, kernreg-out. Incomplete
    stores in a folder are passed over.

    \b
    kernreg fit                                        every complete store here
    kernreg fit a.gram b.gram --ridge loo --window 100:
    kernreg fit large.gram --memory 4GiB --scratch /fast   a matrix that memory does not hold
    kernreg fit large.gram --device cuda --device-memory 20GiB
    kernreg fit larger.gram --solver cg --gcv              a matrix whose factor no disk holds
    """
    from kernreg.cg import ConjugateGradients
    from kernreg.measure import measure
    from kernreg.placement import place
    from kernreg.results import save
    from kernreg.tiled import TiledCholesky

    kernel, model, named = (settings.pop(name) for name in ("kernel", "model", "device"))
    limits = {name: settings.pop(name) for name in ("memory", "scratch", "keep_factor", "device_memory")}
    tolerances = {name: settings.pop(name) for name in ITERATION}
    by_cg, gcv, columns = (settings.pop(name) for name in ("solver", "gcv", "probes"))
    if by_cg != "cg" and (gcv or settings["matrix_free"]):
        raise click.UsageError("--gcv and --matrix-free are for --solver cg; a factor gives GCV by --loo")
    solver = TiledCholesky(**limits, progress=True)
    iteration = None
    if by_cg == "cg":
        out.mkdir(parents=True, exist_ok=True)
        iteration = ConjugateGradients(**tolerances, checkpoint=out / "fit")
        settings["probes"] = columns if gcv else 0
    measurements = []
    for store in stores_of(grams or (DEFAULT_FOLDER,)):
        for name in store.kernels if kernel is None else (kernel,):
            if iteration is None:
                where = place(store, solver, named)
                click.echo(f"{store.path}: {name}, n = {store.n}, on {where.name}", err=True)
                if where.why:
                    click.echo(f"{store.path}: {where.why}", err=True)
            else:
                click.echo(
                    f"{store.path}: {name}, n = {store.n}, by conjugate gradients, without leave-one-out",
                    err=True,
                )
            asked = model if exponent else None
            how = {"solver": solver, "device": named, "iteration": iteration}
            measurements.append(measure(store, name, model=asked, **how, **settings))
    print_results(measurements, save(measurements, out), as_json)


def print_results(measurements: Sequence[Measurement], files: Sequence[Path], as_json: bool) -> None:
    """The table, what it says, and where the files are; or all of that as JSON."""
    from kernreg.cli.output import echo_json
    from kernreg.measure import label, verdict
    from kernreg.report import table

    sentences = verdict(measurements)
    if as_json:
        results = [{"label": label(m, measurements), **m.to_dict()} for m in measurements]
        echo_json({"results": results, "verdict": sentences, "files": files})
        return
    for line in (table(measurements), "", *sentences, *(f"wrote {file}" for file in files)):
        click.echo(line)


def stores_of(paths: Sequence[Path]) -> list[GramStore]:
    """The stores that paths name, each once."""
    from kernreg.measure import complete_stores
    from kernreg.store import GramStore

    stores: dict[Path, GramStore] = {}
    for path in paths:
        is_store = path.suffix in (".gram", ".h5") or (path / "gram.h5").exists()
        for store in [GramStore.open(path)] if is_store else complete_stores(path):
            stores.setdefault(store.path.resolve(), store)
    return list(stores.values())
