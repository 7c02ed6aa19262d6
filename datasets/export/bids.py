"""The derivative names of `chi33 run`: every map of a store as NIfTI with a sidecar, readable by `chi33 build-dataset`.

Acquired volumes are bitwise what the store was built from. Augmented copies (`aug-001`) become scans `acq-aug001`;
their sidecars name what they were turned from. participants.tsv tells the splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...files.derivatives import BIDS_VERSION, write_image, write_json
from ..store.schema import VolumeEntry
from ..store.volume import FIELD, MASK, PLAIN_SCAN
from .source import ExportSource

_ENDINGS = {
    FIELD: "desc-local_fieldmap",
    "chi33": "desc-chi33_Chimap",
    "deltab": "desc-deltab_fieldmap",
    "cosmos": "desc-cosmos_Chimap",
    "chi33sd": "desc-chi33sd_Chimap",
    MASK: "desc-local_mask",
}
_COPY = "aug-"


def write_bids(source: ExportSource, folder: Path) -> Sequence[str]:
    """Write the splits of a source into a folder of BIDS derivatives; return notes."""
    subjects: dict[str, str] = {}
    for split in source.splits:
        for entry in source.each(split):
            subjects[entry.subject] = split
            _write_volume(source, folder, entry)
    for name in source.store.tensors:
        if name.removeprefix("sub-") in subjects:
            _write_tensor(source, folder, name)
    rows = [f"sub-{subject}\t{split}" for subject, split in sorted(subjects.items())]
    (folder / "participants.tsv").write_text("\n".join(["participant_id\tsplit", *rows]) + "\n", encoding="utf-8")
    write_json(
        folder / "dataset_description.json",
        {
            "Name": f"{source.store.path.name}, exported",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "chi33", "Version": __version__}],
        },
    )
    return ["Augmented copies are the scans acq-aug…: move them away before building another store from this folder."]


def scan_name(volume: VolumeEntry) -> str:
    """Return the beginning of a volume's file names: `sub-01_acq-ori01`, and `sub-01_acq-aug001` for `aug-001`.

    A scan that had no name of its own is `sub-01` alone.
    """
    _, scan = volume.id.split("/", 1)
    if scan == PLAIN_SCAN:
        return f"sub-{volume.subject}"
    return f"sub-{volume.subject}_{f'acq-aug{scan.removeprefix(_COPY)}' if scan.startswith(_COPY) else scan}"


def _write_volume(source: ExportSource, folder: Path, volume: VolumeEntry) -> None:
    anat = folder / f"sub-{volume.subject}" / "anat"
    for name in volume.channels:
        ending = _ENDINGS.get(name, f"desc-{name}_map")
        content = {"Units": "ppm"} if name != MASK else {}
        path = anat / f"{scan_name(volume)}_{ending}.nii.gz"
        values = source.read(f"volumes/{volume.id}/{name}")
        sidecar = {**content, **_sidecar(source, volume)}
        write_image(path, values, volume.geometry.affine, sidecar, dtype=values.dtype)


def _sidecar(source: ExportSource, volume: VolumeEntry) -> dict[str, Any]:
    content: dict[str, Any] = {"B0_dir": volume.geometry.b0_direction.tolist(), "Sources": [source.store.path.name]}
    if np.isfinite(volume.geometry.b0):
        content["MagneticFieldStrength"] = volume.geometry.b0
    if volume.source == "augmented":
        content |= {"Augmented": True, "Parent": volume.parent, "SusceptibilityScale": volume.susceptibility_scale}
        if volume.rotation is not None:
            content["Rotation"] = volume.rotation.tolist()
        if np.isfinite(volume.snr):
            content["SNR"] = volume.snr
    return content


def _write_tensor(source: ExportSource, folder: Path, name: str) -> None:
    group = source.handle[f"tensors/{name}"]
    affine = np.asarray(group.attrs["affine"])
    content: dict[str, Any] = {"Sources": [source.store.path.name], "B0_dir": group.attrs["b0_direction"].tolist()}
    if np.isfinite(strength := float(group.attrs["B0"])):
        content["MagneticFieldStrength"] = strength
    start = folder / name / "anat" / f"{name}_space-subject"
    components = source.read(f"tensors/{name}/chi")
    told = {"Units": "ppm", "Frame": "world", "Components": ["xx", "xy", "xz", "yy", "yz", "zz"]}
    write_image(Path(f"{start}_desc-tensor_Chimap.nii.gz"), components, affine, {**told, **content})
    mask = source.read(f"tensors/{name}/{MASK}")
    write_image(Path(f"{start}_desc-local_mask.nii.gz"), mask, affine, content, dtype=mask.dtype)
