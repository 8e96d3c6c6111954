"""`kernreg train`: images → learning curve of trained finite networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernreg.cli.arguments import (
    DEFAULT_FOLDER,
    architecture_from,
    architecture_options,
    as_json,
    options,
    sample_sizes,
    step,
    threads,
    transform_options,
)
from kernreg.cli.gram import load_rows, row_options
from kernreg.training import (
    BLOCKS,
    OPTIMIZERS,
    PARAMETERIZATIONS,
    PRECISIONS,
    READOUTS,
    SCHEDULES,
    STEMS,
    Training,
)

if TYPE_CHECKING:
    from kernreg.curvefile import CurveFile
    from kernreg.data import Dataset
    from kernreg.exponent import PowerLawFit
    from kernreg.training import Trained

# Names are those of `Training`; an option not given is left to its default there.
training_options = options(
    click.option("--width", type=click.IntRange(min=1), help="Channels of every hidden layer. [default: 64]"),
    click.option("--parameterization", type=click.Choice(PARAMETERIZATIONS), help="[default: ntk]"),
    click.option(
        "--optimizer", type=click.Choice(OPTIMIZERS), help="gd takes all rows in every step. [default: sgd]"
    ),
    click.option(
        "--lr", type=step, metavar="η|auto", help="Step size; auto: from the tangent kernel. [default: auto]"
    ),
    click.option("--momentum", type=float, help="Of sgd and gd. [default: 0.9]"),
    click.option("--weight-decay", type=float, help="[default: 0]"),
    click.option("--batch", type=click.IntRange(min=1), help="Rows of a step. [default: 32]"),
    click.option("--epochs", type=float, help="Passes over the training rows. [default: 100]"),
    click.option("--steps", type=click.IntRange(min=0), help="At least so many steps. [default: 0]"),
    click.option("--schedule", type=click.Choice(SCHEDULES), help="Of the step size. [default: constant]"),
    click.option(
        "--validation",
        type=float,
        metavar="SHARE",
        help="Of the training rows, left out for early stopping. [default: 0, no early stopping]",
    ),
    click.option("--patience", type=click.IntRange(min=1), help="Of 50 evaluations. [default: 10]"),
    click.option(
        "--replicates", type=click.IntRange(min=1), help="Networks of each training set. [default: 1]"
    ),
    click.option("--init-seed", type=click.IntRange(min=0), help="Of weights and data order. [default: 0]"),
    click.option("--halvings", type=click.IntRange(min=0), help="For disjoint training sets. [default: 4]"),
    click.option(
        "--centred/--not-centred",
        default=None,
        help="Train f − f at the start, which begins at 0. [default: centred]",
    ),
    click.option("--flip", is_flag=True, default=None, help="Augmentation: mirror images."),
    click.option(
        "--crop", type=click.IntRange(min=0), metavar="PIXELS", help="Augmentation: shifts. [default: 0]"
    ),
    click.option("--precision", type=click.Choice(PRECISIONS), help="bfloat16: mixed. [default: float32]"),
)
resnet_options = options(
    click.option("--resnet", type=click.Choice(tuple(BLOCKS)), help="A ResNet in place of --arch."),
    click.option("--stem", type=click.Choice(STEMS), help="Of --resnet. [default: cifar]"),
    click.option("--readout", type=click.Choice(READOUTS), help="Of --resnet. [default: gap]"),
)


@click.command("train", short_help="Images → learning curve of trained finite networks.")
@architecture_options
@resnet_options
@row_options
@transform_options
@training_options
@click.option(
    "--sizes", type=sample_sizes, metavar="M,M,…", help="Sample counts. [default: n, n/√2, n/2, … down to 16]"
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Use torch.compile, for long trainings.")
@threads
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder for the curve, NAME.npz, and train.json, .csv, .png and .svg.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@as_json
def command(**given: Any) -> None:
    """Train finite networks on 16, 22, … n rows and measure their learning curve, as `kernreg fit` does a kernel's.

    The same architectures, rows, transforms and targets as `kernreg gram`. Networks of one size are trained together. Stopped at
    any moment, even by kill -9, the same command goes on where it was. Needs PyTorch: pip install 'kernreg[torch]'.

    \b
    kernreg train --arch fcn --data digits --n 1024 --width 64 --replicates 2
    kernreg train --arch gap --depth 2 --data digits --n 256 --sizes 64,128,256 --epochs 50
    kernreg train --resnet resnet18 --readout flatten --data cifar10 --device cuda --precision bfloat16 --flip --crop 4
    """
    from kernreg.cli.output import echo_json, seconds_text
    from kernreg.errors import KernregError
    from kernreg.exponent import fit_exponent
    from kernreg.networkcurve import counts, network_curve, seconds

    trained = _trained(given)
    dataset, stand_in = load_rows(given, given["dry_run"])
    path = given["out"] / f"{_stem(dataset, trained)}.npz"
    networks, rows = counts(trained, dataset.n)
    facts: dict[str, Any] = {
        "path": str(path),
        "network": trained.label,
        "architecture": trained.architecture.to_dict(),
        "training": trained.training.to_dict(),
        "data": dataset.provenance,
        "n": dataset.n,
        "t": dataset.t,
        "samples": list(trained.samples(dataset.n)),
        "networks": networks,
        "rows": rows,
    }
    if not given["as_json"]:
        _print_plan(facts, trained, dataset)
    if given["dry_run"] or not path.is_file():
        outputs = dataset.y_train.shape[1]
        estimate = seconds(trained, dataset.shape, outputs, dataset.n, given["device"])
        facts["seconds"] = estimate
        click.echo(f"about {seconds_text(estimate)} from the start", err=given["as_json"])
    if given["dry_run"]:
        if stand_in:
            click.echo(
                "The data are not here yet: the time was measured on random numbers of their shape.", err=True
            )
        if given["as_json"]:
            echo_json(facts)
        return
    given["out"].mkdir(parents=True, exist_ok=True)
    axes = {"architecture": trained.label, "kernel": trained.training.optimizer, "seed": given["seed"]}
    made = network_curve(
        dataset, trained, path, axes, device=given["device"], compiled=given["compiled"], progress=True
    )
    fit, unfit = None, ""
    try:
        fit = fit_exponent(made.curve)
    except KernregError as error:
        unfit = str(error)
    files = _save(made, fit, trained.label, given["out"])
    results = {**facts, **_results(made, fit, unfit), "files": [str(path), *map(str, files)]}
    if given["as_json"]:
        echo_json(results)
    else:
        _print_results(made, fit, unfit, [path, *files])


def _trained(given: dict[str, Any]) -> Trained:
    """The network and its training; takes their keys out of `given`."""
    from kernreg.training import ResNetShape, Trained

    settings = {key: given.pop(key) for key in Training.names() if key in given and key != "seed"}
    settings["seed"] = given.pop("init_seed")  # `seed` is that of the rows
    training = Training(**{key: value for key, value in settings.items() if value is not None})
    named, stem, readout, sizes = (given.pop(key) for key in ("resnet", "stem", "readout", "sizes"))
    if named is None:
        if stem or readout:
            raise click.UsageError("--stem and --readout belong to --resnet")
        return Trained(architecture_from(given), training, sizes)
    if given["arch"] or given["architecture_file"]:
        raise click.UsageError("give one of --arch, --architecture and --resnet")
    return Trained(ResNetShape(named, stem or STEMS[0], readout or READOUTS[0]), training, sizes)


def _stem(dataset: Dataset, trained: Trained) -> str:
    """The name that the same settings always give: digits-fcn-w64-1a2b3c4d5e6f7a8b."""
    from kernreg.data import identity
    from kernreg.networkcurve import curve_digest

    transform = dataset.provenance.get("transform")
    parts = (Path(dataset.name).stem, *([transform["name"]] if transform else []), trained.label)
    return "-".join((*parts, curve_digest(identity(dataset.provenance), trained, dataset.n, dataset.t)))


def _print_plan(facts: dict[str, Any], trained: Trained, dataset: Dataset) -> None:
    from kernreg.cli.output import transform_text

    t, shape = trained.training, "×".join(map(str, dataset.shape))
    click.echo(f"{trained.architecture}, width {t.width}, {t.parameterization} parameterization")
    click.echo(f"{dataset.name}: {dataset.n} train and {dataset.t} test rows of shape {shape}")
    if "transform" in facts["data"]:
        click.echo(f"transform: {transform_text(facts['data']['transform'])}")
    sizes = ", ".join(map(str, facts["samples"]))
    click.echo(
        f"{facts['networks']:,} networks on {sizes} rows, {facts['rows']:.3g} rows go through them: {facts['path']}"
    )


def _results(made: CurveFile, fit: PowerLawFit | None, unfit: str) -> dict[str, Any]:
    curve = made.curve
    return {
        "lr": made.about["lr"],
        "loss": curve.loss,
        "error": curve.error,
        "fit": None if fit is None else fit.to_dict(),
        "unfit": unfit,
    }


def _save(made: CurveFile, fit: PowerLawFit | None, label: str, out: Path) -> list[Path]:
    import json

    from kernreg.durable import refusal
    from kernreg.report import figure, finite, write_csv

    record = {"label": label, **_results(made, fit, ""), "samples": made.curve.samples, **made.about}
    try:
        text = json.dumps(finite(record), indent=1, ensure_ascii=False, allow_nan=False)
        (out / "train.json").write_text(text + "\n", encoding="utf-8")
        table = write_csv({label: made.curve}, out / "train.csv")
        data = made.about["data"].get("name", "arrays")
        drawn = figure(
            {label: made.curve}, {label: fit}, out / "train", title=f"{data}, {made.about['t']} test rows"
        )
    except OSError as error:
        raise refusal(error, out) from error
    return [out / "train.json", table, *drawn]


def _print_results(made: CurveFile, fit: PowerLawFit | None, unfit: str, files: list[Path]) -> None:
    from kernreg.cli.output import table
    from kernreg.report import interval_text

    curve, rows = made.curve, []
    columns = made.about["columns"]
    for i, m in enumerate(curve.samples.tolist()):
        of = [dict(zip(columns, row, strict=True)) for row in made.about["networks"] if row[0] == m]
        train = sum(one["train_mse"] for one in of) / len(of)
        error = "–" if curve.error is None else f"{100 * curve.error[i]:.2f} %"
        rows.append((str(m), str(len(of)), f"{train:.3g}", f"{curve.loss[i]:.4g}", error))
    click.echo(table(("m", "networks", "train mse", "loss", "error"), rows))
    if fit is None:
        click.echo(f"no exponent: {unfit}")
    else:
        window = f"{fit.window[0]:g}…{fit.window[1]:g}"
        click.echo(f"exponent {fit.exponent:.3f} {interval_text(fit)}, {fit.model}, m = {window}")
        for sentence in fit.warnings:
            click.echo(f"* {sentence}")
    for file in files:
        click.echo(f"wrote {file}")
