"""What every layout has in common: a folder that is whole or absent, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from chi33.datasets.export import export
from chi33.datasets.export.export import MARKER, export_store
from chi33.datasets.export.source import check_mat_size, full_dipole_kernel
from chi33.datasets.loading.patches import patch_rule
from chi33.datasets.store.schema import Store, open_store
from chi33.files.errors import InputError, StepError
from chi33.pipeline.physics.dipole import dipole_kernel


@pytest.fixture
def store(store_path: Path) -> Store:
    return open_store(store_path)


def test_the_summary_and_the_marker_tell_what_was_written(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    done = export_store(store, tmp_path / "out", "bids", progress=lambda *words: said.append(words[2]))
    files = [path for path in done.out_dir.rglob("*") if path.is_file()]
    assert (done.files, done.size) == (len(files), sum(path.stat().st_size for path in files))
    assert done.volumes == {"train": 3, "val": 2, "test": 2}
    assert said[0] == "train sub-01/acq-ori01"
    assert len(said) == 7
    marker = json.loads((done.out_dir / MARKER).read_text())
    assert marker["Layout"] == "bids"
    assert marker["ContentHash"] == store.content_hash
    assert marker["Splits"] == {"train": ["01"], "val": ["02"], "test": ["03"]}
    assert marker["Notes"] == list(done.notes)


def test_only_an_export_is_replaced(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_store(store, out, "bids", splits=["val"])
    before = sorted(path.name for path in out.rglob("*"))
    with pytest.raises(InputError, match="is not empty: give another folder, or pass --overwrite"):
        export_store(store, out, "bids")
    assert sorted(path.name for path in out.rglob("*")) == before
    export_store(store, out, "bids", splits=["test"], overwrite=True)
    assert (out / "sub-03").is_dir()
    assert not (out / "sub-02").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match=f"has no {MARKER}.*so it is not replaced"):
        export_store(store, tmp_path / "mine", "bids", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: give a folder"):
        export_store(store, tmp_path / "file", "bids", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "out"]


def test_a_failure_leaves_what_was_there(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    export_store(store, out, "bids", splits=["val"])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(source: object, folder: Path) -> list[str]:
        (folder / "half").write_text("x")
        raise OSError(28, os.strerror(28))

    monkeypatch.setitem(export.LAYOUTS, "bids", dataclasses.replace(export.LAYOUTS["bids"], write=full))  # type: ignore[arg-type]
    with pytest.raises(StepError, match=r"No space left on device.*nothing was left"):
        export_store(store, out, "bids", overwrite=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("layout", "options", "sentence"), [
    ("dicom", {}, "--layout must be one of qsmnet, lpcnn, modl-qsm, bids, got 'dicom'"),
    ("modl-qsm", {"splits": ["val"]}, "the layout modl-qsm has no place for the split 'val': choose from train, test"),
    ("qsmnet", {"label": "deltab"}, "--label must be one of cosmos, chi33, got 'deltab'"),
    ("modl-qsm", {"label": "cosmos"}, "--label does not apply to the layout modl-qsm"),
    ("bids", {"rule": patch_rule()}, "the layout bids holds whole volumes: leave out the options of patches"),
    ("qsmnet", {"rule": patch_rule("modl-qsm")}, "a patch of 48 voxels does not fit a volume of shape"),
    ("modl-qsm", {"rule": patch_rule("modl-qsm", size=9)}, "takes patches of an even edge, got 9"),
    ("qsmnet", {"rule": patch_rule("modl-qsm", size=20, min_brain=1.0)}, "has no train patches: draw some"),
    ("lpcnn", {"rule": patch_rule("modl-qsm", size=20, min_brain=1.0)}, "has no train patches: draw some"),
    ("modl-qsm", {"rule": patch_rule("modl-qsm", size=20, min_brain=1.0)}, "has no train patches: draw some"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::chi33.files.errors.Chi33Warning")
def test_what_cannot_be_exported_is_one_sentence(
    store: Store, tmp_path: Path, layout: str, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError) as raised:
        export_store(store, tmp_path / "out", layout, **options)  # type: ignore[arg-type]
    assert sentence in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_splits_and_labels_are_named(store: Store, tmp_path: Path) -> None:
    less = [dataclasses.replace(volume, channels=("field", "mask", "cosmos")) for volume in store.of_split("train")]
    cosmos = dataclasses.replace(store, volumes=tuple(less))
    with pytest.raises(InputError, match="has no val volumes: it has train"):
        export_store(cosmos, tmp_path / "out", "bids", splits=["val"])
    with pytest.raises(
        InputError, match="sub-01/acq-ori01 has no chi33 and no deltab, which the layout modl-qsm needs"
    ):
        export_store(cosmos, tmp_path / "out", "modl-qsm")
    with pytest.raises(InputError, match=r"not every volume of .* has chi33: choose another --label"):
        export_store(cosmos, tmp_path / "out", "qsmnet", label="chi33")


@pytest.mark.parametrize("shape", [(7, 9, 11), (8, 6, 10)])
def test_the_whole_kernel_is_the_half_one_and_its_mirror(shape: tuple[int, int, int]) -> None:
    h = np.array([0.0, 0.6, 0.8])
    size = np.array([1.0, 1.5, 2.0])
    whole = full_dipole_kernel(shape, size, h)
    assert whole.shape == shape
    assert whole[0, 0, 0] == 0
    half = dipole_kernel(shape, size, h)
    off_nyquist = tuple(slice(0, (n + 1) // 2) for n in shape)
    np.testing.assert_allclose(whole[off_nyquist], half[off_nyquist], atol=1e-6)
    if all(n % 2 for n in shape):
        image = np.fft.ifftn(whole)
        assert np.abs(image.imag).max() < 1e-7
        np.testing.assert_allclose(whole[..., : half.shape[2]], half, atol=1e-6)


def test_a_file_for_matlab_has_a_limit() -> None:
    check_mat_size("it", (1000, 1000, 1000), "leave it")
    with pytest.raises(InputError, match=r"it needs 4.4 GB, but a .mat file holds up to 4.3 GB: leave it."):
        check_mat_size("it", (1000, 1000, 1100), "leave it")
