"""Nipype interfaces over all scans of a subject: masks given and agreed on, the mean reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.files.derivatives import read_image, read_transform, write_image, write_transform
from chi33.files.errors import InputError
from chi33.pipeline.frames import rotation_and_scale, rotation_angle
from chi33.pipeline.images.morphology import dice
from chi33.workflows.interfaces import frame as frame_interfaces
from chi33.workflows.interfaces.frame import GivenMask, MaskConsensus, MeanOfScans, read_given_mask

SHAPE = (24, 26, 22)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes an input image and returns its path."""

    def write(name: str, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
        return str(write_image(tmp_path / "in" / f"{name}.nii.gz", array, affine, {}))

    return write


def _run(interface: Any, folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    found: dict[str, Any] = interface.run(cwd=str(folder)).outputs.get()
    return found


def _ball(radius: float, centre: tuple[float, float, float] = (46.0, 50.0, 42.0)) -> np.ndarray:
    axes = np.meshgrid(*(np.arange(n) * 4.0 for n in SHAPE), indexing="ij")
    return np.sqrt(sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))) < radius


def test_a_given_mask_is_taken_as_it_is(save: Save, tmp_path: Path) -> None:
    ball = _ball(30)
    given, image = save("given", 1.0 * ball), save("image", 100.0 * _ball(38) + 1)
    found, affine = read_image(Path(_run(GivenMask(given_file=given, in_file=image), tmp_path / "node")["mask_file"]))
    np.testing.assert_array_equal(found > 0, ball)
    np.testing.assert_allclose(affine, AFFINE)


@pytest.mark.parametrize(("mask", "affine", "message"), [
    (_ball(30)[:-1], AFFINE, r"given.nii.gz has shape \(23, 26, 22\), but its scan has \(24, 26, 22\)"),
    (0 * _ball(30), AFFINE, r"given.nii.gz is empty"),
    (_ball(30) * 0.5 + _ball(20) * 0.25, AFFINE, r"given.nii.gz is not binary"),
    (_ball(30), AFFINE + np.eye(4, k=3) * 9, r"given.nii.gz lies 9.0 mm from its scan"),
    (~_ball(38), AFFINE, r"given.nii.gz touches no head"),
])  # fmt: skip
def test_a_given_mask_that_does_not_fit_is_named(
    save: Save, mask: np.ndarray, affine: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_given_mask(save("given", 1.0 * mask, affine), save("image", 100.0 * _ball(38) + 1))


def test_a_mask_that_disagrees_is_repaired_and_recorded(save: Save, tmp_path: Path) -> None:
    shifts = [np.eye(4) for _ in range(4)]
    for index, shift in enumerate(shifts):
        shift[:3, 3] = [4.0 * index, 0, -4.0 * index]
    true = [_ball(30, (46.0 - 4 * i, 50.0, 42.0 + 4 * i)) for i in range(4)]
    masks = [m.copy() for m in true]
    masks[2][:, :11] = False
    found = _run(
        MaskConsensus(
            mask_files=[save(f"mask{i}", 1.0 * m) for i, m in enumerate(masks)],
            transform_files=[str(write_transform(tmp_path / f"t{i}.txt", shift)) for i, shift in enumerate(shifts)],
        ),
        tmp_path / "node",
    )  # fmt: skip
    for index, (path, record_path) in enumerate(zip(found["mask_files"], found["record_files"], strict=True)):
        mask, _ = read_image(Path(path))
        assert dice(mask > 0, true[index]) > 0.97
        record = json.loads(Path(record_path).read_text())
        if index == 2:
            assert "with the consensus, below" in record["MaskRepaired"]
            assert record["MaskConsensusDice"] < 0.9
        else:
            assert record["MaskRepaired"] is None
            assert record["MaskConsensusDice"] > 0.97
            np.testing.assert_array_equal(mask > 0, masks[index])


def test_the_mean_of_scans_has_its_own_frame_and_every_transform_to_it(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a registration that finds nothing to change, the mean frame is that of the transforms given."""
    whole = frame_interfaces.mean_reference
    seen = []

    def without_rounds(scans: Any) -> Any:
        seen.extend(scans)
        mean = whole(scans, rounds=0)
        return type(mean)(mean.magnitude, mean.affine, mean.brain, mean.transforms, (0.9, 0.8))

    monkeypatch.setattr(frame_interfaces, "mean_reference", without_rounds)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    image, times = 100.0 * _ball(30) + 1, [0.004, 0.008]
    files = [[save(f"scan{s}-{e}", image * np.exp(-e)) for e in range(2)] for s in range(2)]
    found = _run(
        MeanOfScans(
            magnitude_files=files, echo_times=[times, times], mask_files=[save("mask", 1.0 * _ball(30))] * 2,
            transform_files=[str(write_transform(tmp_path / f"t{i}.txt", t)) for i, t in enumerate((np.eye(4), turn))],
        ),
        tmp_path / "node",
    )  # fmt: skip
    transforms = [read_transform(Path(path)) for path in found["transform_files"]]
    angles = [rotation_angle(rotation_and_scale(one)[0]) for one in transforms]
    assert angles == pytest.approx([np.degrees(0.15)] * 2, abs=1e-3)
    between = np.linalg.inv(transforms[0]) @ transforms[1]
    np.testing.assert_allclose(between[:3, :3], turn[:3, :3], atol=1e-6)
    mean, affine = read_image(Path(found["mean_file"]))
    brain, brain_affine = read_image(Path(found["brain_file"]))
    np.testing.assert_allclose(affine, brain_affine)
    assert mean.shape == brain.shape
    assert set(np.unique(brain)) == {0, 1}
    qualities = [json.loads(Path(path).read_text()) for path in found["quality_files"]]
    assert [one["Quality"] for one in qualities] == [0.9, 0.8]
    assert qualities[0]["RotationDegrees"] == pytest.approx(np.degrees(0.15), abs=1e-3)
    assert all(scan.mask is not None and scan.steady is not None for scan in seen)
