"""`kernreg submit`: a command as jobs of Slurm."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernreg.cli.arguments import architecture_from, as_json, byte_size
from kernreg.errors import KernregError

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group("submit", short_help="A Gram matrix as a job array of Slurm.")
def command() -> None:
    """Submit a command to Slurm: members of a job array fill one store together.

    \b
    kernreg submit gram --arch gap --n 50000 --array 8 --gpus 1 --time 4:00:00 --after fit
    kernreg submit gram --arch lcn --n 20000 --array 4 --cpus 16 --memory 32GiB --dry-run

    Other batch systems, and members started by hand: docs/cluster.md.
    """


@command.command(
    "gram",
    short_help="`kernreg gram` by the members of a job array.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF kernreg gram]...")
@click.option(
    "--array", "members", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs of the array."
)
@click.option(
    "--nodes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of each job; one process on each of them.",
)
@click.option("--gpus", metavar="[TYPE:]N", help="Of each node.")
@click.option("--cpus", type=click.IntRange(min=1), help="Cores of each process.")
@click.option(
    "--memory", metavar="SIZE", help="Most memory that each process uses; Slurm is asked for a tenth more."
)
@click.option("--time", metavar="H:M:S", help="Time limit; jobs that reach it are queued again and go on.")
@click.option("--partition", help="Of the cluster.")
@click.option("--account", help="That is charged.")
@click.option(
    "--after", metavar="fit", help='What follows in a job of its own: fit, or with options "fit --ridge loo".'
)
@click.option("--dry-run", is_flag=True, help="Print the scripts and stop.")
@as_json
def gram(
    options: tuple[str, ...],
    members: int,
    memory: str | None,
    after: str | None,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Submit `kernreg gram` as a job array whose members fill one store together.

    All options of `kernreg gram` are taken and checked before anything is queued. Scripts and logs go to NAME.slurm beside the
    store NAME.gram.
    """
    from kernreg.cli.output import echo_json
    from kernreg.slurm import Resources, fit_script, gram_script, require_sbatch, sbatch

    limit = None if memory is None else byte_size(memory)
    resources = Resources(memory=limit, **asked)
    options = (*options, *(() if memory is None else ("--memory", memory)))
    if not dry_run:
        require_sbatch()
    store = _checked_store(options)
    folder, here = store.with_suffix(".slurm"), Path.cwd()
    scripts = {folder / "gram.sh": gram_script(options, members, resources, here)}
    if after is not None:
        fit = _checked_fit(after, store, memory)
        scripts[folder / "fit.sh"] = fit_script(fit, resources, here)
    if dry_run:
        _print(scripts, as_json)
        return
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[str] = []
    for path, text in scripts.items():
        path.write_text(text, encoding="utf-8")
        jobs.append(sbatch(path, after=jobs[-1] if jobs else None))
    if as_json:
        echo_json({"store": store, "folder": folder, "jobs": jobs, "members": members * resources.nodes})
        return
    then = f"; then fit: job {jobs[1]}" if after is not None else ""
    many = members * resources.nodes
    click.echo(f"{many} member{'s' if many > 1 else ''} of {store}: job {jobs[0]}{then}")
    click.echo(f"scripts and logs: {folder}")
    click.echo(f"watch:  squeue --jobs={','.join(jobs)}    kernreg info {shlex.quote(str(store))}")
    click.echo(f"cancel: scancel {' '.join(jobs)}")


def _checked_store(options: Sequence[str]) -> Path:
    """Where `kernreg gram` with these options fills a store, once they are known to be good on another machine too.

    Raises:
        click.UsageError, KernregError: as `kernreg gram`, but for a backend that this machine lacks.
    """
    from kernreg.cli import gram as cli_gram
    from kernreg.gram import resumable
    from kernreg.gramfile import MAIN
    from kernreg.kernels import backends
    from kernreg.kernels.lanes import absence
    from kernreg.plan import kernels_of, plan

    given = _parsed(cli_gram.command, options)
    if given["member"] is not None:
        raise click.UsageError("--member is given by the job array; say how many with --array")
    architecture = architecture_from(given)
    dataset, _ = cli_gram.load_rows(given, dry_run=False)
    path = cli_gram.store_path(given, dataset, architecture)
    kernel, dtype, backend = given["kernel"], given["dtype"], given["backend"]
    try:
        backends.covers(backend, architecture, dataset.shape)
    except KernregError:
        if backend not in backends.MODULES or not absence(
            backend
        ):  # the nodes may have what this machine lacks
            raise
    x_bytes = dataset.x_train.nbytes + dataset.x_test.nbytes
    plan(dataset.n, dataset.t, dataset.shape, architecture, kernel, dtype, given["memory"], x_bytes)
    if (path / MAIN).exists():
        settings = {
            "architecture": architecture,
            "kernels": kernels_of(kernel),
            "dtype": dtype,
            "provenance": dataset.provenance,
            "input_shape": dataset.shape,
        }
        resumable(path, dataset, settings)
    return path


def _checked_fit(after: str, store: Path, memory: str | None) -> list[str]:
    """The arguments of `kernreg fit` on a store that --after asks for.

    Raises:
        click.UsageError: as `kernreg fit`, or another command.
    """
    from kernreg.cli import fit as cli_fit

    try:
        name, *options = shlex.split(after) or [""]
    except ValueError as error:
        raise click.UsageError(f"--after {after!r}: {error}") from None
    if name != "fit":
        raise click.UsageError(f'--after is fit, or "fit --ridge loo", not {after!r}')
    given = _parsed(cli_fit.command, options)
    if given["grams"]:
        raise click.UsageError(
            "--after fit is given its store; other stores need a `kernreg fit` of their own"
        )
    arguments = [str(store), *options]
    if "--out" not in {option.partition("=")[0] for option in options}:
        arguments += ["--out", str(store.parent)]
    if memory is not None and given["memory"] is None:
        arguments += ["--memory", memory]
    return arguments


def _parsed(asked: click.Command, options: Sequence[str]) -> dict[str, Any]:
    """The parameters of a command, its options read and checked as it does itself."""
    environment = dict(os.environ)
    try:
        with asked.make_context(asked.name, list(options), parent=click.get_current_context()) as ctx:
            return dict(ctx.params)
    finally:  # --threads of the jobs is not of this process
        os.environ.clear()
        os.environ.update(environment)


def _print(scripts: dict[Path, str], as_json: bool) -> None:
    from kernreg.cli.output import echo_json

    if as_json:
        echo_json({"scripts": {str(path): text for path, text in scripts.items()}})
        return
    for path, text in scripts.items():
        click.echo(f"# {path}", err=True)
        click.echo(text)
