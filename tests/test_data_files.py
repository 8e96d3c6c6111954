"""A user's own .npz, .npy and .h5 files, good and bad."""

import io
import json
import shutil
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from kernreg.data import load, reload
from kernreg.data.hdf5reader import read_hdf5_here
from kernreg.errors import KernregError

RANDOM = np.random.Generator(np.random.PCG64(1))
IMAGES = RANDOM.integers(0, 256, (40, 5, 4, 3)).astype(np.uint8)
VECTORS = RANDOM.standard_normal((40, 6)) + 3
LABELS = np.arange(40) % 4
REAL = RANDOM.standard_normal((40, 2))


def save(path: Path, **arrays: Any) -> Path:
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    elif path.suffix == ".npy":
        for name, array in arrays.items():
            np.save(path.with_name(f"{path.stem[:-1]}{name}.npy"), array)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression="gzip" if np.ndim(array) > 1 else None)
    return path


@pytest.mark.parametrize("file", ["mine.npz", "mine_X.npy", "mine.h5", "mine.hdf5"])
def test_every_format_gives_the_same_rows_and_loads_again(tmp_path: Path, file: str) -> None:
    path = save(tmp_path / file, X=IMAGES, y=LABELS)
    data = load(path, normalise="none", dtype="float64")
    assert (data.n, data.t, data.name) == (32, 8, file)
    np.testing.assert_array_equal(data.x_train, IMAGES[data.rows_train])
    np.testing.assert_array_equal(data.x_test, IMAGES[data.rows_test])
    np.testing.assert_array_equal(data.labels_train, LABELS[data.rows_train])
    again = reload(json.loads(json.dumps(data.provenance)))
    np.testing.assert_array_equal(again.x_test, data.x_test)
    (tmp_path / "moved").mkdir()
    for part in data.provenance["hashes"]:
        shutil.move(tmp_path / part, tmp_path / "moved" / part)
    with pytest.raises(KernregError, match=r"is not at .*name its folder with --data-dir"):
        reload(data.provenance)
    np.testing.assert_array_equal(reload(data.provenance, tmp_path / "moved").y_train, data.y_train)


@pytest.mark.parametrize("file", ["mine.npz", "X.npy", "mine.h5"])
def test_a_test_set_of_its_own(tmp_path: Path, file: str) -> None:
    path = save(tmp_path / file, X=VECTORS[:30], y=REAL[:30], X_test=VECTORS[30:], y_test=REAL[30:])
    data = load(str(path), dtype="float64", seed=2)
    assert (data.n, data.t, data.labels_train) == (30, 10, None)
    np.testing.assert_array_equal(data.x_test, VECTORS[30:][data.rows_test])
    np.testing.assert_array_equal(data.y_test, REAL[30:][data.rows_test])
    np.testing.assert_array_equal(data.y_train, REAL[data.rows_train])
    assert data.provenance["targets"] == "real"
    assert data.provenance["normalise"] == "none"


def test_defaults_depend_on_the_kind_of_input(tmp_path: Path) -> None:
    assert load(save(tmp_path / "a.npz", x=IMAGES, Y=LABELS)).provenance["normalise"] == "standard"
    assert load(save(tmp_path / "b.npz", X=VECTORS, y=LABELS)).provenance["normalise"] == "none"
    gray = load(save(tmp_path / "c.npz", X=IMAGES[..., 0], y=LABELS))
    assert gray.shape == (5, 4, 1)
    with pytest.raises(KernregError, match="needs 8-bit pixels"):
        load(tmp_path / "b.npz", normalise="unit")


def test_labels_of_any_values_become_classes(tmp_path: Path) -> None:
    values = np.array([[-5], [7], [1000]])[LABELS % 3]
    data = load(save(tmp_path / "a.h5", X=VECTORS, y=values.astype(np.int16)))
    assert data.provenance["class_names"] == ["-5", "7", "1000"]
    np.testing.assert_array_equal(data.labels_train, (LABELS % 3)[data.rows_train])
    one_target = load(save(tmp_path / "b.h5", X=VECTORS, y=REAL[:, 0]))
    assert one_target.y_train.shape == (32, 1)
    whole_numbers = load(save(tmp_path / "c.npz", X=VECTORS, y=np.stack([LABELS, LABELS], axis=1)))
    assert whole_numbers.labels_train is None


def with_value(array: NDArray[Any], value: float) -> NDArray[Any]:
    array = array.astype(np.float64)
    array[17] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"y": LABELS}, "has no X"),
        ({"X": VECTORS}, "has no y"),
        ({"X": VECTORS, "x": VECTORS, "y": LABELS}, "has X twice"),
        ({"X": VECTORS, "y": LABELS[:39]}, r"y has shape \(39,\); for 40 inputs it must be \(40,\)"),
        ({"X": VECTORS[0], "y": LABELS}, r"X has shape \(6,\)"),
        ({"X": VECTORS[:0], "y": LABELS[:0]}, r"X has shape \(0, 6\)"),
        ({"X": VECTORS.astype(complex), "y": LABELS}, "dtype complex128|not real numbers"),
        ({"X": with_value(VECTORS, np.nan), "y": LABELS}, "X: row 17 holds NaN or infinity"),
        ({"X": VECTORS, "y": with_value(LABELS, np.inf)}, "y: row 17 holds NaN or infinity"),
        (
            {"X": IMAGES.transpose(0, 3, 1, 2).repeat(2, 2)[:, :, :8, [0, 1, 2, 3] * 2], "y": LABELS},
            "C, H, W",
        ),
        ({"X": VECTORS, "y": LABELS * 0}, "y holds 1 different integers"),
        ({"X": VECTORS, "y": LABELS, "X_test": VECTORS}, "give both or neither"),
        ({"X": VECTORS, "y": LABELS, "X_test": VECTORS[:, :5], "y_test": LABELS}, "another shape or kind"),
        ({"X": VECTORS, "y": LABELS, "X_test": VECTORS, "y_test": REAL[:, 0]}, "another shape or kind"),
        ({"X": VECTORS, "y": LABELS, "X_test": VECTORS, "y_test": LABELS + 1}, "label 4, which y has not"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_files_that_make_no_sense_are_refused(
    tmp_path: Path, suffix: str, arrays: dict[str, Any], reason: str
) -> None:
    with pytest.raises(KernregError, match=reason):
        load(save(tmp_path / f"bad{suffix}", **arrays))


def test_paths_that_are_no_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KernregError, match="does not exist"):
        load(tmp_path / "none.npz")
    with pytest.raises(KernregError, match="unknown data set"):
        load(tmp_path / "table.csv")
    np.save(tmp_path / "inputs.npy", VECTORS)
    with pytest.raises(KernregError, match=r"name the inputs …X\.npy"):
        load(tmp_path / "inputs.npy")
    np.save(tmp_path / "X.npy", VECTORS)
    with pytest.raises(KernregError, match=r"y\.npy is missing"):
        load(tmp_path / "X.npy")
    for suffix in (".npz", ".h5", ".hdf5"):
        (tmp_path / f"bad{suffix}").write_bytes(b"not what its name says")
        with pytest.raises(KernregError, match="cannot read"):
            load(tmp_path / f"bad{suffix}")


@pytest.mark.parametrize("normalise", ["none", "per-image", "standard"])
def test_inputs_beyond_the_range_of_the_arithmetic_are_refused(tmp_path: Path, normalise: str) -> None:
    path = save(tmp_path / "a.npz", X=VECTORS * 1e200, y=LABELS)
    with pytest.raises(KernregError, match="divide X by a constant"):
        load(path, normalise=normalise)
    if normalise == "none":
        assert load(path, normalise="none", dtype="float64").n == 32


def npy(shape: str, descr: str = "<f8", body: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def test_claimed_sizes_are_not_believed(tmp_path: Path) -> None:
    huge = npy("(1000000000, 1000000)")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("X.npy", huge)
        archive.writestr("y.npy", npy("(4,)", body=bytes(32)))
    with pytest.raises(KernregError, match=r"X claims the shape \(1000000000, 1000000\)"):
        load(tmp_path / "a.npz")
    (tmp_path / "X.npy").write_bytes(huge)
    np.save(tmp_path / "y.npy", LABELS)
    with pytest.raises(KernregError, match="cannot read"):
        load(tmp_path / "X.npy")
    for name, settings in (("late.h5", {"chunks": (100, 100)}), ("whole.h5", {})):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("X", shape=(10**9, 10**6), dtype="f8", **settings)
            file["y"] = LABELS
        with pytest.raises(KernregError, match="X claims 8000000000000000 bytes and stores 0"):
            load(tmp_path / name)


def test_an_array_that_was_not_written_to_its_end_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        x = file.create_dataset("X", shape=(40, 6), dtype="f8", chunks=(8, 6), compression="gzip")
        x[:32] = RANDOM.standard_normal((32, 6))
        file["y"] = LABELS
    with pytest.raises(KernregError, match="X was never written to its end"):
        load(tmp_path / "a.h5")


class Marker:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("ran",)


def test_python_objects_are_refused_and_do_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = np.array([[Marker()] * 2] * 4, dtype=object)
    np.savez(tmp_path / "a.npz", X=objects, y=LABELS[:4])
    np.save(tmp_path / "X.npy", objects)
    np.save(tmp_path / "y.npy", LABELS[:4])
    for file, reason in (("a.npz", "X holds Python objects"), ("X.npy", "cannot read")):
        with pytest.raises(KernregError, match=reason):
            load(tmp_path / file)
    assert "ran" not in capsys.readouterr().out


def test_hdf5_that_points_outside_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "secret.h5", X=VECTORS, y=LABELS)
    VECTORS.tofile(tmp_path / "secret.bin")
    layout = h5py.VirtualLayout(shape=(40, 6), dtype="f8")
    layout[:] = h5py.VirtualSource("secret.h5", "X", shape=(40, 6))
    for name in ("external", "soft", "virtual", "raw", "group", "text"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["y"] = LABELS
            if name == "external":
                file["X"] = h5py.ExternalLink("secret.h5", "X")
            elif name == "soft":
                file["inner"] = h5py.ExternalLink("secret.h5", "X")
                file["X"] = h5py.SoftLink("/inner")
            elif name == "virtual":
                file.create_virtual_dataset("X", layout)
            elif name == "raw":
                file.create_dataset(
                    "X", shape=(40, 6), dtype="f8", external=[(str(tmp_path / "secret.bin"), 0, 40 * 48)]
                )
            elif name == "group":
                file.create_group("X")
            else:
                file["X"] = ["a"] * 40
        reason = {"group": "not an array", "text": "not real numbers"}.get(
            name, "somewhere else|in other files"
        )
        with pytest.raises(KernregError, match=reason):
            load(tmp_path / f"{name}.h5")


def test_an_npz_bomb_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", X=VECTORS, y=LABELS)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # the uncompressed size in the first entry of the directory
    content[at : at + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    with pytest.raises(KernregError, match="X claims 4294967294 bytes"):
        load(path)


@pytest.mark.parametrize("file", ["mine.npz", "X.npy", "mine.h5"])
def test_random_damage_is_an_error_or_a_data_set(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernreg.data.files.read_hdf5", read_hdf5_here)  # a process for each takes long
    path = save(tmp_path / file, X=VECTORS, y=LABELS)
    good = path.read_bytes()
    random = np.random.Generator(np.random.PCG64(3))
    outcomes = set()
    for attempt in range(150):
        damaged = bytearray(good)
        if attempt % 3:
            damaged[int(random.integers(0, min(len(good), 2500)))] = int(random.integers(0, 256))
        else:
            damaged = damaged[: int(random.integers(0, len(good)))]
        path.write_bytes(damaged)
        try:
            load(path)
            outcomes.add("loaded")
        except KernregError as error:
            outcomes.add(f"refused in {len(str(error).splitlines())} line")
    assert "refused in 1 line" in outcomes
    assert outcomes <= {"loaded", "refused in 1 line"}


def test_the_buffer_of_an_npz_may_be_stored_or_deflated(tmp_path: Path) -> None:
    np.savez(tmp_path / "stored.npz", X=VECTORS, y=LABELS)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, X=VECTORS, y=LABELS)
    (tmp_path / "deflated.npz").write_bytes(buffer.getvalue())
    first, second = load(tmp_path / "stored.npz"), load(tmp_path / "deflated.npz")
    np.testing.assert_array_equal(first.x_train, second.x_train)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"HDF5 itself fails on it \(SIGSEGV\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "HDF5 does not come to an end"),
        ('print(\'{"arrays": [["X", "<f8", [4, 4]]]}\')', "HDF5 itself fails on it"),
        ('print(\'{"arrays": [["X", "<f8", [1000000000, 4]]]}\')', "X is larger than the file can hold"),
    ],
)
def test_what_ends_the_process_that_reads_hdf5_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    path = save(tmp_path / "a.h5", X=VECTORS, y=LABELS)
    interpreter = tmp_path / "python"
    (tmp_path / "code.py").write_text(code)
    interpreter.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / 'code.py'}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(KernregError, match=said) as caught:
        load(path)
    assert "\n" not in str(caught.value)
