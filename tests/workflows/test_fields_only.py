"""`chi33 run --fit none`: masks, fields and transforms without a fit, also of a single scan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chi33.files.derivatives import Derivatives, read_image, read_json
from chi33.files.errors import InputError
from chi33.workflows.config import RunConfig
from chi33.workflows.run import run_participants

FIELDS = RunConfig(fit="none", mask_method="bet")


def _names(out: Path) -> set[str]:
    return {path.name for path in (out / "sub-01" / "anat").glob("*.nii.gz")}


def test_a_single_scan_comes_to_its_fields_and_a_report(make_head: Callable, use_fsl: Callable, tmp_path: Path) -> None:
    head = make_head(tmp_path / "raw", turns=((0, 0),))
    use_fsl(head)
    lines: list[str] = []
    (report,) = run_participants(head.folder, tmp_path / "out", config=FIELDS, n_procs=1, announce=lines.append)
    kinds = {name.removeprefix("sub-01_acq-ori01_desc-").removesuffix(".nii.gz") for name in _names(tmp_path / "out")}
    assert kinds == {
        "brain_mask", "reliable_mask", "local_mask", "magnitude_MEGRE", "total_fieldmap", "local_fieldmap",
        "echoes_fieldmap",
    }  # fmt: skip
    files = Derivatives(tmp_path / "out", "01")
    field, _ = read_image(files.path("acq-ori01", suffix="fieldmap", desc="local"))
    mask, _ = read_image(files.path("acq-ori01", suffix="mask", desc="local"))
    assert field[mask > 0].std() > 0
    np.testing.assert_array_equal(field[mask == 0], 0)
    page = report.read_text(encoding="utf-8")
    assert "1 scan, " in page
    for title in ("Local field", "Total field", "Departure of the echoes from a line", "V-SHARP"):
        assert title in page
    for absent in ("COSMOS", "χ33 in an axial", "Tensor component"):
        assert absent not in page
    assert read_json(tmp_path / "out" / "logs" / "sub-01_provenance.json")["config"]["fit"] == "none"


def test_a_fit_goes_on_from_the_fields(make_head: Callable, use_fsl: Callable, tmp_path: Path) -> None:
    head = make_head(tmp_path / "raw", turns=((0, 0), (25, 10)))
    use_fsl(head)
    run_participants(head.folder, tmp_path / "out", config=FIELDS, n_procs=1, announce=lambda _: None)
    before = _names(tmp_path / "out")
    assert not [name for name in before if "chi33" in name or "space-subject" in name]
    assert (tmp_path / "out/sub-01/anat/sub-01_acq-ori02_from-orig_to-subject_mode-image_xfm.txt").is_file()
    lines: list[str] = []
    run_participants(
        head.folder,
        tmp_path / "out",
        config=RunConfig(fit="closed", mask_method="bet"),
        n_procs=1,
        announce=lines.append,
    )
    assert any("total_field (kept)" in line for line in lines)
    assert {name for name in _names(tmp_path / "out") - before if "desc-chi33" in name} == {
        "sub-01_acq-ori01_desc-chi33_Chimap.nii.gz", "sub-01_acq-ori02_desc-chi33_Chimap.nii.gz"
    }  # fmt: skip


def test_a_fit_of_one_scan_is_refused_with_what_can_be_had(make_head: Callable, tmp_path: Path) -> None:
    head = make_head(tmp_path / "raw", turns=((0, 0),))
    with pytest.raises(InputError, match=r"told apart by acq- or run-, or give --fit none for its fields alone\.$"):
        run_participants(head.folder, tmp_path / "out", config=RunConfig(), n_procs=1)
    assert not (tmp_path / "out").exists()
