"""The state of a block of conjugate gradient iterations, and the file it survives kill −9 in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernreg.archive import read_archive, write_archive
from kernreg.cholesky import Matrix
from kernreg.errors import KernregError, reason
from kernreg.lanczos import Probe

Integers = npt.NDArray[np.int64]

# Outcomes of a column.
RUNNING, CONVERGED, STAGNATED, INDEFINITE = range(4)
FORMAT = "kernreg-cg-2"


@dataclass
class State:
    """Everything the next iteration depends on, for n rows and c columns.

    Attributes:
        X, R, P: (n, c) iterate, residual B − A·X, search direction.
        residual: (c,) ‖r‖/‖b‖; for a column that has left, measured.
        best: (c,) smallest measured relative residual.
        stuck: (c,) measurements in a row without progress that rounding accounts for.
        outcome: (c,) RUNNING, CONVERGED, STAGNATED or INDEFINITE.
        taken: (c,) iterations of each column.
        probe: the Lanczos vector that rides along, or None.
        steps, turns: α and β of each iteration, (c,) each, NaN where a column did not take part.
        iteration, products: of all columns together.
    """

    X: Matrix
    R: Matrix
    P: Matrix
    residual: Matrix
    best: Matrix
    stuck: Integers
    outcome: Integers
    taken: Integers
    probe: Probe | None = None
    steps: list[Matrix] = field(default_factory=list)
    turns: list[Matrix] = field(default_factory=list)
    iteration: int = 0
    products: int = 0

    @property
    def running(self) -> Integers:
        """Columns that are still iterated."""
        return np.flatnonzero(self.outcome == RUNNING)

    def coefficients(self) -> tuple[Matrix, Matrix]:
        """(k, c) steps and turns."""
        shape = (-1, self.X.shape[1])
        return np.array(self.steps).reshape(shape), np.array(self.turns).reshape(shape)

    def judge_again(self, rtol: float) -> None:
        """Columns that have left under another tolerance: those not good enough go on, those good enough are done."""
        good = self.residual <= rtol
        self.outcome[(self.outcome == CONVERGED) & ~good] = RUNNING
        self.outcome[(self.outcome == STAGNATED) & good] = CONVERGED

    def save(self, path: Path, problem: str) -> None:
        """Replace the file by this state, whole or not at all; `problem` identifies what is solved.

        Raises:
            KernregError: the disk is full or read-only; the previous state is still there.
        """
        steps, turns = self.coefficients()
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= {"steps": steps, "turns": turns, "counts": np.array([self.iteration, self.products])}
        if self.probe is not None:
            arrays |= {"probe": np.hstack([self.probe.v, self.probe.before])}
            arrays |= {"probe_diagonal": np.array(self.probe.diagonal), "probe_off": np.array(self.probe.off)}
        write_archive(path, {"format": FORMAT, "problem": problem, **arrays})


_ARRAYS = ("X", "R", "P", "residual", "best", "stuck", "outcome", "taken")


def load(path: Path, problem: str) -> State | None:
    """The state that a file holds, or None where there is no file.

    Raises:
        KernregError: the file is damaged, of another format, or of another problem; the system cannot read it.
    """
    try:
        found = read_archive(path)
        state, known, given = _state(found), str(found["format"]), str(found["problem"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernregError(f"cannot read {path}: {error.strerror}") from None
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise KernregError(
            f"{path} is no state of a solve ({reason(error)}): remove it to begin anew"
        ) from None
    if known != FORMAT:
        raise KernregError(f"{path} was written by another version of kernreg: remove it to begin anew")
    if given != problem:
        raise KernregError(
            f"{path} is the state of another problem: the matrix, the targets, the ridge or the preconditioner differ; "
            "remove it to begin anew, or give another file"
        )
    return state


def _state(found: dict[str, Any]) -> State:
    probe = None
    if "probe" in found:
        probe = Probe(found["probe"][:, 0])
        probe.v, probe.before = found["probe"][:, :1], found["probe"][:, 1:]
        probe.diagonal, probe.off = found["probe_diagonal"].tolist(), found["probe_off"].tolist()
    iteration, products = found["counts"].tolist()
    arrays = {name: found[name] for name in _ARRAYS}
    steps, turns = list(found["steps"]), list(found["turns"])
    return State(**arrays, probe=probe, steps=steps, turns=turns, iteration=iteration, products=products)
