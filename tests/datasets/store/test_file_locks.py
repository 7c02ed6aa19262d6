"""A store is built, read and exported where the file system has no locks, and beside any other handle on it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.build.lock import parts_folder
from chi33.datasets.export.export import export_store
from chi33.datasets.loading.data_module import StoreDataModule
from chi33.datasets.store.contact_sheet import draw_contact_sheet
from chi33.datasets.store.guarded_file import GuardedFile
from chi33.datasets.store.inspect import describe_store
from chi33.datasets.store.schema import open_store
from chi33.datasets.store.verify import verify_store
from chi33.files.errors import Chi33Warning, InputError, StepError

CONFIG = BuildConfig(patch_size=10, patches_per_scan=5, augment=1, materialise=True)


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int, *, ignored: bool = False) -> None:
    """Have every lock fail as on a file system that refuses it, for Python and for HDF5.

    HDF5 locks a path that it opens unless told not to; with ignored it passes over the error, as it does over ENOSYS.
    """
    opened = h5py.File

    class Lockless(opened):  # type: ignore[valid-type, misc]
        def __init__(self, name: Any, *arguments: Any, locking: Any = None, **options: Any) -> None:
            by_path = isinstance(name, str | bytes | os.PathLike)
            if by_path and locking is not False and not (ignored and locking is not True):
                raise OSError(number, f"Unable to synchronously open file (unable to lock file, errno = {number})")
            super().__init__(name, *arguments, locking=False if by_path else None, **options)

    def flock(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(h5py, "File", Lockless)


@pytest.mark.parametrize(
    ("number", "ignored"),
    [(errno.ENOLCK, False), (errno.EOPNOTSUPP, False), (errno.ENOSYS, True), (errno.EAGAIN, False)],
)
def test_everything_works_without_locks(
    derivatives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, ignored: bool
) -> None:
    path = tmp_path / "s.h5"
    if number == errno.EAGAIN:  # another program holds the finished file: it is read all the same
        build_store(derivatives, path, CONFIG)
    refuse_locks(monkeypatch, number, ignored=ignored)
    if number != errno.EAGAIN:
        build_store(derivatives, path, CONFIG)
        assert list(tmp_path.iterdir()) == [path]
    store = open_store(path, verify=True)
    assert verify_store(path).problems == ()
    assert "sub-01" in describe_store(store)
    draw_contact_sheet(store, tmp_path / "a.png", patches=1)
    export_store(store, tmp_path / "bids", "bids")
    assert next(iter(StoreDataModule(store).train_dataloader()))["field"].shape == (2, 1, 10, 10, 10)
    with store.open() as handle:
        assert handle.attrs["schema"] == "chi33-store"


def test_patches_for_qsmnet_are_written_without_locks(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_locks(monkeypatch, errno.ENOLCK)
    with pytest.warns(Chi33Warning, match="leans by 12.0 degrees"):
        export_store(open_store(store_path), tmp_path / "out", "qsmnet", splits=["train"])
    (written,) = tmp_path.rglob("training_data_patch_*.hdf5")
    with h5py.File(written, "r", locking=False) as handle:
        assert handle["temp_i"].shape == (len(open_store(store_path).patches["train"]), 10, 10, 10, 1)


def test_a_build_on_another_machine_without_locks_tells_how_to_go_on(
    derivatives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_locks(monkeypatch, errno.ENOLCK)
    path = tmp_path / "s.h5"
    lock = parts_folder(path) / "lock"
    lock.parent.mkdir()
    lock.write_text(json.dumps({"pid": 1, "host": "node-7"}))
    with pytest.raises(
        InputError, match=rf"written by another process \(1 on node-7\): wait .*, or remove {lock} if it no longer runs"
    ):
        build_store(derivatives, path, CONFIG)
    lock.unlink()
    build_store(derivatives, path, CONFIG)


@pytest.mark.parametrize("locking", [None, True, False, "best-effort"])
def test_a_store_opens_beside_any_handle_of_this_process(store_path: Path, locking: Any) -> None:
    with h5py.File(store_path, "r", locking=locking) as held:
        store = open_store(store_path)
        with store.open() as handle:
            np.testing.assert_array_equal(
                handle["volumes/sub-01/acq-ori01/chi33"][()], held["volumes/sub-01/acq-ori01/chi33"][()]
            )
    with store.open(), h5py.File(store_path, "r") as handle:  # as a user of h5py opens it
        assert "volumes" in handle


def test_locks_that_the_environment_insists_on_are_named(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(store_path)

    def locked(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOLCK, "Unable to synchronously open file (unable to lock file)")

    monkeypatch.setattr(h5py, "File", locked)
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
    with pytest.raises(InputError, match="HDF5_USE_FILE_LOCKING=TRUE asks for it: unset HDF5_USE_FILE_LOCKING"):
        store.open()


def test_where_locks_work_a_second_writer_is_refused(tmp_path: Path) -> None:
    first = GuardedFile(tmp_path / "s.h5")
    with pytest.raises(InputError, match="is being written by another process: wait for it to end"):
        GuardedFile(tmp_path / "s.h5")
    first.close()
    GuardedFile(tmp_path / "s.h5").close()


@pytest.mark.parametrize("place", ["part", "store"])
def test_a_write_that_the_system_refuses_ends_in_one_sentence(
    derivatives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if (Path(target).name == "s.h5") == (place == "store"):
            raise OSError(errno.ESTALE, "Stale file handle", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StepError, match=r"s.h5 could not be built: .*: the file server lost it .*; repeat the command"):
        build_store(derivatives, tmp_path / "s.h5", CONFIG)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_store_that_may_not_be_read_is_not_called_damaged(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(store_path))

    monkeypatch.setattr("chi33.datasets.store.hdf5_reading.os.open", refuse)
    with pytest.raises(
        InputError, match=r"store.h5 cannot be read \(Permission denied\): check the disk, and that you"
    ):
        open_store(store_path)


def test_a_store_that_is_damaged_is_named_by_every_reader(store_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(store_path.read_bytes())
    with h5py.File(copy, "r") as handle:
        chunk = handle["volumes/sub-01/acq-ori01/chi33"].id.get_chunk_info(0)
    with open(copy, "r+b") as file:
        file.seek(chunk.byte_offset + 10)
        file.write(bytes(200))
    store = open_store(copy)
    for read in (
        lambda: export_store(store, tmp_path / "bids", "bids"),
        lambda: draw_contact_sheet(store, tmp_path / "a.png", patches=20),
        lambda: StoreDataModule(store).train_dataloader().dataset.reader.read("volumes/sub-01/acq-ori01/chi33"),
    ):
        with pytest.raises(InputError, match=r"copy.h5 cannot be read .*: copy it again"):
            read()
