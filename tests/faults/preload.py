"""What the fork server imports once, so that a fork of it is at work in milliseconds.

No thread may be running when it forks: one thread of BLAS, and no kernel of Numba, since every job here is computed by the
backend `reference`.
"""

from importlib import import_module

from kernreg.cli.main import COMMANDS

for name in COMMANDS:
    import_module(f"kernreg.cli.{name}")
for name in (
    "kernreg.cg",
    "kernreg.cli.output",
    "kernreg.data",
    "kernreg.data.digits",
    "kernreg.data.fetch",
    "kernreg.data.files",
    "kernreg.data.synthetic",
    "kernreg.data.images",
    "kernreg.gram",
    "kernreg.kernels.reference",
    "kernreg.measure",
    "kernreg.results",
    "kernreg.solutionfile",
    "kernreg.study",
    "kernreg.studyreport",
    "kernreg.tiled",
    "kernreg.verify",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "pooch.downloaders",
    "scipy.linalg",
    "scipy.optimize",
    "scipy.stats",
    "tqdm",
):
    import_module(name)


def warm() -> None:
    """Draw a figure: fonts and formulas that matplotlib has once parsed are there in every fork."""
    from tempfile import TemporaryDirectory

    import numpy as np

    from kernreg import fit_exponent, learning_curve
    from kernreg.report import figure

    x = np.random.default_rng(0).standard_normal((60, 5))
    K, y = np.exp(x @ x.T / 5), np.tanh(x[:, :2])
    curve = learning_curve(K[:40, :40], y[:40], K[40:, :40], y[40:], ridge=1e-3)
    with TemporaryDirectory() as folder:
        figure({"warm": curve}, {"warm": fit_exponent(curve)}, f"{folder}/warm", title="warm")


warm()
