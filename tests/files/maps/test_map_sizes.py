"""Sizes that a brain's maps can have in ppm, and the marks of phase and of unscaled numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chi33.files.maps.sizes import phase_problem, size_doubt, size_problem, unscaled_problem
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SHAPE, VOXEL = (36, 40, 32), (3.0, 3.0, 3.0)
AXES = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
MASK = np.sqrt(sum(axis**2 for axis in AXES)) < 0.85
HERTZ = {0.5: 21.3, 1.5: 63.9, 3.0: 127.7, 7.0: 298.0}  # Hz per ppm


def _local(seed: int = 0, spread: float = 0.015) -> NDArray[np.float32]:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 1.0)
    return (noise * (spread / noise.std())).astype(np.float32)


def _total(offset: float = 0.0, gradient: float = 0.3, sinus: float = 2.0) -> NDArray[np.float32]:
    """A local field, a gradient, and a hot spot above the sinuses."""
    x, y, z = AXES
    hot = sinus * np.exp(-((x / 0.3) ** 2 + ((y - 0.7) / 0.3) ** 2 + ((z + 0.5) / 0.3) ** 2))
    return (_local() + offset + gradient * (z + 0.3 * x * y) + hot).astype(np.float32)


@pytest.mark.parametrize("spread", [0.009, 0.015, 0.04])
def test_local_fields_in_ppm_pass_and_in_other_units_do_not(spread: float) -> None:
    field = _local(spread=spread)[MASK]
    assert size_problem("field", field) == ""
    for factor in (HERTZ[1.5], HERTZ[3.0], HERTZ[7.0], 1e3, 2 * np.pi * HERTZ[3.0]):
        assert "too large for ppm" in size_problem("field", factor * field)
    for factor in (1e-6 * 3, 1 / HERTZ[7.0], 1e-3 / HERTZ[3.0]):
        assert "too small for ppm" in size_problem("field", factor * field)


@pytest.mark.parametrize("total", [
    {}, {"offset": 30.0}, {"offset": -4.0, "gradient": 0.1, "sinus": 1.0}, {"gradient": 2.5, "sinus": 5.0},
    {"gradient": 0.05, "sinus": 0.3},
])  # fmt: skip
def test_total_fields_in_ppm_pass_shimmed_or_not_and_in_hz_or_ppb_do_not(total: dict[str, Any]) -> None:
    field = _total(**total)
    assert size_problem("total", field[MASK]) == ""
    assert size_doubt("total", field, MASK, VOXEL) == ""
    for factor in (HERTZ[3.0], HERTZ[7.0], 1e3):
        assert "departs from its median" in size_problem("total", factor * field[MASK])


@pytest.mark.parametrize(("b0", "te"), [(3.0, 0.012), (3.0, 0.02), (7.0, 0.008), (1.5, 0.04)])
def test_radians_are_refused_or_doubted(b0: float, te: float) -> None:
    factor = 2 * np.pi * 42.577 * b0 * te
    for name, field in (("field", _local()), ("total", _total())):
        scaled = factor * field
        assert size_problem(name, scaled[MASK]) or size_doubt(name, scaled, MASK, VOXEL), name
    assert size_doubt("field", _local(), MASK, VOXEL) == ""


def test_sizes_of_labels() -> None:
    chi = 4 * _local()[MASK]
    assert size_problem("chi33", chi) == ""
    assert "too large for ppm" in size_problem("cosmos", 1e3 * chi)
    assert "too small for ppm" in size_problem("chi33", 0 * chi)
    assert size_problem("deltab", np.zeros(5)) == ""
    assert "2 values that are not finite" in size_problem("field", np.array([np.nan, 1, np.inf]))


@pytest.mark.parametrize("period", [2 * np.pi, 8192.0, 1.0, 360.0])
def test_a_folded_field_is_a_wrapped_phase_whatever_its_period(period: float) -> None:
    cycles = 0.9 * AXES[2] + 0.4 * AXES[0] + 0.02 * _local() / 0.015
    folded = (period * (cycles - np.round(cycles))).astype(np.float32)
    assert "as a wrapped phase does" in phase_problem(folded, MASK)
    assert "as a wrapped phase does" in phase_problem(folded + period / 2, MASK)
    assert phase_problem((period * cycles).astype(np.float32), MASK) == ""


def test_fields_with_errors_and_fillings_are_no_wrapped_phase() -> None:
    field = _total()
    assert phase_problem(field, MASK) == ""
    assert phase_problem(_local(), MASK) == ""
    rng = np.random.default_rng(1)
    cycles_off = field + 1.6 * (rng.random(SHAPE) < 0.01)  # unwrapping errors
    assert phase_problem(cycles_off, MASK) == ""
    shrunk = gaussian_filter(MASK.astype(float), 2) > 0.7
    assert phase_problem(np.where(shrunk, field + 5, 0), MASK) == ""  # a mask larger than the field
    assert phase_problem(np.zeros(SHAPE), MASK) == ""


def test_whole_numbers_are_unscaled() -> None:
    assert "holds whole numbers only (-3 to 4)" in unscaled_problem(np.array([-3.0, 0, 4, 2]))
    assert unscaled_problem(np.array([0.0, 0.5])) == ""
    assert unscaled_problem(np.zeros(4)) == ""
