"""The average anatomy: the ICBM 152 2009a templates that ship in nilearn's wheel, on the grid of head maps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...files.errors import StepError

Float32Array = NDArray[np.float32]
MAP_SHAPE = (200, 248, 224)
MAP_ORIGIN = (-100.0, -136.0, -120.0)  # mm, of the first 1 mm voxel: room for skull, scalp, face and neck
_FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_CLOSING = 14.0  # mm: what bridges the sulci, the fissures and the cisterns to the inside of the skull


@dataclass(frozen=True)
class Template:
    """Average brain on the 1 mm grid MAP_SHAPE from MAP_ORIGIN, in MNI152 mm (RAS+, origin near the AC).

    grey, white: tissue fractions; brain: soft mask with the ventricles; hull: signed distance in mm to the brain with
    its fissures closed (negative inside).
    """

    grey: Float32Array
    white: Float32Array
    brain: Float32Array
    hull: Float32Array


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Return the average anatomy; it is read from the installed nilearn package, never from the network.

    Raises StepError where the package lacks the images.
    """
    grey, white = _read("gm"), _read("wm")
    tissue = ndimage.gaussian_filter(grey + white, 0.7)
    mask = ndimage.binary_closing(tissue > 0.45, ndimage.generate_binary_structure(3, 1), iterations=3)
    mask = ndimage.binary_fill_holes(mask)
    mask = np.stack([ndimage.binary_fill_holes(mask[x]) for x in range(len(mask))])
    brain = np.clip(ndimage.gaussian_filter(mask.astype(np.float32), 0.8), 0, 1)
    grey, white = _sharpened(grey, white)
    return Template(grey, white, brain, _hull(mask))


def _read(kind: str) -> Float32Array:
    with as_file(files("nilearn") / "datasets" / "data" / _FILE.format(kind)) as path:
        if not path.exists():
            raise StepError(f"nilearn's wheel holds no {path.name}: install nilearn>=0.11, whose wheel ships it.")
        image = nib.Nifti1Image.from_filename(path)
        values = np.asarray(image.dataobj, np.float32) / 255
    result = np.zeros(MAP_SHAPE, np.float32)
    start = np.rint(image.affine[:3, 3] - MAP_ORIGIN).astype(int)
    stop = np.minimum(start + values.shape, MAP_SHAPE)
    x, y, z = stop - start
    result[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]] = values[:x, :y, :z]
    return result


def _sharpened(grey: Float32Array, white: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Undo part of the blur of averaging many brains: fractions to the power 2.5, with CSF as the rest."""
    csf = np.clip(1 - grey - white, 0, 1)
    powers = [np.maximum(f, 0) ** 2.5 for f in (grey, white, csf)]
    total = powers[0] + powers[1] + powers[2]
    return powers[0] / total, powers[1] / total


def _hull(mask: NDArray[np.bool_]) -> Float32Array:
    coarse = mask[::2, ::2, ::2]
    far = ndimage.distance_transform_edt(~coarse) * 2 > _CLOSING
    closed = ndimage.distance_transform_edt(~far) * 2 > _CLOSING
    signed = ndimage.distance_transform_edt(~closed) * 2 - ndimage.distance_transform_edt(closed) * 2
    smooth = ndimage.gaussian_filter(signed, 1.0)
    mapping = np.full(3, 0.5)
    return ndimage.affine_transform(
        smooth, mapping, output_shape=mask.shape, order=1, mode="nearest", output=np.float32
    )
