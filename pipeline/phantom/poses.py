"""Where the head lies in each scan, and the grids that scanners cut through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from ...files.errors import InputError
from ..frames import voxel_frame, voxel_size

LARGEST_ANGLE = 60.0
_LARGEST_OBLIQUE = 45.0
FIELD_OF_VIEW = (210.0, 224.0, 160.0)  # mm, right-left, posterior-anterior, inferior-superior
_YAW = 6.0  # degrees, standard deviation of the turn about B0 that comes with a tilt
_SHIFT = 6.0  # mm, largest translation along each axis


@dataclass(frozen=True)
class HeadPose:
    """Rotation (3, 3) and translation (3,) in mm of the head in the scanner: x_world = R x_head + t."""

    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The 4x4 from head coordinates to world."""
        result = np.eye(4)
        result[:3, :3], result[:3, 3] = self.rotation, self.translation
        return result

    @property
    def b0_direction_in_head(self) -> NDArray[np.float64]:
        """Unit vector (3,) of B0 along head axes: R^T z."""
        return np.array(self.rotation[2], dtype=np.float64)

    def transform_to(self, reference: HeadPose) -> NDArray[np.float64]:
        """Return the world-to-world 4x4 from this scan to a reference scan of the same head."""
        return reference.matrix @ np.linalg.inv(self.matrix)


@dataclass(frozen=True)
class ScanGrid:
    """Voxels of a scan: shape and voxel-to-world affine (4, 4)."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def voxel_size(self) -> NDArray[np.float64]:
        """Voxel edges (3,) in mm."""
        return np.asarray(voxel_size(self.affine), dtype=np.float64)

    @property
    def frame(self) -> NDArray[np.float64]:
        """The array's axes as unit vectors in world, the columns of a (3, 3)."""
        return np.asarray(voxel_frame(self.affine), dtype=np.float64)

    def world_axes(self) -> list[NDArray[np.float64]]:
        """World coordinate contributions: three lists (n, 3) whose broadcast sum is the position of each voxel."""
        return [np.arange(n)[:, None] * self.affine[:3, axis] for axis, n in enumerate(self.shape)]


def head_orientations(n: int, max_angle: float = 35.0, seed: int | Sequence[int] = 0) -> list[HeadPose]:
    """Return n poses: neutral first, then tilts about every horizontal axis that determine a tensor from 6 poses on.

    max_angle: largest rotation in degrees, at most 60; about half of the tilts reach it, the others 55 to 80 % of it.
    Raises InputError for n < 1 or an angle outside (0, 60].
    """
    check_orientations(n, max_angle)
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), 303])
    poses = [HeadPose(np.eye(3), rng.uniform(-_SHIFT, _SHIFT, 3) / 2)]
    azimuths = 2 * np.pi * (np.arange(n - 1) + rng.uniform(-0.12, 0.12, n - 1)) / max(n - 1, 1) + rng.uniform(
        0, 2 * np.pi
    )
    for index, azimuth in enumerate(azimuths):
        yaw = float(np.clip(rng.normal(0, _YAW), -0.4 * max_angle, 0.4 * max_angle))
        share = 1.0 if index % 2 == 0 or n < 6 else rng.uniform(0.55, 0.8)
        tilt = share * np.sqrt(max_angle**2 - yaw**2)
        axis = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        vector = np.radians(tilt) * axis + [0, 0, np.radians(yaw)]
        poses.append(HeadPose(Rotation.from_rotvec(vector).as_matrix(), rng.uniform(-_SHIFT, _SHIFT, 3)))
    return poses


def check_orientations(n: int, max_angle: float) -> None:
    """Raise InputError for n < 1 poses or a largest rotation outside (0, 60] degrees."""
    if n < 1:
        raise InputError(f"the number of orientations must be at least 1, got {n}.")
    if not 0 < max_angle <= LARGEST_ANGLE:
        raise InputError(
            f"max_angle must be above 0 and at most {LARGEST_ANGLE:g} degrees, which is what a neck can do, "
            f"got {max_angle:g}."
        )


def scan_grid(
    voxel: ArrayLike,
    centre: ArrayLike,
    *,
    matrix: Sequence[int] | None = None,
    oblique: float = 0.0,
    oblique_azimuth: float = 0.0,
    axcodes: str = "RAS",
) -> ScanGrid:
    """Return the grid of a scan around a world point.

    voxel: edges (3,) in mm of the right-left, posterior-anterior and inferior-superior axes; centre: (3,) mm;
    matrix: voxels along them (default: a field of view of 210 x 224 x 160 mm); oblique: angle in degrees of the slice
    normal with B0, about a horizontal axis at oblique_azimuth degrees; axcodes: directions of the array axes, a
    permutation of R/L, A/P and S/I (nibabel). Raises InputError on values that give no grid.
    """
    size = np.asarray(voxel, dtype=np.float64)
    if size.shape != (3,) or not np.isfinite(size).all() or size.min() < 0.4 or size.max() > 8:
        raise InputError(f"voxel must be three sizes between 0.4 and 8 mm, got {np.asarray(voxel).tolist()}.")
    if not abs(oblique) <= _LARGEST_OBLIQUE:
        raise InputError(f"oblique must lie within {_LARGEST_OBLIQUE:g} degrees, got {oblique:g}.")
    counts = np.asarray(_default_matrix(size) if matrix is None else matrix)
    if counts.shape != (3,) or counts.min() < 8 or not np.equal(counts, counts.astype(int)).all():
        raise InputError(f"matrix must be three whole numbers of at least 8 voxels, got {np.asarray(matrix).tolist()}.")
    order, signs = _axes(axcodes)
    azimuth = np.radians(oblique_azimuth)
    tilt = Rotation.from_rotvec(np.radians(oblique) * np.array([np.cos(azimuth), np.sin(azimuth), 0])).as_matrix()
    columns = (tilt * size)[:, order] * signs
    shape = counts.astype(int)[order]
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = np.asarray(centre, dtype=np.float64) - columns @ ((shape - 1) / 2)
    return ScanGrid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _default_matrix(size: NDArray[np.float64]) -> NDArray[np.int64]:
    return 2 * np.ceil(np.asarray(FIELD_OF_VIEW) / size / 2 - 1e-6).astype(int)


def _axes(axcodes: str) -> tuple[list[int], NDArray[np.float64]]:
    pairs = ("RL", "AP", "SI")
    codes = axcodes.upper()
    order = [next((axis for axis, pair in enumerate(pairs) if code in pair), -1) for code in codes]
    if sorted(order) != [0, 1, 2]:
        raise InputError(
            f"axcodes must name one of R/L, one of A/P and one of S/I, such as RAS or LPS, got {axcodes!r}."
        )
    return order, np.array([1.0 if code in "RAS" else -1.0 for code in codes])
