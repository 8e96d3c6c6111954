"""`kernreg info`: what a Gram store is made of, and how much of it is done."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernreg.cli.arguments import as_json

if TYPE_CHECKING:
    from kernreg.shards import Place
    from kernreg.store import GramStore
    from kernreg.watching import Look


@click.command("info", short_help="What a store is made of, and how much is done.")
@click.argument("gram", type=click.Path(path_type=Path))
@click.option(
    "--watch",
    type=click.FloatRange(min=0.1, max=86400),
    is_flag=False,
    flag_value=5.0,
    metavar="[SECONDS]",
    help="Say so every SECONDS (5) how far it is, until it is complete; with --json a line for each look.",
)
@as_json
def command(gram: Path, watch: float | None, as_json: bool) -> None:
    """Say what the store GRAM is made of: settings, data, tiles done, bytes, versions.

    \b
    kernreg info a.gram --watch       tiles, rate and time left, on any machine that sees the folder
    """
    from kernreg.cli.output import echo_json, transform_text
    from kernreg.plan import show_bytes
    from kernreg.store import GramStore

    if watch is not None:
        _watch(gram, watch, as_json)
        return
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
        **({"in hand": f"of members {_at_work(facts['in_hand'])}"} if facts["in_hand"] else {}),
        "size": f"{show_bytes(facts['bytes'])} on disk",
        "made": f"{facts['created']} by " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()),
    }
    width = max(map(len, lines))
    for key, value in lines.items():
        click.echo(f"{key:{width}}  {value}")


def _watch(gram: Path, seconds: float, as_json: bool) -> None:
    """Look until the store is complete; on a terminal the line stays in its place."""
    import json
    import sys
    from dataclasses import asdict

    from kernreg.watching import Watch

    watch, in_place = Watch(gram), sys.stdout.isatty() and not as_json
    while True:
        seen = watch.look(time.time())
        if as_json:
            click.echo(json.dumps({**asdict(seen), "complete": seen.complete}))
        else:
            click.echo(
                f"\r\x1b[K{_line(seen)}" if in_place else _line(seen), nl=not in_place or seen.complete
            )
        if seen.complete:
            return
        time.sleep(seconds)


def _line(seen: Look) -> str:
    from kernreg.cli.output import seconds_text

    parts = [f"{seen.tiles_done} of {seen.tiles} tiles, {seen.pairs_done / max(seen.pairs, 1):.1%}"]
    if seen.complete:
        parts.append("complete")
    elif seen.pairs_per_second is not None and seen.seconds_left is not None:
        parts.append(f"{seen.pairs_per_second:.3g} pairs/s, {seconds_text(seen.seconds_left)} left")
    if seen.seconds_since_last is not None and not seen.complete:
        parts.append(f"last tile {seconds_text(seen.seconds_since_last)} ago")
    if seen.tiles_by_backend:
        parts.append(", ".join(f"{name} {count}" for name, count in seen.tiles_by_backend.items()))
    return "; ".join(parts)


def describe(store: GramStore) -> dict[str, Any]:
    """Everything about a store but its numbers, JSON-able."""
    from kernreg.claims import holders

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
        "in_hand": holders(store.path),
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


def _at_work(claims: list[dict[str, Any]]) -> str:
    """Which members have how many tiles in hand."""
    counts = Counter(f"{claim.get('member')} on {claim.get('host')}" for claim in claims)
    return ", ".join(f"{who} ({count} tiles)" for who, count in sorted(counts.items()))


def _made_by(store: GramStore, place: Place) -> str:
    """The backend of a tile, as it says itself."""
    from kernreg.gramfile import TileError

    try:
        return str(store.shards.describe(*place)["backend"])
    except TileError:
        return "unreadable"
