"""A small head for the tests of background removals: an ellipsoid, sources within it, exact dipoles around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from chi33.pipeline.physics.tensor_field import dipole_field
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

UPRIGHT, TILTED = np.array([0.0, 0.0, 1.0]), np.array([0.48, -0.36, 0.8])
AXES = np.array([33.0, 37.0, 30.0])  # mm


@dataclass(frozen=True)
class Scene:
    """Local field and background in ppm, brain mask, voxel size in mm, and B0 direction."""

    local: NDArray[np.float32]
    background: NDArray[np.float32]
    mask: NDArray[np.bool_]
    size: tuple[float, float, float]
    b0_direction: NDArray[np.float64]

    @property
    def total(self) -> NDArray[np.float32]:
        return self.local + self.background


def positions(shape: tuple[int, ...], size: tuple[float, ...]) -> NDArray[np.float64]:
    """Coordinates (3, x, y, z) in mm from the middle of the grid."""
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, size, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def exterior_dipoles(at: NDArray[np.float64], h: NDArray[np.float64], seed: int = 0) -> NDArray[np.float32]:
    """The exact field of 30 point dipoles 9 to 25 mm outside the ellipsoid, and of a linear shim."""
    rng = np.random.default_rng(seed)
    field = 0.05 + 1e-3 * at[0] - 2e-3 * at[2]
    for _ in range(30):
        towards = rng.standard_normal(3)
        towards /= np.linalg.norm(towards)
        apart = at - (towards * (1 / np.linalg.norm(towards / AXES) + rng.uniform(9, 25)))[:, None, None, None]
        distance = np.linalg.norm(apart, axis=0)
        along = np.tensordot(h, apart, axes=1) / distance
        moment = 9 * 10**3 * rng.standard_normal()  # ppm mm^3: air in 10 mm cubes
        field = field + moment / (4 * np.pi) * (3 * along**2 - 1) / distance**3
    return field.astype(np.float32)


def scene(size: tuple[float, float, float] = (2.0, 2.0, 2.0), h: NDArray[np.float64] = UPRIGHT, seed: int = 0) -> Scene:
    """The head with nuclei of 0.1 to 0.2 ppm, some near its edge, on voxels of `size` mm."""
    x, y, z = (int(2 * np.ceil((a + 3) / d)) for a, d in zip(AXES, size, strict=True))
    at = positions((x, y, z), size)
    mask = ((at / AXES[:, None, None, None]) ** 2).sum(axis=0) < 1
    rng = np.random.default_rng(seed)
    chi = np.zeros((x, y, z))
    for _ in range(14):
        centre = rng.uniform(-0.5, 0.5, 3) * AXES
        near = ((at - centre[:, None, None, None]) ** 2).sum(axis=0) < rng.uniform(3, 6) ** 2
        chi[near] = rng.uniform(0.1, 0.2) * rng.choice([-1, 1])
    chi = gaussian_filter(chi, 0.7) * mask
    return Scene(dipole_field(chi, size, h), exterior_dipoles(at, h, seed), mask, size, h)


def relative_error(found: NDArray, truth: NDArray, valid: NDArray[np.bool_]) -> float:
    """The norm of the difference over that of the truth, each demeaned where valid."""
    a, b = found[valid] - found[valid].mean(), truth[valid] - truth[valid].mean()
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
