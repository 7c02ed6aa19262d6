"""The fine structure of a field is there with and without a smooth background, and inside the mask alone."""

from __future__ import annotations

import numpy as np
from chi33.pipeline.images.fine_structure import fine_structure
from scipy.ndimage import gaussian_filter

SHAPE, VOXEL = (32, 36, 30), (2.0, 2.0, 2.5)
AXES = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
MASK = np.sqrt(sum(axis**2 for axis in AXES)) < 0.8


def test_a_smooth_background_and_an_offset_go_and_details_stay() -> None:
    detail = np.float32(0.02) * gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 0.7)
    background = 40 + 0.5 * AXES[2] + 0.2 * AXES[0] * AXES[1]
    alone = fine_structure(detail, MASK, VOXEL)
    found = fine_structure((detail + background) * MASK, MASK, VOXEL)
    assert np.corrcoef(alone[MASK], detail[MASK])[0, 1] > 0.95
    core = gaussian_filter(MASK * 1.0, 2) > 0.99
    np.testing.assert_allclose(found[core], alone[core], atol=5e-3)
    assert (found[~MASK] == 0).all()


def test_a_coarse_grid_keeps_what_is_finer_than_a_voxel_or_two() -> None:
    field = (np.indices((10, 10, 10)).sum(axis=0) % 2).astype(np.float32)
    found = fine_structure(field, np.ones(field.shape), (7, 7, 7))
    assert np.abs(found).mean() > 0.4
