"""`kernreg fit`: Gram matrices → learning curves and exponents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernreg.cli.arguments import (
    DEFAULT_FOLDER,
    as_json,
    byte_size,
    kernel_of_store,
    ridge,
    ridge_mode,
    sample_window,
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
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="That solves; auto: the GPU, if there is one whose memory suffices.",
)
@click.option(
    "--loo/--no-loo",
    default=True,
    show_default=True,
    help="Leave-one-out and GCV curves too, which doubles the time.",
)
@click.option(
    "--memory",
    type=byte_size,
    metavar="SIZE",
    help="Most memory to use, like 4GiB; a Gram matrix beyond it is factored by tiles on disk. "
    "[default: three quarters of the machine's]",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the tiles of a factor. [default: beside the store]",
)
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
    """
    from kernreg.curve import beyond_memory
    from kernreg.device import choose
    from kernreg.durable import require_folder
    from kernreg.measure import measure
    from kernreg.results import save
    from kernreg.tiled import TiledCholesky

    kernel, model, named = (settings.pop(name) for name in ("kernel", "model", "device"))
    limits = {name: settings.pop(name) for name in ("memory", "scratch", "keep_factor")}
    solver = TiledCholesky(**limits, keep_curve=True, progress=True)
    require_folder(out)
    measurements = []
    for store in stores_of(grams or (DEFAULT_FOLDER,)):
        for name in store.kernels if kernel is None else (kernel,):
            device = choose(named, store.n, store.y_train.shape[1]).name
            click.echo(f"{store.path}: {name}, n = {store.n}, on {device}", err=True)
            if device == "cpu" and (why := beyond_memory(store, solver)):
                click.echo(f"{store.path}: {why}", err=True)
            asked = model if exponent else None
            measurements.append(measure(store, name, model=asked, solver=solver, device=device, **settings))
    files = save(measurements, out)
    for measurement in measurements:
        if measurement.curve.traffic is not None and not solver.keep_factor:
            measurement.curve.traffic.discard()
    print_results(measurements, files, as_json)


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
