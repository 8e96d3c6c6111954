"""Argument types and groups of options that several commands share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kernreg.architecture import PRESETS, Architecture
from kernreg.errors import KernregError
from kernreg.layers import PADDINGS
from kernreg.symmetry import NAMES

if TYPE_CHECKING:
    from kernreg.clusterspec import Spec
    from kernreg.sharing import Member

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_FOLDER = Path("kernreg-out")
LARGEST_FILE = 1 << 20  # bytes of a JSON file of an architecture


def byte_size(text: str) -> int:
    """4GiB, 500MB, 2g or a plain number of bytes, as bytes."""
    from kernreg.plan import parse_bytes

    try:
        return parse_bytes(text)
    except KernregError as error:
        raise click.BadParameter(str(error)) from None


def member(text: str) -> Member:
    """3/8, or slurm, as a member of a shared run."""
    from kernreg.sharing import Member

    try:
        return Member.parse(text, os.environ)
    except KernregError as error:
        raise click.BadParameter(str(error)) from None


def set_threads(ctx: click.Context, param: click.Parameter, threads: int | None) -> None:
    """Hand --threads to BLAS, Numba and the kernels, which read it from the environment when they first need it."""
    if threads is not None:
        libraries = ("KERNREG", "NUMBA_NUM", "OMP_NUM", "OPENBLAS_NUM", "MKL_NUM")
        os.environ |= {f"{library}_THREADS": str(threads) for library in libraries}


def cluster_spec(ctx: click.Context, param: click.Parameter, text: str | None) -> Spec | None:
    """--cluster, read and checked before any data are loaded."""
    from kernreg.clusterspec import parse

    return None if text is None else parse(text)


def window_size(text: str) -> tuple[int, int]:
    """3 or 3x5 (height × width), as (3, 3) or (3, 5)."""
    match = re.fullmatch(r"([1-9][0-9]*)(?:[x×]([1-9][0-9]*))?", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a window; write it like 3 or 3x5")
    return int(match.group(1)), int(match.group(2) or match.group(1))


def image_size(text: str) -> tuple[int, int, int]:
    """32x32x3 (height × width × channels), as (32, 32, 3)."""
    match = re.fullmatch(r"([1-9][0-9]*)[x×]([1-9][0-9]*)[x×]([1-9][0-9]*)", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not the size of an image; write it like 32x32x3")
    return int(match.group(1)), int(match.group(2)), int(match.group(3))


def sample_window(text: str) -> tuple[float, float]:
    """LO:HI, numbers of samples; a side left empty is 1 or infinity."""
    match = re.fullmatch(r"([0-9]*):([0-9]*)", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a window of sample counts; write it like 100:1000")
    low, high = float(match.group(1) or 1), float(match.group(2) or "inf")
    if not low < high:
        raise click.BadParameter(f"the window {text} is empty")
    return low, high


def training_times(text: str) -> tuple[float, ...]:
    """10, inf or 1,10,100, or LO:HI:COUNT, so many from LO to HI with equal ratios; as numbers."""
    try:
        if ":" not in text:
            return tuple(float(part) for part in text.split(","))
        low, high, count = text.split(":")
        first, last, number = float(low), float(high), int(count)
        if not (0 < first < last < float("inf") and number >= 2):
            raise ValueError
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no training time; write it like 10, 1,10,100 or 0.1:1000:9 (nine with equal ratios)"
        ) from None
    return tuple(first * (last / first) ** (i / (number - 1)) for i in range(number))


def setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE, a number, JSON or plain text, as (KEY, VALUE)."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier() and value):
        raise click.BadParameter(f"{text!r} is not a setting; write it like dimension=64")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def ridge(text: str) -> float | str:
    """A number ≥ 0, or loo or gcv."""
    if text in ("loo", "gcv"):
        return text
    try:
        value = float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor loo nor gcv") from None
    if not 0 <= value < float("inf"):
        raise click.BadParameter(f"the ridge must be a finite number ≥ 0, not {text}")
    return value


def sample_sizes(text: str) -> tuple[int, ...]:
    """64,128,256: different sample counts, as an increasing tuple."""
    if not re.fullmatch(r"[1-9][0-9]*(,[1-9][0-9]*)*", text):
        raise click.BadParameter(f"{text!r} is no list of sample counts; write it like 64,128,256")
    return tuple(sorted({int(m) for m in text.split(",")}))


def step(text: str) -> float | str:
    """A positive number, or auto."""
    try:
        value = text if text == "auto" else float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor auto") from None
    if value != "auto" and not 0 < float(value) < float("inf"):
        raise click.BadParameter(f"the step size must be a positive number, not {text}")
    return value


def options(*several: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several option decorators as one, shown by --help in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(several):
            command = option(command)
        return command

    return decorate


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, for machines.")
data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder of the original data files. [default: the cache]",
)

ridge_mode = click.option(
    "--ridge-mode",
    type=click.Choice(["absolute", "relative"]),
    default="absolute",
    show_default=True,
    help="relative: times the mean of the diagonal.",
)
kernel_of_store = click.option(
    "--kernel", type=click.Choice(["ntk", "nngp"]), help="[default: every kernel of a store]"
)

cluster_option = click.option(
    "--cluster",
    metavar="SPEC",
    callback=cluster_spec,
    help="Who computes: local, local:4, slurm, pbs, lsf, sge, tcp://SCHEDULER:8786, or a file of settings, FILE.toml.",
)
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="That factors. cuda: a factor that the GPU does not hold is made by tiles on all GPUs; "
    "auto: the GPU, if there is one whose memory suffices.",
)
device_memory = click.option(
    "--device-memory",
    type=byte_size,
    metavar="SIZE",
    help="Most memory of each GPU to use, like 20GiB. [default: what is free]",
)
memory = click.option(
    "--memory",
    type=byte_size,
    metavar="SIZE",
    help="Most memory to use, like 4GiB; a factor beyond it is made by tiles on disk. "
    "[default: three quarters of the machine's]",
)
scratch = click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the tiles of a factor. [default: beside the store]",
)
# Of conjugate gradients; names are those of `kernreg.cg.ConjugateGradients`.
iteration_options = options(
    click.option(
        "--rtol",
        type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
        default=1e-8,
        show_default=True,
        help="Relative residual of each column that conjugate gradients reach, and a float32 factor.",
    ),
    click.option(
        "--rank",
        type=click.IntRange(min=0),
        help="Of the preconditioner of conjugate gradients. [default: 8·√n; 0: none]",
    ),
    click.option("--max-iterations", type=click.IntRange(min=1), default=10_000, show_default=True),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of its pivots."),
)
ITERATION = ("rtol", "rank", "max_iterations", "seed")
matrix_free = click.option(
    "--matrix-free",
    is_flag=True,
    help="Compute the kernel anew in every product of conjugate gradients; tiles need not be there.",
)
probes = click.option(
    "--probes",
    type=click.IntRange(min=2),
    default=20,
    show_default=True,
    help="Right-hand sides that --gcv estimates the trace from.",
)

threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    callback=set_threads,
    is_eager=True,
    expose_value=False,
    help="Cores to use. [default: all]",
)

transform_options = options(
    click.option(
        "--transform",
        type=click.Choice(NAMES),
        default="none",
        show_default=True,
        help="Change of coordinates of all rows, train and test alike.",
    ),
    click.option(
        "--transform-seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Draws the transform.",
    ),
    click.option("--patch", type=window_size, metavar="K|HxW", help="Patch of --transform patch-rotation."),
)

# Names of the settings are those of `Architecture.preset`; an option not given is left to its defaults.
architecture_options = options(
    click.option("--arch", type=click.Choice(PRESETS, case_sensitive=False), help="Preset architecture."),
    click.option(
        "--architecture",
        "architecture_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help='A JSON file {"layers": [...]} in place of --arch.',
    ),
    click.option("--depth", type=click.IntRange(min=0), help="Hidden layers. [default: 3]"),
    click.option("--filter", type=window_size, metavar="K|HxW", help="Filter size. [default: 3]"),
    click.option(
        "--radius", type=click.IntRange(min=0), help="Of the average pool of lap, in pixels. [default: 2]"
    ),
    click.option("--stride", type=window_size, metavar="S|HxW", help="Stride of every layer. [default: 1]"),
    click.option("--padding", type=click.Choice(PADDINGS, case_sensitive=False), help="[default: SAME]"),
    click.option("--weight-variance", type=float, help="σw². [default: 2]"),
    click.option("--bias-variance", type=float, help="σb². [default: 0.01]"),
    click.option("--readout-weight-variance", type=float, help="[default: as --weight-variance]"),
    click.option("--readout-bias-variance", type=float, help="[default: as --bias-variance]"),
    click.option("--activation", help="relu, erf or rbf. [default: relu]"),
)
_SETTINGS = (
    "depth",
    "filter",
    "radius",
    "stride",
    "padding",
    "weight_variance",
    "bias_variance",
    "readout_weight_variance",
    "readout_bias_variance",
    "activation",
)


def architecture_from(given: dict[str, Any]) -> Architecture:
    """The architecture that `architecture_options` describe; takes their keys out of `given`.

    Raises:
        click.UsageError: neither or both of --arch and --architecture, or settings beside a file.
        KernregError: the preset has no such setting, or the file is not an architecture.
    """
    preset, file = given.pop("arch"), given.pop("architecture_file")
    settings = {key: given.pop(key) for key in _SETTINGS}
    settings = {key: value for key, value in settings.items() if value is not None}
    if (preset is None) == (file is None):
        raise click.UsageError(f"give one of --arch {{{','.join(PRESETS)}}} and --architecture FILE")
    if file is None:
        return Architecture.preset(preset, **settings)
    if settings:
        option = next(iter(settings)).replace("_", "-")
        raise click.UsageError(f"--{option} belongs to --arch; {file} says everything itself")
    try:
        with file.open("rb") as stream:
            text = stream.read(LARGEST_FILE + 1).decode()
    except UnicodeDecodeError as error:
        raise KernregError(f"{file} is not UTF-8 text: {error.reason}") from None
    if len(text) > LARGEST_FILE:
        raise KernregError(f"{file} has more than {LARGEST_FILE} bytes, which no architecture needs")
    try:
        return Architecture.from_json(text)
    except KernregError as error:
        raise KernregError(f"{file}: {error}") from None
