from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.files.errors import InputError, StepError
from chi33.pipeline.frames import radians_per_ppm
from chi33.pipeline.masks.reliability import reliable_mask
from chi33.pipeline.phase import unwrap
from chi33.pipeline.phase.echoes import combine_echoes
from chi33.pipeline.phase.unwrap import check_echoes, unwrap_laplacian, unwrap_romeo
from numpy.typing import NDArray

SHAPE, SIZE, TIMES, B0 = (36, 32, 28), (1.0, 1.0, 1.5), (0.004, 0.010, 0.016), 3.0
ROMEO_DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "romeo-small"


def wrapped(phase: NDArray) -> NDArray[np.float32]:
    return np.angle(np.exp(1j * phase)).astype(np.float32)


def head() -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_]]:
    """True phase (echo, x, y, z) of a ramp and two bumps that wrap several times, magnitude, and an ellipsoid mask."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    field = 0.5 * x - 0.3 * y * z + 0.9 * np.exp(-8 * ((x - 0.3) ** 2 + y**2 + z**2))
    field -= 0.5 * np.exp(-10 * (x**2 + (y + 0.3) ** 2 + z**2))
    offset = 1.0 + 0.8 * x - 0.6 * y
    phase = np.stack([offset + field * radians_per_ppm(B0, t) for t in TIMES])
    magnitude = np.stack([np.exp(-t / 0.03) * (1 + 0.3 * z) for t in TIMES]).astype(np.float32)
    return phase, magnitude, x**2 + y**2 + z**2 < 0.9**2


def whole_cycles(difference: NDArray) -> NDArray[np.float64]:
    return difference / (2 * np.pi)


def test_romeo_recovers_every_echo_up_to_one_whole_number_of_cycles() -> None:
    phase, magnitude, mask = head()
    assert np.ptp(phase[-1][mask]) > 4 * np.pi
    found = unwrap_romeo(wrapped(phase), magnitude, TIMES, mask)
    assert found.shape == phase.shape
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, ~mask], 0)
    for echo in range(len(TIMES)):
        cycles = whole_cycles((found - phase)[echo][mask])
        np.testing.assert_allclose(cycles, np.round(cycles.mean()), atol=1e-3)


def test_romeo_unwraps_one_echo_and_starts_from_any_template() -> None:
    phase, magnitude, mask = head()
    one = unwrap_romeo(wrapped(phase[2:]), magnitude[2:], TIMES[2:], mask)
    cycles = whole_cycles((one - phase[2:])[0][mask])
    np.testing.assert_allclose(cycles, np.round(cycles.mean()), atol=1e-3)
    late = unwrap_romeo(wrapped(phase), magnitude, TIMES, mask, template=1)
    for echo in range(len(TIMES)):
        cycles = whole_cycles((late - phase)[echo][mask])
        np.testing.assert_allclose(cycles, np.round(cycles.mean()), atol=1e-3)


def test_a_noisy_background_does_not_reach_into_the_mask() -> None:
    phase, magnitude, mask = head()
    noise = np.random.default_rng(0).uniform(-np.pi, np.pi, phase.shape)
    found = unwrap_romeo(wrapped(np.where(mask, phase, noise)), np.where(mask, magnitude, 0.02), TIMES, mask)
    cycles = whole_cycles((found - phase)[:, mask])
    assert np.abs(cycles - np.round(np.median(cycles, axis=1, keepdims=True))).max() < 1e-3


def test_laplacian_unwrapping_recovers_smooth_phase_up_to_a_constant() -> None:
    phase, _, _ = head()
    assert max(np.abs(np.diff(phase, axis=a)).max() for a in (1, 2, 3)) < np.pi
    found = unwrap_laplacian(wrapped(phase), SIZE)
    for echo in range(len(TIMES)):
        difference = found[echo] - phase[echo]
        np.testing.assert_allclose(difference, difference.mean(), atol=2e-3)
    np.testing.assert_allclose(unwrap_laplacian(wrapped(phase[1]), SIZE), found[1], atol=1e-6)


@pytest.mark.parametrize("method", ["romeo", "laplacian"])
def test_unwrapped_echoes_of_either_method_combine_to_the_true_field(method: str) -> None:
    phase, magnitude, mask = head()
    if method == "romeo":
        unwrapped = unwrap_romeo(wrapped(phase), magnitude, TIMES, mask)
    else:
        unwrapped = unwrap_laplacian(wrapped(phase), SIZE)
    per_ppm = [radians_per_ppm(B0, t) for t in TIMES]
    truth = (phase[1] - phase[0]) / (per_ppm[1] - per_ppm[0])
    found = combine_echoes(unwrapped, magnitude, TIMES, B0, mask, SIZE, offset_smoothing=None).field - truth
    # Laplacian unwrapping loses a constant of each echo, and with it one of the field.
    reference = found[mask].mean() if method == "laplacian" else 0.0
    cycle = 1 / (B0 * 42.577478518 * (TIMES[1] - TIMES[0]))
    np.testing.assert_allclose((found[mask] - reference) / cycle, 0, atol=2e-3)


def real_scan() -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[float, ...]]:
    if not ROMEO_DATA.is_dir():
        pytest.skip("the ROMEO test data (shared/data/romeo-small) is not beside the repository")
    phase, magnitude = (
        np.moveaxis(np.asarray(nib.load(ROMEO_DATA / f"{name}.nii").dataobj), -1, 0) for name in ("Phase", "Mag")
    )
    # The header's slope scales radians by 0.00117: the largest value is pi.
    radians = (phase * (np.pi / np.abs(phase).max())).astype(np.float32)
    return radians, magnitude.astype(np.float32), (0.004, 0.008, 0.012)


def neighbour_steps(volume: NDArray, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Differences between all face neighbours of which both are inside."""
    steps = []
    for axis in range(3):
        both = np.take(inside, range(1, inside.shape[axis]), axis) & np.take(
            inside, range(inside.shape[axis] - 1), axis
        )
        steps.append(np.abs(np.diff(volume, axis=axis))[both])
    return np.concatenate(steps)


def test_a_real_scan_has_no_cycle_steps_inside_bright_tissue() -> None:
    phase, magnitude, times = real_scan()
    size, b0 = (0.46875, 0.46875, 1.0), 7.0
    bright = magnitude[-1] > 0.3 * np.percentile(magnitude[-1], 99)
    assert bright.mean() > 0.3
    last_cycle = 1 / (42.577478518 * b0 * times[-1])
    before = neighbour_steps(phase[-1] / radians_per_ppm(b0, times[-1]), bright)
    assert (before > 0.5 * last_cycle).sum() > 100  # it does wrap
    mask = magnitude[0] > 0.1 * np.percentile(magnitude[0], 99)
    unwrapped = unwrap_romeo(phase, magnitude, times, mask)
    field_map = combine_echoes(unwrapped, magnitude, times, b0, mask, size)
    tissue = bright & reliable_mask(mask, field_map, size)
    assert tissue.sum() > 0.9 * bright.sum()
    steps = neighbour_steps(field_map.field, tissue)
    assert steps.size > 50_000
    assert steps.max() < 0.5 * last_cycle


def test_a_failing_niimath_is_a_failed_step_with_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    phase, magnitude, mask = head()
    program = tmp_path / "niimath"
    program.write_text("#!/bin/sh\necho 'first line' >&2\necho 'cannot allocate the volume' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("niimath.bin", str(program))
    with pytest.raises(StepError, match=r"niimath exit code 3\): cannot allocate the volume; .*laplacian"):
        unwrap_romeo(wrapped(phase), magnitude, TIMES, mask)
    program.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(StepError, match=r"niimath exit code 0\): no message"):
        unwrap_romeo(wrapped(phase), magnitude, TIMES, mask)
    monkeypatch.setattr("niimath.bin", str(tmp_path / "absent"))
    with pytest.raises(StepError, match=r"niimath cannot be run .*absent"):
        unwrap_romeo(wrapped(phase), magnitude, TIMES, mask)


def test_romeo_leaves_no_files_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    phase, magnitude, mask = head()
    monkeypatch.setattr(unwrap.tempfile, "tempdir", str(tmp_path))
    unwrap_romeo(wrapped(phase), magnitude, TIMES, mask)
    assert list(tmp_path.iterdir()) == []


ECHOES = np.zeros((2, 4, 5, 6), np.float32)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: check_echoes(ECHOES, ECHOES[:1], (0.01, 0.02)), r"phase \(2, 4, 5, 6\) and magnitude \(1, 4, 5, 6\)"),
    (lambda: check_echoes(ECHOES[0], ECHOES[0], (0.01,)), r"must both be \(echo, x, y, z\)"),
    (lambda: check_echoes(ECHOES, ECHOES, (0.01,)), "2 echoes but 1 echo times were given"),
    (lambda: check_echoes(ECHOES, ECHOES, (0.01, np.nan)), "echo times must be positive and ascending"),
    (lambda: check_echoes(ECHOES, ECHOES, (0.02, 0.01)), r"echo times must be positive .*\[0.02, 0.01\]"),
    (lambda: check_echoes(ECHOES, ECHOES, (0.01, 0.01)), "echo times must be positive and ascending"),
    (lambda: check_echoes(ECHOES, ECHOES, (0.0, 0.01)), "echo times must be positive and ascending"),
    (lambda: check_echoes(ECHOES, ECHOES, (4.0, 8.0)), "echo times must be in seconds, got 8: divide"),
    (lambda: check_echoes(ECHOES + np.nan, ECHOES, (0.01, 0.02)), "the phase holds 240 NaN or infinite values"),
    (lambda: check_echoes(ECHOES, ECHOES + np.inf, (0.01, 0.02)), "the magnitude holds 240 NaN or infinite values"),
    (lambda: unwrap_romeo(ECHOES, ECHOES, (0.01, 0.02), ECHOES[0]), "the mask is empty, so there is nothing to unwrap"),
    (lambda: unwrap_romeo(ECHOES, ECHOES, (0.01, 0.02), np.ones((4, 5))), r"mask has shape \(4, 5\), but the phase"),
    (lambda: unwrap_romeo(ECHOES, ECHOES, (0.01, 0.02), np.ones((4, 5, 6)), template=2), "template must be .*got 2"),
    (lambda: unwrap_laplacian(ECHOES, (1, 1, 0)), "voxel_size must be three positive lengths"),
    (lambda: unwrap_laplacian(ECHOES + np.nan, (1, 1, 1)), "the phase holds 240 NaN or infinite values"),
])  # fmt: skip
def test_echoes_that_cannot_be_unwrapped_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
