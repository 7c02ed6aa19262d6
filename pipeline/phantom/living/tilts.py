"""Head poses as people manage them in a head coil: small, uneven tilts with a twist about the head's own axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from ..poses import HeadPose, check_orientations

MANAGED_ANGLE = 25.0  # degrees, the largest tilt where none is asked for
_LEAST_SHARE = 0.4  # of the largest tilt
_REST = 1.5  # degrees, how far from straight people lie who are told to lie straight
_SHIFT = 5.0  # mm, spread of the position


def managed_orientations(n: int, max_angle: float, twist: float, seed: int | Sequence[int]) -> list[HeadPose]:
    """Return n poses: about straight first, then tilts of 40 to 100 % of max_angle about uneven horizontal axes.

    twist: spread in degrees of the rotation about the head's own axis that comes with each tilt; no pose is farther
    from straight than max_angle by more than the twist. Raises InputError as head_orientations does.
    """
    check_orientations(n, max_angle)
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), 313])
    rest = Rotation.from_rotvec(np.radians(np.clip(rng.normal(0, _REST, 3), -3, 3)))
    poses = [HeadPose(rest.as_matrix(), rng.normal(0, _SHIFT / 2, 3))]
    count = max(n - 1, 1)
    jitter = rng.uniform(-0.3, 0.3, n - 1)  # of the distance between neighbours on the ring
    azimuths = 2 * np.pi * (np.arange(n - 1) + jitter) / count + rng.uniform(0, 2 * np.pi)
    for azimuth in azimuths:
        tilt = rng.uniform(_LEAST_SHARE, 1.0) * max_angle
        about_the_neck = Rotation.from_rotvec(np.radians([0, 0, np.clip(rng.normal(0, twist), -2 * twist, 2 * twist)]))
        over = Rotation.from_rotvec(np.radians(tilt) * np.array([np.cos(azimuth), np.sin(azimuth), 0.0]))
        poses.append(HeadPose((over * about_the_neck).as_matrix(), rng.normal(0, _SHIFT, 3)))
    return poses
