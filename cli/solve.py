"""`kernreg solve`: the coefficients of kernel regression from a Gram matrix that may be larger than memory."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
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
    matrix_free,
    memory,
    probes,
    ridge_mode,
    scratch,
    threads,
)

if TYPE_CHECKING:
    from kernreg.cg import ConjugateGradients
    from kernreg.solution import Solution
    from kernreg.store import GramStore


@click.command("solve", short_help="Gram matrix → coefficients, beyond memory if need be.")
@click.argument("gram", type=click.Path(path_type=Path))
@click.option(
    "--solver",
    type=click.Choice(["auto", "cholesky", "tiled", "cg"]),
    default="auto",
    show_default=True,
    help="cholesky: its factor on disk where memory does not hold it; tiled: on disk in any case; "
    "cg: conjugate gradients; auto: cholesky if it fits, else cg.",
)
@click.option(
    "--ridge",
    type=click.FloatRange(min=0),
    default=1e-6,
    show_default=True,
    metavar="λ",
    help="Added to the diagonal.",
)
@ridge_mode
@iteration_options
@click.option(
    "--start",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="SOLUTION",
    help="Where conjugate gradients start: a solution of fewer rows, or with another ridge.",
)
@matrix_free
@data_dir
@click.option("--gcv", is_flag=True, help="Estimate the trace of the inverse: GCV and degrees of freedom.")
@probes
@click.option("--kernel", type=click.Choice(["ntk", "nngp"]), help="[default: the NTK if it is there]")
@click.option("--n", type=click.IntRange(min=1), help="The first n train rows. [default: all]")
@memory
@scratch
@click.option(
    "--factor-dtype",
    type=click.Choice(["float64", "float32"]),
    default="float64",
    show_default=True,
    help="float32: half the disk and memory, refined to --rtol in float64.",
)
@click.option(
    "--cluster",
    metavar="SPEC",
    help="cg on workers that hold the tiles: local, local:4, slurm, pbs, lsf, sge, tcp://SCHEDULER:8786, or FILE.toml.",
)
@device
@device_memory
@threads
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the solution. [default: NAME-KERNEL-nN.solution.h5 in kernreg-out]",
)
@as_json
def command(gram: Path, out: Path | None, as_json: bool, cluster: str | None, **given: Any) -> None:
    """Solve (K + λI)α = y for the training rows of the store GRAM, and write α with its residual.

    Stopped at any moment, even by kill -9, conjugate gradients and a factor on disk go on where they were when the same
    command is run again. A solution that misses --rtol is an error.

    \b
    kernreg solve a.gram --ridge 1e-6 --ridge-mode relative
    kernreg solve a.gram --solver cg --rtol 1e-10 --memory 4GiB --out a.h5
    kernreg solve a.gram --solver cg --cluster slurm
    kernreg solve a.gram --solver cg --start half.h5 --gcv
    kernreg solve begun.gram --matrix-free
    kernreg solve a.gram --solver cholesky --memory 4GiB --scratch /fast --factor-dtype float32
    """
    from kernreg.cg import ConjugateGradients
    from kernreg.cli.output import echo_json
    from kernreg.solution import Status
    from kernreg.solutionfile import SavedSolution
    from kernreg.solve import solve_store
    from kernreg.store import GramStore

    store = GramStore.open(gram)
    kernel = given.pop("kernel") or ("ntk" if "ntk" in store.kernels else store.kernels[0])
    n = given["n"] or store.n
    out = out or DEFAULT_FOLDER / f"{store.path.stem}-{kernel}-n{n}.solution.h5"
    start, columns = given.pop("start"), given.pop("probes")
    given["probes"] = columns if given.pop("gcv") else 0
    if start is not None:
        given["start"] = SavedSolution.read(start).leading(store, kernel, n)
    out.parent.mkdir(parents=True, exist_ok=True)
    state = out.with_name(f"{out.name}.state")
    iteration = ConjugateGradients(**{key: given.pop(key) for key in ITERATION}, checkpoint=state)
    data_dir, matrix_free = given.pop("data_dir"), given.pop("matrix_free")
    if matrix_free and cluster is not None:
        raise click.UsageError("--matrix-free computes here: leave out --cluster, whose workers hold tiles")
    if cluster is not None:
        solution = _on_cluster(cluster, store, kernel, iteration, given)
    elif matrix_free:
        solution = _without_tiles(store, kernel, iteration=iteration, data_dir=data_dir, **given)
    else:
        say = partial(click.echo, err=True)
        solution = solve_store(store, kernel, iteration=iteration, progress=True, said=say, **given)
    if solution.status is Status.NOT_POSITIVE_DEFINITE:
        state.unlink(missing_ok=True)  # another ridge is another problem
    if solution.status is Status.MAX_ITERATIONS:
        message = f"{solution.message}; the same command with a larger --max-iterations goes on from here"
        solution = replace(solution, message=message)
    saved = SavedSolution.of(solution.require(), store, kernel)
    saved.write(out)
    state.unlink(missing_ok=True)
    if as_json:
        echo_json({"path": out, "gram": saved.gram, "kernel": kernel, **saved.facts})
    else:
        _print(solution)
        click.echo(f"wrote {out}")


def _on_cluster(
    cluster: str, store: GramStore, kernel: str, iteration: ConjugateGradients, given: dict[str, Any]
) -> Solution:
    _refuse_factors("--cluster", given)
    from kernreg.cluster import connect
    from kernreg.distributed import solve_on

    with connect(cluster, _note) as client:
        return solve_on(client, store, kernel, iteration=iteration, progress=True, note=_note, **given)


def _note(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def _without_tiles(store: GramStore, kernel: str, **given: Any) -> Solution:
    from kernreg.matrixfree import solve_without_tiles

    _refuse_factors("--matrix-free", given)
    click.echo("cg: the kernel is computed anew in every product", err=True)
    return solve_without_tiles(store, kernel, progress=True, **given)


def _refuse_factors(option: str, given: dict[str, Any]) -> None:
    """Take the options of factors out of what was given; each must be at its default."""
    for_factors = {"factor_dtype": "float64", "device_memory": None, "scratch": None}
    named = [name for name, default in for_factors.items() if given.pop(name) != default]
    solver, device = given.pop("solver"), given.pop("device")
    if named or solver not in ("auto", "cg") or device == "cuda":
        raise click.UsageError(
            f"{option} is for conjugate gradients: use --solver cg, and leave out what is for factors"
        )


def _print(solution: Solution) -> None:
    from kernreg.cli.output import seconds_text

    stats = solution.stats
    click.echo(solution.message)
    lines = {
        "solver": stats.solver + (f", rank {stats.rank}" if stats.rank else ""),
        "ridge": f"{stats.ridge:.4g}, {stats.relative_ridge:.3g} of the mean diagonal",
        "residual": f"{stats.residuals.max():.2e} at most, of {len(stats.residuals)} columns, in float64",
        "time": f"{seconds_text(stats.seconds)}, {stats.products} products with K",
    }
    if stats.eigenvalues is not None:
        low, high = stats.eigenvalues
        lines["eigenvalues"] = f"of K + λI about {low:.2e} to {high:.2e}, by Lanczos"
    if stats.trace is not None and stats.degrees_of_freedom is not None:
        lines["trace"] = f"of (K + λI)⁻¹ {_with_error(*stats.trace)}"
        lines["freedom"] = f"{_with_error(*stats.degrees_of_freedom)} degrees, of n = {stats.n}"
    if stats.gcv is not None:
        lines["gcv"] = f"{_with_error(*stats.gcv)} of the error of the zero predictor"
    width = max(map(len, lines))
    for key, value in lines.items():
        click.echo(f"{key:{width}}  {value}")


def _with_error(value: float, error: float) -> str:
    return f"{value:.5g} ± {error:.2g}"
