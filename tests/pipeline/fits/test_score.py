"""The held-out score: what a fit of the other scans misses of a scan's field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.fits.methods import FitOptions, fit_fields
from chi33.pipeline.fits.score import check_score
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensor_field import tensor_field
from chi33.pipeline.physics.tensors import isotropic
from fit_checks import directions
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SIZE, NOISE = (2.0, 2.0, 2.0), 1e-3
H = directions(5, 35.0)
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def ball() -> tuple[list[Array], NDArray[np.bool_]]:
    """Noisy fields of an isotropic ball of smooth susceptibility at five orientations, and its mask."""
    shape = (25, 23, 24)
    grid = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    inside = (grid**2).sum(axis=0) < 10**2
    chi = gaussian_filter(np.random.default_rng(1).standard_normal(shape), 1.2) * inside
    tensor = isotropic((0.03 * chi / chi[inside].std()).astype(np.float32))
    rng = np.random.default_rng(0)
    noisy = [tensor_field(tensor, SIZE, h, padding=16.0) + NOISE * rng.standard_normal(shape) for h in H]
    return [(field * inside).astype(np.float32) for field in noisy], inside


def scored(ball: tuple, method: str = "masked", fields: list[Array] | None = None, **options: Any) -> dict[str, Any]:
    given, inside = ball
    used = FitOptions(method=method, radii=(6.0, 4.0), **{"score": 5, "iterations": 6, **options})
    fit, _ = fit_fields(fields or given, [inside.astype(np.float32)] * 5, SIZE, H, used)
    return dict(fit.record)


@pytest.mark.parametrize("method", ["closed", "single-step"])
def test_fields_that_the_model_explains_are_missed_by_little_more_than_noise(ball: tuple, method: str) -> None:
    found = scored(ball, method)
    assert found["ScoreGroups"] == 5
    tensor, cosmos, noise = (np.array(found[f"Score{name}"]) for name in ("Tensor", "Cosmos", "Noise"))
    assert tensor.shape == cosmos.shape == noise.shape == (5,)
    assert (noise > 0.02).all()
    assert (tensor < 0.6).all()
    assert (tensor > 0.6 * noise).all()
    assert np.median(cosmos) < 1.1 * np.median(tensor)  # the truth is isotropic


def test_a_background_in_the_fields_changes_nothing(ball: tuple) -> None:
    fields, inside = ball
    z = np.arange(inside.shape[2]) - 12
    loaded = [(field + (0.1 + 0.01 * scan * z) * inside).astype(np.float32) for scan, field in enumerate(fields)]
    plain, total = (scored(ball, "single-step", one)["ScoreTensor"] for one in (fields, loaded))
    np.testing.assert_allclose(total, plain, rtol=0.05)


def test_a_scan_whose_field_is_of_something_else_scores_worst(ball: tuple) -> None:
    fields, inside = ball
    wrong = list(fields)
    wrong[2] = np.ascontiguousarray(fields[2][::-1]) * inside
    found = np.array(scored(ball, fields=wrong)["ScoreTensor"])
    assert np.argmax(found) == 2
    assert found[2] > 0.9


def test_without_a_score_nothing_is_recorded(ball: tuple) -> None:
    assert not [key for key in scored(ball, score=0, iterations=2) if key.startswith("Score")]


@pytest.mark.parametrize(("scans", "groups", "sentence"), [
    (5, 6, "a score of 6 groups needs as many scans, got 5: ask for at most 5"),
    (2, 2, "a score of 2 groups leaves 1 of 2 scans to a fit, which needs 2: ask for more groups, or add scans"),
    (3, 2, "leaves 1 of 3 scans"),
])  # fmt: skip
def test_too_few_scans_for_a_score_are_refused(scans: int, groups: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_score(H[:scans], Prior(), groups)


def test_a_score_that_no_fit_could_make_is_refused() -> None:
    alike = [H[0], H[1], H[1], H[1]]
    with pytest.raises(InputError, match="a score of 4 groups cannot hold out scan 1 of 4, for the others do not det"):
        check_score(alike, Prior(), 4)
    with pytest.raises(InputError, match=r"score must be 0 \(none\) or at least 2 groups of scans, got 1"):
        FitOptions(score=1)
