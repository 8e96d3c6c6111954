"""Tiny studies for tests."""

from __future__ import annotations

from pathlib import Path

from kernreg.study import Study

TINY = """
[study]
name = "tiny"
title = "A tiny <study> & more"
kernels = ["ntk"]
transforms = ["none", "rotation", "mirror"]

[data]
name = "synthetic-images"
n = 48
test = 40
settings = { size = 4, channels = 2, classes = 3, signal = 0.5 }

[fit]
ridge = 1e-3

[[architecture]]
preset = "fcn"
depth = 1

[[architecture]]
preset = "lcn"
depth = 1

[[architecture]]
preset = "vec"
depth = 1

[[architecture]]
preset = "gap"
depth = 1
"""


def tiny(folder: Path, text: str = TINY, out: Path | None = None) -> Study:
    """A study file in a folder, and the study that reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return Study.read(path, out or folder / "out")
