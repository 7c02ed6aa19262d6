"""From arrays to the labels of a scan, in fifteen lines: python examples/arrays_to_chi33.py.

A small ellipsoid with a paramagnetic core and anisotropic shell stands in for the head; its local fields in seven
orientations are computed, and its tensor is fitted back.
"""

from __future__ import annotations

import chi33
import numpy as np
from scipy.spatial.transform import Rotation

SHAPE, VOXEL_SIZE = (32, 36, 30), (2.0, 2.0, 2.0)


def head() -> tuple[np.ndarray, np.ndarray]:
    """Return a tensor (6, x, y, z) in ppm and its mask (x, y, z)."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt((x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 0.8) ** 2)
    mask, core = radius < 1, radius < 0.4
    tensor = np.zeros((6, *SHAPE), np.float32)
    tensor[[0, 3, 5]] = 0.08 * core - 0.02 * (mask & ~core)  # xx, yy, zz
    tensor[0] += 0.012 * (mask & ~core)  # fibres along x
    return tensor, mask


def main() -> None:
    """Fit the tensor of simulated fields and print how near the labels come."""
    tensor, mask = head()
    tilts = [(0, 0), (25, 0), (-25, 0), (0, 25), (0, -25), (18, 18), (-18, 18)]  # degrees about x and y
    directions = [Rotation.from_euler("xy", tilt, degrees=True).inv().apply([0, 0, 1]) for tilt in tilts]
    noise = np.random.default_rng(0).normal(0, 1e-4, (len(tilts), *SHAPE))
    fields = [chi33.tensor_field(tensor, VOXEL_SIZE, h) * mask + n for h, n in zip(directions, noise, strict=True)]

    fit = chi33.sti(fields, [mask] * len(tilts), VOXEL_SIZE, directions)
    label = chi33.chi33_map(fit.tensor, directions[3])
    delta_b = chi33.delta_b_prime(fit.tensor, VOXEL_SIZE, directions[3])

    truth = chi33.chi33_map(tensor, directions[3])
    print(f"chi33 of scan 4: r = {np.corrcoef(label[mask], truth[mask])[0, 1]:.3f}")
    truth = chi33.delta_b_prime(tensor, VOXEL_SIZE, directions[3])
    print(f"delta B' of scan 4: r = {np.corrcoef(delta_b[mask], truth[mask])[0, 1]:.3f}")


if __name__ == "__main__":
    main()
