"""A smooth, asymmetric head of ellipsoids in continuous head millimetres, to be sampled on any grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

SCALP, SKULL, BRAIN = (72.0, 88.0, 76.0), (67.0, 83.0, 71.0), (62.0, 78.0, 66.0)
# centre, half axes (mm), and what it adds to the brain's intensity
STRUCTURES = (
    ((14.0, 10.0, 12.0), (10.0, 26.0, 9.0), -0.45),
    ((-17.0, 4.0, 9.0), (8.0, 20.0, 12.0), -0.45),
    ((30.0, -38.0, -14.0), (18.0, 15.0, 12.0), 0.25),
    ((-26.0, 36.0, 22.0), (20.0, 14.0, 17.0), 0.2),
    ((5.0, -52.0, 30.0), (9.0, 9.0, 16.0), -0.3),
    ((-38.0, -20.0, -20.0), (11.0, 22.0, 9.0), 0.3),
    ((0.0, 0.0, -38.0), (14.0, 12.0, 22.0), 0.15),
)


def _ellipsoid(x: NDArray, centre: tuple[float, ...], axes: tuple[float, ...], edge: float = 2.0) -> NDArray:
    """One inside, zero outside, with an edge of about `edge` mm."""
    scaled = np.sqrt(sum(((x[i] - centre[i]) / axes[i]) ** 2 for i in range(3)))
    return 1 / (1 + np.exp(np.clip((scaled - 1) * min(axes) / (edge / 4), -50, 50)))


def brain(x: NDArray) -> NDArray[np.bool_]:
    """Where head points x (3, ...) in mm lie in the brain."""
    return sum((x[i] / BRAIN[i]) ** 2 for i in range(3)) < 1


def magnitude(x: NDArray) -> NDArray[np.float32]:
    """The image at head points x (3, ...) in mm: a bright brain, a dark skull, a bright scalp, a nose."""
    zero = (0.0, 0.0, 0.0)
    inside = _ellipsoid(x, zero, BRAIN)
    skull = _ellipsoid(x, zero, SKULL)
    scalp = np.maximum(_ellipsoid(x, zero, SCALP), _ellipsoid(x, (4.0, 90.0, -22.0), (10.0, 16.0, 14.0)))
    image = 0.8 * np.maximum(scalp - skull, 0) + inside
    for centre, axes, change in STRUCTURES:
        image = image + change * _ellipsoid(x, centre, axes) * inside
    return image.astype(np.float32)


def rigid(angles: tuple[float, float, float], shift: tuple[float, float, float]) -> NDArray[np.float64]:
    """A head-to-world 4x4 from Euler angles (degrees about x, y, z) and a shift in mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def grid_affine(
    shape: tuple[int, ...],
    size: tuple[float, ...],
    oblique: tuple[float, float, float] = (0, 0, 0),
    mirrored: bool = False,
) -> NDArray[np.float64]:
    """A voxel-to-world affine whose grid is centred on the world's origin, turned, and left-handed if mirrored."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", oblique, degrees=True).as_matrix() @ np.diag(
        [-1.0 if mirrored else 1.0, 1, 1]
    )
    affine[:3, :3] *= size
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def head_points(affine: NDArray, shape: tuple[int, ...], pose: NDArray) -> NDArray[np.float64]:
    """The head coordinates (3, x, y, z) of a grid's voxels, for a head whose pose maps head to world."""
    mapping = np.linalg.inv(pose) @ affine
    return np.tensordot(mapping[:3, :3], np.indices(shape), axes=1) + mapping[:3, 3][:, None, None, None]
