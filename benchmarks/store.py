"""Reading patches, every way beside every other in one run: python benchmarks/store.py [--volumes 2] [--patches 60].

Volumes of a head's size (smooth structure and noise inside an ellipsoid, so that they compress as measured maps do) are
written as a store, as a store with materialised patches, and as one .mat file a patch, as the published codes have it.
Printed is the time of one random patch of four channels, as a multiple of a copy from memory and in milliseconds; the
disk of each way; and the patches a second of a DataLoader by its processes. Warm: the same patches were read before;
cold: the decoded chunks are given up before every patch (the file itself stays in the system's cache, as it does for
the .mat files).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chi33.datasets.build.build import BuildConfig, build_from
from chi33.datasets.loading.device_patches import DevicePatches
from chi33.datasets.loading.patch_dataset import TRAINING_CHANNELS, PatchDataset, Patches
from chi33.datasets.store.reader import StoreReader
from chi33.datasets.store.schema import Store, open_store
from chi33.datasets.store.volume import Geometry, Volume
from numpy.typing import NDArray
from scipy import io, ndimage
from torch.utils.data import DataLoader

GEOMETRY = Geometry(np.diag([1.0, 1.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0]), 3.0)
SPREAD = {"field": 0.02, "chi33": 0.05, "deltab": 0.003}  # ppm
NOISE = 0.1  # of the spread


@dataclass(frozen=True)
class Way:
    """One way of reading: its name, the seconds of a patch, and its bytes on disk for all patches, if any."""

    name: str
    seconds: float
    disk: float = float("nan")


@dataclass(frozen=True)
class SimulatedHead:
    """A source of one volume: smooth structure and noise inside an ellipsoid of a brain's share of the grid."""

    subject: str
    shape: tuple[int, int, int]

    labels = ("chi33", "deltab")

    @property
    def scan_ids(self) -> tuple[str, ...]:
        """The only scan."""
        return (f"sub-{self.subject}/acq-ori01",)

    @property
    def voxels(self) -> tuple[int, ...]:
        """Of the only scan."""
        return (int(np.prod(self.shape)),)

    def read_scan(self, number: int) -> Volume:
        """Return the maps."""
        rng = np.random.default_rng(int(self.subject))
        axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in self.shape), indexing="ij", sparse=True)
        mask = np.asarray(sum(axis**2 for axis in axes) < 0.75)
        channels: dict[str, NDArray[Any]] = {"mask": mask.astype(np.uint8)}
        for name, spread in SPREAD.items():
            smooth = ndimage.gaussian_filter(rng.standard_normal(self.shape, np.float32), 2)
            noise = rng.standard_normal(self.shape, np.float32)
            channels[name] = np.float32(spread * (smooth / smooth.std() + NOISE * noise) * mask)
        return Volume(self.scan_ids[number], self.subject, channels, GEOMETRY)

    def read_tensor(self) -> None:
        """Return nothing."""

    def read_cosmos(self) -> None:
        """Return nothing."""

    def fingerprint(self) -> str:
        """Return what the volume follows from."""
        return f"{self.subject} {self.shape}"


def write_store(path: Path, options: argparse.Namespace, *, materialise: bool) -> Store:
    """Build a store of the volumes with an index of the patches that are timed."""
    heads = [SimulatedHead(f"{number:02d}", tuple(options.shape)) for number in range(1, options.volumes + 1)]
    number = -(-options.timed // options.volumes)
    config = BuildConfig(
        patch_size=options.patch_size, min_brain=0.5, patches_per_scan=number, val_subjects=(), materialise=materialise
    )
    build_from(heads, path, config)
    return open_store(path)


def per_patch(read: Callable[[int], object], count: int, rounds: int = 3) -> float:
    """Return the seconds of one read, the median over rounds through all of them."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for number in range(count):
            read(number)
        times.append((time.perf_counter() - start) / count)
    return float(np.median(times))


def from_memory(store: Store, patches: PatchDataset) -> Way:
    """Time a copy of the box out of an array (4, x, y, z) in memory."""
    reader = StoreReader(store)
    whole = {v.id: np.ascontiguousarray(reader.stack(v.id, TRAINING_CHANNELS)) for v in store.volumes}
    p = patches.patch_size

    def copy(number: int) -> NDArray[np.float32]:
        place = patches.place(number)
        i, j, k = place.corner
        return whole[place.volume.id][:, i : i + p, j : j + p, k : k + p].copy()

    per_patch(copy, len(patches), 1)
    return Way("copy from RAM", per_patch(copy, len(patches)))


def warm_and_cold(name: str, patches: PatchDataset, disk: float) -> list[Way]:
    """Time a dataset with its chunks decoded before, and with none."""

    def cold(number: int) -> object:
        patches.reader.cache.clear()
        return patches[number]

    found = [Way(f"{name}, cold", per_patch(cold, len(patches), 1), disk)]
    per_patch(patches.__getitem__, len(patches), 1)
    return [Way(f"{name}, warm", per_patch(patches.__getitem__, len(patches)), disk), *found]


def mat_files(folder: Path, patches: PatchDataset, files: int) -> Way:
    """Time one .mat file a patch (compressed, as the published codes save them), scaled to the disk of all patches."""
    for number in range(files):
        item = patches[number]
        channels = {name: item[name][0].numpy() for name in TRAINING_CHANNELS}
        io.savemat(folder / f"{number}.mat", channels, do_compression=True)
    size = sum(path.stat().st_size for path in folder.glob("*.mat"))

    def load(number: int) -> dict[str, torch.Tensor]:
        loaded = io.loadmat(folder / f"{number}.mat")
        return {name: torch.from_numpy(loaded[name][None]) for name in TRAINING_CHANNELS}

    return Way("one .mat a patch", per_patch(load, files), size / files * len(patches))


def on_device(patches: PatchDataset, device: str) -> Way:
    """Time batches of one patch cropped on a device."""
    held = DevicePatches(patches, device)

    def crop(number: int) -> object:
        batch = held.batch([number])
        if device == "cuda":
            torch.cuda.synchronize()
        return batch

    per_patch(crop, len(patches), 1)
    return Way(f"held on {device}", per_patch(crop, len(patches)))


def print_ways(ways: list[Way], mat: Way) -> None:
    """Print one line a way, with ratios to the copy from memory and to the .mat files."""
    print(f"{'':34}{'x RAM':>8}{'ms':>9}{'x faster than .mat':>20}{'MB':>9}{'of the .mat':>13}")
    for way in ways:
        disk = "" if np.isnan(way.disk) else f"{way.disk / 1e6:9.1f}{way.disk / mat.disk:13.3f}"
        print(
            f"{way.name:34}{way.seconds / ways[0].seconds:8.1f}{1e3 * way.seconds:9.2f}"
            f"{mat.seconds / way.seconds:20.1f}{disk}"
        )


def patches_per_second(patches: Patches, workers: int, seconds: float) -> float:
    """Return the patches a second of a DataLoader with batches of two, once its processes run and have read once."""
    order = np.random.default_rng(0).integers(0, len(patches), 1_000_000)  # type: ignore[arg-type]
    loader = DataLoader(patches, batch_size=2, sampler=order.tolist(), num_workers=workers)
    batches = iter(loader)
    for _ in range(max(1, workers) * len(patches) // 2):  # type: ignore[arg-type]
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += len(next(batches)["mask"])
    return count / (time.perf_counter() - start)


def print_processes(store: Store, seconds: float) -> None:
    """Print the patches a second by the number of loader processes, with and without kept chunks."""
    cores = len(os.sched_getaffinity(0))
    print(f"\npatches a second by loader processes, on {cores} cores (as a multiple of one process):")
    for name, cache in (("compressed, warm", None), ("compressed, nothing kept", 0)):
        rates = {}
        for workers in (0, 1, 2, 4):
            options = {} if cache is None else {"cache_bytes": cache}
            rates[workers] = patches_per_second(PatchDataset(store, **options), workers, seconds)
        print(f"  {name:26}" + "".join(f"{w:3}: {rate:7.1f} ({rate / rates[1]:.2f})" for w, rate in rates.items()))


def main() -> None:
    """Write the data, read it every way, print, and remove it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(210, 224, 160))
    parser.add_argument("--volumes", type=int, default=2)
    parser.add_argument("--patch-size", type=int, default=64)
    parser.add_argument("--patches", type=int, default=600, help="in the index; 336 a volume are ISDU's")
    parser.add_argument("--timed", type=int, default=60, help="patches that are timed and materialised")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of a DataLoader")
    parser.add_argument("--folder", type=Path, default=None, help="where the files are made, and removed")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker; more wait for each other where the machine is shared
    warnings.filterwarnings("ignore", message=".*worker processes.*")  # more than cores, which are printed
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        store = write_store(folder / "s.h5", options, materialise=False)
        cropped = write_store(folder / "m.h5", options, materialise=True)
        scale = options.patches / options.timed
        size, cropped_size = (path.stat().st_size for path in (store.path, cropped.path))
        patches = PatchDataset(store)
        mat = mat_files(folder, patches, options.timed)
        mat = Way(mat.name, mat.seconds, mat.disk * scale)
        ways = [
            from_memory(store, patches),
            Way("in memory", per_patch(PatchDataset(store, in_memory=True).__getitem__, options.timed)),
            *(on_device(patches, device) for device in ("cpu", "cuda") if device == "cpu" or torch.cuda.is_available()),
            *warm_and_cold("compressed", patches, size),
            *warm_and_cold("materialised", PatchDataset(cropped), size + (cropped_size - size) * scale),
            mat,
        ]
        print(f"{options.volumes} volumes of {tuple(options.shape)}, disk for {options.patches} patches of "
              f"{options.patch_size} voxels")  # fmt: skip
        print_ways(ways, mat)
        print_processes(store, options.seconds)


if __name__ == "__main__":
    main()
