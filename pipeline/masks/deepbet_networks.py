"""deepbet's two networks on an image (Fisch 2024); run as a program, which `learned_mask` starts.

usage: python -m chi33.pipeline.masks.deepbet_networks IMAGE.npy PROBABILITY.npy FINDER.pt OUTLINER.pt THREADS
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ..images.morphology import largest_component

_WHOLE, _CUT = 128, 256  # voxels an axis of the grids that the networks were trained on
_PERCENTILES = (0.005, 0.995)  # of the whole image: black and white of both networks
_SPREAD, _LEVEL = 0.226, 0.449  # standard deviation and mean of their inputs
_PART = 0.02  # of a slice that is brain where the brain begins
_MARGIN = 0.1  # of the brain's extent, on either side


def brain_probability(image: NDArray[np.float32], finder: torch.nn.Module, outliner: torch.nn.Module) -> torch.Tensor:
    """Return the probability of brain (x, y, z) in an image whose axes point right, anterior and superior.

    finder: finds the brain in the whole image, sampled to 128^3; outliner: outlines it in the box around, sampled to
    256^3. 0 outside the box, and everywhere where no brain is found.
    """
    whole = torch.from_numpy(image)
    small = _sampled(whole, (_WHOLE,) * 3)
    black, white = np.quantile(small.numpy(), _PERCENTILES)
    found = largest_component(_apply(finder, small, black, white).numpy() > 0.5)
    probability = torch.zeros_like(whole)
    box = _box(found, image.shape)
    if box is not None:
        cut = _apply(outliner, _sampled(whole[box], (_CUT,) * 3), black, white)
        probability[box] = _sampled(cut, whole[box].shape)
    return probability


def _sampled(image: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return functional.interpolate(image[None, None], tuple(shape), mode="trilinear", align_corners=False)[0, 0]


def _apply(network: torch.nn.Module, image: torch.Tensor, black: float, white: float) -> torch.Tensor:
    """Return the second of a network's classes, brain, for an image scaled as those that it was trained on."""
    grey = ((image - black) / max(white - black, 1e-30)).clamp(0, 1)
    grey = _LEVEL + _SPREAD * (grey - grey.mean()) / grey.std().clamp(min=1e-6)
    with torch.inference_mode():
        return torch.as_tensor(network(grey[None, None])[0, 1]).clone()


def _box(found: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """Return the part of an image of a shape that holds the brain found on the small grid, with a margin."""
    box = []
    for axis, count in enumerate(shape):
        share = found.mean(axis=tuple(other for other in range(3) if other != axis))
        (held,) = np.nonzero(share > _PART)
        if held.size == 0:
            return None
        first, last = held[0] * count / _WHOLE, (held[-1] + 1) * count / _WHOLE
        margin = _MARGIN * (last - first)
        box.append(slice(max(0, round(first - margin)), min(count, round(last + margin))))
    return tuple(box)


def main(source: str, target: str, finder: str, outliner: str, threads: str) -> None:
    """Read an image, write the probability of brain under a temporary name, and rename it."""
    torch.set_num_threads(int(threads))
    networks = [torch.jit.load(path, map_location="cpu").eval() for path in (finder, outliner)]
    torch.set_flush_denormal(True)
    try:
        probability = brain_probability(np.load(source), *networks)
    finally:  # a caller's own numbers keep what is below the smallest normal one
        torch.set_flush_denormal(False)
    part = Path(target).with_suffix(".part.npy")
    np.save(part, probability.numpy())
    part.replace(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
