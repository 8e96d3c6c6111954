"""`kernreg solve`: the coefficients of kernel regression from a Gram matrix that may be larger than memory."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernreg.cli.arguments import DEFAULT_FOLDER, as_json, byte_size, ridge_mode, threads

if TYPE_CHECKING:
    from kernreg.cg import ConjugateGradients
    from kernreg.solution import Solution
    from kernreg.store import GramStore


@click.command("solve", short_help="Gram matrix → coefficients, beyond memory if need be.")
@click.argument("gram", type=click.Path(path_type=Path))
@click.option(
    "--solver",
    type=click.Choice(["auto", "cholesky", "cg"]),
    default="auto",
    show_default=True,
    help="cholesky: its factor on disk where --memory does not hold it; auto: cholesky if it fits, else cg.",
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
@click.option(
    "--rtol",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    default=1e-8,
    show_default=True,
    help="Of conjugate gradients: relative residual of each column.",
)
@click.option("--rank", type=click.IntRange(min=0), help="Of their preconditioner. [default: 8·√n; 0: none]")
@click.option("--max-iterations", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the pivots.")
@click.option("--kernel", type=click.Choice(["ntk", "nngp"]), help="[default: the NTK if it is there]")
@click.option("--n", type=click.IntRange(min=1), help="The first n train rows. [default: all]")
@click.option(
    "--memory",
    type=byte_size,
    metavar="SIZE",
    help="Most memory to use. [default: three quarters of this machine]",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for a factor on disk. [default: beside GRAM]",
)
@click.option(
    "--cluster",
    metavar="SPEC",
    help="cg on workers that hold the tiles: local, local:4, slurm, pbs, lsf, sge, tcp://SCHEDULER:8786, or FILE.toml.",
)
@threads
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the solution. [default: NAME-KERNEL-nN.solution.h5 in kernreg-out]",
)
@as_json
def command(gram: Path, out: Path | None, as_json: bool, cluster: str | None, **given: Any) -> None:
    """Solve (K + λI)α = y for the training rows of the store GRAM, and write α with its residual.

    Stopped at any moment, even by kill -9, conjugate gradients go on where they were when the same command is run
    again. A solution that misses --rtol is an error.

    \b
    kernreg solve a.gram --ridge 1e-6 --ridge-mode relative
    kernreg solve a.gram --solver cg --rtol 1e-10 --memory 4GiB --out a.h5
    kernreg solve a.gram --solver cg --cluster slurm
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
    out.parent.mkdir(parents=True, exist_ok=True)
    state = out.with_name(f"{out.name}.state")
    tolerances = {key: given.pop(key) for key in ("rtol", "rank", "max_iterations", "seed")}
    iteration = ConjugateGradients(**tolerances, checkpoint=state)
    if cluster is None:
        solution = solve_store(store, kernel, iteration=iteration, progress=True, **given)
    else:
        solution = _on_cluster(cluster, store, kernel, iteration, given)
    if solution.stats.why:
        click.echo(solution.stats.why, err=True)
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
    if given.pop("solver") == "cholesky":
        raise click.UsageError("--cluster is for conjugate gradients: use --solver cg")
    del given["scratch"]
    from kernreg.cluster import connect
    from kernreg.distributed import solve_on

    with connect(cluster, _note) as client:
        return solve_on(client, store, kernel, iteration=iteration, progress=True, note=_note, **given)


def _note(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


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
    width = max(map(len, lines))
    for key, value in lines.items():
        click.echo(f"{key:{width}}  {value}")
