"""Label maps are found by their names, and what is missing or damaged is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.build.derivatives_finder import find_derivatives
from chi33.datasets.build.derivatives_reader import read_scan, read_tensor
from chi33.datasets.build.subject_source import sources_of
from chi33.files.errors import Chi33Warning, InputError
from scipy.spatial.transform import Rotation

SCAN = "sub-01/anat/sub-01_acq-ori01_desc-"


def rewrite(file: Path, change) -> None:
    image = nib.load(file)
    values, affine = np.asarray(image.dataobj).copy(), image.affine.copy()
    values, affine = change(values, affine) or (values, affine)
    nib.save(nib.Nifti1Image(values, affine), file)


def read_first(folder: Path):
    return read_scan(find_derivatives(folder)[0].scans[0])


def test_every_subject_and_orientation_is_found(derivatives: Path) -> None:
    subjects = find_derivatives(derivatives)
    assert [s.subject for s in subjects] == ["01", "02", "03"]
    assert [scan.id for scan in subjects[0].scans] == ["sub-01/acq-ori01", "sub-01/acq-ori02"]
    assert set(subjects[0].scans[0].paths) == {"field", "chi33", "deltab", "cosmos", "mask"}
    assert set(subjects[0].space) == {"tensor", "cosmos", "mask"}


def test_orientations_may_be_runs(make_derivatives) -> None:
    folder = make_derivatives(1)
    for file in sorted(folder.rglob("*acq-ori*")):
        file.rename(file.with_name(file.name.replace("acq-ori", "run-")))
    assert [scan.id for scan in find_derivatives(folder)[0].scans] == ["sub-01/run-01", "sub-01/run-02"]


def test_uncertainty_is_read_where_present(make_derivatives) -> None:
    folder = make_derivatives(1, 1)
    nib.load(folder / f"{SCAN}chi33_Chimap.nii.gz").to_filename(folder / f"{SCAN}chi33sd_Chimap.nii.gz")
    volume = read_first(folder)
    np.testing.assert_array_equal(volume.channels["chi33sd"], volume.channels["chi33"])


def test_brain_mask_stands_in_for_a_missing_local_mask(make_derivatives) -> None:
    folder = make_derivatives(1, 1)
    (folder / f"{SCAN}local_mask.nii.gz").unlink()
    assert read_first(folder).mask.all()


def test_b0_direction_without_a_sidecar_comes_from_the_affine(make_derivatives) -> None:
    folder = make_derivatives(1, 1)
    angle = np.radians(20)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])

    def oblique(values, affine):
        affine[:3, :3] = turn @ affine[:3, :3]
        return values, affine

    for file in (folder / "sub-01/anat").glob("*acq-ori01*.nii.gz"):
        rewrite(file, oblique)
    (folder / f"{SCAN}local_fieldmap.json").unlink()
    geometry = read_first(folder).geometry
    np.testing.assert_allclose(geometry.b0_direction, turn[2] * [-1, 1, 1], atol=1e-6)
    assert np.isnan(geometry.b0)


def test_missing_labels_are_named(make_derivatives) -> None:
    folder = make_derivatives(1)
    (folder / f"{SCAN}deltab_fieldmap.nii.gz").unlink()
    with pytest.raises(InputError, match=r"lacks sub-01_acq-ori01_desc-deltab_fieldmap.nii.gz: repeat `chi33 run`"):
        find_derivatives(folder)


def test_a_label_the_other_scans_have_is_missed(make_derivatives) -> None:
    folder = make_derivatives(1)
    (folder / f"{SCAN}cosmos_Chimap.nii.gz").unlink()
    with pytest.raises(InputError, match="lacks sub-01_acq-ori01_desc-cosmos_Chimap"):
        find_derivatives(folder)


def test_a_scan_that_stopped_half_way_is_named(make_derivatives) -> None:
    folder = make_derivatives(1)
    for ending in ("local_fieldmap", "chi33_Chimap", "deltab_fieldmap", "cosmos_Chimap"):
        (folder / f"{SCAN}{ending}.nii.gz").unlink()
    with pytest.raises(InputError, match=r"desc-local_fieldmap.nii.gz, .*desc-chi33_Chimap.nii.gz"):
        find_derivatives(folder)


def test_a_folder_without_label_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no label map such as"):
        find_derivatives(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        find_derivatives(tmp_path / "absent")


def test_the_same_map_twice_is_refused(make_derivatives) -> None:
    folder = make_derivatives(1)
    file = folder / f"{SCAN}chi33_Chimap.nii.gz"
    file.with_name(file.name.removesuffix(".gz")).write_bytes(gzip.decompress(file.read_bytes()))
    with pytest.raises(InputError, match="are the same map twice"):
        find_derivatives(folder)


def test_values_that_are_not_finite_are_refused(make_derivatives) -> None:
    folder = make_derivatives(1)

    def spoil(values, affine) -> None:
        values[3, 4, 5:7] = np.nan

    rewrite(folder / f"{SCAN}chi33_Chimap.nii.gz", spoil)
    with pytest.raises(InputError, match=r"chi33_Chimap.nii.gz holds 2 values that are not finite"):
        read_first(folder)


def test_an_empty_mask_is_refused(make_derivatives) -> None:
    folder = make_derivatives(1)
    rewrite(folder / f"{SCAN}local_mask.nii.gz", lambda values, affine: (values * 0, affine))
    with pytest.raises(InputError, match=r"the mask .*local_mask.nii.gz is empty"):
        read_first(folder)


def test_maps_on_other_grids_are_refused(make_derivatives) -> None:
    folder = make_derivatives(1)
    file = folder / f"{SCAN}deltab_fieldmap.nii.gz"
    rewrite(file, lambda values, affine: (values[:-1], affine))
    with pytest.raises(InputError, match=r"has shape \(25, 30, 24\), but .*local_mask.nii.gz has \(26, 30, 24\)"):
        read_first(folder)
    folder = make_derivatives(1, name="moved")

    def move(values, affine) -> None:
        affine[0, 3] += 0.5

    rewrite(folder / f"{SCAN}deltab_fieldmap.nii.gz", move)
    with pytest.raises(InputError, match="lies elsewhere than"):
        read_first(folder)


@pytest.mark.parametrize("stated", [None, [0.6, 0.0, 0.8]])
def test_maps_whose_matrices_disagree_on_b0_are_refused_unless_their_sidecar_says_it(make_derivatives, stated) -> None:
    folder = make_derivatives(1, 1)
    path = folder / f"{SCAN}local_fieldmap.nii.gz"
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    entries = json.loads(sidecar.read_text())
    del entries["B0_dir"]
    sidecar.write_text(json.dumps(entries | ({"B0_dir": stated} if stated else {})))
    image = nib.load(path)
    turned = image.affine.copy()
    turned[:3, :3] = Rotation.from_euler("x", 12, degrees=True).as_matrix() @ turned[:3, :3]
    image.set_qform(turned, code=1)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), None, image.header), path)
    if stated:
        np.testing.assert_allclose(read_first(folder).geometry.b0_direction, stated)
        return
    with pytest.raises(InputError, match=r"fieldmap.nii.gz has a sform and a qform that differ by a rotation of 12"):
        read_first(folder)


def test_maps_without_orientation_need_a_stated_b0(make_derivatives) -> None:
    folder = make_derivatives(1, 1)
    for path in (folder / "sub-01/anat").glob("*acq-ori01*.nii.gz"):
        image = nib.load(path)
        for matrix in (image.set_sform, image.set_qform):
            matrix(image.affine, code=0)
        nib.save(image, path)
    np.testing.assert_allclose(read_first(folder).geometry.b0_direction, [0, 0, 1])
    (folder / f"{SCAN}local_fieldmap.json").write_text("{}")
    with pytest.raises(InputError, match=r"fieldmap.nii.gz has no orientation .*: set its sform, or B0_dir in its"):
        read_first(folder)


def test_masks_are_read_as_by_every_command(make_derivatives) -> None:
    folder = make_derivatives(1, 1)
    path = folder / f"{SCAN}local_mask.nii.gz"
    mask = read_first(folder).mask
    assert read_first(folder).remarks == ()
    rewrite(path, lambda values, affine: (255 * values, affine))
    np.testing.assert_array_equal(read_first(folder).mask, mask)
    rewrite(path, lambda values, affine: ((values > 0) * np.float32(0.4), affine))
    np.testing.assert_array_equal(read_first(folder).mask, mask)  # one value, however small
    soft = np.where(mask, 0.9, 0.2).astype(np.float32)
    rewrite(path, lambda values, affine: (soft, affine))
    found = read_first(folder)
    np.testing.assert_array_equal(found.mask, mask)
    (said,) = found.remarks
    assert said.endswith("local_mask.nii.gz holds values from 0.2 to 0.9: taken from 0.5 on.")
    rewrite(path, lambda values, affine: (np.where(mask, 1, -1).astype(np.float32), affine))
    with pytest.raises(InputError, match=r"the mask .*local_mask.nii.gz holds 2 different values from -1 to 1"):
        read_first(folder)
    inverted = np.ones(mask.shape, np.uint8)
    inverted[6:-6, 6:-6, 6:-6] = 0
    rewrite(path, lambda values, affine: (inverted, affine))
    with pytest.raises(InputError, match="looks inverted"):
        read_first(folder)


def test_a_build_says_what_it_converts_and_what_it_made_of_masks(make_derivatives, tmp_path: Path) -> None:
    folder = make_derivatives(2, 2)
    for path in sorted(folder.rglob("*desc-local_fieldmap.nii.gz"))[:3]:
        rewrite(path, lambda values, affine: (values * np.float32(42.577478518 * 3), affine))
        sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"Units": "Hz"}))
    mask = folder / f"{SCAN}local_mask.nii.gz"
    rewrite(mask, lambda values, affine: (np.where(values > 0, 0.9, 0.2).astype(np.float32), affine))
    with pytest.warns(Chi33Warning) as said:
        build_store(folder, tmp_path / "s.h5", BuildConfig(patch_size=10, patches_per_scan=2, val_subjects=("02",)))
    words = [str(one.message) for one in said]
    assert any("acq-ori01_desc-local_fieldmap.nii.gz and 2 more are in Hz at 3 T (MagneticFieldStrength)" in one
               and one.endswith("to ppm.") for one in words)  # fmt: skip
    assert sum("local_mask.nii.gz holds values from 0.2 to 0.9: taken from 0.5 on." in one for one in words) == 1


def test_a_truncated_map_is_refused(make_derivatives) -> None:
    folder = make_derivatives(1)
    file = folder / f"{SCAN}chi33_Chimap.nii.gz"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(InputError, match="is damaged: its data cannot be read to the end"):
        read_first(folder)


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1, 2]", "must hold a JSON object of names and values, got a list"),
        (json.dumps({"B0_dir": [0, 0, 2]}), r"B0_dir of .* must be a unit vector"),
        (
            json.dumps({"MagneticFieldStrength": "three"}),
            "MagneticFieldStrength of .* must be a positive number in tesla, got 'three'",
        ),
    ],
)
def test_a_sidecar_with_nonsense_is_refused(make_derivatives, sidecar: str, message: str) -> None:
    folder = make_derivatives(1)
    (folder / f"{SCAN}local_fieldmap.json").write_text(sidecar)
    with pytest.raises(InputError, match=message):
        read_first(folder)


@pytest.mark.parametrize(
    ("name", "stated", "message"),
    [
        ("local_fieldmap", {"Units": "rad", "MagneticFieldStrength": 3}, "EchoTime"),
        ("local_fieldmap", {"Units": "Hz"}, "MagneticFieldStrength"),
        ("chi33_Chimap", {"Units": "Hz"}, "from which ppm cannot be told: give the susceptibility in ppm or ppb"),
        ("chi33_Chimap", {"Units": "ppb"}, "too small for ppm"),  # the maps are in ppm
    ],
)
def test_maps_in_units_that_cannot_be_are_refused(
    make_derivatives, name: str, stated: dict[str, object], message: str
) -> None:
    folder = make_derivatives(1)
    (folder / f"{SCAN}{name}.json").write_text(json.dumps(stated))
    with pytest.raises(InputError, match=message):
        sources_of(folder)[0].read_scan(0)


def test_a_field_in_hz_is_read_in_ppm(make_derivatives) -> None:
    folder = make_derivatives(1)
    scan = find_derivatives(folder)[0].scans[0]
    expected = read_scan(scan)
    path = scan.paths["field"]
    image = nib.load(path)
    nib.save(nib.Nifti1Image((image.get_fdata() * 42.577478518 * 2.9).astype(np.float32), image.affine), path)
    stated = json.loads((folder / f"{SCAN}local_fieldmap.json").read_text())
    stated |= {"Units": "Hz", "MagneticFieldStrength": 3, "ImagingFrequency": 42.577478518 * 2.9}
    (folder / f"{SCAN}local_fieldmap.json").write_text(json.dumps(stated))
    found = read_scan(scan)
    np.testing.assert_allclose(found.channels["field"], expected.channels["field"], rtol=1e-5, atol=1e-7)
    assert found.geometry.b0 == pytest.approx(2.9)


@pytest.mark.parametrize(
    ("factor", "message"), [(127.7, "reaches .* inside the mask, too large for ppm"), (1e-6, "too small for ppm")]
)
def test_maps_of_a_size_that_ppm_do_not_allow_are_refused(make_derivatives, factor: float, message: str) -> None:
    folder = make_derivatives(1)
    rewrite(folder / f"{SCAN}local_fieldmap.nii.gz", lambda values, affine: (values * factor, affine))
    with pytest.raises(InputError, match=rf"desc-local_fieldmap.nii.gz .*{message}: give the map in ppm"):
        sources_of(folder)[0].read_scan(0)


def test_a_tensor_needs_six_components(make_derivatives) -> None:
    folder = make_derivatives(1)
    file = folder / "sub-01/anat/sub-01_space-subject_desc-tensor_Chimap.nii.gz"
    rewrite(file, lambda values, affine: (values[..., :5], affine))
    with pytest.raises(InputError, match="must hold six components on its last axis"):
        read_tensor(find_derivatives(folder)[0])


def test_a_tensor_without_mask_is_masked_by_its_support(make_derivatives) -> None:
    folder = make_derivatives(1)
    (folder / "sub-01/anat/sub-01_space-subject_desc-local_mask.nii.gz").unlink()
    tensor = read_tensor(find_derivatives(folder)[0])
    np.testing.assert_array_equal(tensor.mask > 0, (tensor.chi != 0).any(axis=0))
    rewrite(
        folder / "sub-01/anat/sub-01_space-subject_desc-tensor_Chimap.nii.gz",
        lambda values, affine: (values * 0, affine),
    )
    with pytest.raises(InputError, match="is zero everywhere"):
        read_tensor(find_derivatives(folder)[0])
