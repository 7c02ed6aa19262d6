"""`chi33 export`: a store in the layouts that published codes read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from .progress import progress_lines

if TYPE_CHECKING:
    from ..datasets.loading.patches import PatchRule

_Splits = Annotated[list[Literal["train", "val", "test"]] | None, Parameter(consume_multiple=True, negative=())]


def export(
    store: Path,
    out_dir: Path,
    /,
    *,
    layout: Literal["qsmnet", "lpcnn", "modl-qsm", "bids"],
    split: _Splits = None,
    label: Literal["cosmos", "chi33"] | None = None,
    patch_rule: Literal["modl-qsm", "isdu", "lpcnn", "grid", "random"] | None = None,
    patch_size: int | None = None,
    min_brain: float | None = None,
    patches_per_scan: int | None = None,
    seed: int | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a store in a layout that a published code reads, into a new folder.

    Fields and susceptibilities are in ppm, in lpcnn fields in Hz. What to set in the published code is printed, and
    kept in chi33-export.json in the folder.

    Parameters
    ----------
    store
        HDF5 store of `chi33 build-dataset` or `chi33 import-volumes`.
    out_dir
        Folder to write, whole or not at all.
    layout
        qsmnet (SNU-LIST/QSMnet: HDF5 patches, norm_factor.mat, validation and test volumes as .mat), lpcnn
        (Sulam-Group/LPCNN: .npy files in Hz at 3 or 7 T, and lists), modl-qsm (Ruimin-Feng/MoDL-QSM: .mat files), bids
        (NIfTI in ppm with sidecars, the names of `chi33 run`; augmented copies are acq-aug001 …).
    split
        Splits to write; without it, all that have a place in the layout (of modl-qsm: train and test).
    label
        Label of qsmnet and lpcnn, in ppm; without it, COSMOS where every volume has it, else χ33.
    patch_rule
        Draw other patches than the store's: modl-qsm, isdu, lpcnn, grid or random.
    patch_size
        Edge of these patches, in voxels.
    min_brain
        Least fraction of these patches inside the mask, 0 to 1.
    patches_per_scan
        How many of these patches a scan, where the rule is random.
    seed
        Seed of these patches, 0 or more.
    overwrite
        Replace an earlier export.

    Examples
    --------
    Patches, validation and test volumes for QSMnet:

        chi33 export store.h5 qsmnet --layout qsmnet --patch-rule isdu

    NIfTI files of the subjects that validate:

        chi33 export store.h5 maps --layout bids --split val
    """
    from ..datasets.export.export import export_store
    from ..datasets.store.schema import open_store

    rule = _rule(patch_rule, patch_size, min_brain, patches_per_scan, seed)
    opened = open_store(store)
    with progress_lines("export") as progress:
        done = export_store(
            opened, out_dir, layout, splits=tuple(split or ()), label=label, rule=rule, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    for note in done.notes:
        print(note)
    volumes = ", ".join(f"{count} {name}" for name, count in done.volumes.items())
    print(f"{out_dir}: {volumes} volumes, {done.files} files, {done.size / 1e6:.1f} MB")


def _rule(
    name: str | None, size: int | None, min_brain: float | None, number: int | None, seed: int | None
) -> PatchRule | None:
    """Other patches than the store's, where any option of patches is given."""
    from ..datasets.loading.patches import patch_rule
    from ..files.errors import InputError

    if name is None:
        if (size, min_brain, number, seed) != (None, None, None, None):
            raise InputError("--patch-size, --min-brain, --patches-per-scan and --seed need --patch-rule: add it.")
        return None
    return patch_rule(name, size=size, min_brain=min_brain, number=number, seed=seed or 0)
