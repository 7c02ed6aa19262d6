"""Inner products and conjugate gradients, exact where sums in float32 drift."""

from __future__ import annotations

import numpy as np
import pytest
from chi33.pipeline.physics.conjugate_gradients import conjugate_gradients, inner_product, inner_products


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    rng = np.random.default_rng(1)
    # Rare large values among many small ones: what a float32 sum loses.
    volumes = rng.standard_normal((6, 64, 65, 63)).astype(np.float32) * 1e-3
    volumes[:, ::16, ::16, ::16] += 30
    return volumes


def test_inner_products_are_those_of_float64(maps: np.ndarray) -> None:
    exact = maps.astype(np.float64).reshape(6, -1)
    assert inner_product(maps[0], maps[1]) == pytest.approx(exact[0] @ exact[1], rel=1e-13)
    assert inner_product(maps, maps) == pytest.approx((exact**2).sum(), rel=1e-13)
    np.testing.assert_allclose(inner_products(maps), exact @ exact.T, rtol=1e-12)
    assert inner_product(maps[:, ::2], maps[:, 1::2]) == pytest.approx(
        float((maps[:, ::2].astype(np.float64) * maps[:, 1::2]).sum()), rel=1e-13
    )


def test_conjugate_gradients_solve_a_badly_conditioned_system_in_float32() -> None:
    weights = np.geomspace(1e-3, 1, 300_000).astype(np.float32)
    truth = np.random.default_rng(2).standard_normal(weights.size).astype(np.float32)
    found = conjugate_gradients(lambda x: weights * x, weights * truth, iterations=400, tolerance=1e-5)
    assert found.residual < 1e-5
    assert np.linalg.norm(found.volume - truth) / np.linalg.norm(truth) < 2e-3
