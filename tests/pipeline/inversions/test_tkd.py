"""Thresholded k-space division."""

from __future__ import annotations

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.inversions.tkd import tkd
from chi33.pipeline.physics.dipole import dipole_kernel

SHAPE, VOXEL, B0 = (16, 15, 18), (1.0, 1.2, 0.8), (0.0, 0.28, 0.96)


def test_tkd_inverts_what_the_threshold_lets_through() -> None:
    kernel = dipole_kernel(SHAPE, VOXEL, B0)
    chi = np.random.default_rng(0).standard_normal(SHAPE)
    spectrum = np.fft.rfftn(chi)
    field = np.fft.irfftn(spectrum * kernel, s=SHAPE, axes=(0, 1, 2))
    got = np.fft.rfftn(tkd(field, np.ones(SHAPE), VOXEL, B0, threshold=0.2))
    kept = np.abs(kernel) > 0.2
    np.testing.assert_allclose(got[kept], spectrum[kept], atol=1e-3)
    damped = ~kept & (np.abs(kernel) > 1e-3)
    np.testing.assert_allclose(got[damped], (spectrum * np.abs(kernel) / 0.2)[damped], atol=1e-3)
    assert abs(got[0, 0, 0]) < 1e-4


def test_tkd_is_zero_outside_the_mask_and_ignores_the_field_there() -> None:
    rng = np.random.default_rng(1)
    mask = rng.random(SHAPE) > 0.5
    field = rng.standard_normal(SHAPE)
    result = tkd(field, mask, VOXEL, B0)
    assert result[~mask].any() == 0
    np.testing.assert_array_equal(result, tkd(np.where(mask, field, np.nan), mask, VOXEL, B0))


def test_tkd_names_bad_input() -> None:
    ones = np.ones(SHAPE)
    with pytest.raises(InputError, match="must be volumes of one shape"):
        tkd(ones, ones[1:], VOXEL)
    with pytest.raises(InputError, match="the mask is empty"):
        tkd(ones, 0 * ones, VOXEL)
    with pytest.raises(InputError, match="not finite inside the mask"):
        tkd(ones * np.nan, ones, VOXEL)
    with pytest.raises(InputError, match="threshold must lie between 0 and 2/3"):
        tkd(ones, ones, VOXEL, threshold=0.7)
