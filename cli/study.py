"""`kernreg study`: a file of architectures, transforms and sizes → curves, exponents and a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernreg.cli.arguments import as_json, byte_size, data_dir, options, threads

if TYPE_CHECKING:
    from kernreg.outcomes import Outcomes
    from kernreg.study import Study
    from kernreg.studyplan import Plan

DEFAULT_FOLDER = Path("kernreg-study")

study_options = options(
    click.argument("study", type=click.Path(dir_okay=False, path_type=Path)),
    click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_FOLDER,
        show_default=True,
        help="Folder of all studies: Gram matrices and curves in it are shared by content.",
    ),
    data_dir,
)
memory = click.option(
    "--memory", type=byte_size, metavar="SIZE", help="Most memory to use, like 4GiB. [default: no bound]"
)


@click.group("study", short_help="A file of kernels and transforms → a page.")
def command() -> None:
    """Run a study file: Gram matrices, learning curves, exponents, comparisons, and a page of figures.

    \b
    kernreg study run examples/ladder-digits.toml --dry-run
    kernreg study run examples/ladder-digits.toml
    """


@command.command("run")
@study_options
@click.option("--dry-run", is_flag=True, help="Print what it takes and stop.")
@memory
@threads
@as_json
@click.pass_context
def run(
    ctx: click.Context,
    study: Path,
    out: Path,
    data_dir: Path | None,
    dry_run: bool,
    memory: int | None,
    as_json: bool,
) -> None:
    """Measure what the file STUDY asks for and is not there yet, and write the report.

    Stopped at any moment, even by kill -9, the same command goes on where it was; a changed file computes only
    what is new. Exit status 1 if curves that must coincide do not.
    """
    from kernreg.study import Study

    given = Study.read(study, out, data_dir)
    if dry_run:
        click.echo("measuring the speed of the kernels here (compiled at their first use)", err=True)
        _show_plan(given, given.plan(memory), as_json)
        return
    given.run(memory, progress=True)
    _finish(ctx, given, as_json)


@command.command("status")
@study_options
@as_json
def status(study: Path, out: Path, data_dir: Path | None, as_json: bool) -> None:
    """Say what of the file STUDY is measured, and what is not yet."""
    from kernreg.study import Study

    given = Study.read(study, out, data_dir)
    _show_plan(given, given.plan(seconds=False), as_json)


@command.command("report")
@study_options
@as_json
@click.pass_context
def report(ctx: click.Context, study: Path, out: Path, data_dir: Path | None, as_json: bool) -> None:
    """Write the page, figures and tables of the file STUDY from the curves that are there.

    Exit status 1 if curves that must coincide do not, or some are not measured yet.
    """
    from kernreg.study import Study

    _finish(ctx, Study.read(study, out, data_dir), as_json)


def _finish(ctx: click.Context, study: Study, as_json: bool) -> None:
    from kernreg.cli.output import echo_json
    from kernreg.studyreport import report, to_dict

    outcomes = study.outcomes(progress=True)
    files = report(outcomes, study.folder)
    if as_json:
        echo_json({**to_dict(outcomes), "files": files})
    else:
        _show_outcomes(outcomes, files)
    if not outcomes.ok:
        ctx.exit(1)


def _show_outcomes(outcomes: Outcomes, files: list[Path]) -> None:
    from kernreg.cli.output import table
    from kernreg.ladder import sentences
    from kernreg.studytables import coincidence_table, curve_table

    curves = curve_table(outcomes)
    shown = [i for i, kind in enumerate(curves.kinds) if kind != "prose"]
    left = [curves.head[i] for i in shown if curves.kinds[i]]
    rows = [tuple(row[i] for i in shown) for row in curves.rows]
    click.echo(table(tuple(curves.head[i] for i in shown), rows, left))
    click.echo()
    for c in coincidence_table(outcomes).values:
        mark = "✓" if c[-1] else "✗ NOT"
        click.echo(f"{mark} one: {c[0]} and {c[1]}, largest difference {c[2]:.1e} at m = {c[3]}")
    for sentence in sentences(outcomes):
        click.echo(sentence)
    for name in outcomes.absent:
        click.echo(f"not measured yet: {name}")
    click.echo(f"wrote {files[0]} and {len(files) - 1} other files beside it")


def _show_plan(study: Study, plan: Plan, as_json: bool) -> None:
    from kernreg.cli.output import echo_json, seconds_text, table
    from kernreg.plan import show_bytes

    if as_json:
        echo_json({"study": study.file.name, "out": study.out, **plan.to_dict()})
        return
    head = ("gram", "kernel", "n", "t", "state", "pairs left", "disk", "time", "curves")
    rows: list[tuple[str, ...]] = []
    for task in plan.tasks:
        left = task.missing if task.needed else 0
        measured = len(task.entries) - len(task.unmeasured)
        state = task.state if task.needed or task.state == "complete" else f"{task.state}, not needed"
        known = task.needed and task.seconds is not None and task.curve_seconds is not None
        spent = (task.seconds or 0.0) + (task.curve_seconds or 0.0)
        rows.append(
            (
                study.gram_label(task.entries[0]),
                task.kernel,
                str(task.n),
                str(task.t),
                state,
                f"{left:,}",
                show_bytes(task.disk_bytes) if left else "–",
                seconds_text(spent) if known else "–",
                f"{measured} of {len(task.entries)}",
            )
        )
    if rows:
        click.echo(table(head, rows, left=("gram", "kernel", "state")))
        click.echo()
    if plan.trainings:
        _show_trainings(study, plan)
        click.echo()
    if plan.stand_in:
        click.echo("The data are not here yet: sizes are those of the registry, times those of random rows.")
    if not plan.waiting and not plan.untrained:
        click.echo("everything is measured")
        return
    parts: dict[str, Any] = plan.to_dict()
    trained = f"{parts['networks']:,} networks to train, " if plan.trainings else ""
    click.echo(
        f"left: {trained}{len(plan.waiting)} Gram matrices, {parts['pairs']:,} pairs, {parts['updates']:.3g} updates, "
        f"{show_bytes(parts['disk_bytes'])} of disk, about {show_bytes(parts['memory_bytes'])} of memory"
    )
    if plan.seconds is not None:
        click.echo(f"about {seconds_text(plan.seconds)} on this machine")


def _show_trainings(study: Study, plan: Plan) -> None:
    from kernreg.cli.output import seconds_text, table

    head = ("network", "training", "n", "t", "state", "networks", "rows", "time")
    rows = [
        (
            study.label(task.entry),
            f"{task.network.training.optimizer}, width {task.network.training.width}",
            str(task.entry.n),
            str(task.entry.t),
            "absent" if task.needed else "complete",
            f"{task.networks:,}",
            f"{task.rows:.2g}",
            seconds_text(task.seconds) if task.needed and task.seconds is not None else "–",
        )
        for task in plan.trainings
    ]
    click.echo(table(head, rows, left=("network", "training", "state")))
