"""The fit in the subject frame and the labels of a scan, as Nipype interfaces on true fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.files.derivatives import read_image, write_image, write_transform
from chi33.files.errors import InputError
from chi33.pipeline.fits.closed_form import fit_susceptibility
from chi33.pipeline.fits.single_step import smv_filtered
from chi33.pipeline.frames import b0_direction_from_affine, voxel_frame
from chi33.pipeline.physics.tensor_field import delta_b_prime, dipole_field
from chi33.pipeline.physics.tensors import chi33 as apparent
from chi33.pipeline.physics.tensors import mms
from chi33.workflows.fit_inputs import ScanField, fit_sidecar, method_for, subject_b0_direction, to_subject_frame
from chi33.workflows.interfaces.fit import FitSusceptibility, ScanLabels
from nipype.interfaces.base import isdefined
from scipy import ndimage
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
        "method": "masked",
        "noise": 1e-3,
        "iterations": 10,
        "prior_iso": 0.03,
        "prior_aniso": 0.004,
    }


def _run(interface: Any, folder: Path) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    outputs = interface.run(cwd=str(folder)).outputs.get()
    return {key: Path(value) for key, value in outputs.items() if isdefined(value)}


@pytest.mark.parametrize("method", ["closed", "masked"])
def test_fit_of_true_fields_is_the_truth(
    turning_head: Any, fit_inputs: dict[str, Any], tmp_path: Path, method: str
) -> None:
    files = _run(FitSusceptibility(**fit_inputs | {"method": method}), tmp_path / "fit")
    assert "uncertainty_file" not in files
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


def test_the_single_step_fit_of_total_fields_is_the_truth_where_its_spheres_fit(
    turning_head: Any, fit_inputs: dict[str, Any], tmp_path: Path
) -> None:
    """It is the default, and takes fields that hold a background."""
    for number, path in enumerate(fit_inputs["field_files"]):
        field, affine = read_image(Path(path))
        z = np.arange(field.shape[2]) - 9.5
        write_image(Path(path), (field + 0.2 + 0.02 * (number + 1) * z) * turning_head.mask, affine, {})
    del fit_inputs["method"]
    files = _run(FitSusceptibility(**fit_inputs), tmp_path / "fit")
    assert json.loads(files["sidecar_file"].read_text())["Fit"] == "single-step"
    deep = ndimage.distance_transform_edt(turning_head.mask, sampling=(6, 6, 7)) > 16
    cosmos, _ = read_image(files["cosmos_file"])
    assert np.corrcoef(cosmos[deep], mms(turning_head.tensor)[deep])[0, 1] > 0.85


@pytest.mark.parametrize(("method", "keys"), [
    ("closed", {"PaddingMm"}),
    ("masked", {"PaddingMm", "Iterations", "IterationsCosmos", "StoppingTolerance", "LastRelativeChange"}),
    ("single-step", {"RadiiMm", "Iterations", "IterationsCosmos", "StoppingTolerance", "LastRelativeChange"}),
])  # fmt: skip
def test_the_sidecar_tells_the_method_and_how_it_stopped(
    fit_inputs: dict[str, Any], tmp_path: Path, method: str, keys: set[str]
) -> None:
    files = _run(FitSusceptibility(**fit_inputs | {"method": method, "iterations": 2}), tmp_path / "fit")
    sidecar = json.loads(files["sidecar_file"].read_text())
    assert (sidecar["Fit"], sidecar["Weights"]) == (method, "mask")
    assert keys <= sidecar.keys()
    if method == "closed":
        assert not {"Iterations", "StoppedBy"} & sidecar.keys()
    else:
        assert (sidecar["Iterations"], sidecar["IterationLimit"], sidecar["StoppedBy"]) == (2, 2, "iteration limit")
    assert not [key for key in sidecar if key.startswith("Uncertainty")]


def test_a_white_matter_map_is_used_and_said(turning_head: Any, fit_inputs: dict[str, Any], tmp_path: Path) -> None:
    affine, mask = turning_head.affines[0], turning_head.mask
    white = write_image(tmp_path / "wm.nii.gz", 0.9 * mask, affine, {})
    found = {}
    for name, more in (("map", {"white_matter_file": str(white)}), ("none", {"white_matter": "none"})):
        files = _run(FitSusceptibility(**fit_inputs | {"iterations": 6} | more), tmp_path / name)
        found[name] = (json.loads(files["sidecar_file"].read_text()), read_image(files["tensor_file"])[0])
    assert found["map"][0]["WhiteMatter"] == "given"
    assert found["map"][0]["PriorAnisoElsewherePpm"] == 0.002
    assert found["none"][0]["WhiteMatter"] == "none"
    assert 0 < found["none"][0]["ExpectedSlopeDeltaB"] < 1
    assert not np.array_equal(found["map"][1], found["none"][1])


def test_sidecar_of_a_fit_records_noise_prior_and_directions(
    turning_head: Any, fit_inputs: dict[str, Any], tmp_path: Path
) -> None:
    files = _run(FitSusceptibility(**fit_inputs | {"noise": 0.002, "iterations": 1}), tmp_path / "fit")
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


def test_weights_are_recorded_where_the_fit_uses_them(
    turning_head: Any, fit_inputs: dict[str, Any], tmp_path: Path
) -> None:
    weights = [
        str(write_image(tmp_path / f"w{i}.nii.gz", 30 * (turning_head.mask * (1 + (i == 1))), affine, {}))
        for i, affine in enumerate(turning_head.affines)
    ]
    tensors = []
    for method, given, recorded in (
        ("masked", weights, "magnitude"), ("masked", None, "mask"), ("closed", weights, "mask"),
    ):  # fmt: skip
        more = {"method": method, "iterations": 2, **({"weight_files": given} if given else {})}
        files = _run(FitSusceptibility(**fit_inputs | more), tmp_path / f"{method}-{recorded}")
        assert json.loads(files["sidecar_file"].read_text())["Weights"] == recorded
        tensors.append(read_image(files["tensor_file"])[0])
    # a weight counts relative to its median in the scan: even ones are none
    np.testing.assert_allclose(tensors[0], tensors[1], atol=1e-6)


def test_where_the_fit_runs_is_no_reason_to_repeat_it(fit_inputs: dict[str, Any]) -> None:
    def hashed(**more: Any) -> str:
        return str(FitSusceptibility(**fit_inputs | more).inputs.get_hashval(hash_method="content")[1])

    assert hashed(scheduler="tcp://10.0.0.1:8786", memory=4.0) == hashed()
    for change in ({"method": "closed"}, {"iterations": 9}, {"draws": 2}, {"jackknife": 3}, {"noise": 2e-3}):
        assert hashed(**change) != hashed()


def test_a_scan_that_misses_the_reference_is_named(fit_inputs: dict[str, Any], tmp_path: Path) -> None:
    far = np.eye(4)
    far[0, 3] = 500
    fit_inputs["transform_files"][1] = str(write_transform(tmp_path / "far.txt", far))
    with pytest.raises(InputError, match="only 0% of the brain of acq-ori02 falls inside the reference scan's field"):
        _run(FitSusceptibility(**fit_inputs), tmp_path / "fit")


def _scan(head: Any, number: int, **more: Any) -> ScanField:
    given = {
        "label": f"scan {number}", "field": head.fields[number], "mask": head.mask, "affine": head.affines[number],
        "transform": head.transforms[number], "b0_direction": b0_direction_from_affine(head.affines[number]),
    }  # fmt: skip
    return ScanField(**given | more)


def test_fields_come_into_the_subject_frame_with_their_directions(turning_head: Any) -> None:
    """The voxels of all scans coincide, so that nothing but rounding moves; B0 is along each array's own axes."""
    head = turning_head
    scans = [_scan(head, number) for number in range(3)]
    placed = to_subject_frame(scans, head.affines[0], head.mask.shape, total=False)
    np.testing.assert_array_equal(placed.determined, head.mask)
    for number in range(3):
        np.testing.assert_allclose(placed.fields[number], head.fields[number] * head.mask, atol=1e-5)
        np.testing.assert_array_equal(placed.weights[number], head.mask)
        np.testing.assert_allclose(placed.directions[number], b0_direction_from_affine(head.affines[number]), atol=1e-6)
    moved = np.eye(4)
    moved[0, 3] = 18  # three voxels
    far = to_subject_frame([scans[0], _scan(head, 0, transform=moved)], head.affines[0], head.mask.shape, total=False)
    assert far.determined.sum() > head.mask.sum()
    np.testing.assert_array_equal(far.fields[1][far.weights[1] == 0], 0)


def test_a_weight_counts_relative_to_its_median_in_the_mask_and_at_most_twice(turning_head: Any) -> None:
    mask = turning_head.mask
    weight = np.where(np.indices(mask.shape)[0] % 3 == 0, 300, 50).astype(np.float32)
    weight[12, 13, 10] = 5
    scan = _scan(turning_head, 0, weight=weight)
    placed = to_subject_frame([scan], turning_head.affines[0], mask.shape, total=False)
    found = placed.weights[0]
    np.testing.assert_array_equal(found[~mask], 0)
    assert float(np.median(found[mask])) == 1
    assert set(np.unique(found[mask]).round(6)) == {np.float32(0.1), np.float32(1), np.float32(2)}
    assert found[12, 13, 10] == pytest.approx(0.1)
    mostly = _scan(turning_head, 0, weight=np.where(weight > 50, weight, 0))
    with pytest.raises(InputError, match="the weights of scan 0 are zero in most of its mask: give positive weights"):
        to_subject_frame([mostly], turning_head.affines[0], mask.shape, total=False)


def test_a_subject_grid_of_thick_slices_takes_the_means_of_a_fine_scan_up_to_the_edge_of_its_mask() -> None:
    """Field and weight alike, of noise, and in the outer voxels too: nothing of the outside leaks in."""
    rng, shape = np.random.default_rng(0), (24, 26, 32)
    points = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    mask = (points**2).sum(axis=0) < 10.0**2
    rough, weight = rng.standard_normal(shape), 1 + 0.2 * rng.standard_normal(shape)
    thick = np.diag([1.0, 1.0, 4.0, 1.0])
    thick[2, 3] = 1.5
    found = []
    for outside in (0.0, 50.0):
        values = [np.where(mask, one, outside).astype(np.float32) for one in (rough, weight)]
        scan = ScanField("scan", values[0], mask, np.eye(4), np.eye(4), np.array([0, 0, 1.0]), values[1])
        found.append(to_subject_frame([scan], thick, (24, 26, 8), total=False))
    np.testing.assert_array_equal(found[0].fields[0], found[1].fields[0])
    np.testing.assert_array_equal(found[0].weights[0], found[1].weights[0])
    means, weights, share = (one.reshape(24, 26, 8, 4).mean(axis=3) for one in (rough, weight, mask.astype(float)))
    known, whole = found[0].determined, share == 1
    np.testing.assert_array_equal(known, share >= 0.75)
    np.testing.assert_allclose(found[0].fields[0][whole], means[whole], atol=1e-5)
    np.testing.assert_allclose(found[0].weights[0][whole], (weights / np.median(weight[mask]))[whole], atol=1e-5)
    assert (found[0].weights[0][known] > 0.3).all()


def test_what_is_smooth_of_a_background_is_taken_out_before_fields_are_moved(turning_head: Any) -> None:
    head, x = turning_head, np.arange(turning_head.mask.shape[0])[:, None, None] - 12.0
    background = np.asarray(0.5 + 0.1 * x + 0 * head.fields[1], np.float32)
    scan = _scan(head, 1, field=np.where(head.mask, head.fields[1] + background, np.float32(0)))
    (moved,) = to_subject_frame([scan], head.affines[0], head.mask.shape, total=True).fields
    (kept,) = to_subject_frame([scan], head.affines[0], head.mask.shape, total=False).fields
    assert kept[head.mask].std() > 0.9 * background[head.mask].std()
    assert moved[head.mask].std() < 1.5 * head.fields[1][head.mask].std()


def test_fields_say_their_method() -> None:
    assert [method_for(True, None), method_for(False, None)] == ["single-step", "masked"]
    assert [method_for(True, "single-step"), method_for(False, "single-step")] == ["single-step"] * 2
    assert [method_for(False, "closed"), method_for(False, "masked")] == ["closed", "masked"]
    for method in ("closed", "masked"):
        with pytest.raises(InputError, match=f"--total goes with --fit single-step, got --fit {method}"):
            method_for(True, method)


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


def test_the_residual_of_a_single_step_fit_is_that_of_the_total_field_through_its_spheres(
    turning_head: Any, tmp_path: Path
) -> None:
    """Another local field, wrong by a background, does not enter; a blob that the labels lack is what is left."""
    head, name = turning_head, "acq-ori02"
    affine, mask, true = head.affines[1], head.mask, head.fields[1]
    x = np.indices(mask.shape)[0] - mask.shape[0] / 2
    blob = 0.02 * np.exp(-((np.indices(mask.shape) - np.array(mask.shape)[:, None, None, None] / 2) ** 2).sum(0) / 4)
    (tmp_path / "fit.json").write_text('{"RadiiMm": [18.0, 14.0]}')
    volumes = {
        "tensor_file": (head.world_tensor, head.affines[0]), "cosmos_file": (mms(head.tensor), head.affines[0]),
        "field_file": (true + 1.0, affine), "total_file": ((true + blob + 0.3 + 0.01 * x) * mask, affine),
    }  # fmt: skip
    inputs = {key: write_image(tmp_path / f"{key}.nii.gz", one, place, {}) for key, (one, place) in volumes.items()}
    brain = head.truth.path(name, suffix="mask", desc="brain")
    more = {"mask_file": brain, "known_file": brain, "fit_file": tmp_path / "fit.json",
            "transform_file": head.truth.transform(name)}  # fmt: skip
    files = _run(ScanLabels(**{key: str(path) for key, path in {**inputs, **more}.items()}), tmp_path / "labels")
    residual, _ = read_image(files["residual_file"])
    seen = ndimage.distance_transform_edt(mask, sampling=np.linalg.norm(affine[:3, :3], axis=0)) > 14
    np.testing.assert_array_equal(residual[~mask], 0)
    expected, where = smv_filtered(blob, mask, np.linalg.norm(affine[:3, :3], axis=0), (18.0, 14.0))
    assert where[seen].all()
    assert np.abs(residual - expected)[seen].max() < 0.15 * np.abs(expected).max()


def test_draws_come_out_as_standard_deviations_of_every_scan(
    turning_head: Any, fit_inputs: dict[str, Any], tmp_path: Path
) -> None:
    head = turning_head
    files = _run(FitSusceptibility(**fit_inputs | {"method": "closed", "draws": 2}), tmp_path / "fit")
    deviations, affine = read_image(files["uncertainty_file"])
    np.testing.assert_allclose(affine, head.affines[0], atol=1e-5)
    assert deviations.shape == (2 * 3 + 1, *head.mask.shape)
    assert (deviations[:, head.mask] > 0).all()
    assert not deviations[:, ~head.mask].any()
    sidecar = json.loads(files["sidecar_file"].read_text())
    assert (sidecar["UncertaintyDraws"], sidecar["UncertaintyJackknifeGroups"]) == (2, 0)
    assert "registration" in sidecar["UncertaintyLeavesOut"]
    marked = write_image(tmp_path / "marked.nii.gz", deviations * np.arange(1, 8)[:, None, None, None], affine, {})
    for scan in (0, 2):
        inputs = {
            "tensor_file": files["tensor_file"], "cosmos_file": files["cosmos_file"], "uncertainty_file": marked,
            "field_file": fit_inputs["field_files"][scan], "mask_file": fit_inputs["mask_files"][scan],
            "transform_file": fit_inputs["transform_files"][scan],
        }  # fmt: skip
        labels = _run(
            ScanLabels(number=scan, **{key: str(path) for key, path in inputs.items()}), tmp_path / f"labels{scan}"
        )
        for output, index in (("chi33sd_file", 2 * scan), ("deltabsd_file", 2 * scan + 1), ("cosmossd_file", 6)):
            volume, own = read_image(labels[output])
            np.testing.assert_allclose(own, head.affines[scan], atol=1e-5)
            inside = ndimage.binary_erosion(head.mask)
            expected = (deviations[index] * (index + 1))[inside]
            np.testing.assert_allclose(volume[inside], expected, rtol=2e-3)
            assert not volume[~ndimage.binary_dilation(head.mask)].any()


def test_standard_deviations_are_where_the_map_is(fit_inputs: dict[str, Any], tmp_path: Path) -> None:
    for method in ("masked", "single-step"):
        given = fit_inputs | {"method": method, "iterations": 1, "draws": 2}
        files = _run(FitSusceptibility(**given), tmp_path / method)
        deviations, tensor = (read_image(files[name])[0] for name in ("uncertainty_file", "tensor_file"))
        np.testing.assert_array_equal((deviations > 0).all(axis=0), tensor.any(axis=0))
        np.testing.assert_array_equal(deviations.any(axis=0), tensor.any(axis=0))


def test_without_draws_labels_have_no_standard_deviations(turning_head: Any, tmp_path: Path) -> None:
    inputs = {
        "tensor_file": write_image(tmp_path / "tensor.nii.gz", turning_head.world_tensor, turning_head.affines[0], {}),
        "cosmos_file": write_image(tmp_path / "cosmos.nii.gz", mms(turning_head.tensor), turning_head.affines[0], {}),
        "field_file": write_image(tmp_path / "field.nii.gz", turning_head.fields[0], turning_head.affines[0], {}),
        "mask_file": turning_head.truth.path("acq-ori01", suffix="mask", desc="brain"),
        "transform_file": turning_head.truth.transform("acq-ori01"),
    }
    files = _run(ScanLabels(**{key: str(path) for key, path in inputs.items()}), tmp_path / "labels")
    assert set(files) == {"chi33_file", "deltab_file", "cosmos_file", "residual_file"}
