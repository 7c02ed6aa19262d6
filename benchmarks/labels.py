"""Measures the labels of a scan: python benchmarks/labels.py [--shape 210,224,160] [--seed 3] [--only PART ...].

Parts: seconds and memory, what is lost at the mask's edge, means on coarser grids, and where delta B' is made.

Errors are root mean squares of the difference from the truth over that of the truth, in percent. The heads are those of
the simulator; the truth of a voxel is the mean over it of the truth on a finer grid.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from chi33.pipeline.computing.threads import fft_workers
from chi33.pipeline.frames import voxel_frame, voxel_size
from chi33.pipeline.images.morphology import depth_inside
from chi33.pipeline.images.spline_maps import evaluate, spline_maps
from chi33.pipeline.labels import Labels, scan_labels
from chi33.pipeline.phantom.anatomy import HeadParameters, build_head
from chi33.pipeline.phantom.poses import HeadPose, head_orientations, scan_grid
from chi33.pipeline.phantom.truth import ScanTruth, SmoothedHead, brain_centred_grid_centre, scan_truth, smooth_head
from chi33.pipeline.physics.tensor_field import delta_b_prime
from chi33.pipeline.physics.tensors import isotropic, rotate_components
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

PARTS = ("speed", "edge", "coarser", "delta_b")
BLOCKS = ((1, 1, 1), (2, 2, 2), (1, 1, 3))


def error(values: NDArray, truth: NDArray, where: NDArray[np.bool_]) -> float:
    """Return 100 |values - truth| / |truth| in a mask."""
    return float(100 * np.linalg.norm((values - truth)[where]) / np.linalg.norm(truth[where]))


def about_middle(shape: Sequence[int]) -> NDArray[np.float64]:
    """Return a rotation (4, 4) by 24 degrees about the middle of a grid of 1 mm."""
    transform, middle = np.eye(4), (np.array(shape) - 1) / 2
    transform[:3, :3] = Rotation.from_rotvec([0.3, -0.2, 0.2]).as_matrix()
    transform[:3, 3] = middle - transform[:3, :3] @ middle
    return transform


def blocks_of(affine: NDArray, factors: Sequence[int]) -> NDArray[np.float64]:
    """Return the affine of the grid whose voxels are blocks of another's."""
    count, blocks = np.asarray(factors), affine.copy()
    blocks[:3, :3] = affine[:3, :3] * count
    blocks[:3, 3] += affine[:3, :3] @ ((count - 1) / 2)
    return blocks


def block_means(values: NDArray, factors: Sequence[int]) -> NDArray:
    """Return the means (x, y, z) of blocks of voxels."""
    x, y, z = (n // f for n, f in zip(values.shape, factors, strict=True))
    cut = values[: x * factors[0], : y * factors[1], : z * factors[2]]
    return cut.reshape(x, factors[0], y, factors[1], z, factors[2]).mean(axis=(1, 3, 5))


def ellipsoid(shape: Sequence[int], share: float = 0.4) -> NDArray[np.bool_]:
    """Return an ellipsoid of a brain's share of a grid."""
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / (share * n) for n in shape), indexing="ij", sparse=True)
    return np.asarray(axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2 < 1)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def labels_of(tensor: NDArray, affine: NDArray, shape: Sequence[int], transform: NDArray, mask: NDArray) -> Labels:
    """Return the labels of a scan of a tensor on a grid of 1 mm, from a local field of 0."""
    return scan_labels(tensor, tensor[0], np.eye(4), affine, shape, transform, np.zeros(shape, np.float32), mask)


def speed(shape: tuple[int, int, int]) -> None:
    """Print seconds, those of the processors too, and memory of the labels of a scan."""
    mask = ellipsoid(shape)
    tensor = np.random.default_rng(0).standard_normal((6, *shape), np.float32) * mask
    small = np.s_[:, shape[0] // 2 :, shape[1] // 2 :, shape[2] // 2 :]
    labels_of(tensor[small], np.eye(4), tensor[small].shape[1:], np.eye(4), mask[small[1:]])  # compiles
    print(f"labels of a scan of {shape} voxels of 1 mm, {fft_workers()} threads")
    print("voxels of the scan    seconds   of the processors   memory (float32 volumes)")
    for factors in ((1, 1, 1), (1, 1, 4)):
        Path("/proc/self/clear_refs").write_text("5")
        before, wall, cpu = _peak(), time.perf_counter(), time.process_time()
        valid = block_means(mask.astype(np.float32), factors) > 0.9
        labels_of(tensor, blocks_of(np.eye(4), factors), valid.shape, about_middle(shape), valid)
        wall, cpu, used = time.perf_counter() - wall, time.process_time() - cpu, _peak() - before
        size = " x ".join(f"{n} mm" for n in factors)
        print(f"{size:20s} {wall:8.2f} {cpu:19.2f} {used / 1e9:10.2f} GB ({used / 4 / np.prod(shape):.0f})", flush=True)


def edge(shape: tuple[int, int, int] = (96, 96, 96)) -> None:
    """Print what is lost of a uniform susceptibility by depth below the mask's surface."""
    mask = ellipsoid(shape)
    tensor = isotropic(np.where(mask, np.float32(0.05), np.float32(0)))
    print("a uniform 0.05 ppm on 1 mm     outer 2 mm     next 2 mm     deeper    (error, %)")
    for factors in ((1, 1, 1), (1, 1, 4)):
        valid = block_means(mask.astype(np.float32), factors) > 0.99
        affine = blocks_of(np.eye(4), factors)
        found = labels_of(tensor, affine, valid.shape, about_middle(shape), valid).chi33
        depth = depth_inside(valid, factors)
        truth = np.full(valid.shape, 0.05)
        layers = (valid & (depth <= 2), valid & (depth > 2) & (depth <= 4), valid & (depth > 4))
        row = "  ".join(f"{error(found, truth, layer):12.5f}" if layer.any() else f"{'-':>12}" for layer in layers)
        print(f"{' x '.join(str(n) for n in factors):>14} mm          {row}", flush=True)


def coarser(shape: tuple[int, int, int] = (96, 104, 88)) -> None:
    """Print how far maps on a coarser grid are from the means over its voxels."""
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    rough = ndimage.gaussian_filter(noise, 1.0)
    maps, transform = spline_maps(rough, ellipsoid(shape), np.eye(4)), about_middle(shape)
    fine, there = evaluate(maps, np.eye(4), shape, transform)
    print("noise smoothed by 1 mm, 1 mm to    error against the means over the voxels, %    of a sample alone")
    for factors in ((2, 2, 2), (1, 1, 4), (1, 1, 2), (4, 4, 4)):
        whole = block_means(there.astype(np.float32), factors) == 1
        truth = block_means(fine[0], factors)
        found, _ = evaluate(maps, blocks_of(np.eye(4), factors), whole.shape, transform)
        centre, _ = evaluate(maps, np.eye(4), shape, _to_centres(transform, factors))
        x, y, z = whole.shape
        alone = centre[0][: x * factors[0] : factors[0], : y * factors[1] : factors[1], : z * factors[2] : factors[2]]
        row = f"{error(found[0], truth, whole):10.4f} {error(alone, truth, whole):50.1f}"
        print(f"{' x '.join(str(n) for n in factors):>14} mm   {row}", flush=True)


def _to_centres(transform: NDArray, factors: Sequence[int]) -> NDArray[np.float64]:
    """Return a transform that puts the first voxel of every block where the block's centre is."""
    moved = transform.copy()
    moved[:3, 3] -= (np.asarray(factors) - 1) / 2
    return moved


def scan_of(smooth: SmoothedHead, pose: HeadPose, voxel: tuple[float, float, float]) -> ScanTruth:
    """Return the truth of a head on an upright grid."""
    return scan_truth(smooth, pose, scan_grid(voxel, brain_centred_grid_centre(smooth.head, pose, np.eye(3))))


def delta_b(seed: int, fine: float = 1.5) -> None:
    """Print the error of delta B' by where it is made: on the scan's grid from M, or as scan_labels makes it."""
    head = build_head(HeadParameters.from_seed((seed, 0)))
    poses = head_orientations(2, 30.0, (seed, 0))
    smooth = smooth_head(head, fine)
    truth = scan_of(smooth, poses[1], (fine, fine, fine))
    transform = poses[0].transform_to(poses[1])
    print(f"head {seed}, truth on {fine} mm; errors in % of chi33, of delta B' of M on the scan's grid, and as it is")
    print("subject's voxels     scan's voxels      chi33        from M alone          of the labels")
    for own in ((fine, fine, fine), (2 * fine, 2 * fine, 2 * fine), (fine, fine, 3 * fine)):
        source = scan_of(smooth, poses[0], own)
        for factors in BLOCKS:
            affine = blocks_of(truth.grid.affine, factors)
            whole = block_means(truth.brain_mask.astype(np.float32), factors) == 1
            field = np.zeros(whole.shape, np.float32)
            found = scan_labels(
                source.world_tensor, source.mms, source.grid.affine, affine, whole.shape, np.linalg.inv(transform),
                field, whole,
            )  # fmt: skip
            maps = spline_maps(
                rotate_components(source.world_tensor, voxel_frame(affine).T @ transform[:3, :3]), source.brain_mask,
                source.grid.affine,
            )  # fmt: skip
            tensor, _ = evaluate(maps, affine, whole.shape, transform)
            coarse = delta_b_prime(tensor, voxel_size(affine), voxel_frame(affine)[2])
            chi, across = (block_means(one, factors) for one in (truth.chi33, truth.delta_b))
            print(
                f"{' x '.join(f'{n:g}' for n in own):>15}    {' x '.join(f'{n:g}' for n in voxel_size(affine)):>15}   "
                f"{error(found.chi33, chi, whole):8.1f} {error(coarse, across, whole):22.2f} "
                f"{error(found.delta_b, across, whole):22.2f}",
                flush=True,
            )


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="210,224,160", help="of the scan whose labels are timed, in voxels")
    parser.add_argument("--seed", type=int, default=3, help="of the simulated head")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the tables to print")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if "speed" in options.only:
        x, y, z = (int(n) for n in options.shape.split(","))
        speed((x, y, z))
    if "edge" in options.only:
        edge()
    if "coarser" in options.only:
        coarser()
    if "delta_b" in options.only:
        delta_b(options.seed)


if __name__ == "__main__":
    main()
