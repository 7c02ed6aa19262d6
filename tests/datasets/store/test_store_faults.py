"""A store is whole or not there, and a damaged one is refused in one sentence."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import h5py
import numpy as np
import pytest
from chi33.datasets.build import build
from chi33.datasets.build import tasks as build_tasks
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.loading.patch_dataset import PatchDataset
from chi33.datasets.store import volume_group
from chi33.datasets.store import writer as store_writer
from chi33.datasets.store.schema import open_store
from chi33.datasets.store.writer import StoreWriter
from chi33.files.errors import InputError, StepError

CONFIG = BuildConfig(patch_size=10, patches_per_scan=5, augment=1)


@pytest.fixture
def copy(store_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(store_path, tmp_path / "copy.h5"))


def test_a_missing_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file: give a store"):
        open_store(tmp_path / "none.h5")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("not a store")
    with pytest.raises(InputError, match=r"text.h5 is no HDF5 file"):
        open_store(tmp_path / "text.h5")
    (tmp_path / "empty.h5").touch()
    with pytest.raises(InputError, match=r"empty.h5 is no HDF5 file"):
        open_store(tmp_path / "empty.h5")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_store_is_refused(copy: Path, share: float) -> None:
    with open(copy, "r+b") as file:
        file.truncate(int(copy.stat().st_size * share))
    with pytest.raises(InputError, match=r"is truncated \(\d+ bytes are left\): copy it again"):
        open_store(copy)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as handle:
        handle["x"] = 1
    with pytest.raises(InputError, match="has schema None, not 'chi33-store'"):
        open_store(tmp_path / "other.h5")


def test_a_newer_version_is_refused(copy: Path) -> None:
    with h5py.File(copy, "r+") as handle:
        handle.attrs["version"] = 3
    with pytest.raises(InputError, match="has store version 3, but this chi33 reads up to version 2: install a newer"):
        open_store(copy)


def test_an_incomplete_store_is_refused(copy: Path) -> None:
    with h5py.File(copy, "r+") as handle:
        del handle["volumes/sub-01/acq-ori01/mask"]
    with pytest.raises(InputError, match="is an incomplete or damaged store"):
        open_store(copy)


def test_an_altered_voxel_is_found_by_the_hash(copy: Path) -> None:
    with h5py.File(copy, "r+") as handle:
        handle["volumes/sub-01/acq-ori01/chi33"][4, 5, 6] += 1e-6
    open_store(copy)
    with pytest.raises(InputError, match="does not match its content hash"):
        open_store(copy, verify=True)


def test_an_altered_direction_is_found_by_the_hash(copy: Path) -> None:
    with h5py.File(copy, "r+") as handle:
        handle["volumes/sub-01/acq-ori01"].attrs["b0_direction"] = [0.0, 1.0, 0.0]
    with pytest.raises(InputError, match="does not match its content hash"):
        open_store(copy, verify=True)


def test_bytes_gone_bad_are_found_by_verify(copy: Path) -> None:
    with h5py.File(copy, "r") as handle:
        chunk = handle["volumes/sub-01/acq-ori01/chi33"].id.get_chunk_info(0)
    with open(copy, "r+b") as file:
        file.seek(chunk.byte_offset + 10)
        file.write(bytes(200))
    with pytest.raises(InputError, match=r"copy.h5 cannot be read .* copy it again"):
        open_store(copy, verify=True)


def test_an_existing_store_is_kept_unless_told(derivatives: Path, copy: Path) -> None:
    before = copy.read_bytes()
    with pytest.raises(InputError, match="exists: choose another name, or pass --overwrite"):
        build_store(derivatives, copy, CONFIG)
    assert copy.read_bytes() == before
    build_store(derivatives, copy, CONFIG, overwrite=True)
    assert open_store(copy, verify=True).config["patches_per_scan"] == 5


def test_a_folder_in_place_of_the_store_is_refused(derivatives: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder: give the name"):
        build_store(derivatives, tmp_path, CONFIG)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        build_store(derivatives, tmp_path / "file" / "s.h5", CONFIG)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["make_volume", "add_part", "add_statistics"])
def test_an_error_half_way_leaves_no_store(derivatives: Path, tmp_path: Path, monkeypatch, step: str, error) -> None:
    owner = build if step == "make_volume" else StoreWriter
    original = getattr(owner, step)
    calls = []

    def fail_later(*args, **kwargs):
        calls.append(1)
        if len(calls) < 4 and step != "add_statistics":
            return original(*args, **kwargs)
        raise error

    monkeypatch.setattr(owner, step, fail_later)
    with pytest.raises(type(error)):
        build_store(derivatives, tmp_path / "s.h5", CONFIG)
    assert calls
    assert list(tmp_path.iterdir()) == [tmp_path / ".s.h5.parts"]
    assert not list(tmp_path.glob(".s.h5.parts/*.tmp"))
    monkeypatch.undo()
    build_store(derivatives, tmp_path / "s.h5", CONFIG)
    assert list(tmp_path.iterdir()) == [tmp_path / "s.h5"]


def test_an_error_before_anything_is_finished_leaves_nothing(derivatives: Path, tmp_path: Path, monkeypatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(build, "make_volume", fail)
    with pytest.raises(RuntimeError, match="broken"):
        build_store(derivatives, tmp_path / "s.h5", CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_keeps_the_old_store(derivatives: Path, copy: Path, monkeypatch) -> None:
    before = copy.read_bytes()
    monkeypatch.setattr(store_writer, "open_store", lambda path: (_ for _ in ()).throw(InputError("unreadable")))
    with pytest.raises(StepError, match=r"copy.h5 cannot be read back \(unreadable\)"):
        build_store(derivatives, copy, CONFIG, overwrite=True)
    assert copy.read_bytes() == before
    assert list(copy.parent.iterdir()) == [copy]


def test_what_reads_back_differently_is_not_put_in_place(derivatives: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(volume_group, "array_digest", lambda name, array: "0")
    with pytest.raises(StepError, match="reads back differently from what was written"):
        build_store(derivatives, tmp_path / "s.h5", CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_values_that_come_out_infinite_are_refused(derivatives: Path, tmp_path: Path, monkeypatch) -> None:
    def infinite(volume, *args, **kwargs):
        result = original(volume, *args, **kwargs)
        result.channels["chi33"][0, 0, 0] = np.inf
        return result

    original = build_tasks.rotate_tensor_image
    monkeypatch.setattr(build_tasks, "rotate_tensor_image", infinite)
    with pytest.raises(StepError, match="chi33 of sub-01/aug-001 came out with values that are not finite"):
        build_store(derivatives, tmp_path / "s.h5", CONFIG)
    assert list(tmp_path.iterdir()) == [tmp_path / ".s.h5.parts"]


def test_too_little_disk_is_refused_before_the_start(derivatives: Path, tmp_path: Path, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 10**5, 10**5))
    with pytest.raises(InputError, match=r"has 0.00 GB free, but the store needs about \d.\d\d GB: free some space"):
        build_store(derivatives, tmp_path / "new" / "s.h5", CONFIG)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.files.errors import StepError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    build_store(Path(sys.argv[1]), Path(sys.argv[2]), BuildConfig(patch_size=10, patches_per_scan=50, materialise=True))
except StepError as error:
    print(error)
"""


@pytest.mark.parametrize("share", [0.0005, 0.3, 0.7, 0.999])
def test_a_disk_that_runs_full_half_way_leaves_one_sentence_and_nothing_else(
    derivatives: Path, tmp_path: Path, share: float
) -> None:
    config = BuildConfig(patch_size=10, patches_per_scan=50, materialise=True)
    whole = build_store(derivatives, tmp_path / "whole.h5", config).size
    folder = tmp_path / "full"
    folder.mkdir()
    command = [sys.executable, "-c", FULL_DISK, derivatives, folder / "s.h5", str(int(whole * share))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "the disk ran full while" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert list(folder.iterdir()) == []


def test_reading_does_not_hinder_overwriting(derivatives: Path, copy: Path) -> None:
    with open_store(copy).open() as handle:
        build_store(derivatives, copy, CONFIG, overwrite=True)
        assert handle["patches/train"].attrs["seed"] == 5
    assert open_store(copy).config["seed"] == 0


def test_a_store_replaced_while_in_use_is_noticed(derivatives: Path, copy: Path, make_derivatives) -> None:
    dataset = PatchDataset(copy)
    build_store(make_derivatives(2, 1), copy, CONFIG, overwrite=True)
    with pytest.raises(InputError, match="was replaced by another store"):
        dataset[0]


def test_writer_refuses_a_second_writer_in_this_process(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s.h5", {}), pytest.raises(InputError, match="being written by another process"):
        StoreWriter(tmp_path / "s.h5", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 0}, "--patch-size must be at least 1, got 0"),
        ({"patches_per_scan": 0}, "--patches-per-scan must be at least 1"),
        ({"augment": -1}, "--augment must be at least 0, got -1"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"min_brain": 0.0}, "--min-brain must be above 0 and at most 1, got 0"),
        ({"min_brain": 1.2}, "--min-brain must be above 0 and at most 1, got 1.2"),
        ({"max_angle": 120.0}, "--max-angle must be above 0 and at most 90 degrees, got 120"),
        ({"augmentation": "turn", "augment": 1}, "--augmentation must be tensor or cosmos, got 'turn'"),
        ({"augment_snr": (5.0, 9.0)}, "--augment-snr needs turned copies: give their number .* with --augment"),
        ({"augmentation": "cosmos"}, "--augmentation needs turned copies"),
        ({"augment_snr": (9.0, 5.0), "augment": 1}, "--augment-snr must be two positive numbers.*, got 9,5"),
        ({"augment_scale": (0.0, 2.0), "augment": 1}, "--augment-scale must be two positive numbers.*, got 0,2"),
    ],
)
def test_nonsense_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildConfig(**options)
