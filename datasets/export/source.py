"""What the writers of published layouts read a store through: volumes one at a time, patches, and what to warn of."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...files.errors import Chi33Warning, InputError
from ...pipeline.frames import FloatArray, check_b0_direction
from ...pipeline.physics.dipole import frequency_grid
from ..loading.patches import PatchRule, choose_patches
from ..store.inspect import tilt
from ..store.schema import Store, VolumeEntry, unreadable
from ..store.volume import FIELD, MASK, Float32Array

Progress = Callable[[int, int, str], None]
_LARGEST_TILT = 2.0  # degrees
_MAT_BYTES = 2**32  # of one variable in a MATLAB 5 file


@dataclass(frozen=True)
class ExportSource:
    """An open store as the writers of layouts see it: its splits, the one label, the patches and the progress."""

    store: Store
    handle: h5py.File
    splits: tuple[str, ...]
    label: str
    rule: PatchRule | None
    progress: Progress

    @property
    def patch_size(self) -> int:
        """The edge of the patches in voxels."""
        if self.rule is not None:
            return self.rule.size
        table = next(iter(self.store.patches.values()), None)
        if table is None:
            raise InputError(f"{self.store.path} has no patches: draw some with --patch-rule.")
        return table.patch_size

    def each(self, split: str) -> Iterator[VolumeEntry]:
        """Yield the volumes of a split, telling the progress."""
        volumes = self.store.of_split(split)
        for number, volume in enumerate(volumes):
            self.progress(number, len(volumes), f"{split} {volume.id}")
            yield volume

    def maps(self, volume: VolumeEntry, names: Sequence[str]) -> dict[str, Float32Array]:
        """Return maps (x, y, z) as float32; the field is 0 outside the mask, as it is only known inside."""
        maps = {name: np.asarray(self.read(f"volumes/{volume.id}/{name}"), np.float32) for name in names}
        if FIELD in maps:
            maps[FIELD] *= np.asarray(self.read(f"volumes/{volume.id}/{MASK}"), np.float32)
        return maps

    def read(self, name: str) -> NDArray[Any]:
        """Return a dataset of the store as it is; raises InputError where it is damaged."""
        try:
            return np.asarray(self.handle[name][()])
        except OSError as error:
            raise unreadable(self.store.path, error) from error

    def corners(self, volume: VolumeEntry, mask: NDArray[Any]) -> NDArray[np.int64]:
        """Return the corners (n, 3) in voxels of a volume's patches: the store's, or by another rule."""
        if self.rule is not None:
            rows = choose_patches(mask, volume.id, self.rule)[0]
        else:
            table = self.store.patches.get(volume.split)
            if table is None:
                return np.empty((0, 3), np.int64)
            rows = table.rows[table.rows["volume"] == volume.id.encode()]
        return np.stack([rows[axis] for axis in "ijk"], axis=1).astype(np.int64)

    def warn_of_geometry(self, layout: str, volumes: Sequence[VolumeEntry], *, cubic: bool = True) -> None:
        """Warn where a layout's code takes B0 along the third axis and the volumes have it elsewhere.

        Also where it takes cubic voxels (cubic), or the voxels of the first volume for all, and they are others.
        """
        leaning = max(volumes, key=tilt, default=None)
        if leaning is not None and tilt(leaning) > _LARGEST_TILT:
            warnings.warn(
                f"The code that reads {layout} takes B0 along the array's third axis, but in {leaning.id} it leans by "
                f"{tilt(leaning):.1f} degrees: its model loss will be wrong by that much; train on augmented copies, "
                "whose B0 is along the axis, or on scans that are not oblique.",
                Chi33Warning,
                stacklevel=2,
            )
        for volume in volumes:
            size = volume.geometry.voxel_size
            ratio = size if cubic else size / volumes[0].geometry.voxel_size  # a kernel depends on ratios alone
            if np.ptp(ratio) > 0.01 * ratio.max():
                shape = "cubic voxels" if cubic else "voxels of one shape"
                warnings.warn(
                    f"The code that reads {layout} takes {shape}, but those of {volume.id} are "
                    f"{' × '.join(f'{edge:.3g}' for edge in size)} mm: build the store from maps with {shape}.",
                    Chi33Warning,
                    stacklevel=2,
                )
                return


def full_dipole_kernel(shape: Sequence[int], voxel_size: FloatArray, b0_direction: FloatArray) -> Float32Array:
    """Return D(k) = 1/3 - (k.h)^2 / |k|^2 as float32 on the whole grid (x, y, z), k = 0 first and D(0) = 0."""
    h = check_b0_direction(b0_direction)
    kx, ky, _ = frequency_grid(shape, voxel_size)
    kz = np.fft.fftfreq(int(shape[2]), float(voxel_size[2]))[None, None, :]
    squared = kx**2 + ky**2 + kz**2
    squared[0, 0, 0] = 1
    kernel = 1 / 3 - (kx * h[0] + ky * h[1] + kz * h[2]) ** 2 / squared
    kernel[0, 0, 0] = 0
    return kernel.astype(np.float32)


def check_mat_size(what: str, shape: Sequence[int], remedy: str) -> None:
    """Raise InputError where a float32 array is too large for a variable of a MATLAB 5 file (4 GiB)."""
    size = 4 * int(np.prod([int(n) for n in shape]))
    if size >= _MAT_BYTES:
        raise InputError(f"{what} needs {size / 1e9:.1f} GB, but a .mat file holds up to 4.3 GB: {remedy}.")
