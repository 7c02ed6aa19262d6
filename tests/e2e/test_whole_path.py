"""The whole path through the commands: raw scans to labels, store, network, prediction and table."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.pipeline.frames import b0_direction_in_subject_frame, rotation_and_scale, rotation_angle

SCANS = ("acq-ori01", "acq-ori02", "acq-ori03")
SCAN_MAPS = {
    "desc-brain_mask": None,
    "desc-local_mask": None,
    "desc-total_fieldmap": "ppm",
    "desc-local_fieldmap": "ppm",
    "desc-chi33_Chimap": "ppm",
    "desc-deltab_fieldmap": "ppm",
    "desc-cosmos_Chimap": "ppm",
    "desc-residual_fieldmap": "ppm",
    "desc-echoes_fieldmap": "rad",
}


def load(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, np.float32)


def anat(folder: Path, subject: str) -> Path:
    return folder / f"sub-{subject}" / "anat"


def test_every_map_is_there_with_its_unit_and_its_report(labels: Path) -> None:
    for subject in ("01", "02"):
        for scan in SCANS:
            for name, unit in SCAN_MAPS.items():
                path = anat(labels, subject) / f"sub-{subject}_{scan}_{name}.nii.gz"
                sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
                assert sidecar.get("Units") == unit
                assert np.isfinite(load(path)).all()
        for desc in ("tensor", "cosmos", "mms", "msa", "pev"):
            assert (anat(labels, subject) / f"sub-{subject}_space-subject_desc-{desc}_Chimap.nii.gz").is_file()
        assert "<html" in (labels / f"sub-{subject}.html").read_text(encoding="utf-8").lower()
    assert (labels / "index.html").is_file()
    hidden = {path.name for path in labels.rglob(".*") if path.is_file()}
    assert hidden == {".bidsignore", ".index.lock", ".sub-01.lock", ".sub-02.lock"}


@pytest.mark.parametrize("subject", ["01", "02"])
def test_transforms_and_masks_are_near_the_truth(labels: Path, simulated: Path, subject: str) -> None:
    truth = anat(simulated / "derivatives" / "truth", subject)
    for scan in SCANS:
        name = f"sub-{subject}_{scan}_from-orig_to-subject_mode-image_xfm.txt"
        found, true = np.loadtxt(anat(labels, subject) / name), np.loadtxt(truth / name)
        turned = rotation_and_scale(found)[0] @ rotation_and_scale(true)[0].T
        assert rotation_angle(turned) < 0.4
        assert rotation_and_scale(found)[1] == pytest.approx(1, abs=0.005)
        assert b0_direction_in_subject_frame(found) @ b0_direction_in_subject_frame(true) > np.cos(np.radians(0.4))
        mask = load(anat(labels, subject) / f"sub-{subject}_{scan}_desc-brain_mask.nii.gz") > 0
        brain = load(truth / f"sub-{subject}_{scan}_desc-brain_mask.nii.gz") > 0
        assert 2 * (mask & brain).sum() / (mask.sum() + brain.sum()) > 0.91


@pytest.mark.parametrize("subject", ["01", "02"])
def test_labels_follow_the_truth(labels: Path, simulated: Path, subject: str) -> None:
    truth = anat(simulated / "derivatives" / "truth", subject)
    for scan in SCANS:
        stem = f"sub-{subject}_{scan}_desc-"
        valid = load(anat(labels, subject) / f"{stem}local_mask.nii.gz") > 0
        valid &= load(truth / f"{stem}brain_mask.nii.gz") > 0
        assert valid.sum() > 0.7 * (load(truth / f"{stem}brain_mask.nii.gz") > 0).sum()
        for name, least in (("local_fieldmap", 0.6), ("chi33_Chimap", 0.75), ("cosmos_Chimap", 0.75)):
            estimate = load(anat(labels, subject) / f"{stem}{name}.nii.gz")[valid]
            true = load(truth / f"{stem}{name}.nii.gz")[valid]
            assert np.corrcoef(estimate, true)[0, 1] > least, f"{scan} {name}"
            assert 0.55 < np.polyfit(true, estimate, 1)[0] < 1.1


def test_labels_become_a_network_and_a_table(
    labels: Path, simulated: Path, chi33: Callable[..., Any], tmp_path: Path
) -> None:
    store, network, table = tmp_path / "store.h5", tmp_path / "network", tmp_path / "table.csv"
    ended = chi33(
        "build-dataset", labels, store, "--patch-size", "16", "--min-brain", "0.6", "--patches-per-scan", "12",
        "--val-subjects", "02",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    ended = chi33(
        "train", store, network, "--epochs", "2", "--samples-per-epoch", "4", "--val-samples", "2", "--device", "cpu",
        "--threads", "2",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    scan = anat(labels, "02") / "sub-02_acq-ori02"
    ended = chi33(
        "predict", network, "--field", f"{scan}_desc-local_fieldmap.nii.gz", "--mask", f"{scan}_desc-local_mask.nii.gz",
        "--out", tmp_path / "predictions" / "sub-02_acq-ori02_modl-qsm",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    ended = chi33("evaluate", tmp_path / "predictions", simulated / "derivatives" / "truth", "--out", table)
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(table.open()))
    assert {row["quantity"] for row in rows} == {"chi33", "deltab"}
    assert all(np.isfinite(float(row["nrmse"])) for row in rows)
