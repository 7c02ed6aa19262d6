"""`chi33 fit` on files as users bring them: other units, directions beside fields, masks stored otherwise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.files.derivatives import read_image, read_json, sidecar_path, write_image
from chi33.files.errors import Chi33Warning, InputError
from chi33.files.maps.units import Given
from chi33.pipeline.fits.methods import FitOptions
from chi33.pipeline.frames import b0_direction_from_affine
from chi33.pipeline.physics.tensors import mms
from chi33.workflows.external_fit import fit_files
from numpy.typing import NDArray

pytestmark = [
    pytest.mark.filterwarnings("ignore:3 scans cannot determine:chi33.files.errors.Chi33Warning"),
    pytest.mark.filterwarnings("ignore:COSMOS is weakly determined:chi33.files.errors.Chi33Warning"),
]
CLOSED = FitOptions("closed", noise=1e-3)
SINGLE_STEP = FitOptions("single-step", noise=2e-3, iterations=2, radii=(16.0,))
HERTZ = 42.577478518 * 3  # per ppm at 3 T
SCANS = (1, 2, 3)


@pytest.fixture(scope="module")
def head(make_head: Callable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A turning head of three orientations; read only."""
    return make_head(tmp_path_factory.mktemp("fit_files") / "raw")


def _fields(head: Any, folder: Path, factor: float = 1.0, affines: Sequence[Any] = (), **sidecar: Any) -> list[Path]:
    return [
        write_image(folder / f"f{number}.nii.gz", factor * field * head.mask, affine, sidecar)
        for number, field, affine in zip(SCANS, head.fields, affines or head.affines, strict=True)
    ]


def _says(said: Any, sentence: str) -> bool:
    return any(re.search(sentence, str(one.message)) for one in said)


def _fit(head: Any, prefix: Path, fields: list[Path], **more: Any) -> list[Path]:
    names = [f"acq-ori{number:02d}" for number in SCANS]
    arguments: dict[str, Any] = {
        "masks": [head.truth.path(name, suffix="mask", desc="brain") for name in names],
        "transforms": [head.truth.transform(name) for name in names],
        "options": CLOSED,
    }
    return fit_files(prefix, fields, **{**arguments, **more})


@pytest.fixture(scope="module")
def expected(head: Any, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """The COSMOS map of the fields in ppm."""
    folder = tmp_path_factory.mktemp("expected")
    with pytest.warns(Chi33Warning, match="3 scans cannot determine"):
        return read_image(_fit(head, folder / "s", _fields(head, folder, Units="ppm"))[0])[0]


@pytest.mark.parametrize(("factor", "sidecar", "words"), [
    (HERTZ, {"Units": "Hz", "MagneticFieldStrength": 3},
     r"Hz at 3 T \(MagneticFieldStrength\): multiplied by 0.007829"),
    (123.255, {"Units": "hz", "MagneticFieldStrength": 3, "ImagingFrequency": 123.255},
     r"Hz at 2.8948 T \(ImagingFrequency\): multiplied by 0.008113"),
    (2 * np.pi * HERTZ * 0.02, {"Units": "rad", "MagneticFieldStrength": 3, "EchoTime": 0.02},
     r"rad at 3 T \(MagneticFieldStrength\) and TE 20 ms"),
    (1000, {"Units": "ppb"}, "ppb: multiplied by 0.001"),
])  # fmt: skip
def test_fields_in_other_units_give_the_map_of_ppm(
    head: Any, expected: NDArray[np.float32], tmp_path: Path, factor: float, sidecar: dict[str, Any], words: str
) -> None:
    with pytest.warns(Chi33Warning, match=f"f1.nii.gz and 2 more are in {words}.* to ppm"):
        found = _fit(head, tmp_path / "s", _fields(head, tmp_path, factor, **sidecar))
    np.testing.assert_allclose(read_image(found[0])[0], expected, atol=1e-5)
    for path in found:
        stated = read_json(sidecar_path(path))
        assert (stated["Units"], stated["SourceUnits"]) == ("ppm", "Hz" if words.startswith("Hz") else sidecar["Units"])
        if "ImagingFrequency" in sidecar:
            assert stated["MagneticFieldStrength"] == pytest.approx(123.255 / 42.577478518)
            assert stated["NominalMagneticFieldStrength"] == 3


def test_units_by_hand_where_no_sidecar_is(head: Any, expected: NDArray[np.float32], tmp_path: Path) -> None:
    fields = _fields(head, tmp_path, HERTZ)
    for path in fields:
        sidecar_path(path).unlink()
    with pytest.warns(Chi33Warning, match=r"are in Hz at 3 T \(--b0\)"):
        found = _fit(head, tmp_path / "s", fields, given=Given("Hz", 3.0))
    np.testing.assert_allclose(read_image(found[0])[0], expected, atol=1e-5)


@pytest.mark.parametrize(("factor", "total", "sidecar", "sentence"), [
    (HERTZ, False, {}, "f1.nii.gz states no Units and reaches .*, too large for ppm: give the field in ppm of B0"),
    (10 * HERTZ, True, {}, "f1.nii.gz states no Units and departs from its median by .*, too large for ppm"),
    (1000, False, {"Units": "ppm"}, "f1.nii.gz is in ppm as stated and reaches .*, too large for ppm: correct Units"),
    (1, False, {"Units": "Hz", "MagneticFieldStrength": 3}, "too small for ppm after the conversion: correct Units"),
    (1, False, {"Units": "Hz"}, "f1.nii.gz is in Hz, but its field strength is not known"),
    (1, False, {"Units": "arbitrary"}, "f1.nii.gz is in 'arbitrary' by its sidecar, from which ppm cannot be told"),
])  # fmt: skip
def test_fields_whose_numbers_cannot_be_ppm_are_refused(
    head: Any, tmp_path: Path, factor: float, total: bool, sidecar: dict[str, Any], sentence: str
) -> None:
    fields = _fields(head, tmp_path / "in", factor, **sidecar)
    options = SINGLE_STEP if total else CLOSED
    with pytest.raises(InputError, match=sentence) as error:
        _fit(head, tmp_path / "out" / "s", fields, total=total, options=options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_whole_numbers_and_wrapped_phase_are_refused(head: Any, tmp_path: Path) -> None:
    fields = _fields(head, tmp_path, 300.0)
    whole = [write_image(path, np.round(read_image(path)[0]), read_image(path)[1], {}) for path in fields]
    with pytest.raises(InputError, match=r"f1.nii.gz states no Units and holds whole numbers only"):
        _fit(head, tmp_path / "out" / "s", whole)
    ramp = np.indices(head.mask.shape).sum(axis=0) * 0.5
    wrapped = [
        write_image(path, np.angle(np.exp(1j * (ramp + 20 * field))), affine, {"Units": "ppm"})
        for path, field, affine in zip(fields, head.fields, head.affines, strict=True)
    ]
    with pytest.raises(
        InputError, match=r"f1.nii.gz jumps between -3.1\d* and 3.1\d* at .* pairs of neighbours, as a wrap"
    ):
        _fit(head, tmp_path / "out" / "s", wrapped, total=True, options=SINGLE_STEP)


def test_a_field_that_is_large_for_ppm_is_doubted_aloud(head: Any, tmp_path: Path) -> None:
    fields = _fields(head, tmp_path, 40.0)
    with pytest.warns(Chi33Warning) as said:
        _fit(head, tmp_path / "s", fields)
    assert _says(said, "f1.nii.gz states no Units and is taken as ppm of B0, but 99 % of it lie within 0.5")


def test_b0_beside_a_field_wins_over_its_affine(head: Any, expected: NDArray[np.float32], tmp_path: Path) -> None:
    """Fields brought to one grid, whose affines all say the first scan's direction."""
    directions = [b0_direction_from_affine(affine) for affine in head.affines]
    fields = _fields(head, tmp_path, affines=[head.affines[0]] * 3, Units="ppm")
    mask = [head.truth.path("acq-ori01", suffix="mask", desc="brain")]
    with pytest.raises(
        InputError, match=r"the fields share one grid, .* and .*f1.nii.gz states no B0_dir: give --b0-di"
    ):
        _fit(head, tmp_path / "s", fields, masks=mask, transforms=None)
    for path, h in zip(fields, directions, strict=True):
        sidecar_path(path).write_text(json.dumps({"Units": "ppm", "B0_dir": h.tolist()}))
    found = _fit(head, tmp_path / "s", fields, masks=mask, transforms=None)
    np.testing.assert_allclose(read_image(found[0])[0], expected, atol=1e-5)
    still = [head.truth.transform("acq-ori01")] * 3
    labels = _fit(head, tmp_path / "t", fields, masks=mask, transforms=still)
    np.testing.assert_allclose(read_image(labels[0])[0], expected, atol=1e-5)
    assert read_json(sidecar_path(labels[0]))["B0Directions"] == read_json(sidecar_path(found[0]))["B0Directions"]
    np.savetxt(tmp_path / "h.txt", [directions[0], directions[2], directions[1]])
    with pytest.warns(Chi33Warning) as said:
        other = _fit(head, tmp_path / "u", fields, masks=mask, transforms=None, b0_directions=tmp_path / "h.txt")
    assert _says(said, r"--b0-directions is \d+.\d degrees from the B0_dir .*f2.nii.gz states: --b0-directions is used")
    assert np.abs(read_image(other[0])[0] - expected).max() > 1e-3


def test_labels_follow_the_direction_beside_a_field(head: Any, tmp_path: Path) -> None:
    """delta B' of a scan depends on B0 in its own voxel frame."""
    fields = _fields(head, tmp_path, affines=[head.affines[0]] * 3, Units="ppm")
    mask = [head.truth.path("acq-ori01", suffix="mask", desc="brain")]
    for path, affine in zip(fields, head.affines, strict=True):
        h = b0_direction_from_affine(affine)
        sidecar_path(path).write_text(json.dumps({"Units": "ppm", "B0_dir": h.tolist()}))
    found = _fit(head, tmp_path / "s", fields, masks=mask, transforms=[head.truth.transform("acq-ori01")] * 3)
    own = _fit(head, tmp_path / "own", _fields(head, tmp_path / "own-grids", Units="ppm"))
    assert [path.name.partition("_")[2] for path in found] == [path.name.partition("_")[2] for path in own]
    for mine, theirs in zip(found[2:], own[2:], strict=True):
        np.testing.assert_allclose(read_image(mine)[0], read_image(theirs)[0], atol=2e-5)


def test_masks_and_weights_stored_along_other_axes_are_reordered(
    head: Any, expected: NDArray[np.float32], tmp_path: Path
) -> None:
    ornt = np.array([[2, -1], [0, 1], [1, -1]], float)

    def stored(source: Path, name: str) -> Path:
        image = nib.load(source)
        data = np.asarray(image.dataobj)
        affine = image.affine @ nib.orientations.inv_ornt_aff(ornt, data.shape)
        nib.save(nib.Nifti1Image(nib.apply_orientation(data, ornt), affine), tmp_path / name)
        return tmp_path / name

    masks = [stored(head.truth.path(f"acq-ori{n:02d}", suffix="mask", desc="brain"), f"m{n}.nii.gz") for n in SCANS]
    with pytest.warns(Chi33Warning) as said:
        found = _fit(head, tmp_path / "s", _fields(head, tmp_path, Units="ppm"), masks=masks)
    assert _says(said, r"m1.nii.gz is stored along \w+, but f1.nii.gz along \w+: its voxels were reordered")
    np.testing.assert_allclose(read_image(found[0])[0], expected, atol=1e-6)
    shifted = tmp_path / "shifted.nii.gz"
    image = nib.load(head.truth.path("acq-ori01", suffix="mask", desc="brain"))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine + 5 * np.eye(4, k=3)), shifted)
    with pytest.raises(InputError, match=r"shifted.nii.gz lies elsewhere than f1.nii.gz .* 5 mm apart\): resample it"):
        _fit(head, tmp_path / "t", _fields(head, tmp_path, Units="ppm"), masks=[shifted, *masks[1:]])
    weights, options = [masks[0], shifted, masks[2]], FitOptions(noise=1e-3)
    with pytest.raises(InputError, match=r"shifted.nii.gz lies elsewhere than f2.nii.gz"):
        _fit(head, tmp_path / "t", _fields(head, tmp_path), masks=masks, weights=weights, options=options)


def test_a_field_that_is_smaller_than_its_mask_is_unknown_there(head: Any, tmp_path: Path) -> None:
    inner = head.mask & (np.indices(head.mask.shape)[0] > 8)
    fields = [
        write_image(tmp_path / f"f{n}.nii.gz", field * inner, affine, {"Units": "ppm"})
        for n, field, affine in zip(SCANS, head.fields, head.affines, strict=True)
    ]
    with pytest.warns(Chi33Warning) as said:
        found = _fit(head, tmp_path / "s", fields)
    assert _says(said, r"f1.nii.gz is exactly 0 in \d+% of its mask: those voxels are taken as unknown")
    cosmos = read_image(found[0])[0]
    assert (cosmos[head.mask & ~inner] == 0).all()
    assert np.corrcoef(cosmos[inner], mms(head.tensor)[inner])[0, 1] > 0.75
    outer = write_image(tmp_path / "outer.nii.gz", head.mask & ~inner, head.affines[0], {}, dtype=np.uint8)
    with pytest.raises(InputError, match=r"f1.nii.gz is 0 everywhere in its mask: give the field, and a mask"):
        _fit(head, tmp_path / "t", fields[:1], masks=[outer], transforms=[head.truth.transform("acq-ori01")])


def test_transforms_that_are_the_inverse_are_refused_by_name(head: Any, tmp_path: Path) -> None:
    inverse = []
    for number, matrix in zip(SCANS, head.transforms, strict=True):
        moved = np.linalg.inv(matrix)
        moved[:3, 3] += [12.0 * (number - 1), 0, -8.0 * (number - 1)]
        np.savetxt(tmp_path / f"t{number}.txt", moved)
        inverse.append(tmp_path / f"t{number}.txt")
    affines = [head.affines[0], *(_moved(affine, n) for n, affine in enumerate(head.affines[1:], start=1))]
    masks = [
        write_image(tmp_path / f"m{n}.nii.gz", head.mask, affine, {}, dtype=np.uint8)
        for n, affine in zip(SCANS, affines, strict=True)
    ]
    fields = _fields(head, tmp_path, affines=affines, Units="ppm")
    right = [tmp_path / f"r{n}.txt" for n in SCANS]
    for path, affine in zip(right, affines, strict=True):
        np.savetxt(path, affines[0] @ np.linalg.inv(affine))
    _fit(head, tmp_path / "s", fields, masks=masks, transforms=right)
    for path, affine in zip(inverse, affines, strict=True):
        np.savetxt(path, affine @ np.linalg.inv(affines[0]))
    with pytest.raises(InputError, match=r"t2.txt does not bring f2.nii.gz onto f1.nii.gz .* as the inverse, from the"):
        _fit(head, tmp_path / "t", fields, masks=masks, transforms=inverse)


def _moved(affine: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """A field of view further along, as an operator would place it."""
    result = affine.copy()
    result[:3, 3] += [14.0 * number, -10.0, 9.0 * number]
    return result
