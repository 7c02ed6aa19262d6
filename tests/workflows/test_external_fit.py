"""Fits of fields made elsewhere, from files to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.pipeline.errors import Chi33Warning, InputError
from chi33.pipeline.fits.closed_form import Prior
from chi33.pipeline.frames import b0_direction_from_affine
from chi33.pipeline.tensor_field import tensor_field
from chi33.pipeline.tensors import chi33 as apparent
from chi33.pipeline.tensors import mms
from chi33.workflows.derivatives import read_image, read_json, sidecar_path, write_image, write_transform
from chi33.workflows.external_fit import fit_files

HEXAGON = [(0, 0), (25, 0), (-25, 0), (0, 25), (0, -25), (18, 18), (-18, 18)]  # degrees about x and y


@pytest.fixture
def files(make_head: Callable, tmp_path: Path) -> dict[str, Any]:
    """True local fields of a turning head on grids of their own, with masks and transforms."""
    head = make_head(tmp_path / "raw", turns=tuple(HEXAGON))
    names = [f"acq-ori{i + 1:02d}" for i in range(len(HEXAGON))]
    fields = [
        write_image(tmp_path / f"{name}.nii.gz", field * head.mask, affine, {})
        for name, field, affine in zip(names, head.fields, head.affines, strict=True)
    ]
    return {
        "head": head,
        "fields": fields,
        "masks": [head.truth.path(name, suffix="mask", desc="brain") for name in names],
        "transforms": [head.truth.transform(name) for name in names],
    }


def _correlation(path: Path, truth: np.ndarray, mask: np.ndarray) -> float:
    return float(np.corrcoef(read_image(path)[0][mask], truth[mask])[0, 1])


def test_labels_of_every_scan_on_its_own_grid(files: dict[str, Any], tmp_path: Path) -> None:
    head = files["head"]
    written = fit_files(tmp_path / "fit" / "s", files["fields"], files["masks"], transforms=files["transforms"])
    names = [path.name for path in written]
    assert names[:2] == ["s_cosmos.nii.gz", "s_tensor.nii.gz"]
    assert names[2:5] == [f"s_scan-01_{what}.nii.gz" for what in ("chi33", "deltab", "cosmos")]
    assert len(names) == 2 + 3 * len(HEXAGON)
    assert sorted(path.name for path in (tmp_path / "fit").glob("*.nii.gz")) == sorted(names)
    assert _correlation(written[0], mms(head.tensor), head.mask) > 0.93
    tensor, affine = read_image(written[1])
    assert tensor.shape == (6, *head.mask.shape)
    np.testing.assert_allclose(affine, head.affines[0], atol=1e-5)
    for component in (0, 3, 5):
        pair = tensor[component][head.mask], head.world_tensor[component][head.mask]
        assert np.corrcoef(*pair)[0, 1] > 0.9
    for scan, matrix in enumerate(head.affines):
        found = written[2 + 3 * scan]
        np.testing.assert_allclose(read_image(found)[1], matrix, atol=1e-5)
        truth = apparent(head.tensor, b0_direction_from_affine(matrix))
        assert _correlation(found, truth, head.mask) > 0.93
    for path in written:
        assert read_json(sidecar_path(path))["Units"] == "ppm"
    sidecar = read_json(sidecar_path(written[0]))
    assert sidecar["Sources"] == [path.name for path in files["fields"]]
    assert sidecar["TensorRank"] == 6


def test_directions_of_fields_in_one_frame(files: dict[str, Any], tmp_path: Path) -> None:
    """The same fields on one grid, with B0 stated along its axes: the same maps as with transforms."""
    head = files["head"]
    directions = np.array([b0_direction_from_affine(matrix) for matrix in head.affines])
    np.savetxt(tmp_path / "h.txt", directions, delimiter=", ")
    fields = [
        write_image(tmp_path / f"one{i}.nii.gz", field * head.mask, head.affines[0], {})
        for i, field in enumerate(head.fields)
    ]
    found = fit_files(tmp_path / "one", fields, files["masks"][:1], b0_directions=tmp_path / "h.txt", noise=1e-4)
    assert [path.name for path in found] == ["one_cosmos.nii.gz", "one_tensor.nii.gz"]
    other = fit_files(tmp_path / "own", files["fields"], files["masks"], transforms=files["transforms"], noise=1e-4)
    for mine, theirs in zip(found, other, strict=False):
        np.testing.assert_allclose(read_image(mine)[0], read_image(theirs)[0], atol=2e-4)
    sidecar = read_json(sidecar_path(found[0]))
    assert sidecar["FieldNoisePpm"] == 1e-4
    world = np.array([matrix[:3, :3] @ [0, 0, 1] for matrix in head.transforms])
    np.testing.assert_allclose(sidecar["B0Directions"], world, atol=1e-6)


def test_the_prior_is_used_and_recorded(files: dict[str, Any], tmp_path: Path) -> None:
    arguments = (files["fields"], files["masks"])
    strict = fit_files(
        tmp_path / "strict", *arguments, transforms=files["transforms"], prior=Prior(0.03, 1e-6), noise=1e-3
    )
    tensor, _ = read_image(strict[1])
    assert np.abs(tensor[[1, 2, 4]]).max() < 1e-2 * np.abs(tensor[0]).max()
    assert read_json(sidecar_path(strict[1]))["PriorAnisoPpm"] == 1e-6


def test_a_singular_set_is_solved_by_the_prior_with_a_warning(files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.warns(Chi33Warning, match="3 scans cannot determine the six tensor components alone"):
        fit_files(tmp_path / "three", files["fields"][:3], files["masks"][:3], transforms=files["transforms"][:3])


def test_existing_files_are_kept_without_overwrite(files: dict[str, Any], tmp_path: Path) -> None:
    arguments = (tmp_path / "s", files["fields"], files["masks"])
    written = fit_files(*arguments, transforms=files["transforms"])
    before = [path.stat().st_mtime_ns for path in written]
    with pytest.raises(InputError, match=r"s_cosmos.nii.gz exists already: pass --overwrite"):
        fit_files(*arguments, transforms=files["transforms"])
    assert [path.stat().st_mtime_ns for path in written] == before
    fit_files(*arguments, transforms=files["transforms"], overwrite=True)
    assert all(path.stat().st_mtime_ns > time for path, time in zip(written, before, strict=True))


def _spoil(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    volume, affine = read_image(path)
    spoilt = path.with_name(f"spoilt_{path.name}")
    nib.save(nib.Nifti1Image(change(volume), affine), spoilt)
    return spoilt


def _with_nan(volume: np.ndarray) -> np.ndarray:
    out = volume.copy()
    out[12, 13, 10] = np.nan
    return out


Faulty = dict[str, Any]
FAULTS: dict[str, tuple[Callable[[dict[str, Any], Path], Faulty], str]] = {
    "too few transforms": (
        lambda files, folder: {"transforms": files["transforms"][:-1]},
        "7 fields but 6 transforms were given: give one a field",
    ),
    "too few masks": (lambda files, folder: {"masks": files["masks"][:2]}, "7 fields but 2 masks were given"),
    "neither": (lambda files, folder: {"transforms": None}, "give either --b0-directions .* or --transform"),
    "no transform file": (
        lambda files, folder: {"transforms": [folder / "none.txt", *files["transforms"][1:]]},
        "none.txt is no matrix",
    ),
    "no field file": (
        lambda files, folder: {"fields": [folder / "none.nii.gz", *files["fields"][1:]]},
        "none.nii.gz does not exist",
    ),
    "mask of other shape": (
        lambda files, folder: {"masks": [_spoil(files["masks"][0], lambda v: v[:-1]), *files["masks"][1:]]},
        r"has shape \(23, 26, 20\), but acq-ori01.nii.gz has \(24, 26, 20\)",
    ),
    "empty mask": (
        lambda files, folder: {"masks": [_spoil(files["masks"][0], lambda v: v * 0), *files["masks"][1:]]},
        "is empty: give a mask of the brain",
    ),
    "NaN": (
        lambda files, folder: {"fields": [_spoil(files["fields"][0], _with_nan), *files["fields"][1:]]},
        "holds NaN or infinity inside its mask",
    ),
    "4-D field": (
        lambda files, folder: {"fields": [_spoil(files["fields"][0], lambda v: np.stack([v] * 2, -1))] * 7},
        "give a 3-D field map",
    ),
    "mask that touches nothing": (
        lambda files, folder: {
            "transforms": [
                write_transform(folder / "far.txt", np.eye(4) + 400 * np.eye(4, k=3)),
                *files["transforms"][1:],
            ]
        },
        "touches no other scan's mask",
    ),
    "one scan": (
        lambda files, folder: {key: files[key][:1] for key in ("fields", "masks", "transforms")},
        "only one orientation was given",
    ),
    "same orientation twice": (
        lambda files, folder: {key: files[key][:1] * 2 for key in ("fields", "masks", "transforms")},
        r"All B0 directions lie within 0\.0 degrees of one another",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_nothing_is_written(files: dict[str, Any], tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    arguments = {key: files[key] for key in ("fields", "masks", "transforms")} | change(files, tmp_path)
    with pytest.raises(InputError, match=message) as error:
        fit_files(tmp_path / "out" / "s", **arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0 1\n0 0.6 0.8\n", "holds 2 rows of 3: give three numbers for each of 7 fields"),
        ("zero zero one\n", "holds no table of numbers"),
        ("0 0 1\n" * 6 + "0 0 2\n", "row 7 of .*h.txt must be a unit vector"),
        ("0 0 1\n" * 7, "is on another grid than .*: resample it, or give --transform"),
    ],
)
def test_faults_of_the_directions(files: dict[str, Any], tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "h.txt"
    path.write_text(text)
    fields = files["fields"] if "another grid" in message else files["fields"][:1] * 7
    with pytest.raises(InputError, match=message):
        fit_files(tmp_path / "s", fields, files["masks"], b0_directions=path)
    with pytest.raises(InputError, match="give either"):
        fit_files(tmp_path / "s", fields, files["masks"], b0_directions=path, transforms=files["transforms"])


def test_a_field_of_the_wrong_sign_turns_the_map(files: dict[str, Any], tmp_path: Path) -> None:
    head = files["head"]
    turned = [write_image(path.with_name(f"neg_{path.name}"), -read_image(path)[0], read_image(path)[1], {})
              for path in files["fields"]]  # fmt: skip
    found = fit_files(tmp_path / "neg", turned, files["masks"], transforms=files["transforms"])
    assert _correlation(found[0], mms(head.tensor), head.mask) < -0.9
    field = tensor_field(head.tensor, (6, 6, 7), b0_direction_from_affine(head.affines[0]))
    np.testing.assert_allclose(field, head.fields[0], atol=1e-6)
