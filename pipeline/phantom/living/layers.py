"""Layers around the brain that a scan shows faintly: bone of faint signal, dura and falx of short T2*."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..anatomy import TISSUES, Head
from ..sampling import smooth_noise

Float32Array = NDArray[np.float32]
FAINT_BONE_R2STAR = 60.0  # 1/s at 3 T, of the marrow between the tables of the skull
DURA_R2STAR = 120.0
DURA_SIGNAL = 0.45  # of the brain's mean at TE = 0
_FALX_ABOVE = 12.0  # mm above the AC: where the falx ends over the corpus callosum


@dataclass(frozen=True)
class Layers:
    """Fractions (x, y, z) from 0 to 1 on the head's maps: bone with its unevenness (mean about 1), and dura."""

    bone: Float32Array
    dura: Float32Array


def faint_layers(head: Head, dura: float) -> Layers:
    """Return the faint layers of a head; dura: mm, 0 for none."""
    rng = np.random.default_rng([*head.parameters.seed, 232])
    bone = head.fractions[TISSUES.index("bone")] * np.float32(1 / 255)
    uneven = np.exp(np.float32(0.4) * smooth_noise(rng, bone.shape, 9.0))
    return Layers(bone * uneven, _dura(head, bone, dura) if dura else np.zeros_like(bone))


def _dura(head: Head, bone: Float32Array, thickness: float) -> Float32Array:
    """Return the fraction of dura: what of CSF, cortex aside, lies within `thickness` mm of the skull or the falx."""
    csf = head.fractions[TISSUES.index("csf")] * np.float32(1 / 255)
    far = ndimage.distance_transform_edt(bone < 0.5).astype(np.float32) - np.float32(0.5)
    lining = np.clip(thickness + 0.5 - far, 0, 1)
    nx, _, nz = bone.shape
    x, z = np.arange(nx) + head.affine[0, 3], np.arange(nz) + head.affine[2, 3]
    falx = np.clip(thickness / 2 + 0.5 - np.abs(x), 0, 1).astype(np.float32)[:, None, None]
    above = np.clip((z - _FALX_ABOVE) / 4, 0, 1).astype(np.float32)[None, None, :]
    return csf * np.maximum(lining, falx * above)
