"""Issue slots of an update, counted in the machine code of the CUDA stencil; needs no GPU.

    python benchmarks/sass.py                     the table of docs/gpu.md → benchmarks/results/sass.{json,md}
    python benchmarks/sass.py --arch gap --side 32 --kernel ntk --dtype float32 --list      one case, all instructions

The instructions of the loop over layers, divided by the pixels that a thread has in it: each costs an issue slot of a
warp, whatever it does. Needs a compiler (nvidia-cuda-nvrtc or nvcc) and a disassembler (nvdisasm or cuobjdump: of a toolkit,
or inside the triton wheel).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from measuring.machine import commit

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import cubin
from kernreg.kernels.instance import Instance, instance

RESULTS = Path(__file__).parent / "results"
CAPABILITY = 90
DEPTH = 8
GROUPS = {
    "multiply-add": ("FFMA", "DFMA", "HFMA2"),
    "add": ("FADD", "DADD"),
    "multiply": ("FMUL", "DMUL"),
    "root, reciprocal": ("MUFU",),
    "shuffle": ("SHFL",),
    "shared memory": ("LDS", "STS"),
    "global memory": ("LDG", "LD", "STG"),
}
# name, preset, side of the image, kernel, dtype, settings
CASES: tuple[tuple[str, int, str, str, dict[str, Any]], ...] = (
    ("gap", 32, "ntk", "float32", {}),
    ("gap", 32, "nngp", "float32", {}),
    ("gap", 32, "ntk", "float32", {"padding": "CIRCULAR"}),
    ("gap", 32, "ntk", "float32", {"filter": 5}),
    ("gap", 32, "ntk", "float64", {}),
    ("gap", 28, "ntk", "float32", {}),
    ("gap", 8, "ntk", "float32", {}),
    ("vec", 32, "ntk", "float32", {}),
    ("vec", 32, "nngp", "float32", {}),
    ("vec", 64, "ntk", "float32", {}),
    ("vec", 32, "ntk", "float32", {"activation": "erf"}),
)


def main() -> None:
    options = parse()
    try:
        if options.arch:
            case = (options.arch, options.side, options.kernel, options.dtype, {})
            found = measure(*case)
            print(json.dumps({k: v for k, v in found.items() if k != "instructions"}, indent=1))
            if options.list:
                print("\n".join(f"{count:6}  {name}" for name, count in found["instructions"].items()))
            return
        rows = [measure(*case) for case in CASES]
        for row in rows:
            del row["instructions"]
    except KernregError as error:
        sys.exit(str(error))
    table = markdown(rows)
    print(table)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        result = {"commit": commit(), "capability": CAPABILITY, "compiler": cubin.compiler(), "rows": rows}
        (options.out / "sass.json").write_text(json.dumps(result, indent=1) + "\n")
        (options.out / "sass.md").write_text(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", help="one case: a preset")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--kernel", default="ntk")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--list", action="store_true", help="every instruction of the loop")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder to write to")
    return parser.parse_args()


def measure(name: str, side: int, kernel: str, dtype: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One case: slots by kind, registers, and the share of lanes that have work."""
    architecture = Architecture.preset(name, depth=DEPTH, **settings)
    stencil = instance(architecture, (side, side, 3), kernel, dtype)
    code = cubin.compile(stencil.definitions, CAPABILITY)
    pixels = stencil.layout.rows * stencil.layout.columns
    loop = layer_loop(disassemble(code, "pairs"), pixels)
    counts = Counter(name.split(".")[0] for name in loop)
    slots = {group: sum(counts.pop(op, 0) for op in ops) / pixels for group, ops in GROUPS.items()}
    slots["other"] = sum(counts.values()) / pixels
    return {
        "case": "-".join((name, f"{side}x{side}", kernel, dtype, *map(str, settings.values()))),
        "slots": round(len(loop) / pixels, 2),
        "by_kind": {group: round(value, 2) for group, value in slots.items()},
        "busy": round(busy_lanes(stencil), 3),
        "registers": cubin.resources(code)["pairs"].registers,
        "thread": f"{stencil.layout.rows}×{stencil.layout.columns}",
        "instructions": dict(Counter(loop).most_common()),
    }


def busy_lanes(stencil: Instance) -> float:
    layout = stencil.layout
    threads = stencil.height // layout.rows * (stencil.width // layout.columns)
    busy = layout.slots * threads / (32 * layout.warps)
    return (
        busy * len(stencil.shifts) / (layout.slots * layout.turns * layout.parts) if stencil.shifted else busy
    )


def disassemble(code: bytes, kernel: str) -> list[tuple[int, str, int | None]]:
    """(address, instruction, target if it is a jump) of one kernel."""
    tool = _tool()
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        words = (
            [tool, "-sass", file.name] if Path(tool).name.startswith("cuobjdump") else [tool, "-c", file.name]
        )
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return _parsed(text, kernel)


def _parsed(text: str, kernel: str) -> list[tuple[int, str, int | None]]:
    inside, labels, found, pending = False, {}, [], []
    for line in text.splitlines():
        if head := re.search(r"Function : (\w+)|\.section\s+\.text\.(\w+)", line):
            inside = kernel in head.groups()
        elif inside and (label := re.match(r"\s*(\.L_x?_?\w+):", line)):
            pending.append(label.group(1))
        elif inside and (
            code := re.match(r"\s*/\*([0-9a-f]+)\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", line)
        ):
            address = int(code.group(1), 16)
            labels.update(dict.fromkeys(pending, address))
            pending = []
            found.append((address, code.group(2), code.group(3)))
    jumps = []
    for address, name, rest in found:
        to = re.search(r"`\((\.L_x?_?\w+)\)|(0x[0-9a-f]+)\s*$", rest) if name.startswith("BRA") else None
        target = None if to is None else labels.get(to.group(1)) if to.group(1) else int(to.group(2), 16)
        jumps.append((address, name, target))
    return jumps


def layer_loop(code: list[tuple[int, str, int | None]], pixels: int) -> list[str]:
    """The instructions of the innermost loop that has a root for every pixel."""
    loops = []
    for address, _, target in code:
        if target is not None and target < address:
            body = [name for at, name, _ in code if target <= at <= address]
            if sum(name.startswith("MUFU") for name in body) >= pixels:
                loops.append(body)
    if not loops:
        raise KernregError("no loop over layers in the machine code")
    return [name for name in min(loops, key=len) if name != "NOP"]


def _tool() -> str:
    for name in ("nvdisasm", "cuobjdump"):
        if path := shutil.which(name):
            return path
        spec = importlib.util.find_spec("triton")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            path = Path(folder) / "backends" / "nvidia" / "bin" / name
            if path.exists():
                return str(path)
    raise KernregError("no disassembler: pip install triton, or put a CUDA toolkit's nvdisasm on the PATH")


def markdown(rows: list[dict[str, Any]]) -> str:
    heads = ("case", "pixels a thread", "registers", "busy lanes", "slots", *GROUPS, "other")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        kinds = (f"{row['by_kind'][kind]:.2f}" for kind in (*GROUPS, "other"))
        cells = (
            row["case"],
            row["thread"],
            row["registers"],
            f"{row['busy']:.0%}",
            f"**{row['slots']:.1f}**",
            *kinds,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
