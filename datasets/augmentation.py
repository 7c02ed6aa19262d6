"""Turned copies of a head whose field is recomputed, so that field = D * chi33 + delta_b_prime holds exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from ..pipeline.errors import InputError
from ..pipeline.frames import FloatArray, voxel_frame
from ..pipeline.labels import reference_to_mask
from ..pipeline.resample import resample, resample_mask, resample_tensor
from ..pipeline.tensor_field import delta_b_prime, dipole_field, tensor_field
from ..pipeline.tensors import chi33
from .volume import FIELD, MASK, Geometry, ScalarVolume, TensorVolume, Volume

B0_DIRECTION = np.array([0.0, 0.0, 1.0])
_MARGIN = 1  # voxels kept free around a turned mask


def random_rotation(subject: str, number: int, *, max_angle: float, seed: int) -> FloatArray:
    """Return a rotation (3, 3) about a random axis by an angle uniform in ±max_angle degrees.

    Its tilt of the head against B0 is therefore at most max_angle. Depends on seed, subject and number alone.
    """
    if not 0 < max_angle <= 90:
        raise InputError(f"--max-angle must be above 0 and at most 90 degrees, got {max_angle:g}.")
    words = np.frombuffer(hashlib.sha256(f"sub-{subject}/{number}".encode()).digest(), np.uint32)
    generator = np.random.default_rng([seed, *words.tolist()])
    axis = generator.standard_normal(3)
    angle = np.radians(generator.uniform(-max_angle, max_angle))
    return Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()


def turned_grid(
    mask: NDArray[Any], geometry: Geometry, rotation: FloatArray
) -> tuple[Geometry, tuple[int, int, int], FloatArray]:
    """Return the grid for a turned head: geometry, shape, and the transform (4, 4), world to world.

    The head turns about the centre of its mask's bounding box. The grid's axes are those of the world (RAS+), so
    that B0 is along its z; it has the voxels and at least the shape of the source's closest world axes, grown where
    the turned mask needs it, so that nothing of the head is cut off.
    """
    frame = voxel_frame(geometry.affine)
    order = _axis_order(frame)
    size = geometry.voxel_size[order]
    box = np.argwhere(mask)
    edges = np.stack([box.min(axis=0) - 0.5, box.max(axis=0) + 0.5])
    middle = edges.mean(axis=0)
    centre = geometry.affine[:3, :3] @ middle + geometry.affine[:3, 3]
    turned = (rotation @ (geometry.affine[:3, :3] @ (box - middle).T)).T
    reach = 2 * (np.abs(turned).max(axis=0) / size + 1 + _MARGIN)
    shape = np.maximum(np.array(mask.shape)[order], np.ceil(reach).astype(int))
    affine = np.diag([*size, 1.0])
    affine[:3, 3] = centre - size * ((shape - 1) // 2 + middle[order] % 1)  # on the source's lattice where R = 1
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = centre - rotation @ centre
    x, y, z = (int(n) for n in shape)
    return Geometry(affine, B0_DIRECTION.copy(), geometry.b0), (x, y, z), transform


def turn_tensor(tensor: TensorVolume, rotation: FloatArray, name: str, *, cosmos: ScalarVolume | None = None) -> Volume:
    """Return a turned copy of a subject's tensor as a volume with B0 along its z.

    Voxels and components turn (chi -> R chi R^T); chi33, delta_b_prime and the field are computed anew in free space
    from the tensor inside the mask, relative to its mean there, as the labels of scans are. All in ppm. cosmos: the
    subject's COSMOS map, turned along where it is in the tensor's world (a scan's own is not).
    """
    geometry, shape, transform = turned_grid(tensor.mask, tensor.geometry, rotation)
    place = (tensor.geometry.affine, geometry.affine, shape, transform)
    mask = resample_mask(tensor.mask, *place)
    chi = resample_tensor(reference_to_mask(tensor.chi, tensor.mask), *place, frame="world") * mask
    size = geometry.voxel_size
    channels: dict[str, NDArray[Any]] = {
        FIELD: tensor_field(chi, size, B0_DIRECTION),
        "chi33": np.asarray(chi33(chi, B0_DIRECTION), np.float32),
        "deltab": delta_b_prime(chi, size, B0_DIRECTION),
        MASK: mask.astype(np.uint8),
    }
    if cosmos is not None and cosmos.id == f"sub-{tensor.subject}":
        own_place = (cosmos.geometry.affine, *place[1:])
        channels["cosmos"] = resample(reference_to_mask(cosmos.chi, cosmos.mask), *own_place) * mask
    return _augmented(tensor.subject, name, channels, geometry, f"/tensors/sub-{tensor.subject}", rotation)


def turn_scalar(scalar: ScalarVolume, rotation: FloatArray, name: str, *, labels: Sequence[str]) -> Volume:
    """Return a turned copy of a COSMOS map as a volume with B0 along its z.

    A scalar has chi33 = COSMOS and no delta_b_prime; labels says which of chi33, deltab and cosmos to hold.
    """
    geometry, shape, transform = turned_grid(scalar.mask, scalar.geometry, rotation)
    place = (scalar.geometry.affine, geometry.affine, shape, transform)
    mask = resample_mask(scalar.mask, *place)
    chi = resample(reference_to_mask(scalar.chi, scalar.mask), *place) * mask
    of_label = {"chi33": chi, "deltab": np.zeros_like(chi), "cosmos": chi}
    channels: dict[str, NDArray[Any]] = {
        FIELD: dipole_field(chi, geometry.voxel_size, B0_DIRECTION),
        **{label: of_label[label] for label in labels},
        MASK: mask.astype(np.uint8),
    }
    return _augmented(scalar.subject, name, channels, geometry, f"/volumes/{scalar.id}", rotation)


def _augmented(
    subject: str,
    name: str,
    channels: dict[str, NDArray[Any]],
    geometry: Geometry,
    parent: str,
    rotation: FloatArray,
) -> Volume:
    return Volume(f"sub-{subject}/{name}", subject, channels, geometry, "augmented", parent, rotation)


def _axis_order(frame: FloatArray) -> list[int]:
    """For each world axis, the array axis closest to it (each used once)."""
    _, columns = linear_sum_assignment(-np.abs(frame))
    return [int(column) for column in columns]
