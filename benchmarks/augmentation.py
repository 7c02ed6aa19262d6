"""Measures the turning of heads: python benchmarks/augmentation.py [SIM ...] [--shape 210,224,160] [--only PART ...].

accuracy  for every SIM (a folder that `chi33 simulate` wrote, two scans or more): the subject's true tensor turned
          onto the other scans, against their directly simulated truth inside both masks. NRMSE in percent of chi33,
          the field and delta B'; then of chi33 and the field two voxels and more inside. Then a turn of 30 degrees
          and its inverse: eigenvalues and principal eigenvectors in white matter, three voxels and more inside.
sampling  the same for one head at 2 mm whose tensor was sampled more finely before the turn, so that what is left
          shows which part of the error is interpolation of a coarsely sampled head; and a resolution that 2 mm carries.
blur      random plane waves of a band, turned by random rotations: energy kept and NRMSE of one turn, NRMSE of a turn
          and its inverse; trilinear interpolation beside it.
speed     seconds of a turn at full size and the peak memory of its process, in NumPy and torch (CUDA where present).
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from chi33.datasets.augmentation.rotated_head import RotatableHead
from chi33.datasets.augmentation.rotation import draw_rotation, magnetisation_weights, rotate_tensor_image
from chi33.datasets.store.volume import Geometry, TensorVolume
from chi33.pipeline.computing.threads import fft_workers
from chi33.pipeline.frames import (
    b0_direction_from_affine,
    rotation_and_scale,
    rotation_angle,
    voxel_frame,
    voxel_size,
)
from chi33.pipeline.images.morphology import dice
from chi33.pipeline.images.spline_maps import evaluate, spline_maps
from chi33.pipeline.phantom.anatomy import ROI_LABELS, build_head
from chi33.pipeline.phantom.poses import head_orientations, scan_grid
from chi33.pipeline.phantom.subjects import HeadParameters
from chi33.pipeline.phantom.truth import brain_centred_grid_centre, scan_truth, smooth_head
from chi33.pipeline.physics.magnetisation_field import magnetisation_fields
from chi33.pipeline.physics.tensors import eigenvalues, principal_eigenvector, rotation_of_components
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

WHITE = next(label for label, name in ROI_LABELS.items() if name == "white")
PARTS = ("accuracy", "sampling", "blur", "speed")
Maps = dict[str, NDArray[np.float32]]


def load(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return a volume and its affine."""
    image = nib.load(path)
    return np.asarray(image.dataobj, np.float32), np.asarray(image.affine, np.float64)


def nrmse(estimate: NDArray, truth: NDArray, mask: NDArray) -> float:
    """Return 100 |estimate - truth| / |truth| in a mask."""
    a, b = estimate[mask].astype(np.float64), truth[mask].astype(np.float64)
    return float(100 * np.linalg.norm(a - b) / np.linalg.norm(b))


def turned_onto(
    tensor: NDArray, mask: NDArray, affine: NDArray, target: NDArray, shape: Sequence[int], transform: NDArray
) -> Maps:
    """Return chi33, deltab, field and mask of a tensor turned onto a scan's grid by its transform (4, 4)."""
    weights = voxel_frame(target).T @ magnetisation_weights(rotation_and_scale(transform)[0])
    magnetisation, inside = evaluate(spline_maps(tensor, mask, affine).mixed(weights), target, shape, transform)
    along, dipolar, across = magnetisation_fields(magnetisation, voxel_size(target), b0_direction_from_affine(target))
    return {"chi33": along, "deltab": across, "field": dipolar + across, "mask": inside}


def errors(turned: Maps, truth: Maps) -> str:
    """Return the columns of the accuracy tables."""
    brain = truth["mask"] > 0
    both = brain & turned["mask"]
    inner = ndimage.binary_erosion(both, iterations=2)
    columns = [f"{dice(turned['mask'], brain):.4f}"]
    columns += [f"{nrmse(turned[name], truth[name], both):6.2f}" for name in ("chi33", "field", "deltab")]
    columns += [f"{nrmse(turned[name], truth[name], inner):12.2f}" for name in ("chi33", "field")]
    return "  ".join(columns)


HEADER = "Dice     chi33   field  deltab  inside: chi33         field"


def accuracy(simulation: Path) -> None:
    """Print the accuracy table of a simulated data set."""
    for anat in sorted((simulation / "derivatives" / "truth").glob("sub-*/anat")):
        subject = anat.parent.name
        tensor, affine = load(anat / f"{subject}_space-subject_desc-tensor_Chimap.nii.gz")
        mask = load(anat / f"{subject}_space-subject_desc-brain_mask.nii.gz")[0] > 0
        print(f"{simulation} {subject}, voxels {np.round(voxel_size(affine), 2).tolist()} mm\nangle   {HEADER}")
        for path in sorted(anat.glob("*_xfm.txt"))[1:]:
            scan = str(path).partition("_from-")[0]
            names = {"chi33": "chi33_Chimap", "deltab": "deltab_fieldmap", "field": "local_fieldmap"}
            truth = {name: load(Path(f"{scan}_desc-{file}.nii.gz"))[0] for name, file in names.items()}
            truth["mask"], target = load(Path(f"{scan}_desc-brain_mask.nii.gz"))
            back = np.linalg.inv(np.loadtxt(path))
            place = (np.moveaxis(tensor, -1, 0), mask, affine, target, truth["mask"].shape, back)
            line = errors(turned_onto(*place), truth)
            print(f"{rotation_angle(rotation_and_scale(back)[0]):5.1f}   {line}", flush=True)
        white = load(next(anat.glob("*_acq-ori01_desc-rois_dseg.nii.gz")))[0] == WHITE
        print(round_trip(np.moveaxis(tensor, -1, 0), mask, affine, white), flush=True)


def round_trip(tensor: NDArray, mask: NDArray, affine: NDArray, white: NDArray) -> str:
    """Return in words what a turn of 30 degrees and its inverse leave of the tensor in white matter."""
    rotation = Rotation.from_rotvec(np.radians(30) * np.array([0.6, -0.48, 0.64])).as_matrix()
    centre = affine[:3, :3] @ ((np.array(mask.shape) - 1) / 2) + affine[:3, 3]
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = rotation, centre - rotation @ centre
    there = spline_maps(tensor, mask, affine).mixed(rotation_of_components(rotation))
    turned, inside = evaluate(there, affine, mask.shape, turn)
    back = spline_maps(turned, inside, affine).mixed(rotation_of_components(rotation.T))
    returned, _ = evaluate(back, affine, mask.shape, np.linalg.inv(turn))
    deep = ndimage.binary_erosion(white, iterations=3)
    given, found = eigenvalues(tensor[:, deep]), eigenvalues(returned[:, deep])
    cosine = np.abs((principal_eigenvector(tensor[:, deep]) * principal_eigenvector(returned[:, deep])).sum(axis=0))
    angles = np.degrees(np.arccos(np.clip(cosine, 0, 1)))
    error = 100 * np.linalg.norm(found - given) / np.linalg.norm(given)
    return (
        f"there and back, {deep.sum()} voxels of white matter: eigenvalues {error:.2f} % NRMSE, "
        f"principal eigenvectors {np.median(angles):.2f} degrees (median), {np.percentile(angles, 99):.2f} (99 %)"
    )


def sampling(seed: int = 77) -> None:
    """Print what a finer sampling before the turn, or a smoother head, leaves of the error."""
    head = build_head(HeadParameters.from_seed((seed, 0)))
    poses = head_orientations(2, 35.0, (seed, 0))
    transform = poses[0].transform_to(poses[1])
    print(f"a head at 2 mm, of a turn of 35 degrees\nresolution  tensor sampled   {HEADER}")
    for edge, voxels in ((2.0, (2.0, 1.5, 1.0)), (3.0, (2.0,)), (4.0, (2.0,))):
        smooth = smooth_head(head, edge)
        target = scan_truth(
            smooth, poses[1], scan_grid((2, 2, 2), brain_centred_grid_centre(head, poses[1], np.eye(3)))
        )
        truth = {"chi33": target.chi33, "deltab": target.delta_b, "field": target.local_field}
        truth["mask"] = target.brain_mask.astype(np.float32)
        for voxel in voxels:
            grid = scan_grid((voxel,) * 3, brain_centred_grid_centre(head, poses[0], np.eye(3)))
            source = scan_truth(smooth, poses[0], grid)
            place = (
                source.world_tensor, source.brain_mask, grid.affine, target.grid.affine, target.grid.shape, transform
            )  # fmt: skip
            line = errors(turned_onto(*place), truth)
            print(f"{edge:7.1f} mm  {voxel:11.1f} mm   {line}", flush=True)
        along, dipolar, across = magnetisation_fields(
            target.tensor[[2, 4, 5]], target.grid.voxel_size, target.b0_direction
        )
        itself = {"chi33": along, "deltab": across, "field": dipolar + across, "mask": target.brain_mask}
        print(f"{edge:7.1f} mm   not turned at all   {errors(itself, truth)}", flush=True)


def plane_waves(points: NDArray, low: float, high: float, rng: np.random.Generator, count: int = 150) -> NDArray:
    """Return a function's values (n,) at points (3, n) in voxels: waves of frequencies low to high of the Nyquist's."""
    directions = rng.standard_normal((count, 3))
    lengths = np.cbrt(rng.uniform(low**3, high**3, count)) * np.pi
    waves = directions / np.linalg.norm(directions, axis=1, keepdims=True) * lengths[:, None]
    phases = rng.uniform(0, 2 * np.pi, count)
    total = np.zeros(points.shape[1])
    for wave, phase in zip(waves, phases, strict=True):
        total += np.cos(wave @ points + phase)
    return total


def blur(edge: int = 64, turns: int = 3) -> None:
    """Print how much turns blur, by spatial frequency."""
    grid = np.indices((edge,) * 3).reshape(3, -1) - (edge - 1) / 2
    affine = np.eye(4)
    affine[:3, 3] = -(edge - 1) / 2
    core = (np.linalg.norm(grid, axis=0) < edge / 4).reshape((edge,) * 3)
    print("of Nyquist    energy kept    one turn   and back    trilinear: energy kept   one turn")
    for low, high in ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0), (0.0, 0.5), (0.5, 1.0)):
        rows = [_blur_of_turn(grid, affine, core, (low, high), turn) for turn in range(turns)]
        kept, once, back, kept_linear, once_linear = np.mean(rows, axis=0)
        print(
            f"{low:.2f} - {high:.2f}   {kept:9.1f} %   {once:7.2f} %  {back:7.2f} %   {kept_linear:18.1f} %   "
            f"{once_linear:7.2f} %",
            flush=True,
        )


def _blur_of_turn(
    grid: NDArray, affine: NDArray, core: NDArray, band: tuple[float, float], seed: int
) -> tuple[float, ...]:
    edge = core.shape
    rotation = draw_rotation(30, np.random.default_rng(seed))
    turn, back = np.eye(4), np.eye(4)
    turn[:3, :3], back[:3, :3] = rotation, rotation.T
    given = plane_waves(grid, *band, np.random.default_rng(seed)).reshape(edge)
    exact = plane_waves(rotation.T @ grid, *band, np.random.default_rng(seed)).reshape(edge)
    whole = np.ones(edge, bool)
    values, inside = evaluate(spline_maps(given, whole, affine), affine, edge, turn)
    again, _ = evaluate(spline_maps(values[0], inside, affine), affine, edge, back)
    points = (rotation.T @ grid) - affine[:3, 3:]
    linear = ndimage.map_coordinates(given, points, order=1, mode="nearest").reshape(edge)
    return (
        _kept(values[0], exact, core), nrmse(values[0], exact, core), nrmse(again[0], given, core),
        _kept(linear, exact, core), nrmse(linear, exact, core),
    )  # fmt: skip


def _kept(values: NDArray, exact: NDArray, core: NDArray) -> float:
    """Return the energy of what is left of a signal, in percent: 100 (slope of values on exact)^2."""
    a, b = values[core].astype(np.float64), exact[core]
    return float(100 * ((a @ b) / (b @ b)) ** 2)


def random_head(shape: tuple[int, int, int]) -> TensorVolume:
    """Return a smooth random tensor in an ellipsoid of a brain's share of the grid."""
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / (0.4 * n) for n in shape), indexing="ij", sparse=True)
    mask = (axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2 < 1).astype(np.uint8)
    noise = np.random.default_rng(0).standard_normal((6, *shape), np.float32)
    chi = np.stack([ndimage.gaussian_filter(one, 1.5) for one in noise]) * mask
    return TensorVolume("01", chi, mask, Geometry(np.eye(4), np.array([0.0, 0, 1]), 3.0))


def _time_numpy(shape: tuple[int, int, int], queue: multiprocessing.Queue) -> None:
    tensor = random_head(shape)
    before = _reset_peak()
    start = time.perf_counter()
    rotate_tensor_image(tensor, draw_rotation(30, np.random.default_rng(1)), "a")
    queue.put((0.0, time.perf_counter() - start, _memory("VmHWM") - before))


def _time_torch(shape: tuple[int, int, int], device: str, queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(fft_workers())
    tensor = random_head(shape)
    start = time.perf_counter()
    head = RotatableHead.of(tensor, device)
    prepared = time.perf_counter() - start
    head.turn(draw_rotation(30, np.random.default_rng(1)))  # warms up
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before, start, turns = _reset_peak(), time.perf_counter(), 3
    for number in range(turns):
        head.turn(draw_rotation(30, np.random.default_rng(2 + number)))
        if device == "cuda":
            torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / turns
    queue.put((prepared, seconds, torch.cuda.max_memory_allocated() if device == "cuda" else _memory("VmHWM") - before))


def _memory(name: str) -> int:
    """Return VmRSS or VmHWM, the peak, of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def _reset_peak() -> int:
    """Let the peak of this process's memory start anew; return its memory in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def speed(shape: tuple[int, int, int]) -> None:
    """Print seconds and memory of the turn of one head, each in a process of its own."""
    voxels = 4 * int(np.prod(shape))
    print(f"one head of {shape}, {fft_workers()} threads")
    print("             prepare      turn     peak memory (float32 volumes)")
    context = multiprocessing.get_context("spawn")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for name, target, arguments in (
        ("NumPy", _time_numpy, ()), *((f"torch {one}", _time_torch, (one,)) for one in devices)
    ):  # fmt: skip
        queue = context.Queue()
        process = context.Process(target=target, args=(shape, *arguments, queue))
        process.start()
        prepared, seconds, peak = queue.get()
        process.join()
        print(
            f"{name:12s} {prepared:5.1f} s   {seconds:6.2f} s   {peak / 1e9:6.2f} GB ({peak / voxels:.0f})", flush=True
        )


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulations", nargs="*", type=Path, metavar="SIM")
    parser.add_argument("--shape", default="210,224,160", help="of the head whose turn is timed, in voxels")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the tables to print")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if "accuracy" in options.only:
        for simulation in options.simulations:
            accuracy(simulation)
    if "sampling" in options.only:
        sampling()
    if "blur" in options.only:
        blur()
    if "speed" in options.only:
        x, y, z = (int(n) for n in options.shape.split(","))
        speed((x, y, z))


if __name__ == "__main__":
    main()
