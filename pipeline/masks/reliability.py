"""Where a field can be trusted, and where a brain ends: what the signal says of a brain mask's edge.

A brain mask of BET's kind holds some skull and some of the space around the brain. Bone has hardly any signal, but what
it has can lie on a line over the echoes, and a per cent of such voxels, which hold sources of ppm, is worth more error
in a local field than all noise. Cerebrospinal fluid around the brain, on the other hand, has signal and no sources: the
field there is as good as in the brain, and lets SMV kernels and dipole fits reach nearer to the brain's edge.

Chosen on three scans of two simulators' heads (1.2x1.2x2 mm and 2 mm), reported on others in benchmarks/RESULTS.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ...files.errors import InputError
from ..images.morphology import clean_mask, depth_inside, extrapolated, largest_component
from ..phase.echoes import RESIDUAL_LIMIT, FieldMap, smooth_inside
from ..physics.dipole import check_grid
from ..physics.harmonics import harmonic_part
from ..physics.smv_kernels import spherical_mean

LEAST_PRECISION = 0.6  # of the brain around: 1 / standard deviation of the field
BRAIN_SIGNAL = 0.7  # of the brain around: magnitude of the first echo
GROWTH = 4.0  # mm around the brain mask where a field may be trusted
_NEIGHBOURHOOD = 15.0  # mm, standard deviation of the brain around a voxel
_FAINT = 0.5  # of the median: not brain, when its level is told
_LARGEST_TRIM = 5.0  # mm from the edge
_DEEPEST_SKULL = 9.0  # mm from the edge of the grown mask
# Robust standard deviations of the high-pass filtered field, which no voxel outside the brain, or at its edge, may
# exceed: deep in the brain veins and nuclei reach 21 on heads of either simulator.
_SOURCES_OUTSIDE, _SOURCES_AT_EDGE = 10.0, 40.0
_EDGE = 6.0  # mm
_DEEP = 8.0  # mm from the edge, where that is measured


def grown(mask: ArrayLike, voxel_size: ArrayLike, by: float = GROWTH) -> NDArray[np.bool_]:
    """Return a mask (x, y, z) and all within `by` mm of it; voxel_size: (3,) mm."""
    outside = ~np.asarray(mask, bool)
    return ndimage.distance_transform_edt(outside, sampling=np.asarray(voxel_size, np.float64)) <= by


def local_level(values: ArrayLike, inside: ArrayLike, voxel_size: ArrayLike) -> NDArray[np.float32]:
    """Return what is usual for positive values (x, y, z) in a mask, 15 mm around each voxel, faint ones left out.

    It follows a coil's sensitivity, not the tissue. 0 where nothing of the mask is near. voxel_size: (3,) mm.
    """
    volume, within = np.asarray(values, np.float32), np.asarray(inside, bool)
    counted = within & (volume > _FAINT * float(np.median(volume[within])))
    level = smooth_inside(volume, counted, voxel_size, _NEIGHBOURHOOD)
    counted = within & (volume > _FAINT * level)
    return smooth_inside(volume, counted, voxel_size, _NEIGHBOURHOOD)


def reliable_mask(
    mask: ArrayLike,
    field_map: FieldMap,
    voxel_size: ArrayLike,
    *,
    brain: ArrayLike | None = None,
    residual_limit: float = RESIDUAL_LIMIT,
    least_precision: float = LEAST_PRECISION,
) -> NDArray[np.bool_]:
    """Return where in a mask a field can be trusted, without islands and thin bridges; enclosed voxels stay.

    Left out are voxels whose echoes do not lie on a line (a residual above residual_limit radians, or above three
    times its median where noise is larger), what is connected to the outside and whose field is known less well than
    least_precision times the brain around (skull, however straight its echoes; air-near edges), and voxels outside the
    brain or at the edge whose field is far from its spherical mean, as that of sources of ppm is.
    mask: (x, y, z), where field_map is known; brain: the part of it that is brain, all by default; voxel_size: (3,)
    mm. Raises InputError where nothing is left.
    """
    inside = np.asarray(mask, bool)
    head = inside if brain is None else inside & np.asarray(brain, bool)
    if not head.any():
        raise InputError("the mask is empty, so no field can be judged: check the brain mask.")
    if not residual_limit > 0:
        raise InputError(f"residual_limit must be a positive number of radians, got {residual_limit}.")
    if not 0 <= least_precision < 1:
        raise InputError(f"least_precision must lie between 0 and 1, got {least_precision}.")
    limit = max(residual_limit, 3 * float(np.median(field_map.residual[head])))
    steady = inside & (field_map.residual <= limit)
    kept = steady
    if (steady & head).any():
        level = local_level(field_map.weight, steady & head, voxel_size)
        faint = inside & (field_map.weight < least_precision * level)
        kept = steady & ~_from_outside(faint & (depth_inside(inside, voxel_size) <= _DEEPEST_SKULL), inside)
    kept = clean_mask(_without_sources(kept, head, field_map.field, voxel_size), voxel_size)
    if not kept.any():
        raise InputError(
            f"no voxel of the mask has echoes on a line (median residual {limit / 3:.2f} rad): check that magnitude "
            "and phase are not exchanged, and the echo times."
        )
    return kept


def _from_outside(part: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels of a part of a mask (x, y, z) that are connected, within the part, to what is outside."""
    outside = np.pad(~inside, 1, constant_values=True)
    reached = ndimage.binary_propagation(outside, mask=outside | np.pad(part, 1))
    return np.asarray(reached[1:-1, 1:-1, 1:-1]) & inside


def _without_sources(
    kept: NDArray[np.bool_], brain: NDArray[np.bool_], field: NDArray[Any], voxel_size: ArrayLike
) -> NDArray[np.bool_]:
    """Return a mask without the voxels outside the brain, or at the edge, whose field is far from its spherical mean.

    Such are skull, whole cycles that unwrapping left beside air, and whatever else holds sources of ppm.
    """
    if not (kept & brain).any():
        return kept
    _, size = check_grid(field.shape, voxel_size)
    smooth = np.asarray(field, np.float32) - harmonic_part(field, kept & brain, size)
    smooth = extrapolated(smooth, kept, size)
    filtered = np.abs(smooth - spherical_mean(smooth, size, 1.6 * float(size.max())))
    depth = depth_inside(kept, size)
    usual = 1.4826 * float(np.median(filtered[kept & brain & (depth > min(_DEEP, float(depth.max()) / 2))]))
    limit = np.where(brain, np.where(depth < _EDGE, _SOURCES_AT_EDGE, np.inf), _SOURCES_OUTSIDE)
    return kept & (filtered <= limit * max(usual, float(np.finfo(np.float32).tiny)))


def trimmed_brain(mask: ArrayLike, magnitude: ArrayLike, voxel_size: ArrayLike) -> NDArray[np.bool_]:
    """Return a brain mask less the faint tissue at its edge: skull, and fluid darker than the brain.

    Taken off are voxels connected to the outside and at most 5 mm from it whose magnitude stays below 0.7 of the
    brain's around; where that would take the mask whole, it stays. mask, magnitude: (x, y, z); voxel_size: (3,) mm.
    """
    inside, volume = np.asarray(mask, bool), np.asarray(magnitude, np.float32)
    if not inside.any():
        return inside
    level = local_level(volume, inside, voxel_size)
    faint = inside & (volume < BRAIN_SIGNAL * level) & (depth_inside(inside, voxel_size) <= _LARGEST_TRIM)
    trimmed = clean_mask(inside & ~_from_outside(faint, inside), voxel_size)
    return trimmed if trimmed.any() else largest_component(inside)
