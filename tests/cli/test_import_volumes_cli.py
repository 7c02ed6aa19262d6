"""`chi33 import-volumes` from the command line: lists and tables, options, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.datasets.store.schema import open_store
from chi33.pipeline.physics.tensor_field import dipole_field
from scipy.ndimage import gaussian_filter

Words = list[object]
SHAPE = (14, 16, 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """f1, x1, m1 … of three scans, and a table that names them."""
    rows = ["subject,scan,field,label,mask"]
    for number in (1, 2, 3):
        chi = 0.3 * gaussian_filter(np.random.default_rng(number).standard_normal(SHAPE), 1.0)
        maps = {"f": dipole_field(chi, (2, 2, 2), (0, 0, 1)), "x": chi, "m": np.ones(SHAPE)}
        for name, values in maps.items():
            nib.save(
                nib.Nifti1Image(values.astype(np.float32), np.diag([2, 2, 2, 1.0])), tmp_path / f"{name}{number}.nii"
            )
        rows.append(f"0{number},ori01,f{number}.nii,x{number}.nii,m{number}.nii")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def _lists(folder: Path, *subjects: str) -> Words:
    files = {"--field": "f", "--label": "x", "--mask": "m"}
    words: Words = []
    for option, name in files.items():
        words += [option, *(folder / f"{name}{number}.nii" for number in (1, 2, 3))]
    return [*words, "--subjects", *subjects]


def test_lists(command: Callable[..., Any], folder: Path) -> None:
    store = folder / "s.h5"
    ended = command("import-volumes", store, *_lists(folder, "01", "01", "02"), "--patch-size", "6",
                    "--patches-per-scan", "7", "--val-subjects", "02", "--augment", "1", "--max-angle", "10",
                    "--augment-snr", "10,20", "--augment-scale", "0.5,1.5", "--seed", "3")  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[:2] == [
        "train: sub-01; 3 volumes, 21 patches", "val: sub-02; 1 volumes, 7 patches",
    ]  # fmt: skip
    assert "0/3 checking sub-01/acq-ori01" in ended.err
    opened = open_store(store, verify=True)
    assert [volume.id for volume in opened.volumes] == [
        "sub-01/acq-ori01", "sub-01/acq-ori02", "sub-01/aug-001", "sub-02/acq-ori01",
    ]  # fmt: skip
    copy = opened.volumes[2]
    assert 10 <= copy.snr <= 20
    assert 0.5 <= copy.susceptibility_scale <= 1.5
    assert command("import-volumes", store, *_lists(folder, "01", "01", "02"), "--patch-size", "6").code == 2


def test_a_table_with_directions(command: Callable[..., Any], folder: Path) -> None:
    (folder / "h.txt").write_text("0 0 1\n0 0.1 0.99498744\n0 0 1\n")
    ended = command("import-volumes", folder / "s.h5", "--table", folder / "table.csv", "--patch-size", "6",
                    "--b0-directions", folder / "h.txt", "--label-kind", "chi33", "--test-subjects", "03",
                    "--patch-rule", "grid", "--patch-stride", "4", "--materialise")  # fmt: skip
    assert ended.code == 0, ended.err
    opened = open_store(folder / "s.h5", verify=True)
    assert opened.volumes[1].geometry.b0_direction[1] == pytest.approx(0.1)
    assert set(opened.volumes[0].channels) == {"field", "chi33", "mask"}
    assert opened.subjects("test") == ("03",)
    assert opened.patches["train"].rule == "grid"
    assert opened.patches["train"].data_channels


def test_units_by_hand(command: Callable[..., Any], folder: Path) -> None:
    for number in (1, 2, 3):
        image = nib.load(folder / f"f{number}.nii")
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) * 127.732, image.affine), folder / f"f{number}.nii")
    words = ("import-volumes", folder / "s.h5", "--table", folder / "table.csv", "--patch-size", "6")
    assert "too large for ppm: give the field in ppm of B0, or state that it is in" in command(*words).err
    ended = command(*words, "--units", "Hz", "--b0", "3")
    assert ended.code == 0, ended.err
    assert "f1.nii and 2 more are in Hz at 3 T (--b0): multiplied by 0.007829 to ppm." in ended.err
    assert open_store(folder / "s.h5", verify=True).volumes


@pytest.mark.parametrize(("words", "sentence"), [
    ([], "--field, --label, --mask, --subjects is missing: give all four lists, or --table"),
    (["--field", "f1.nii", "--label", "x1.nii"], "--mask, --subjects is missing"),
    (["--table", "table.csv", "--mask", "m1.nii"], "give either --table or --mask, not both"),
    (["--table", "none.csv"], "none.csv cannot be read as a table"),
    (["--table", "table.csv", "--label-kind", "iron"], "iron"),
    (["--table", "table.csv", "--b0-directions", "none.txt"], "none.txt cannot be read"),
    (["--table", "table.csv", "--augment-snr", "5"], "--augment-snr must be two numbers"),
    (["--table", "table.csv", "--patch-rule", "isdu", "--patch-grid", "6"], "--patch-grid must be three counts"),
    (["--table", "table.csv", "--label-kind", "chi33", "--augment", "2"], "--augment needs COSMOS maps"),
    (["--table", "table.csv", "--val-subjects", "9"], "sub-9 named for validation cannot be found"),
    (["--table", "table.csv"], "does not fit a volume of shape (14, 16, 12)"),
])  # fmt: skip
def test_what_cannot_be_imported(
    command: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch, words: Words, sentence: str
) -> None:
    monkeypatch.chdir(folder)
    ended = command("import-volumes", "s.h5", *words)
    assert ended.code == 2
    assert sentence in ended.err
    assert ended.err.splitlines()[-1].startswith("chi33: ")
    assert not (folder / "s.h5").exists()
