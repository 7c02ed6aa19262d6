"""Background removal by every method on one field: python examples/background_methods.py.

A point source outside an ellipsoid and a shim make the background; what each method leaves of a small inner source is
compared with the truth.
"""

from __future__ import annotations

import chi33
import numpy as np

SHAPE, VOXEL_SIZE, B0 = (48, 48, 40), (2.5, 2.5, 2.5), (0.0, 0.0, 1.0)


def main() -> None:
    """Print the error of each method where it is valid."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    mask = (x / 0.75) ** 2 + (y / 0.75) ** 2 + (z / 0.75) ** 2 < 1
    chi = 0.1 * ((x - 0.2) ** 2 + y**2 + z**2 < 0.02) - 0.05 * ((x + 0.3) ** 2 + y**2 + z**2 < 0.03)
    outside = 9.0 * ((x / 0.12) ** 2 + (y / 0.12) ** 2 + ((z + 0.95) / 0.1) ** 2 < 1)  # air below
    local = chi33.dipole_field(chi, VOXEL_SIZE, B0)
    total = local + chi33.dipole_field(outside, VOXEL_SIZE, B0) + 0.05 * x + 0.3

    for name in ("vsharp", "resharp", "ismv", "pdf", "lbv"):
        found = chi33.remove_background(name, total, mask, VOXEL_SIZE, b0_direction=B0)
        left = (found.field - local)[found.mask]
        error = np.linalg.norm(left - left.mean()) / np.linalg.norm(local[found.mask])
        print(f"{name}: error {error:.2f}, valid in {found.mask.sum() / mask.sum():.0%} of the mask")


if __name__ == "__main__":
    main()
