from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.pipeline.phase.full_turn import phase_range
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

N = 32
GENERATOR = np.random.default_rng(5)
GRID = np.meshgrid(*[np.linspace(-1, 1, N)] * 3, indexing="ij")
BRAIN = sum(axis**2 for axis in GRID) < 0.6
SMOOTH = gaussian_filter(GENERATOR.standard_normal((N, N, N)), 4)
SMOOTH /= SMOOTH.std()
NOISE = GENERATOR.uniform(-np.pi, np.pi, (N, N, N))


def wrapped(phase: NDArray) -> NDArray:
    return (phase + np.pi) % (2 * np.pi) - np.pi


WRAPPING = {
    "a head with noise around it": np.where(BRAIN, wrapped(SMOOTH), NOISE),
    "a brain alone, 0 outside": np.where(BRAIN, wrapped(1.5 * SMOOTH), 0),
    "a crop without background": wrapped(2 * SMOOTH),
    "a ramp without noise": wrapped(4 * GRID[0]),
    "noise alone": NOISE,
}
NOT_WRAPPING = {
    "a short echo of a brain, 0 outside": np.where(BRAIN, 0.4 * SMOOTH, 0),
    "a ramp": GRID[1],
    "a noisy crop": 0.3 * SMOOTH + 0.05 * GENERATOR.standard_normal(SMOOTH.shape),
    "white noise of high SNR": 0.1 * GENERATOR.standard_normal(SMOOTH.shape),
    "heavy tails": 0.1 * GENERATOR.standard_t(3, SMOOTH.shape),
}


@pytest.mark.parametrize("kind", WRAPPING)
@pytest.mark.parametrize(
    ("change", "turn"),
    [
        (lambda phase: phase, 2 * np.pi),
        (lambda phase: (phase + np.pi) * 0.8625 - np.pi, 0.8625 * 2 * np.pi),  # -3.14...2.277
        (lambda phase: phase / np.pi, 2.0),
        (lambda phase: (phase + np.pi) / (2 * np.pi), 1.0),
        (lambda phase: np.round((phase + np.pi) / (2 * np.pi) * 4095), 4095.0),
        (lambda phase: 2 * phase, 4 * np.pi),
        (lambda phase: np.degrees(phase), 360.0),
    ],
)
def test_a_wrapped_phase_tells_its_turn(kind: str, change: Callable[[NDArray], NDArray], turn: float) -> None:
    inside = WRAPPING[kind] != 0
    found = phase_range(np.where(inside, change(WRAPPING[kind]), 0).astype(np.float32))
    assert found is not None
    assert found.wraps
    assert found.is_turn_of(turn)
    assert not found.is_turn_of(1.07 * turn)
    assert not found.is_turn_of(0.92 * turn)


@pytest.mark.parametrize("kind", NOT_WRAPPING)
def test_a_phase_that_never_wraps_fits_any_turn(kind: str) -> None:
    found = phase_range(NOT_WRAPPING[kind].astype(np.float32))
    assert found is not None
    assert not found.wraps
    assert found.is_turn_of(2 * np.pi)


def test_few_voxels_tell_nothing() -> None:
    assert phase_range(NOISE[:8, :8, :8].astype(np.float32)) is None
    assert phase_range(np.zeros((N, N, N), np.float32)) is None
    assert phase_range(np.full((N, N, N), np.nan, np.float32)) is None
