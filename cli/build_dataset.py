"""`chi33 build-dataset`: label maps to an HDF5 store for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from .progress import progress_lines
from .store_options import bounds, parse_grid, print_summary, subject_labels, tell_what_is_kept

_Labels = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]


def build_dataset(
    out_dir: Path,
    store: Path,
    /,
    *,
    patch_rule: Literal["modl-qsm", "isdu", "lpcnn", "grid", "random"] = "modl-qsm",
    patch_size: int | None = None,
    min_brain: float | None = None,
    patches_per_scan: int | None = None,
    patch_stride: int | None = None,
    patch_grid: str | None = None,
    augment: int = 0,
    augmentation: Literal["tensor", "cosmos"] | None = None,
    max_angle: float = 30.0,
    augment_snr: str | None = None,
    augment_scale: str | None = None,
    val_subjects: _Labels = None,
    test_subjects: _Labels = None,
    materialise: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    n_procs: int | None = None,
    dask: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Pack label maps into one HDF5 store: volumes, tensors, a table of patches, statistics.

    Fields, susceptibilities and labels are in ppm. Of a subject of `chi33 run` the maps of its last run are taken
    (logs/sub-01_manifest.json lists them), and no older ones; subjects that were run with --fit none, or whose last run
    did not end, are left out. The truth of `chi33 simulate` and maps of other programs are found by their names.

    Subjects, never patches, are split. Without --val-subjects the last fifth of the subjects validates (at least
    one: of two the second); a single subject only trains. A build that died goes on when the command is repeated:
    what is finished is kept in a hidden folder beside the store, .store.h5.parts, until the store is there, and made
    again where a map has changed.

    Parameters
    ----------
    out_dir
        Output folder of `chi33 run`, or derivatives/truth of `chi33 simulate`.
    store
        The store to write, such as store.h5.
    patch_rule
        Which patches: modl-qsm (48 voxels, random, at most 20 % background), isdu (64 voxels, evenly over the
        brain's box, 66 % overlap), lpcnn (64 voxels, every 32, more than 12.5 % brain), grid (like lpcnn, every half
        patch), random (like modl-qsm). The options below change a rule's own values.
    patch_size
        Edge of the cubic patches, in voxels.
    min_brain
        Least fraction of a patch inside the mask, 0 to 1.
    patches_per_scan
        Random patches per scan, 300 by default; fewer where fewer positions hold enough brain.
    patch_stride
        Voxels from one patch of a grid to the next.
    patch_grid
        Positions along x, y and z of the rule isdu, instead of a stride: 6,8,7 are the paper's 336.
    augment
        Rotated copies per training subject, their fields recomputed from the rotated tensor.
    augmentation
        What is rotated: tensor, or cosmos as a scalar; by default the tensor where there is one.
    max_angle
        Largest rotation of a copy, in degrees.
    augment_snr
        Add noise to the field of every copy, at a signal-to-noise ratio between these two, such as 10,50 (root mean
        square of the field inside the mask over the standard deviation of the noise).
    augment_scale
        Multiply the susceptibilities and the field of every copy by a factor between these two, such as 0.5,2.
    val_subjects
        Labels of the subjects to validate on: `02 03` or `02,03`; `none` for nobody.
    test_subjects
        Labels of the subjects to keep for testing.
    materialise
        Also store the cropped patches, one chunk each: faster to read, larger.
    seed
        Seed of the patches and the rotations, 0 or more.
    n_procs
        Volumes made at a time, each in a process of its own that takes about 1 GB at 210×224×160; by default as many
        as there are processors for this process, or 1 for small data.
    dask
        Address of a running Dask scheduler to build on, tcp://host:8786; its workers must see the same files.
    overwrite
        Replace an existing store; the old one stays until the new one is whole.

    Examples
    --------
    Store the maps of a run, with four rotated copies of every training subject; subject 04 validates:

        chi33 build-dataset derivatives store.h5 --val-subjects 04 --augment 4

    64³ patches on the grid of ISDU-QSMNet, from the truth of a simulation:

        chi33 build-dataset raw/derivatives/truth store.h5 --patch-rule isdu --patch-grid 6,8,7
    """
    from ..datasets.build.build import build_store
    from ..datasets.build.config import BuildConfig

    config = BuildConfig(
        patch_rule=patch_rule,
        patch_size=patch_size,
        min_brain=min_brain,
        patches_per_scan=patches_per_scan,
        patch_stride=patch_stride,
        patch_grid=parse_grid(patch_grid),
        augment=augment,
        augmentation=augmentation,
        max_angle=max_angle,
        augment_snr=bounds("--augment-snr", augment_snr),
        augment_scale=bounds("--augment-scale", augment_scale),
        val_subjects=subject_labels(val_subjects),
        test_subjects=subject_labels(test_subjects),
        materialise=materialise,
        seed=seed,
    )
    with progress_lines("build-dataset") as progress, tell_what_is_kept(store):
        summary = build_store(
            out_dir,
            store,
            config,
            overwrite=overwrite,
            progress=progress,
            n_procs=n_procs,
            scheduler=dask,
        )
    print_summary(summary, store)
