from __future__ import annotations

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.phase.alternating import alternating_axes, restore_signs
from numpy.typing import NDArray

SHAPE = (20, 18, 16)
X, Y, Z = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in SHAPE), indexing="ij")
MAGNITUDE = np.exp(-((X - 10) ** 2 + (Y - 9) ** 2 + (Z - 8) ** 2) / 60).astype(np.float32)
FLIPS = np.where(np.arange(SHAPE[2]) % 2, -1, 1).astype(np.float32)


def _head(time: float, gradient: float = 0.0, seed: int = 0) -> NDArray[np.complex64]:
    """A head of uneven field whose phase rises by gradient (rad a slice at 10 ms) along z, in noise."""
    noise = np.random.default_rng(seed).normal(size=(2, *SHAPE)) * 0.02
    field = gradient * Z + 0.15 * np.sin(X / 3) * Y + 0.03 * (Z - 8) ** 2 - 0.02 * X * Y / 4
    signal = MAGNITUDE * np.exp(1j * (0.7 + 0.02 * X + field * time / 0.010)) + noise[0] + 1j * noise[1]
    return signal.astype(np.complex64)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_signs_that_alternate_along_any_axis_are_seen_and_restored(axis: int) -> None:
    flips = np.moveaxis(np.where(np.indices(SHAPE)[axis] % 2, -1, 1), 0, 0)
    signal = _head(0.005)
    assert alternating_axes(signal) == ()
    assert alternating_axes(signal * flips) == (axis,)
    assert alternating_axes(signal * flips, _head(0.011, seed=1) * flips, (0.005, 0.011)) == (axis,)
    restored = restore_signs(np.angle(signal * flips), (axis,))
    np.testing.assert_allclose(np.exp(1j * restored), np.exp(1j * np.angle(signal)), atol=1e-5)
    assert np.abs(restored).max() <= np.float32(np.pi)


def test_a_checkerboard_alternates_along_two_axes() -> None:
    flips = np.where((np.indices(SHAPE)[0] + np.indices(SHAPE)[2]) % 2, -1, 1)
    signal = _head(0.005)
    assert alternating_axes(signal * flips) == (0, 2)
    restored = restore_signs(np.angle(signal * flips), (0, 2))
    np.testing.assert_allclose(np.exp(1j * restored), np.exp(1j * np.angle(signal)), atol=1e-5)


@pytest.mark.parametrize("gradient", [-3.1, -2.9, -2.5, -1.6, -0.4, 0.0, 0.4, 1.2, 2.3, 2.8, 3.0, 3.1416])
@pytest.mark.parametrize("times", [(0.010, 0.0163), (0.010, 0.020), (0.010, 0.024), (0.010, 0.037)])
def test_a_later_echo_tells_a_strong_gradient_from_signs(gradient: float, times: tuple[float, float]) -> None:
    first, second = (_head(time, gradient, seed) for seed, time in enumerate(times))
    assert alternating_axes(first, second, times) == ()


@pytest.mark.parametrize("gradient", [-0.45, 0.0, 0.3, 0.7])
@pytest.mark.parametrize("times", [(0.010, 0.0163), (0.010, 0.020), (0.010, 0.024), (0.010, 0.037)])
def test_signs_are_seen_beside_a_gradient(gradient: float, times: tuple[float, float]) -> None:
    first, second = (_head(time, gradient, seed) * FLIPS for seed, time in enumerate(times))
    assert alternating_axes(first, second, times) == (2,)


@pytest.mark.parametrize("gradient", [1.0, 1.8, 2.3, -2.5])
def test_an_echo_alone_with_a_strong_gradient_is_left(gradient: float) -> None:
    assert alternating_axes(_head(0.010, gradient)) == ()


def test_an_unmasked_magnitude_beside_masked_phase_does_not_hide_the_signs() -> None:
    brain = (X - 10) ** 2 + (Y - 9) ** 2 + (Z - 8) ** 2 < 25
    signal = _head(0.005) * FLIPS
    outside = np.where(brain, signal, 3 * np.abs(signal))
    assert alternating_axes(outside) == (2,)


def test_noise_and_nothing_do_not_alternate() -> None:
    noise = np.random.default_rng(0).normal(size=(2, *SHAPE))
    assert alternating_axes(noise[0] + 1j * noise[1]) == ()
    assert alternating_axes(np.zeros(SHAPE)) == ()
    assert alternating_axes(np.full((1, 1, 1), -1.0)) == ()


def test_arguments_that_do_not_fit_are_refused() -> None:
    signal = _head(0.005)
    with pytest.raises(InputError, match=r"complex image \(x, y, z\), got shape \(20, 18\)"):
        alternating_axes(signal[..., 0])
    with pytest.raises(InputError, match="later must have the shape of signal"):
        alternating_axes(signal, signal[:-1], (0.005, 0.010))
    with pytest.raises(InputError, match=r"two rising times .* got \(0.01, 0.01\)"):
        alternating_axes(signal, signal, (0.01, 0.01))
