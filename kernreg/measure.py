"""Measure: Gram stores → learning curves and exponents, and what these say when laid side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kernreg.breaks import Break, detect_break
from kernreg.cg import ConjugateGradients
from kernreg.cholesky import Matrix
from kernreg.curve import LearningCurve, curve_from_store
from kernreg.curvebycg import CurveByCG, curve_by_cg_from_store
from kernreg.errors import KernregError
from kernreg.exponent import PowerLawFit, fit_exponent
from kernreg.filters import Stop
from kernreg.matrixfree import curve_without_tiles
from kernreg.ridge import RidgeMode
from kernreg.store import GramStore
from kernreg.tiled import TiledCholesky


@dataclass(frozen=True, eq=False)
class Measurement:
    """One kernel of one store: its learning curve, and the exponent if there is one.

    Attributes:
        store: complete.
        kernel: "nngp" or "ntk".
        curve: over all n rows.
        fit: None if none was asked for or possible.
        unfit: why an exponent that was asked for is not possible, else "".
        broken: what was found of a break; None if none was looked for or it is not possible.
        unbroken: why a break that was asked for cannot be looked for, else "".
        stop: when training stopped; None where it went on to the end, which is kernel regression.
        train: (a,) training loss at the sample counts of a curve that stopped, `kernreg.flowcurve.FlowCurves.train`.
    """

    store: GramStore
    kernel: str
    curve: LearningCurve
    fit: PowerLawFit | None
    unfit: str = ""
    broken: Break | None = None
    unbroken: str = ""
    stop: Stop | None = None
    train: Matrix | None = None

    @property
    def architecture(self) -> str:
        """The name of the architecture, or its digest."""
        return self.store.architecture.name or self.store.architecture.digest

    @property
    def name(self) -> str:
        """The architecture, the transform of the data and the time of training if there are such: "vec rotation, t = 10"."""
        transform = self.store.provenance.get("transform")
        name = f"{self.architecture} {transform['name']}" if transform else self.architecture
        return name if self.stop is None else f"{name}, {self.stop}"

    @property
    def data(self) -> str:
        """The name of the data set."""
        return str(self.store.provenance.get("name", "arrays"))

    def to_dict(self) -> dict[str, Any]:
        """What identifies it and its results at n, JSON-able; the whole curve is not in it."""
        curve, fit = self.curve, self.fit
        return {
            "path": str(self.store.path),
            "data": self.data,
            "architecture": self.store.architecture.to_dict(),
            "architecture_digest": self.store.architecture.digest,
            "kernel": self.kernel,
            "transform": self.store.provenance.get("transform"),
            "n": self.store.n,
            "t": self.store.t,
            "ridge": curve.ridge,
            "relative_ridge": curve.relative_ridge,
            "loss": float(curve.loss[-1]),
            "mse": float(curve.mse[-1]),
            "error": None if curve.error is None else float(curve.error[-1]),
            "fit": None if fit is None else fit.to_dict(),
            "unfit": self.unfit,
            "break": None if self.broken is None else self.broken.to_dict(),
            "unbroken": self.unbroken,
            "stop": None if self.stop is None else self.stop.to_dict(),
            "train_loss": None if self.train is None else float(self.train[-1]),
        }


def measure(
    store: GramStore,
    kernel: str | None = None,
    ridge: float | str = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    model: str | None = "auto",
    window: tuple[float, float] | None = None,
    loo: bool = True,
    solver: TiledCholesky | None = None,
    breaks: bool = False,
    device: str = "cpu",
    iteration: ConjugateGradients | None = None,
    probes: int = 0,
    matrix_free: bool = False,
    data_dir: str | Path | None = None,
) -> Measurement:
    """The learning curve and the exponent of one kernel of a complete store.

    Args:
        store: complete, with test rows.
        kernel: "nngp" or "ntk"; None means the NTK if the store has it.
        ridge, ridge_mode: as in `kernreg.learning_curve`.
        model, window: as in `kernreg.fit_exponent`; model None asks for no exponent.
        loo, solver, device: as in `kernreg.curve.curve_from_store`.
        breaks: also look for a break, `kernreg.breaks.detect_break`, in its own window.
        iteration: measure at m = n/√2^j by conjugate gradients instead, within the memory of `solver`; there is no
            leave-one-out then. Its checkpoint is where the states of the solves are kept, by store and kernel.
        probes: as in `kernreg.curvebycg.curve_by_cg`, with `iteration`.
        matrix_free, data_dir: with `iteration`, compute the kernel anew in every product, see `kernreg.matrixfree`.

    Raises:
        KernregError: as `curve_from_store`. A curve that no power law fits is no error, see `unfit`.
    """
    kernel = kernel or ("ntk" if "ntk" in store.kernels else store.kernels[0])
    try:
        if iteration is None:
            curve = curve_from_store(store, kernel, ridge, ridge_mode, loo=loo, solver=solver, device=device)
        else:
            settings: dict[str, Any] = {
                "probes": probes,
                "progress": solver is not None and solver.progress is True,
            }
            settings |= {"memory": None if solver is None else solver.memory}
            settings |= {"data_dir": data_dir} if matrix_free else {}
            by = curve_without_tiles if matrix_free else curve_by_cg_from_store
            curve = _by_iteration(store, kernel, ridge, ridge_mode, iteration, by, settings)
    except KernregError as error:
        named = str(store.path) in str(error)
        raise KernregError(str(error) if named else f"{store.path}: {error}") from error
    return fitted(Measurement(store, kernel, curve, None), model, window, breaks)


def fitted(
    measured: Measurement, model: str | None, window: tuple[float, float] | None, breaks: bool
) -> Measurement:
    """A measurement with the exponent and the break of its curve, or why there are none; see `measure`."""
    curve = measured.curve
    if model is not None:
        try:
            measured = replace(measured, fit=fit_exponent(curve, model=model, window=window))
        except KernregError as error:
            measured = replace(measured, unfit=str(error))
    if breaks:
        try:
            measured = replace(measured, broken=detect_break(curve))
        except KernregError as error:
            measured = replace(measured, unbroken=str(error))
    return measured


def _by_iteration(
    store: GramStore,
    kernel: str,
    ridge: float | str,
    ridge_mode: RidgeMode,
    iteration: ConjugateGradients,
    by: Callable[..., CurveByCG],
    settings: dict[str, Any],
) -> LearningCurve:
    if isinstance(ridge, str):
        raise KernregError(
            f"a ridge chosen by {ridge} needs all eigenvalues, which iterations do not give: use a number for --ridge, or "
            "--solver cholesky"
        )
    if iteration.checkpoint is not None:
        path = iteration.checkpoint
        iteration = replace(
            iteration, checkpoint=path.with_name(f"{path.name}-{store.path.stem}-{kernel}.state")
        )
    return by(store, kernel, ridge, ridge_mode, solver=iteration, **settings).curve


def complete_stores(folder: Path) -> list[GramStore]:
    """Every complete store in a folder, by name.

    Raises:
        KernregError: there is none.
    """
    stores = [GramStore.open(path.parent) for path in sorted(folder.glob("*.gram/gram.h5"))]
    complete = [store for store in stores if store.complete]
    if complete:
        return complete
    begun = f"; {len(stores)} incomplete, run their `kernreg gram` again" if stores else ""
    raise KernregError(
        f"no complete Gram store in {folder}{begun}; make one with `kernreg gram`, or name one"
    )


def verdict(measurements: Sequence[Measurement]) -> list[str]:
    """Sentences on how the exponents and losses of several measurements on the same data compare."""
    told = [m for m in measurements if m.fit is not None]
    if len(told) < 2 or len({(m.data, m.store.n, m.store.t) for m in measurements}) > 1:
        return []
    names = {id(m): label(m, measurements) for m in measurements}
    steepest = sorted(told, key=_exponent, reverse=True)
    parts = [f"{names[id(steepest[0])]} {_exponent(steepest[0]):.2f}"]
    for above, below in pairwise(steepest):
        sign = "=" if _same(above, below) else ">" if _apart(above, below) else "≈"
        parts.append(f"{sign} {names[id(below)]} {_exponent(below):.2f}")
    sentences = [f"exponents, steepest first: {' '.join(parts)}"]
    if "≈" in sentences[0]:
        sentences.append("≈ stands where the two intervals overlap")
    if "=" in sentences[0]:
        sentences.append("= stands where the two curves are equal: one kernel under two names")
    lowest = sorted(measurements, key=lambda m: m.curve.loss[-1])
    losses = ", ".join(f"{names[id(m)]} {m.curve.loss[-1]:.3g}" for m in lowest)
    return [*sentences, f"loss at n = {lowest[0].store.n}, lowest first: {losses}"]


def label(measurement: Measurement, among: Sequence[Measurement]) -> str:
    """A short name: architecture and transform, with the kernel and the store where these alone are ambiguous."""
    same = [m for m in among if m.name == measurement.name]
    if len(same) == 1:
        return measurement.name
    name = f"{measurement.name} {measurement.kernel}"
    if sum(m.kernel == measurement.kernel for m in same) == 1:
        return name
    stem = measurement.store.path.stem
    unique = sum(m.store.path.stem == stem for m in same if m.kernel == measurement.kernel) == 1
    return f"{name} [{stem if unique else measurement.store.path}]"


def _exponent(measurement: Measurement) -> float:
    return measurement.fit.exponent if measurement.fit else np.nan


def _apart(above: Measurement, below: Measurement) -> bool:
    return bool(above.fit and below.fit and above.fit.interval[0] > below.fit.interval[1])


def _same(one: Measurement, other: Measurement) -> bool:
    return bool(np.allclose(one.curve.loss, other.curve.loss, rtol=1e-4, atol=0))
