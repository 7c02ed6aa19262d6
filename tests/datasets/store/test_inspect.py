"""The page about a store says what is in it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from chi33.datasets.store.inspect import describe_store, table, tilt
from chi33.datasets.store.schema import open_store
from chi33.datasets.store.volume import Geometry, Volume
from chi33.datasets.store.writer import StoreWriter


def test_the_page_names_what_the_store_holds(store_path: Path) -> None:
    store = open_store(store_path)
    page = describe_store(store)
    lines = [line.split() for line in page.splitlines()]
    assert f"chi33-store version {store.version}, written by chi33 {store.chi33_version}" in page
    assert store.content_hash in page
    assert store.split_hash in page
    assert "tensors of sub-01 sub-02 sub-03" in page
    assert ["train", "1", "2", "1", str(len(store.patches["train"])), "sub-01"] in lines
    assert ["test", "1", "2", "0", str(len(store.patches["test"])), "sub-03"] in lines
    assert "26×30×24" in page
    assert "2 × 2 × 2" in page
    assert "0.0 to 12.0" in page  # the second scan of a subject is turned by 12 degrees
    chi33 = store.statistics["chi33"]
    assert ["chi33", "7", f"{chi33.mean:.3e}", f"{chi33.std:.3e}", str(chi33.count)] in lines
    copy = next(volume for volume in store.volumes if volume.source == "augmented")
    row = next(line for line in lines if line[:1] == [copy.id])
    assert row[1] == "/tensors/sub-01"
    assert 0 < float(row[2]) <= 30
    assert row[3:] == ["no", "noise", "1.00"]
    assert page.endswith("\n")


def test_sizes_are_those_of_the_file(store_path: Path) -> None:
    with h5py.File(store_path) as handle:
        raw = stored = 0
        for group in ("volumes", "tensors", "patches"):

            def count(name: str, item: object) -> None:
                nonlocal raw, stored
                if isinstance(item, h5py.Dataset):
                    raw, stored = raw + item.nbytes, stored + item.id.get_storage_size()

            handle[group].visititems(count)
    page = describe_store(open_store(store_path))
    assert page.startswith(f"{store_path}: {store_path.stat().st_size / 1e6:.1f} MB, compressed {raw / stored:.1f}")


def test_tilt_does_not_care_which_way_the_axis_runs(tmp_path: Path) -> None:
    channels = {"field": np.zeros((4, 4, 4), np.float32), "mask": np.ones((4, 4, 4), np.uint8)}
    h = np.array([0, -np.sin(0.2), -np.cos(0.2)])
    with StoreWriter(tmp_path / "s.h5", {}) as writer:
        writer.add_volume(Volume("sub-01/acq-a", "01", channels, Geometry(np.eye(4), h, float("nan"))), "train")
    store = open_store(tmp_path / "s.h5")
    assert np.isclose(tilt(store.volumes[0]), np.degrees(0.2))
    assert "not recorded" in describe_store(store)


def test_many_copies_are_cut_short(tmp_path: Path) -> None:
    channels = {"field": np.zeros((4, 4, 4), np.float32), "mask": np.ones((4, 4, 4), np.uint8)}
    geometry = Geometry(np.eye(4), np.array([0.0, 0, 1]), 3.0)
    with StoreWriter(tmp_path / "s.h5", {}) as writer:
        for number in range(23):
            parent = "/volumes/sub-01/acq-a"
            name = f"sub-01/aug-{number:03d}"
            copy = Volume(name, "01", channels, geometry, "augmented", parent, np.eye(3), 20.0, 1.5)
            writer.add_volume(copy, "train")
    page = describe_store(open_store(tmp_path / "s.h5"))
    assert page.count("/volumes/sub-01/acq-a") == 20
    assert "and 3 more" in page
    assert "20.0        1.50" in page


def test_tables_are_aligned() -> None:
    assert table(["name", "n"], [["a", "1"], ["longer", "200"]]) == "name      n\na         1\nlonger  200"
