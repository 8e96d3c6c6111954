"""Make the peers' environments: one virtual environment each, from the requirements file beside this script.

    python benchmarks/peers/setup.py [PYTHON]

They go to .venv-peers/ at the top of the checkout, which ignores itself for git, and take 6 GB, most of it
the tensorflow of neural-tangents. PYTHON must be 3.11 or 3.12 (jaxlib 0.4.30, jax 0.10 and torch 2.13 have
wheels for these); without it, the running interpreter or the first suitable python3.x of the PATH. A second run
installs nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parents[1] / ".venv-peers"
PEERS = ("neural_tangents", "cnn_gp_like", "lineax", "linear_operator")
VERSIONS = ("3.11", "3.12")


def interpreter(name: str) -> Path:
    """The Python of a peer's environment, whether it exists or not."""
    return ENVIRONMENTS / name / "bin" / "python"


def suitable() -> str:
    """A Python for which all peers have wheels."""
    if "{}.{}".format(*sys.version_info[:2]) in VERSIONS:
        return sys.executable
    for version in VERSIONS:
        if found := shutil.which(f"python{version}"):
            return found
    sys.exit(
        f"jaxlib 0.4.30 needs Python {', '.join(VERSIONS)}, none is on the PATH: name one as the argument"
    )


def make(name: str, python: str) -> None:
    """Create and fill one environment; its stamp is a copy of the requirements that it satisfies."""
    folder, requirements = ENVIRONMENTS / name, HERE / f"{name}.txt"
    stamp = folder / "requirements.txt"
    if stamp.exists() and stamp.read_text() == requirements.read_text():
        return
    print(f"peers: installing {name} into {folder}", flush=True)
    ENVIRONMENTS.mkdir(exist_ok=True)
    (ENVIRONMENTS / ".gitignore").write_text("*\n")
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    pip = [interpreter(name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", requirements], check=True)
    stamp.write_text(requirements.read_text())


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else suitable()
    version = subprocess.run([chosen, "--version"], check=True, capture_output=True, text=True).stdout
    if not re.search(r"3\.1[12]\.", version):
        sys.exit(f"jaxlib 0.4.30 has no wheels for {version.strip()}: name a Python 3.11 or 3.12")
    for peer in PEERS:
        make(peer, chosen)
