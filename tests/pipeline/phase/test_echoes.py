from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.frames import radians_per_ppm
from chi33.pipeline.masks.reliability import reliable_mask
from chi33.pipeline.phase.echoes import FieldMap, combine_echoes, smooth_inside
from numpy.typing import NDArray

SHAPE, SIZE, B0 = (40, 36, 30), (1.5, 1.5, 2.0), 3.0
TIMES = (0.005, 0.011, 0.017, 0.023)
GAINS = np.array([radians_per_ppm(B0, t) for t in TIMES])


def scene() -> tuple[NDArray, NDArray, NDArray, NDArray[np.bool_]]:
    """A field in ppm, a coil phase in radians that turns more than a cycle, a decaying magnitude, an ellipsoid."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    field = 0.2 * x - 0.1 * y**2 + 0.15 * np.exp(-10 * (x**2 + y**2 + (z - 0.2) ** 2))
    coil = 2.5 + 3.0 * x - 2.0 * y + 0.4 * z * x
    decay = np.stack([(1 + 0.4 * y) * np.exp(-t * (30 + 15 * z)) for t in TIMES])
    return field, coil, decay, x**2 + y**2 + z**2 < 0.85**2


def echoes(field: NDArray, coil: NDArray) -> NDArray:
    return coil + GAINS[:, None, None, None] * field


def test_the_field_is_exact_without_noise_under_a_smooth_coil_phase() -> None:
    field, coil, decay, mask = scene()
    free = combine_echoes(echoes(field, coil), decay, TIMES, B0, mask, SIZE, offset_smoothing=None)
    np.testing.assert_allclose(free.field[mask], field[mask], atol=1e-6)
    np.testing.assert_allclose(np.exp(1j * free.offset[mask]), np.exp(1j * coil[mask]), atol=1e-5)
    np.testing.assert_allclose(free.residual, 0, atol=1e-5)
    for volume in (free.field, free.offset, free.residual, free.weight):
        np.testing.assert_array_equal(volume[~mask], 0)
        assert volume.dtype == np.float32
    fixed = combine_echoes(echoes(field, coil), decay, TIMES, B0, mask, SIZE)
    np.testing.assert_allclose(fixed.field[mask], field[mask], atol=5e-3)
    np.testing.assert_allclose(np.median(np.abs(fixed.field - field)[mask]), 0, atol=5e-4)


@pytest.mark.parametrize("lost", [(0, 2, -1, 0), (1, 1, 1, 1), (-3, 0, 0, 0)])
def test_whole_cycles_lost_between_echoes_are_mended(lost: tuple[int, ...]) -> None:
    field, coil, decay, mask = scene()
    truth = combine_echoes(echoes(field, coil), decay, TIMES, B0, mask, SIZE)
    cycles = 2 * np.pi * np.array(lost)[:, None, None, None]
    # A cycle more in all echoes is a coil phase of a cycle; in some, a multiple of a field that makes one a step.
    found = combine_echoes(echoes(field, coil) + cycles, decay, TIMES, B0, mask, SIZE)
    alias = 2 * np.pi / (GAINS[1] - GAINS[0])
    ambiguity = (found.field - truth.field)[mask] / alias
    np.testing.assert_allclose(ambiguity, np.round(ambiguity.mean()), atol=2e-3)


def test_a_few_voxels_a_cycle_off_are_mended_from_their_neighbours_offset() -> None:
    field, coil, decay, mask = scene()
    phase = echoes(field, coil)
    rng = np.random.default_rng(0)
    wrong = mask & (rng.uniform(size=SHAPE) < 0.01)
    phase[3][wrong] += 2 * np.pi
    phase[1][mask & (rng.uniform(size=SHAPE) < 0.01)] -= 2 * np.pi
    found = combine_echoes(phase, decay, TIMES, B0, mask, SIZE)
    np.testing.assert_allclose(found.field[mask], field[mask], atol=6e-3)
    assert found.residual[mask].max() < 0.5


def test_noise_reaches_the_field_as_theory_says_and_without_bias() -> None:
    # Fixed offset: variance = 1 / sum_e (gain_e magnitude_e / sigma)^2, which the weight is the root of for sigma = 1.
    field, coil, decay, mask = scene()
    sigma = 0.02
    rng = np.random.default_rng(4)
    noise = sigma * (rng.standard_normal((4, *SHAPE)) + 1j * rng.standard_normal((4, *SHAPE)))
    true_phase = echoes(field, coil)
    signal = decay * np.exp(1j * true_phase) + noise
    phase = true_phase + np.angle(signal * np.exp(-1j * true_phase))
    found = combine_echoes(phase, np.abs(signal), TIMES, B0, mask, SIZE)
    core = smooth_inside(mask.astype(float), np.ones(SHAPE), SIZE, 3.0) > 0.9
    error = (found.field - field)[core]
    theory = sigma / np.sqrt(np.einsum("e,exyz->xyz", GAINS**2, decay**2))[core]
    assert np.std(error / theory) == pytest.approx(1, abs=0.06)
    assert abs(np.mean(error / theory)) < 0.08
    np.testing.assert_allclose(np.median(found.weight[core] * theory) / sigma, 1, rtol=0.03)
    free = combine_echoes(phase, np.abs(signal), TIMES, B0, mask, SIZE, offset_smoothing=None)
    assert np.std(error) < 0.8 * np.std((free.field - field)[core])


def test_one_echo_is_phase_over_gain() -> None:
    field, _, decay, mask = scene()
    found = combine_echoes(field[None] * GAINS[2], decay[2:3], TIMES[2:3], B0, mask, SIZE)
    np.testing.assert_allclose(found.field[mask], field[mask], atol=1e-6)
    np.testing.assert_array_equal(found.offset, 0)
    np.testing.assert_allclose(found.residual, 0, atol=1e-6)


def test_voxels_without_signal_give_finite_numbers() -> None:
    field, coil, decay, mask = scene()
    decay[:, 18:22, 16:20, 14:18] = 0
    for smoothing in (4.0, None):
        found = combine_echoes(echoes(field, coil), decay, TIMES, B0, mask, SIZE, offset_smoothing=smoothing)
        assert all(np.isfinite(v).all() for v in (found.field, found.offset, found.residual, found.weight))
        assert found.weight[20, 18, 16] < 1e-3 * np.median(found.weight[mask])


def test_the_doubled_field_strength_halves_the_field() -> None:
    field, coil, decay, mask = scene()
    one, two = (combine_echoes(echoes(field, coil), decay, TIMES, b, mask, SIZE).field for b in (B0, 2 * B0))
    np.testing.assert_allclose(two, one / 2, atol=1e-6)


def test_a_region_whose_echoes_lie_on_no_line_is_taken_off_the_mask() -> None:
    field, coil, decay, mask = scene()
    phase = echoes(field, coil)
    edge = mask & (np.indices(SHAPE)[0] > 28)
    phase[:, edge] += np.random.default_rng(1).uniform(-2, 2, (4, int(edge.sum())))
    found = combine_echoes(phase, decay, TIMES, B0, mask, SIZE)
    kept = reliable_mask(mask, found, SIZE)
    assert (kept & edge).sum() < 0.1 * edge.sum()
    assert (kept & ~edge).sum() > 0.95 * (mask & ~edge).sum()
    assert not (kept & ~mask).any()


def test_one_bad_voxel_inside_good_tissue_stays() -> None:
    _, _, _, mask = scene()
    residual = np.zeros(SHAPE, np.float32)
    residual[20, 18, 15] = 3.0
    zero = np.zeros(SHAPE, np.float32)
    kept = reliable_mask(mask, FieldMap(zero, zero, residual, zero), SIZE)
    assert kept[20, 18, 15]


def test_a_noisy_scan_keeps_its_mask() -> None:
    _, _, _, mask = scene()
    residual = np.abs(0.35 + 0.05 * np.random.default_rng(2).standard_normal(SHAPE)).astype(np.float32)
    zero = np.zeros(SHAPE, np.float32)
    assert reliable_mask(mask, FieldMap(zero, zero, residual, zero), SIZE).sum() > 0.97 * mask.sum()


def test_weighted_smoothing_ignores_what_has_no_weight_and_keeps_constants() -> None:
    weight = np.zeros((20, 20, 20))
    weight[5:15, 5:15, 5:15] = 1
    values = np.where(weight > 0, 2.5, 1e6)
    np.testing.assert_allclose(smooth_inside(values, weight, (1, 1, 2), 3.0)[5:15, 5:15, 5:15], 2.5, rtol=1e-5)


ECHO = np.ones((2, 6, 6, 6), np.float32)
NOTHING = np.zeros((6, 6, 6), bool)
FIELD_MAP = FieldMap(ECHO[0], ECHO[0], ECHO[0], ECHO[0])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: combine_echoes(ECHO, ECHO, (0.01, 0.02), 0.0, ~NOTHING, SIZE), "b0 must be a positive .* got 0"),
    (lambda: combine_echoes(ECHO, ECHO, (0.01, 0.02), np.nan, ~NOTHING, SIZE), "b0 must be a positive"),
    (lambda: combine_echoes(ECHO, ECHO, (0.01, 0.02), 3, ~NOTHING[:5], SIZE), r"mask has shape \(5, 6, 6\), but"),
    (lambda: combine_echoes(ECHO, ECHO, (0.01, 0.02), 3, NOTHING, SIZE), "the mask is empty, so no field"),
    (lambda: combine_echoes(ECHO, ECHO, (10, 20), 3, ~NOTHING, SIZE), "echo times must be in seconds"),
    (lambda: combine_echoes(ECHO, ECHO, (0.01, 0.02), 3, ~NOTHING, SIZE, offset_smoothing=-1), "offset_smoothing must"),
    (lambda: reliable_mask(NOTHING, FIELD_MAP, SIZE), "the mask is empty, so no field can be judged"),
    (lambda: reliable_mask(~NOTHING, FIELD_MAP, (9, 9, 9), residual_limit=-1), "residual_limit must be"),
])  # fmt: skip
def test_echoes_that_cannot_be_combined_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_scattered_voxels_on_a_line_are_no_brain() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[::3, ::3, ::3] = True
    zero = np.zeros(mask.shape, np.float32)
    residual = np.where(np.indices(mask.shape)[0] < 10, 0.1, 0.25).astype(np.float32)
    with pytest.raises(InputError, match=r"no voxel of the mask has echoes on a line \(median residual"):
        reliable_mask(mask, FieldMap(zero, zero, residual, zero), (1, 1, 1))


def test_the_plain_average_is_the_mean_of_the_echoes_fields() -> None:
    field, coil, decay, mask = scene()
    rng = np.random.default_rng(5)
    noise = 0.02 * rng.standard_normal((4, *SHAPE))
    found = combine_echoes(echoes(field, 0 * coil) + noise, decay, TIMES, B0, mask, SIZE, method="average")
    expected = field + (noise / GAINS[:, None, None, None]).mean(axis=0)
    np.testing.assert_allclose(found.field[mask], expected[mask], atol=1e-6)
    fitted = combine_echoes(echoes(field, 0 * coil) + noise, decay, TIMES, B0, mask, SIZE)
    errors = [np.std((one.field - field)[mask]) for one in (found, fitted)]
    assert errors[0] > 1.1 * errors[1]  # what the paper's average costs
    assert (found.weight[mask] < fitted.weight[mask]).all()
    line = combine_echoes(echoes(field, 0 * coil) + noise, decay, TIMES, B0, mask, SIZE, offset_smoothing=None)
    np.testing.assert_allclose(found.residual, line.residual, atol=1e-6)


def test_the_average_ignores_whole_cycles_common_to_all_voxels() -> None:
    field, coil, decay, mask = scene()
    found = combine_echoes(echoes(field, 0 * coil) + 4 * np.pi, decay, TIMES, B0, mask, SIZE, method="average")
    np.testing.assert_allclose(found.field[mask], field[mask], atol=1e-5)


def test_an_unknown_combination_is_refused() -> None:
    field, coil, decay, mask = scene()
    with pytest.raises(InputError, match="must be one of fit, average, got 'median'"):
        combine_echoes(echoes(field, coil), decay, TIMES, B0, mask, SIZE, method="median")
