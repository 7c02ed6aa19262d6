"""`chi33 fit` from the command line, on the true local fields of a simulated head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.pipeline.frames import b0_direction_from_affine
from chi33.workflows.derivatives import Derivatives, read_image, read_json, sidecar_path, write_image

SCANS = ("acq-ori01", "acq-ori02", "acq-ori03")


@pytest.fixture
def truth(simulated: Path) -> Derivatives:
    return Derivatives(simulated / "derivatives" / "truth", "01")


def _words(truth: Derivatives) -> list[object]:
    fields = [truth.path(scan, suffix="fieldmap", desc="local") for scan in SCANS]
    masks = [truth.path(scan, suffix="mask", desc="brain") for scan in SCANS]
    return ["--field", *fields, "--mask", *masks, "--transform", *(truth.transform(scan) for scan in SCANS)]


def _agreement(path: Path, truth: Path, mask: Path) -> tuple[float, float]:
    """Correlation with the truth, and slope on it."""
    inside = read_image(mask)[0] > 0
    found, true = read_image(path)[0][inside], read_image(truth)[0][inside]
    return float(np.corrcoef(found, true)[0, 1]), float(np.polyfit(true, found, 1)[0])


def test_labels_from_true_fields_are_near_the_truth(
    command: Callable[..., Any], truth: Derivatives, tmp_path: Path
) -> None:
    ended = command("fit", tmp_path / "sub-01", *_words(truth))
    assert ended.code == 0
    assert "warning: 3 scans cannot determine the six tensor components alone" in ended.err
    written = [Path(line) for line in ended.out.split()]
    assert len(written) == 2 + 3 * len(SCANS)
    assert all(path.is_file() and read_json(sidecar_path(path))["Units"] == "ppm" for path in written)
    for number, scan in enumerate(SCANS, start=1):
        mask = truth.path(scan, suffix="mask", desc="brain")
        for what, true in (("chi33", "chi33"), ("cosmos", "cosmos")):
            path = tmp_path / f"sub-01_scan-{number:02d}_{what}.nii.gz"
            correlation, slope = _agreement(path, truth.path(scan, suffix="Chimap", desc=true), mask)
            assert correlation > 0.85
            assert 0.7 < slope < 1.1


def test_existing_maps_are_refused_without_overwrite(
    command: Callable[..., Any], truth: Derivatives, tmp_path: Path
) -> None:
    assert command("fit", tmp_path / "s", *_words(truth)).code == 0
    ended = command("fit", tmp_path / "s", *_words(truth))
    assert ended.code == 2
    assert ended.err.endswith("s_cosmos.nii.gz exists already: pass --overwrite to replace it.\n")
    ended = command("fit", tmp_path / "s", *_words(truth), "--overwrite", "--prior-aniso", "0.001", "--noise", "0.002")
    assert ended.code == 0
    sidecar = read_json(tmp_path / "s_tensor.json")
    assert (sidecar["PriorAnisoPpm"], sidecar["FieldNoisePpm"]) == (0.001, 0.002)


def test_fields_in_one_frame_with_a_table_of_directions(
    command: Callable[..., Any], turning_head: Any, tmp_path: Path
) -> None:
    head = turning_head
    directions = np.array([b0_direction_from_affine(affine) for affine in head.affines])
    np.savetxt(tmp_path / "h.txt", directions)
    fields = [
        write_image(tmp_path / f"field{i}.nii.gz", field * head.mask, head.affines[0], {})
        for i, field in enumerate(head.fields)
    ]
    mask = head.truth.path("acq-ori01", suffix="mask", desc="brain")
    words = ["fit", tmp_path / "s", "--field", *fields, "--mask", mask, "--b0-directions", tmp_path / "h.txt"]
    ended = command(*words)
    assert ended.code == 0
    assert [Path(line).name for line in ended.out.split()] == ["s_cosmos.nii.gz", "s_tensor.nii.gz"]
    ended = command("fit", tmp_path / "t", *words[2:-2])
    assert ended.code == 2
    assert "give either --b0-directions (fields in one frame) or --transform" in ended.err


def test_wrong_counts_are_named(command: Callable[..., Any], truth: Derivatives, tmp_path: Path) -> None:
    ended = command("fit", tmp_path / "s", *_words(truth)[:-1])
    assert ended.code == 2
    assert "3 fields but 2 transforms were given: give one a field." in ended.err
    assert command("fit", tmp_path / "s").code == 2
    assert list(tmp_path.iterdir()) == []
