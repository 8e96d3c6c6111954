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
    training_times,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    limits = {name: settings.pop(name) for name in ("memory", "scratch", "keep_factor")}
    solver = TiledCholesky(**limits, keep_curve=True, progress=True)
    require_folder(out)
    measurements: list[Measurement] = []
    for store in stores_of(grams or (DEFAULT_FOLDER,)):
        for name in store.kernels if kernel is None else (kernel,):
            if times:
                chosen = [time for several in times for time in several]
                measurements += _stopped(store, name, chosen, step, limits["memory"], out, **settings)
            else:
                measurements.append(_measured(store, name, solver, **settings))
    files = [*save(measurements, out), *save_times(measurements, out)]
    for measurement in measurements:
        if measurement.curve.traffic is not None and not solver.keep_factor:
            measurement.curve.traffic.discard()
    print_results(measurements, files, as_json)


def _measured(
    store: GramStore, kernel: str, solver: TiledCholesky, device: str, **settings: Any
) -> Measurement:
    from kernreg.curve import beyond_memory
    from kernreg.device import choose
    from kernreg.measure import measure

    device = choose(device, store.n, store.y_train.shape[1]).name
    click.echo(f"{store.path}: {kernel}, n = {store.n}, on {device}", err=True)
    if device == "cpu" and (why := beyond_memory(store, solver)):
        click.echo(f"{store.path}: {why}", err=True)
    return measure(store, kernel, solver=solver, device=device, **settings)


def _stopped(
    store: GramStore,
    kernel: str,
    times: Sequence[float],
    step: float | None,
    memory: int | None,
    out: Path,
    loo: bool,
    device: str,
    **settings: Any,
) -> list[Measurement]:
    from kernreg.filters import stop_at
    from kernreg.flowcurve import beyond_memory
    from kernreg.stopped import measure_stopped

    click.echo(f"{store.path}: {kernel}, n = {store.n}, {len(times)} times", err=True)
    if why := beyond_memory(store.n, store.t, memory):
        click.echo(f"{store.path}: {why}", err=True)
    stops = [stop_at(time, step) for time in times]
    if why:
        out.mkdir(parents=True, exist_ok=True)
        settings |= {"checkpoint": out / f"{store.path.stem}-{kernel}.training", "progress": True}
    return measure_stopped(store, kernel, stops, memory=memory, **settings)


def _refuse_with_time(settings: dict[str, Any]) -> None:
    """Options that mean nothing for training that stops."""
    if isinstance(settings["ridge"], str):
        raise click.UsageError(
            "--ridge is a number with --time: GCV is told for every time, and --time inf is the end"
        )
    if settings["device"] == "cuda":
        raise click.UsageError("--time is computed on the CPU: leave out --device cuda")
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
