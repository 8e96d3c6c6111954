"""Coverage-guided fuzzing of everything that reads other people's bytes (docs/security.md).

    python -m venv .venv-fuzz && .venv-fuzz/bin/pip install -e . atheris
    .venv-fuzz/bin/python tests/fuzz/campaign.py --seconds 300                # every parser in turn
    .venv-fuzz/bin/python tests/fuzz/campaign.py --seconds 7200 pickle npz
    .venv-fuzz/bin/python tests/fuzz/campaign.py --minimise                   # → tests/fuzz/corpus/

What is found accumulates in build/fuzz/, crashes in build/fuzz/PARSER/crashes/; CPU seconds add up over campaigns in
benchmarks/results/fuzzing.json. Replaying the corpus needs no atheris: tests/fuzz/test_replay.py.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
WORK = ROOT / "build" / "fuzz"
RESULT = ROOT / "benchmarks" / "results" / "fuzzing.json"
MOST_BYTES = 50_000  # of the committed corpus of a parser
SECONDS = 10.0  # of an input: instrumented code is several times slower than plain code
CRASHED, TIMED_OUT = 77, 70  # libFuzzer's exit statuses


def child(name: str, arguments: list[str]) -> None:
    """Fuzz one parser in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["kernreg", "tomllib"], exclude=["kernreg.kernels"]):
        from parsers import PARSERS
    from seeds import seeds
    from watch import emptied, outcome

    shared = Path("/dev/shm")
    parent = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared if os.access(shared, os.W_OK) else None))
    folder = parent / "input"
    folder.mkdir()
    parser = PARSERS[name]
    for content in seeds()[name]:  # what is imported at its first use is imported now, unwatched
        try:
            parser.parse(content, emptied(folder))
        except Exception:
            continue

    def one_input(content: bytes) -> None:
        # libFuzzer does not know the input any more when a C library ends the process
        (WORK / name / "current").write_bytes(content)
        outcome(parser.parse, content, emptied(folder), SECONDS)

    atheris.Setup([str(WORK / name / "again.sh"), *arguments], one_input)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _escaped(letter: re.Match[bytes]) -> bytes:
    return f"\\x{letter[0][0]:02x}".encode()


def prepared(name: str) -> Path:
    """The working folder of a parser, with its seeds, its dictionary, and what starts its process again."""
    from dictionary import TOKENS
    from seeds import seeds

    work = WORK / name
    for folder in ("corpus", "seeds", "crashes"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    for content in seeds()[name]:
        (work / "seeds" / hashlib.sha1(content).hexdigest()[:16]).write_bytes(content)
    tokens = (re.sub(rb"[^ !#-\[\]-~]", _escaped, token) for token in TOKENS.get(name, ()))
    (work / "tokens").write_bytes(b"".join(b'"' + token + b'"\n' for token in tokens))
    again = work / "again.sh"
    again.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" --child {name} "$@"\n', encoding="utf-8"
    )
    again.chmod(again.stat().st_mode | stat.S_IXUSR)
    return work


def run(name: str, seconds: int, seed: int) -> dict[str, Any]:
    """Fuzz one parser for so long, in a process of its own; what it took and found."""
    from parsers import PARSERS

    work = prepared(name)
    folders = [work / "corpus", work / "seeds", *([CORPUS / name] if (CORPUS / name).is_dir() else [])]
    options = {
        "max_total_time": seconds,
        "max_len": PARSERS[name].longest,
        "timeout": 60,
        "rss_limit_mb": 2560,
        "artifact_prefix": f"{work / 'crashes'}/",
        "print_final_stats": 1,
        "verbosity": 0,
        **({"dict": work / "tokens"} if (work / "tokens").stat().st_size else {}),
        **({"seed": seed} if seed else {}),
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(work / "again.sh"), *(f"-{k}={v}" for k, v in options.items()), *map(str, folders)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{HERE}",
    }
    done = subprocess.run(command, capture_output=True, env=environment, cwd=work, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    log = done.stderr.decode("utf-8", "replace") + done.stdout.decode("utf-8", "replace")
    (work / "log").write_text(log, encoding="utf-8")
    executed = re.search(r"number_of_executed_units:\s*(\d+)", log)
    return {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "inputs": int(executed[1]) if executed else 0,
        "status": done.returncode,
        "crashes": re.findall(r"Test unit written to (\S+)", log),
        "last_lines": log.splitlines()[-12:] if done.returncode else [],
    }


def record(name: str, took: dict[str, Any]) -> None:
    """Add what a run took to the result file."""
    result: dict[str, Any] = {"parsers": {}}
    if RESULT.exists():
        result = json.loads(RESULT.read_text(encoding="utf-8"))
    entry = result["parsers"].setdefault(name, {"cpu_seconds": 0.0, "inputs": 0})
    entry["cpu_seconds"] = round(entry["cpu_seconds"] + took["cpu_seconds"], 1)
    entry["inputs"] += took["inputs"]
    entry["corpus"] = sum(1 for _ in (CORPUS / name).glob("*")) if (CORPUS / name).is_dir() else 0
    result["parsers"] = dict(sorted(result["parsers"].items()))
    result["last"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    result["versions"] = {p: version(p) for p in ("atheris", "numpy", "h5py")} | {
        "python": platform.python_version()
    }
    text = json.dumps(result, indent=1) + "\n"
    RESULT.write_text(text, encoding="utf-8")


def minimise(name: str) -> None:
    """Replace the committed corpus of a parser by the smallest inputs that reach what all of them reach."""
    work = prepared(name)
    merged = work / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    sources = [work / "seeds", work / "corpus", *([CORPUS / name] if (CORPUS / name).is_dir() else [])]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}"}
    command = [
        str(work / "again.sh"),
        "-merge=1",
        "-timeout=60",
        "-rss_limit_mb=2560",
        str(merged),
        *map(str, sources),
    ]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=work, check=False)
    kept = sorted(
        (path.read_bytes() for path in merged.iterdir()), key=lambda content: (len(content), content)
    )
    if done.returncode or not kept:
        raise SystemExit(f"{name}: the merge failed\n{done.stderr.decode('utf-8', 'replace')[-2000:]}")
    shutil.rmtree(CORPUS / name, ignore_errors=True)
    (CORPUS / name).mkdir(parents=True)
    size = 0
    for content in kept:
        size += len(content)
        if size <= MOST_BYTES:
            (CORPUS / name / hashlib.sha1(content).hexdigest()[:16]).write_bytes(content)
    print(
        f"{name}: {len(kept)} inputs reach everything, those of {min(size, MOST_BYTES)} bytes are kept",
        flush=True,
    )


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
        return 0
    from parsers import PARSERS

    parser = argparse.ArgumentParser(description="coverage-guided fuzzing; see docs/security.md")
    parser.add_argument("parsers", nargs="*", metavar="PARSER", help=", ".join(PARSERS))
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; 0: another one each time")
    parser.add_argument("--minimise", action="store_true", help="make the committed corpus anew, and stop")
    given = parser.parse_args()
    if unknown := [name for name in given.parsers if name not in PARSERS]:
        parser.error(f"unknown parser {unknown[0]}; known: {', '.join(PARSERS)}")
    failed = 0
    for name in given.parsers or PARSERS:
        if given.minimise:
            minimise(name)
            continue
        took = run(name, given.seconds, given.seed)
        record(name, took)
        print(
            f"{name}: {took['cpu_seconds']:.0f} s of CPU time, {took['inputs']:,} inputs, status {took['status']}",
            flush=True,
        )
        for line in (*took["crashes"], *took["last_lines"]):
            print(f"  {line}", flush=True)
        failed += bool(took["status"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(HERE)]
    sys.exit(main())
