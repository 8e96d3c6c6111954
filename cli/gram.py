"""`kernreg gram`: images → Gram matrix in a store."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernreg.cli.arguments import (
    DEFAULT_FOLDER,
    architecture_from,
    architecture_options,
    as_json,
    byte_size,
    cluster_option,
    data_dir,
    member,
    options,
    setting,
    threads,
    transform_options,
)

if TYPE_CHECKING:
    from distributed import Client

    from kernreg.architecture import Architecture
    from kernreg.data import Dataset


row_options = options(
    click.option(
        "--data", help="Name of a data set, or a .npz, .npy or .h5 file with X and y. [default: cifar10]"
    ),
    data_dir,
    click.option("--n", type=click.IntRange(min=1), help="Train rows. [default: all]"),
    click.option(
        "--test", type=click.IntRange(min=0), help="Test rows. [default: 1000, or a fifth of a shared pool]"
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the row order."
    ),
    click.option("--normalise", help="standard, per-image, unit or none. [default: that of the data set]"),
    click.option(
        "--setting",
        "settings",
        type=setting,
        multiple=True,
        metavar="KEY=VALUE",
        help="Of the data: dimension=64 of a generated set, dtype=float64 of the rows; may be repeated.",
    ),
)


@click.command("gram", short_help="Images → Gram matrix in a store, resumable.")
@architecture_options
@row_options
@transform_options
@click.option("--kernel", type=click.Choice(["ntk", "nngp", "both"]), default="ntk", show_default=True)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="cuda, triton, cpu or reference; auto: the fastest one here, or the one that a store was begun with.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    show_default=True,
    help="Of the kernel's arithmetic and of the store; solvers use float64 whatever it is.",
)
@click.option(
    "--memory", type=byte_size, metavar="SIZE", help="Most memory to use, like 4GiB. [default: no bound]"
)
@threads
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder for the store, which is named after its settings; or a store, NAME.gram.",
)
@click.option(
    "--member",
    type=member,
    metavar="I/N|slurm",
    help="One of N processes, on any hosts, that fill the store together: docs/cluster.md.",
)
@cluster_option
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option(
    "--tiles/--no-tiles",
    default=True,
    help="--no-tiles: begin the store and compute none of it, for `kernreg solve --matrix-free`.",
)
@as_json
def command(**given: Any) -> None:
    """Compute the Gram matrix of images under an architecture, tile by tile, into a store.

    Prints the plan, then fills the store. Stopped at any moment, even by kill -9, the same command goes on
    where it was; a larger --n or --test extends the store.

    \b
    kernreg gram --arch lcn --n 50000                     the NTK of CIFAR-10
    kernreg gram --arch gap --data digits --kernel both
    kernreg gram --arch vec --data digits --transform rotation --transform-seed 0
    kernreg gram --architecture net.json --data my.npz --memory 4GiB --dry-run
    kernreg gram --arch gap --n 50000 --member 3/8        the third of eight processes, see also kernreg submit
    kernreg gram --arch gap --n 50000 --cluster gpus.toml  on the workers of a cluster
    """
    architecture = architecture_from(given)
    if given["member"] and given["cluster"] is not None:
        raise click.UsageError(
            "--member shares a store without a cluster: give --member or --cluster, not both"
        )
    dataset, stand_in = load_rows(given, given["dry_run"])
    path = store_path(given, dataset, architecture)
    with _connected(given, path, dataset) as cluster:
        _fill(dataset, stand_in, architecture, path, given, cluster)


def _connected(given: dict[str, Any], path: Path, dataset: Dataset) -> AbstractContextManager[Client | None]:
    """The workers asked for, if any; a dry run asks for none, and a store that is complete needs none."""
    if given["cluster"] is None or (given["backend"] == "auto" and _is_complete(path, dataset)):
        return nullcontext()
    if given["dry_run"]:
        click.echo("a dry run starts no cluster: planned and timed for this machine", err=True)
        return nullcontext()
    from kernreg.cluster import connect

    return connect(given["cluster"], lambda text: click.echo(text, err=True))


def _is_complete(path: Path, dataset: Dataset) -> bool:
    from kernreg.store import GramStore

    if not (path / "gram.h5").exists():
        return False
    store = GramStore.open(path)
    return dataset.n <= store.n and dataset.t <= store.t and not store.missing(dataset.n, dataset.t)


def _fill(
    dataset: Dataset,
    stand_in: bool,
    architecture: Architecture,
    path: Path,
    given: dict[str, Any],
    cluster: Client | None,
) -> None:
    """Print the plan, and fill the store unless it is a dry run."""
    from kernreg.cli.info import describe
    from kernreg.cli.output import echo_json, seconds_text
    from kernreg.gram import build
    from kernreg.store import GramStore

    facts = _plan(dataset, architecture, path, given, cluster)
    if not given["as_json"]:
        _print_plan(facts)
    if cluster is None:
        facts["seconds"] = 0.0 if given["member"] else _seconds(dataset, architecture, facts)
    if not given["as_json"] and facts["seconds"]:
        click.echo(f"about {seconds_text(facts['seconds'])} from the start")
        if stand_in:
            click.echo("The data are not here yet: the time was measured on random numbers of their shape.")
    if given["dry_run"]:
        if given["as_json"]:
            echo_json(facts)
        return
    if (path / "gram.h5").exists() and not given["as_json"]:
        before = describe(GramStore.open(path))
        click.echo(f"goes on: {before['tiles_done']} of the {before['tiles']} tiles begun there are done")
        if before["backend"] != facts["backend"]:
            now, then = facts["backend"], before["backend"]
            click.echo(f"from here on by backend {now}, so far by {then}; every tile says its own")
    settings = {key: given[key] for key in ("kernel", "backend", "dtype", "memory", "member", "tiles")}
    store = build(path, dataset, architecture, progress=True, cluster=cluster, **settings)
    if given["as_json"]:
        echo_json(describe(store))
    else:
        click.echo(f"{'complete' if store.complete else 'begun'}: {store.path}")


def store_path(given: dict[str, Any], dataset: Dataset, architecture: Architecture) -> Path:
    """Where --out puts the store."""
    out: Path = given["out"]
    if out.suffix == ".gram":
        return out
    return out / store_name(dataset, architecture, given["kernel"], given["dtype"])


def store_name(dataset: Dataset, architecture: Architecture, kernel: str, dtype: str) -> str:
    """The name that the same settings always give, whatever n, test and backend are: digits-gap-ntk-1a2b3c4d.gram."""
    from kernreg.data import identity
    from kernreg.provenance import store_digest

    digest = store_digest(identity(dataset.provenance), architecture, kernel, dtype)
    transform = dataset.provenance.get("transform")
    data = (Path(dataset.name).stem, *([transform["name"]] if transform else []))
    parts = (*data, architecture.name or "network", kernel)
    # A name is anybody's; it stays one part of a path.
    stem = "-".join((*parts, digest))
    return "".join(c if c.isprintable() and c != "/" else "_" for c in stem) + ".gram"


def load_rows(given: dict[str, Any], dry_run: bool) -> tuple[Dataset, bool]:
    """The data set asked for, fetched if nothing was said and it is not here; or a stand-in for a dry run."""
    from kernreg.data import describe, load
    from kernreg.data.fetch import fetch

    name, data_dir = given["data"], given["data_dir"]
    wanted = {key: given[key] for key in ("n", "test", "seed", "normalise")}
    moved = {key: given[key] for key in ("transform", "transform_seed", "patch")}
    settings = dict(given["settings"])
    if twice := settings.keys() & {*wanted, *moved, "data_dir", "name"}:
        raise click.UsageError(f"{min(twice)} has an option of its own; it is no --setting")
    if name is None:
        name = "cifar10"
        entry = describe(name, data_dir)
        if not entry["present"] and dry_run:
            return _stand_in(entry, wanted), True
        if not entry["present"]:
            click.echo(f"CIFAR-10 is not here yet: fetching it (170 MB) into {entry['data_dir']}", err=True)
            fetch(name, data_dir, progress=True)
    if given["transform"] != "none":
        click.echo(f"transforming the rows: {given['transform']}", err=True)
    return load(name, data_dir=data_dir, **wanted, **moved, **settings), False


def _stand_in(entry: dict[str, Any], wanted: dict[str, Any]) -> Dataset:
    from kernreg.data import load

    n = entry["train"] if wanted["n"] is None else wanted["n"]
    test = 1000 if wanted["test"] is None else wanted["test"]
    return load("synthetic-images", n=n, test=test, seed=wanted["seed"])


def _plan(
    dataset: Dataset,
    architecture: Architecture,
    path: Path,
    given: dict[str, Any],
    cluster: Client | None = None,
) -> dict[str, Any]:
    """Everything that the plan says, JSON-able; with the workers of a cluster, also the seconds it takes them."""
    from dataclasses import asdict

    from kernreg import clusterfill
    from kernreg.fill import backend_for
    from kernreg.plan import plan

    kernel, dtype, sizes = given["kernel"], given["dtype"], (dataset.shape, dataset.n, dataset.t)
    count, pace = 1, None
    if cluster is None:
        backend, workers = backend_for(path, given["backend"], architecture, *sizes)
    else:
        from kernreg.cluster import worker_count

        backend, workers = clusterfill.backend_for(cluster, path, given["backend"], architecture, *sizes)
        timed = (dataset.shape, str(dataset.x_train.dtype), architecture, kernel, backend, dtype)
        count, pace = max(worker_count(cluster), 1), clusterfill.seconds_per_pair(cluster, *timed)
    x_bytes = dataset.x_train.nbytes + dataset.x_test.nbytes
    amounts = (given["memory"], x_bytes, workers, pace)
    cut = plan(dataset.n, dataset.t, dataset.shape, architecture, kernel, dtype, *amounts)
    took = {} if pace is None else {"workers": count, "seconds": cut.pairs * pace / workers.devices / count}
    return {
        "path": str(path),
        "architecture": architecture.to_dict(),
        "architecture_text": str(architecture),
        "kernel": kernel,
        "backend": backend,
        "devices": workers.devices,
        "dtype": dtype,
        "data": dataset.provenance,
        "n": dataset.n,
        "t": dataset.t,
        **asdict(cut),
        **took,
    }


def _seconds(dataset: Dataset, architecture: Architecture, facts: dict[str, Any]) -> float:
    """Of the whole plan, measured; 0 where nothing is left to compute and the backend is on another machine."""
    from kernreg.kernels.lanes import absence
    from kernreg.plan import seconds_per_pair

    if absence(facts["backend"]):
        return 0.0
    click.echo("measuring the speed of the kernel here (compiled at its first use)", err=True)
    settings = (facts["kernel"], facts["backend"], facts["dtype"])
    each = seconds_per_pair(dataset.x_train, architecture, *settings)
    return float(facts["pairs"] * each / facts["devices"])


def _print_plan(facts: dict[str, Any]) -> None:
    from kernreg.cli.output import transform_text
    from kernreg.plan import show_bytes

    click.echo(facts["architecture_text"])
    shape = "×".join(map(str, facts["data"]["shape"])) if "shape" in facts["data"] else "?"
    click.echo(f"{facts['data']['name']}: {facts['n']} train and {facts['t']} test rows of shape {shape}")
    if "transform" in facts["data"]:
        click.echo(f"transform: {transform_text(facts['data']['transform'])}")
    devices = f" on {facts['devices']} GPUs" if facts["devices"] > 1 else ""
    if "workers" in facts:
        devices += f" of each of {facts['workers']} workers" if devices else f" on {facts['workers']} workers"
    click.echo(
        f"{facts['tiles']} tiles of {facts['tile']} rows, {facts['pairs']:,} pairs, {facts['kernel']} in "
        f"{facts['dtype']} by backend {facts['backend']}{devices}"
    )
    memory = show_bytes(facts["memory_bytes"])
    click.echo(f"{show_bytes(facts['disk_bytes'])} on disk at {facts['path']}, about {memory} of memory")
