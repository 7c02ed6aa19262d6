"""Names and files of BIDS derivatives: images with sidecars, transforms, the dataset description.

Every file is written under a temporary name in its own folder and renamed, the image before its sidecar: an
image without a sidecar is an unfinished one (`is_complete`). In memory a volume is (x, y, z) or
components-first (c, x, y, z); on disk it is (x, y, z) or (x, y, z, c).
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import __version__
from ..pipeline.frames import check_affine
from .atomic import write_atomically
from .errors import InputError, StepError
from .folders import check_can_write
from .nifti import nifti_image, open_image, read_data, read_image
from .sidecars import one_line, read_json, sidecar_path

BIDS_VERSION = "1.9.0"


@dataclass(frozen=True)
class Derivatives:
    """Where the files of one subject (and session) lie under a derivatives folder.

    subject and session are bare labels ("01"). With a session the folder is `sub-01/ses-a/anat`; files of the
    subject as a whole, across sessions, are named with session=None.
    """

    out_dir: Path
    subject: str
    session: str | None = None

    @property
    def prefix(self) -> str:
        """`sub-01` or `sub-01_ses-a`."""
        return f"sub-{self.subject}" + (f"_ses-{self.session}" if self.session else "")

    @property
    def folder(self) -> Path:
        """The `anat` folder; it need not exist."""
        return Path(self.out_dir).joinpath(*self.prefix.split("_"), "anat")

    @property
    def report(self) -> Path:
        """The subject's report, `OUT/sub-01.html`."""
        return Path(self.out_dir) / f"sub-{self.subject}.html"

    def path(
        self,
        label: str | None = None,
        *,
        suffix: str,
        desc: str | None = None,
        space: str | None = None,
        ext: str = ".nii.gz",
    ) -> Path:
        """Return e.g. `sub-01_acq-ori01_desc-chi33_Chimap.nii.gz` (label="acq-ori01", desc="chi33", suffix="Chimap").

        label is the entity string that tells scans apart, None or "" for files of the whole subject.
        """
        parts = [
            self.prefix,
            label,
            f"space-{space}" if space else None,
            f"desc-{desc}" if desc else None,
            suffix,
        ]
        return self.folder / ("_".join(part for part in parts if part) + ext)

    def figure(self, label: str | None, *, suffix: str, desc: str) -> Path:
        """Return the path of a ready-made picture, `sub-01/figures/sub-01_acq-ori01_desc-phase_MEGRE.jpg`."""
        name = self.path(label, suffix=suffix, desc=desc, ext=".jpg").name
        return self.folder.with_name("figures") / name

    def transform(self, label: str | None) -> Path:
        """Return the scan's world-to-world matrix, `…_from-orig_to-subject_mode-image_xfm.txt`."""
        return self.path(f"{label}_{_XFM}" if label else _XFM, suffix="xfm", ext=".txt")


_BIDSIGNORE = """index.html
sub-*.html
group_chi33.tsv
group_chi33.json
logs/
figures/
*_xfm.txt
*_xfm.json
*_fieldmap.nii.gz
*_fieldmap.json
*_desc-magnitude_MEGRE.nii.gz
*_desc-magnitude_MEGRE.json
*_desc-mean_MEGRE.nii.gz
*_desc-mean_MEGRE.json
"""
_README = """Susceptibility maps and fields of multi-orientation gradient-echo scans, made by chi33.

Susceptibility is in ppm relative to the mean over the brain mask, fields are in ppm of B0, paramagnetic positive. Files
without space-subject lie on the grid of their own scan; *_xfm.txt maps the scan's world to the subject frame (RAS+,
mm). A tensor's components are xx, xy, xz, yy, yz, zz. The JSON beside each image states units and parameters.
"""
_XFM = "from-orig_to-subject_mode-image"


def bids_keys(path: Path) -> dict[str, Any]:
    """Return the sidecar keys that BIDS requires of a derivative image by its name."""
    name = Path(path).name
    suffix = name.partition(".")[0].rpartition("_")[2]
    keys: dict[str, Any] = {}
    if suffix in ("Chimap", "fieldmap", "MEGRE"):
        keys["SkullStripped"] = suffix != "MEGRE"
    if "_space-subject_" in name:
        keys["SpatialReference"] = "the subject frame: world of the reference scan (RAS+, mm)"
    return keys


def is_complete(path: Path) -> bool:
    """Tell whether an image and its sidecar both exist, that is, whether writing it ended."""
    return Path(path).is_file() and sidecar_path(path).is_file()


def write_image(
    path: Path,
    array: ArrayLike,
    affine: ArrayLike,
    sidecar: Mapping[str, Any],
    *,
    dtype: DTypeLike = np.float32,
    overwrite: bool = True,
) -> Path:
    """Write a volume and its JSON sidecar atomically, the image first; return the image's path.

    array: (x, y, z), or components-first (c, x, y, z), stored as (x, y, z, c). affine: voxel to world, mm.
    dtype: stored type, unscaled. Raises StepError where the array is not finite or the disk is full, and
    InputError where the file exists and overwrite is False.
    """
    path = Path(path)
    _check_overwrite(path, overwrite)
    volume = np.asarray(array)
    if volume.ndim not in (3, 4):
        raise StepError(f"{path.name} must have 3 axes, or 4 with components first, got shape {volume.shape}.")
    if not np.isfinite(volume).all():
        raise StepError(
            f"{path.name} would hold NaN or infinite values: nothing was written; check the step before it."
        )
    stored = np.moveaxis(volume, 0, -1) if volume.ndim == 4 else volume
    matrix = check_affine(affine, f"affine of {path.name}")
    image = nifti_image(np.asarray(stored, dtype=dtype), matrix)
    json_path = sidecar_path(path)
    write_atomically(path, lambda temporary: nib.save(image, temporary), outdates=json_path)
    write_json(json_path, sidecar)
    return path


def remove_image(path: Path) -> None:
    """Remove an image and its sidecar, where they are there: what an earlier run wrote and this one does not."""
    for one in (path, sidecar_path(path)):
        one.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file atomically, with numpy values as numbers and paths as text."""
    text = json.dumps(dict(content), indent=2, default=_plain) + "\n"
    write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return Path(path)


def write_transform(path: Path, transform: ArrayLike) -> Path:
    """Write a world-to-world matrix (4, 4) in mm as plain text, exact to the last bit of double precision."""
    matrix = np.asarray(transform, dtype=np.float64)
    _check_transform(matrix, Path(path))
    write_atomically(Path(path), lambda temporary: np.savetxt(temporary, matrix, fmt="%.17g"))
    return Path(path)


def read_transform(path: Path) -> NDArray[np.float64]:
    """Read a world-to-world matrix (4, 4) in mm; InputError where the file is missing or holds no such matrix."""
    try:
        matrix = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no matrix ({one_line(error)}): give four rows of four numbers.") from error
    _check_transform(matrix, Path(path))
    return matrix


def _check_transform(matrix: NDArray[np.float64], path: Path) -> None:
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{path} must hold a finite 4x4 matrix, got shape {matrix.shape}.")
    if not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-8):
        raise InputError(f"{path} must end with the row 0 0 0 1, got {matrix[3].tolist()}: is it transposed?")


def write_dataset_description(
    out_dir: Path,
    *,
    name: str = "chi33 derivatives",
    dataset_type: str = "derivative",
    source: Path | str | None = None,
) -> Path:
    """Write `dataset_description.json` with GeneratedBy; return its path.

    dataset_type is "derivative" or "raw"; source names the dataset the derivatives come from. Beside derivatives also
    .bidsignore, for the names that BIDS has no rule for yet (transforms, field maps, reports), and a README.
    """
    if dataset_type == "derivative":
        write_atomically(Path(out_dir) / ".bidsignore", lambda temporary: temporary.write_text(_BIDSIGNORE, "utf-8"))
        write_atomically(Path(out_dir) / "README", lambda temporary: temporary.write_text(_README, "utf-8"))
    description: dict[str, Any] = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": dataset_type,
        "GeneratedBy": [{"Name": "chi33", "Version": __version__}],
    }
    if source is not None:
        description["SourceDatasets"] = [{"URL": Path(source).name or str(source)}]
    return write_json(Path(out_dir) / "dataset_description.json", description)


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Raise InputError where the disk of a folder (which need not exist yet) has less than needed_bytes free."""
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise InputError(
            f"{folder} has {_size(free)} free but about {_size(needed_bytes)} are needed: free some space or choose "
            "another folder."
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def check_output_folder(out_dir: Path, bids_dir: Path | None = None, *, create: bool = True) -> Path:
    """Create an output folder, or with create=False only look at it, and check that it can be written; return it.

    Raises InputError where it is a file, cannot be created or written, is the input dataset or lies inside it
    (other than under its `derivatives`), contains it, or belongs to another program's derivatives.
    """
    out_dir = Path(out_dir)
    if bids_dir is not None:
        _check_apart(out_dir.resolve(), Path(bids_dir).resolve())
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir} is a file: give a folder for the output.")
    check_can_write(out_dir)
    description = out_dir / "dataset_description.json"
    if description.is_file():
        stated = read_json(description).get("GeneratedBy") or []
        generators = [entry.get("Name") for entry in stated if isinstance(entry, Mapping)]
        if "chi33" not in generators:
            made_by = ", ".join(str(name) for name in generators) or "another program"
            raise InputError(f"{out_dir} holds a dataset made by {made_by}: choose another folder for the output.")
    if create:
        _probe(out_dir)
    return out_dir


def _probe(folder: Path) -> None:
    """Make a folder and write into it; InputError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".chi33-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): choose another folder.") from error


def _check_apart(out_dir: Path, bids_dir: Path) -> None:
    if out_dir == bids_dir:
        raise InputError(f"{out_dir} is also the input dataset: choose another folder for the output.")
    if out_dir.is_relative_to(bids_dir) and out_dir.relative_to(bids_dir).parts[0] != "derivatives":
        raise InputError(
            f"{out_dir} lies inside the input dataset: write to {bids_dir / 'derivatives' / 'chi33'} or elsewhere."
        )
    if bids_dir.is_relative_to(out_dir):
        raise InputError(f"{out_dir} contains the input dataset {bids_dir}: choose another folder for the output.")


def _check_overwrite(path: Path, overwrite: bool) -> None:
    if not overwrite and (path.exists() or sidecar_path(path).exists()):
        raise InputError(f"{path} exists already: pass --overwrite to replace it.")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a sidecar cannot hold a {type(value).__name__}")


__all__ = [
    "BIDS_VERSION", "Derivatives", "bids_keys", "check_free_space", "check_output_folder", "is_complete", "open_image",
    "read_data", "read_image", "read_json", "read_transform", "sidecar_path", "write_atomically",
    "write_dataset_description", "write_image", "write_json", "write_transform",
]  # fmt: skip
