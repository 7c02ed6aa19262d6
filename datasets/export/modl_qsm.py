"""The layout of MoDL-QSM (repository Ruimin-Feng/MoDL-QSM; Feng 2021).

MATLAB files as its `train/train_lines.py` reads them:

train_data/1.mat …   a volume each: `x_input` field (x, y, z), `msk` (x, y, z), `labels` (x, y, z, 2) chi33 and
                     delta_b_prime; float32, ppm, not normalised
train_data/D.mat     `D` (210, 224, 160): the dipole kernel, k = 0 first and D(0) = 0, which its network pads patches to
lines.mat            `index` (n, 4) int32: number of the volume from 1, centre of the patch in voxels from 0
NormFactor.mat       `CosTrnMean`, `CosTrnStd` (1, 2): of chi33 and delta_b_prime over the training split, in the mask

Test volumes as data/<scan>/test_data.mat with `phi` and `mask`, read by `test/test_demo.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from ...files.errors import InputError
from ..build.statistics import MaskedMoments
from ..store.volume import FIELD, MASK, Volume
from .source import ExportSource, check_mat_size, full_dipole_kernel

MATRIX = (210, 224, 160)
LABELS = ("chi33", "deltab")


def write_modl_qsm(source: ExportSource, folder: Path) -> Sequence[str]:
    """Write the splits of a source into a folder; return what to set in the published code."""
    volumes = [volume for split in source.splits for volume in source.store.of_split(split)]
    source.warn_of_geometry("modl-qsm", volumes, cubic=False)
    notes = []
    if "train" in source.splits:
        notes += _write_training(source, folder)
    if "test" in source.splits:
        notes.append(_write_test(source, folder))
    return notes


def _write_training(source: ExportSource, folder: Path) -> list[str]:
    edge = source.patch_size
    if edge % 2:
        raise InputError(
            f"the layout modl-qsm takes patches of an even edge, got {edge}: draw others with --patch-size."
        )
    data = folder / "train_data"
    data.mkdir(parents=True)
    moments, lines, names = MaskedMoments(), [], []
    for number, entry in enumerate(source.each("train"), start=1):
        maps = source.maps(entry, [FIELD, *LABELS, MASK])
        check_mat_size(entry.id, (*entry.shape, 2), "export it with --layout bids")
        labels = np.stack([maps[name] for name in LABELS], axis=-1)
        savemat(
            data / f"{number}.mat", {"x_input": maps[FIELD], "msk": maps[MASK], "labels": labels}, do_compression=True
        )
        chosen = {name: maps[name] for name in (*LABELS, MASK)}
        moments.add(Volume(entry.id, entry.subject, chosen, entry.geometry))
        centres = source.corners(entry, maps[MASK]) + edge // 2
        lines.append(np.concatenate([np.full((len(centres), 1), number), centres], axis=1))
        names.append(f"{number}.mat is {entry.id}")
    index = np.concatenate(lines).astype(np.int32)
    if not len(index):
        raise InputError(f"{source.store.path} has no train patches: draw some with --patch-rule.")
    savemat(folder / "lines.mat", {"index": index}, do_compression=True)
    _write_constants(source, folder, moments)
    return [
        f"In train/train_lines.py read the volumes 1 to {len(names)}, "
        f"and set the patch shapes to [{edge}, {edge}, {edge}] where they are not 48.",
        "That code validates on a fifth of the patches, of the same subjects: keep the store's test split apart.",
        f"{'; '.join(names)}.",
    ]


def _write_constants(source: ExportSource, folder: Path, moments: MaskedMoments) -> None:
    result = moments.result()
    mean = np.array([[result[name].mean for name in LABELS]])
    std = np.array([[result[name].std for name in LABELS]])
    savemat(folder / "NormFactor.mat", {"CosTrnMean": mean, "CosTrnStd": std})
    first = source.store.of_split("train")[0]
    kernel = full_dipole_kernel(MATRIX, first.geometry.voxel_size, np.array([0.0, 0.0, 1.0]))
    savemat(folder / "train_data" / "D.mat", {"D": kernel}, do_compression=True)


def _write_test(source: ExportSource, folder: Path) -> str:
    for entry in source.each("test"):
        maps = source.maps(entry, [FIELD, MASK])
        check_mat_size(entry.id, entry.shape, "export it with --layout bids")
        target = folder / "data" / entry.id.replace("/", "_")
        target.mkdir(parents=True)
        savemat(target / "test_data.mat", {"phi": maps[FIELD], "mask": maps[MASK]}, do_compression=True)
    return "In test/test_demo.py set data_path to the folders under data, and the voxel size where it is not 1 mm."
