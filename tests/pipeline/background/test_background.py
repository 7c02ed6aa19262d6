from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.background import (
    BACKGROUND_METHODS,
    check_radii,
    remove_background,
    smv_kernel,
    vsharp,
    vsharp_radii,
)
from chi33.pipeline.physics.dipole import inverse_fft
from chi33.pipeline.physics.tensor_field import dipole_field
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

GRIDS = [((60, 66, 56), (2.0, 2.0, 2.0)), ((76, 72, 44), (1.6, 1.8, 2.6))]
AXES = (50.0, 55.0, 46.0)


def positions(shape: tuple[int, ...], size: tuple[float, ...]) -> NDArray[np.float64]:
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, size, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def brain(x: NDArray) -> NDArray[np.bool_]:
    return sum((x[i] / AXES[i]) ** 2 for i in range(3)) < 1


def background(x: NDArray) -> NDArray[np.float64]:
    """A harmonic field in ppm: a shim of first and second order and two dipoles outside the head."""
    field = 0.1 + 0.0005 * x[0] - 0.0007 * x[2] + 1e-5 * x[0] * x[1] - 8e-6 * (x[2] ** 2 - x[0] ** 2)
    for centre, moment in (((0, 20, -85), 3e4), ((70, -30, 20), -1.2e4)):
        d = x - np.array(centre)[:, None, None, None]
        r2 = (d**2).sum(axis=0)
        field = field + moment * (3 * d[2] ** 2 - r2) / r2**2.5
    return field


def local(shape: tuple[int, ...], size: tuple[float, ...], x: NDArray) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    chi = np.zeros(shape)
    for _ in range(16):
        centre, radius = rng.uniform(-28, 28, 3), rng.uniform(4, 8)
        chi += rng.uniform(0.1, 0.3) * (((x - centre[:, None, None, None]) ** 2).sum(axis=0) < radius**2)
    return dipole_field(gaussian_filter(chi, 0.7), size, (0, 0, 1))


@pytest.mark.parametrize(("shape", "size"), GRIDS)
def test_the_local_field_is_recovered_under_a_background_ten_times_as_large(shape: tuple, size: tuple) -> None:
    x = positions(shape, size)
    mask, truth, outer = brain(x), local(shape, size, x), background(x)
    assert outer[mask].std() > 10 * truth[mask].std()
    found = vsharp(truth + outer, mask, size)
    inside = found.mask
    assert inside.sum() > 0.6 * mask.sum()
    assert np.corrcoef(found.field[inside], truth[inside])[0, 1] > 0.9
    assert 0.8 < np.polyfit(truth[inside], found.field[inside], 1)[0] < 1.05
    np.testing.assert_array_equal(found.field[~inside], 0)


@pytest.mark.parametrize(("shape", "size"), GRIDS)
def test_a_harmonic_field_leaves_a_few_percent(shape: tuple, size: tuple) -> None:
    x = positions(shape, size)
    mask, outer = brain(x), background(x)
    left = vsharp(outer, mask, size)
    rms = np.sqrt((left.field[left.mask] ** 2).mean())
    assert rms < 0.02 * outer[mask].std()


def test_what_lies_outside_the_mask_does_not_matter() -> None:
    shape, size = GRIDS[0]
    x = positions(shape, size)
    mask, field = brain(x), local(shape, size, x)
    spoiled = np.where(mask, field, 1e3)
    np.testing.assert_array_equal(vsharp(spoiled, mask, size).field, vsharp(field, mask, size).field)


@pytest.mark.parametrize("smallest", [4.5, 7.0])
@pytest.mark.parametrize(("shape", "size"), GRIDS)
def test_the_mask_shrinks_by_the_smallest_radius_in_millimetres(shape: tuple, size: tuple, smallest: float) -> None:
    r = np.sqrt((positions(shape, size) ** 2).sum(axis=0))
    found = vsharp(np.zeros(shape), r < 40, size, radii=(12, smallest)).mask
    edge = 40 - smallest
    assert found[r < edge - max(size)].all()
    assert not found[r > edge + max(size)].any()
    assert found.sum() * np.prod(size) == pytest.approx(4 / 3 * np.pi * edge**3, rel=0.06)


@pytest.mark.parametrize("radius", [3.0, 8.5, 15.0])
@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (0.8, 1.2, 3.0)])
def test_the_sphere_averages_harmonic_functions_to_their_centre_value(radius: float, size: tuple) -> None:
    shape = tuple(int(2 * np.ceil(18 / d)) + 3 for d in size)
    weights = inverse_fft(smv_kernel(shape, size, radius).astype(np.complex64), shape)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert weights.min() > -1e-6
    centred = np.roll(weights, [n // 2 for n in shape], axis=(0, 1, 2))
    x = np.stack(np.meshgrid(*((np.arange(n) - n // 2) * d for n, d in zip(shape, size, strict=True)), indexing="ij"))
    # Mean of x_i^2 over a ball is r^2 / 5; of a harmonic function its value at the centre.
    second = [(centred * x[i] ** 2).sum() for i in range(3)]
    np.testing.assert_allclose(second, np.mean(second), rtol=2e-4)
    assert np.mean(second) == pytest.approx(radius**2 / 5 + (np.array(size) ** 2 / 12).mean(), rel=0.12)
    for harmonic in (x[0] ** 2 - x[1] ** 2, 2 * x[2] ** 2 - x[0] ** 2 - x[1] ** 2):
        assert abs((centred * harmonic).sum()) < 1e-4 * radius**2
    for harmonic in (x[0] * x[1], x[1] * x[2], x[0] * (2 * x[2] ** 2 - 3 * x[1] ** 2 + x[1] ** 2), x[0]):
        assert abs((centred * harmonic).sum()) < 1e-3 * radius**2


def test_radii_descend_and_are_never_below_two_voxels() -> None:
    assert vsharp_radii((1, 1, 1))[0] == 18
    assert vsharp_radii((1, 1, 1))[-1] == 4.0
    assert (np.diff(vsharp_radii((1, 1, 1))) < 0).all()
    assert vsharp_radii((1, 1, 6.0))[-1] == pytest.approx(12.0)
    assert vsharp_radii((1, 1, 1), largest=3, smallest=5) == (5.0,)
    assert check_radii([3, 9, 6]) == (9.0, 6.0, 3.0)


BALL = np.sqrt((positions((24, 24, 24), (2, 2, 2)) ** 2).sum(axis=0)) < 18
ZERO = np.zeros((24, 24, 24))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: vsharp(ZERO, BALL[:9], (2, 2, 2)), r"mask has shape \(9, 24, 24\), but the field has"),
    (lambda: vsharp(ZERO, ~BALL & BALL, (2, 2, 2)), "the mask is empty, so no background can be removed"),
    (lambda: vsharp(ZERO, BALL, (2, 2, 2), radii=(30, 20)), r"no sphere of 20 mm fits the mask \(\d+ voxels\)"),
    (lambda: vsharp(ZERO, BALL, (2, 2, 2), radii=()), r"radii must be positive lengths in mm, got \[\]"),
    (lambda: vsharp(ZERO, BALL, (2, 2, 2), radii=(5, -1)), r"radii must be positive lengths in mm, got \[5, -1\]"),
    (lambda: vsharp(ZERO, BALL, (2, 2, 2), radii=(5, np.nan)), "radii must be positive"),
    (lambda: vsharp(ZERO, BALL, (2, 2, 2), threshold=0), "threshold must lie between 0 and 1, got 0"),
    (lambda: vsharp(ZERO, BALL, (2, 2, 0)), "voxel_size must be three positive"),
    (lambda: vsharp(ZERO + np.nan, BALL, (2, 2, 2)), "the total field holds 13824 NaN or infinite values"),
    (lambda: smv_kernel((9, 9, 9), (1, 1, 1), 8.0), r"a sphere of 8 mm does not fit the grid of \(9, 9, 9\) voxels"),
])  # fmt: skip
def test_fields_whose_background_cannot_be_removed_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("method", BACKGROUND_METHODS)
@pytest.mark.parametrize("size", [(2.0, 2.0, 2.0), (1.5, 1.5, 3.0)])
def test_a_constant_and_a_shim_leave_nothing(method: str, size: tuple) -> None:
    x = positions(tuple(int(64 / d) for d in size), size)
    mask = (x[0] / 28) ** 2 + (x[1] / 26) ** 2 + (x[2] / 24) ** 2 + 0.15 * np.sin(x[0] / 5) * np.sin(x[1] / 4) < 1
    low = [np.ones_like(x[0]), x[2], x[0] * x[1], x[0] ** 2 - x[1] ** 2, 2 * x[2] ** 2 - x[0] ** 2 - x[1] ** 2]
    for harmonic in low:
        field = harmonic / np.sqrt((harmonic[mask] ** 2).mean())
        found = remove_background(method, np.where(mask, field, 0), mask, size, b0_direction=(0, 0.2, 0.98))
        assert np.abs(found.field[found.mask]).max() < 2e-5
    cubic = x[0] * x[1] * x[2]
    field = cubic / np.sqrt((cubic[mask] ** 2).mean())
    found = remove_background(method, np.where(mask, field, 0), mask, size, b0_direction=(0, 0.2, 0.98))
    assert np.sqrt((found.field[found.mask] ** 2).mean()) < 0.01
