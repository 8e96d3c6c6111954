"""`kernreg demo`: four architectures on real images, from pixels to exponents."""

from __future__ import annotations

from pathlib import Path

import click

from kernreg.cli.arguments import as_json, threads


@click.command("demo", short_help="Four architectures on real images.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("kernreg-demo"),
    show_default=True,
    help="Folder for the stores, the table and the figure.",
)
@click.option("--n", type=click.IntRange(min=1), default=1437, show_default=True, help="Train images.")
@click.option("--test", type=click.IntRange(min=1), default=360, show_default=True, help="Test images.")
@click.option("--backend", default="auto", show_default=True, help="auto, cpu, cuda or reference.")
@threads
@as_json
def command(out: Path, n: int, test: int, backend: str, as_json: bool) -> None:
    """Measure how FCN, LCN, VEC and GAP kernels learn the 1,797 handwritten digits of scikit-learn.

    NTK of three hidden layers in float32, solved in float64 with ridge 1e-6; about two minutes on two cores.
    The stores are kept: a second run computes curves and exponents alone.
    """
    from kernreg.cli.fit import print_results
    from kernreg.demo import demo
    from kernreg.results import save

    def announce(text: object) -> None:
        click.echo(text, err=True)

    announce(f"NTK of {n} train and {test} test images of digits, stores in {out}")
    measurements = list(demo(out, n, test, backend, progress=True, announce=announce))
    print_results(measurements, save(measurements, out, "demo"), as_json)
