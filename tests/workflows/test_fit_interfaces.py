"""The fit in the subject frame and the labels of a scan, as Nipype interfaces on true fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.pipeline.errors import InputError
from chi33.pipeline.fits.closed_form import fit_susceptibility
from chi33.pipeline.frames import b0_direction_from_affine, voxel_frame
from chi33.pipeline.tensor_field import delta_b_prime, dipole_field
from chi33.pipeline.tensors import chi33 as apparent
from chi33.pipeline.tensors import mms
from chi33.workflows.derivatives import read_image, write_image, write_transform
from chi33.workflows.fit_interfaces import FitSusceptibility, ScanLabels, fit_sidecar, subject_b0_direction
from scipy.spatial.transform import Rotation

TILTED = (0.0, 0.6, 0.8)


@pytest.fixture
def fit_inputs(turning_head: Any, tmp_path: Path) -> dict[str, Any]:
    """The true local fields, masks and transforms of a turning head, in files."""
    return _inputs(turning_head, tmp_path)


def _inputs(head: Any, tmp_path: Path) -> dict[str, Any]:
    names = [f"acq-ori{i + 1:02d}" for i in range(len(head.fields))]
    fields = [
        write_image(tmp_path / f"{name}_field.nii.gz", field * head.mask, affine, {})
        for name, field, affine in zip(names, head.fields, head.affines, strict=True)
    ]
    return {
        "field_files": [str(path) for path in fields],
        "mask_files": [str(head.truth.path(name, suffix="mask", desc="brain")) for name in names],
        "transform_files": [str(head.truth.transform(name)) for name in names],
        "reference_file": str(head.truth.path(names[0], suffix="mask", desc="brain")),
        "labels": names,
        "b0_directions": [None] * len(names),
        "prior_iso": 0.03,
        "prior_aniso": 0.004,
    }


def _run(interface: Any, folder: Path) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    return {key: Path(value) for key, value in interface.run(cwd=str(folder)).outputs.get().items()}


def test_fit_of_true_fields_is_the_truth(turning_head: Any, fit_inputs: dict[str, Any], tmp_path: Path) -> None:
    files = _run(FitSusceptibility(**fit_inputs), tmp_path / "fit")
    mask = turning_head.mask
    tensor, affine = read_image(files["tensor_file"])
    np.testing.assert_allclose(affine, turning_head.affines[0], atol=1e-5)
    np.testing.assert_array_equal(read_image(files["mask_file"])[0] > 0, mask)
    cosmos, _ = read_image(files["cosmos_file"])
    truth = mms(turning_head.tensor)
    assert np.corrcoef(cosmos[mask], truth[mask])[0, 1] > 0.9
    assert cosmos[mask].mean() == pytest.approx(0, abs=1e-6)
    assert not cosmos[~mask].any()
    mean, _ = read_image(files["mms_file"])
    np.testing.assert_allclose(mean, mms(tensor), atol=1e-6)
    assert np.corrcoef(mean[mask], truth[mask])[0, 1] > 0.9
    vectors, _ = read_image(files["pev_file"])
    np.testing.assert_allclose(np.linalg.norm(vectors[:, mask], axis=0), 1, atol=1e-4)
    assert (read_image(files["msa_file"])[0][mask] >= -1e-6).all()


def test_sidecar_of_a_fit_records_noise_prior_and_directions(
    turning_head: Any, fit_inputs: dict[str, Any], tmp_path: Path
) -> None:
    files = _run(FitSusceptibility(**fit_inputs | {"noise": 0.002}), tmp_path / "fit")
    sidecar = json.loads(files["sidecar_file"].read_text())
    assert (sidecar["FieldNoisePpm"], sidecar["PriorIsoPpm"], sidecar["PriorAnisoPpm"]) == (0.002, 0.03, 0.004)
    assert sidecar["Scans"] == ["acq-ori01", "acq-ori02", "acq-ori03"]
    for direction, matrix in zip(sidecar["B0Directions"], turning_head.transforms, strict=True):
        np.testing.assert_allclose(direction, matrix[:3, :3] @ [0, 0, 1], atol=1e-6)
    assert sidecar["TensorRank"] < 6
    assert (
        "3 scans cannot determine the six tensor components alone: the prior supplies the rest." in sidecar["Warnings"]
    )


def test_directions_within_five_degrees_are_refused(make_head: Callable, tmp_path: Path) -> None:
    head = make_head(tmp_path / "near", turns=((0, 0), (3, 0), (0, 3)))
    with pytest.raises(InputError, match=r"All B0 directions lie within 4\.\d degrees of one another"):
        _run(FitSusceptibility(**_inputs(head, tmp_path)), tmp_path / "fit")


def test_a_scan_that_misses_the_reference_is_named(fit_inputs: dict[str, Any], tmp_path: Path) -> None:
    far = np.eye(4)
    far[0, 3] = 500
    fit_inputs["transform_files"][1] = str(write_transform(tmp_path / "far.txt", far))
    with pytest.raises(InputError, match="only 0% of the brain of acq-ori02 falls inside the reference scan's field"):
        _run(FitSusceptibility(**fit_inputs), tmp_path / "fit")


def test_b0_direction_in_the_subject_frame() -> None:
    """Turned scans, oblique and mirrored grids, and B0 stated in the sidecar."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("x", 30, degrees=True).as_matrix()
    plain = np.diag([2.0, 2.0, 3.0, 1.0])
    np.testing.assert_allclose(subject_b0_direction(plain, plain, np.eye(4)), [0, 0, 1], atol=1e-12)
    seen = subject_b0_direction(plain, plain, turn)
    np.testing.assert_allclose(seen, [0, -np.sin(np.radians(30)), np.cos(np.radians(30))], atol=1e-12)
    mirrored = np.diag([-2.0, 2.0, 3.0, 1.0])
    oblique = turn @ mirrored
    expected = voxel_frame(oblique).T @ turn[:3, :3] @ [0, 0, 1]
    np.testing.assert_allclose(subject_b0_direction(mirrored, oblique, turn), expected, atol=1e-12)
    np.testing.assert_allclose(subject_b0_direction(plain, plain, np.eye(4), TILTED), TILTED, atol=1e-12)
    with pytest.raises(InputError, match="unit vector"):
        subject_b0_direction(plain, plain, np.eye(4), (0, 0, 2))


def test_a_ring_of_equal_tilts_is_solved_by_the_prior_and_said() -> None:
    """Six equal tilts without the neutral position leave the tensor singular: the fit goes on and warns."""
    angles = np.radians(np.arange(0, 360, 60))
    tilt = np.radians(25)
    ring = [np.array([np.sin(tilt) * np.cos(a), np.sin(tilt) * np.sin(a), np.cos(tilt)]) for a in angles]
    rng = np.random.default_rng(0)
    fit = fit_susceptibility([rng.standard_normal((8, 8, 8)) * 1e-2 for _ in ring], (2, 2, 2), ring, noise=1e-3)
    sidecar = fit_sidecar(fit, [f"scan{i}" for i in range(6)], [h.tolist() for h in ring])
    assert sidecar["TensorRank"] == 5
    assert sidecar["TensorNoiseGain"] is None
    (warning,) = sidecar["Warnings"]
    assert "leave the tensor singular (rank 5 of 6: a ring of equal tilts without the neutral position" in warning
    assert np.isfinite(fit.tensor).all()
    json.dumps(sidecar, allow_nan=False)


@pytest.mark.parametrize("scan", [0, 1, 2])
def test_labels_of_the_true_tensor_explain_the_field(turning_head: Any, tmp_path: Path, scan: int) -> None:
    """chi33 = h'chi h on the scan's own grid, and D * chi33 + delta B' is the field."""
    head = turning_head
    name = f"acq-ori{scan + 1:02d}"
    inputs = {
        "tensor_file": write_image(tmp_path / "tensor.nii.gz", head.world_tensor, head.affines[0], {}),
        "cosmos_file": write_image(tmp_path / "cosmos.nii.gz", mms(head.tensor), head.affines[0], {}),
        "field_file": write_image(tmp_path / "field.nii.gz", head.fields[scan], head.affines[scan], {}),
        "mask_file": head.truth.path(name, suffix="mask", desc="brain"),
        "transform_file": head.truth.transform(name),
    }
    files = _run(ScanLabels(**{key: str(path) for key, path in inputs.items()}), tmp_path / "labels")
    h, mask = b0_direction_from_affine(head.affines[scan]), head.mask
    found, affine = read_image(files["chi33_file"])
    np.testing.assert_allclose(affine, head.affines[scan], atol=1e-5)
    np.testing.assert_allclose(found[mask], apparent(head.tensor, h)[mask], atol=2e-5)
    across, _ = read_image(files["deltab_file"])
    size = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(across[mask], delta_b_prime(head.tensor, size, h)[mask], atol=2e-5)
    residual, _ = read_image(files["residual_file"])
    left = head.fields[scan] - dipole_field(found, size, h) - across
    np.testing.assert_allclose(residual[mask], left[mask], atol=1e-5)
    assert np.abs(residual[mask]).max() < 1e-2 * np.abs(head.fields[scan][mask]).max()
    np.testing.assert_allclose(read_image(files["cosmos_file"])[0][mask], mms(head.tensor)[mask], atol=2e-5)
