"""Small simulated stores and volumes, physically consistent, for the tests of training and its commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from chi33.datasets.build.statistics import MaskedMoments
from chi33.datasets.loading.patches import draw_patches, join_tables
from chi33.datasets.store.volume import Geometry, Volume
from chi33.datasets.store.writer import StoreWriter
from chi33.pipeline.physics.tensor_field import delta_b_prime, tensor_field
from chi33.pipeline.physics.tensors import chi33
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True)
class TinyHead:
    """Maps (x, y, z) of a ball with spheres in it: local field, chi33, delta B' in ppm, mask, and how it lies."""

    field: NDArray[np.float32]
    chi33: NDArray[np.float32]
    deltab: NDArray[np.float32]
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]
    b0_direction: NDArray[np.float64]


def tiny_head(
    seed: int, shape: tuple[int, int, int] = (24, 26, 22), voxel: tuple[float, float, float] = (2, 2, 2)
) -> TinyHead:
    """Return a random head whose field follows from its tensor: about 40 spheres of 0.05 to 0.2 ppm, some "
    "anisotropy."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    mask = (grid**2).sum(0) < 0.95
    iso = 0.02 * gaussian_filter(random.standard_normal(shape), 1.5) / 0.1
    for _ in range(25):
        centre, radius = random.uniform(-0.6, 0.6, 3), random.uniform(0.1, 0.25)
        inside = ((grid - centre[:, None, None, None]) ** 2).sum(0) < radius**2
        iso[inside] = random.choice([-0.05, 0.05, 0.1, 0.2])
    iso -= iso[mask].mean()
    fibre = np.stack([gaussian_filter(random.standard_normal(shape), 4) for _ in range(3)])
    fibre /= np.linalg.norm(fibre, axis=0)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    tensor = np.stack([0.03 * fibre[a] * fibre[b] + (a == b) * (iso - 0.01) for a, b in pairs]) * mask
    h = random.normal(size=3) * (0.2, 0.2, 0) + (0, 0, 1)
    h /= np.linalg.norm(h)
    return TinyHead(
        field=np.float32(tensor_field(tensor, voxel, h, padding=40.0) * mask),
        chi33=np.float32(chi33(tensor, h)),
        deltab=np.float32(delta_b_prime(tensor, voxel, h, padding=40.0) * mask),
        mask=np.uint8(mask),
        affine=np.diag([*voxel, 1.0]),
        b0_direction=h,
    )


def write_tiny_store(
    path: Path,
    splits: dict[str, str] | None = None,
    *,
    patch_size: int = 8,
    patches: int = 6,
    labels: dict[str, tuple[str, ...]] | tuple[str, ...] = ("chi33", "deltab"),
) -> Path:
    """Write a store with one scan per subject; splits: subject label to split (01 trains, 02 validates).

    labels: which of chi33, deltab and cosmos the scans hold, or those of each subject. COSMOS is chi33 here.
    """
    moments = MaskedMoments()
    tables: dict[str, list[NDArray]] = {}
    with StoreWriter(path, {}) as writer:
        for number, (subject, split) in enumerate((splits or {"01": "train", "02": "val"}).items()):
            head = tiny_head(number)
            name = f"sub-{subject}/acq-ori01"
            maps = {"chi33": head.chi33, "deltab": head.deltab, "cosmos": head.chi33}
            held = labels[subject] if isinstance(labels, dict) else labels
            channels = {"field": head.field, **{label: maps[label] for label in held}, "mask": head.mask}
            volume = Volume(name, subject, channels, Geometry(head.affine, head.b0_direction, 3.0))
            writer.add_volume(volume, split)
            table, _ = draw_patches(head.mask, name, patch_size=patch_size, min_brain=0.8, number=patches, seed=number)
            tables.setdefault(split, []).append(table)
            if split == "train":
                moments.add(volume)
        for split, parts in tables.items():
            writer.add_patches(split, join_tables(parts), patch_size=patch_size, min_brain=0.8, seed=0)
        writer.add_statistics(moments.result())
    return path
