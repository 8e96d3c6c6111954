"""GPyTorch's conjugate gradients, those of linear_operator, behind the conversation of serving.py, in float64.

x is K (n, n) and z the right-hand sides (n, c); settings are the absolute ridge, rtol and the rank of the pivoted Cholesky
preconditioner, which is part of every run. The result is (n + 1, c): the solution, and below it the iterations of the block.
"""

import linear_operator
import numpy as np
import torch
from linear_operator.operators import AddedDiagLinearOperator, DenseLinearOperator, DiagLinearOperator
from linear_operator.utils import linear_cg
from serving import serve


def prepare(layers, kernel, x, z, settings):
    K, Y = torch.from_numpy(x), torch.from_numpy(z)
    A = K + settings["ridge"] * torch.eye(len(K), dtype=K.dtype)
    ridge = torch.full((len(K),), settings["ridge"], dtype=K.dtype)

    def run():
        steps = 0

        def product(V):
            nonlocal steps
            steps += 1
            return A @ V

        with (
            torch.no_grad(),
            linear_operator.settings.max_preconditioner_size(settings["rank"]),
            linear_operator.settings.min_preconditioning_size(1),
        ):
            operator = AddedDiagLinearOperator(DenseLinearOperator(K), DiagLinearOperator(ridge))
            precondition = operator._preconditioner()[0]
            value = linear_cg(
                product, Y, tolerance=settings["rtol"], eps=1e-30, stop_updating_after=settings["rtol"] / 10,
                max_iter=20 * len(K), preconditioner=precondition,
            )  # fmt: skip
        return np.vstack([value.numpy(), np.full((1, Y.shape[1]), steps)])

    return run


packages = {"linear_operator": linear_operator, "torch": torch, "numpy": np}
serve(prepare, {name: module.__version__ for name, module in packages.items()})
