"""Learning curves of trained networks, in the form that those of kernels have.

At each sample count m the networks are trained on the training sets of the kernel's curve: the first m rows of every block of
rows (`kernreg.question.halves`), `replicates` networks on each. The squared error of a test row is the mean over the replicates,
so that the loss is that of one network, averaged over weights and data orders; a curve has points at its sizes alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kernreg.archive import read_archive, write_archive
from kernreg.curve import LearningCurve, Replicate
from kernreg.data import Dataset
from kernreg.durable import refusal
from kernreg.errors import KernregError
from kernreg.finite.batches import Batches, Images, Member
from kernreg.finite.descent import ROWS_AT_ONCE, descend
from kernreg.finite.ensemble import Ensemble, at_once
from kernreg.finite.networks import network
from kernreg.finite.resnet import ResNet
from kernreg.finite.stepsize import step_size
from kernreg.progress import Meter, Progress
from kernreg.provenance import checksum
from kernreg.question import halves
from kernreg.training import BLOCKS, ResNetShape, Trained, Training, seeds_of

Floats = NDArray[np.float64]

TIMED_STEPS = (2, 10)


@dataclass(frozen=True)
class Pass:
    """Networks that are trained together: equal steps, equal batch."""

    members: tuple[Member, ...]
    steps: int
    batch: int

    @property
    def rows(self) -> int:
        """Rows that go through a network, all steps and networks together: the unit of progress."""
        return len(self.members) * self.steps * self.batch


@dataclass(frozen=True, eq=False)
class Measured:
    """What a pass has measured.

    Attributes:
        squared_errors: (E, t) of each test row, summed over outputs.
        mistakes: (E, t) whether the largest output is not the label's; (E, 0) without labels.
        train: (E,) mean squared error on the last batches.  steps: (E,) that made the weights.
    """

    squared_errors: Floats
    mistakes: NDArray[np.bool_]
    train: Floats
    steps: NDArray[np.int64]


def passes(trained: Trained, n: int, template: torch.nn.Module, shape: tuple[int, ...]) -> list[Pass]:
    """All networks of a curve on n rows, in passes; the longest trainings last."""
    t, together = trained.training, dict[tuple[int, int], list[Member]]()
    for m in trained.samples(n):
        starts = [start for start, size in _blocks(n, t) if size >= m]
        for start, replicate in product(starts, range(t.replicates)):
            key = (t.steps_of(m), t.batch_of(m))
            together.setdefault(key, []).append(Member(m, start, replicate))
    made = []
    for (steps, batch), members in together.items():
        most = 1 if isinstance(trained.architecture, ResNetShape) else at_once(template, shape, batch)
        count = -(-len(members) // most)
        for part in range(count):  # of nearly equal numbers
            made.append(Pass(tuple(members[part::count]), steps, batch))
    return sorted(made, key=lambda p: p.steps * p.batch)


def make(trained: Trained, shape: tuple[int, ...], outputs: int, seed: int = 0) -> Any:
    """The module that the networks of a curve are copies of."""
    dtype = torch.float64 if trained.training.precision == "float64" else torch.float32
    t, architecture = trained.training, trained.architecture
    if isinstance(architecture, ResNetShape):
        blocks, ends = BLOCKS[architecture.name], (architecture.stem, architecture.readout)
        return ResNet(shape, t.width, outputs, blocks, *ends, seed, dtype)
    return network(architecture, shape, t.width, outputs, t.parameterization, seed=seed, dtype=dtype)


def train_curve(
    dataset: Dataset,
    trained: Trained,
    folder: Path | None = None,
    *,
    device: str = "cpu",
    compiled: bool = False,
    progress: bool | Progress = False,
) -> tuple[LearningCurve, dict[str, Any]]:
    """Train every network of a curve.

    Args:
        dataset: n training and t test rows; the test rows are looked at once, when a training has ended.
        trained: architecture, training, sizes.
        folder: where finished passes and checkpoints lie, so that what was killed goes on; made. None: nowhere.
        device: "cpu" or "cuda".
        compiled: use `torch.compile`.
        progress: a bar, or a function of rows done and rows in all.

    Returns:
        The curve, and facts for a file: step size, number of networks, and losses network by network.

    Raises:
        KernregError: no test rows, layers that do not fit, a device that is not there, training that diverges.
        KeyboardInterrupt: SIGINT or SIGTERM; finished passes and the checkpoint of the one in hand are kept.
    """
    _check(dataset, trained, device)
    t = trained.training
    template = make(trained, dataset.shape, dataset.y_train.shape[1], seeds_of(t.seed)[0])
    dtype = next(template.parameters()).dtype
    images = Images(dataset.x_train, dataset.y_train, dtype, device, t.crop)
    tests = Images(dataset.x_test, dataset.y_test, dtype, device)
    lr = step_size(template.to(device), images.x, t)
    template.to("cpu")
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refusal(error, folder) from error
    todo = passes(trained, dataset.n, template, dataset.shape)
    identity: dict[str, Any] = {"lr": lr, "network": trained.digest}
    identity |= {"device": device.split(":")[0], "rows": _rows_of(dataset)}
    measured: dict[Member, tuple[Measured, int]] = {}
    with Meter(0, sum(p.rows for p in todo), progress, "row", trained.label) as meter:
        for p in todo:
            stem = None if folder is None else folder / _name(p, identity)
            done = None if stem is None else _load(stem.with_suffix(".npz"))
            if done is None:
                made = Ensemble(template, [m.seeds(t)[0] for m in p.members], device, compiled)
                done = _measure(made, images, tests, dataset, p, trained, lr, device, stem, meter)
            else:
                meter.skip(p.rows)
            measured |= {member: (done, e) for e, member in enumerate(p.members)}
    return _curve(dataset, trained, measured), _facts(trained, measured, lr, dataset.n)


def seconds_per_row(
    trained: Trained, shape: tuple[int, ...], outputs: int, n: int, device: str = "cpu"
) -> tuple[float, int]:
    """Seconds that a row of a batch takes, timed on random rows, and the rows of a whole curve, all networks and steps.

    The difference between some steps and a few is timed: what a pass takes once is not what a step takes.
    """
    t = trained.training
    template = make(trained, shape, outputs)
    todo = passes(trained, n, template, shape)
    rows = sum(p.rows for p in todo)
    largest = max(todo, key=lambda p: p.rows)
    rng, dtype = np.random.default_rng(0), next(template.parameters()).dtype
    images = Images(rng.standard_normal((n, *shape)), np.zeros((n, outputs)), dtype, device, t.crop)
    ensemble = Ensemble(template, range(len(largest.members)), device)
    taken = dict.fromkeys(TIMED_STEPS, np.inf)
    for _ in range(2):  # the first call loads libraries
        for steps in TIMED_STEPS:
            quick = _Few(largest.members, t, steps)
            start = time.perf_counter()
            descend(ensemble, images, quick, t, 1e-6, False, device)
            taken[steps] = min(taken[steps], time.perf_counter() - start)
    few, more = TIMED_STEPS
    seconds = max((taken[more] - taken[few]) / (more - few), 0.1 * taken[more] / more)
    return float(seconds) / (len(largest.members) * largest.batch), rows


class _Few(Batches):
    """So many steps, whatever the training says."""

    def __init__(self, members: Sequence[Member], training: Training, steps: int) -> None:
        super().__init__(members, training)
        self.steps = self.block = steps


def _measure(
    ensemble: Ensemble,
    images: Images,
    tests: Images,
    dataset: Dataset,
    p: Pass,
    trained: Trained,
    lr: float,
    device: str,
    stem: Path | None,
    meter: Meter,
) -> Measured:
    """Train a pass, look at the test rows, and keep what they say."""
    each, training = len(p.members) * p.batch, trained.training
    centred = training.centred and not isinstance(trained.architecture, ResNetShape)
    rows = max(1, ROWS_AT_ONCE // len(p.members))
    start = ensemble.predict(tests.x, rows) if centred else 0.0
    checkpoint = None if stem is None else stem.with_suffix(".pt")
    ended = descend(
        ensemble,
        images,
        Batches(p.members, training),
        training,
        lr,
        centred,
        device,
        checkpoint,
        lambda steps: meter.advance(steps * each),
    )
    f = (ensemble.predict(tests.x, rows) - start).double().cpu().numpy()
    squared = np.square(f - dataset.y_test).sum(axis=2)
    if not np.isfinite(squared).all():
        raise KernregError(
            f"a trained network predicts infinity at a step size of {lr:.3g}: use a smaller lr"
        )
    labels = dataset.labels_test if dataset.y_test.shape[1] > 1 else None
    mistakes = np.zeros((len(f), 0), dtype=bool) if labels is None else f.argmax(axis=2) != labels
    steps = ended.best_step.cpu().numpy() if training.validation else np.full(len(f), p.steps)
    done = Measured(squared, mistakes, ended.train.double().cpu().numpy(), steps.astype(np.int64))
    if stem is not None:
        write_archive(stem.with_suffix(".npz"), vars(done))
        stem.with_suffix(".pt").unlink(missing_ok=True)
    return done


def _curve(dataset: Dataset, trained: Trained, measured: dict[Member, tuple[Measured, int]]) -> LearningCurve:
    n, t = dataset.n, trained.training
    anchors = np.array(trained.samples(n), dtype=np.int64)
    squared_targets = np.square(dataset.y_test).sum(axis=1)
    replicates = []
    for start, size in _blocks(n, t):
        marks = anchors[anchors <= size]
        if not len(marks):
            continue
        found = [list(_of(measured, int(m), start, t.replicates)) for m in marks]
        squared = np.array([np.mean([one.squared_errors[e] for one, e in f], axis=0) for f in found])
        mistakes = [[one.mistakes[e].mean() for one, e in f if one.mistakes.shape[1]] for f in found]
        error = np.array([np.mean(m) for m in mistakes]) if all(mistakes) else None
        loss, mse = squared.sum(axis=1) / squared_targets.sum(), squared.mean(axis=1)
        replicates.append(Replicate(start, size, loss, mse, error, marks, squared))
    whole = replicates[0]
    return LearningCurve(
        samples=anchors,
        loss=whole.loss,
        mse=whole.mse,
        error=whole.error,
        loo=None,
        gcv=None,
        ridge=0.0,
        relative_ridge=0.0,
        anchors=anchors,
        squared_errors=whole.squared_errors,
        squared_targets=squared_targets,
        replicates=tuple(replicates),
    )


def _facts(
    trained: Trained, measured: dict[Member, tuple[Measured, int]], lr: float, n: int
) -> dict[str, Any]:
    """JSON-able: what the curve rests on; `networks` has a row of m, start, replicate, training error and steps each."""
    ordered = sorted(measured.items(), key=lambda item: (item[0].m, item[0].start, item[0].replicate))
    networks = [
        [m.m, m.start, m.replicate, float(o.train[e]), int(o.steps[e]), float(o.squared_errors[e].mean())]
        for m, (o, e) in ordered
    ]
    return {
        "training": trained.training.to_dict(),
        "lr": lr,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "columns": ["m", "start", "replicate", "train_mse", "steps", "test_mse"],
        "networks": networks,
        "samples": list(trained.samples(n)),
    }


def _of(
    measured: dict[Member, tuple[Measured, int]], m: int, start: int, replicates: int
) -> Iterator[tuple[Measured, int]]:
    return (measured[Member(m, start, r)] for r in range(replicates))


def _blocks(n: int, training: Training) -> list[tuple[int, int]]:
    return [(0, n), *halves(n, training.halvings)]


def _check(dataset: Dataset, trained: Trained, device: str) -> None:
    if not dataset.t:
        raise KernregError("there are no test rows to measure a loss on; ask for some")
    if not dataset.y_test.any():
        raise KernregError(
            "the test targets are zero everywhere, so the loss has nothing to be normalised by"
        )
    if (trained.training.flip or trained.training.crop) and len(dataset.shape) != 3:
        raise KernregError("augmentation mirrors and shifts images; these rows are vectors")
    if device.split(":")[0] == "cuda" and not torch.cuda.is_available():
        raise KernregError("PyTorch sees no CUDA device here: use --device cpu")


def _rows_of(dataset: Dataset) -> list[str]:
    return [checksum(a) for a in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test)]


def _name(p: Pass, identity: dict[str, Any]) -> str:
    told = {**identity, "members": [[m.m, m.start, m.replicate] for m in p.members]}
    return "pass-" + hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _load(path: Path) -> Measured | None:
    """A finished pass; None if it is not there or damaged, and then it is trained again."""
    try:
        arrays = read_archive(path)
        return Measured(*(arrays[name] for name in ("squared_errors", "mistakes", "train", "steps")))
    except (OSError, ValueError, KeyError):
        return None
