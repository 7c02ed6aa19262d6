"""A small head of plain shapes, in which each effect of a living head shows by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from chi33.pipeline.phantom.acquisition import Coil, Echo, Protocol
from chi33.pipeline.phantom.anatomy import TISSUES, Head
from chi33.pipeline.phantom.living.effects import Effects
from chi33.pipeline.phantom.living.field import head_field
from chi33.pipeline.phantom.living.maps import living_maps
from chi33.pipeline.phantom.living.scan import LivingScan, living_echoes
from chi33.pipeline.phantom.living.timing import ScanEvents
from chi33.pipeline.phantom.poses import HeadPose, ScanGrid
from chi33.pipeline.phantom.subjects import HeadParameters
from chi33.pipeline.phantom.truth import scan_truth, smooth_head

SIDE = 44  # mm
MIDDLE = (SIDE - 1) / 2
STRAIGHT = HeadPose(np.eye(3), np.zeros(3))
PROTOCOL = Protocol(echo_times=(0.005, 0.010, 0.015), snr=np.inf)
FLAT_COIL = Coil(np.zeros(9), np.zeros(13))
BRAIN_RADIUS = 14.0


def plain_head() -> Head:
    """A ball of brain: white matter with fibres along x below and along z above, a vein of 2 mm along y, bone around.

    The vein lies 6 mm to the right of the middle; the rest is grey matter; a blob of fat sits in front.
    """
    axis = np.arange(SIDE) - MIDDLE
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    radius = np.sqrt(x * x + y * y + z * z)
    brain = np.clip(BRAIN_RADIUS + 0.5 - radius, 0, 1)
    bone = np.clip(18.5 - radius, 0, 1) - np.clip(16.5 - radius, 0, 1)
    csf = np.clip(16.5 - radius, 0, 1) - brain
    vein = np.clip(1.5 - np.hypot(x - 6, z), 0, 1) * brain
    white = np.clip(6.5 - np.hypot(x + 4, y), 0, 1) * (np.abs(z) < 10) * brain * (1 - vein)
    fat = np.clip(2.0 - np.sqrt(x * x + (y - 20) ** 2 + z * z), 0, 1)
    parts = {"grey": brain - white - vein, "white": white, "csf": csf, "vein": vein, "bone": bone, "fat": fat}
    fractions = np.zeros((len(TISSUES), SIDE, SIDE, SIDE), np.uint8)
    for name, values in parts.items():
        fractions[TISSUES.index(name)] = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    chi = (0.3 * vein - 0.03 * white).astype(np.float32)
    tensor = np.zeros((6, SIDE, SIDE, SIDE), np.float32)
    tensor[[0, 3, 5]] = chi - chi[brain > 0.5].mean()
    along_z = z > 0
    for component, on in ((0, ~along_z), (3, np.zeros_like(along_z)), (5, along_z)):
        tensor[component] += 0.02 * white * (on - 1 / 3)
    r2star = (15 + 40 * vein + 385 * bone).astype(np.float32)
    affine = np.eye(4)
    affine[:3, 3] = -MIDDLE
    labels = np.where(brain > 0.5, np.where(white > 0.7, 9, 10), 0).astype(np.uint8)
    labels[vein > 0.5] = 8
    coarse = np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] = 0.5 - MIDDLE
    exterior = np.zeros((SIDE // 2,) * 3, np.float32)
    return Head(
        HeadParameters(seed=(4,), scale=(1.0, 1.0, 1.0)), affine, fractions, r2star, brain.astype(np.float32), labels,
        tensor, affine.copy(), 0.0, exterior, coarse,
    )  # fmt: skip


def grid_about(centre: tuple[float, float, float] = (0.0, 0.0, 0.0), voxel: float = 2.0, count: int = 24) -> ScanGrid:
    """A cube of voxels about a world point."""
    affine = np.diag([voxel, voxel, voxel, 1.0])
    affine[:3, 3] = np.asarray(centre) - voxel * (count - 1) / 2
    return ScanGrid((count, count, count), affine)


def scan_of(
    effects: Effects,
    *,
    head: Head | None = None,
    pose: HeadPose = STRAIGHT,
    grid: ScanGrid | None = None,
    events: ScanEvents | None = None,
    protocol: Protocol = PROTOCOL,
    offset: float = 0.0,
) -> LivingScan:
    """A scan of the plain head with some effects; offset: ppm by which the shim is wrong everywhere."""
    head = plain_head() if head is None else head
    grid = grid_about() if grid is None else grid
    smooth = smooth_head(head, float(grid.voxel_size.min()))
    field = head_field(head, pose)
    truth = scan_truth(smooth, pose, grid, field)
    shim = truth.shim.copy()
    shim[0] -= offset
    truth = replace(truth, shim=shim, total_field=truth.total_field + np.float32(offset))
    maps = living_maps(smooth, protocol, effects)
    return LivingScan(maps, field, truth, protocol, FLAT_COIL, events or ScanEvents())


def echoes_of(effects: Effects, seed: int = 0, **options: object) -> tuple[LivingScan, list[Echo]]:
    """A scan and its echoes."""
    scan = scan_of(effects, **options)  # type: ignore[arg-type]
    return scan, list(living_echoes(scan, np.random.default_rng(seed)))


def centroid(magnitude: np.ndarray) -> np.ndarray:
    """Centre of mass (3,) in voxels."""
    return np.array([(np.indices(magnitude.shape)[axis] * magnitude).sum() for axis in range(3)]) / magnitude.sum()
