"""The layout of QSMnet and QSMnet+ (repository SNU-LIST/QSMnet; Yoon 2018, Jung 2020).

Training patches as its `Code/training_data_patch.py` writes and the `dataset` class of its `Code/utils.py` reads them:
one HDF5 file with `temp_i` (field), `temp_m` (mask) and `temp_l` (label), all (n, p, p, p, 1) float32 in ppm and not
normalised, and `norm_factor.mat` with `input_mean`, `input_std`, `label_mean`, `label_std` over the patches' voxels
inside the mask, which the reader normalises with. Validation volumes as `val_input.mat` (`phs_tissue`) and
`val_label.mat` (`chi_cosmos`), both (x, y, z, n) and padded with zeros at the far ends to a common multiple of 16, as
its U-Net needs. Test volumes as `Data/Test/Input/test_input1.mat` … (`phs_tissue`), read by `Code/inference.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from ...files.errors import InputError
from ..build.statistics import MaskedMoments
from ..store.guarded_file import new_hdf5
from ..store.volume import FIELD, MASK, Float32Array
from .source import ExportSource, check_mat_size

NETWORK = "QSMnet"
_MULTIPLE = 16


def write_qsmnet(source: ExportSource, folder: Path) -> Sequence[str]:
    """Write the splits of a source into a folder; return what to set in the published code."""
    volumes = [volume for split in source.splits for volume in source.store.of_split(split)]
    source.warn_of_geometry("qsmnet", volumes)
    notes = [f"The label is {source.label}."]
    if "train" in source.splits:
        count = _write_patches(source, folder)
        edge = source.patch_size
        notes.append(
            f"In Code/training_params.py set net_name = '{NETWORK}' and PS = '{edge}'; copy Data and Checkpoints over "
            f"the repository's. There are {count} patches."
        )
    if "val" in source.splits:
        notes.append(_write_validation(source, folder))
    if "test" in source.splits:
        notes += _write_test(source, folder)
    return notes


def _write_patches(source: ExportSource, folder: Path) -> int:
    edge = source.patch_size
    path = folder / "Data" / "Train" / "Training_data_patch" / f"training_data_patch_{NETWORK}_{edge}.hdf5"
    path.parent.mkdir(parents=True)
    moments = MaskedMoments()
    names = {"temp_i": FIELD, "temp_m": MASK, "temp_l": source.label}
    patch = (edge, edge, edge, 1)
    with new_hdf5(path) as (handle, file):
        for name in names:
            handle.create_dataset(
                name, (0, *patch), np.float32, maxshape=(None, *patch), chunks=(1, *patch),
                compression="gzip", compression_opts=1, shuffle=True,
            )  # fmt: skip
        for volume in source.each("train"):
            maps = source.maps(volume, list(names.values()))
            corners = source.corners(volume, maps[MASK])
            for name in names:
                handle[name].resize(handle[name].shape[0] + len(corners), axis=0)
            for row, corner in enumerate(corners, start=handle["temp_i"].shape[0] - len(corners)):
                box = tuple(slice(int(start), int(start) + edge) for start in corner)
                for name, channel in names.items():
                    handle[name][row] = maps[channel][box][..., None]
                _count(moments, {key: maps[channel][box] for key, channel in names.items()})
            file.check()
        count = int(handle["temp_i"].shape[0])
    if count == 0:
        raise InputError(f"{source.store.path} has no train patches: draw some with --patch-rule.")
    _write_factors(moments, folder / "Checkpoints" / f"{NETWORK}_{edge}")
    return count


def _count(moments: MaskedMoments, patch: dict[str, Float32Array]) -> None:
    inside = patch["temp_m"] > 0
    if not inside.any():
        return
    found = {}
    for name in ("temp_i", "temp_l"):
        values = patch[name][inside].astype(np.float64)
        mean = float(values.mean())
        found[name] = (values.size, mean, float(np.square(values - mean).sum()))
    moments.merge(found)


def _write_factors(moments: MaskedMoments, folder: Path) -> None:
    """Two names of one file: training and older inference read the first, newer inference the second."""
    folder.mkdir(parents=True)
    result = moments.result()
    factors = {
        "input_mean": result["temp_i"].mean, "input_std": result["temp_i"].std,
        "label_mean": result["temp_l"].mean, "label_std": result["temp_l"].std,
    }  # fmt: skip
    for name in ("norm_factor.mat", f"norm_factor_{folder.name}.mat"):
        savemat(folder / name, factors)


def _write_validation(source: ExportSource, folder: Path) -> str:
    volumes = source.store.of_split("val")
    largest = np.max([volume.shape for volume in volumes], axis=0)
    shape = tuple(int(n) for n in -(-largest // _MULTIPLE) * _MULTIPLE)
    check_mat_size("the validation set of qsmnet", (*shape, len(volumes)), "leave it out with --split train")
    for where, variable, channel in (("Input", "phs_tissue", FIELD), ("Label", "chi_cosmos", source.label)):
        stacked = np.zeros((*shape, len(volumes)), np.float32)
        for number, volume in enumerate(source.each("val")):
            x, y, z = volume.shape
            stacked[:x, :y, :z, number] = source.maps(volume, [channel])[channel]
        path = folder / "Data" / "Train" / where / f"val_{where.lower()}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {variable: stacked}, do_compression=True)
    return f"Validation volumes, padded to {'×'.join(map(str, shape))}: {' '.join(volume.id for volume in volumes)}."


def _write_test(source: ExportSource, folder: Path) -> list[str]:
    target = folder / "Data" / "Test" / "Input"
    target.mkdir(parents=True)
    notes = []
    for number, volume in enumerate(source.each("test"), start=1):
        field: NDArray[Any] = source.maps(volume, [FIELD])[FIELD]
        check_mat_size(volume.id, field.shape, "export it with --layout bids")
        savemat(target / f"test_input{number}.mat", {"phs_tissue": field}, do_compression=True)
        notes.append(f"test_input{number}.mat is {volume.id}.")
    return notes
