"""The table of symmetries: what the layers imply, what is measured, and what the theory's table says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.invariance import invariant
from kernreg.kernels import backends
from kernreg.symmetry import transform
from kernreg.symmetrymatrix import FUNCTIONAL, INVARIANT, Cell, default_patch, ladder, symmetry_matrix

INV, BROKEN = True, False
# Xiao & Pennington (2022); 6×6×3 images, 3×3 filters, 3 layers. vec-patch and gap-patch begin with filter = stride = patch.
COLUMNS = ("fcn", "lcn", "vec", "gap", "lcn-gap", "vec-circular", "gap-circular", "vec-patch", "gap-patch")
TABLE: dict[str, Sequence[bool]] = {
    "rotation": (INV, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN),
    "pixel-rotations": (INV, INV, INV, BROKEN, INV, INV, BROKEN, INV, BROKEN),
    "channel-rotation": (INV, INV, INV, INV, INV, INV, INV, INV, INV),
    "permutation": (INV, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN),
    "patch-rotation": (INV, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, INV, INV),
    "transpose": (INV, INV, INV, INV, INV, INV, INV, INV, INV),
    "mirror": (INV, INV, INV, INV, INV, INV, INV, INV, INV),
    "shift": (INV, BROKEN, BROKEN, BROKEN, BROKEN, INV, INV, BROKEN, BROKEN),
    FUNCTIONAL: (BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN, INV, BROKEN, BROKEN),
}


def matrix(
    architectures: Mapping[str, Architecture], shape: tuple[int, int, int], **settings: Any
) -> list[Cell]:
    return list(symmetry_matrix(architectures, shape, default_patch(shape), **settings))


def disagreements(cells: Sequence[Cell]) -> list[str]:
    return [str(cell) for cell in cells if not cell.agrees]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_cell_of_the_table(backend: str) -> None:
    cells = matrix(ladder(), (6, 6, 3), backend=backend)
    assert len(cells) == 2 * len(COLUMNS) * len(TABLE)
    said = {(name, column): v for name, row in TABLE.items() for column, v in zip(COLUMNS, row, strict=True)}
    for cell in cells:
        assert cell.invariant == said[cell.transform, cell.architecture], cell
    assert disagreements(cells) == []
    # Nothing is near the bound: rounding on one side, a change that can be seen in a plot on the other.
    assert max(cell.change for cell in cells if cell.invariant) < INVARIANT / 1e3
    assert min(cell.change for cell in cells if not cell.invariant) > INVARIANT * 1e6


CONV: dict[str, Any] = {"type": "conv", "filter": [3, 3], "W_var": 2.0, "b_var": 0.1}
RELU, FLATTEN, GAP = {"type": "act", "fn": "relu"}, {"type": "flatten"}, {"type": "gap"}
DENSE = {"type": "dense", "W_var": 1.0, "b_var": 0.1}


def network(*layers: dict[str, Any]) -> Architecture:
    return Architecture.from_dict({"layers": list(layers)})


NETWORKS = {
    "even filters, SAME": Architecture.vec(2, 2),
    "even filters, VALID": Architecture.gap(2, 2, padding="VALID"),
    "even filters, CIRCULAR": Architecture.vec(2, 2, padding="CIRCULAR"),
    "even filters, CIRCULAR, pooled": Architecture.gap(2, 4, padding="CIRCULAR"),
    "strided": Architecture.gap(2, 3, stride=2),
    "strided CIRCULAR": Architecture.gap(1, 3, stride=2, padding="CIRCULAR"),
    "oblong filter": Architecture.vec(1, (1, 3)),
    "oblong stride": Architecture.vec(1, 1, stride=(1, 2)),
    "one filter sees all": Architecture.vec(1, (4, 4), padding="VALID"),
    "1×1 filters": Architecture.gap(2, 1),
    "no hidden layer": Architecture.vec(0),
    "no hidden layer, pooled": Architecture.gap(0),
    "erf": Architecture.vec(2, 3, activation="erf"),
    "no bias": Architecture.gap(2, 3, bias_variance=0.0),
    "linear, CIRCULAR": Architecture.vec(2, 3, padding="CIRCULAR", activation="identity"),
    "linear, SAME": Architecture.vec(2, 3, activation="identity"),
    "local, then shared": network({**CONV, "type": "conv_local"}, RELU, CONV, RELU, GAP, DENSE),
    "shared, then local": network(CONV, RELU, {**CONV, "type": "conv_local"}, RELU, GAP, DENSE),
    "pooled in between": network(CONV, RELU, {"type": "avg_pool", "window": [2, 2]}, CONV, RELU, FLATTEN, DENSE),
    "pool of one pixel": network(CONV, RELU, {"type": "avg_pool", "window": [1, 1]}, FLATTEN, DENSE),
    "pool with edges": network(
        {"type": "avg_pool", "window": [3, 3], "strides": [1, 1], "padding": "SAME", "normalize_edges": True},
        {**CONV, "filter": [1, 1]}, RELU, GAP, DENSE,
    ),
    "circular pool": network(
        {"type": "avg_pool", "window": [2, 2], "strides": [1, 1], "padding": "CIRCULAR"}, RELU, GAP, DENSE
    ),
    "residual": network(CONV, {"type": "residual", "branch": [RELU, CONV], "shortcut": []}, RELU, FLATTEN, DENSE),
    "branches that transposition swaps": network(
        {
            "type": "residual",
            "branch": [{**CONV, "filter": [1, 3]}, RELU],
            "shortcut": [{**CONV, "filter": [3, 1]}, RELU],
        },
        FLATTEN,
        DENSE,
    ),
    "branches that differ": network(
        {
            "type": "residual",
            "branch": [{**CONV, "filter": [1, 3]}, RELU],
            "shortcut": [{**CONV, "filter": [3, 1], "W_var": 3.0}, RELU],
        },
        FLATTEN,
        DENSE,
    ),
    "dense after the pool": network(CONV, RELU, GAP, DENSE, RELU, DENSE),
    "dense on pixels": network({**DENSE}, RELU, CONV, RELU, FLATTEN, DENSE),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(4, 4, 2), (4, 6, 1)])
def test_what_the_layers_imply_is_what_is_measured(name: str, shape: tuple[int, int, int]) -> None:
    cells = matrix({name: NETWORKS[name]}, shape, backend="reference")
    assert disagreements(cells) == []
    assert {cell.kernel for cell in cells} == {"nngp", "ntk"}


def implied(
    architecture: Architecture, name: str, shape: tuple[int, ...] = (4, 4, 2), **settings: Any
) -> bool:
    return invariant(architecture, transform(name, settings.pop("seed", 0), shape), **settings)


def test_some_cells_that_have_a_reason() -> None:
    assert not implied(NETWORKS["even filters, SAME"], "mirror")  # SAME pads one side only
    assert implied(NETWORKS["even filters, VALID"], "mirror")
    assert implied(NETWORKS["even filters, CIRCULAR"], "mirror")
    assert implied(NETWORKS["one filter sees all"], "rotation")  # it is fully connected
    assert implied(NETWORKS["no hidden layer"], "rotation")
    assert implied(NETWORKS["linear, CIRCULAR"], "rotation")  # every pixel is read equally often
    assert not implied(NETWORKS["linear, SAME"], "rotation")
    assert implied(NETWORKS["branches that transposition swaps"], "transpose")
    assert not implied(NETWORKS["branches that differ"], "transpose")
    assert implied(NETWORKS["shared, then local"], "pixel-rotations")
    assert implied(NETWORKS["local, then shared"], "pixel-rotations")
    assert not implied(NETWORKS["pooled in between"], "pixel-rotations")
    assert implied(NETWORKS["pool of one pixel"], "pixel-rotations")
    assert implied(Architecture.gap(2, 1), "permutation")
    assert implied(Architecture.gap(2, 1), "permutation", functional=True)


def test_a_strided_circular_gap_keeps_the_shifts_that_its_stride_divides() -> None:
    answers = set()
    for seed in range(20):
        shift = transform("shift", seed, (4, 4, 2))
        assert shift.order is not None
        steps = divmod(int(shift.order[0]), 4)
        answer = invariant(NETWORKS["strided CIRCULAR"], shift)
        assert answer == all(step % 2 == 0 for step in steps)
        answers.add(answer)
    assert answers == {True, False}


def test_vectors_are_for_networks_without_windows() -> None:
    for name in ("rotation", "permutation", "shift", "mirror"):
        assert implied(Architecture.fcn(), name, (12,))
        assert not implied(Architecture.fcn(), name, (12,), functional=True)
    assert implied(Architecture.fcn(), "none", (12,), functional=True)
    with pytest.raises(KernregError, match="needs images"):
        implied(Architecture.vec(), "rotation", (12,))
    with pytest.raises(KernregError, match="kernel is nngp or ntk"):
        implied(Architecture.fcn(), "rotation", (12,), kernel="both")
    with pytest.raises(KernregError, match="flatten or gap"):
        implied(network(CONV, RELU), "rotation")


def test_a_kernel_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose kernel feels the first number of an image, by a part in 10⁹."""
    plain = backends.compute

    def wrong(x: Any, z: Any, architecture: Architecture, *rest: Any) -> Any:
        K = plain(x, z, architecture, *rest)
        return {kernel: k * (1 + 1e-9 * x[0, 0, 0, 0]) for kernel, k in K.items()}

    monkeypatch.setattr(backends, "compute", wrong)
    cells = matrix({"fcn": Architecture.fcn(1)}, (2, 2, 2), backend="reference")
    assert disagreements(cells)
    assert all("fcn" in said and "expected invariant" in said for said in disagreements(cells))


@pytest.mark.parametrize("shape", [(1, 1, 3), (4, 4), (0, 4, 4)])
def test_images_of_one_pixel_have_no_symmetries(shape: Any) -> None:
    with pytest.raises(KernregError, match="more than one pixel"):
        list(symmetry_matrix(ladder(1), shape))


def test_patches_that_tile() -> None:
    assert default_patch((6, 6, 3)) == 3
    assert default_patch((28, 28, 1)) == 2
    assert default_patch((5, 10, 1)) == 5
    assert default_patch((5, 7, 1)) is None
    assert default_patch((1, 16, 1)) is None
