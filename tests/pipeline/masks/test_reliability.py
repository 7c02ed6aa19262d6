from __future__ import annotations

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.images.morphology import dice
from chi33.pipeline.masks.reliability import grown, local_level, reliable_mask, trimmed_brain
from chi33.pipeline.phase.echoes import FieldMap
from chi33.pipeline.physics.dipole import dipole_kernel, forward_fft, inverse_fft

SIZE = np.array([2.0, 2.0, 2.0])
SHAPE = (56, 56, 56)
X = np.stack(np.meshgrid(*[(np.arange(n) - n / 2) * 2.0 for n in SHAPE], indexing="ij"))
R = np.sqrt((X**2).sum(axis=0))
BRAIN, FLUID = R < 38, (R >= 38) & (R < 42)
SKULL = (R >= 42) & (R < 48)
COIL = (1 + 0.4 * np.sin(X[0] / 60)).astype(np.float32)


def head(skull_signal: float) -> tuple[FieldMap, np.ndarray]:
    """The field of a faint skull of -2.2 ppm around fluid and brain, echoes on lines everywhere, and the magnitude."""
    rng = np.random.default_rng(3)
    chi = np.where(BRAIN, 0.005 * rng.standard_normal(SHAPE), 0) - 2.2 * SKULL
    field = inverse_fft(forward_fft(chi, SHAPE) * dipole_kernel(SHAPE, SIZE, (0, 0, 1)), SHAPE)
    signal = np.select([BRAIN, FLUID, SKULL], [1.0, 0.75, skull_signal], 0.02) + 0.01 * rng.standard_normal(SHAPE)
    magnitude = np.maximum(COIL * signal, 1e-3).astype(np.float32)
    residual = np.full(SHAPE, 0.05, np.float32)
    return FieldMap(field.astype(np.float32), residual, residual, magnitude), magnitude


@pytest.mark.parametrize("skull_signal", [0.06, 0.15, 0.3])
def test_faint_skull_in_the_mask_is_left_out_however_straight_its_echoes(skull_signal: float) -> None:
    found, _ = head(skull_signal)
    mask = R < 45
    kept = reliable_mask(mask, found, SIZE)
    assert not (kept & SKULL).any()
    assert (kept & BRAIN).sum() > 0.99 * BRAIN.sum()


def test_fluid_around_the_brain_serves_and_bright_tissue_with_sources_does_not() -> None:
    for skull_signal, least in ((0.06, 0.3), (0.9, 0.3)):
        found, _ = head(skull_signal)
        kept = reliable_mask(grown(BRAIN, SIZE, 8.0), found, SIZE, brain=BRAIN)
        assert (kept & FLUID).sum() > least * FLUID.sum()
        assert (kept & SKULL).sum() < 0.02 * SKULL.sum()
        assert (kept & BRAIN).sum() > 0.98 * BRAIN.sum()


def test_a_dark_nucleus_and_a_vein_within_the_brain_stay() -> None:
    found, _ = head(0.06)
    dark = (np.abs(X[0] - 10) < 5) & (np.abs(X[1]) < 5) & (np.abs(X[2]) < 5)
    found.weight[dark] *= 0.2
    assert reliable_mask(R < 45, found, SIZE)[dark].all()


def test_a_whole_cycle_left_at_the_edge_is_left_out() -> None:
    found, _ = head(0.06)
    wrong = (R > 34) & (R < 38) & (X[0] > 0) & (np.abs(X[1]) < 6) & (np.abs(X[2]) < 6)
    found.field[wrong] += 0.25
    assert reliable_mask(BRAIN, found, SIZE)[wrong].mean() < 0.2


@pytest.mark.parametrize("skull_signal", [0.06, 0.4])
def test_the_edge_of_a_brain_mask_is_trimmed_to_the_brain(skull_signal: float) -> None:
    _, magnitude = head(skull_signal)
    magnitude[FLUID] *= 0.7
    before = R < 43
    after = trimmed_brain(before, magnitude, SIZE)
    assert dice(after, BRAIN) > 0.98 > dice(before, BRAIN)
    assert not (after & ~before).any()


def test_a_mask_without_a_faint_edge_stays_as_it_is() -> None:
    _, magnitude = head(0.06)
    np.testing.assert_array_equal(trimmed_brain(BRAIN, magnitude, SIZE), BRAIN)
    np.testing.assert_array_equal(trimmed_brain(np.zeros(SHAPE, bool), magnitude, SIZE), np.zeros(SHAPE, bool))


def test_the_level_follows_the_coil_and_not_the_faint_rim() -> None:
    _, magnitude = head(0.06)
    level = local_level(magnitude, R < 45, SIZE)
    np.testing.assert_allclose(level[R < 20], COIL[R < 20], rtol=0.1)
    assert (level[(R > 36) & (R < 38)] > 0.7 * COIL[(R > 36) & (R < 38)]).all()


def test_a_precision_that_is_no_share_is_refused() -> None:
    found, _ = head(0.06)
    with pytest.raises(InputError, match=r"least_precision must lie between 0 and 1, got 1\.5"):
        reliable_mask(BRAIN, found, SIZE, least_precision=1.5)
