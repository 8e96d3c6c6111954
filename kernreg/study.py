"""A study: a file of architectures, networks, transforms, seeds and sizes → Gram matrices, trainings, curves, exponents.

    OUT/grams/NAME.gram      Gram matrices, named by the digest of what determines them
    OUT/curves/NAME.npz      learning curves, likewise
    OUT/STUDY/               the copy of the file, report.html, results.json, figures and tables

Grams and curves are found by content: two studies in one OUT share them, a changed study file computes only
what is new, and a killed run goes on where it was. Nothing is computed twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from kernreg.curvefile import CurveFile, DamagedCurve, digest_in, digest_of, load, save
from kernreg.data import Dataset, describe, identity
from kernreg.data import load as load_data
from kernreg.data.registry import find
from kernreg.data.subsample import split_sizes
from kernreg.durable import Lock, refusal, write_text
from kernreg.entries import Entry, entries_of, label
from kernreg.errors import KernregError
from kernreg.gram import build
from kernreg.kernels import backends
from kernreg.networkcurve import curve_digest, network_curve
from kernreg.outcomes import Outcomes, evaluate
from kernreg.progress import Work
from kernreg.provenance import store_digest
from kernreg.store import GramStore
from kernreg.studycurve import measured_curve
from kernreg.studyfile import StudyFile, read
from kernreg.studyplan import PROBE_OUTPUTS, GramTask, Plan, gram_task, timed
from kernreg.studytrainings import TrainingTask, timed_trainings, training_task

GRAMS, CURVES, FILE = "grams", "curves", "study.toml"
DEFAULT_FOLDER = Path("kernreg-study")


class _Rows(NamedTuple):
    """What is known of the rows of one seed and one transform."""

    identity: dict[str, Any] | None  # None: the original files are not here
    shape: tuple[int, ...]
    outputs: int


@dataclass(frozen=True)
class Study:
    """A study file and the folder that its results go to.

    Attributes:
        file: what is to be measured.
        out: see the head of this module.
        data_dir: where original data files lie; None: the default place.
    """

    file: StudyFile
    out: Path = DEFAULT_FOLDER
    data_dir: Path | None = None
    _known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        out: str | os.PathLike[str] = DEFAULT_FOLDER,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> Study:
        """The study of a file, see `kernreg.studyfile.read`, which also says what is raised."""
        return cls(read(path), Path(out), None if data_dir is None else Path(data_dir))

    @property
    def folder(self) -> Path:
        """Where its own results go."""
        return self.out / self.file.name

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """One for each curve."""
        return entries_of(self.file)

    def label(self, entry: Entry) -> str:
        """The name of an entry in tables and figures."""
        return label(entry, self.entries)

    def gram_label(self, entry: Entry) -> str:
        """The name of the Gram matrix that an entry rests on."""
        return label(entry, self.entries, ("architecture", "transform", "transform_seed", "seed"))

    def plan(self, memory: int | str | None = None, seconds: bool = True) -> Plan:
        """What there is and what is left to do; nothing is written.

        Args:
            memory: most bytes that the process may use, or "4GiB"; None sets no bound.
            seconds: time each architecture and network on this machine (some seconds).

        Raises:
            KernregError: data and settings that do not fit, too little memory, a damaged store.
            NotImplementedError: names a layer that the backend does not cover.
        """
        tasks, stand_in = [], False
        for group in self._groups():
            first = group[0]
            rows = self._rows(first)
            kernel = "both" if len(self.file.kernels) == 2 else first.kernel
            path = None if rows.identity is None else self._gram_path(first, rows.identity, kernel)
            stand_in = stand_in or rows.identity is None
            curves = tuple(self.curve_path(entry) for entry in group)
            given = (path, first.architecture, kernel, rows.shape, group, curves)
            tasks.append(gram_task(*given, self._backend(first), self.file.dtype, memory))
        trainings = tuple(self._training(entry) for entry in self.entries if entry.network is not None)
        stand_in = stand_in or any(task.path is None for task in trainings)
        made = tuple(tasks)
        if seconds:
            made = timed(made, self.file.dtype, self.file.fit.spectrum)
            trainings = timed_trainings(trainings)
        return Plan(made, stand_in, trainings)

    def run(self, memory: int | str | None = None, progress: bool = False) -> None:
        """Compute what is missing: Gram matrices tile by tile, curves one by one, each kept once it is there.

        Raises:
            KernregError: as `plan`; data that are not here; another process runs this study; a Gram matrix
                that is not positive definite, by entry.
            KeyboardInterrupt: SIGINT or SIGTERM; what is finished is kept.
        """
        for path in map(self.curve_path, self.entries):
            if path is not None and path.is_file():
                _drop_if_damaged(path)
        plan = self.plan(memory, seconds=progress)
        waiting = plan.waiting
        if plan.stand_in:
            load_data(self.file.data.name, n=1, test=1, data_dir=self.data_dir)  # says what is missing
        try:
            for folder in (self.folder, self.out / GRAMS, self.out / CURVES):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refusal(error, self.folder) from error
        lock = Lock(self.folder)
        try:
            write_text(self.folder / FILE, self.file.source)
            with Work(plan.seconds or 0.0, progress) as work:
                for number, task in enumerate(waiting, 1):
                    work.begin(
                        f"{number}/{len(waiting)} {self.gram_label(task.entries[0])}",
                        task.seconds or 0.0,
                    )
                    self._measure(task, memory, work)
                for number, training in enumerate(plan.untrained, 1):
                    name = f"{number}/{len(plan.untrained)} {self.label(training.entry)}"
                    work.begin(f"{name}: {training.networks} networks", training.seconds or 0.0)
                    self._train(training, work)
        finally:
            lock.release()

    def outcomes(self, progress: bool = False) -> Outcomes:
        """What the curves say that are there: exponents, comparisons, coincidences.

        Raises:
            KernregError: no curve is there yet, or one is damaged.
        """
        files = [(entry, self.curve_path(entry)) for entry in self.entries]
        measured = [(entry, _load(path)) for entry, path in files if path is not None and path.is_file()]
        if not measured:
            raise KernregError(
                f"none of the {len(files)} curves of {self.file.name} is in {self.out / CURVES} yet: "
                "run it first, with the same --out"
            )
        return evaluate(self.file, self.entries, measured, progress)

    def curve_path(self, entry: Entry) -> Path | None:
        """The file of an entry's curve; None while the data are not here."""
        rows = self._rows(entry)
        if rows.identity is None:
            return None
        if entry.network is not None:
            return self._found(entry, curve_digest(rows.identity, entry.network, entry.n, entry.t))
        fit = self.file.fit
        settings = {
            "data": rows.identity,
            "architecture": entry.architecture.digest,
            "kernel": entry.kernel,
            "backend": self._backend(entry),
            "dtype": self.file.dtype,
            "n": entry.n,
            "t": entry.t,
            "ridge": fit.ridge,
            "ridge_mode": fit.ridge_mode,
            "spectrum": fit.spectrum,
        }
        return self._found(entry, digest_of(settings))

    def _found(self, entry: Entry, digest: str) -> Path:
        """A curve file with a digest, under whatever name; else the place of a new one."""
        name = (Path(self.file.data.name).stem, entry.architecture.name, entry.kernel, entry.transform)
        stem = "-".join("".join(c if c.isalnum() else "_" for c in part) for part in name)
        found = sorted((self.out / CURVES).glob(f"*-{digest}.npz"))
        return found[0] if found else self.out / CURVES / f"{stem}-{digest}.npz"

    def _groups(self) -> Iterator[tuple[Entry, ...]]:
        """Entries that rest on one Gram matrix."""
        groups: dict[Any, list[Entry]] = {}
        for e in (entry for entry in self.entries if entry.network is None):
            groups.setdefault((e.seed, e.transform, e.transform_seed, e.architecture.digest), []).append(e)
        return (tuple(group) for group in groups.values())

    def _rows(self, entry: Entry) -> _Rows:
        key = (entry.seed, entry.transform, entry.transform_seed)
        if key not in self._known:
            self._known[key] = self._look(entry)
        rows: _Rows = self._known[key]
        return rows

    def _backend(self, entry: Entry) -> str:
        return backends.resolve(self.file.backend, entry.architecture, self._rows(entry).shape)

    def _look(self, entry: Entry) -> _Rows:
        data = self.file.data
        known = find(data.name)
        if known is not None and known.kind == "files":
            facts = describe(data.name, self.data_dir)
            if not facts["present"]:
                split_sizes(data.name, max(data.sizes), data.test, facts["train"], facts["test"])
                return _Rows(None, tuple(facts["shape"]), PROBE_OUTPUTS)
        dataset = self._load(entry, 1, 1)
        facts = dataset.provenance
        if "pool" in facts:
            split_sizes(data.name, max(data.sizes), data.test, facts["pool"], facts["official_test"])
        return _Rows(identity(facts), dataset.shape, dataset.y_train.shape[1])

    def _load(self, entry: Entry, n: int, t: int) -> Dataset:
        data = self.file.data
        return load_data(
            data.name,
            n=n,
            test=t,
            data_dir=self.data_dir,
            normalise=data.normalise,
            seed=entry.seed,
            balanced=data.balanced,
            dtype=data.dtype,
            transform=entry.transform,
            transform_seed=entry.transform_seed or 0,
            patch=self.file.patch if entry.transform == "patch-rotation" else None,
            **data.settings,
        )

    def _gram_path(self, entry: Entry, identity: Mapping[str, Any], kernel: str) -> Path:
        """A store that holds the kernel, made by whichever study; else the place of a new one."""
        folder, dtype = self.out / GRAMS, self.file.dtype
        for held in dict.fromkeys(("both", kernel)):
            digest = store_digest(identity, entry.architecture, held, dtype)
            for path in sorted(folder.glob(f"*-{digest}.gram")):
                if (path / "gram.h5").is_file():
                    return path
        digest = store_digest(identity, entry.architecture, kernel, dtype)
        parts = (Path(self.file.data.name).stem, entry.architecture.name, kernel, entry.transform, digest)
        return folder / f"{'-'.join(part.replace('/', '_') for part in parts)}.gram"

    def _measure(self, task: GramTask, memory: int | str | None, work: Work) -> None:
        store, entries = self._filled(task, memory, work), task.unmeasured
        for entry in entries:
            path = self.curve_path(entry)
            assert path is not None
            try:
                measured = measured_curve(store, entry, self.file.fit, memory)
                save(measured, path)
                if measured.curve.traffic is not None:
                    measured.curve.traffic.discard()
            except KernregError as error:
                raise KernregError(f"{self.label(entry)}: {error}") from error
            work.advance((task.curve_seconds or 0.0) / len(entries))

    def _training(self, entry: Entry) -> TrainingTask:
        rows = self._rows(entry)
        return training_task(entry, self.curve_path(entry), rows.shape, rows.outputs)

    def _train(self, task: TrainingTask, work: Work) -> None:
        entry = task.entry
        assert task.path is not None
        dataset = self._load(entry, entry.n, entry.t)
        try:
            network_curve(dataset, task.network, task.path, entry.axes(), progress=work.pairs)
        except KernregError as error:
            raise KernregError(f"{self.label(entry)}: {error}") from error

    def _filled(self, task: GramTask, memory: int | str | None, work: Work) -> GramStore:
        """The store of a task, complete; one that was begun with more rows is finished with all of them."""
        assert task.path is not None
        n, t, kernel = task.n, task.t, task.kernel
        if (task.path / "gram.h5").is_file():
            store = GramStore.open(task.path)
            kernel = "both" if len(store.kernels) == 2 else store.kernels[0]
            if task.state != "complete":
                n, t = max(n, store.n), max(t, store.t)
        dataset = self._load(task.entries[0], n, t)
        settings = (kernel, self.file.backend, self.file.dtype, memory)
        return build(task.path, dataset, task.architecture, *settings, progress=work.pairs)


def _drop_if_damaged(path: Path) -> None:
    try:
        _load(path)
    except DamagedCurve:
        path.unlink()  # it is measured again


def _load(path: Path) -> CurveFile:
    file = load(path)
    if file.about["digest"] != digest_in(path):
        raise DamagedCurve(f"the curve {path} is damaged (it is another one); run the study again")
    return file
