"""The phase of blood that moves along the readout between excitation and echo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..anatomy import TISSUES, Head

Float32Array = NDArray[np.float32]
# radians of the first echo at 10 cm/s along the readout: first moment of a prephaser and half a readout of 1 ms each at
# 4 mT/m, 2 pi gamma G tau^2 v; every further echo adds as much again
RADIANS_AT_10_CM_PER_S = 0.11
_OUTLET = (0.0, -103.0, -17.0)  # MNI152 mm, the confluence of the sinuses
_WIDE = 3.0  # mm, radius of the sinus that has the full speed


@dataclass(frozen=True)
class VenousFlow:
    """Velocity in cm/s along head axes (3, n) of the n voxels of the head's maps that hold veins, and their index."""

    index: tuple[NDArray[np.intp], ...]
    velocity: Float32Array


def venous_flow(head: Head, speed: float) -> VenousFlow:
    """Return the flow in the veins of a head towards the confluence; speed: cm/s in the largest sinus.

    The speed grows with the width of the vein; the direction is that of its longest extent.
    """
    veins = head.fractions[TISSUES.index("vein")] * np.float32(1 / 255)
    index = np.nonzero(veins > 0.1)
    smooth = ndimage.gaussian_filter(veins, 1.0)
    gradient = [ndimage.sobel(smooth, axis=axis) for axis in range(3)]
    structure = np.empty((len(index[0]), 3, 3))
    for i in range(3):
        for j in range(i, 3):
            product = ndimage.gaussian_filter(gradient[i] * gradient[j], 1.5)[index]
            structure[:, i, j] = structure[:, j, i] = product
    along = np.linalg.eigh(structure)[1][..., 0]
    position = np.stack(index, axis=-1) + head.affine[:3, 3]
    outlet = np.asarray(_OUTLET) * head.parameters.scale
    along *= np.sign(((outlet - position) * along).sum(axis=1) + 1e-9)[:, None]
    width = ndimage.gaussian_filter(veins, _WIDE / 2)[index]  # a cylinder as wide as the sinus gives about 0.8
    velocity = along * (speed * np.clip(width / 0.8, 0, 1) * veins[index])[:, None]
    return VenousFlow(index, velocity.T.astype(np.float32))
