"""The coil phase is taken out before the echoes are unwrapped, so that no cycle is lost in time."""

from __future__ import annotations

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.frames import radians_per_ppm
from chi33.pipeline.phase.echoes import combine_echoes
from chi33.pipeline.phase.phase_offset import remove_phase_offset
from chi33.pipeline.phase.unwrap import unwrap_romeo
from scipy.ndimage import gaussian_filter

SHAPE, SIZE = (32, 30, 28), (3.0, 3.0, 3.0)
SPACED, UNEVEN = (0.004, 0.009, 0.014, 0.019), (0.003, 0.008, 0.0155)


def _head(times: tuple[float, ...], *, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Phase, magnitude, mask and field (ppm) under a coil phase that turns by more than a cycle across the head."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    mask = sum(axis**2 for axis in axes) < 0.8
    rng = np.random.default_rng(4)
    field = gaussian_filter(rng.standard_normal(SHAPE), 4)
    field = 0.4 * field / np.abs(field).max() + 0.3 * axes[1] + shift
    coil = 3.0 * axes[0] + 1.5 * axes[2] ** 2 + 1.0
    magnitude = np.stack([np.exp(-t / 0.03) * (mask + 0.02) for t in times])
    noise = rng.standard_normal((2, *magnitude.shape)) / 60
    signal = magnitude * np.exp(1j * np.stack([coil + radians_per_ppm(3.0, t) * field for t in times]))
    signal = signal + noise[0] + 1j * noise[1]
    return np.angle(signal), np.abs(signal), mask, field


def _error(times: tuple[float, ...], shift: float, *, remove: bool) -> np.ndarray:
    phase, magnitude, mask, field = _head(times, shift=shift)
    if remove:
        phase = remove_phase_offset(phase, magnitude, times, mask, SIZE)
        assert phase.dtype == np.float32
        assert np.abs(phase).max() <= np.pi * 1.0001
    unwrapped = unwrap_romeo(phase, magnitude, times, mask)
    error = (combine_echoes(unwrapped, magnitude, times, 3.0, mask, SIZE).field - field)[mask]
    return error - np.median(error)


def test_no_cycle_is_lost_under_a_strong_coil_phase() -> None:
    """Left in, the coil phase costs whole cycles of an echo spacing over a part of the head."""
    cycle = 2 * np.pi / radians_per_ppm(3.0, SPACED[1] - SPACED[0])
    assert (np.abs(_error(SPACED, 0.0, remove=False)) > cycle / 2).mean() > 0.05
    assert np.abs(_error(SPACED, 0.0, remove=True)).max() < 0.05


@pytest.mark.parametrize("times", [SPACED, UNEVEN])
@pytest.mark.parametrize("shift", [0.0, 1.2, -1.9])
def test_a_field_off_the_centre_frequency_comes_out(times: tuple[float, ...], shift: float) -> None:
    assert np.abs(_error(times, shift, remove=True)).max() < 0.06


def test_one_echo_stays_as_it_is() -> None:
    phase, magnitude, mask, _ = _head((0.01,))
    kept = remove_phase_offset(phase, magnitude, (0.01,), mask, SIZE)
    np.testing.assert_array_equal(kept, phase.astype(np.float32))


def test_the_width_must_be_positive() -> None:
    phase, magnitude, mask, _ = _head(SPACED)
    with pytest.raises(InputError, match="smoothing must be a positive width in mm, got 0"):
        remove_phase_offset(phase, magnitude, SPACED, mask, SIZE, smoothing=0.0)
