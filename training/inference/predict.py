"""Applies a trained network to one local field map: on the whole volume, or tile by tile."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ... import __version__
from ...files.derivatives import write_image
from ...files.errors import Chi33Warning, InputError
from ...files.maps.fields import FieldInput, read_field
from ...files.maps.units import NOTHING_GIVEN, Given, conversions
from ...pipeline.frames import voxel_size
from ..computer import choose_device, choose_precision, denormals_flushed, prepare_cpu
from ..config import Device
from ..physics.patches import DipolePhysicsFactory, FullGrid
from .weights import TrainedNetwork, load_network

TILE = 48
_MAPS = 4 * 32 * 4  # bytes a voxel: about four activation maps of 32 float32 channels live at once
_SUFFIXES = {"chi33": "chi", "cosmos": "chi", "deltab": "deltab"}
_MEANING = {
    "chi33": "susceptibility along B0, chi33 = h^T chi h, relative to the mean over the training masks",
    "cosmos": "isotropic susceptibility as COSMOS has it, relative to the mean over the training masks",
    "deltab": "field of the off-diagonal tensor elements, delta B' (MoDL-QSM eq. 4)",
}

Float32Array = NDArray[np.float32]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Prediction:
    """Maps (x, y, z) in ppm by name ("chi33", "deltab", "cosmos"), 0 outside the mask; tiles: how it was computed."""

    maps: dict[str, Float32Array]
    tiles: bool


@denormals_flushed()
def predict_maps(
    trained: TrainedNetwork,
    field: ArrayLike,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    b0_direction: ArrayLike,
    *,
    tiles: bool | None = None,
    device: Device = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Predict the maps of one local field.

    Parameters
    ----------
    trained
        Of `load_network`.
    field
        Local field (x, y, z) in ppm of B0.
    mask
        (x, y, z), non-zero where it is valid.
    voxel_size
        (3,) in mm.
    b0_direction
        Unit vector (3,) along the axes of the grid.
    tiles
        True: tiles of 48 voxels that overlap by a third and are blended, their physics zero-padded to the whole grid
        (MoDL-QSM
        section 3.3); False: the whole volume, its physics periodic; by default the whole volume where it fits the
        memory.
    device
        auto, cpu or cuda.
    progress
        Called with tiles done and in all.

    Returns
    -------
        A `Prediction`: `.maps` by name, (x, y, z) in ppm, 0 outside the mask.

    Raises
    ------
    InputError
        Where shapes differ, the mask is empty or the field is not finite inside it.
    """
    inside, values = _checked(field, mask)
    grid = FullGrid.of(values.shape, voxel_size, b0_direction)
    target = choose_device(device)
    prepare_cpu()
    if tiles is None:
        tiles = values.size * _MAPS > _free_memory(target)
    network = trained.network.to(target).eval()
    precise = choose_precision("auto", target) == "32-true"
    inputs = [
        torch.from_numpy(v.astype(np.float32))[None, None].to(target) for v in (np.where(inside, values, 0), inside)
    ]
    factory = DipolePhysicsFactory("pad-crop" if tiles else "circular")

    def run(x: Tensor, m: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(target.type, torch.bfloat16, enabled=not precise):
            return network.denormalise(network(x, m, factory([grid], x.shape[-3:], target)))

    output = _tiled(run, inputs[0], inputs[1], progress) if tiles else run(inputs[0], inputs[1])
    maps = output[0].float().cpu().numpy() * inside
    return Prediction({name: np.ascontiguousarray(maps[i]) for i, name in enumerate(trained.predicts)}, tiles)


def predict(
    weights: str | Path,
    field: str | Path,
    mask: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    device: Device = "auto",
    tiles: bool | None = None,
    b0_direction: ArrayLike | None = None,
    given: Given = NOTHING_GIVEN,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Predict the maps of a field in a file; write OUT_chi.nii.gz and, where the model has it, OUT_deltab.nii.gz.

    Parameters
    ----------
    weights
        Run folder or weights file.
    field, mask
        NIfTI on one grid; the field is local, in ppm or in what its sidecar or `given` says and ppm can be told from.
    out
        Prefix of the outputs, which get JSON sidecars.
    model
        Name that the network must have.
    device, tiles, progress
        As for `predict_maps`.
    b0_direction
        Unit vector (3,) along the axes of the grid; from the sidecar's B0_dir or else the affine when not given.
    given
        Units, B0 and echo time that no sidecar states.
    overwrite
        Replace outputs that exist.

    Returns
    -------
        The paths of the images.

    Raises
    ------
    InputError
        For input that does not fit, and where an output exists without overwrite.
    """
    trained = load_network(weights, model=model)
    paths = {name: Path(f"{out}_{_SUFFIXES[name]}.nii.gz") for name in trained.predicts}
    for path in paths.values():
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists: choose another --out, or pass --overwrite to replace it.")
    source = read_field(Path(field), Path(mask), given=given.check(), b0_direction=b0_direction)
    for said in (*conversions([(source.path, source.scaling)]), *source.remarks, source.doubt):
        if said:
            warnings.warn(said, Chi33Warning, stacklevel=2)
    result = predict_maps(
        trained,
        source.field,
        source.mask,
        voxel_size(source.affine),
        source.b0_direction,
        tiles=tiles,
        device=device,
        progress=progress,
    )
    for name, path in paths.items():
        write_image(path, result.maps[name], source.affine, _sidecar(name, trained, source, Path(mask), result.tiles))
    return list(paths.values())


def _checked(field: ArrayLike, mask: ArrayLike) -> tuple[NDArray[np.bool_], Float32Array]:
    values = np.asarray(field, np.float32)
    inside = np.asarray(mask)
    if values.ndim != 3 or inside.shape != values.shape:
        raise InputError(f"field {values.shape} and mask {inside.shape} must be volumes of one shape.")
    if not np.isfinite(inside).all():
        raise InputError("the mask holds values that are not finite: give one of zeros and ones.")
    inside = inside != 0
    if not inside.any():
        raise InputError("the mask is empty: give one that covers the brain.")
    if not np.isfinite(values[inside]).all():
        raise InputError(
            "the field holds values that are not finite inside the mask: shrink the mask, or repair the field."
        )
    return inside, values


def _starts(size: int, tile: int) -> list[int]:
    """Return the corners along one axis: a third of overlap, the last tile flush with the end."""
    if size <= tile:
        return [0]
    return [*range(0, size - tile, tile - tile // 3), size - tile]


def _ramp(size: int, tile: int) -> Tensor:
    """Blending weights along an axis: rising over the overlap, so that neighbours fade into one another."""
    position = torch.arange(size, dtype=torch.float32)
    edge = torch.minimum(position, size - 1 - position) + 0.5
    return (edge / max(tile // 3, 1)).clamp(max=1)


def _boxes(mask: Tensor, tile: int) -> Iterator[Box]:
    shape = mask.shape[-3:]
    for i in _starts(shape[0], tile):
        for j in _starts(shape[1], tile):
            for k in _starts(shape[2], tile):
                box = tuple(slice(s, min(s + tile, n)) for s, n in zip((i, j, k), shape, strict=True))
                if mask[:, :, *box].any():
                    yield box[0], box[1], box[2]


def _tiled(
    run: Callable[[Tensor, Tensor], Tensor], field: Tensor, mask: Tensor, progress: Callable[[int, int], None] | None
) -> Tensor:
    boxes = list(_boxes(mask, TILE))
    total = field.new_zeros((1, 2, *field.shape[-3:]))
    weight = field.new_zeros(field.shape)
    for number, box in enumerate(boxes, 1):
        x, m = field[:, :, *box], mask[:, :, *box]
        ramps = [_ramp(n, TILE).to(field.device) for n in x.shape[-3:]]
        window = ramps[0][:, None, None] * ramps[1][None, :, None] * ramps[2]
        total[:, :, *box] += window * run(x.contiguous(), m.contiguous())
        weight[:, :, *box] += window
        if progress is not None:
            progress(number, len(boxes))
    return total / weight.clamp(min=1e-12)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as handle:
            line = next(line for line in handle if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024 * 3 // 4
    except (OSError, StopIteration):
        return 4 * 1024**3


def _sidecar(name: str, trained: TrainedNetwork, source: FieldInput, mask: Path, tiles: bool) -> dict[str, Any]:
    return {
        "Description": _MEANING[name],
        "Units": "ppm",
        "Label": name,
        "Model": trained.model,
        "Weights": trained.source.name,
        "Sources": [source.path.name, mask.name],
        **source.facts,
        "B0_dir": [round(float(value), 6) for value in source.b0_direction],
        "Tiles": tiles,
        "GeneratedBy": [{"Name": "chi33", "Version": __version__}],
    }
