"""`kernreg info`: what a Gram store is made of, and how much of it is done."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernreg.cli.arguments import as_json

if TYPE_CHECKING:
    from kernreg.shards import Place
    from kernreg.store import GramStore


@click.command("info", short_help="What a store is made of, and how much is done.")
@click.argument("gram", type=click.Path(path_type=Path))
@as_json
def command(gram: Path, as_json: bool) -> None:
    """Say what the store GRAM is made of: settings, data, tiles done, bytes, versions."""
    from kernreg.cli.output import echo_json, transform_text
    from kernreg.plan import show_bytes
    from kernreg.store import GramStore

    facts = describe(GramStore.open(gram))
    if as_json:
        echo_json(facts)
        return
    data = facts["provenance"]
    counts = facts["tiles_by_backend"]
    by = (
        ", ".join(f"{name} ({count} tiles)" for name, count in counts.items())
        if len(counts) > 1
        else facts["backend"]
    )
    state = "complete" if facts["complete"] else "run the same `kernreg gram` again to finish it"
    lines = {
        "store": facts["path"],
        "architecture": f"{facts['architecture_text']}  [{facts['architecture_digest']}]",
        "kernels": f"{', '.join(facts['kernels'])} in {facts['dtype']} by backend {by}",
        "data": f"{data.get('name', 'arrays')}, rows of shape {'×'.join(map(str, facts['input_shape']))}",
        **({"transform": transform_text(data["transform"])} if "transform" in data else {}),
        "rows": f"{facts['n']} train, {facts['t']} test",
        "tiles": f"{facts['tiles_done']} of {facts['tiles']} done; {state}",
        "size": f"{show_bytes(facts['bytes'])} on disk",
        "made": f"{facts['created']} by " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()),
    }
    width = max(map(len, lines))
    for key, value in lines.items():
        click.echo(f"{key:{width}}  {value}")


def describe(store: GramStore) -> dict[str, Any]:
    """Everything about a store but its numbers, JSON-able."""
    places = store.shards.needed(store.n, store.t, store.n)
    tiles, missing = len(places), store.missing()
    made_by = Counter(_made_by(store, place) for place in set(places) - set(missing))
    return {
        "path": str(store.path),
        "n": store.n,
        "t": store.t,
        **store.settings.to_json(),
        "architecture_text": str(store.architecture),
        "tiles": tiles,
        "tiles_done": tiles - len(missing),
        "tiles_by_backend": dict(sorted(made_by.items())),
        "complete": not missing,
        "bytes": _bytes(store.path),
        "created": store.created,
        "versions": dict(store.versions),
    }


def _bytes(folder: Path) -> int:
    """Of the files in a folder; a writer may rename and remove some meanwhile."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(where, name)).st_size
    return total


def _made_by(store: GramStore, place: Place) -> str:
    """The backend of a tile, as it says itself."""
    from kernreg.gramfile import TileError

    try:
        return str(store.shards.describe(*place)["backend"])
    except TileError:
        return "unreadable"
