"""`kernreg predict`: what a solution says of test rows, or of new images."""

from __future__ import annotations

from pathlib import Path

import click

from kernreg.cli.arguments import as_json, byte_size, data_dir, threads


@click.command("predict", short_help="Coefficients → predictions for test rows or new images.")
@click.argument("solution", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--images",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A .npz, .npy or .h5 file with X and, if known, y. [default: the test rows of the store]",
)
@click.option(
    "--gram", type=click.Path(path_type=Path), help="The store, if it was moved. [default: that of SOLUTION]"
)
@click.option("--test", type=click.IntRange(min=1), help="The first test rows of the store. [default: all]")
@click.option("--backend", help="For --images: auto, cpu, triton or reference. [default: that of the Gram]")
@click.option("--memory", type=byte_size, metavar="SIZE", help="Most memory for tiles of the store.")
@click.option(
    "--matrix-free", is_flag=True, help="Compute the kernel of the test rows; tiles need not be there."
)
@data_dir
@threads
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A .csv or .h5 file. [default: SOLUTION with the ending .predictions.csv]",
)
@as_json
def command(
    solution: Path,
    images: Path | None,
    gram: Path | None,
    test: int | None,
    backend: str | None,
    memory: int | None,
    matrix_free: bool,
    data_dir: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Predict with the file SOLUTION of `kernreg solve`; print loss and error where the targets are known.

    New images are scaled as the training rows were; their kernel with the training rows is computed tile by tile, for
    which the training data must be here.

    \b
    kernreg predict kernreg-out/a-ntk-n1437.solution.h5
    kernreg predict a.h5 --images new.npz --out new.csv
    """
    from kernreg.cli.output import echo_json
    from kernreg.predictions import of_images, of_store
    from kernreg.solutionfile import SavedSolution
    from kernreg.store import GramStore

    if images is not None and (gram is not None or test is not None):
        raise click.UsageError("--gram and --test choose rows of a store, --images those of a file: give one")
    saved = SavedSolution.read(solution)
    if images is None:
        store = GramStore.open(gram or saved.gram)
        predictions = of_store(saved, store, test, memory, matrix_free=matrix_free, data_dir=data_dir)
    else:
        predictions = of_images(saved, images, data_dir, backend)
    out = out or solution.with_name(f"{solution.name.removesuffix('.h5')}.predictions.csv")
    predictions.write(out)
    measured = predictions.errors
    if as_json:
        facts = {"loss": None, "mse": None, "error": None} if measured is None else measured.to_dict()
        echo_json(
            {
                "path": out,
                "rows": len(predictions.values),
                "source": predictions.source,
                "n": saved.n,
                **facts,
            }
        )
        return
    click.echo(f"{len(predictions.values)} rows of {predictions.source}, {saved.n} training rows")
    if measured is not None:
        if measured.loss is not None:
            click.echo(f"loss   {measured.loss:.4g}")
        click.echo(f"mse    {measured.mse:.4g}")
        if measured.error is not None:
            click.echo(f"error  {100 * measured.error:.2f} %")
    click.echo(f"wrote {out}")
