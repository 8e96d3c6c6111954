"""The speed benchmark runs: ours alone on the smallest case, and the conversation with a peer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def driver(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "cpu_kernels.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_ours_only_writes_verified_rows_and_a_table(tmp_path: Path) -> None:
    done = driver("--quick", "--ours-only", "--case", "gap-8x8x1-ntk", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "cpu_kernels.json").read_text())
    rows = result["rows"]
    assert [(row["dtype"], row["symmetric"]) for row in rows] == [
        ("float32", False),
        ("float64", False),
        ("float32", True),
        ("float64", True),
    ]
    for row in rows:
        assert row["updates_per_pair"] == 64 * 64 * 4
        assert row["updates_per_s"]["median"] > 0
        assert row["error"] < {"float32": 2e-6, "float64": 1e-12}[row["dtype"]]
        assert row["ratio_to_faster"] is None
    assert result["machine"]["cores"] >= 1
    table = (tmp_path / "cpu_kernels.md").read_text()
    assert table.count("gap-8x8x1-ntk") == len(rows)

    again = driver("--quick", "--ours-only", "--case", "fcn-3072-ntk", "--out", tmp_path)
    assert again.returncode == 0, again.stderr
    both = json.loads((tmp_path / "cpu_kernels.json").read_text())["rows"]
    assert both[: len(rows)] == rows, "the rows of a case that was not run again stay as they were"
    assert {row["case"] for row in both[len(rows) :]} == {"fcn-3072-ntk"}


def test_unknown_case_is_refused_with_the_known_ones() -> None:
    done = driver("--ours-only", "--case", "gap-9x9")
    assert done.returncode == 1
    assert "gap-9x9" in done.stderr
    assert "gap-8x8x1-ntk" in done.stderr
    assert "Traceback" not in done.stderr


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from serving import serve
def prepare(layers, kernel, x, z, settings):
    print("noise of the peer")
    return lambda: settings["scale"] * (x @ (x if z is None else z).T)
serve(prepare, {"toy": "1"})
"""


def test_worker_answers_line_by_line(tmp_path: Path) -> None:
    x, z = np.arange(6.0).reshape(2, 3), np.ones((4, 3))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "z.npy", z)
    question = {"layers": [], "kernel": "ntk", "settings": {"scale": 2.0}, "x": str(tmp_path / "x.npy")}
    requests = [
        {"op": "info"},
        {"op": "prepare", **question, "z": str(tmp_path / "z.npy")},
        {"op": "time", "calls": 2},
        {"op": "result", "path": str(tmp_path / "k.npy")},
        {"op": "prepare", **question, "z": str(tmp_path / "absent.npy")},
        {"op": "time", "calls": 1},
    ]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, BENCHMARKS / "peers"],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        timeout=60,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0] == {"versions": {"toy": "1"}}
    assert [sorted(answer) for answer in answers[1:]] == [["seconds"], ["seconds"], [], ["error"], ["error"]]
    assert "absent.npy" in answers[4]["error"]
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy"), 2.0 * x @ z.T)
    assert "noise of the peer" in done.stderr
