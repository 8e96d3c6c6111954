"""Complexity: how many samples a kernel needs for a polynomial target, as powers of the dimension.

`sample_complexity` is the table of Misiakiewicz and Mei, "Learning with convolution and pooling operations in kernel
methods", NeurIPS 2022. `learning_index` is that of Xiao, "Eigenspace Restructuring", COLT 2022: a network of
convolutions whose stride is their filter is a tree over the d coordinates, a target of learning index r takes about
d^r samples, and m = d^r samples teach exactly the targets whose index is below r.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, log, prod

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.layers import Activation, Conv, Dense, Flatten, GlobalAvgPool, LocalConv

MODELS = ("fc", "fc-gap", "conv", "conv-pool", "conv-gap")


def sample_complexity(
    model: str, degree: int, dimension: int, patch: int | None = None, pool: int | None = None
) -> float:
    """Samples, up to a constant, for a target of degree ℓ in d dimensions that is local to q neighbouring pixels.

    | model     | kernel                                             | samples      |
    |-----------|----------------------------------------------------|--------------|
    | fc        | fully connected: inner product of whole rows       | d^ℓ          |
    | fc-gap    | the same, averaged over all shifts                 | d^(ℓ−1)      |
    | conv      | one layer of patches of q pixels, flattened        | d·q^(ℓ−1)    |
    | conv-pool | the same, pooled over w neighbouring places        | d·q^(ℓ−1)/w  |
    | conv-gap  | the same, global average pool                      | q^(ℓ−1)      |

    With pooling over all shifts the target must not change under them, with conv-pool it may change slowly.

    Args:
        degree: ℓ ≥ 1.
        dimension: d ≥ 1 pixels.
        patch: q, 1 … d; of the conv models.
        pool: w, 1 … d; of conv-pool.

    Raises:
        KernregError: unknown model, or a number that is missing or out of range.
    """
    if model not in MODELS:
        raise KernregError(f"unknown model {model!r}; known: {', '.join(MODELS)}")
    wanted: dict[str, int | None] = {"degree": degree, "dimension": dimension}
    if model.startswith("conv"):
        wanted["patch"] = patch
    if model == "conv-pool":
        wanted["pool"] = pool
    for name, value in wanted.items():
        most = inf if name in ("degree", "dimension") else dimension
        if value is None or not 1 <= value <= most:
            raise KernregError(f"{model}: {name} is {value}; it must lie in 1…{most:g}")
    q, w = patch or 1, pool or 1
    return {
        "fc": float(dimension) ** degree,
        "fc-gap": float(dimension) ** (degree - 1),
        "conv": dimension * float(q) ** (degree - 1),
        "conv-pool": dimension * float(q) ** (degree - 1) / w,
        "conv-gap": float(q) ** (degree - 1),
    }[model]


@dataclass(frozen=True)
class Tree:
    """The tree that a network without overlapping windows is.

    Attributes:
        levels: nodes that are joined at each level, from the coordinates up.
        rest: places left at the readout, which adds them up without joining them; 1 if there is one root.
        pooled: whether they are averaged (GAP) rather than flattened.
    """

    levels: tuple[int, ...]
    rest: int = 1
    pooled: bool = False


def tree(architecture: Architecture, width: int) -> Tree:
    """The tree of a network on rows (1, width, 1), or on vectors (width,) if it is fully connected.

    Raises:
        KernregError: windows that overlap or do not tile the row, or layers other than convolutions, a readout and
            dense layers.
    """
    layers = architecture.layers
    if all(isinstance(layer, Dense | Activation) for layer in layers):
        return Tree((width,))
    levels: list[int] = []
    places = width
    for k, layer in enumerate(layers):
        match layer:
            case Conv() if (
                layer.filter == layer.strides and layer.filter[0] == 1 and places % layer.filter[1] == 0
            ):
                places //= layer.filter[1]
                levels.append(layer.filter[1])
            case Activation():
                pass
            case Flatten() | GlobalAvgPool():
                after = layers[k + 1 :]
                pooled, joined = (
                    isinstance(layer, GlobalAvgPool),
                    any(isinstance(a, Activation) for a in after),
                )
                local = any(isinstance(a, LocalConv) for a in layers)
                if not all(isinstance(a, Dense | Activation) for a in after) or (
                    pooled and (joined or local)
                ):
                    break
                if joined:
                    return Tree((*levels, places))
                return Tree(tuple(levels), places, pooled)
            case _:
                break
    raise KernregError(
        f"{architecture}: the learning index is known for fully connected networks, and for convolutions whose stride is "
        f"their filter and that tile a row of {width} pixels"
    )


def learning_index(
    network: Tree | Architecture, width: int, monomials: Iterable[Sequence[tuple[int, int]]]
) -> float:
    """r of a target: the largest over its monomials of (degree·α₁ + Σ over edges of α), α = log(nodes joined)/log d.

    The edges are those of the smallest tree from the root to all patches that a monomial touches, and an edge counts with
    the nodes that its upper end joins. A readout that flattens w places asks for log w/log d more, one that pools
    them for nothing; neither can learn a product of different places: the index is infinite.

    Args:
        network: the tree, or an architecture that has one.
        width: d ≥ 2 coordinates.
        monomials: ((coordinate, exponent), …) each, see `kernreg.data.polynomials.Target.monomials`.
    """
    network = tree(network, width) if isinstance(network, Architecture) else network
    if width < 2 or prod(network.levels) * network.rest != width:
        raise KernregError(
            f"a tree of {network.levels} and {network.rest} roots has other than {width} coordinates"
        )
    weights = [log(size) / log(width) for size in network.levels]
    worst = 0.0
    for monomial in monomials:
        index = sum(exponent for _, exponent in monomial) * (weights[0] if weights else 0.0)
        nodes = {coordinate for coordinate, _ in monomial}
        for below, weight in zip(network.levels, [*weights[1:], 0.0], strict=False):
            nodes = {node // below for node in nodes}
            index += len(nodes) * weight
        if len(nodes) > 1:
            return inf
        if not network.pooled:
            index += log(network.rest) / log(width)
        worst = max(worst, index)
    return worst
