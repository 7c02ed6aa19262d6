"""Bipolar readouts, alternating signs and filters in the phase of a small head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from chi33.pipeline.phase.bipolar import bipolar_phase
from chi33.pipeline.phase.filtered import field_spread, filter_warnings
from chi33.pipeline.phase.repairs import repair_phase
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

TIMES = (0.005, 0.012, 0.019, 0.026)
SHAPE = (24, 26, 20)


@dataclass(frozen=True)
class Echoes:
    phase: NDArray[np.float32]
    magnitude: NDArray[np.float32]
    mask: NDArray[np.bool_]


def echoes(times: tuple[float, ...] = TIMES, snr: float = 30.0, seed: int = 3) -> Echoes:
    """A head whose field winds by several cycles over the echoes, with a coil phase and noise."""
    generator = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    mask = sum(axis**2 for axis in grid) < 0.7
    frequency = 60 * grid[2] + 40 * gaussian_filter(generator.standard_normal(SHAPE), 3) / 0.05
    coil = 1.5 * grid[0] - 0.7 * grid[1] + 2
    signal = np.stack([np.exp(-t / 0.03) * np.exp(1j * (coil + 2 * np.pi * frequency * t)) for t in times]) * mask
    noise = generator.standard_normal((2, len(times), *SHAPE)) / snr
    signal = signal + noise[0] + 1j * noise[1]
    return Echoes(np.angle(signal).astype(np.float32), np.abs(signal).astype(np.float32), mask)


def alternating(scan: Echoes, slope: float, constant: float) -> NDArray[np.float32]:
    index = np.arange(SHAPE[0])[:, None, None] - SHAPE[0] / 2
    signs = np.array([(-1.0) ** echo for echo in range(len(scan.phase))])[:, None, None, None]
    return np.angle(np.exp(1j * (scan.phase + signs * (slope * index + constant)))).astype(np.float32)


@pytest.mark.parametrize("times", [TIMES, TIMES[:3], (0.003, 0.01, 0.017, 0.024), (0.004, 0.012, 0.019, 0.026)])
@pytest.mark.parametrize(("slope", "constant"), [(0.05, 0.3), (-0.2, 0.0), (0.35, -0.6)])
def test_bipolar_echoes_are_found_and_taken_out(times: tuple[float, ...], slope: float, constant: float) -> None:
    scan = echoes(times)
    repaired = repair_phase(alternating(scan, slope, constant), scan.magnitude, times, scan.mask)
    assert repaired.record["BipolarPhaseRemoved"] is True
    assert "alternating polarity (bipolar)" in repaired.warnings[0]
    for echo, phase in enumerate(repaired.phase):
        left = np.exp(1j * (phase - scan.phase[echo]))[scan.mask]
        assert abs(left.mean()) > 0.999  # the same but for a constant


@pytest.mark.parametrize("snr", [5.0, 30.0])
@pytest.mark.parametrize("times", [TIMES, TIMES[:3], TIMES[:2], TIMES[:1]])
def test_echoes_of_one_polarity_are_left_as_they_are(times: tuple[float, ...], snr: float) -> None:
    scan = echoes(times, snr)
    repaired = repair_phase(scan.phase, scan.magnitude, times, scan.mask)
    assert repaired.phase is scan.phase
    assert repaired.record == {}
    assert repaired.warnings == ()


def test_echoes_on_no_line_are_told_of_and_left() -> None:
    scan = echoes()
    wrong = scan.phase.copy()
    wrong[1] = np.roll(wrong[1], 7, axis=1)  # an echo of another scan
    found = bipolar_phase(wrong, scan.magnitude, TIMES, scan.mask)
    assert found is not None
    assert not found.fits
    repaired = repair_phase(wrong, scan.magnitude, TIMES, scan.mask)
    assert repaired.phase is wrong
    assert "in no simple pattern" in repaired.warnings[0]


def test_signs_that_alternate_from_slice_to_slice_are_taken_back_first() -> None:
    scan = echoes()
    flipped = alternating(scan, 0.2, 0.1)
    flipped[:, :, :, 1::2] = np.angle(-np.exp(1j * flipped[:, :, :, 1::2]))
    repaired = repair_phase(flipped, scan.magnitude, TIMES, scan.mask)
    assert repaired.record["AlternatingSliceSigns"] == [2]
    assert repaired.record["BipolarPhaseRemoved"] is True
    left = np.exp(1j * (repaired.phase[0] - scan.phase[0]))[scan.mask]
    assert abs(left.mean()) > 0.999


def test_a_field_without_background_looks_filtered() -> None:
    mask = echoes().mask
    field = np.random.default_rng(1).normal(0, 0.09, SHAPE)
    field[0, 0, 0] = 50
    assert field_spread(field, mask) == pytest.approx(0.09, rel=0.05)
    assert filter_warnings(field_spread(field, mask)) == []
    assert "spreads over 0.00" in filter_warnings(field_spread(0.1 * field, mask))[0]
    assert "its ImageType says SWI" in filter_warnings(0.1, "SWI")[0]
