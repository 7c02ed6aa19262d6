"""`chi33 evaluate` from the command line."""

from __future__ import annotations

from pathlib import Path

import cyclopts
import nibabel as nib
import numpy as np
import pytest
from chi33.cli.evaluate import evaluate
from chi33.files.errors import InputError


def command(*words: str | Path) -> None:
    app = cyclopts.App(name="chi33", result_action="return_value")
    app.command(evaluate)
    app(["evaluate", *map(str, words)], exit_on_error=False, print_error=False)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    truth = 0.05 * np.random.default_rng(0).standard_normal((12, 12, 12))
    for name, volume in (
        ("p/sub-01_acq-ori01_chi", 0.7 * truth + 0.1),
        ("t/sub-01_acq-ori01_desc-chi33_Chimap", truth),
    ):
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir()
        nib.save(nib.Nifti1Image(volume.astype(np.float32), np.eye(4)), path)
    return tmp_path / "p", tmp_path / "t"


def test_table_is_printed_and_written(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(*folders, "--out", tmp_path / "t.csv", "--html", "--demean")
    printed = capsys.readouterr().out
    for word in ("sub-01", "acq-ori01", "chi33", "nrmse", "mean", "30"):
        assert word in printed
    assert "demeaned" in (tmp_path / "t.csv").read_text()
    assert (tmp_path / "t.html").exists()


def test_existing_table_is_refused_without_overwrite(folders: tuple[Path, Path], tmp_path: Path) -> None:
    command(*folders, "--out", tmp_path / "t.csv")
    with pytest.raises(InputError, match="pass --overwrite to replace it"):
        command(*folders, "--out", tmp_path / "t.csv")
    command(*folders, "--out", tmp_path / "t.csv", "--overwrite")
