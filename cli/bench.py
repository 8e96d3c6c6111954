"""`kernreg bench`: checked against the definition, then timed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kernreg.architecture import PRESETS
from kernreg.cli.arguments import as_json, threads

if TYPE_CHECKING:
    from kernreg.bench import Record


def image_size(text: str) -> tuple[int, ...]:
    """32x32x3 (height × width × channels), or 3072 for vectors."""
    if re.fullmatch(r"[1-9][0-9]*([x×][1-9][0-9]*[x×][1-9][0-9]*)?", text) is None:
        raise click.BadParameter(f"{text!r} is no size of a row; write it like 32x32x3, or 3072 for vectors")
    return tuple(int(number) for number in re.split("[x×]", text))


@click.command("bench", short_help="Speed of the kernels here, once they are checked.")
@click.option(
    "--arch",
    "names",
    multiple=True,
    type=click.Choice(PRESETS, case_sensitive=False),
    help="Preset architecture; may be repeated. [default: fcn, vec and gap]",
)
@click.option("--depth", type=click.IntRange(min=1), default=8, show_default=True, help="Hidden layers.")
@click.option("--size", type=image_size, default="32x32x3", show_default=True, metavar="HxWxC|D")
@click.option("--kernel", type=click.Choice(["ntk", "nngp", "both"]), default="ntk", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--backend", default="auto", show_default=True, help="cuda, triton, cpu, reference or auto.")
@click.option("--quick", is_flag=True, help="One short timing: whether it runs, not how fast.")
@threads
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to add the results to, a line of JSON each. [default: none]",
)
@as_json
def command(
    names: tuple[str, ...],
    depth: int,
    size: tuple[int, ...],
    kernel: str,
    dtype: str,
    backend: str,
    quick: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time K(x, z) of random rows, host arrays in and out, in updates a second.

    One update is one (pair, shift, pixel, layer), NNGP and tangent together. Every kernel is first held against the
    definition in float64; a wrong one ends the command, and nothing is reported. "of bound" is the share of what this
    device could issue at most, measured in the same run.

    \b
    kernreg bench                                             32×32×3, 8 layers
    kernreg bench --arch gap --size 28x28x1 --backend cpu --out speed.jsonl
    """
    from dataclasses import asdict

    from kernreg.architecture import Architecture
    from kernreg.bench import REPEATS, SECONDS, Case, append, bench
    from kernreg.cli.output import echo_json, table
    from kernreg.kernels.backends import resolve

    records = []
    for name in names or ("fcn", "vec", "gap"):
        architecture = Architecture.preset(name, depth=depth)
        case = Case(architecture, size, kernel, dtype, resolve(backend, architecture, size))
        click.echo(f"{name} by backend {case.backend}", err=True)
        records.append(bench(case, 1 if quick else REPEATS, SECONDS / 20 if quick else SECONDS))
    if out is not None:
        append(records, out)
    if as_json:
        echo_json([asdict(record) for record in records])
        return
    click.echo(f"{records[0].device}{'; a smoke run, no measurement' if quick else ''}")
    click.echo(table(HEAD, [_cells(record) for record in records], left=HEAD[:4]))
    if out is not None:
        click.echo(f"added to {out}")


HEAD = ("backend", "network", "kernel", "dtype", "rows", "updates/s", "20–80 %", "of bound", "error")


def _cells(record: Record) -> tuple[str, ...]:
    rate = record.updates_per_s
    return (
        record.backend,
        f"{record.architecture.partition(':')[0]} {'×'.join(map(str, record.shape))}",
        record.kernel,
        record.dtype,
        str(record.rows),
        f"{rate['median']:.3g}",
        f"{rate['q20']:.3g}–{rate['q80']:.3g}",
        "–" if record.share_of_bound is None else f"{record.share_of_bound:.0%}",
        f"{record.error:.0e}",
    )
