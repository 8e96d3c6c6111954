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
    training_times,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernreg.cg import ConjugateGradients
    from kernreg.measure import Measurement
    from kernreg.store import GramStore
    from kernreg.tiled import TiledCholesky


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
    "--time",
    "times",
    type=training_times,
    multiple=True,
    metavar="T|T,T|LO:HI:COUNT",
    help="Stop gradient flow at these times (inf: the end), also several times; default: kernel regression.",
)
@click.option(
    "--step",
    type=float,
    metavar="η",
    help="With --time: full-batch gradient descent with this learning rate in place of gradient flow.",
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
    kernreg fit a.gram --time 1:10000:9                training stopped at nine times, and when it should have been
    """
    from kernreg.durable import require_folder
    from kernreg.flowfigure import save_times
    from kernreg.results import save
    from kernreg.tiled import TiledCholesky

    kernel, times, step = (settings.pop(name) for name in ("kernel", "times", "step"))
    settings["model"] = settings["model"] if exponent else None
    if not times and step is not None:
        raise click.UsageError("--step is that of training up to a --time")
    if times:
        _refuse_with_time(settings)
    elif settings["solver"] != "cg" and (settings["gcv"] or settings["matrix_free"]):
        raise click.UsageError("--gcv and --matrix-free are for --solver cg; a factor gives GCV by --loo")
    limits = {name: settings.pop(name) for name in ("memory", "scratch", "keep_factor", "device_memory")}
    solver = TiledCholesky(**limits, keep_curve=True, progress=True)
    require_folder(out)
    iteration = _iteration(settings, out)
    measurements: list[Measurement] = []
    for store in stores_of(grams or (DEFAULT_FOLDER,)):
        for name in store.kernels if kernel is None else (kernel,):
            if times:
                chosen = [time for several in times for time in several]
                asked = {key: settings[key] for key in ("ridge", "ridge_mode", "model", "window", "breaks")}
                measurements += _stopped(store, name, chosen, step, limits["memory"], out, asked)
            else:
                measurements.append(_measured(store, name, solver, iteration, **settings))
    files = [*save(measurements, out), *save_times(measurements, out)]
    for measurement in measurements:
        if measurement.curve.traffic is not None and not solver.keep_factor:
            measurement.curve.traffic.discard()
    print_results(measurements, files, as_json)


def _iteration(settings: dict[str, Any], out: Path) -> ConjugateGradients | None:
    """The solver of --solver cg, or None; takes its options out of the settings."""
    from kernreg.cg import ConjugateGradients

    tolerances = {name: settings.pop(name) for name in ITERATION}
    by_cg, gcv = settings.pop("solver") == "cg", settings.pop("gcv")
    settings["probes"] = settings["probes"] if gcv else 0
    return ConjugateGradients(**tolerances, checkpoint=out / "fit") if by_cg else None


def _measured(
    store: GramStore,
    kernel: str,
    solver: TiledCholesky,
    iteration: ConjugateGradients | None,
    device: str,
    **settings: Any,
) -> Measurement:
    from kernreg.measure import measure
    from kernreg.placement import place

    if iteration is None:
        where = place(store, solver, device)
        click.echo(f"{store.path}: {kernel}, n = {store.n}, on {where.name}", err=True)
        if where.why:
            click.echo(f"{store.path}: {where.why}", err=True)
    else:
        click.echo(
            f"{store.path}: {kernel}, n = {store.n}, by conjugate gradients, without leave-one-out", err=True
        )
    return measure(store, kernel, solver=solver, device=device, iteration=iteration, **settings)


def _stopped(
    store: GramStore,
    kernel: str,
    times: Sequence[float],
    step: float | None,
    memory: int | None,
    out: Path,
    settings: dict[str, Any],
) -> list[Measurement]:
    from kernreg.filters import stop_at
    from kernreg.flowcurve import beyond_memory
    from kernreg.stopped import measure_stopped

    click.echo(f"{store.path}: {kernel}, n = {store.n}, {len(times)} times", err=True)
    if why := beyond_memory(store.n, store.t, memory):
        click.echo(f"{store.path}: {why}", err=True)
    stops = [stop_at(time, step) for time in times]
    if why:
        settings |= {"checkpoint": out / f"{store.path.stem}-{kernel}.training", "progress": True}
    return measure_stopped(store, kernel, stops, memory=memory, **settings)


def _refuse_with_time(settings: dict[str, Any]) -> None:
    """Options that mean nothing for training that stops."""
    if isinstance(settings["ridge"], str):
        raise click.UsageError(
            "--ridge is a number with --time: GCV is told for every time, and --time inf is the end"
        )
    if settings["device"] == "cuda" or settings["device_memory"] is not None:
        raise click.UsageError("--time is computed on the CPU: leave out --device cuda and --device-memory")
    if settings["solver"] == "cg" or settings["gcv"] or settings["matrix_free"]:
        raise click.UsageError("--time solves no system: leave out --solver cg, --gcv and --matrix-free")
    for name in ("scratch", "keep_factor"):
        if settings[name]:
            raise click.UsageError(
                f"--{name.replace('_', '-')} belongs to a factor on disk, and --time makes none"
            )


def print_results(measurements: Sequence[Measurement], files: Sequence[Path], as_json: bool) -> None:
    """The table, what it says, and where the files are; or all of that as JSON."""
    from kernreg.cli.output import echo_json
    from kernreg.measure import label, verdict
    from kernreg.report import table
    from kernreg.stopped import early_stopping

    sentences = [*verdict(measurements), *early_stopping(measurements)]
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
