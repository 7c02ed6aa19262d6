"""Fixtures of the physics tests: the check of a linear operator, rotations, smooth random maps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).parent))  # operator_checks

from operator_checks import check_linear_operator


@pytest.fixture(scope="session")
def check_operator() -> Callable[..., None]:
    """The shared check of operator_checks."""
    return check_linear_operator


@pytest.fixture(scope="session")
def random_rotation() -> Callable[[int], NDArray[np.float64]]:
    """A function from a seed to a rotation matrix (3, 3), uniform over all rotations."""
    return lambda seed: Rotation.from_quat(np.random.default_rng(seed).standard_normal(4)).as_matrix()


@pytest.fixture(scope="session")
def random_tensor() -> Callable[..., NDArray[np.float32]]:
    """A function from a seed, a shape and a width to a random tensor (6, x, y, z), smooth over `sigma` voxels."""

    def make(seed: int, shape: tuple[int, int, int], sigma: float = 0.0) -> NDArray[np.float32]:
        noise = np.random.default_rng(seed).standard_normal((6, *shape))
        return gaussian_filter(noise, (0, sigma, sigma, sigma)).astype(np.float32)

    return make
