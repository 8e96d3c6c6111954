"""What can happen to a store: killed writers, two writers, damaged files, disks that refuse."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from stores import TILE, N, filled, made, numbers, rows

from kernreg import durable
from kernreg.architecture import Architecture
from kernreg.cli.info import describe
from kernreg.errors import KernregError
from kernreg.gramfile import TileError
from kernreg.seal import USER_BLOCK
from kernreg.store import GramStore


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, and a busy disk makes fsync slow."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a.gram"


def damaged(folder: Path) -> Path:
    return folder / "tiles" / "train-00001-00002.h5"


def test_missing_tiles_are_never_read_as_numbers(folder: Path) -> None:
    store = made(folder)
    for part, tile in store.missing(n=TILE, t=0):
        values = numbers(part)
        store.write(part, tile, {k: v[tile.rows, tile.columns] for k, v in values.items()})
    assert not store.complete
    assert np.isfinite(store.train("ntk", TILE)).all()
    with pytest.raises(KernregError, match=r"not complete: 2 of the 3 tiles .* train-00000-00001"):
        store.train("ntk", TILE + 1)
    with pytest.raises(KernregError, match="not complete"):
        store.test("nngp", 1)


def test_a_truncated_tile_is_named(folder: Path) -> None:
    store = filled(made(folder))
    whole = damaged(folder).read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        damaged(folder).write_bytes(whole[:size])
        with pytest.raises(TileError, match=r"train-00001-00002.h5 .*delete this file and run"):
            store.train("ntk")
    store.drop("train", store.grids["train"].tile(1, 2))
    np.testing.assert_array_equal(filled(store).train("ntk"), numbers("train")["ntk"][:N, :N])


def test_any_flipped_byte_is_named(folder: Path) -> None:
    store = filled(made(folder))
    whole = damaged(folder).read_bytes()
    tile = store.grids["train"].tile(1, 2)
    K = numbers("train")["ntk"][tile.rows, tile.columns]
    data, end_of_head = whole.index(K.tobytes()), whole.index(b"\0")
    flips = [*range(0, end_of_head, 11), *range(USER_BLOCK, len(whole), 61), *range(data, data + K.nbytes, 3)]
    for at in flips:
        damaged(folder).write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with pytest.raises(TileError, match=r"train-00001-00002\.h5 cannot be used"):
            store.shards.check("train", tile)
        if at < end_of_head or data <= at < data + K.nbytes:
            with pytest.raises(TileError, match=r"train-00001-00002\.h5 cannot be used"):
                store.train("ntk", 15)
        else:
            np.testing.assert_array_equal(store.shards.read("train", tile, "ntk"), K)


def test_a_tile_of_another_gram_is_named(tmp_path: Path, folder: Path) -> None:
    store = filled(made(folder))
    other = filled(made(tmp_path / "b.gram", architecture=Architecture.fcn(depth=1)))
    shutil.copy(damaged(tmp_path / "b.gram"), damaged(folder))
    with pytest.raises(TileError, match="belongs to another Gram: its architecture_digest"):
        store.train("ntk")
    shutil.copy(folder / "tiles" / "train-00001-00003.h5", damaged(folder))
    with pytest.raises(TileError, match="belongs to another Gram: its columns is"):
        store.train("ntk")
    assert other.complete


def test_numbers_that_are_none_are_refused(folder: Path) -> None:
    store = made(folder)
    tile = store.grids["train"].tile(0, 1)
    values = {k: v[tile.rows, tile.columns].copy() for k, v in numbers("train").items()}
    values["ntk"][1, 2] = np.nan
    with pytest.raises(KernregError, match="ntk of train row 1 and train row 7 came out as nan"):
        store.write("train", tile, values)
    with pytest.raises(KernregError, match="must be float64"):
        store.write("train", tile, {k: v.astype(np.float32) for k, v in numbers("train").items()})
    assert (("train", tile)) in store.missing()


def test_a_changed_target_in_the_main_file_is_noticed(folder: Path) -> None:
    made(folder).close()
    with h5py.File(folder / "gram.h5", "a") as file:
        file["train/targets"][3, 0] += 1e-9
    with pytest.raises(KernregError, match=r"checksum does not fit.*keeps the finished tiles"):
        GramStore.open(folder)


def test_any_flipped_byte_of_the_main_file_is_named(folder: Path) -> None:
    made(folder).close()
    main = folder / "gram.h5"
    whole = main.read_bytes()
    end_of_head = whole.index(b"\0")
    for at in [*range(0, end_of_head, 17), *range(USER_BLOCK, len(whole), 331)]:
        main.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with pytest.raises(KernregError, match=r"gram.h5 cannot be used"):
            GramStore.open(folder)
    main.write_bytes(whole[:-1])
    with pytest.raises(KernregError, match=r"gram.h5 cannot be used: it has \d+ bytes instead of \d+"):
        GramStore.open(folder)


def test_the_main_file_made_again_finds_its_tiles(folder: Path) -> None:
    filled(made(folder)).close()
    (folder / "gram.h5").unlink()
    with made(folder) as store:
        assert store.complete
        np.testing.assert_array_equal(store.train("ntk"), numbers("train")["ntk"][:N, :N])


def test_a_folder_of_tiles_that_is_gone_is_made_again(folder: Path) -> None:
    store = filled(made(folder))
    shutil.rmtree(folder / "tiles")
    assert len(store.missing()) == len(store.shards.needed(N, store.t, N))
    np.testing.assert_array_equal(filled(store).train("ntk"), numbers("train")["ntk"][:N, :N])


@pytest.mark.parametrize("what", ["folder", "dangling", "loop", "pipe"])
def test_what_is_no_file_is_no_tile(folder: Path, what: str) -> None:
    store = filled(made(folder))
    damaged(folder).unlink()
    if what == "folder":
        damaged(folder).mkdir()
    elif what == "pipe":
        os.mkfifo(damaged(folder))
    else:
        damaged(folder).symlink_to(damaged(folder) if what == "loop" else "nowhere")
    assert store.missing() == [("train", store.grids["train"].tile(1, 2))]
    if what == "folder":
        with pytest.raises(
            KernregError, match=r"train-00001-00002.h5: is a directory; remove what is in its"
        ):
            filled(store)
        damaged(folder).rmdir()
    np.testing.assert_array_equal(filled(store).train("ntk"), numbers("train")["ntk"][:N, :N])


def test_a_file_that_the_system_cannot_read_is_not_called_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(made(folder))
    plain = Path.open

    def refuse(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.suffix == ".h5":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(KernregError, match=r"cannot read .*train-.*h5: Input/output error$"):
        store.train("ntk")
    with pytest.raises(KernregError, match=r"cannot read .*gram.h5: Input/output error$"):
        GramStore.open(folder)


def test_a_second_writer_is_told_who_holds_it_and_readers_are_not(folder: Path) -> None:
    with filled(made(folder)):
        with pytest.raises(KernregError, match=rf"being written by process {os.getpid()} on \S+"):
            GramStore.open(folder, writer=True)
        with pytest.raises(KernregError, match="being written by"):
            made(folder)
        assert GramStore.open(folder).complete
    GramStore.open(folder, writer=True).close()


def test_the_lock_of_a_killed_process_is_no_obstacle(folder: Path) -> None:
    made(folder).close()
    code = f"""
import os, signal
from kernreg.seal import USER_BLOCK, seal
from kernreg.store import GramStore
store = GramStore.open({str(folder)!r}, writer=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (folder / "tiles" / f"train-00000-00000.h5.1-aa{durable.PARTIAL}").write_bytes(b"half a tile")
    with filled(GramStore.open(folder, writer=True)) as store:
        assert store.complete
    assert not list(folder.rglob(f"*{durable.PARTIAL}"))


def test_info_beside_a_writer_counts_what_is_there(folder: Path) -> None:
    store = filled(made(folder))
    before = describe(store)["bytes"]
    (folder / "tiles" / "renamed-meanwhile").symlink_to("nowhere")
    (folder / "tiles" / "loop").symlink_to("loop")
    assert describe(store)["bytes"] == before > 0


def test_a_reader_does_not_write(folder: Path) -> None:
    made(folder).close()
    store = GramStore.open(folder)
    with pytest.raises(KernregError, match="reading only"):
        filled(store)
    with pytest.raises(KernregError, match="reading only"):
        store.extend(**rows(N + 1))


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (errno.ENOSPC, "no space left on device; finished tiles are kept: free some space"),
        (errno.EROFS, "read-only file system; make .* writable or choose another folder"),
        (errno.EIO, "finished tiles are kept"),
    ],
)
@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_a_disk_that_refuses(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, shown: str, when: str
) -> None:
    store = made(folder)
    filled(store)
    store.extend(**rows(N + 4))
    before = sorted((folder / "tiles").iterdir())

    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, when, refuse)
    with pytest.raises(KernregError, match=f"cannot write .*: .*{shown}"):
        filled(store)
    with pytest.raises(KernregError, match=r"cannot write .*gram\.h5"):
        store.extend(**rows(N + 5))
    monkeypatch.undo()
    assert sorted((folder / "tiles").iterdir()) == before
    store.close()
    with filled(GramStore.open(folder, writer=True)) as again:
        np.testing.assert_array_equal(again.train("ntk"), numbers("train")["ntk"][: N + 4, : N + 4])


def test_a_write_that_breaks_off_in_the_middle(folder: Path) -> None:
    """A limit on the size of a file makes HDF5 itself fail, as a full disk does."""
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
import numpy as np
from kernreg.gramfile import write_shard
from kernreg.errors import KernregError
from pathlib import Path
try:
    write_shard(Path({str(folder)!r}) / "train-00000-00000.h5", {{"ntk": np.ones((100, 100))}}, {{}})
except KernregError as error:
    print(error)
"""
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "file too large; finished tiles are kept" in done.stdout
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(made(folder)).close()
    plain = os.open

    def refuse(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_RDWR and str(path).endswith("lock"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)
    assert GramStore.open(folder).train("ntk").shape == (N, N)
    with pytest.raises(KernregError, match=r"permission denied; make .* writable"):
        GramStore.open(folder, writer=True)


def test_a_file_system_that_cannot_sync_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse_folders)
    with filled(made(folder)) as store:
        assert store.complete
