"""`kernreg doctor`: what works here, and why the rest does not."""

from __future__ import annotations

from pathlib import Path

import click

from kernreg.cli.arguments import as_json, data_dir


@click.command("doctor", short_help="What works on this machine, and why not.")
@data_dir
@as_json
@click.pass_context
def command(ctx: click.Context, data_dir: Path | None, as_json: bool) -> None:
    """Say what works on this machine, and why the rest does not.

    Exit status 1 where something is broken that kernreg cannot do without; a missing GPU is not.
    """
    from dataclasses import asdict

    from kernreg.cli.output import echo_json
    from kernreg.doctor import examine

    findings = examine(data_dir=data_dir)
    if as_json:
        echo_json([asdict(finding) for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            click.echo(f"{finding.status:6}  {finding.name:{width}}  {finding.detail}")
    if any(finding.status == "broken" for finding in findings):
        ctx.exit(1)
