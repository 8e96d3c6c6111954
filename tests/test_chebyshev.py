"""The Chebyshev series of training: its coefficients are probabilities, its error stays below its bound."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import numpy as np
import pytest
from grams import digits_ntk, laplace, with_eigenvalues
from scipy.special import ive

from kernreg import chebyshev, walks
from kernreg.chebyshev import Checkpoint
from kernreg.errors import KernregError
from kernreg.filters import GradientDescent, GradientFlow, Stop
from kernreg.flow import trained
from kernreg.operators import Dense

EPS = float(np.finfo(np.float64).eps)
STOPS: list[Stop] = [
    GradientFlow(0.0),
    GradientFlow(0.8),
    GradientFlow(60.0),
    GradientDescent(0.3, 1),
    GradientDescent(0.3, 45),
]


@pytest.mark.parametrize("z", [1e-3, 0.7, 30.0, 4000.0])
def test_the_walk_of_the_flow_is_bessel(z: float) -> None:
    w = walks.walk(GradientFlow(z), 2.0)
    np.testing.assert_allclose(w, ive(np.arange(len(w)), z), rtol=1e-10, atol=1e-30)


@pytest.mark.parametrize("q", [1e-3, 0.4, 1.0])
@pytest.mark.parametrize("k", [0, 1, 2, 9, 400])
def test_the_walk_of_descent_is_a_power(k: int, q: float) -> None:
    exact = np.ones(1)
    for _ in range(k):
        exact = np.convolve(exact, [q / 2, 1 - q, q / 2])
    w = walks.walk(GradientDescent(2 * q, k), 1.0)
    np.testing.assert_allclose(w, exact[k : k + len(w)], rtol=1e-10, atol=1e-30)
    assert 2 * exact[k + len(w) :].sum() < math.exp(-walks.TINIEST)


@pytest.mark.parametrize("stop", STOPS[1:])
@pytest.mark.parametrize("rtol", [1e-3, 1e-8, 1e-12])
def test_the_bound_holds_on_the_whole_interval(stop: Stop, rtol: float) -> None:
    b = 5.0
    w = walks.walk(stop, b)
    d, E = walks.degree(w, rtol)
    assert E <= rtol
    a = np.linspace(0, b, 2001)
    T = np.cos(np.outer(np.arange(len(w)), np.arccos(1 - 2 * a / b)))
    doubled = np.where(np.arange(len(w)) == 0, 1.0, 2.0)
    G, kept = walks.gains(w, b), slice(0, d + 1)
    whole = (doubled * G) @ T
    np.testing.assert_allclose(whole, stop.gain(a), rtol=1e-9, atol=1e-12 * stop.time)
    np.testing.assert_allclose((doubled * w) @ T, stop.residual(a), atol=1e-12)
    cut = (doubled * G)[kept] @ T[kept]
    assert np.max(np.abs(a * (cut - stop.gain(a)))) <= E + 1e3 * EPS * (1 + b * stop.time)
    if d:  # one term less would not do
        assert walks.degree(w, np.nextafter(E, 0))[0] > d or E == 0


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_products_give_what_eigenvalues_give(ridge: float) -> None:
    K, y = digits_ntk(80)
    exact = trained(K, y, STOPS, ridge)
    found = trained(Dense(K), y, STOPS, ridge, rtol=1e-9)
    size = np.linalg.norm(y)
    assert found.scores is None
    assert found.bound <= 1e-9
    assert found.products > 0
    for ours, theirs, left, other in zip(
        found.coefficients, exact.coefficients, found.left, exact.left, strict=True
    ):
        assert np.linalg.norm(K @ (ours - theirs)) <= (found.bound + 1e-11) * size
        assert np.linalg.norm(left - other) <= (2 * found.bound + 1e-11) * size


def test_the_bound_holds_on_other_rows() -> None:
    """|f̂(x) − f(x)| ≤ E·√(K(x, x)/b)·|y|/√m."""
    whole = laplace(120)
    K, K_test, y = whole[:70, :70], whole[70:, :70], np.sin(np.arange(70.0))[:, None]
    stops = [GradientFlow(500.0)]
    exact = trained(K, y, stops).coefficients[0]
    for rtol in (1e-2, 1e-4, 1e-6):
        found = chebyshev.apply(Dense(K), y, stops, rtol=rtol)
        allowed = found.bound * np.sqrt(1 / found.largest) * np.linalg.norm(y) / np.sqrt(70)
        assert 0 < np.abs(K_test @ (found.coefficients[0] - exact)).max() <= allowed + 1e-10


@pytest.mark.parametrize("m", [1, 2, 3])
def test_few_rows(m: int) -> None:
    K, y = laplace(m), np.ones((m, 2))
    exact, found = (trained(A, y, STOPS).coefficients for A in (K, Dense(K)))
    np.testing.assert_allclose(found, exact, atol=1e-7)


def test_zero_targets_and_zero_kernels() -> None:
    assert not trained(Dense(laplace(5)), np.zeros(5), STOPS).coefficients.any()
    (α,) = trained(Dense(np.zeros((4, 4))), np.ones(4), [GradientFlow(3.0)]).coefficients
    np.testing.assert_allclose(α, 3 / 4)


def test_an_interval_too_small_is_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    K, y = digits_ntk(60)
    exact = trained(K, y, [GradientFlow(300.0)]).coefficients[0]
    true = chebyshev.largest_eigenvalue(Dense(K), 0.0)
    monkeypatch.setattr(chebyshev, "largest_eigenvalue", lambda K, ridge: 0.6 * true)
    found = chebyshev.apply(Dense(K), y, [GradientFlow(300.0)])
    assert found.largest > true / 60
    assert np.linalg.norm(K @ (found.coefficients[0] - exact)) <= 1e-7 * np.linalg.norm(y)


def test_negative_eigenvalues_are_refused_where_they_matter() -> None:
    K = with_eigenvalues(np.linspace(-1, 30, 40))
    y = np.ones((40, 1))
    trained(Dense(K), y, [GradientFlow(1.0)])
    with pytest.raises(KernregError, match="eigenvalue too far below 0 for times up to 4000"):
        trained(Dense(K), y, [GradientFlow(4000.0)])


def test_an_operator_that_is_not_one_matrix_is_noticed() -> None:
    class Drifting(Dense):
        calls = 0

        def matmul(self, V: np.ndarray) -> np.ndarray:
            self.calls += 1
            return super().matmul(V) * (1 + 1e-3 * self.calls)

    with pytest.raises(KernregError, match="misses its own equation"):
        chebyshev.apply(Drifting(laplace(20)), np.ones((20, 1)), [GradientFlow(30.0)])


def test_too_many_products_are_refused_before_they_are_made() -> None:
    K = laplace(20)
    with pytest.raises(KernregError, match=r"takes about .* products"):
        chebyshev.apply(Dense(K), np.ones((20, 1)), [GradientFlow(1e4)], most_products=50)
    with pytest.raises(KernregError, match=r"takes about .* products"):
        chebyshev.apply(Dense(K), np.ones((20, 1)), [GradientFlow(1e30)])
    with pytest.raises(KernregError, match="kernel regression itself"):
        trained(Dense(K), np.ones(20), [GradientFlow(math.inf)])


def test_a_step_above_the_limit_is_refused_by_products_too() -> None:
    K, y = digits_ntk(30)
    limit = 2 * 30 / np.linalg.eigvalsh(K)[-1]
    trained(Dense(K), y, [GradientDescent(limit * (1 - 1e-9), 30)])
    with pytest.raises(KernregError, match=rf"2m/λmax = {limit:.5g}"):
        trained(Dense(K), y, [GradientDescent(1.01 * limit, 30)])


class Dying(Dense):
    """Fails at its k-th product, as a machine does."""

    def __init__(self, K: np.ndarray, k: int) -> None:
        super().__init__(K)
        self.left = k

    def matmul(self, V: np.ndarray) -> np.ndarray:
        self.left -= 1
        if self.left == 0:
            raise MemoryError
        return super().matmul(V)


def test_a_run_that_dies_goes_on_and_ends_the_same_to_the_bit(tmp_path: Path) -> None:
    K, y, stops = (
        laplace(30),
        np.sin(np.arange(60.0)).reshape(30, 2),
        [GradientFlow(3.0), GradientFlow(200.0)],
    )
    whole = chebyshev.apply(Dense(K), y, stops, 1e-3)
    kept = Checkpoint(tmp_path / "state", seconds=0)
    before = 25  # Lanczos
    for died in (before + 1, 7, 2, whole.products - 12):
        with pytest.raises(MemoryError):
            chebyshev.apply(Dying(K, died), y, stops, 1e-3, checkpoint=kept)
    seen: list[tuple[int, int]] = []
    found = chebyshev.apply(Dense(K), y, stops, 1e-3, checkpoint=kept, progress=lambda *now: seen.append(now))
    np.testing.assert_array_equal(found.coefficients, whole.coefficients)
    np.testing.assert_array_equal(found.left, whole.left)
    assert seen[1][0] > 5  # what was done is not done again
    again = Dying(K, 3)
    np.testing.assert_array_equal(
        chebyshev.apply(again, y, stops, 1e-3, checkpoint=kept).coefficients, whole.coefficients
    )
    assert again.left == 2  # complete: one product measures it


def test_states_of_other_trainings_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    K, y, kept = laplace(20), np.ones((20, 1)), Checkpoint(tmp_path / "state")
    chebyshev.apply(Dense(K), y, [GradientFlow(9.0)], checkpoint=kept)
    for other in (
        (2 * K, y, [GradientFlow(9.0)]),
        (K, 2 * y, [GradientFlow(9.0)]),
        (K, y, [GradientFlow(8.0)]),
    ):
        with pytest.raises(KernregError, match="state of another training"):
            chebyshev.apply(Dense(other[0]), *other[1:], checkpoint=kept)
    content = kept.path.read_bytes()
    for damage in (content[:100], b"", content[:-200]):
        kept.path.write_bytes(damage)
        with pytest.raises(KernregError, match="is no state of a training"):
            chebyshev.apply(Dense(K), y, [GradientFlow(9.0)], checkpoint=kept)


def test_an_interrupt_saves_the_state(tmp_path: Path) -> None:
    K, y, kept = laplace(20), np.ones((20, 1)), Checkpoint(tmp_path / "state", seconds=1e9)

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        chebyshev.apply(Dense(K), y, [GradientFlow(99.0)], checkpoint=kept, progress=interrupt)
    seen: list[int] = []
    found = chebyshev.apply(
        Dense(K), y, [GradientFlow(99.0)], checkpoint=kept, progress=lambda done, _: seen.append(done)
    )
    assert min(seen[1:]) >= 5
    whole = chebyshev.apply(Dense(K), y, [GradientFlow(99.0)])
    np.testing.assert_array_equal(found.coefficients, whole.coefficients)


def test_progress_counts_products() -> None:
    seen: list[tuple[int, int]] = []
    found = trained(
        Dense(laplace(20)), np.ones(20), [GradientFlow(9.0)], progress=lambda *now: seen.append(now)
    )
    assert seen[-1] == (found.products, found.products)
