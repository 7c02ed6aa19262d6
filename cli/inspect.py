"""`chi33 inspect`: what a store holds, a picture of its patches, and whether it is sound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from .progress import progress_lines

if TYPE_CHECKING:
    from ..datasets.store.schema import Store


def inspect(
    store: Path,
    /,
    *,
    sheet: Path | None = None,
    patches: int = 8,
    split: Literal["train", "val", "test"] = "train",
    seed: int = 0,
    verify: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Print what a store holds and draw random patches of it; with --verify, check every volume.

    Printed are splits, grids (voxels in mm, B0 in T, its tilt against the third axis in degrees), channels (mean and
    standard deviation in ppm inside the training masks), patches, copies and bytes. Pictures are in ppm.

    Parameters
    ----------
    store
        HDF5 store of `chi33 build-dataset` or `chi33 import-volumes`.
    sheet
        PNG to draw to; without it, STORE_patches.png beside the store, which is kept where it is there already.
    patches
        Patches to draw, a row each; 0 for no picture.
    split
        The split to draw from.
    seed
        Of the choice of patches, 0 or more.
    verify
        Check the whole store, one volume in memory at a time: hashes; masks of 0 and 1; finite maps of a size that ppm
        allows; B0 directions, affines and voxel sizes (mm); patches inside their volumes with the brain they say; no
        subject in two splits; field = D∗χ33 + δB′ + residual, to the residual that was recorded, and for augmented
        copies to 1e-4 of the field's range or to the noise of their SNR. All problems are listed; exit code 2.
    overwrite
        Replace an existing picture.

    Examples
    --------
    Look at a store and check all of it:

        chi33 inspect store.h5 --verify

    Draw twelve patches of the subjects that validate:

        chi33 inspect store.h5 --split val --patches 12 --sheet val.png
    """
    from ..datasets.store.inspect import describe_store
    from ..datasets.store.schema import open_store
    from ..files.errors import InputError

    for name, value in (("patches", patches), ("seed", seed)):
        if value < 0:
            raise InputError(f"--{name} must be at least 0, got {value}.")
    opened = open_store(store)
    print(describe_store(opened))
    if patches:
        _draw(opened, sheet, patches, split, seed, overwrite)
    if verify:
        _verify(store)


def _draw(store: Store, sheet: Path | None, patches: int, split: str, seed: int, overwrite: bool) -> None:
    from ..datasets.store.contact_sheet import default_sheet, draw_contact_sheet

    path = sheet or default_sheet(store.path)
    if sheet is None and path.exists() and not overwrite:
        print(f"{path} is kept: --overwrite draws it anew, --sheet another one.")
        return
    draw_contact_sheet(store, path, patches=patches, split=split, seed=seed, overwrite=overwrite)
    print(path)


def _verify(path: Path) -> None:
    from ..datasets.store.verify import verify_store
    from ..files.errors import InputError

    with progress_lines("verify") as progress:
        found = verify_store(path, progress=progress)
    for problem in found.problems:
        print(problem)
    if found.unrecorded:
        print(f"residual not recorded, so not compared: {' '.join(found.unrecorded)}")
    if found.problems:
        number = len(found.problems)
        raise InputError(
            f"{path} has {number} problem{'s' if number > 1 else ''}, listed above: build it again from sound maps."
        )
    print(f"sound: {found.volumes} volumes, {found.physics} of them held against D∗χ33 + δB′")
