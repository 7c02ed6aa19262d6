"""The physics step of the unrolled networks: the dipole on patches, by the three published rules.

A patch is a window of a larger grid. The rules differ in what the dipole does at its edge:

- pad-crop (MoDL-QSM): zero-pad centrally to the full grid, multiply in k-space, crop back, for every application.
- pad-gram (LPCNN): zero-pad at the end of each axis to the full grid; D^H D is applied at once there, then cropped.
- circular (ISDU-QSMNet, whole volumes): the patch's own grid, periodic.

Padding to a full grid of N voxels and cropping back to p is a convolution in which only the offsets -(p-1)..(p-1) of
the
full grid's spatial kernel c = F^-1 D occur, taken modulo N. So the first two rules run exactly on a grid of 2p.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import fft
from torch import Tensor

from ...files.errors import InputError
from ...pipeline.frames import check_b0_direction
from ...pipeline.physics.dipole import Float32Array, check_grid, dipole_kernel

PatchRule = Literal["pad-crop", "pad-gram", "circular"]
Shape = tuple[int, int, int]
MODL_QSM_SHAPE: Shape = (210, 224, 160)
_CACHE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class FullGrid:
    """The grid a patch was cut from: shape in voxels, voxel edges in mm, unit vector of B0 in its voxel frame."""

    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    b0_direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    full_shape: Shape = MODL_QSM_SHAPE

    @classmethod
    def of(cls, full_shape: Sequence[int], voxel_size: ArrayLike, b0_direction: ArrayLike) -> FullGrid:
        """Check and freeze a grid; raises InputError naming what is wrong."""
        shape, size = check_grid(full_shape, voxel_size)
        h = check_b0_direction(b0_direction)
        return cls((size[0].item(), size[1].item(), size[2].item()), (h[0].item(), h[1].item(), h[2].item()), shape)


def patch_kernel(full_kernel: Float32Array, full_shape: Shape, patch_shape: Shape) -> Float32Array:
    """Return the kernel on the half spectrum of the doubled patch grid that acts as pad, full_kernel, crop.

    full_kernel: real and even half spectrum (nx, ny, nz // 2 + 1) of the full grid. Result: float32 (2p, 2p, p + 1).
    Raises InputError where the patch is larger than the full grid.
    """
    if any(p > n for p, n in zip(patch_shape, full_shape, strict=True)):
        raise InputError(
            f"a patch of {patch_shape} voxels does not fit the full grid {full_shape}: use smaller patches."
        )
    spatial = fft.irfftn(full_kernel, s=full_shape)
    doubled = tuple(2 * p for p in patch_shape)
    offsets = [fft.fftfreq(m, 1 / m).round().astype(int) for m in doubled]  # 0 .. p-1, -p .. -1
    window = spatial[np.ix_(*(o % n for o, n in zip(offsets, full_shape, strict=True)))]
    for axis, p in enumerate(patch_shape):
        window[(slice(None),) * axis + (p,)] = 0  # the offset -p never occurs between two voxels of the patch
    return np.ascontiguousarray(fft.rfftn(window).real, dtype=np.float32)


class DipolePhysics:
    """The dipole D on a batch of patches, self-adjoint: `forward`, `adjoint` and `gram` on (batch, 1, x, y, z).

    kernel: D on the half spectrum of `grid`, (batch or 1, 1, *, *, *) float32; gram_kernel: D^2 likewise, or None
    where D^H D is two applications of D. Everything runs in float32 with autocast off.
    """

    def __init__(self, kernel: Tensor, gram_kernel: Tensor | None, patch_shape: Shape, grid: Shape) -> None:
        self.kernel = kernel
        self.gram_kernel = gram_kernel
        self.patch_shape = patch_shape
        self.grid = grid

    def _convolve(self, volume: Tensor, kernel: Tensor) -> Tensor:
        if tuple(volume.shape[-3:]) != self.patch_shape:
            raise InputError(
                f"the physics step was made for patches of {self.patch_shape}, got {tuple(volume.shape[-3:])} voxels."
            )
        with torch.autocast(volume.device.type, enabled=False):
            spectrum = torch.fft.rfftn(volume.float(), s=self.grid, dim=(-3, -2, -1))
            image = torch.fft.irfftn(spectrum * kernel, s=self.grid, dim=(-3, -2, -1))
        x, y, z = self.patch_shape
        return image[..., :x, :y, :z]

    def forward(self, chi: Tensor) -> Tensor:
        """Return the field in ppm, (batch, 1, x, y, z), of a susceptibility map in ppm of the same shape."""
        return self._convolve(chi, self.kernel)

    def adjoint(self, field: Tensor) -> Tensor:
        """Return D^H field, (batch, 1, x, y, z); D is real and even, so this is forward."""
        return self._convolve(field, self.kernel)

    def gram(self, chi: Tensor) -> Tensor:
        """Return D^H D chi, (batch, 1, x, y, z), by the patch rule."""
        if self.gram_kernel is None:
            return self.adjoint(self.forward(chi))
        return self._convolve(chi, self.gram_kernel)


class Chi33DeltaBPhysics:
    """A X = D chi33 + delta B' for X = [chi33, delta B'], (batch, 2, x, y, z) in ppm (MoDL-QSM eqs. 6-9)."""

    def __init__(self, dipole: DipolePhysics) -> None:
        self.dipole = dipole

    def forward(self, x: Tensor) -> Tensor:
        """Return the field A X, (batch, 1, x, y, z) in ppm."""
        return self.dipole.forward(x[:, :1]) + x[:, 1:]

    def adjoint(self, field: Tensor) -> Tensor:
        """Return A^H y = [D y, y], (batch, 2, x, y, z)."""
        return torch.cat([self.dipole.adjoint(field), field.float()], dim=1)

    def gradient(self, x: Tensor, field: Tensor) -> Tensor:
        """Return A^H (A X - field), (batch, 2, x, y, z), the gradient of the data term (MoDL-QSM eq. 12)."""
        if self.dipole.gram_kernel is None:
            return self.adjoint(self.forward(x) - field)
        # pad-gram: D^2 acts at once on chi33; the other three blocks hold a single D or none.
        residual = x[:, 1:] - field
        chi33 = self.dipole.gram(x[:, :1]) + self.dipole.adjoint(residual)
        return torch.cat([chi33, self.dipole.forward(x[:, :1]) + residual], dim=1)


class DipolePhysicsFactory:
    """Makes the DipolePhysics of a batch; keeps the kernel of every grid and patch shape it has met.

    rule: "pad-crop", "pad-gram" or "circular"; k0: D at k = 0 (0; 1/3 for imported ISDU and SpiNet weights).
    """

    def __init__(self, rule: PatchRule, *, k0: float = 0.0) -> None:
        if rule not in get_args(PatchRule):
            raise InputError(f"patch rule must be one of {', '.join(get_args(PatchRule))}, got {rule!r}.")
        self.rule = rule
        self.k0 = k0
        self._kernels: OrderedDict[tuple[FullGrid, Shape], Tensor] = OrderedDict()
        self._bytes = 0

    def _compute(self, grid: FullGrid, patch_shape: Shape) -> Tensor:
        full_shape = patch_shape if self.rule == "circular" else grid.full_shape
        kernel = dipole_kernel(full_shape, grid.voxel_size, grid.b0_direction, k0=self.k0)
        if self.rule == "circular":
            return torch.from_numpy(kernel)[None]
        kernels = [patch_kernel(kernel, full_shape, patch_shape)]
        if self.rule == "pad-gram":
            kernels.append(patch_kernel(kernel**2, full_shape, patch_shape))
        return torch.from_numpy(np.stack(kernels))

    def _kernels_of(self, grid: FullGrid, patch_shape: Shape) -> Tensor:
        key = (grid, patch_shape)
        if key in self._kernels:
            self._kernels.move_to_end(key)
            return self._kernels[key]
        kernels = self._compute(grid, patch_shape)
        self._kernels[key] = kernels
        self._bytes += kernels.nbytes
        while self._bytes > _CACHE_BYTES and len(self._kernels) > 1:
            self._bytes -= self._kernels.popitem(last=False)[1].nbytes
        return kernels

    def __call__(self, grids: Sequence[FullGrid], patch_shape: Sequence[int], device: torch.device) -> DipolePhysics:
        """Return the physics of a batch of patches (x, y, z), one grid a sample; equal ones share a kernel."""
        patch: Shape = (int(patch_shape[0]), int(patch_shape[1]), int(patch_shape[2]))
        distinct = list(grids[:1]) if len(set(grids)) == 1 else list(grids)
        stacked = torch.stack([self._kernels_of(grid, patch) for grid in distinct])[:, :, None].to(device)
        grid: Shape = patch if self.rule == "circular" else (2 * patch[0], 2 * patch[1], 2 * patch[2])
        gram = stacked[:, 1] if self.rule == "pad-gram" else None
        return DipolePhysics(stacked[:, 0], gram, patch, grid)
