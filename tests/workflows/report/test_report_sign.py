"""The sign of the phase, judged deep in the brain: right whatever the mask holds at its edge, silent where unclear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chi33.files.derivatives import Derivatives, read_image
from chi33.pipeline.frames import voxel_size
from chi33.workflows.report.checks import check_sign
from chi33.workflows.report.measures import SubjectMeasures
from chi33.workflows.report.sign import SIGN_DEPTH, SignEvidence, sign_evidence
from report_scene import SHAPE, chi_map, ellipsoid
from scipy import ndimage

SIZE = (5.0, 5.0, 5.0)


def test_the_map_of_a_brain_has_the_right_sign_and_its_negative_the_flipped_one() -> None:
    brain = ellipsoid(3.0)
    chi = chi_map(0, brain)
    right, flipped = sign_evidence(chi, brain, SIZE), sign_evidence(-chi, brain, SIZE)
    assert right is not None
    assert flipped is not None
    assert (right.verdict, flipped.verdict) == ("right", "flipped")
    assert right.share == pytest.approx(1 - flipped.share, abs=0.02)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("edge", [-0.5, 0.5])
def test_strong_sources_of_either_sign_near_the_edge_do_not_matter(sign: int, edge: float) -> None:
    brain = ellipsoid(3.0)
    chi = sign * chi_map(0, brain)
    rim = brain & (ndimage.distance_transform_edt(brain, sampling=SIZE) < SIGN_DEPTH - 1)
    with_skull = np.where(rim, edge, chi)
    found = sign_evidence(with_skull, brain, SIZE)
    assert found is not None
    assert found.verdict == ("right" if sign > 0 else "flipped")


@pytest.mark.parametrize("subject", ["01", "02"])
def test_simulated_heads_whose_masks_hold_skull_are_judged_right(simulated: Path, subject: str) -> None:
    files = Derivatives(simulated / "derivatives" / "truth", subject)
    chi, affine = read_image(files.path(suffix="Chimap", desc="cosmos", space="subject"))
    size = voxel_size(affine)
    brain = read_image(files.path(suffix="mask", desc="brain", space="subject"))[0] > 0
    mask = ndimage.distance_transform_edt(~brain, sampling=size) < 9
    skull = np.random.default_rng(3).normal(0, 0.3, chi.shape) - 0.2
    for sign, verdict in ((1, "right"), (-1, "flipped")):
        found = sign_evidence(sign * np.where(mask & ~brain, skull, chi), mask, size)
        assert found is not None
        assert found.verdict == verdict


@pytest.mark.parametrize("chi", [
    np.random.default_rng(1).normal(0, 0.02, SHAPE),  # noise: as many dark as bright
    np.zeros(SHAPE),
], ids=["noise", "nothing"])  # fmt: skip
def test_what_has_no_skew_says_nothing_of_the_sign(chi: np.ndarray) -> None:
    brain = ellipsoid(3.0)
    found = sign_evidence(chi * brain, brain, SIZE)
    assert found is None or found.verdict == "unclear"
    assert all(check.warnings == () for check in check_sign(SubjectMeasures(sign=found), {}))


def test_a_small_brain_has_nothing_deep_enough() -> None:
    assert sign_evidence(chi_map(0, ellipsoid(45.0)), ellipsoid(45.0), SIZE) is None


@pytest.mark.parametrize(("share", "asymmetry", "said"), [
    (0.95, 0.3, "as expected"), (0.5, 0.0, "cannot tell"), (0.9, -0.2, "cannot tell"), (0.02, -0.3, "look"),
])  # fmt: skip
def test_only_clear_evidence_is_called_a_flipped_sign(share: float, asymmetry: float, said: str) -> None:
    found = SubjectMeasures(sign=SignEvidence(share, asymmetry, 300.0))
    (check,) = check_sign(found, {"parameters": {"phase_sign": -1}})
    assert check.verdict == said
    if said == "look":
        assert check.warnings[0].endswith("the sign of the phase seems flipped; set --phase-sign 1.")
        (check,) = check_sign(found, {})
        assert check.warnings[0].endswith("set --phase-sign -1.")
    else:
        assert check.warnings == ()
