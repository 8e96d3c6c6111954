"""Training of ensembles: each member is the network trained alone, batches come from step numbers alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kernreg.architecture import Architecture
from kernreg.data import Dataset, load
from kernreg.errors import KernregError
from kernreg.finite.batches import Batches, Images, Member
from kernreg.finite.curves import make
from kernreg.finite.descent import descend, schedule
from kernreg.finite.ensemble import Ensemble
from kernreg.finite.networks import network
from kernreg.finite.stepsize import curvature, step_size
from kernreg.training import Trained, Training

SHAPE = (4, 4, 2)
# What batched and single products of float32 matrices differ by, amplified by some dozen steps.
SINGLE = 2e-4
DOUBLE = 1e-10  # likewise in float64


def images(n: int = 24, test: int = 10) -> Dataset:
    return load(
        "synthetic-images", n=n, test=test, size=4, channels=2, classes=3, signal=0.5, dtype="float64"
    )


def small(name: str = "vec", **settings: Any) -> Trained:
    settings = {"width": 4, "epochs": 3.0, "batch": 4, "precision": "float64", "lr": 0.05, **settings}
    return Trained(Architecture.preset(name, depth=2), Training(**settings), (6, 12, 24))


@pytest.mark.parametrize("name", ["fcn", "lcn", "vec", "gap", "lap"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("precision", "centred"), [("float64", True), ("float64", False), ("float32", True)])
def test_a_member_of_an_ensemble_is_the_network_trained_alone(
    name: str, optimizer: str, precision: str, centred: bool
) -> None:
    """Against a plain loop with PyTorch's own optimisers on the same rows."""
    trained = small(
        name, optimizer=optimizer, precision=precision, validation=0.2, schedule="cosine", lr=0.02
    )
    t, data = trained.training, images()
    members = [Member(12, 0, 0), Member(12, 12, 0), Member(12, 0, 1)]
    template = make(trained, data.shape, 3)
    dtype = next(template.parameters()).dtype
    rows, batches = Images(data.x_train, data.y_train, dtype, "cpu"), Batches(members, t)
    ensemble = Ensemble(template, [m.seeds(t)[0] for m in members])
    tests = torch.from_numpy(data.x_test).to(dtype)
    end = descend(ensemble, rows, batches, t, 0.02, centred)
    found = ensemble.predict(tests, 3)
    for e, member in enumerate(members):
        net, first = (make(trained, data.shape, 3, member.seeds(t)[0]) for _ in range(2))
        kind: Any = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
        own = kind(net.parameters(), lr=0.02, **({"momentum": 0.9} if optimizer == "sgd" else {}))
        best, best_step, kept, step = math.inf, 0, {}, 0
        for block in range(batches.blocks):
            for at in batches.rows(block)[:, e]:
                own.param_groups[0]["lr"] = 0.02 * 0.5 * (1 + math.cos(math.pi * step / batches.steps))
                own.zero_grad()
                y = rows.y[at] + (first(rows.x[at]).detach() if centred else 0)
                ((net(rows.x[at]) - y).square().sum() / (2 * len(at))).backward()
                own.step()
                step += 1
            held = torch.from_numpy(batches.validation[e])
            with torch.no_grad():
                y = rows.y[held] + (first(rows.x[held]) if centred else 0)
                error = float((net(rows.x[held]) - y).square().sum() / len(held))
            if error < best:
                best, best_step = error, step
                kept = {key: value.clone() for key, value in net.state_dict().items()}
        net.load_state_dict(kept)
        near = DOUBLE if precision == "float64" else SINGLE
        torch.testing.assert_close(found[e], net(tests), rtol=near, atol=near)
        assert int(end.best_step[e]) == best_step
        assert float(end.best[e]) == pytest.approx(best, rel=10 * near)


def test_full_batches_follow_the_gradient_of_the_mean() -> None:
    """One step of gd by hand, with the gradient of PyTorch's mean squared error."""
    data, t = images(6), Training(width=3, optimizer="gd", momentum=0.0, epochs=1, precision="float64")
    net = network(Architecture.fcn(1), data.shape, 3, 3, seed=2, dtype=torch.float64)
    rows = Images(data.x_train, data.y_train, torch.float64, "cpu")
    loss = 1.5 * torch.nn.functional.mse_loss(net(rows.x), rows.y)  # half of the sum over three outputs
    slopes = torch.autograd.grad(loss, list(net.parameters()))
    expected = [p.detach() - 0.3 * g for p, g in zip(net.parameters(), slopes, strict=True)]
    template = network(Architecture.fcn(1), data.shape, 3, 3, dtype=torch.float64)
    descend(Ensemble(template, [2]), rows, Batches([Member(6, 0, 0)], t), t, 0.3)
    for p, e in zip(template.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), e, rtol=1e-12, atol=1e-14)


def test_batches_pass_through_all_rows_in_turn_whatever_the_block() -> None:
    t = Training(batch=5, epochs=40)
    batches = Batches([Member(12, 6, 0), Member(12, 0, 3)], t)
    assert batches.steps == 96
    everything = torch.cat([batches.rows(block) for block in range(batches.blocks)]).numpy()
    assert everything.shape == (96, 2, 5)
    for e, start in enumerate((6, 0)):
        stream = everything[:, e].ravel().reshape(-1, 12)  # 40 orders
        assert (np.sort(stream, axis=1) == np.arange(start, start + 12)).all()
        assert len({tuple(order) for order in stream.tolist()}) == 40
    again = Batches([Member(12, 0, 3)], t)
    np.testing.assert_array_equal(again.rows(7)[:, 0], batches.rows(7)[:, 1])


@pytest.mark.parametrize(("m", "share", "held"), [(1, 0.5, 0), (2, 0.1, 1), (24, 0.25, 6), (3, 0.89, 2)])
def test_validation_rows_are_training_rows_that_are_not_trained_on(m: int, share: float, held: int) -> None:
    t = Training(validation=share, batch=4)
    batches = Batches([Member(m, 5, 0)], t)
    assert len(batches.validation[0]) == held
    both = np.concatenate([batches.trained[0], batches.validation[0]])
    np.testing.assert_array_equal(np.sort(both), np.arange(5, 5 + m))
    seen = np.unique(torch.cat([batches.rows(b) for b in range(batches.blocks)]).numpy())
    np.testing.assert_array_equal(seen, np.sort(batches.trained[0]))


def test_training_stops_early_on_the_validation_rows() -> None:
    """Targets of noise: what is learned of them does not help on other rows."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 8)), rng.standard_normal((30, 1))
    t = Training(
        width=16, optimizer="gd", epochs=4000, validation=0.3, patience=5, momentum=0.0, precision="float64"
    )
    rows, template = (
        Images(x, y, torch.float64, "cpu"),
        network(Architecture.fcn(1), (8,), 16, dtype=torch.float64),
    )
    batches = Batches([Member(30, 0, 0)], t)
    done: list[int] = []
    end = descend(Ensemble(template, [0]), rows, batches, t, 0.1, report=done.append)
    assert end.stopped
    assert int(end.best_step[0]) + 5 * batches.block == end.block * batches.block
    assert sum(done) == batches.steps
    held = torch.from_numpy(batches.validation[0])
    error = float((template(rows.x[held]) - rows.y[held]).detach().square().sum(dim=1).mean())
    assert error == pytest.approx(float(end.best[0]), rel=1e-12)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    data, t = images(8), small("fcn").training
    path = tmp_path / "a.pt"
    path.write_bytes(b"no checkpoint")
    rows, template = (
        Images(data.x_train, data.y_train, torch.float64, "cpu"),
        make(small("fcn"), data.shape, 3),
    )
    with pytest.raises(KernregError, match=r"a\.pt cannot be read"):
        descend(Ensemble(template, [0]), rows, Batches([Member(8, 0, 0)], t), t, 0.1, checkpoint=path)


def test_the_automatic_step_size_is_that_of_the_tangent_kernel() -> None:
    net = network(Architecture.vec(1), SHAPE, 5, 2, seed=1, dtype=torch.float64)
    x = torch.randn(7, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = []
    for i in range(7):
        for c in range(2):
            slopes = torch.autograd.grad(net(x[i : i + 1])[0, c], list(net.parameters()))
            rows.append(torch.cat([s.ravel() for s in slopes]))
    J = torch.stack(rows)
    λ, τ = curvature(net, x)
    largest = float(torch.linalg.eigvalsh(J @ J.T)[-1]) / 7
    assert (
        0.9 * largest < λ < (1 + 1e-9) * largest
    )  # the power method comes from below, and ends after 20 steps
    assert τ == pytest.approx(float((J @ J.T).diagonal().mean()), rel=0.5)  # 4 probes
    assert step_size(net, x, Training(optimizer="gd", momentum=0.5)) == pytest.approx(1 / λ)
    assert step_size(net, x, Training(batch=4, momentum=0.0)) == pytest.approx(1 / (λ + τ / 4))
    assert step_size(net, x, Training(lr=0.3)) == 0.3


def test_augmented_batches_hold_mirrored_and_shifted_images() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((5, 4, 3, 2))
    t = Training(batch=4, epochs=30, flip=True, crop=1)
    batches, rows = (
        Batches([Member(5, 0, 0), Member(5, 0, 1)], t),
        Images(x, np.zeros((5, 1)), torch.float64, "cpu", 1),
    )
    chosen, moves = batches.rows(3), batches.moves(3)
    assert moves is not None
    assert {tuple(m) for m in moves.reshape(-1, 3).tolist()} <= {
        (f, a, b) for f in (0, 1) for a in (-1, 0, 1) for b in (-1, 0, 1)
    }
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for step in range(len(chosen)):
        seen, _ = rows.batch(chosen[step], moves[step])
        for e in range(2):
            for b in range(4):
                mirrored, down, right = moves[step, e, b].tolist()
                image = padded[chosen[step, e, b], 1 + down : 5 + down]
                source = image[:, ::-1] if mirrored else image
                first = 1 - right if mirrored else 1 + right
                np.testing.assert_array_equal(seen[e, b], source[:, first : first + 3])


@pytest.mark.parametrize(
    ("name", "factors"), [("constant", (1, 1, 1)), ("steps", (1, 0.1, 0.01)), ("cosine", (1, 0.5, 0.1464))]
)
def test_schedules(name: str, factors: tuple[float, ...]) -> None:
    assert [schedule(name, s, 100) for s in (0, 50, 75)] == pytest.approx(factors, abs=1e-4)
