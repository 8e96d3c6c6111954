"""Curve files say which curve they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from studies import TINY, tiny

from kernreg.curvefile import DamagedCurve, load
from kernreg.errors import KernregError

TWO = TINY[: TINY.index('[[architecture]]\npreset = "vec"')].replace("n = 48", "n = 20")
TWO = TWO.replace('"none", "rotation", "mirror"', '"none"')


def test_two_curves_that_changed_places_are_noticed(tmp_path: Path) -> None:
    study = tiny(tmp_path, TWO)
    study.run()
    one, two = (study.curve_path(entry) for entry in study.entries)
    assert one is not None
    assert two is not None
    first, second, loss = one.read_bytes(), two.read_bytes(), load(one).curve.loss
    one.write_bytes(second)
    two.write_bytes(first)
    with pytest.raises(DamagedCurve, match="it is another one"):
        study.outcomes()
    study.run()
    np.testing.assert_array_equal(load(one).curve.loss, loss)


def test_a_curve_that_the_system_cannot_read_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny(tmp_path, TWO)
    study.run()
    path = study.curve_path(study.entries[0])
    assert path is not None

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kernreg.curvefile.read_archive", refuse)
    with pytest.raises(KernregError, match=r"cannot read the curve .*: Permission denied"):
        study.run()
    assert path.is_file()
