"""Fits of fields made elsewhere, from files to files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.files.derivatives import read_image, read_json, sidecar_path, write_image, write_transform
from chi33.files.errors import Chi33Warning, InputError
from chi33.pipeline.fits import execution
from chi33.pipeline.fits.methods import FitOptions
from chi33.pipeline.frames import b0_direction_from_affine
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensor_field import tensor_field
from chi33.pipeline.physics.tensors import chi33 as apparent
from chi33.pipeline.physics.tensors import mms
from chi33.workflows.external_fit import fit_files
from scipy import ndimage

HEXAGON = [(0, 0), (25, 0), (-25, 0), (0, 25), (0, -25), (18, 18), (-18, 18)]  # degrees about x and y
CLOSED = FitOptions("closed", noise=1e-3)  # where the method is not the point


@pytest.fixture(scope="module")
def files(make_head: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """True local fields of a turning head on grids of their own, with masks and transforms; read only."""
    folder = tmp_path_factory.mktemp("external")
    head = make_head(folder / "raw", turns=tuple(HEXAGON))
    names = [f"acq-ori{i + 1:02d}" for i in range(len(HEXAGON))]
    fields = [
        write_image(folder / f"{name}.nii.gz", field * head.mask, affine, {})
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
        sidecar = read_json(sidecar_path(path))
        assert (sidecar["Units"], sidecar["Fit"], sidecar["Weights"]) == ("ppm", "masked", "mask")
        assert sidecar["StoppedBy"] in ("tolerance", "iteration limit")
        assert {"Iterations", "IterationLimit", "StoppingTolerance", "LastRelativeChange"} <= sidecar.keys()
    sidecar = read_json(sidecar_path(written[0]))
    assert sidecar["Sources"] == [path.name for path in files["fields"]]
    assert sidecar["TensorRank"] == 6
    assert read_json(sidecar_path(written[5]))["Sources"] == ["acq-ori02.nii.gz"]


def test_directions_of_fields_in_one_frame(files: dict[str, Any], tmp_path: Path) -> None:
    """The same fields on one grid, with B0 stated along its axes: the same maps as with transforms."""
    head = files["head"]
    directions = np.array([b0_direction_from_affine(matrix) for matrix in head.affines])
    np.savetxt(tmp_path / "h.txt", directions, delimiter=", ")
    fields = [
        write_image(tmp_path / f"one{i}.nii.gz", field * head.mask, head.affines[0], {})
        for i, field in enumerate(head.fields)
    ]
    options = FitOptions(noise=1e-3, iterations=6)
    found = fit_files(tmp_path / "one", fields, files["masks"][:1], b0_directions=tmp_path / "h.txt", options=options)
    assert [path.name for path in found] == ["one_cosmos.nii.gz", "one_tensor.nii.gz"]
    other = fit_files(
        tmp_path / "own", files["fields"], files["masks"], transforms=files["transforms"], options=options
    )
    for mine, theirs in zip(found, other, strict=False):
        np.testing.assert_allclose(read_image(mine)[0], read_image(theirs)[0], atol=2e-4)
    sidecar = read_json(sidecar_path(found[0]))
    assert (sidecar["FieldNoisePpm"], sidecar["Iterations"], sidecar["IterationLimit"]) == (1e-3, 6, 6)
    world = np.array([matrix[:3, :3] @ [0, 0, 1] for matrix in head.transforms])
    np.testing.assert_allclose(sidecar["B0Directions"], world, atol=1e-6)


def test_the_prior_is_used_and_recorded(files: dict[str, Any], tmp_path: Path) -> None:
    arguments = (files["fields"], files["masks"])
    options = FitOptions("closed", prior=Prior(0.03, 1e-5), noise=1e-3)
    strict = fit_files(tmp_path / "strict", *arguments, transforms=files["transforms"], options=options)
    tensor, _ = read_image(strict[1])
    assert np.abs(tensor[[1, 2, 4]]).max() < 1e-2 * np.abs(tensor[0]).max()
    assert read_json(sidecar_path(strict[1]))["PriorAnisoPpm"] == 1e-5


def test_a_noisy_scan_is_named_and_counts_less(files: dict[str, Any], tmp_path: Path) -> None:
    bad, affine = read_image(files["fields"][3])
    mask = read_image(files["masks"][3])[0] > 0
    noise = 0.008 * np.random.default_rng(0).standard_normal(bad.shape)
    fields = [*files["fields"]]
    fields[3] = write_image(tmp_path / "bad.nii.gz", bad + noise * mask, affine, {"Units": "ppm"})
    sentence = r"What the fit leaves of the field of bad\.nii\.gz is 0\.0\d+ ppm, \d+\.\d times that of the median scan"
    with pytest.warns(Chi33Warning, match=sentence):
        written = fit_files(
            tmp_path / "noisy", fields, files["masks"], transforms=files["transforms"],
            options=FitOptions("masked", iterations=8),
        )  # fmt: skip
    sidecar = read_json(sidecar_path(written[0]))
    noises = np.array(sidecar["ScanNoisePpm"])
    assert np.argmax(noises) == 3
    alone = noises[3] / sidecar["NoiseCorrelation"]
    assert 0.003 < alone < 0.02  # all are raised alike where their median is below 1 ppb
    assert any(re.match(sentence, warning) for warning in sidecar["Warnings"])


def _three(files: dict[str, Any]) -> dict[str, Any]:
    """Three scans about one axis."""
    return {"fields": files["fields"][:3], "masks": files["masks"][:3], "transforms": files["transforms"][:3]}


def test_a_singular_set_is_solved_by_the_prior_with_a_warning(files: dict[str, Any], tmp_path: Path) -> None:
    sentence = "3 scans cannot determine the six tensor components alone, and these are turns about one axis only"
    with (
        pytest.warns(Chi33Warning, match=f"{sentence}: the prior supplies the rest"),
        pytest.warns(Chi33Warning, match="COSMOS is weakly determined: errors of the fields grow by up to 18.2 at"),
    ):
        written = fit_files(tmp_path / "three", **_three(files), options=CLOSED)
    for path in written:
        cosmos, tensor = read_json(sidecar_path(path))["Warnings"]
        assert cosmos.startswith("COSMOS is weakly determined")
        assert tensor.startswith(sentence)
    assert np.isfinite(read_image(written[1])[0]).all()


@pytest.mark.parametrize("method", ["closed", "masked", "single-step"])
def test_without_a_prior_a_singular_set_is_refused(files: dict[str, Any], tmp_path: Path, method: Any) -> None:
    options = FitOptions(method, prior=Prior(aniso=np.inf))
    with pytest.raises(InputError, match=r"3 scans cannot .* or fit with a prior on the tensor's anisotropy"):
        fit_files(tmp_path / "three", **_three(files), total=method == "single-step", options=options)
    assert list(tmp_path.iterdir()) == []


def _with_background(files: dict[str, Any], folder: Path) -> list[Path]:
    """The fields with that of sources outside the brain: solid harmonics, others in each scan, jumps at the edge."""
    head = files["head"]
    x, y, z = np.meshgrid(*((np.arange(n) - n / 2) / n for n in head.mask.shape), indexing="ij")
    x, y, z = (x * 24 * 6, y * 26 * 6, z * 20 * 7)  # mm
    paths = []
    for number, path in enumerate(files["fields"]):
        field, affine = read_image(path)
        background = 0.4 + 2e-3 * (number - 3) * x - 3e-3 * z + 3e-5 * (x * y + (number + 1) * (x**2 - z**2))
        assert background[head.mask].std() > 2 * field[head.mask].std()
        paths.append(write_image(folder / f"total{number}.nii.gz", (field + background) * head.mask, affine, {}))
    return paths


def test_a_background_changes_nothing_of_the_single_step_fit(files: dict[str, Any], tmp_path: Path) -> None:
    options = FitOptions("single-step", noise=2e-3, iterations=10, radii=(16.0,))
    arguments = {"masks": files["masks"], "transforms": files["transforms"], "total": True, "options": options}
    clean = fit_files(tmp_path / "clean", files["fields"], **arguments)
    total = fit_files(tmp_path / "total", _with_background(files, tmp_path), **arguments)
    head = files["head"]
    deep = ndimage.distance_transform_edt(head.mask, sampling=(6, 6, 7)) > 16
    truth = mms(head.tensor)
    assert _correlation(total[0], truth, deep) > 0.9
    for one, other in zip(clean, total, strict=True):
        first, second = read_image(one)[0][..., deep], read_image(other)[0][..., deep]
        assert np.linalg.norm(first - second) < 0.03 * np.linalg.norm(first), one.name
    sidecar = read_json(sidecar_path(total[0]))
    assert (sidecar["Fit"], sidecar["RadiiMm"], sidecar["IterationsCosmos"]) == ("single-step", [16.0], 10)
    assert sidecar["StoppedBy"] in ("iteration limit", "tolerance")


def test_total_fields_go_through_the_single_step_fit_alone(files: dict[str, Any], tmp_path: Path) -> None:
    for total, method, kind in ((True, "masked", "local"), (False, "single-step", "total")):
        with pytest.raises(InputError, match=f"the {method} fit takes {kind} fields: see --total and --fit"):
            fit_files(tmp_path / "s", **_three(files), total=total, options=FitOptions(method))  # type: ignore[arg-type]


def _weights(files: dict[str, Any], folder: Path) -> list[Path]:
    """Weights of 40 (arbitrary units), but a tenth in half of the second scan."""
    head, paths = files["head"], []
    for number, path in enumerate(files["fields"]):
        weight = 40.0 * head.mask
        if number == 1:
            weight[:12] *= 0.1
        paths.append(write_image(folder / f"weight{number}.nii.gz", weight, read_image(path)[1], {}))
    return paths


def test_weights_quieten_what_is_noisy(files: dict[str, Any], tmp_path: Path) -> None:
    field, affine = read_image(files["fields"][1])
    noise = np.random.default_rng(0).standard_normal(field.shape) * np.abs(field).max()
    noise[12:] = 0
    noisy = write_image(tmp_path / "noisy.nii.gz", (field + noise) * files["head"].mask, affine, {})
    fields = [files["fields"][0], noisy, *files["fields"][2:]]
    arguments = {"transforms": files["transforms"], "options": FitOptions(noise=2e-3, iterations=8)}
    flat = fit_files(tmp_path / "flat", fields, files["masks"], **arguments)
    weighted = fit_files(tmp_path / "weighted", fields, files["masks"], weights=_weights(files, tmp_path), **arguments)
    truth, mask = mms(files["head"].tensor), files["head"].mask
    errors = [
        np.linalg.norm((read_image(found[0])[0] - truth + truth[mask].mean())[mask]) for found in (flat, weighted)
    ]
    assert errors[1] < 0.9 * errors[0]  # where the fit leaves much, voxels count less without a weight already
    assert read_json(sidecar_path(weighted[0]))["Weights"] == "file"


@pytest.mark.parametrize(("change", "message"), [
    (lambda w: w[:-1], r"weight1.nii.gz has shape \(23, 26, 20\), but acq-ori02.nii.gz has \(24, 26, 20\)"),
    (lambda w: 0 * w, "weight1.nii.gz must hold weights that are finite, not negative and not all zero inside"),
    (lambda w: w - 5, "weight1.nii.gz must hold weights that are finite, not negative"),
    (lambda w: np.where(w > 0, np.nan, w), "weight1.nii.gz must hold weights that are finite"),
    (lambda w: w * (np.indices(w.shape)[0] < 9), "the weights of .*acq-ori02.nii.gz are zero in most of its mask"),
    (None, "7 fields but 6 weights were given: give one a field"),
])  # fmt: skip
def test_faults_of_the_weights(
    files: dict[str, Any], tmp_path: Path, change: Callable[[np.ndarray], np.ndarray] | None, message: str
) -> None:
    weights = _weights(files, tmp_path)
    if change is None:
        weights = weights[:-1]
    else:
        nib.save(nib.Nifti1Image(change(read_image(weights[1])[0]), read_image(weights[1])[1]), weights[1])
    with pytest.raises(InputError, match=message):
        fit_files(
            tmp_path / "out" / "s", files["fields"], files["masks"], transforms=files["transforms"], weights=weights
        )
    assert not (tmp_path / "out").exists()


def test_weights_are_no_use_to_the_closed_form(files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the closed fit counts all voxels the same: leave out --weights"):
        fit_files(tmp_path / "s", **_three(files), weights=files["masks"][:3], options=CLOSED)


def test_draws_write_standard_deviations_beside_the_labels(files: dict[str, Any], tmp_path: Path) -> None:
    options = replace(CLOSED, draws=2, seed=4)
    written = fit_files(
        tmp_path / "s", files["fields"], files["masks"], transforms=files["transforms"], options=options
    )
    names = [path.name for path in written]
    assert len(set(names)) == len(names) == 3 + 5 * len(HEXAGON)
    assert sorted(names) == sorted(path.name for path in tmp_path.glob("*.nii.gz"))
    deviations = [path for path in written if path.name.removesuffix(".nii.gz").endswith("sd")]
    assert [path.name for path in deviations[:3]] == [
        "s_cosmossd.nii.gz", "s_scan-01_chi33sd.nii.gz", "s_scan-01_deltabsd.nii.gz",
    ]  # fmt: skip
    mask = files["head"].mask
    for path in deviations:
        volume, affine = read_image(path)
        scan = int(path.name.partition("scan-")[2][:2] or 1)
        np.testing.assert_allclose(affine, files["head"].affines[scan - 1], atol=1e-5)
        assert (volume[mask] > 0).all()
        assert volume[mask].max() < 0.1
        sidecar = read_json(sidecar_path(path))
        assert (sidecar["Units"], sidecar["Fit"]) == ("ppm", "closed")
        assert (sidecar["UncertaintyDraws"], sidecar["UncertaintyJackknifeGroups"]) == (2, 0)
        assert sidecar["UncertaintySeed"] == 4
        assert "background removal" in sidecar["UncertaintyLeavesOut"]


def test_the_jackknife_writes_them_too_on_the_one_grid(files: dict[str, Any], tmp_path: Path) -> None:
    directions = [b0_direction_from_affine(matrix) for matrix in files["head"].affines]
    np.savetxt(tmp_path / "h.txt", directions)
    fields = [
        write_image(tmp_path / f"one{i}.nii.gz", read_image(path)[0], files["head"].affines[0], {})
        for i, path in enumerate(files["fields"])
    ]
    found = fit_files(
        tmp_path / "s",
        fields,
        files["masks"][:1],
        b0_directions=tmp_path / "h.txt",
        options=replace(CLOSED, jackknife=3),
    )
    parts = [
        "cosmos",
        "tensor",
        "cosmossd",
        *(f"scan-{i:02d}_{w}" for i in range(1, 8) for w in ("chi33sd", "deltabsd")),
    ]
    assert [path.name for path in found] == [f"s_{part}.nii.gz" for part in parts]
    sidecar = read_json(sidecar_path(found[-1]))
    assert (sidecar["UncertaintyDraws"], sidecar["UncertaintyJackknifeGroups"]) == (0, 3)
    np.testing.assert_allclose(read_image(found[-1])[1], files["head"].affines[0], atol=1e-5)


def test_a_scheduler_that_does_not_answer_is_refused_before_anything_is_prepared(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr("chi33.workflows.external_fit.to_subject_frame", lambda *a, **k: pytest.fail("prepared"))
    for dask, message in (
        ("tcp://127.0.0.1:1", r"the Dask scheduler at tcp://127.0.0.1:1 did not answer within 0.2 s: start it, or"),
        ("somewhere", "dask must be 'threads', 'local' or the address of a scheduler .*, got 'somewhere'"),
    ):
        with pytest.raises(InputError, match=message):
            fit_files(tmp_path / "s", **_three(files), dask=dask)
    for memory in (0.0, -1.0):
        with pytest.raises(InputError, match=f"memory must be a positive number of GB, got {memory}"):
            fit_files(tmp_path / "s", **_three(files), memory=memory)
    with pytest.raises(InputError, match="device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"):
        fit_files(tmp_path / "s", **_three(files), device="gpu")
    assert list(tmp_path.iterdir()) == []


def test_a_mask_that_touches_no_other_is_named(files: dict[str, Any], tmp_path: Path) -> None:
    masks, columns = [], np.indices(files["head"].mask.shape)[0]
    for number, path in enumerate(files["masks"]):
        mask, affine = read_image(path)
        part = columns < 8 if number == 3 else columns > 12
        masks.append(write_image(tmp_path / "masks" / f"m{number}.nii.gz", mask * part, affine, {}))
    with pytest.raises(InputError, match=r"the mask of .*acq-ori04.nii.gz touches no other scan's mask: check its"):
        fit_files(tmp_path / "out" / "s", files["fields"], masks, transforms=files["transforms"])
    assert not (tmp_path / "out").exists()


def test_progress_is_said(files: dict[str, Any], tmp_path: Path) -> None:
    lines: list[str] = []
    options = FitOptions(noise=1e-3, iterations=1)
    fit_files(
        tmp_path / "s", files["fields"], files["masks"], transforms=files["transforms"], options=options,
        progress=lines.append,
    )  # fmt: skip
    assert [line.partition(":")[0] for line in lines] == ["units", "tensor", "COSMOS"]
    assert lines[0] == "units: 7 of 7 fields state no Units and are taken as ppm of B0 (see --units)"


def test_existing_files_are_kept_without_overwrite(files: dict[str, Any], tmp_path: Path) -> None:
    arguments = (tmp_path / "s", files["fields"], files["masks"])
    written = fit_files(*arguments, transforms=files["transforms"], options=CLOSED)
    before = [path.stat().st_mtime_ns for path in written]
    with pytest.raises(InputError, match=r"s_cosmos.nii.gz exists already: pass --overwrite"):
        fit_files(*arguments, transforms=files["transforms"])
    assert [path.stat().st_mtime_ns for path in written] == before
    fit_files(*arguments, transforms=files["transforms"], options=CLOSED, overwrite=True)
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
    "neither, on one grid": (
        lambda files, folder: {"transforms": None, "fields": files["fields"][:1] * 7, "masks": files["masks"][:1]},
        "the fields share one grid, whose affine gives all the same direction of B0, and .*ori01.nii.gz states no B0_d",
    ),
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
        "is empty: give a mask of ones in the brain",
    ),
    "NaN": (
        lambda files, folder: {"fields": [_spoil(files["fields"][0], _with_nan), *files["fields"][1:]]},
        "holds NaN or infinity in 1 voxels inside its mask",
    ),
    "4-D field": (
        lambda files, folder: {"fields": [_spoil(files["fields"][0], lambda v: np.stack([v] * 2, -1))] * 7},
        r"has shape \(24, 26, 20, 2\): give one 3-D volume",
    ),
    "scan out of view": (
        lambda files, folder: {
            "transforms": [
                write_transform(folder / "far.txt", np.eye(4) + 400 * np.eye(4, k=3)),
                *files["transforms"][1:],
            ]
        },
        "far.txt does not bring acq-ori01.nii.gz onto the other scans, which lie on one another .*: it is the identity",
    ),
    "flattened transform": (
        lambda files, folder: {
            "transforms": [
                *files["transforms"][:-1],
                write_transform(folder / "flat.txt", np.diag([1.0, 1.0, 0.0, 1.0])),
            ]
        },
        "flat.txt has determinant 0, but a head cannot be mirrored or flattened",
    ),
    "one scan": (
        lambda files, folder: {key: files[key][:1] for key in ("fields", "masks", "transforms")},
        "only one orientation was given",
    ),
    "same orientation twice": (
        lambda files, folder: {key: files[key][:1] * 2 for key in ("fields", "masks", "transforms")},
        "the fields share one grid, all transforms are the identity, and .*ori01.nii.gz states no B0_dir, so nothing",
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
    found = fit_files(tmp_path / "neg", turned, files["masks"], transforms=files["transforms"], options=CLOSED)
    assert _correlation(found[0], mms(head.tensor), head.mask) < -0.9
    field = tensor_field(head.tensor, (6, 6, 7), b0_direction_from_affine(head.affines[0]))
    np.testing.assert_allclose(field, head.fields[0], atol=1e-6)
