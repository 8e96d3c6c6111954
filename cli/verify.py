"""`kernreg verify`: checksums, and a sample of entries computed again."""

from __future__ import annotations

from pathlib import Path

import click

from kernreg.cli.arguments import as_json, data_dir


@click.command("verify", short_help="Checksums, and entries computed again.")
@click.argument("gram", type=click.Path(path_type=Path))
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Entries to compute again; 0 checks checksums alone and needs no data.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the sample.")
@click.option("--drop", is_flag=True, help="Delete corrupt tiles; `kernreg gram` then computes them again.")
@data_dir
@as_json
@click.pass_context
def command(
    ctx: click.Context,
    gram: Path,
    samples: int,
    seed: int,
    drop: bool,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Check every tile of the store GRAM, and compute a random sample of its entries again in float64.

    Exit status 1 if a tile is corrupt or an entry is wrong. Tiles that are not computed yet are no error.
    """
    from dataclasses import asdict

    from kernreg.cli.output import echo_json
    from kernreg.data import reload
    from kernreg.store import GramStore
    from kernreg.verify import verify

    with GramStore.open(gram, writer=drop) as store:
        dataset = reload(store.provenance, data_dir) if samples else None
        x_train, x_test = (None, None) if dataset is None else (dataset.x_train, dataset.x_test)
        report = verify(store, x_train, x_test, samples, seed, drop)
    if as_json:
        echo_json({"path": gram, "ok": report.ok, **asdict(report)})
    else:
        click.echo(f"{report.tiles} tiles are whole, {len(report.missing)} are not computed yet")
        for path, reason in report.corrupt:
            click.echo(f"corrupt: {path} {reason}{'; deleted' if path in report.dropped else ''}")
        if report.entries:
            click.echo(
                f"{report.entries} entries computed again in float64 by backend {report.backend}: largest "
                f"relative difference {report.worst:.1e}, allowed {report.tolerance:.0e} ({report.where})"
            )
        click.echo("ok" if report.ok else "NOT ok")
    if not report.ok:
        ctx.exit(1)
