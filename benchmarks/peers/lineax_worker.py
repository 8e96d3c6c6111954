"""lineax's conjugate gradients behind the conversation of serving.py, in float64.

x is K (n, n) and z the right-hand sides (n, c); settings are the absolute ridge and rtol. The result is (n + 1, c): the solution,
and below it the iterations of each column. Columns are mapped over one solver; a column that is done waits for the others.
"""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import lineax  # noqa: E402
import numpy as np  # noqa: E402
from serving import serve  # noqa: E402


def prepare(layers, kernel, x, z, settings):
    A = jnp.asarray(x) + settings["ridge"] * jnp.eye(len(x))
    scale = jnp.linalg.norm(jnp.asarray(z), axis=0)
    rtol = settings["rtol"]

    def root_mean_square(r):
        return jnp.sqrt(jnp.mean(jnp.square(r)))

    @jax.jit
    def solve(A, Y):
        operator = lineax.MatrixLinearOperator(A, lineax.positive_semidefinite_tag)
        # for right-hand sides of length 1 the sum of both tolerances is rtol, in the norm given
        solver = lineax.CG(rtol / 2, rtol / 2 / len(A) ** 0.5, norm=root_mean_square, max_steps=20 * len(A))

        def column(y):
            found = lineax.linear_solve(operator, y, solver, throw=False)
            return found.value, found.stats["num_steps"]

        return jax.vmap(column, in_axes=1, out_axes=(1, 0))(Y)

    def run():
        value, steps = solve(A, jnp.asarray(z) / scale)
        return np.vstack([value * scale, steps])

    return run


serve(prepare, {"lineax": lineax.__version__, "jax": jax.__version__, "numpy": np.__version__})
