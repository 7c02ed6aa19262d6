"""`chi33 fit` from the command line: on the true local fields of a simulated head, and on a small turning one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.files.derivatives import Derivatives, read_image, read_json, sidecar_path, write_image
from chi33.pipeline.fits import execution
from chi33.pipeline.frames import b0_direction_from_affine
from chi33.pipeline.physics.tensors import mms

SCANS = ("acq-ori01", "acq-ori02", "acq-ori03")
LABELS = ("chi33", "deltab", "cosmos")
QUICK = ("--fit", "closed", "--noise", "0.001")  # where the method is not the point
Words = list[object]


@pytest.fixture
def truth(simulated: Path) -> Derivatives:
    return Derivatives(simulated / "derivatives" / "truth", "01")


@pytest.fixture
def words(turning_head: Any, tmp_path: Path) -> Words:
    """The true local fields of a turning head, its masks and transforms, as options."""
    head, folder = turning_head, tmp_path / "in"
    fields = [
        write_image(folder / f"{scan}.nii.gz", field * head.mask, affine, {"Units": "ppm"})
        for scan, field, affine in zip(SCANS, head.fields, head.affines, strict=True)
    ]
    masks = [head.truth.path(scan, suffix="mask", desc="brain") for scan in SCANS]
    return ["--field", *fields, "--mask", *masks, "--transform", *(head.truth.transform(scan) for scan in SCANS)]


def _truth_words(truth: Derivatives) -> Words:
    fields = [truth.path(scan, suffix="fieldmap", desc="local") for scan in SCANS]
    masks = [truth.path(scan, suffix="mask", desc="brain") for scan in SCANS]
    return ["--field", *fields, "--mask", *masks, "--transform", *(truth.transform(scan) for scan in SCANS)]


def _agreement(path: Path, truth: Path, mask: Path) -> tuple[float, float]:
    """Correlation with the truth, and slope on it."""
    inside = read_image(mask)[0] > 0
    found, true = read_image(path)[0][inside], read_image(truth)[0][inside]
    return float(np.corrcoef(found, true)[0, 1]), float(np.polyfit(true, found, 1)[0])


def _said(ended: Any) -> list[str]:
    """What a command said on its error stream, but for the lines of progress."""
    return [line for line in ended.err.splitlines() if ": iteration " not in line]


def test_labels_from_true_fields_are_near_the_truth(
    command: Callable[..., Any], truth: Derivatives, tmp_path: Path
) -> None:
    ended = command("fit", tmp_path / "sub-01", *_truth_words(truth), "--iterations", "8")
    assert ended.code == 0
    warnings = _said(ended)
    assert all(line.startswith("chi33: warning: ") for line in warnings)
    assert any("3 scans cannot determine the six tensor components alone" in line for line in warnings)
    assert "tensor: iteration 1, chi33 changes by " in ended.err
    written = [Path(line) for line in ended.out.split()]
    assert len(written) == 2 + 3 * len(SCANS)
    assert all(path.is_file() and read_json(sidecar_path(path))["Fit"] == "masked" for path in written)
    for number, scan in enumerate(SCANS, start=1):
        mask = truth.path(scan, suffix="mask", desc="brain")
        for what in ("chi33", "cosmos"):
            path = tmp_path / f"sub-01_scan-{number:02d}_{what}.nii.gz"
            correlation, slope = _agreement(path, truth.path(scan, suffix="Chimap", desc=what), mask)
            assert correlation > 0.85
            assert 0.7 < slope < 1.1


@pytest.mark.parametrize(("options", "method"), [
    ((), "masked"),
    (("--fit", "masked"), "masked"),
    (("--fit", "closed"), "closed"),
    (("--total",), "single-step"),
    (("--fit", "single-step"), "single-step"),
    (("--total", "--fit", "single-step"), "single-step"),
])  # fmt: skip
def test_the_kind_of_field_and_the_method_go_together(
    command: Callable[..., Any], words: Words, tmp_path: Path, options: tuple[str, ...], method: str
) -> None:
    ended = command("fit", tmp_path / "s", *words, *options, "--iterations", "2", "--noise", "0.001")
    assert ended.code == 0
    sidecar = read_json(tmp_path / "s_tensor.json")
    assert sidecar["Fit"] == method
    assert ("RadiiMm" in sidecar) == (method == "single-step")
    if method != "closed":
        assert (sidecar["Iterations"], sidecar["StoppedBy"]) == (2, "iteration limit")


@pytest.mark.parametrize("method", ["masked", "closed"])
def test_total_fields_are_kept_from_the_fits_of_local_ones(
    command: Callable[..., Any], words: Words, tmp_path: Path, method: str
) -> None:
    ended = command("fit", tmp_path / "s", *words, "--total", "--fit", method)
    assert ended.code == 2
    assert ended.err == (
        f"chi33: --total goes with --fit single-step, got --fit {method}: that fit takes local fields, so remove the "
        "background first, or leave out --fit.\n"
    )


def test_every_option_is_recorded(command: Callable[..., Any], words: Words, turning_head: Any, tmp_path: Path) -> None:
    weights = [
        write_image(tmp_path / "in" / f"w{number}.nii.gz", 5.0 * turning_head.mask, affine, {})
        for number, affine in enumerate(turning_head.affines)
    ]
    ended = command(
        "fit", tmp_path / "s", *words, "--total", "--weights", *weights, "--prior-iso", "0.05",
        "--prior-aniso", "0.002", "--noise", "0.003", "--iterations", "3", "--tolerance", "0.0001", "--radii", "18",
        "15", "--draws", "2", "--jackknife", "3", "--seed", "9", "--dask", "threads", "--memory", "4", "--device",
        "cpu", "--prior-correlation", "4", "--white-matter", "none",
    )  # fmt: skip
    assert ended.code == 0
    sidecar = read_json(tmp_path / "s_scan-02_chi33sd.json")
    assert sidecar.items() >= {
        "Fit": "single-step", "Weights": "file", "PriorIsoPpm": 0.05, "PriorAnisoPpm": 0.002, "FieldNoisePpm": 0.003,
        "IterationLimit": 3, "StoppingTolerance": 0.0001, "RadiiMm": [18.0, 15.0], "UncertaintyDraws": 2,
        "UncertaintyJackknifeGroups": 3, "UncertaintySeed": 9, "WhiteMatter": "none", "PriorCorrelationMm": 4.0,
    }.items()  # fmt: skip
    assert [line for line in _said(ended) if "warning" not in line] == [
        *(f"draw {i} of 2" for i in (1, 2)), *(f"jackknife group {i} of 3" for i in (1, 2, 3)),
    ]  # fmt: skip


def test_units_by_hand_reach_the_fields(command: Callable[..., Any], words: Words, tmp_path: Path) -> None:
    assert command("fit", tmp_path / "s", *words, *QUICK).code == 0
    factor = 2 * np.pi * 42.577478518 * 7 * 0.01
    for path in words[1:4]:
        field, affine = read_image(Path(str(path)))
        write_image(Path(str(path)), factor * field, affine, {})
    ended = command("fit", tmp_path / "t", *words, *QUICK, "--units", "rad", "--b0", "7", "--te", "10")
    assert ended.code == 0
    said = "acq-ori01.nii.gz and 2 more are in rad at 7 T (--b0) and TE 10 ms: multiplied by 0.0534 to ppm.\n"
    assert said in ended.err
    first, second = (read_image(tmp_path / f"{name}_cosmos.nii.gz")[0] for name in "st")
    np.testing.assert_allclose(first, second, atol=1e-5)
    ended = command("fit", tmp_path / "u", *words, *QUICK, "--units", "rad", "--b0", "7")
    assert (ended.code, "its echo time is not known: state EchoTime (s)" in ended.err) == (2, True)
    ended = command("fit", tmp_path / "u", *words, *QUICK, "--units", "gal")
    assert ended.code == 2
    assert "--units must be ppm, ppb, Hz, rad/s, rad or T, got 'gal'" in ended.err
    assert not list(tmp_path.glob("u_*"))


def test_draws_are_written_beside_the_labels(command: Callable[..., Any], words: Words, tmp_path: Path) -> None:
    ended = command("fit", tmp_path / "s", *words, *QUICK, "--draws", "2")
    assert ended.code == 0
    scans = [f"scan-{i:02d}" for i in (1, 2, 3)]
    expected = {"s_cosmos", "s_tensor", "s_cosmossd"}
    expected |= {f"s_{scan}_{what}" for scan in scans for what in (*LABELS, "chi33sd", "deltabsd")}
    assert {Path(line).name for line in ended.out.split()} == {f"{name}.nii.gz" for name in expected}
    assert {path.name for path in tmp_path.glob("s_*")} == {f"{n}{e}" for n in expected for e in (".nii.gz", ".json")}
    for name in ("s_cosmossd", "s_scan-01_chi33sd", "s_scan-03_deltabsd"):
        sidecar = read_json(tmp_path / f"{name}.json")
        assert (sidecar["Units"], sidecar["UncertaintyDraws"]) == ("ppm", 2)
        assert sidecar["UncertaintyLeavesOut"].startswith("residues of background removal")
        assert read_image(tmp_path / f"{name}.nii.gz")[0].max() > 0


def test_a_singular_set_is_solved_by_the_prior_and_refused_without(
    command: Callable[..., Any], words: Words, turning_head: Any, tmp_path: Path
) -> None:
    ended = command("fit", tmp_path / "s", *words, *QUICK)
    why = "3 scans cannot determine the six tensor components alone"
    assert ended.code == 0
    assert f"chi33: warning: {why}: the prior supplies the rest.\n" in ended.err
    assert any(why in warning for warning in read_json(tmp_path / "s_cosmos.json")["Warnings"])
    inside = turning_head.mask
    found = read_image(tmp_path / "s_cosmos.nii.gz")[0][inside]
    assert np.corrcoef(found, mms(turning_head.tensor)[inside])[0, 1] > 0.85
    ended = command("fit", tmp_path / "t", *words, *QUICK, "--prior-aniso", "inf")
    assert ended.code == 2
    assert ended.err.startswith(f"chi33: {why}: add at least 3 scans")
    assert ended.err.endswith("or fit with a prior on the tensor's anisotropy.\n")
    assert ended.err.count("\n") == 1
    assert not list(tmp_path.glob("t_*"))


def test_existing_maps_are_refused_without_overwrite(command: Callable[..., Any], words: Words, tmp_path: Path) -> None:
    assert command("fit", tmp_path / "s", *words, *QUICK).code == 0
    ended = command("fit", tmp_path / "s", *words, *QUICK)
    assert ended.code == 2
    assert ended.err.endswith("s_cosmos.nii.gz exists already: pass --overwrite to replace it.\n")
    more = ("--fit", "closed", "--overwrite", "--prior-aniso", "0.001", "--noise", "0.002")
    assert command("fit", tmp_path / "s", *words, *more).code == 0
    sidecar = read_json(tmp_path / "s_tensor.json")
    assert (sidecar["PriorAnisoPpm"], sidecar["FieldNoisePpm"]) == (0.001, 0.002)


def test_fields_in_one_frame_with_a_table_of_directions(
    command: Callable[..., Any], turning_head: Any, tmp_path: Path
) -> None:
    head = turning_head
    directions = np.array([b0_direction_from_affine(affine) for affine in head.affines])
    np.savetxt(tmp_path / "h.txt", directions)
    fields = [
        write_image(tmp_path / f"field{i}.nii.gz", field * head.mask, head.affines[0], {"Units": "ppm"})
        for i, field in enumerate(head.fields)
    ]
    mask = head.truth.path("acq-ori01", suffix="mask", desc="brain")
    words = ["fit", tmp_path / "s", "--field", *fields, "--mask", mask, "--b0-directions", tmp_path / "h.txt", *QUICK]
    ended = command(*words)
    assert ended.code == 0
    assert [Path(line).name for line in ended.out.split()] == ["s_cosmos.nii.gz", "s_tensor.nii.gz"]
    ended = command("fit", tmp_path / "t", *words[2:-6])
    assert ended.code == 2
    assert "states no B0_dir: give --b0-directions, or B0_dir (unit vector along the array axes) in every" in ended.err
    np.savetxt(tmp_path / "h.txt", 1.2 * directions)
    ended = command("fit", tmp_path / "t", *words[2:])
    assert ended.code == 2
    assert ended.err == (
        f"chi33: row 1 of {tmp_path / 'h.txt'} must be a unit vector, got |h| = 1.2: normalise it, or pass the affine "
        "to b0_direction_from_affine.\n"
    )


def test_wrong_counts_are_named(command: Callable[..., Any], words: Words, tmp_path: Path) -> None:
    ended = command("fit", tmp_path / "s", *words[:-1])
    assert ended.code == 2
    assert "3 fields but 2 transforms were given: give one a field." in ended.err
    ended = command("fit", tmp_path / "s", *words, "--weights", words[1])
    assert (ended.code, ended.err) == (2, "chi33: 3 fields but 1 weights were given: give one a field.\n")
    assert command("fit", tmp_path / "s").code == 2
    assert not list(tmp_path.glob("s_*"))


@pytest.mark.parametrize(("factor", "message"), [
    (0, "must hold weights that are finite, not negative and not all zero inside the mask of acq-ori01.nii.gz.\n"),
    (-1, "must hold weights that are finite, not negative and not all zero inside the mask of acq-ori01.nii.gz.\n"),
    (None, "has shape (20, 26, 20), but acq-ori01.nii.gz has (24, 26, 20): put both on one grid.\n"),
])  # fmt: skip
def test_weights_that_do_not_do_are_named(
    command: Callable[..., Any], words: Words, turning_head: Any, tmp_path: Path, factor: int | None, message: str
) -> None:
    volume = turning_head.mask[:20] * 1.0 if factor is None else turning_head.mask * float(factor)
    weight = write_image(tmp_path / "in" / "w.nii.gz", volume, turning_head.affines[0], {})
    ended = command("fit", tmp_path / "s", *words, "--weights", weight, weight, weight)
    assert (ended.code, ended.err) == (2, f"chi33: {weight} {message}")
    assert not list(tmp_path.glob("s_*"))


@pytest.mark.parametrize(("options", "message"), [
    (("--draws", "1"), "one draw gives no standard deviation: ask for at least 2, or 0 for none."),
    (("--draws", "-1"), "draws and jackknife groups must not be negative, got -1 and 0."),
    (("--jackknife", "-3"), "draws and jackknife groups must not be negative, got 0 and -3."),
    (("--iterations", "0"), "iterations must be at least 1, got 0."),
    (("--tolerance", "-1"), "tolerance must not be negative, got -1.0."),
    (("--noise", "0"), "noise must be a positive standard deviation in ppm, got 0.0."),
    (("--prior-iso", "0"), "prior.iso must be a positive standard deviation in ppm (inf: no prior), got 0.0."),
    (("--memory", "0"), "memory must be a positive number of GB, got 0.0."),
    (("--device", "gpu"), "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'."),
    (("--total", "--radii", "0"), "radii must be positive lengths in mm, got [0.0]."),
    (("--dask", "tcp://127.0.0.1:1"),
     "the Dask scheduler at tcp://127.0.0.1:1 did not answer within 0.2 s: start it, or check the address and the "
     "firewall."),
])  # fmt: skip
def test_values_that_cannot_be_are_refused_in_one_sentence(
    command: Callable[..., Any], words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(execution, "CONNECT_TIMEOUT", 0.2)
    ended = command("fit", tmp_path / "s", *words, *options)
    assert (ended.code, ended.err) == (2, f"chi33: {message}\n")
    assert not list(tmp_path.glob("s_*"))


def test_a_mask_that_touches_no_other_is_named(
    command: Callable[..., Any], words: Words, turning_head: Any, tmp_path: Path
) -> None:
    left = np.indices(turning_head.mask.shape)[0] < 11
    masks = [
        write_image(tmp_path / "in" / f"m{i}.nii.gz", turning_head.mask & (left if i == 1 else ~left), affine, {})
        for i, affine in enumerate(turning_head.affines)
    ]
    ended = command("fit", tmp_path / "s", *words[:4], "--mask", *masks, *words[8:])
    assert ended.code == 2
    assert ended.err == (f"chi33: the mask of {words[2]} touches no other scan's mask: check its transform and mask.\n")
