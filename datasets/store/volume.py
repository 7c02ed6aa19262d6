"""What one scan and one subject bring to the store, as arrays with their geometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipeline.frames import FloatArray, voxel_size

FIELD = "field"
MASK = "mask"
LABELS = ("chi33", "deltab", "cosmos")
SPLITS = ("train", "val", "test")
PLAIN_SCAN = "scan"  # of a subject whose files are named sub-01 alone: its group in the store needs a name

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Geometry:
    """Where the voxels lie: affine (4, 4) voxel to world (mm), B0 as a unit vector (3,) in the voxel frame, B0 in T.

    b0 is NaN where no sidecar tells it.
    """

    affine: FloatArray
    b0_direction: FloatArray
    b0: float

    @property
    def voxel_size(self) -> FloatArray:
        """The voxel edges (3,) in mm."""
        return voxel_size(self.affine)


@dataclass(frozen=True)
class Volume:
    """The maps of one scan on its own grid, all (x, y, z): float32 in ppm, the mask uint8.

    id is `sub-01/acq-ori01`; source is "acquired" or "augmented"; an augmented volume names the group it was turned
    from (parent) and its rotation (3, 3), world to world. snr: root mean square of the field inside the mask over the
    standard deviation of the noise that was added, infinite where none was; susceptibility_scale: what the
    susceptibilities and the field were multiplied with. remarks: sentences on what was made of its files.
    """

    id: str
    subject: str
    channels: Mapping[str, NDArray[Any]]
    geometry: Geometry
    source: str = "acquired"
    parent: str = ""
    rotation: FloatArray | None = None
    snr: float = float("inf")
    susceptibility_scale: float = 1.0
    remarks: tuple[str, ...] = ()

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where the field and the labels are valid (x, y, z)."""
        return np.asarray(self.channels[MASK]) > 0


@dataclass(frozen=True)
class TensorVolume:
    """A subject's tensor (6, x, y, z) in ppm, components along the subject's world, with its mask (x, y, z) uint8."""

    subject: str
    chi: Float32Array
    mask: NDArray[np.uint8]
    geometry: Geometry


@dataclass(frozen=True)
class ScalarVolume:
    """A COSMOS map (x, y, z) in ppm with its mask (x, y, z) uint8; id is `sub-01`, or the scan's it was read from."""

    id: str
    subject: str
    chi: Float32Array
    mask: NDArray[np.uint8]
    geometry: Geometry
