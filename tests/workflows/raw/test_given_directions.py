"""Scans that were resampled to one grid before: B0 beside them, by an option, or nowhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.cli.plan import directions_from_transforms
from chi33.files.derivatives import Derivatives, read_image, read_json, sidecar_path, write_transform
from chi33.files.errors import InputError, StepError
from chi33.pipeline.frames import b0_direction_from_affine
from chi33.workflows.config import RunConfig
from chi33.workflows.raw.dataset import find_subjects
from chi33.workflows.raw.given_directions import read_directions, shared_direction_problem, with_directions
from chi33.workflows.run import run_participants
from scipy.spatial.transform import Rotation

SCANS = (1, 2, 3)
CLOSED = RunConfig(backend="fsl", fit="closed", noise=0.002)
NAMES = [f"acq-ori{number:02d}" for number in SCANS]


@pytest.fixture(scope="module")
def head(make_head: Callable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A head whose scans see the same voxels on grids of their own."""
    return make_head(tmp_path_factory.mktemp("own") / "raw", turns=((0, 0), (25, 8), (-12, 30)))


@pytest.fixture(scope="module")
def aligned(head: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same scans on the grid of the first, as resampling leaves them; where B0 lay is told nowhere."""
    folder = tmp_path_factory.mktemp("aligned") / "raw"
    shutil.copytree(head.folder, folder)
    for path in folder.rglob("*.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), head.affines[0]), path)
    one = replace(head, folder=folder, affines=(head.affines[0],) * len(head.affines))
    for name in NAMES:
        write_transform(one.truth.transform(name), np.eye(4))
    return one


def _directions(head: Any) -> list[list[float]]:
    """B0 along the array axes of each scan, which are those of the common grid."""
    return [b0_direction_from_affine(affine).round(8).tolist() for affine in head.affines]


def _stated(head: Any, aligned: Any, folder: Path) -> Any:
    """The aligned scans with B0_dir in the sidecars."""
    shutil.copytree(aligned.folder, folder)
    one = replace(aligned, folder=folder)
    for number, h in zip(SCANS, _directions(head), strict=True):
        for path in folder.rglob(f"sub-01_acq-ori{number:02d}_echo-*.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "B0_dir": h}))
    return one


def _without_truth(head: Any, folder: Path) -> Path:
    shutil.copytree(head.folder / "sub-01", folder / "sub-01")
    return folder


def _labels(out: Path) -> dict[str, Any]:
    places = Derivatives(out, "01")
    names = (("chi33", "Chimap"), ("deltab", "fieldmap"), ("cosmos", "Chimap"))
    return {
        f"{name} {desc}": read_image(places.path(name, desc=desc, suffix=suffix))[0]
        for name in NAMES for desc, suffix in names
    }  # fmt: skip


def test_labels_of_aligned_scans_are_those_of_the_scans_as_they_were(
    head: Any, aligned: Any, make_stand_ins: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def use_fsl(one: Any) -> None:
        tools = make_stand_ins(tmp_path / f"fsl-{one.folder.parent.name}", one.folder)
        for key, value in tools.environment.items():
            monkeypatch.setenv(key, value)

    use_fsl(head)
    run_participants(head.folder, tmp_path / "own", config=CLOSED, n_procs=1)
    expected = _labels(tmp_path / "own")
    use_fsl(aligned)
    stated = _stated(head, aligned, tmp_path / "stated")
    # The option wins over what the sidecars say, and does what they would.
    rows = tmp_path / "h.txt"
    rows.write_text("".join(f"{x}, {y}, {z}\n" for x, y, z in _directions(head)))
    option = replace(CLOSED, b0_directions=str(rows))
    run_participants(aligned.folder, tmp_path / "one", config=option, n_procs=1)
    assert with_directions(find_subjects(aligned.folder), rows)[0].scans[1].b0_direction == pytest.approx(
        find_subjects(stated.folder)[0].scans[1].b0_direction
    )
    for name, label in _labels(tmp_path / "one").items():
        size = np.std(expected[name][head.mask])
        assert np.std((label - expected[name])[head.mask]) < 0.05 * size, name
    places = Derivatives(tmp_path / "one", "01")
    for number, name in enumerate(NAMES):
        record = read_json(sidecar_path(places.path(name, desc="chi33", suffix="Chimap")))
        np.testing.assert_allclose(record["B0_dir"], _directions(head)[number], atol=1e-6)
    # The plan says the same of the raw scans, of what the run wrote, and of the scans as they were.
    own = directions_from_transforms(tmp_path / "own")["01"]
    for folder in (_without_truth(stated, tmp_path / "plain"), tmp_path / "one"):
        np.testing.assert_allclose(directions_from_transforms(folder)["01"], own, atol=1e-5)


def test_aligned_scans_without_directions_are_refused_with_what_to_give(
    aligned: Any, use_fsl: Callable, tmp_path: Path
) -> None:
    use_fsl(aligned)
    sentence = (
        "the scans share one grid and the heads in them lie alike .to 0.0 degrees.* state B0_dir .* or give --b0-"
    )
    with pytest.raises((InputError, StepError), match=sentence):
        run_participants(aligned.folder, tmp_path / "out", config=CLOSED, n_procs=1)
    with pytest.raises(InputError, match=r"share one grid and acq-ori01, acq-ori02, acq-ori03 states no B0_dir"):
        directions_from_transforms(_without_truth(aligned, tmp_path / "raw"))


def test_rotated_heads_on_one_grid_need_no_directions() -> None:
    def rotated(degrees: float) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
        return matrix

    grid, h = ((30, 32, 28), np.diag([2.0, 2, 2, 1])), (0.0, 0.0, 1.0)
    moved = (grid[0], np.array([[2.0, 0, 0, 9], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]))
    alike = [np.eye(4), rotated(0.2), rotated(-3)]
    assert shared_direction_problem([grid] * 3, [np.eye(4), rotated(20), rotated(-3)], [None] * 3) == ""
    assert "the heads in them lie alike (to 3.0 degrees)" in shared_direction_problem([grid] * 3, alike, [None] * 3)
    assert shared_direction_problem([grid] * 3, alike, [h, None, h])
    assert shared_direction_problem([grid] * 3, alike, [h] * 3) == ""
    assert shared_direction_problem([grid, grid, moved], alike, [None] * 3) == ""


@pytest.mark.parametrize(("text", "message"), [
    ("0 0 1\n", "holds 1 directions for 3 scans of 1 subject"),
    ("0 0 1\n0 1\n0 0 1\n", "line 2 of .* is '0 1': give three numbers"),
    ("0 0 1\n0 0 2\n0 0 1\n", r"line 2 of .* must be a unit vector"),
    ("# nothing\n", "holds no direction"),
    ("acq-ori01 0 0 1\nacq-ori02 0 0.6 0.8\n", "holds 0 lines of sub-01_acq-ori03: give one with its name"),
])  # fmt: skip
def test_files_of_directions_that_do_not_fit_are_refused(aligned: Any, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "h.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        run_participants(
            aligned.folder, tmp_path / "out", config=replace(CLOSED, backend="builtin", b0_directions=str(path))
        )
    assert not (tmp_path / "out").exists()


def test_directions_are_given_by_name_or_in_order(aligned: Any, tmp_path: Path) -> None:
    subjects = find_subjects(aligned.folder)
    path = tmp_path / "h.txt"
    path.write_text("sub-01_acq-ori02 0 0.6 0.8\nori01 0 0 1\nacq-ori03 0.6 0 0.8  # leaned to the right\n")
    (named,) = with_directions(subjects, path)
    path.write_text("0 0 1\n\n0 0.6 0.8\n0.6,0,0.8\n")
    (ordered,) = with_directions(subjects, path)
    expected = [(0, 0, 1), (0, 0.6, 0.8), (0.6, 0, 0.8)]
    assert [scan.b0_direction for scan in named.scans] == [scan.b0_direction for scan in ordered.scans] == expected
    assert [h for _, h in read_directions(path)] == expected
    assert with_directions(subjects, None) == list(subjects)
