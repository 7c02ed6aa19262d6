"""The last tenths of a millimetre of a registration: robust least squares in both directions at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..frames import voxel_size
from ..images.morphology import bounding_box

_POINTS = 80_000  # of each image
_BOX_MARGIN = 12.0  # mm around the points, that the images are cropped to
_TUKEY = 4.685  # standard deviations beyond which a voxel does not count (Huber & Ronchetti 2009, section 4.8)
_ITERATIONS = 25

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One image of a pair, prepared for sampling.

    coefficients: of its cubic spline (x, y, z); gradient: (3, x, y, z) a voxel; wanted: where it may be compared;
    to_voxel: world to voxel (4, 4); points: world (3, n) in mm of the voxels compared, and their values (n,).
    """

    coefficients: NDArray[np.float32]
    gradient: NDArray[np.float32]
    wanted: NDArray[np.bool_]
    to_voxel: FloatArray
    points: FloatArray
    values: FloatArray

    def sample(self, world: FloatArray) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        """Return values (n,), gradients (3, n) a mm and whether they may be compared, at world points (3, n)."""
        voxel = self.to_voxel[:3, :3] @ world + self.to_voxel[:3, 3:]
        values = ndimage.map_coordinates(self.coefficients, voxel, output=np.float64, order=3, prefilter=False)
        slope = np.stack([ndimage.map_coordinates(one, voxel, output=np.float64, order=1) for one in self.gradient])
        return values, self.to_voxel[:3, :3].T @ slope, self.seen(voxel)

    def seen(self, voxel: FloatArray) -> NDArray[np.bool_]:
        """Return whether voxel coordinates (3, n) lie in the image and where it may be compared."""
        index = np.rint(voxel).astype(int)
        last = np.array(self.wanted.shape)[:, None] - 1
        inside = ((voxel >= 0) & (voxel <= last)).all(axis=0)
        return inside & self.wanted[tuple(np.clip(index, 0, last))]


def side(volume: ArrayLike, affine: ArrayLike, wanted: ArrayLike, resolution: float) -> Side:
    """Return an image (x, y, z) smoothed to a resolution in mm along every axis and prepared for comparison.

    affine: voxel-to-world (4, 4); wanted: mask (x, y, z) of where it is compared, not empty.
    """
    inside = np.asarray(wanted, bool)
    size = voxel_size(affine)
    matrix = np.array(affine, np.float64)
    box = bounding_box(inside, np.ceil(_BOX_MARGIN / size).astype(int))
    matrix[:3, 3] += matrix[:3, :3] @ [one.start for one in box]
    sigma = np.sqrt(np.maximum(resolution**2 - size**2, 0)) / 2.355 / size
    smooth = ndimage.gaussian_filter(np.asarray(volume, np.float32)[box], sigma)
    inside = inside[box]
    # Evenly spaced voxels of a grid lie on planes; a fixed random choice does not.
    chosen = np.flatnonzero(inside)
    if len(chosen) > _POINTS:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, _POINTS, replace=False))
    voxels = np.stack(np.unravel_index(chosen, inside.shape)).astype(np.float64)
    return Side(
        ndimage.spline_filter(smooth, 3, output=np.float32), np.stack(np.gradient(smooth)), inside,
        np.asarray(np.linalg.inv(matrix), np.float64), matrix[:3, :3] @ voxels + matrix[:3, 3:],
        smooth.ravel()[chosen].astype(np.float64),
    )  # fmt: skip


def _turned(offset: FloatArray, slope: FloatArray) -> FloatArray:
    """Return the derivatives (7, n) of values to a turn (rad), a shift (mm) and a log scale about the origin."""
    turn = np.cross(offset, slope, axis=0)
    return np.vstack([turn, slope, (offset * slope).sum(axis=0, keepdims=True)])


def _gain_terms(points: FloatArray, degree: int) -> FloatArray:
    """Return the products (terms, n) of coordinates up to a degree, over points (3, n) scaled to -1...1."""
    centred = points - points.mean(axis=1, keepdims=True)
    x, y, z = centred / max(float(np.abs(centred).max()), 1e-9)
    powers = [(i, j, k) for i in range(degree + 1) for j in range(degree + 1 - i) for k in range(degree + 1 - i - j)]
    return np.stack([x**i * y**j * z**k for i, j, k in powers])


def _products(one: FloatArray, other: FloatArray) -> FloatArray:
    """Return the sums over n of products (a, b) of rows (a, n) and (b, n), in one thread and one order."""
    return np.asarray(np.einsum("an,bn->ab", one, other, optimize=False), np.float64)


def _equations(
    derivative: FloatArray, sampled: FloatArray, values: FloatArray, seen: NDArray[np.bool_], terms: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the normal equations (7, 7), (7,) of values = gain(x) sampled, the gain's polynomial eliminated.

    Each residual counts by Tukey's biweight over the residuals' variance.
    """
    y, terms = values[seen], terms[:, seen]
    basis = terms * sampled[seen]
    weight = np.ones_like(y)
    for _ in range(3):
        weighted = basis * weight
        gain = np.linalg.lstsq(_products(weighted, basis), _products(weighted, y[None])[:, 0], rcond=1e-10)[0]
        residual = y - gain @ basis
        spread = max(1.4826 * float(np.median(np.abs(residual))), 1e-9)
        weight = (1 - np.clip(residual / (_TUKEY * spread), -1, 1) ** 2) ** 2
    rows = np.vstack([(gain @ terms) * derivative[:, seen], basis])
    weighted = rows * weight
    matrix, right = _products(weighted, rows) / spread**2, _products(weighted, residual[None])[:, 0] / spread**2
    shared = np.linalg.lstsq(matrix[7:, 7:], np.column_stack([matrix[7:, :7], right[7:]]), rcond=1e-10)[0]
    return matrix[:7, :7] - matrix[:7, 7:] @ shared[:, :7], right[:7] - matrix[:7, 7:] @ shared[:, 7]


def refine(moving: Side, fixed: Side, transform: ArrayLike, *, degree: int = 3, tolerance: float = 3e-3) -> FloatArray:
    """Return the similarity (4, 4), moving world to fixed world, that fits two images best, from a close start.

    Gauss-Newton on the intensities up to a gain, a polynomial of the place (of a degree), because the coil's shading
    stays with the scanner; weighted by Tukey's biweight, so that what differs (lost signal, vessels) does not pull. The
    moving image is compared at the voxels of the fixed one and the other way round: one direction alone shrinks the
    scale, because the noise of the sampled image counts as structure. Iterations end where a step moves no point by
    more than tolerance (mm).
    """
    back = np.linalg.inv(np.asarray(transform, np.float64))  # fixed world to moving world
    centre = fixed.points.mean(axis=1, keepdims=True)
    reach = float(np.abs(fixed.points - centre).max())
    terms, other_terms = _gain_terms(fixed.points, degree), _gain_terms(moving.points, degree)
    for _ in range(_ITERATIONS):
        sampled, slope, seen = moving.sample(back[:3, :3] @ fixed.points + back[:3, 3:])
        ahead = _turned(fixed.points - centre, back[:3, :3].T @ slope)
        here = np.linalg.inv(back)
        world = here[:3, :3] @ moving.points + here[:3, 3:]
        other, other_slope, other_seen = fixed.sample(world)
        if min(int(seen.sum()), int(other_seen.sum())) < 1000:
            break
        one = _equations(ahead, sampled, fixed.values, seen, terms)
        two = _equations(-_turned(world - centre, other_slope), other, moving.values, other_seen, other_terms)
        step = np.asarray(np.linalg.solve(one[0] + two[0], one[1] + two[1]), np.float64)
        step *= min(1.0, 4.0 / max(_moved(step, reach), 1e-9))  # mm, of the farthest point
        change = np.eye(4)
        change[:3, :3] = np.exp(step[6]) * Rotation.from_rotvec(step[:3]).as_matrix()
        change[:3, 3] = (centre[:, 0] + step[3:6]) - change[:3, :3] @ centre[:, 0]
        back = back @ change
        if _moved(step, reach) < tolerance:
            break
    return np.asarray(np.linalg.inv(back), np.float64)


def _moved(step: FloatArray, reach: float) -> float:
    """Return about how far a step moves a point `reach` mm from the centre, in mm."""
    return float(np.linalg.norm(step[3:6]) + reach * (np.linalg.norm(step[:3]) + abs(step[6])))


def agreement(moving: Side, fixed: Side, transform: ArrayLike) -> tuple[float, float]:
    """Return the correlation of two images where both may be compared, and the share of the fixed one's points there.

    transform: moving world to fixed world (4, 4). The correlation is 0 where fewer than 1000 points are shared.
    """
    back = np.linalg.inv(np.asarray(transform, np.float64))
    sampled, _, seen = moving.sample(back[:3, :3] @ fixed.points + back[:3, 3:])
    if seen.sum() < 1000 or np.ptp(sampled[seen]) == 0 or np.ptp(fixed.values[seen]) == 0:
        return 0.0, float(seen.mean())
    return float(np.corrcoef(sampled[seen], fixed.values[seen])[0, 1]), float(seen.mean())
