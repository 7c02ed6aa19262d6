"""What each effect of a living head does to the total field: python benchmarks/living_effects.py [--voxel 2].

One tilted scan of a `vivo` head without noise. Each row has one effect beside the sum over parts of a voxel; the last
has all. The total field is the slope of the phase over the echoes, weighted by the squared magnitude, whole cycles
taken from the truth, and nothing repaired (bipolar echoes, for one, a run does repair). Printed are the root mean
square and the median of its error in ppb, without its median, two voxels within the brain; the same against the first
row; and the local field there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from chi33.pipeline.frames import radians_per_ppm
from chi33.pipeline.phantom.acquisition import Coil, Protocol
from chi33.pipeline.phantom.living.effects import EFFECTS, VIVO, Effects, hyphened
from chi33.pipeline.phantom.living.field import head_field
from chi33.pipeline.phantom.living.maps import living_maps
from chi33.pipeline.phantom.living.scan import LivingScan, living_echoes
from chi33.pipeline.phantom.living.subject import living_head
from chi33.pipeline.phantom.living.tilts import managed_orientations
from chi33.pipeline.phantom.living.timing import scan_events
from chi33.pipeline.phantom.poses import scan_grid
from chi33.pipeline.phantom.subjects import HeadParameters
from chi33.pipeline.phantom.truth import SmoothedHead, brain_centred_grid_centre, scan_truth, smooth_head
from numpy.typing import NDArray
from scipy import ndimage

ROWS = (
    "myelin", "gibbs", "distortion", "gradients", "breathing", "drift", "movement", "flow", "skull", "dura",
    "fat_shift", "bipolar", "poles",
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """A head in a pose, prepared once."""

    smooth: SmoothedHead
    scan: LivingScan

    def field(self, effects: Effects) -> NDArray[np.float32]:
        """Return the total field in ppm of the phase of a scan with these effects."""
        made, protocol = self.scan, self.scan.protocol
        events = scan_events(effects, made.truth.pose, np.array([0, -18, 5.0]), 3.0, 1, np.random.default_rng(3))
        maps = living_maps(self.smooth, protocol, effects)
        scan = LivingScan(maps, made.field, made.truth, protocol, made.coil, events)
        echoes = list(living_echoes(scan, np.random.default_rng(1)))
        reach = np.array([radians_per_ppm(protocol.b0, e.echo_time) for e in echoes])[:, None, None, None]
        weight = np.stack([e.magnitude for e in echoes]) ** 2
        phase, x = np.stack([e.phase - echoes[0].phase for e in echoes]), reach - reach[0]
        phase += 2 * np.pi * np.round((x * made.truth.total_field - phase) / (2 * np.pi))
        total = np.maximum(weight.sum(axis=0), 1e-9)
        x, y = x - (weight * x).sum(axis=0) / total, phase - (weight * phase).sum(axis=0) / total
        return ((weight * x * y).sum(axis=0) / np.maximum((weight * x * x).sum(axis=0), 1e-9)).astype(np.float32)


def bench(voxel: float, seed: int) -> Bench:
    """Return a `vivo` head of a seed in a tilt."""
    head = living_head(HeadParameters.from_seed((seed, 0)), VIVO)
    pose = managed_orientations(6, 25.0, VIVO.tilts, (seed, 0))[2]
    smooth, size = smooth_head(head, voxel), (voxel, voxel, voxel)
    frame = scan_grid(size, np.zeros(3)).frame
    grid = scan_grid(size, brain_centred_grid_centre(head, pose, frame))
    field, protocol = head_field(head, pose), Protocol(snr=np.inf)
    truth = scan_truth(smooth, pose, grid, field)
    maps = living_maps(smooth, protocol, VIVO)
    events = scan_events(Effects(), pose, np.zeros(3), 3.0, 0, np.random.default_rng(3))
    return Bench(smooth, LivingScan(maps, field, truth, protocol, Coil.from_seed(seed), events))


def spread(values: NDArray[np.float32]) -> str:
    """Return the root mean square and the median in ppb, without the median, of values in ppm; 0.1 ppm at most each."""
    rest = values - np.median(values)
    return f"{1e3 * np.clip(rest, -0.1, 0.1).std():.1f} | {1e3 * np.median(np.abs(rest)):.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--voxel", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    made = bench(asked.voxel, asked.seed)
    truth = made.scan.truth
    inner = ndimage.binary_erosion(truth.brain_mask, iterations=2)
    print("| effect | error, rms in ppb | median | against parts alone, rms | median |")
    print("| --- | --- | --- | --- | --- |")
    first = made.field(Effects(subvoxel=0.5))
    rows = {hyphened(name): Effects(**{"subvoxel": 0.5, name: EFFECTS[name].usual}) for name in ROWS}
    for name, effects in {"parts of a voxel": Effects(subvoxel=0.5), **rows, "all": VIVO}.items():
        field = made.field(effects)
        print(
            f"| {name} | {spread((field - truth.total_field)[inner])} | {spread((field - first)[inner])} |", flush=True
        )
    print(f"| local field | {spread(truth.local_field[inner])} | | |")


if __name__ == "__main__":
    main()
