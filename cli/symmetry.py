"""`kernreg symmetry`: which kernel is invariant to which transform, measured beside the theory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernreg.cli.arguments import (
    architecture_from,
    architecture_options,
    as_json,
    image_size,
    threads,
    window_size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernreg.architecture import Architecture, Window
    from kernreg.symmetrymatrix import Cell


@click.command("symmetry", short_help="Which kernel is invariant to what, measured beside the theory.")
@architecture_options
@click.option(
    "--size", type=image_size, default="6x6x3", show_default=True, metavar="HxWxC", help="Of the images."
)
@click.option(
    "--patch",
    type=window_size,
    metavar="K|HxW",
    help="Patch of patch-rotation. [default: 3, or what tiles the images]",
)
@click.option("--kernel", type=click.Choice(["ntk", "nngp", "both"]), default="both", show_default=True)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of images and transforms."
)
@click.option("--backend", default="auto", show_default=True, help="auto, cpu or reference.")
@threads
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for symmetry.csv, symmetry.png and symmetry.svg. [default: none is written]",
)
@as_json
@click.pass_context
def command(ctx: click.Context, /, out: Path | None, as_json: bool, **given: Any) -> None:
    """Apply each transform to random images, measure by how much each kernel changes, in float64, and lay it beside
    what the layers imply.

    Without --arch all architectures whose symmetries differ are measured. Exit status 1, and the cells named, where
    measurement and theory differ.

    \b
    kernreg symmetry --out symmetry
    kernreg symmetry --arch vec --filter 4 --stride 4 --padding VALID --patch 4 --size 8x8x1
    """
    from kernreg.cli.output import echo_json
    from kernreg.plan import kernels_of
    from kernreg.symmetryfigure import save
    from kernreg.symmetrymatrix import default_patch, symmetry_matrix

    size, kernel = given.pop("size"), given.pop("kernel")
    seed, backend = given.pop("seed"), given.pop("backend")
    patch = given.pop("patch") or default_patch(size)
    architectures = _architectures(given, patch)
    cells: list[Cell] = []
    for name, architecture in architectures.items():
        click.echo(f"measuring {architecture}", err=True)
        cells += symmetry_matrix({name: architecture}, size, patch, kernels_of(kernel), seed, backend)
    wrong = [cell for cell in cells if not cell.agrees]
    title = f"images {'×'.join(map(str, size))}, seed {seed}"
    files = save(cells, out, title) if out else []
    if as_json:
        described = {name: architecture.to_dict() for name, architecture in architectures.items()}
        facts = {"size": size, "patch": patch, "seed": seed, "backend": backend, "architectures": described}
        echo_json({"ok": not wrong, **facts, "cells": [cell.to_dict() for cell in cells], "files": files})
    else:
        _print(cells, wrong, files)
    if wrong:
        ctx.exit(1)


def _architectures(given: dict[str, Any], patch: Window | None) -> dict[str, Architecture]:
    """The one that the options name, or the ladder with their settings."""
    from kernreg.symmetrymatrix import ladder

    if given["arch"] is not None or given["architecture_file"] is not None:
        architecture = architecture_from(given)
        return {architecture.name or "network": architecture}
    settings = {key: value for key, value in given.items() if value is not None}
    for option in ("stride", "padding", "radius"):
        if option in settings:
            raise click.UsageError(f"--{option} needs --arch: the table has architectures with several")
    return ladder(patch=patch, **settings)


def _print(cells: Sequence[Cell], wrong: Sequence[Cell], files: Sequence[Path]) -> None:
    from kernreg.cli.output import table

    columns = tuple(dict.fromkeys(cell.architecture for cell in cells))
    for kernel in dict.fromkeys(cell.kernel for cell in cells):
        rows: dict[str, list[str]] = {}
        for cell in cells:
            if cell.kernel == kernel:
                text = "inv" if cell.invariant else f"{cell.change:.0e}"
                rows.setdefault(cell.transform, [cell.transform]).append(text if cell.agrees else f"{text} !")
        click.echo(table((kernel, *columns), list(rows.values()), left=(kernel,)))
        click.echo()
    click.echo(
        "inv: invariant; a number: the largest relative change of the kernel; !: not what the layers imply"
    )
    same = [cell.change for cell in cells if cell.invariant]
    broken = [cell.change for cell in cells if not cell.invariant]
    if same and broken:
        click.echo(
            f"invariant kernels change by at most {max(same):.0e}, broken ones by at least {min(broken):.0e}"
        )
    for cell in wrong:
        click.echo(f"differs: {cell}")
    click.echo(f"{len(cells) - len(wrong)} of {len(cells)} cells as the theory has them")
    for file in files:
        click.echo(f"wrote {file}")
