"""What holds for every background removal: accuracy on a small head, invariances, edges of the grid, refusals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from background_scene import TILTED, UPRIGHT, Scene, positions, relative_error, scene
from chi33.files.errors import InputError
from chi33.pipeline.background import BACKGROUND_METHODS, LocalField, remove_background
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

HEADS = [((2.0, 2.0, 2.0), UPRIGHT), ((2.0, 2.0, 2.0), TILTED), ((1.8, 2.0, 3.0), TILTED)]
methods = pytest.mark.parametrize("method", BACKGROUND_METHODS)
heads = pytest.mark.parametrize(("size", "h"), HEADS, ids=["isotropic", "oblique", "anisotropic oblique"])


def removed(method: str, field: NDArray, head: Scene, **keywords: float) -> LocalField:
    return remove_background(method, field, head.mask, head.size, b0_direction=head.b0_direction, **keywords)


@methods
@heads
def test_the_local_field_is_recovered_under_a_background_ten_times_as_large(
    method: str, size: tuple[float, float, float], h: NDArray
) -> None:
    head = scene(size, h)
    assert head.background[head.mask].std() > 10 * head.local[head.mask].std()
    found = removed(method, head.total, head)
    assert found.field.dtype == np.float32
    assert found.mask.dtype == bool
    assert not found.mask[~head.mask].any()
    assert found.mask.sum() > 0.55 * head.mask.sum()
    np.testing.assert_array_equal(found.field[~found.mask], 0)
    assert relative_error(found.field, head.local, found.mask) < 0.5
    slope = np.polyfit(head.local[found.mask], found.field[found.mask], 1)[0]
    assert 0.8 < slope < 1.1


@methods
@heads
def test_a_field_of_sources_outside_is_removed_to_a_few_percent(
    method: str, size: tuple[float, float, float], h: NDArray
) -> None:
    head = scene(size, h, seed=1)
    left = removed(method, head.background, head)
    assert left.field[left.mask].std() < 0.02 * head.background[left.mask].std()


@methods
def test_a_source_inside_is_kept(method: str) -> None:
    head = scene()
    at = positions(head.mask.shape, head.size) - np.array([4.0, -6.0, 3.0])[:, None, None, None]
    r = np.maximum(np.linalg.norm(at, axis=0), 6.0)
    sphere = (0.2 / 3 * 6.0**3 * (3 * at[2] ** 2 - r**2) / r**5).astype(np.float32)
    sphere[(at**2).sum(axis=0) < 36] = 0  # no field within a sphere, by Lorentz's
    kept = removed(method, sphere, head)
    assert relative_error(kept.field, sphere, kept.mask) < 0.25


@methods
def test_what_lies_outside_the_mask_does_not_matter(method: str) -> None:
    head = scene()
    spoiled = np.where(head.mask, head.total, np.float32(1e3))
    np.testing.assert_array_equal(removed(method, spoiled, head).field, removed(method, head.total, head).field)


@methods
def test_the_same_field_gives_the_same_result(method: str) -> None:
    head = scene()
    first, again = (removed(method, head.total, head) for _ in range(2))
    np.testing.assert_array_equal(first.field, again.field)
    np.testing.assert_array_equal(first.mask, again.mask)


@methods
def test_a_mask_that_touches_the_edge_of_the_grid_is_as_good_as_one_that_does_not(method: str) -> None:
    head = scene()
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(head.mask))
    cut = Scene(head.local[box], head.background[box], head.mask[box], head.size, head.b0_direction)
    tight, wide = removed(method, cut.total, cut), removed(method, head.total, head)
    np.testing.assert_array_equal(tight.mask, wide.mask[box])
    valid = tight.mask
    assert np.linalg.norm((tight.field - wide.field[box])[valid]) < 0.05 * np.linalg.norm(tight.field[valid])


@methods
def test_a_mask_that_fills_the_grid_is_allowed(method: str) -> None:
    head = scene()
    middle = tuple(slice(n // 2 - 9, n // 2 + 9) for n in head.mask.shape)
    filled = Scene(head.local[middle], head.background[middle], np.ones((18, 18, 18), bool), head.size, UPRIGHT)
    found = removed(method, filled.total, filled)
    assert np.isfinite(found.field).all()
    assert found.mask.any()
    assert not found.mask[0].any()


@methods
def test_no_field_leaves_no_field(method: str) -> None:
    head = scene()
    found = removed(method, np.zeros(head.mask.shape), head)
    np.testing.assert_array_equal(found.field, 0)
    assert found.mask.any()


@methods
@settings(max_examples=4, deadline=None)
@given(gain=st.sampled_from([-1.0, 0.25, 4.0]), seed=st.integers(0, 5))
def test_a_field_times_a_number_gives_the_local_field_times_it(method: str, gain: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = (positions((20, 18, 16), (2.5, 2.5, 2.5)) ** 2).sum(axis=0) < 19.0**2
    head = Scene(
        rng.standard_normal(mask.shape).astype(np.float32), np.float32(0) * mask, mask, (2.5, 2.5, 2.5), UPRIGHT
    )
    once, scaled = removed(method, head.local, head), removed(method, np.float32(gain) * head.local, head)
    np.testing.assert_allclose(scaled.field, gain * once.field, atol=1e-4 * float(np.abs(scaled.field).max()))


@methods
def test_a_mask_too_small_for_a_method_is_refused(method: str) -> None:
    mask = np.zeros((12, 12, 12), bool)
    mask[5:7, 5:7, 5:7] = True
    with pytest.raises(InputError, match=r"\(8 voxels\).*: use .*larger mask"):
        remove_background(method, np.zeros(mask.shape), mask, (1, 1, 1), b0_direction=UPRIGHT)


FIELD, BALL = np.zeros((16, 16, 16)), (positions((16, 16, 16), (2, 2, 2)) ** 2).sum(axis=0) < 14**2


@methods
@pytest.mark.parametrize(("field", "mask", "size", "message"), [
    (FIELD, BALL[:4], (2, 2, 2), r"mask has shape \(4, 16, 16\), but the field has \(16, 16, 16\)"),
    (FIELD, ~BALL & BALL, (2, 2, 2), "the mask is empty, so no background can be removed: check the brain mask"),
    (FIELD, BALL, (2, 2, 0), "voxel_size must be three positive lengths in mm"),
    (FIELD + np.nan, BALL, (2, 2, 2), "the total field holds 4096 NaN or infinite values"),
])  # fmt: skip
def test_bad_input_is_refused_alike(method: str, field: NDArray, mask: NDArray, size: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        remove_background(method, field, mask, size, b0_direction=UPRIGHT)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: remove_background("sharp", FIELD, BALL, (2, 2, 2), b0_direction=UPRIGHT),
     "there is no background removal 'sharp': choose one of vsharp, resharp, ismv, pdf, lbv"),
    (lambda: remove_background("lbv", FIELD, BALL, (2, 2, 2), b0_direction=UPRIGHT, radius=3),
     "lbv has no setting 'radius': it has peel, tolerance, iterations, progress"),
])  # fmt: skip
def test_unknown_methods_and_settings_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
