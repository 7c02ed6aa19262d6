"""Frames, directions and units (the conventions every other module leans on).

World is the NIfTI scanner frame (RAS+, mm) with B0 along +z. The voxel frame of a scan is spanned by its
array axes as unit vectors. The subject frame is the world of the subject's reference scan.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import polar

from ..files.errors import InputError

GYROMAGNETIC_RATIO = 42.577478518  # MHz/T, of the proton
SCALE_TOLERANCE = 0.03  # by which a similarity or its inverse may enlarge
_STRETCH_TOLERANCE = 0.01
_SHEAR_TOLERANCE = 1e-3

FloatArray = NDArray[np.float64]


def check_affine(affine: ArrayLike, name: str = "affine") -> FloatArray:
    """Return a voxel-to-world affine as float64 (4, 4) after checking that it is a rigid frame with voxel sizes.

    Raises InputError when it is not 4x4, not finite, singular, or when its axes are not perpendicular (shear).
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise InputError(f"{name} must be a 4x4 matrix, got shape {matrix.shape}: read it with nibabel.")
    if not np.isfinite(matrix).all():
        raise InputError(f"{name} holds a value that is not finite: repair the header's sform or qform.")
    columns = matrix[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if lengths.min() < 1e-6 or abs(np.linalg.det(columns)) < 1e-6 * np.prod(lengths):
        raise InputError(
            f"{name} is singular (column lengths {np.round(lengths, 4).tolist()} mm, determinant "
            f"{np.linalg.det(columns):.3g}): repair the header's sform or qform."
        )
    axes = columns / lengths
    shear = np.abs(axes.T @ axes - np.eye(3)).max()
    if shear > _SHEAR_TOLERANCE:
        raise InputError(
            f"{name} shears: its axes are {np.degrees(np.arcsin(min(shear, 1.0))):.2f} degrees from perpendicular; "
            "resample the image onto a grid with perpendicular axes."
        )
    return matrix


def voxel_size(affine: ArrayLike) -> FloatArray:
    """Compute the voxel edge lengths of an affine.

    Parameters
    ----------
    affine
        Voxel to world (4, 4) in mm.

    Returns
    -------
        (3,) in mm.
    """
    return np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)


def voxel_mapping(
    affine: ArrayLike, target_affine: ArrayLike, transform: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the 4x4 from target voxels to source voxels: affine^-1 transform^-1 target_affine."""
    source = check_affine(affine)
    target = check_affine(target_affine, "target_affine")
    world = np.eye(4) if transform is None else np.asarray(transform, dtype=np.float64)
    if world.shape != (4, 4) or not np.isfinite(world).all() or np.linalg.matrix_rank(world) < 4:
        raise InputError(
            f"transform must be an invertible 4x4 matrix, world to world, got {world.tolist()} of shape {world.shape}."
        )
    return np.linalg.solve(source, np.linalg.solve(world, target))


def voxel_frame(affine: ArrayLike) -> FloatArray:
    """Return Q (3, 3): its columns are the array's axes as unit vectors in world. v_world = Q v_voxel."""
    matrix = check_affine(affine)
    frame, _ = polar(matrix[:3, :3] / voxel_size(matrix))
    return frame


def b0_direction_from_affine(affine: ArrayLike) -> FloatArray:
    """Return the unit vector (3,) of B0 in the voxel frame of a scan: Q^T z, for a voxel-to-world affine (4, 4)."""
    return voxel_frame(affine)[2].copy()


def b0_direction(affine: ArrayLike, stated: ArrayLike | None = None) -> FloatArray:
    """Decide the direction of B0 along the axes of an image's array.

    Parameters
    ----------
    affine
        Voxel to world (4, 4), the world being the scanner's with B0 along +z.
    stated
        Unit vector (3,) that a sidecar's B0_dir or a user gives for this array; it wins over the affine.

    Returns
    -------
        Unit vector (3,).

    Raises
    ------
    InputError
        Where the affine is none of an image, or `stated` is no unit vector.
    """
    return b0_direction_from_affine(affine) if stated is None else check_b0_direction(stated)


def check_b0_direction(direction: ArrayLike, name: str = "b0_direction") -> FloatArray:
    """Return a direction as a float64 unit vector (3,), or raise InputError when it is not one (to 1e-3)."""
    h = np.asarray(direction, dtype=np.float64)
    if h.shape != (3,) or not np.isfinite(h).all():
        raise InputError(f"{name} must be three finite numbers, got {np.asarray(direction).tolist()}.")
    length = float(np.linalg.norm(h))
    if abs(length - 1) > 1e-3:
        raise InputError(
            f"{name} must be a unit vector, got |h| = {length:.4g}: normalise it, or pass the affine to "
            "b0_direction_from_affine."
        )
    return h / length


def rotation_and_scale(transform: ArrayLike, name: str = "transform") -> tuple[FloatArray, float]:
    """Split a world-to-world similarity (4, 4), moving to reference, into its rotation R (3, 3) and scale s.

    R is the polar factor of the 3x3 part s R, s the cube root of its determinant. Raises InputError where the
    determinant is negative, the part is not a rotation times one scale (to 1 %), or |log s| > log 1.03. A similarity
    and its inverse are both accepted or both refused.
    """
    matrix = np.asarray(transform, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{name} must be a finite 4x4 matrix, got shape {matrix.shape}.")
    linear = matrix[:3, :3]
    determinant = float(np.linalg.det(linear))
    if determinant <= 0:
        raise InputError(
            f"{name} has determinant {determinant:.4g}, but a head cannot be mirrored or flattened: give the "
            "world-to-world matrix (convert FLIRT matrices with their images)."
        )
    rotation, stretch = polar(linear)
    scale = float(np.cbrt(determinant))
    if abs(np.log(scale)) > np.log1p(SCALE_TOLERANCE) + 1e-9:
        raise InputError(
            f"{name} scales by {scale:.4f}, more than {SCALE_TOLERANCE:.0%} from 1 one way or back: check that it maps "
            "millimetres to millimetres and that both scans are of the same head."
        )
    departure = float(np.abs(np.log(np.linalg.eigvalsh(stretch) / scale)).max())
    if departure > _STRETCH_TOLERANCE:
        raise InputError(
            f"{name} is no rotation times one scale (departs by {departure:.3g}): estimate it with 7 degrees of "
            "freedom."
        )
    return rotation, scale


def b0_direction_in_subject_frame(transform: ArrayLike) -> FloatArray:
    """Return the B0 unit vector (3,) of a scan in the subject frame: R z, for its transform moving to reference."""
    return rotation_and_scale(transform)[0][:, 2].copy()


def rotation_angle(rotation: ArrayLike) -> float:
    """Return the angle in degrees of a rotation matrix (3, 3), accurate near 0."""
    r = np.asarray(rotation, dtype=np.float64)
    sine = np.linalg.norm([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]) / 2
    return float(np.degrees(np.arctan2(sine, (np.trace(r) - 1) / 2)))


def radians_per_ppm(b0: float, echo_time: float) -> float:
    """Return the phase in radians of 1 ppm of B0 (tesla) at an echo time in seconds: 2 pi gamma B0 TE."""
    return 2 * np.pi * GYROMAGNETIC_RATIO * b0 * echo_time
