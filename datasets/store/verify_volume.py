"""What can be wrong with one volume of a store: its geometry, its mask, the size of its maps, and its physics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...files.errors import InputError
from ...files.maps.sizes import plausible_names, size_problem
from ...pipeline.frames import check_affine, check_b0_direction, voxel_size
from ...pipeline.physics.tensor_field import dipole_field
from .schema import VolumeEntry
from .volume import FIELD, MASK, SPLITS

Maps = Mapping[str, NDArray[Any]]
EXACT = 1e-4  # of the field's range: a copy without noise
_RECORDED = 1e-3  # of the recorded residual
_NOISE = 0.05


def geometry_problems(entry: VolumeEntry, attrs: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a volume's attributes: affine, voxel size, B0 direction, units, split, rotation."""
    problems = []
    for what, check in (("affine", check_affine), ("b0_direction", check_b0_direction)):
        try:
            check(attrs[what], f"{what} of {entry.id}")
        except (InputError, KeyError) as error:
            problems.append(str(error) if isinstance(error, InputError) else f"{entry.id} has no {what}.")
    stated = np.asarray(attrs.get("voxel_size", np.nan), np.float64)
    own = voxel_size(entry.geometry.affine)
    if stated.shape != (3,) or not np.allclose(stated, own, rtol=1e-4):
        problems.append(
            f"voxel_size of {entry.id} is {stated.round(4).tolist()} mm, but its affine has {own.round(4).tolist()} mm."
        )
    if attrs.get("units") != "ppm":
        problems.append(f"{entry.id} is in {attrs.get('units')!r}, not in ppm.")
    if entry.split not in SPLITS:
        problems.append(f"{entry.id} is in split {entry.split!r}, which is none of {', '.join(SPLITS)}.")
    if entry.source not in ("acquired", "augmented"):
        problems.append(f"{entry.id} has source {entry.source!r}, which is neither acquired nor augmented.")
    return problems + _rotation_problems(entry)


def _rotation_problems(entry: VolumeEntry) -> list[str]:
    if entry.source != "augmented":
        return []
    turn = entry.rotation
    if turn is None or turn.shape != (3, 3):
        return [f"{entry.id} is augmented, but has no rotation (3, 3)."]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-6) or np.linalg.det(turn) < 0:
        return [f"rotation of {entry.id} is no rotation: it is not orthonormal or mirrors."]
    return []


def parent_problems(entry: VolumeEntry, handle: h5py.File) -> list[str]:
    """Return what is wrong with the group an augmented volume says it was turned from."""
    if entry.source != "augmented":
        return []
    parts = entry.parent.strip("/").split("/")
    if len(parts) < 2 or parts[0] not in ("tensors", "volumes"):
        return [f"{entry.id} is augmented, but its parent {entry.parent!r} is no tensor and no volume."]
    if parts[1] != f"sub-{entry.subject}":
        return [f"{entry.id} was turned from {entry.parent}, which is another subject."]
    if parts[0] == "tensors" and entry.parent not in handle:
        return [f"{entry.id} was turned from {entry.parent}, which the store does not hold."]
    return []


def tensor_problems(name: str, handle: h5py.File) -> list[str]:
    """Return what is wrong with a subject's tensor: shape, values of the mask, finite and plausible values in ppm."""
    try:
        chi, mask = (np.asarray(handle[f"tensors/{name}/{part}"][()]) for part in ("chi", MASK))
    except (OSError, RuntimeError, KeyError) as error:
        return [f"the tensor of {name} cannot be read ({' '.join(str(error).split())})."]
    if chi.shape != (6, *mask.shape):
        return [f"the tensor of {name} has shape {chi.shape}, but its mask has {mask.shape}."]
    if not np.isin(mask, (0, 1)).all() or not mask.any():
        return [f"the mask of the tensor of {name} is empty, or holds other values than 0 and 1."]
    if bad := int(chi.size - np.isfinite(chi).sum()):
        return [f"the tensor of {name} holds {bad} values that are not finite."]
    trace = chi[[0, 3, 5]].mean(axis=0)
    wrong = size_problem("chi33", trace[mask > 0])
    return [f"the mean susceptibility of the tensor of {name} {wrong}."] if wrong else []


def map_problems(entry: VolumeEntry, maps: Maps) -> list[str]:
    """Return what is wrong with a volume's maps: shapes, values of the mask, finite and plausible values in ppm."""
    mask = maps.get(MASK)
    if mask is None or FIELD not in maps:
        return [f"{entry.id} has no {MASK if mask is None else FIELD}."]
    wrong = [f"{name} {values.shape}" for name, values in maps.items() if values.shape != mask.shape]
    if wrong:
        return [f"{entry.id} has a mask of shape {mask.shape}, but {', '.join(wrong)}."]
    problems = []
    values = np.unique(mask)
    if not np.isin(values, (0, 1)).all():
        problems.append(f"mask of {entry.id} holds {values[~np.isin(values, (0, 1))][:3].tolist()}, not only 0 and 1.")
    inside = mask > 0
    if not inside.any():
        return [*problems, f"mask of {entry.id} is empty."]
    for name, channel in maps.items():
        if bad := int(channel.size - np.isfinite(channel).sum()):
            problems.append(f"{name} of {entry.id} holds {bad} values that are not finite.")
        elif name in plausible_names(tuple(maps)) and (wrong_size := size_problem(name, channel[inside])):
            problems.append(f"{name} of {entry.id} {wrong_size}.")
    return problems


def physics_problems(entry: VolumeEntry, maps: Maps) -> tuple[list[str], bool]:
    """Return what contradicts field = D * chi33 + delta_b_prime + residual, and whether the volume could be judged.

    An acquired volume is held against the residual recorded when the store was built (to 0.1 %); a copy without noise
    against the equation itself (1e-4 of its field's range); a noisy copy against the noise its SNR says (5 %).
    """
    model = _modelled_field(entry, maps)
    if model is None:
        return [], False
    inside = maps[MASK] > 0
    residual = np.asarray(maps[FIELD][inside] - model[inside], np.float64)
    if entry.source == "augmented":
        return _copy_problems(entry, maps[FIELD][inside], model[inside], residual), True
    if not np.isfinite(entry.residual_rms):
        return [], False
    rms = float(residual.std())
    if abs(rms - entry.residual_rms) > _RECORDED * entry.residual_rms + 1e-7:
        return [
            f"field of {entry.id} departs from D∗χ33 + δB′ by {rms:.3g} ppm (root mean square), but "
            f"{entry.residual_rms:.3g} ppm was recorded when the store was built."
        ], True
    return [], True


def _modelled_field(entry: VolumeEntry, maps: Maps) -> NDArray[np.float32] | None:
    """D * chi33 + delta_b_prime; of a turned COSMOS map D * COSMOS; None where the volume holds neither."""
    geometry = entry.geometry
    if "chi33" in maps and "deltab" in maps:
        return dipole_field(maps["chi33"], geometry.voxel_size, geometry.b0_direction) + maps["deltab"]
    if entry.source == "augmented" and entry.parent.startswith("/volumes/") and "cosmos" in maps:
        return dipole_field(maps["cosmos"], geometry.voxel_size, geometry.b0_direction)
    return None


def _copy_problems(
    entry: VolumeEntry, field: NDArray[Any], model: NDArray[Any], residual: NDArray[np.float64]
) -> list[str]:
    extent = float(np.ptp(model))
    if not np.isfinite(entry.snr):
        largest = float(np.abs(residual).max()) / max(extent, 1e-30)
        if largest > EXACT:
            return [
                f"field of {entry.id}, a copy without noise, departs from D∗χ33 + δB′ by {largest:.2g} of its range, "
                f"more than {EXACT:g}."
            ]
        return []
    expected = float(np.sqrt(np.mean(np.square(model, dtype=np.float64)))) / entry.snr
    found = float(np.sqrt(np.mean(np.square(residual))))
    if abs(found - expected) > max(_NOISE, 5 / np.sqrt(2 * field.size)) * expected + EXACT * extent:
        return [
            f"field of {entry.id} departs from D∗χ33 + δB′ by {found:.3g} ppm (root mean square), but noise of "
            f"{expected:.3g} ppm is what its SNR of {entry.snr:.3g} says."
        ]
    return []
