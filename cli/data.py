"""`kernreg data`: the data sets, where they are, and how they get here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kernreg.cli.arguments import as_json, data_dir


@click.group("data", short_help="List, fetch and show data sets.")
def command() -> None:
    """List, fetch and show data sets."""


@command.command("list")
@data_dir
@as_json
def list_(data_dir: Path | None, as_json: bool) -> None:
    """List the data sets by name, and whether their files are here."""
    from kernreg.cli.output import echo_json, table
    from kernreg.data import listing

    entries = listing(data_dir)
    if as_json:
        echo_json(entries)
        return
    head = ("name", "rows", "test", "shape", "classes", "here", "")
    rows = [(*_cells(entry), entry["title"]) for entry in entries]
    click.echo(table(head, rows, left=("name", "")))


@command.command("fetch")
@click.argument("name")
@data_dir
@as_json
def fetch(name: str, data_dir: Path | None, as_json: bool) -> None:
    """Download the original files of the data set NAME and check their checksums."""
    from kernreg.cli.output import echo_json
    from kernreg.data.fetch import fetch as download

    paths = download(name, data_dir)
    if as_json:
        echo_json({"name": name, "files": paths})
    else:
        for path in paths:
            click.echo(path)


@command.command("show")
@click.argument("name")
@data_dir
@as_json
def show(name: str, data_dir: Path | None, as_json: bool) -> None:
    """Show what is known of the data set NAME, or of a file .npz, .npy, .h5 with X and y."""
    from kernreg.cli.output import echo_json
    from kernreg.data import describe, load, names

    by_name = name in names() or not Path(name).suffix
    facts = describe(name, data_dir) if by_name else load(name).provenance
    if as_json:
        echo_json(facts)
        return
    facts = {key: value for key, value in facts.items() if value is not None}
    width = max(map(len, facts))
    for key, value in facts.items():
        click.echo(f"{key:{width}}  {_text(value)}")


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    counts = ("–" if entry[key] is None else f"{entry[key]:,}" for key in ("train", "test"))
    shape = "any" if entry["shape"] is None else "×".join(map(str, entry["shape"]))
    return (entry["name"], *counts, shape, str(entry["classes"] or "–"), "yes" if entry["present"] else "no")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value)) if len(value) <= 10 else f"{len(value)} values"
    return str(value)
