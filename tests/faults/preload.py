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
    "kernreg.data",
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
    "scipy.linalg",
    "scipy.optimize",
    "scipy.stats",
    "tqdm",
):
    import_module(name)
