"""neural-tangents 0.6.5 behind the conversation of serving.py.

The argument is the dtype, one for the process: with x64 on, jax would promote float32 work to float64.
"""

import json
import sys
from functools import cache

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", sys.argv[1] == "float64")

import jax.numpy as jnp  # noqa: E402
import jaxlib  # noqa: E402
import neural_tangents as nt  # noqa: E402
import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402
from serving import serve  # noqa: E402


def network(layers):
    """The layers of `Architecture.to_dict` as neural-tangents' own; the kernel does not see their width."""
    made = []
    for layer in layers:
        kind = layer["type"]
        if kind in ("dense", "conv"):
            scale = {
                "W_std": layer["W_var"] ** 0.5,
                "b_std": layer["b_var"] ** 0.5,
                "parameterization": "ntk",
            }
        if kind == "dense":
            made.append(stax.Dense(1, **scale))
        elif kind == "conv":
            window, strides = tuple(layer["filter"]), tuple(layer["strides"])
            made.append(stax.Conv(1, window, strides, layer["padding"], **scale))
        elif kind == "act" and layer["fn"] == "relu":
            made.append(stax.Relu())
        elif kind == "flatten":
            made.append(stax.Flatten())
        elif kind == "gap":
            made.append(stax.GlobalAvgPool())
        else:
            raise ValueError(f"this worker has no layer {layer}")
    return stax.serial(*made)


@cache
def compiled(description, kernel, symmetric):
    """One jitted function for a network: the same shapes again cost no compilation."""
    _, _, kernel_fn = network(json.loads(description))
    if symmetric:
        return jax.jit(lambda x: kernel_fn(x, None, kernel))
    return jax.jit(lambda x, z: kernel_fn(x, z, kernel))


def prepare(layers, kernel, x, z, settings):
    compute = compiled(json.dumps(layers), kernel, z is None)
    images = [jnp.asarray(rows, sys.argv[1]) for rows in (x, z) if rows is not None]
    return lambda: compute(*images).block_until_ready()


packages = {"neural-tangents": nt, "jax": jax, "jaxlib": jaxlib, "numpy": np}
serve(prepare, {name: module.__version__ for name, module in packages.items()})
