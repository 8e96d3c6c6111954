"""kernreg bench: red before fast, the record that it adds, what it refuses; and the bound beside it. No timing is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from kernreg import bench as benching
from kernreg.architecture import Architecture
from kernreg.bench import Case, RedCheckError, append, bench, bound, check
from kernreg.cli.main import main
from kernreg.errors import KernregError
from kernreg.kernels import backends, lanes
from kernreg.kernels.bound import GPU_SLOTS, updates_per_pair

SMALL = ("bench", "--size", "4x4x1", "--depth", "2", "--quick", "--backend", "cpu")


def case(name: str = "gap", kernel: str = "ntk", dtype: str = "float32", backend: str = "cpu") -> Case:
    return Case(Architecture.preset(name, depth=2), (4, 4, 1), kernel, dtype, backend)


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks that are not measured: seconds of multiply-adds."""
    monkeypatch.setattr("kernreg.kernels.bound.peaks", lambda dtype, threads: (1e9, 1e8))


@pytest.mark.usefixtures("swift")
def test_a_record_has_what_it_takes_to_compare_it_and_is_added_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "results" / "speed.jsonl"
    for count in (1, 2):
        result = CliRunner().invoke(main, [*SMALL, "--arch", "gap", "--arch", "fcn", "--out", str(file)])
        assert result.exit_code == 0, result.output
        assert "a smoke run, no measurement" in result.output
        records = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(records) == 2 * count
    gap, fcn = records[:2]
    assert gap["updates_per_pair"] == 16 * 16 * 2
    assert fcn["updates_per_pair"] == 2
    for record in records:
        assert 0 < record["updates_per_s"]["q20"] <= record["updates_per_s"]["median"]
        assert record["error"] < 2e-6
        assert record["share_of_bound"] == record["updates_per_s"]["median"] / record["bound_updates_per_s"]
        assert record["device"]
        assert {"kernreg", "numpy", "numba"} <= set(record["versions"])
        assert record["backend"] == "cpu"


@pytest.mark.usefixtures("swift")
@pytest.mark.parametrize("kernel", ["ntk", "nngp", "both"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_and_dtype(kernel: str, dtype: str) -> None:
    arguments = [*SMALL, "--arch", "vec", "--kernel", kernel, "--dtype", dtype, "--json"]
    (record,) = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert (record["kernel"], record["dtype"], record["updates_per_pair"]) == (kernel, dtype, 16 * 2)
    assert record["bound_updates_per_s"] > 0


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        (lambda K: K * (1 + 1e-4), "off the definition by 1"),
        (lambda K: np.where(np.eye(*K.shape) > 0, np.nan, K), "off the definition by nan"),
        (lambda K: K + np.triu(np.full_like(K, 1e-7), 1), "not symmetric|off the definition"),
    ],
)
def test_nothing_is_timed_on_a_red_check(
    wrong: Any, shown: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain, timed = backends.compute, list[int]()

    def compute(*arguments: Any) -> Any:
        out = plain(*arguments)
        return out if arguments[4] == "reference" else {name: wrong(K) for name, K in out.items()}

    monkeypatch.setattr(backends, "compute", compute)
    monkeypatch.setattr(benching, "seconds_per_pair", lambda *a: timed.append(1))
    with pytest.raises(RedCheckError, match=shown):
        bench(case(), 1, 0.01)
    result = CliRunner().invoke(main, [*SMALL, "--arch", "gap", "--out", str(tmp_path / "a.jsonl")])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("kernreg: error: gap ntk in float32 by backend cpu: ")
    assert "updates/s" not in result.stdout
    assert not timed
    assert not (tmp_path / "a.jsonl").exists()


def test_the_check_passes_for_what_is_right() -> None:
    assert check(case(backend="reference")) <= 1e-6
    assert 0 <= check(case("lcn-gap", "both", "float64")) <= 1e-12


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    [
        (("--size", "4x4"), 2, "is no size of a row; write it like 32x32x3"),
        (("--arch", "resnet"), 2, "'resnet' is not one of"),
        (("--backend", "abacus"), 1, "unknown backend 'abacus'"),
        (("--size", "100", "--arch", "gap"), 1, "needs images"),
    ],
)
def test_what_it_refuses(arguments: tuple[str, ...], status: int, shown: str) -> None:
    result = CliRunner().invoke(main, ["bench", "--quick", *arguments])
    assert result.exit_code == status
    assert shown in result.stderr


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KernregError, match="cannot write"):
        append([], tmp_path / "file" / "speed.jsonl")


class Gpu:
    """Stands for `Cuda` and for the GPUs of a backend."""

    def names(self) -> list[str]:
        return ["imagined"]

    def multiply_adds(self, dtype: str) -> float:
        return 1e12 * GPU_SLOTS["ntk", "float32"]

    def product_seconds(self, n: int, d: int, dtype: str) -> float:
        return 1e-3


def test_the_bound_of_a_gpu_is_its_pipes_or_a_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lanes.GPUS, "cuda", Gpu)
    monkeypatch.setattr(benching, "absence", lambda: "")
    monkeypatch.setattr(benching, "cuda", Gpu)
    assert bound(case(backend="cuda"), 100) == pytest.approx(1e12)
    assert bound(case(backend="cuda", dtype="float64"), 100) is None
    assert bound(case("fcn", backend="cuda"), 100) == pytest.approx(100 * 100 * 2 / 1e-3)
    assert benching.device_name("cuda") == "imagined"
    monkeypatch.setattr(benching, "absence", lambda: "no CuPy")
    assert bound(case(backend="cuda"), 100) is None


def test_an_update_is_a_pair_shift_pixel_and_layer() -> None:
    for name, updates in (("gap", 64 * 64 * 3), ("vec", 64 * 3), ("lcn-gap", 64 * 3), ("fcn", 3)):
        assert updates_per_pair(Architecture.preset(name, depth=3), (8, 8, 1)) == updates
