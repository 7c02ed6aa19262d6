"""A build killed at any moment leaves no store or a whole one, and goes on where it was when repeated."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from chi33.datasets.build import tasks as build_tasks
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.build.lock import PartsFolder, parts_folder
from chi33.datasets.store.schema import open_store
from chi33.files.errors import InputError, StepError

CONFIG = BuildConfig(patch_size=10, patches_per_scan=5, augment=1)
TASKS = 11  # of three subjects: two scans and a tensor each, and a copy of two
OPTIONS = "patch_size=10, patches_per_scan=5, augment=1"
KILLED = """
import sys, time
from pathlib import Path
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.build.lock import PartsFolder
def stop(done, total, what):
    if what == sys.argv[3] or str(done) == sys.argv[3]:
        print("here", flush=True)
        time.sleep(600)
def last(self):
    stop(-1, -1, "in place")
PartsFolder.remove = last
build_store(Path(sys.argv[1]), Path(sys.argv[2]), BuildConfig({options}), progress=stop, n_procs=int(sys.argv[4]))
"""


def kill(derivatives: Path, path: Path, moment: str, n_procs: int = 1, options: str = OPTIONS) -> None:
    """Build and be killed when progress comes to a moment: a number of finished steps, or what is being done."""
    words = [sys.executable, "-c", KILLED.replace("{options}", options), derivatives, path, moment, str(n_procs)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            if moment != "in place":
                with pytest.raises(InputError, match=rf"is being written by another process \({process.pid} on "):
                    build_store(derivatives, path, CONFIG, overwrite=True)
        finally:
            os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the parts that are made in this process."""
    names: list[str] = []

    def record(function):
        def write(part: Path, *arguments) -> None:
            names.append(part.name)
            function(part, *arguments)

        return write

    for name in ("write_part", "write_patches"):
        monkeypatch.setattr(build_tasks, name, record(getattr(build_tasks, name)))
    return names


def parts_of(path: Path) -> set[str]:
    return {part.name for part in parts_folder(path).glob("*.h5")}


@pytest.mark.parametrize(("moment", "n_procs"), [("1", 1), ("7", 1), ("joining", 1), ("checking", 1), ("5", 2)])
def test_a_killed_build_leaves_no_store_and_goes_on(
    derivatives: Path, tmp_path: Path, made: list[str], moment: str, n_procs: int
) -> None:
    path = tmp_path / "s.h5"
    kill(derivatives, path, moment, n_procs)
    assert not path.exists()
    before = parts_of(path)
    assert len(before) >= (int(moment) if moment.isdigit() else TASKS)
    build_store(derivatives, path, CONFIG)
    assert not before & set(made)
    assert len(made) == TASKS - len(before)
    assert list(tmp_path.iterdir()) == [path]
    resumed = open_store(path, verify=True).content_hash
    build_store(derivatives, path, CONFIG, overwrite=True)
    assert open_store(path).content_hash == resumed


def test_a_build_killed_when_its_store_is_in_place_leaves_a_whole_one(derivatives: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    kill(derivatives, path, "in place")
    open_store(path, verify=True)
    assert len(parts_of(path)) == TASKS
    with pytest.raises(InputError, match="pass --overwrite"):
        build_store(derivatives, path, CONFIG)
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_overwrite_keeps_the_old_store_and_its_parts(derivatives: Path, store_path: Path, tmp_path) -> None:
    path = Path(shutil.copy(store_path, tmp_path / "s.h5"))
    kill(derivatives, path, "4", options=f"{OPTIONS}), overwrite=True, **dict(")
    open_store(path, verify=True)
    with pytest.raises(InputError, match="pass --overwrite"):
        build_store(derivatives, path, CONFIG)
    assert len(parts_of(path)) == 4


def test_cropped_patches_are_not_cut_again(derivatives: Path, tmp_path: Path, made: list[str]) -> None:
    path, config = tmp_path / "s.h5", dataclasses.replace(CONFIG, materialise=True)
    kill(derivatives, path, "joining", options=f"{OPTIONS}, materialise=True")
    assert len(parts_of(path)) == TASKS + 8
    build_store(derivatives, path, config)
    assert made == []
    smaller = dataclasses.replace(config, patch_size=8)
    kill(derivatives, path, "joining", options=f"{OPTIONS}, materialise=True), overwrite=True, **dict(")
    build_store(derivatives, path, smaller, overwrite=True)
    assert len(made) == 8  # the volumes are kept, their patches cut anew


def test_a_changed_option_makes_again_only_what_it_changes(derivatives: Path, tmp_path: Path, made: list[str]) -> None:
    path = tmp_path / "s.h5"
    kill(derivatives, path, "joining")
    build_store(
        derivatives, path, dataclasses.replace(CONFIG, max_angle=10.0, patch_rule="grid", patches_per_scan=None)
    )
    assert sorted(name.rpartition("-")[0] for name in made) == ["sub-01_aug-001", "sub-02_aug-001"]
    assert open_store(path, verify=True).patches["train"].rule == "grid"


def test_a_changed_file_makes_its_subject_again(make_derivatives, tmp_path: Path, made: list[str]) -> None:
    folder, path = make_derivatives(2, 2), tmp_path / "s.h5"
    kill(folder, path, "joining")
    os.utime(folder / "sub-02/anat/sub-02_acq-ori01_desc-chi33_Chimap.nii.gz")
    build_store(folder, path, CONFIG)
    assert {name[:6] for name in made} == {"sub-02"}
    assert len(made) == 3


def test_parts_of_no_use_and_broken_parts_are_replaced(derivatives: Path, tmp_path: Path, made: list[str]) -> None:
    path = tmp_path / "s.h5"
    kill(derivatives, path, "3")
    folder = parts_folder(path)
    first, second, _ = sorted(folder.glob("*.h5"))
    with open(first, "r+b") as file:
        file.truncate(first.stat().st_size // 2)
    (folder / "sub-09_acq-ori01-0123.h5").touch()
    (folder / f"{second.name}.host-1.tmp").touch()
    build_store(derivatives, path, CONFIG)
    assert first.name in made
    assert second.name not in made
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_whose_bytes_went_bad_is_found_and_the_next_build_is_whole(derivatives: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    kill(derivatives, path, "joining")
    part = next(parts_folder(path).glob("sub-01_acq-ori01-*.h5"))
    with h5py.File(part, "r") as handle:
        chunk = handle["volumes/sub-01/acq-ori01/chi33"].id.get_chunk_info(0)
    with open(part, "r+b") as file:
        file.seek(chunk.byte_offset + 10)
        file.write(bytes(200))
    with pytest.raises(StepError, match=r"s.h5 cannot be read back \(.*\)"):
        build_store(derivatives, path, CONFIG)
    assert list(tmp_path.iterdir()) == []
    build_store(derivatives, path, CONFIG)
    open_store(path, verify=True)


def test_two_builds_of_one_store_refuse_and_of_two_stores_do_not(tmp_path: Path) -> None:
    with (
        PartsFolder(tmp_path / "a.h5"),
        PartsFolder(tmp_path / "b.h5"),
        pytest.raises(InputError, match=rf"a.h5 is being written by another process \({os.getpid()} on .*\): wait"),
    ):
        PartsFolder(tmp_path / "a.h5").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_the_process_that_wrote_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    folder = parts_folder(tmp_path / "s.h5")
    folder.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here, elsewhere = socket.gethostname(), "another-host"
    for pid, host, free in ((ended.pid, here, True), (os.getpid(), here, False), (ended.pid, elsewhere, False)):
        (folder / "lock").write_text(json.dumps({"pid": pid, "host": host}))
        if free:
            with PartsFolder(tmp_path / "s.h5"):
                pass
            folder.mkdir()
            continue
        with pytest.raises(InputError, match=rf"is being written by another process \({pid} on {host}\)"):
            PartsFolder(tmp_path / "s.h5").__enter__()
