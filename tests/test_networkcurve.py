"""Learning curves of trained networks: the training sets of a kernel's curve, bits after a kill, no look at test rows."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.curve import learning_curve
from kernreg.data import Dataset, load
from kernreg.errors import KernregError
from kernreg.exponent import fit_exponent
from kernreg.finite.curves import Pass, make, passes, train_curve
from kernreg.kernels import backends
from kernreg.training import Trained, Training, default_samples

DOUBLE = (
    1e-10  # what batched and single products of float64 matrices differ by, amplified by some dozen steps
)


def images(n: int = 24, test: int = 10) -> Dataset:
    return load(
        "synthetic-images", n=n, test=test, size=4, channels=2, classes=3, signal=0.5, dtype="float64"
    )


def small(name: str = "vec", **settings: Any) -> Trained:
    settings = {"width": 4, "epochs": 3.0, "batch": 4, "precision": "float64", "lr": 0.05, **settings}
    return Trained(Architecture.preset(name, depth=2), Training(**settings), (6, 12, 24))


def test_test_rows_and_their_targets_do_not_touch_the_training() -> None:
    """Other test rows, equal predictions on the common ones."""
    data, trained = images(24, 20), small("fcn", validation=0.25)
    whole, _ = train_curve(data, trained)
    part, _ = train_curve(data.first(test=7), trained)
    np.testing.assert_allclose(part.squared_errors, whole.squared_errors[:, :7], rtol=1e-12)


def test_a_curve_is_made_of_the_training_sets_of_a_kernels_curve() -> None:
    data, trained = images(), small(replicates=2, halvings=2)
    curve, facts = train_curve(data, trained)
    kernel = learning_curve(np.eye(24), data.y_train, np.zeros((10, 24)), data.y_test, 1.0, replicates=1)
    assert [(r.start, r.size) for r in curve.replicates] == [(r.start, r.size) for r in kernel.replicates]
    np.testing.assert_array_equal(curve.samples, [6, 12, 24])
    assert [list(r.anchors) for r in curve.replicates] == [[6, 12, 24], [6, 12]]
    assert len(facts["networks"]) == 2 * (1 + 2 + 2)
    np.testing.assert_allclose(curve.squared_targets, np.square(data.y_test).sum(axis=1))
    np.testing.assert_allclose(curve.mse, curve.squared_errors.mean(axis=1))
    np.testing.assert_allclose(curve.loss, curve.squared_errors.sum(axis=1) / curve.squared_targets.sum())
    by_network = [row for row in facts["networks"] if row[:2] == [12, 12]]
    assert np.mean([row[5] for row in by_network]) == pytest.approx(curve.replicates[1].mse[1])
    alone = Trained(trained.architecture, trained.training, (12, 24))
    np.testing.assert_allclose(train_curve(data, alone)[0].loss, curve.loss[1:], rtol=DOUBLE)


def test_the_same_training_is_the_same_bits() -> None:
    first, second = (train_curve(images(), small("lcn", precision="float32"))[0] for _ in range(2))
    np.testing.assert_array_equal(first.squared_errors, second.squared_errors)


def test_a_wide_network_learns_what_its_kernel_does() -> None:
    """The poster's comparison in its smallest form; digits, clean."""
    data = load("digits", n=32, test=50)
    architecture = Architecture.fcn(1)
    training = Training(width=256, optimizer="gd", epochs=400, halvings=0)
    curve, _ = train_curve(data, Trained(architecture, training, (32,)))
    K = backends.compute(
        np.concatenate([data.x_train, data.x_test]), None, architecture, "ntk", "cpu", "float64"
    )
    own = learning_curve(K["ntk"][:32, :32], data.y_train, K["ntk"][32:, :32], data.y_test, 1e-6)
    # 1/√256 of the kernel, and the slowest modes, which 400 steps do not reach, are between the two
    assert curve.loss[-1] == pytest.approx(own.loss[-1], rel=0.1)


KILLED = """
import sys
from pathlib import Path
import torch
import kernreg.finite.descent as descent
import test_networkcurve
torch.set_num_threads(1)
descent.CHECKPOINT_SECONDS = 0.0
test_networkcurve.long_curve(Path(sys.argv[1]))
"""


def long_curve(folder: Path | None) -> Any:
    settings = {
        "epochs": 60.0,
        "validation": 0.2,
        "patience": 50,
        "crop": 1,
        "halvings": 1,
        "optimizer": "adam",
    }
    return train_curve(images(), small("vec", **settings, precision="float32"), folder)[0]


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": f"{here.parent}:{here}"}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=environment)
    while not (seen := list(tmp_path.glob("pass-*.pt"))) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert seen, "it ended before it could be killed"
    assert list(tmp_path.glob("pass-*.pt")), "the checkpoint is whole or absent"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed, whole = long_curve(tmp_path), long_curve(None)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(resumed.squared_errors, whole.squared_errors)
    np.testing.assert_array_equal(resumed.replicates[1].squared_errors, whole.replicates[1].squared_errors)
    assert not list(tmp_path.glob("*.pt"))


def test_a_finished_pass_is_not_trained_again(tmp_path: Path) -> None:
    data, trained = images(), small("fcn")
    seen: list[tuple[int, int]] = []
    first, _ = train_curve(data, trained, tmp_path)
    made = sorted(tmp_path.glob("pass-*.npz"))
    assert made
    again, _ = train_curve(data, trained, tmp_path, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(first.squared_errors, again.squared_errors)
    assert seen[-1][0] == seen[-1][1]
    made[0].write_bytes(b"damaged")
    third, _ = train_curve(data, trained, tmp_path)
    np.testing.assert_array_equal(first.squared_errors, third.squared_errors)
    other, _ = train_curve(data, small("fcn", seed=1), tmp_path)
    assert (other.squared_errors != first.squared_errors).any()


def test_a_step_size_that_is_too_large_is_said_and_nothing_is_infinite() -> None:
    with pytest.raises(KernregError, match=r"diverged within .* use a smaller lr"):
        train_curve(images(), small("fcn", lr=1e6))


def test_passes_hold_every_network_once_and_equal_steps() -> None:
    trained = Trained(Architecture.fcn(1), Training(width=8, epochs=10, replicates=3))
    todo = passes(trained, 200, make(trained, (9,), 1), (9,))
    members = [m for p in todo for m in p.members]
    assert len(members) == len(set(members))
    assert {m.m for m in members} == set(default_samples(200)) == {17, 25, 35, 50, 70, 100, 141, 200}
    for p in todo:
        assert isinstance(p, Pass)
        assert {(trained.training.steps_of(m.m), trained.training.batch_of(m.m)) for m in p.members} == {
            (p.steps, p.batch)
        }


def test_exponents_are_fitted_to_curves_of_networks() -> None:
    """Planted: squared errors that fall as m^−0.7, with the scatter of training sets."""
    from dataclasses import replace as changed

    curve, _ = train_curve(images(), small("fcn", epochs=1, halvings=3))
    m, rng = np.array([16, 23, 32, 45, 64, 91, 128, 181, 256]), np.random.default_rng(0)

    def chain(start: int, size: int) -> Any:
        marks = m[m <= size]
        scale = marks**-0.7 * np.exp(rng.standard_normal(len(marks)) / np.sqrt(marks))
        errors: NDArray[np.float64] = scale[:, None] * rng.exponential(size=(1, 300))
        loss = errors.mean(axis=1)
        return changed(
            curve.replicates[0],
            start=start,
            size=size,
            loss=loss,
            mse=loss,
            error=None,
            anchors=marks,
            squared_errors=errors,
        )

    blocks = [(0, 256), (128, 128), (64, 64), (192, 64), (32, 32), (96, 32), (160, 32), (224, 32)]
    chains = tuple(chain(*block) for block in blocks)
    whole = chains[0]
    planted = changed(
        curve, samples=m, loss=whole.loss, mse=whole.mse, error=None, anchors=m, squared_errors=whole.squared_errors,
        squared_targets=np.ones(300), replicates=chains,
    )  # fmt: skip
    fit = fit_exponent(planted, model="power")
    assert fit.interval[0] < 0.7 < fit.interval[1]
    assert fit.interval_from == "replicates and test rows"
    assert (chains[1].samples == m[m <= 128]).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": 0}, "width is 0"),
        ({"optimizer": "sgdm"}, "use sgd, gd, adam"),
        ({"lr": 0}, "lr is 0"),
        ({"lr": "fast"}, "a positive number or 'auto'"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"validation": -0.1}, "validation is -0.1"),
        ({"epochs": 0}, "not both of them 0"),
        ({"epochs": math.nan}, "epochs must be"),
        ({"optimizer": "gd", "flip": True}, "augmentation draws"),
        ({"batch": 2.5}, "batch is 2.5"),
        ({"flip": 1}, "flip is 1"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(KernregError, match=said):
        Training(**settings)


def test_what_cannot_be_trained_is_said() -> None:
    data = images()
    with pytest.raises(KernregError, match="no test rows"):
        train_curve(data.first(test=0), small())
    with pytest.raises(KernregError, match="beyond the 24 training rows"):
        train_curve(data, Trained(Architecture.fcn(1), Training(), (99,)))
    with pytest.raises(KernregError, match="increasing"):
        Trained(Architecture.fcn(1), Training(), (9, 9))
    if not torch.cuda.is_available():
        with pytest.raises(KernregError, match="no CUDA device"):
            train_curve(data, small(), device="cuda")
