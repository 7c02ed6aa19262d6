"""Transform files that are not what they should be are told by what masks and fields show, and right ones pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.frames import b0_direction_from_affine
from chi33.pipeline.images.resample import resample
from chi33.workflows.interfaces.flirt import world_to_flirt
from chi33.workflows.raw.given_transforms import PlacedScan, check_one_frame, check_placed
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

Matrix = NDArray[np.float64]
SHAPE, SIZE = (48, 52, 44), 4.0
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
LARGE = (((0, 0, 0), (0, 0, 0)), ((22, 5, 3), (4, -9, 6)), ((-18, 8, -4), (-6, 3, 8)), ((4, 20, 9), (2, 8, -5)))
SMALL = (((0, 0, 0), (0, 0, 0)), ((2, 1, -1), (2, -3, 1)), ((-2, 2, 1), (-1, 2, 3)))  # degrees and mm
COARSE = np.diag([SIZE, SIZE, SIZE, 1.0])
COARSE[:3, 3] = -SIZE * np.array(SHAPE) / 2 + 5


def _motion(angles: tuple[float, ...], shift: tuple[float, ...]) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def _head() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A field of veins and nuclei, and a mask that is no ellipsoid of revolution, in the middle of the grid."""
    x, y, z = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * SIZE for n in SHAPE), indexing="ij")
    mask = (x / 60) ** 2 + ((y - 0.1 * z) / 76) ** 2 + ((z + 0.003 * y * y) / 55) ** 2 < 1
    noise = gaussian_filter(np.random.default_rng(5).standard_normal(SHAPE), 0.8)
    return (0.05 * noise).astype(np.float32), mask


def _scans(folder: Path, motions: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]) -> list[PlacedScan]:
    """Scans of one head that moved, all on grids of one field of view; transforms scan to first."""
    field, mask = _head()
    scans = []
    for number, (angles, shift) in enumerate(motions):
        moved = _motion(angles, shift)  # the first scan's world to this one's
        path = folder / f"field{number}.nii.gz"
        values = resample(field, COARSE, COARSE, SHAPE, moved)
        inside = resample(mask.astype(np.float32), COARSE, COARSE, SHAPE, moved, order=1) >= 0.5
        nib.save(nib.Nifti1Image(values, COARSE), path)
        h = b0_direction_from_affine(COARSE)
        scans.append(PlacedScan(path, values * inside, inside, COARSE, h, np.linalg.inv(moved), folder / f"t{number}"))
    return scans


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[PlacedScan]:
    return _scans(tmp_path_factory.mktemp("large"), LARGE)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[PlacedScan]:
    return _scans(tmp_path_factory.mktemp("small"), SMALL)


def _transposed(matrix: Matrix) -> Matrix:
    result = matrix.copy()
    result[:3, :3] = matrix[:3, :3].T
    return result


def _changed(scans: list[PlacedScan], change: Callable[[Matrix, PlacedScan], Matrix]) -> list[PlacedScan]:
    return [replace(scan, transform=change(scan.transform, scan)) for scan in scans]


MISTAKES: dict[str, tuple[Callable[[Matrix, Path, Path], Matrix], str]] = {
    "inverse": (lambda m, *_: np.linalg.inv(m), "the inverse, from the first scan to this one: invert it"),
    "flirt": (world_to_flirt, "a FLIRT matrix: convert it with chi33.workflows.interfaces.flirt.flirt_to_world("),
    "inverse flirt": (lambda *a: np.linalg.inv(world_to_flirt(*a)), "the inverse of a FLIRT matrix: invert it and"),
    "itk": (lambda m, *_: LPS @ np.linalg.inv(m) @ LPS, "an ITK matrix (LPS, from the first scan to this one): invert"),
    "lps": (lambda m, *_: LPS @ m @ LPS, "a matrix in LPS: mirror x and y before and after it"),
    "transposed": (lambda m, *_: _transposed(m), "one with its rotation transposed: transpose the 3x3 part"),
}


@pytest.mark.parametrize("size", ["large", "small"])
def test_right_transforms_pass(size: str, request: pytest.FixtureRequest) -> None:
    assert check_placed(request.getfixturevalue(size)) == []


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("size", ["large", "small"])
def test_every_mistake_is_named_with_its_remedy(size: str, mistake: str, request: pytest.FixtureRequest) -> None:
    scans = request.getfixturevalue(size)
    change, advice = MISTAKES[mistake]
    wrong = _changed(scans, lambda matrix, scan: change(matrix, scan.path, scans[0].path))
    expected = r"t1 does not bring field1.nii.gz onto field0.nii.gz \(masks overlap by 0.\d\d and fields correlate by "
    with pytest.raises(InputError, match=f"{expected}.*, but would as {re.escape(advice)}") as error:
        check_placed(wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("angles", "shift"), [((4, 0, 0), (0, 0, 0)), ((0, -3, 3), (0, 0, 0)), ((0, 0, 0), (2, -2, 1))]
)
def test_a_transform_some_degrees_or_millimetres_off_is_named(
    large: list[PlacedScan], angles: tuple[float, ...], shift: tuple[float, ...]
) -> None:
    wrong = [*large[:2], replace(large[2], transform=_motion(angles, shift) @ large[2].transform), large[3]]
    (doubt,) = check_placed(wrong)
    said = re.fullmatch(
        r".*/field2.nii.gz lies (\d\.\d) mm and (\d\.\d) degrees from where its field fits field0.nii.gz best: check "
        r".*/t2\.", doubt,
    )  # fmt: skip
    assert said, doubt
    assert float(said[2]) == pytest.approx(np.linalg.norm(angles), abs=0.5)


def test_one_wrong_file_among_right_ones_is_found(large: list[PlacedScan]) -> None:
    wrong = [*large[:2], replace(large[2], transform=np.linalg.inv(large[2].transform)), large[3]]
    with pytest.raises(InputError, match=r"t2 does not bring field2.nii.gz .* as the inverse"):
        check_placed(wrong)


def test_files_in_another_order_are_found(large: list[PlacedScan]) -> None:
    wrong = [
        large[0], replace(large[1], transform=large[2].transform), replace(large[2], transform=large[1].transform),
        large[3],
    ]  # fmt: skip
    with pytest.raises(
        InputError, match=r"t1 does not bring .* as .*t2: give fields, masks and transforms in one order"
    ):
        check_placed(wrong)


def test_fields_in_one_frame_already_need_no_transforms(large: list[PlacedScan]) -> None:
    there = [
        replace(
            scan,
            field=resample(scan.field, COARSE, COARSE, SHAPE, scan.transform),
            mask=resample(scan.mask.astype(np.float32), COARSE, COARSE, SHAPE, scan.transform, order=1) >= 0.5,
        )
        for scan in large
    ]
    with pytest.raises(InputError, match="as no transform at all, so the fields seem to lie in one frame already"):
        check_placed(there)
    assert check_one_frame(there) == []
    apart = [there[0], replace(there[1], mask=np.roll(there[1].mask, 20, 0), field=np.roll(there[1].field, 20, 0))]
    with pytest.raises(InputError, match=r"field1.nii.gz does not lie in one frame with field0.nii.gz"):
        check_one_frame(apart)


def test_eroded_masks_and_cut_fields_of_view_pass(large: list[PlacedScan]) -> None:
    inner = gaussian_filter(large[1].mask * 1.0, 1.5) > 0.9
    half = large[2].mask & (np.indices(SHAPE)[2] > 20)
    cut = np.s_[:, :, 14:]
    shifted = COARSE.copy()
    shifted[2, 3] += 14 * SIZE
    scans = [
        large[0],
        replace(large[1], mask=inner),
        replace(large[2], mask=half),
        replace(large[3], field=large[3].field[cut], mask=large[3].mask[cut], affine=shifted),
    ]
    assert check_placed(scans) == []
    with pytest.raises(InputError, match="as the inverse"):
        check_placed(_changed(scans, lambda matrix, _: np.linalg.inv(matrix)))


def test_masks_alone_tell_where_the_fields_are_noise(large: list[PlacedScan]) -> None:
    rng = np.random.default_rng(2)
    noisy = [replace(scan, field=rng.standard_normal(SHAPE).astype(np.float32) * scan.mask) for scan in large]
    doubts = check_placed(noisy)
    assert len(doubts) == 3
    assert "has little in common with field0.nii.gz where it is placed" in doubts[0]
    with pytest.raises(InputError, match="as the inverse"):
        check_placed(_changed(noisy, lambda matrix, _: np.linalg.inv(matrix)))


def test_transforms_that_no_mistake_explains(large: list[PlacedScan]) -> None:
    far = _motion((70, 0, 40), (35, -50, 40))
    wrong = [large[0], replace(large[1], transform=far @ large[1].transform), *large[2:]]
    with pytest.raises(InputError, match=r"t1 does not bring .*: check that it is world to world \(RAS, mm\)"):
        check_placed(wrong)
    first = [replace(large[0], transform=far), *large[1:]]
    with pytest.raises(
        InputError, match=r"t0 does not bring field0.nii.gz onto the other scans, which lie on one anoth"
    ):
        check_placed(first)


def test_scans_across_one_another_pass(tmp_path: Path) -> None:
    """With B0 across, fields look opposite or unlike: no mistake, and no doubt."""
    scans = _scans(tmp_path, (LARGE[0], ((88, 0, 0), (0, 4, 0))))
    opposite = [scans[0], replace(scans[1], field=-0.5 * scans[1].field)]
    assert check_placed(opposite) == []
