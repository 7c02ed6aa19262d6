"""Turned copies of a head whose field is recomputed, so that field = D * chi33 + delta_b_prime holds exactly.

Turned maps are cubic B-splines evaluated once (images.spline_maps): they keep 99.4 % of the energy below half of the
Nyquist frequency (NRMSE 0.5 %) and 79 % of what is above (20 %). On a simulated head of 1 mm, chi33 and the field of a
turn by 35 degrees are within 4 % and 6 % of those simulated directly at that position, most of it at the mask's edge,
where two binary masks of one brain differ; at 2 mm, which samples veins and folds too coarsely for any interpolation,
within 17 % (benchmarks/augmentation.py). `reorient` turns B0 instead of the head and interpolates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from ...files.errors import InputError
from ...pipeline.frames import FloatArray, check_b0_direction, voxel_frame
from ...pipeline.images.spline_maps import evaluate, spline_maps
from ...pipeline.labels import reference_to_mask
from ...pipeline.physics.magnetisation_field import magnetisation_fields
from ...pipeline.physics.tensors import magnetisation_of_components, rotation_of_components
from ..store.volume import FIELD, LABELS, MASK, Geometry, ScalarVolume, TensorVolume, Volume
from .named_draws import named_generator

Bounds = tuple[float, float]
B0_DIRECTION = np.array([0.0, 0.0, 1.0])
SUSCEPTIBILITY = (FIELD, *LABELS, "chi33sd")  # what scales with the susceptibility
_MARGIN = 1  # voxels kept free around a turned mask
_ALONG_Z = [2, 4, 5]  # the components xz, yz, zz: chi h for h = z


def random_rotation(subject: str, number: int, *, max_angle: float, seed: int) -> FloatArray:
    """Return a rotation (3, 3) about a random axis by an angle uniform in ±max_angle degrees.

    Its tilt of the head against B0 is therefore at most max_angle. Depends on seed, subject and number alone.
    """
    return draw_rotation(max_angle, named_generator(f"sub-{subject}/{number}", seed))


def draw_rotation(max_angle: float, rng: np.random.Generator) -> FloatArray:
    """Return a rotation (3, 3) about an axis uniform on the sphere by an angle uniform in ±max_angle degrees."""
    if not 0 < max_angle <= 90:
        raise InputError(f"--max-angle must be above 0 and at most 90 degrees, got {max_angle:g}.")
    axis = rng.standard_normal(3)
    angle = np.radians(rng.uniform(-max_angle, max_angle))
    return Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()


def draw_scale(bounds: Bounds, rng: np.random.Generator) -> float:
    """Return a susceptibility scale between two bounds, its logarithm uniform: half is as likely as double.

    QSMnet+ (Jung 2020) scales susceptibilities so that a network also learns those of haemorrhages.
    """
    return _draw("--augment-scale", bounds, rng)


def draw_snr(bounds: Bounds, rng: np.random.Generator) -> float:
    """Return a signal-to-noise ratio of the field between two bounds, its logarithm uniform."""
    return _draw("--augment-snr", bounds, rng)


def _draw(option: str, bounds: Bounds, rng: np.random.Generator) -> float:
    low, high = (float(one) for one in bounds)
    if not 0 < low <= high < np.inf:
        raise InputError(f"{option} must be two rising numbers above 0, LOW,HIGH, got {low:g},{high:g}.")
    return float(np.clip(np.exp(rng.uniform(np.log(low), np.log(high))), low, high))


def outline(mask: NDArray[Any]) -> NDArray[np.int64]:
    """Return the first and last voxel (n, 3) of a mask (x, y, z) in every row along x: its extremes in any direction.

    Raises InputError for an empty mask.
    """
    inside = np.asarray(mask) != 0
    held = inside.any(axis=0)
    if not held.any():
        raise InputError("the mask is empty: there is no head to turn.")
    y, z = np.nonzero(held)
    first = inside.argmax(axis=0)[y, z]
    last = inside.shape[0] - 1 - inside[::-1].argmax(axis=0)[y, z]
    return np.concatenate([np.stack([first, y, z], axis=1), np.stack([last, y, z], axis=1)])


def rotated_grid(
    mask: NDArray[Any], geometry: Geometry, rotation: FloatArray
) -> tuple[Geometry, tuple[int, int, int], FloatArray]:
    """Return the grid for a turned head: geometry, shape, and the transform (4, 4), world to world.

    The head turns about the centre of its mask's bounding box. The grid's axes are those of the world (RAS+), so
    that B0 is along its z; it has the voxels and at least the shape of the source's closest world axes, grown where
    the turned mask needs it, so that nothing of the head is cut off.
    """
    return outline_grid(outline(mask), mask.shape, geometry, rotation)


def outline_grid(
    extremes: NDArray[np.int64], source_shape: Sequence[int], geometry: Geometry, rotation: FloatArray
) -> tuple[Geometry, tuple[int, int, int], FloatArray]:
    """Return rotated_grid's result from the outline (n, 3) of a mask of shape source_shape."""
    order = _axis_order(voxel_frame(geometry.affine))
    size = geometry.voxel_size[order]
    edges = np.stack([extremes.min(axis=0) - 0.5, extremes.max(axis=0) + 0.5])
    middle = edges.mean(axis=0)
    centre = geometry.affine[:3, :3] @ middle + geometry.affine[:3, 3]
    turned = (rotation @ (geometry.affine[:3, :3] @ (extremes - middle).T)).T
    reach = 2 * (np.abs(turned).max(axis=0) / size + 1 + _MARGIN)
    shape = np.maximum(np.array(source_shape)[order], np.ceil(reach).astype(int))
    affine = np.diag([*size, 1.0])
    affine[:3, 3] = centre - size * ((shape - 1) // 2 + middle[order] % 1)  # on the source's lattice where R = 1
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = centre - rotation @ centre
    x, y, z = (int(n) for n in shape)
    return Geometry(affine, B0_DIRECTION.copy(), geometry.b0), (x, y, z), transform


def magnetisation_weights(rotation: ArrayLike) -> FloatArray:
    """Return the (3, 6) matrix from the components of chi to R chi R^T z, the magnetisation of a turned head."""
    return rotation_of_components(rotation)[_ALONG_Z]


def rotate_tensor_image(
    tensor: TensorVolume, rotation: FloatArray, name: str, *, cosmos: ScalarVolume | None = None
) -> Volume:
    """Return a turned copy of a subject's tensor as a volume with B0 along its z.

    Voxels and components turn (chi -> R chi R^T); chi33, delta_b_prime and the field are computed anew in free space
    from the tensor inside the mask, relative to its mean there, as the labels of scans are. All in ppm. cosmos: the
    subject's COSMOS map, turned along where it is in the tensor's world (a scan's own is not).
    """
    geometry, shape, transform = rotated_grid(tensor.mask, tensor.geometry, rotation)
    place = (geometry.affine, shape, transform)
    weights = magnetisation_weights(rotation).astype(np.float32)
    known = np.tensordot(weights, reference_to_mask(tensor.chi, tensor.mask), axes=1)
    magnetisation, mask = evaluate(spline_maps(known, tensor.mask, tensor.geometry.affine), *place)
    channels = _fields(magnetisation, mask, geometry)
    if cosmos is not None and cosmos.id == f"sub-{tensor.subject}":
        own = spline_maps(reference_to_mask(cosmos.chi, cosmos.mask), cosmos.mask, cosmos.geometry.affine)
        channels["cosmos"] = evaluate(own, *place)[0][0] * mask
    return _augmented(tensor.subject, name, channels, geometry, f"/tensors/sub-{tensor.subject}", rotation)


def reorient(tensor: TensorVolume, b0_direction: ArrayLike, name: str) -> Volume:
    """Return a subject's head with B0 from another direction as a volume on the tensor's own grid.

    The head stays and B0 turns, so nothing is interpolated. b0_direction: unit vector (3,) in the subject's world;
    the volume's geometry has it in the voxel frame. Otherwise as rotate_tensor_image. Raises InputError.
    """
    h = check_b0_direction(b0_direction)
    frame = voxel_frame(tensor.geometry.affine)
    chi = reference_to_mask(tensor.chi, tensor.mask)
    magnetisation = np.tensordot(magnetisation_of_components(frame.T, h).astype(np.float32), chi, axes=1)
    geometry = replace(tensor.geometry, b0_direction=frame.T @ h)
    channels = _fields(magnetisation, np.asarray(tensor.mask) != 0, geometry)
    return _augmented(tensor.subject, name, channels, geometry, f"/tensors/sub-{tensor.subject}", np.eye(3))


def rotate_scalar_image(scalar: ScalarVolume, rotation: FloatArray, name: str, *, labels: Sequence[str]) -> Volume:
    """Return a turned copy of a COSMOS map as a volume with B0 along its z.

    A scalar has chi33 = COSMOS and no delta_b_prime; labels says which of chi33, deltab and cosmos to hold.
    """
    geometry, shape, transform = rotated_grid(scalar.mask, scalar.geometry, rotation)
    known = spline_maps(reference_to_mask(scalar.chi, scalar.mask), scalar.mask, scalar.geometry.affine)
    maps, mask = evaluate(known, geometry.affine, shape, transform)
    found = _fields(np.stack([np.zeros_like(maps[0]), np.zeros_like(maps[0]), maps[0]]), mask, geometry)
    found["cosmos"] = maps[0]
    channels = {name: found[name] for name in (FIELD, *labels, MASK)}
    return _augmented(scalar.subject, name, channels, geometry, f"/volumes/{scalar.id}", rotation)


def vary(volume: Volume, *, snr: float | None, scale: float, rng: np.random.Generator) -> Volume:
    """Return a volume with its susceptibilities and field scaled together, then with white noise on the field.

    scale: what field, chi33, deltab and cosmos are multiplied with (the model is linear, so they stay consistent);
    snr: root mean square of the field inside the mask over the noise's standard deviation, None for no noise. The
    noise is added inside the mask. Raises InputError where one of them is not above 0.
    """
    if not 0 < scale < np.inf:
        raise InputError(f"scale must be a finite number above 0, got {scale:g}: 1 changes nothing.")
    if snr is not None and not snr > 0:
        raise InputError(f"snr must be above 0, got {snr:g}: give None for no noise.")
    channels = dict(volume.channels)
    for name in SUSCEPTIBILITY:
        if name in channels and scale != 1:
            channels[name] = channels[name] * np.float32(scale)
    if snr is not None and np.isfinite(snr):
        mask = volume.mask
        field = np.array(channels[FIELD], np.float32)
        inside = field[mask]
        level = np.sqrt(np.mean(inside.astype(np.float64) ** 2)) / snr
        field[mask] = inside + np.float32(level) * rng.standard_normal(inside.shape, np.float32)
        channels[FIELD] = field
    return replace(
        volume,
        channels=channels,
        snr=np.inf if snr is None else float(snr),
        susceptibility_scale=volume.susceptibility_scale * float(scale),
    )


def _fields(magnetisation: NDArray[np.float32], mask: NDArray[np.bool_], geometry: Geometry) -> dict[str, NDArray[Any]]:
    along, dipolar, across = magnetisation_fields(magnetisation, geometry.voxel_size, geometry.b0_direction)
    return {FIELD: dipolar + across, "chi33": along, "deltab": across, MASK: mask.astype(np.uint8)}


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
