"""Where the report cuts a volume: three slices an axis, on the closest right-anterior-superior axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ...pipeline.frames import voxel_size
from ..figures.maps import Planes

_MARGIN = 8.0  # mm around the brain that a slice shows
_SIDES = (0.22, 0.78)  # of the brain's voxels along an axis: where the slices beside the middle one lie

Cuts = tuple[Planes, ...]


@dataclass(frozen=True)
class View:
    """Where a volume is cut: on the closest RAS axes, cropped to the brain, at several places (x, y, z).

    mask, affine: of the brain and its grid (voxel to world); box: what a slice shows; edge: mm along x, y, z.
    """

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    centres: tuple[tuple[int, int, int], ...]
    box: tuple[slice, slice, slice]
    edge: tuple[float, float, float]

    @classmethod
    def of(cls, mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> View:
        """Return the view of a mask (x, y, z) that is not empty: below, in and above the brain's middle."""
        upright = _canonical(mask, affine)
        size = voxel_size(affine)[nib.orientations.io_orientation(affine)[:, 0].argsort()]
        counts = plane_counts(upright)
        filled = [np.flatnonzero(count) for count in counts]
        margin = [round(_MARGIN / float(d)) for d in size]
        box = [slice(max(0, int(f[0]) - m), int(f[-1]) + m + 1) for f, m in zip(filled, margin, strict=True)]
        low, high = ([_quantile(count, share) for count in counts] for share in _SIDES)
        places = (low, [round(mean_index(count)) for count in counts], high)
        centres = tuple((x, y, z) for x, y, z in places)
        edge = (float(size[0]), float(size[1]), float(size[2]))
        return cls(mask, affine, centres, (box[0], box[1], box[2]), edge)

    def cut(self, volume: NDArray[Any]) -> Cuts:
        """Return the slices of a volume (x, y, z) or (c, x, y, z), components last in the slices."""
        channels_last = np.moveaxis(volume, 0, -1) if volume.ndim == 4 else volume
        upright = _canonical(channels_last, self.affine)
        bx, by, bz = self.box
        return tuple(
            Planes(upright[bx, by, z].copy(), upright[bx, y, bz].copy(), upright[x, by, bz].copy(), self.edge)
            for x, y, z in self.centres
        )


def plane_counts(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the number of voxels of a mask in each plane across x, y and z."""
    columns = mask.sum(axis=2)
    return [columns.sum(axis=1), columns.sum(axis=0), mask.sum(axis=(0, 1))]


def mean_index(count: NDArray[np.int64]) -> float:
    """Return the mean index of the voxels that the planes hold."""
    return float(np.average(np.arange(len(count)), weights=count))


def _quantile(count: NDArray[np.int64], share: float) -> int:
    return int(np.searchsorted(np.cumsum(count), share * count.sum()))


def _canonical(volume: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """Return a volume (x, y, z[, c]) flipped and permuted to the closest RAS axes; nothing is interpolated."""
    return np.asarray(nib.orientations.apply_orientation(volume, nib.orientations.io_orientation(affine)))


def components(cuts: Cuts, index: int) -> Cuts:
    """Return the slices of one component."""
    return tuple(one.component(index) for one in cuts)


def largest(cuts: Cuts) -> float:
    """Return the 99th percentile of the absolute values that are not zero; 0 where all are."""
    return max((one.size for one in cuts), default=0.0)
