"""The field of a head as it is between the voxels: from its own 1 mm maps in one pose, before any scan cuts it up.

A scan's grid lies askew in the head, so what a fit computes on the voxels' means is not how this field was made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...physics.tensor_field import delta_b_prime, dipole_field
from ...physics.tensors import chi33
from ..anatomy import Head
from ..background import free_space_field
from ..poses import HeadPose, ScanGrid

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class HeadField:
    """Field of the brain's own tensor for the B0 of a pose, ppm on the head's 1 mm maps, in free space.

    local: all of it; delta_b: the part that chi33 does not explain; background: of all else, on the exterior's grid.
    """

    local: Float32Array
    delta_b: Float32Array
    background: Float32Array


def head_field(head: Head, pose: HeadPose) -> HeadField:
    """Return the field of a head in a pose, on its own maps."""
    shape = head.fractions.shape[1:]
    start = np.rint(head.tensor_affine[:3, 3] - head.affine[:3, 3]).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, head.tensor.shape[1:], strict=True))
    # outside its box the field of the brain is wanted too, so the padding is there on all sides
    tensor = np.zeros((6, *shape), np.float32)
    tensor[(slice(None), *box)] = head.tensor * head.brain[box]
    h = pose.b0_direction_in_head
    size = (1.0, 1.0, 1.0)
    across = delta_b_prime(tensor, size, h)
    local = dipole_field(chi33(tensor, h).astype(np.float32), size, h) + across
    return HeadField(local, across, free_space_field(head.exterior, h))


def head_grid(head: Head, pose: HeadPose) -> ScanGrid:
    """Return the head's 1 mm maps as a grid in the world of a pose."""
    x, y, z = head.fractions.shape[1:]
    return ScanGrid((x, y, z), pose.matrix @ head.affine)
