"""1,000 faults, drawn from a seed: is anything lost, or anything wrong accepted?

    python benchmarks/faults.py [--faults 1000] [--seed 0] [--processes 2] [--folder /tmp]

Plays faults 0 … of the seed (`tests/faults/`) in several processes, each with a fork server of its own, and judges each.
Stopped at any moment, the same command goes on: every fault that is judged is a line of results/faults.jsonl, which goes once
all are there. Writes results/faults.json and results/faults.md, a table by kind; a run that is not complete says so there.
Exit status 1 if anything was lost, wrong, hung, or ended in a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from faults.campaign import Campaign, Row, as_dict, table  # noqa: E402
from faults.oracle import FAILURES  # noqa: E402

from kernreg.provenance import versions  # noqa: E402

RESULTS = Path(__file__).parent / "results"


def read(journal: Path, seed: int) -> dict[int, Row]:
    """The faults of a seed that are judged, by number; a line that was cut short is none."""
    rows: dict[int, Row] = {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else ():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if found.pop("seed") == seed:
            row = Row(
                **{
                    **found,
                    "refusals": tuple(found["refusals"]),
                    "problems": tuple(map(tuple, found["problems"])),
                }
            )
            rows[row.number] = row
    return rows


def work(numbers: list[int], seed: int, folder: str | None, journal: Path) -> None:
    """Play these faults, and write a line for each."""
    with tempfile.TemporaryDirectory(prefix="faults-", dir=folder, ignore_cleanup_errors=True) as place:
        campaign = Campaign(Path(place), seed)
        for number in numbers:
            row = campaign.play(number)
            line = json.dumps({"seed": seed, **as_dict(row)}) + "\n"
            file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(file, line.encode())
            os.close(file)
            if row.outcome in FAILURES:
                print(f"fault {number}: {row.kind}, {row.job}: {row.problems}", flush=True)


def run(faults: int, seed: int, processes: int, folder: str | None, journal: Path) -> tuple[list[Row], float]:
    """All faults that are not judged yet, in several processes; all rows, and the seconds of this run."""
    began = time.monotonic()
    left = [number for number in range(faults) if number not in read(journal, seed)]
    shares = [left[i::processes] for i in range(min(processes, len(left)))]
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--work",
        "--seed",
        str(seed),
        "--journal",
        str(journal),
    ]
    command += ["--folder", folder] if folder else []
    children = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in shares]
    try:
        for child, share in zip(children, shares, strict=True):
            assert child.stdin is not None
            child.stdin.write(json.dumps(share).encode())
            child.stdin.close()
        statuses = [child.wait() for child in children]
        if any(statuses):
            sys.exit("a process of the campaign failed")
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
    rows = read(journal, seed)
    return [rows[number] for number in sorted(rows) if number < faults], time.monotonic() - began


def summary(rows: list[Row], faults: int, seed: int, seconds: float, processes: int) -> dict[str, Any]:
    outcomes = {
        name: sum(row.outcome == name for row in rows) for name in ("recovered", "refused", *FAILURES)
    }
    return {
        "faults": faults,
        "injected": len(rows),
        "seed": seed,
        "outcomes": outcomes,
        "failed": [as_dict(row) for row in rows if row.outcome in FAILURES],
        "seconds_of_the_last_run": round(seconds, 1),
        "processes": processes,
        "seconds_of_a_fault": round(sum(row.seconds for row in rows) / max(len(rows), 1), 2),
        "rows": [[row.number, row.kind, row.job, row.note, row.outcome] for row in rows],
        "versions": versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", help="on the disk that is to be tried [default: that of temporary files]")
    parser.add_argument("--journal", type=Path, default=RESULTS / "faults.jsonl")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="play nothing; write what is there")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    if given.work:
        return work(json.load(sys.stdin), given.seed, given.folder, given.journal)
    given.out.mkdir(exist_ok=True)
    if given.report:
        rows, seconds = list(read(given.journal, given.seed).values()), 0.0
    else:
        rows, seconds = run(given.faults, given.seed, given.processes, given.folder, given.journal)
    facts = summary(rows, given.faults, given.seed, seconds, given.processes)
    (given.out / "faults.json").write_text(
        json.dumps(facts, indent=0, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    head = f"{len(rows)} of {given.faults} faults of seed {given.seed}\n\n"
    (given.out / "faults.md").write_text(head + table(rows) + "\n", encoding="utf-8")
    print(head + table(rows))
    if facts["failed"]:
        sys.exit("something was lost, wrong, hung, or ended in a traceback")
    if len(rows) == given.faults:
        given.journal.unlink(missing_ok=True)
    return None


def _stop(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would leave folders behind
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
