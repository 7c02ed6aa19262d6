"""Label maps on disk as `chi33 run` names them, made from small smooth random tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.pipeline.physics.tensor_field import delta_b_prime, tensor_field
from chi33.pipeline.physics.tensors import chi33, mms
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Derivatives = Callable[..., Path]
SHAPE = (26, 30, 24)
AFFINE = np.array([[-2.0, 0, 0, 25], [0, 2, 0, -30], [0, 0, 2, -20], [0, 0, 0, 1]])


def save(path: Path, values: NDArray, affine: NDArray = AFFINE, **sidecar: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    path.with_name(path.name.removesuffix(".nii.gz") + ".json").write_text(json.dumps({"Units": "ppm", **sidecar}))


def ellipsoid(shape: tuple[int, ...] = SHAPE, radius: float = 0.42) -> NDArray[np.uint8]:
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / (radius * n) for n in shape), indexing="ij")
    return (sum(axis**2 for axis in axes) < 1).astype(np.uint8)


def smooth_tensor(seed: int, mask: NDArray, sigma: float = 2.0) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal((6, *mask.shape))
    return (0.2 * gaussian_filter(noise, (0, sigma, sigma, sigma)) * mask).astype(np.float32)


def write_subject(
    folder: Path, subject: str, scans: int = 2, *, seed: int = 0, tensor: bool = True, labels: bool = True
) -> None:
    mask = ellipsoid()
    chi = smooth_tensor(seed, mask)
    anat = folder / f"sub-{subject}" / "anat"
    for scan in range(1, scans + 1):
        angle = np.radians(12 * (scan - 1))
        h = np.array([0, np.sin(angle), np.cos(angle)])
        size = (2.0, 2.0, 2.0)
        name = f"{anat}/sub-{subject}_acq-ori{scan:02d}"
        sidecar = {"B0_dir": h.tolist(), "MagneticFieldStrength": 3.0}
        field = tensor_field(chi, size, h) * mask
        save(Path(f"{name}_desc-local_fieldmap.nii.gz"), field, **sidecar)
        if labels:
            save(Path(f"{name}_desc-chi33_Chimap.nii.gz"), chi33(chi, h), **sidecar)
            save(Path(f"{name}_desc-deltab_fieldmap.nii.gz"), delta_b_prime(chi, size, h), **sidecar)
        save(Path(f"{name}_desc-cosmos_Chimap.nii.gz"), mms(chi).astype(np.float32), **sidecar)
        save(Path(f"{name}_desc-local_mask.nii.gz"), mask)
        save(Path(f"{name}_desc-brain_mask.nii.gz"), np.ones_like(mask))
        save(Path(f"{name}_desc-total_fieldmap.nii.gz"), field + 1)
    space = f"{anat}/sub-{subject}_space-subject"
    if tensor:
        save(Path(f"{space}_desc-tensor_Chimap.nii.gz"), np.moveaxis(chi, 0, -1), MagneticFieldStrength=3.0)
        save(Path(f"{space}_desc-local_mask.nii.gz"), mask)
        save(Path(f"{space}_desc-cosmos_Chimap.nii.gz"), mms(chi).astype(np.float32))


@pytest.fixture
def make_derivatives(tmp_path: Path) -> Derivatives:
    """A function that writes subjects 01, 02, ... and returns their folder."""

    def make(subjects: int = 2, scans: int = 2, name: str = "derivatives", **options: bool) -> Path:
        for number in range(1, subjects + 1):
            write_subject(tmp_path / name, f"{number:02d}", scans, seed=number, **options)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def derivatives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subjects with two scans each; read only."""
    folder = tmp_path_factory.mktemp("maps") / "derivatives"
    for number in (1, 2, 3):
        write_subject(folder, f"{number:02d}", seed=number)
    return folder


@pytest.fixture(scope="session")
def store_config() -> BuildConfig:
    """How the shared store is built."""
    return BuildConfig(
        patch_size=10,
        min_brain=0.8,
        patches_per_scan=20,
        augment=1,
        val_subjects=("02",),
        test_subjects=("03",),
        seed=5,
    )


@pytest.fixture(scope="session")
def store_path(derivatives: Path, store_config: BuildConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the three subjects, one a split, with one augmented volume; read only."""
    path = tmp_path_factory.mktemp("store") / "store.h5"
    build_store(derivatives, path, store_config)
    return path
