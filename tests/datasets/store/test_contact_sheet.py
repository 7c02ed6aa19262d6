"""The picture of patches: what it shows, in which window, and what it never does."""

from __future__ import annotations

import shutil
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from chi33.datasets.store import contact_sheet
from chi33.datasets.store.contact_sheet import default_sheet, draw_contact_sheet, robust_window
from chi33.datasets.store.schema import Store, open_store
from chi33.files.errors import InputError, StepError
from matplotlib.backends.backend_agg import FigureCanvasAgg


@pytest.fixture
def store(store_path: Path) -> Store:
    return open_store(store_path)


def test_rows_are_patches_and_columns_are_maps(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    original = contact_sheet._figure
    monkeypatch.setattr(contact_sheet, "_figure", lambda *words: figures.append(original(*words)) or figures[-1])
    draw_contact_sheet(store, tmp_path / "a.png", patches=3)
    pictures = [axes for axes in figures[0].axes if axes.images and axes.get_aspect() != "auto"]
    assert len(pictures) == 3 * 4
    words = " ".join(text.get_text() for text in figures[0].texts)
    assert "3 of" in words
    assert "train patches of 10³ voxels, seed 0" in words
    for title in ("field δB, ±", "χ33, ±", "δB′, ±", "COSMOS, ±"):
        assert title in words
    windows = {axes.get_subplotspec(): axes.images[0].get_clim() for axes in pictures}
    assert all(low == -high for low, high in windows.values())
    columns = [pictures[start : start + 3] for start in range(0, 12, 3)]
    assert all(len({axes.images[0].get_clim() for axes in column}) == 1 for column in columns)
    assert columns[1][0].images[0].get_clim() == columns[3][0].images[0].get_clim()


def test_no_two_texts_or_pictures_overlap(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    original = contact_sheet._figure
    monkeypatch.setattr(contact_sheet, "_figure", lambda *words: figures.append(original(*words)) or figures[-1])
    draw_contact_sheet(store, tmp_path / "a.png", patches=4)
    figure = figures[0]
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    boxes += [axes.get_window_extent(renderer) for axes in figure.axes]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
        for other in boxes[index + 1 :]:
            assert not (box.x0 < other.x1 and other.x0 < box.x1 and box.y0 < other.y1 and other.y0 < box.y1)


def test_a_slice_lies_as_the_subject_does(store: Store) -> None:
    # The maps of the store have their x axis to the subject's left: the drawing turns it round.
    table = store.patches["val"]
    entries = {volume.id: volume for volume in store.of_split("val")}
    with store.open() as handle:
        patch = contact_sheet._read_patch(handle, table, entries, 0)
        row = table.rows[0]
        volume = entries[row["volume"].decode()]
        box = tuple(slice(int(row[axis]), int(row[axis]) + table.patch_size) for axis in "ijk")
        field = np.where(
            handle[f"volumes/{volume.id}/mask"][box] > 0, handle[f"volumes/{volume.id}/field"][box], np.nan
        )
    assert nib.aff2axcodes(volume.geometry.affine) == ("L", "A", "S")
    np.testing.assert_array_equal(patch.slices["field"], field[::-1, :, table.patch_size // 2])
    assert patch.pixel == 1.0


def test_the_same_seed_draws_the_same_picture(store: Store, tmp_path: Path) -> None:
    pictures = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = draw_contact_sheet(store, tmp_path / f"{name}.png", patches=2, seed=seed)
        pictures.append(matplotlib.image.imread(path))
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


@pytest.mark.parametrize(("top", "window"), [(0.013, 0.015), (0.05, 0.05), (0.0201, 0.025), (0.9, 1.0), (3.2, 4.0)])
def test_windows_are_round_and_robust(top: float, window: float) -> None:
    values = np.concatenate([np.full(990, top), np.full(10, 50 * top), [np.nan]])
    assert robust_window(values) == pytest.approx(window)


def test_an_empty_map_has_a_window() -> None:
    assert robust_window(np.zeros(5)) == 0.05


def test_what_cannot_be_drawn_is_one_sentence(store: Store, tmp_path: Path) -> None:
    path = draw_contact_sheet(store, tmp_path / "a.png", patches=1)
    before = path.read_bytes()
    with pytest.raises(InputError, match="pass --overwrite to replace it"):
        draw_contact_sheet(store, path)
    assert path.read_bytes() == before
    draw_contact_sheet(store, path, patches=2, overwrite=True)
    assert path.read_bytes() != before
    with pytest.raises(InputError, match="--patches must be at least 1, got 0"):
        draw_contact_sheet(store, tmp_path / "b.png", patches=0)
    with pytest.raises(InputError, match=r"b.jpg must end in .png"):
        draw_contact_sheet(store, tmp_path / "b.jpg")
    with pytest.raises(InputError, match="split must be one of"):
        draw_contact_sheet(store, tmp_path / "b.png", split="all")
    (tmp_path / "file").write_text("")
    with pytest.raises(StepError, match="choose another --sheet"):
        draw_contact_sheet(store, tmp_path / "file" / "b.png", patches=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "file"]


def test_a_split_without_patches_cannot_be_drawn(store: Store, tmp_path: Path) -> None:
    import dataclasses

    one = dataclasses.replace(store, patches={"train": store.patches["train"]})
    with pytest.raises(InputError, match="has no val patches to draw: choose one of train with --split"):
        draw_contact_sheet(one, tmp_path / "a.png", split="val")


def test_the_default_name_lies_beside_the_store(tmp_path: Path, store_path: Path) -> None:
    assert default_sheet(Path("a/b.h5")) == Path("a/b_patches.png")
    assert default_sheet(Path("a/b.c")) == Path("a/b_patches.png")
    assert default_sheet(Path("a/b")) == Path("a/b_patches.png")
    shutil.copy(store_path, tmp_path / "a very long name of a store which would leave the page on the right.h5")
    copied = open_store(next(tmp_path.glob("*.h5")))
    assert draw_contact_sheet(copied, default_sheet(copied.path), patches=1).is_file()
