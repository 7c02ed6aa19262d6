"""`chi33 import-volumes`: NIfTI files of field, label and mask made elsewhere to an HDF5 store for training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from .progress import progress_lines
from .store_options import bounds, parse_grid, print_summary, subject_labels, tell_what_is_kept

if TYPE_CHECKING:
    from ..datasets.build.import_volumes import ImportedScan

_Files = Annotated[list[Path] | None, Parameter(consume_multiple=True, negative=())]
_Words = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]
_Rule = Literal["modl-qsm", "isdu", "lpcnn", "grid", "random"]


def import_volumes(
    store: Path,
    /,
    *,
    field: _Files = None,
    label: _Files = None,
    mask: _Files = None,
    subjects: _Words = None,
    deltab: _Files = None,
    table: Path | None = None,
    label_kind: Literal["cosmos", "chi33"] = "cosmos",
    b0_directions: Path | None = None,
    units: str | None = None,
    b0: float | None = None,
    te: float | None = None,
    patch_rule: _Rule = "modl-qsm",
    patch_size: int | None = None,
    min_brain: float | None = None,
    patches_per_scan: int | None = None,
    patch_stride: int | None = None,
    patch_grid: str | None = None,
    augment: int = 0,
    max_angle: float = 30.0,
    augment_snr: str | None = None,
    augment_scale: str | None = None,
    val_subjects: _Words = None,
    test_subjects: _Words = None,
    materialise: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    n_procs: int | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    r"""Pack fields and labels made elsewhere, such as COSMOS maps, into one HDF5 store.

    Every scan is three NIfTI files on one grid: local field (paramagnetic positive), label (susceptibility) and mask.
    Give them as lists in the same order, or as a table. Models that learn χ33 or δB′ need --label-kind chi33 (and
    --deltab).

    The store is in ppm. What the JSON beside a file states as Units is converted: fields in ppb, Hz, rad/s or T (which
    need MagneticFieldStrength, in T) or rad (which needs EchoTime too, in s), labels in ppb. All is checked before
    anything is written; a field in Hz or radians without Units, or of the opposite sign, is found by comparing it with
    the field of its label.

    Parameters
    ----------
    store
        The store to write, such as store.h5.
    field
        Local field of each scan: ppm of B0, or another unit that its sidecar or --units states.
    label
        Susceptibility map of each scan on the field's grid: ppm, or ppb by its sidecar.
    mask
        Where each field and label are valid: zeros and ones, or probabilities.
    subjects
        Label of each scan's subject: `01 01 02`; splits are by subject.
    deltab
        δB′ of each scan, in ppm, where the label is χ33.
    table
        CSV or TSV file with the columns subject, scan, field, label, mask and, where there is δB′, deltab, instead of
        the lists; relative paths start at its folder.
    label_kind
        What the labels are: COSMOS, or χ33 along each scan's B0.
    b0_directions
        Text file, one unit vector a line: B0 of each scan along its array's axes. Without it, the B0_dir of the field's
        sidecar, or its affine.
    units
        Unit of the fields: ppm, ppb, Hz, rad/s, rad or T; by default the Units of their sidecars.
    b0
        Field strength in tesla, for fields in Hz, rad/s, rad or T; by default of their sidecars.
    te
        Echo time in ms, for fields in rad; by default EchoTime of their sidecars.
    patch_rule
        Which patches: modl-qsm, isdu, lpcnn, grid or random, as in `chi33 build-dataset`.
    patch_size
        Edge of the cubic patches, in voxels.
    min_brain
        Least fraction of a patch inside the mask, 0 to 1.
    patches_per_scan
        Random patches per scan.
    patch_stride
        Voxels from one patch of a grid to the next.
    patch_grid
        Positions along x, y and z of the rule isdu, such as 6,8,7.
    augment
        Rotated copies of the COSMOS map per training subject, their fields recomputed.
    max_angle
        Largest rotation of a copy, in degrees.
    augment_snr
        Add noise to the field of every copy, at a signal-to-noise ratio between these two, such as 10,50.
    augment_scale
        Multiply the susceptibilities and the field of every copy by a factor between these two, such as 0.5,2.
    val_subjects
        Labels of the subjects to validate on: `02 03` or `02,03`; `none` for nobody.
    test_subjects
        Labels of the subjects to keep for testing.
    materialise
        Also store the cropped patches, one chunk each.
    seed
        Seed of the patches and the turns, 0 or more.
    n_procs
        Volumes made at a time, each in a process of its own; by default the number of cores, or 1 for small data.
    overwrite
        Replace an existing store.

    Examples
    --------
    Files listed in a table::

        chi33 import-volumes store.h5 --table scans.csv --val-subjects 07 --test-subjects 08

    Files as lists, one entry a scan::

        chi33 import-volumes store.h5 --field f1.nii f2.nii --label x1.nii x2.nii \
            --mask m1.nii m2.nii --subjects 01 02
    """
    from ..datasets.build.config import BuildConfig
    from ..datasets.build.import_volumes import import_volumes as run
    from ..files.maps.units import Given

    config = BuildConfig(
        patch_rule=patch_rule,
        patch_size=patch_size,
        min_brain=min_brain,
        patches_per_scan=patches_per_scan,
        patch_stride=patch_stride,
        patch_grid=parse_grid(patch_grid),
        augment=augment,
        max_angle=max_angle,
        augment_snr=bounds("--augment-snr", augment_snr),
        augment_scale=bounds("--augment-scale", augment_scale),
        val_subjects=subject_labels(val_subjects),
        test_subjects=subject_labels(test_subjects),
        materialise=materialise,
        seed=seed,
    )
    given = Given(units, b0, None if te is None else te / 1000).check()
    found = _scans(field, label, mask, subjects, deltab, table, b0_directions)
    scans = tuple(replace(scan, given=given) for scan in found)
    with progress_lines("import-volumes") as progress, tell_what_is_kept(store):
        summary = run(scans, store, config, kind=label_kind, overwrite=overwrite, progress=progress, n_procs=n_procs)
    print_summary(summary, store)


def _scans(
    field: list[Path] | None,
    label: list[Path] | None,
    mask: list[Path] | None,
    subjects: list[str] | None,
    deltab: list[Path] | None,
    table: Path | None,
    b0_directions: Path | None,
) -> tuple[ImportedScan, ...]:
    """Return the scans of the table or of the lists; exactly one of the two must be given."""
    from ..datasets.build.import_table import scans_of_lists, scans_of_table, with_b0_directions
    from ..files.errors import InputError

    lists = {"--field": field, "--label": label, "--mask": mask, "--subjects": subjects, "--deltab": deltab}
    given = [name for name, values in lists.items() if values]
    if table is not None:
        if given:
            raise InputError(f"give either --table or {', '.join(given)}, not both.")
        scans = scans_of_table(table)
    else:
        missing = [name for name in ("--field", "--label", "--mask", "--subjects") if name not in given]
        if missing:
            raise InputError(f"{', '.join(missing)} is missing: give all four lists, or --table.")
        scans = scans_of_lists(field or (), label or (), mask or (), subjects or (), deltab or ())
    return scans if b0_directions is None else with_b0_directions(scans, b0_directions)
