"""Effects of a scan, each alone on a small head of plain shapes."""

from __future__ import annotations

import numpy as np
import pytest
from chi33.pipeline.frames import GYROMAGNETIC_RATIO, radians_per_ppm
from chi33.pipeline.phantom.acquisition import Echo, Protocol
from chi33.pipeline.phantom.living.coils import noise_map, phase_poles
from chi33.pipeline.phantom.living.effects import Effects
from chi33.pipeline.phantom.living.kspace import point_spread, voxel_spectrum
from chi33.pipeline.phantom.living.myelin import myelin_table
from chi33.pipeline.phantom.living.scan import doubled
from chi33.pipeline.phantom.living.timing import ScanEvents, line_hertz, line_shares, scan_events
from chi33.pipeline.phantom.poses import HeadPose
from chi33.pipeline.phantom.sampling import spline_coefficients
from chi33.pipeline.phantom.truth import sampled_map
from living_scene import PROTOCOL, STRAIGHT, centroid, echoes_of, grid_about, plain_head, scan_of
from numpy.typing import NDArray
from scipy import ndimage

PARTS = Effects(subvoxel=0.5)
HERTZ = GYROMAGNETIC_RATIO * PROTOCOL.b0  # of a ppm


def signal(echo: Echo) -> NDArray[np.complex64]:
    return echo.magnitude * np.exp(1j * echo.phase)


def slope(echoes: list[Echo], protocol: Protocol = PROTOCOL) -> NDArray[np.float64]:
    """Field in ppm of the phase between the first and the last echo."""
    turned = np.angle(signal(echoes[-1]) * np.conj(signal(echoes[0])))
    return turned / radians_per_ppm(protocol.b0, protocol.echo_times[-1] - protocol.echo_times[0])


@pytest.fixture(scope="module")
def plain() -> tuple[object, list[Echo]]:
    return echoes_of(PARTS)


def test_phase_of_the_sum_is_the_true_field_where_that_is_smooth(plain: tuple) -> None:
    scan, echoes = plain
    smooth = (scan.truth.labels == 10) & ndimage.binary_erosion(scan.truth.brain_mask, iterations=2)
    smooth &= ~ndimage.binary_dilation(scan.truth.labels == 8, iterations=2)
    error = (slope(echoes) - scan.truth.total_field)[smooth]
    assert scan.truth.total_field[smooth].std() > 0.002
    assert np.abs(error).mean() < 0.0006
    assert echoes[0].magnitude[scan.truth.brain_mask].mean() == pytest.approx(1, abs=1e-3)


def test_truth_is_the_field_between_the_voxels_and_not_that_of_their_means(plain: tuple) -> None:
    from chi33.pipeline.physics.tensor_field import tensor_field

    truth = plain[0].truth
    twin = tensor_field(truth.tensor, truth.grid.voxel_size, truth.b0_direction)
    difference = (twin - truth.local_field)[truth.brain_mask].std() / truth.local_field[truth.brain_mask].std()
    assert 0.01 < difference < 0.5


def test_signal_dephases_within_the_voxels_about_a_strong_source() -> None:
    head = plain_head()
    head.tensor[[0, 3, 5]] += 4 * (head.fractions[3] / np.float32(255))
    lost = {}
    for parts in (0.5, 0.0):
        scan, echoes = echoes_of(Effects(subvoxel=parts, flow=0.0 if parts else 0.5), head=head)
        near = ndimage.binary_dilation(scan.truth.labels == 8) & (scan.truth.labels != 8) & scan.truth.brain_mask
        far = ndimage.binary_erosion(scan.truth.labels == 10) & ~ndimage.binary_dilation(near, iterations=3)
        share = echoes[-1].magnitude / np.maximum(echoes[0].magnitude, 1e-3)
        lost[parts] = share[near].mean() / share[far].mean()
    assert lost[0.5] < 0.93


def test_parallel_fibres_keep_their_frequency_and_crossing_ones_lose_it(plain: tuple) -> None:
    scan, echoes = echoes_of(Effects(subvoxel=0.5, myelin=1.0))
    shift = slope(echoes) - slope(plain[1])
    white = ndimage.binary_erosion(scan.truth.labels == 9)
    height = (np.arange(24) - 11.5)[None, None, :] * 2
    parallel, across = white & (height > 4), white & (height < -4)
    table = myelin_table(3.0, PROTOCOL.echo_times)
    ends = np.angle(table.factor[-1] * np.conj(table.factor[0])) / radians_per_ppm(3.0, 0.010)
    assert shift[parallel].mean() == pytest.approx(ends[0], abs=5e-4)
    assert shift[across].mean() == pytest.approx(ends[-1], rel=0.1)
    written = sampled_map(scan.maps.smooth, scan.maps.myelin_frequency(scan.truth.pose), STRAIGHT, scan.truth.grid)
    assert written[across].mean() == pytest.approx(table.frequency[-1], rel=0.1)
    assert abs(written[parallel].mean() - table.frequency[0]) < 1e-3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_offset_shifts_the_image_along_the_readout_by_hertz_over_bandwidth(axis: int) -> None:
    grid = grid_about()
    affine = np.eye(4)
    affine[:3, :3] = 2 * np.roll(np.eye(3), axis - 1, axis=1)  # world y, which is read out, on this array axis
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2)
    turned = type(grid)(grid.shape, affine)
    moved = []
    for bipolar in (0.0, 0.5):
        effects = Effects(subvoxel=0.5, distortion=200.0, bipolar=bipolar)
        still, shifted = (echoes_of(effects, grid=turned, offset=offset)[1] for offset in (0.0, 1.0))
        moved.append([centroid(b.magnitude) - centroid(a.magnitude) for a, b in zip(still, shifted, strict=True)])
    readout = int(np.argmax(np.abs(turned.frame[1])))
    assert readout == axis
    for echo in range(3):
        for backwards, shift in enumerate(moved):
            sign = -1 if backwards and echo % 2 else 1
            assert shift[echo][readout] == pytest.approx(sign * HERTZ / 200.0, abs=0.01)
            others = [a for a in range(3) if a != readout]
            np.testing.assert_allclose(shift[echo][others], 0, atol=0.01)


def test_fat_is_displaced_by_its_chemical_shift_and_turns_against_water() -> None:
    head = plain_head()
    head.fractions[:6] = 0  # fat alone
    head.brain[20:24, 38:44, 20:24] = 1.0
    still, shifted = (
        echoes_of(Effects(subvoxel=0.5, distortion=150.0, fat_shift=ppm), head=head, grid=grid_about(count=32))[1]
        for ppm in (0.1, 3.4)
    )
    moved = centroid(shifted[0].magnitude ** 2) - centroid(still[0].magnitude ** 2)
    assert moved[1] == pytest.approx(-3.3 * HERTZ / 150.0, abs=0.02)


def test_drift_and_breathing_pass_while_the_lines_are_read() -> None:
    grid = grid_about()
    shares = line_shares(grid)
    assert shares.shape == (24, 1, 24)  # y is read out
    assert shares[0, 0, 0] == pytest.approx(0.5, abs=0.03)  # the middle of k-space is read half-way
    assert (np.diff(np.fft.fftshift(shares[:, 0, 0])) > 0).all()
    assert np.ptp(shares[0, 0]) > 0.9  # z is the slow axis
    drift, breath = line_hertz(ScanEvents(drift=60.0, breathing=2.0), grid, 0.05)
    np.testing.assert_allclose(drift, shares * 24 * 24 * 0.05, rtol=1e-5)
    assert 1.9 < np.abs(breath).max() <= 2.0


def test_drift_turns_the_phase_by_its_hertz_half_way(plain: tuple) -> None:
    events = ScanEvents(drift=12.0)
    scan, echoes = echoes_of(Effects(subvoxel=0.5, drift=1.0), events=events)
    inside = ndimage.binary_erosion(scan.truth.brain_mask, iterations=3)
    seconds = 24 * 24 * PROTOCOL.repetition_time / 2
    turned = np.angle(signal(echoes[-1]) * np.conj(signal(plain[1][-1])))[inside]
    assert np.median(turned) == pytest.approx(2 * np.pi * PROTOCOL.echo_times[-1] * 12 / 60 * seconds, rel=0.05)


def test_breathing_leaves_ghosts_that_grow_with_echo_time(plain: tuple) -> None:
    _, echoes = echoes_of(Effects(subvoxel=0.5, breathing=2.0), events=ScanEvents(breathing=6.0, rate=0.3))
    error = [np.abs(signal(a) - signal(b)).mean() for a, b in zip(echoes, plain[1], strict=True)]
    assert error[0] > 0
    assert error[-1] > 1.5 * error[0]


def test_lines_after_a_movement_show_the_other_pose() -> None:
    step = HeadPose(np.eye(3), np.array([0.0, 4.0, 0.0]))
    shifted = {}
    for at in (0.0, 1.0):
        events = ScanEvents(moved_at=at, moved=step)
        shifted[at] = echoes_of(Effects(subvoxel=0.5, movement=0.5), events=events)[1][0].magnitude
    np.testing.assert_allclose(centroid(shifted[0.0]) - centroid(shifted[1.0]), [0, 2, 0], atol=0.02)
    half = echoes_of(Effects(subvoxel=0.5, movement=0.5), events=ScanEvents(moved_at=0.7, moved=step))[1][0].magnitude
    assert np.abs(half - shifted[1.0]).mean() < np.abs(half - shifted[0.0]).mean()  # the middle of k-space was read


def test_some_scans_move_by_the_stated_amount() -> None:
    rng = np.random.default_rng(0)
    events = [scan_events(Effects(movement=0.5), STRAIGHT, np.zeros(3), 3.0, n, rng) for n in range(12)]
    moved = [e for e in events if e.moved is not None]
    assert 3 <= len(moved) <= 8
    assert events[0].moved is None
    assert np.linalg.norm(moved[0].moved.translation) == pytest.approx(0.5)
    assert moved[0].record()["MovedAtShareOfScan"] > 0.5


def test_gradients_displace_by_the_cube_of_the_distance() -> None:
    away = HeadPose(np.eye(3), np.array([0.0, 0.0, 60.0]))
    grid = grid_about((0, 0, 60))
    plain_z, bent = (
        centroid(echoes_of(Effects(subvoxel=0.5, gradients=g), pose=away, grid=grid)[1][0].magnitude)[2]
        for g in (0.0, 5.0)
    )
    # the voxel at z shows what lies at z - 5 (z / 100)^3, so all appears further out
    assert 2 * (bent - plain_z) == pytest.approx(5 * 0.6**3, rel=0.2)


def test_bipolar_echoes_alternate_by_a_phase_linear_along_the_readout(plain: tuple) -> None:
    scan, echoes = echoes_of(Effects(subvoxel=0.5, bipolar=1.0))
    inside = ndimage.binary_erosion(scan.truth.brain_mask, iterations=2)
    turned = [np.angle(signal(a) * np.conj(signal(b))) for a, b in zip(echoes, plain[1], strict=True)]
    np.testing.assert_allclose(turned[0][inside], turned[2][inside], atol=1e-4)
    np.testing.assert_allclose(turned[0][inside], -turned[1][inside], atol=1e-4)
    rows = np.nonzero(inside)[1]
    assert np.polyfit(rows, turned[1][inside], 1)[0] == pytest.approx(1.0 / 23, rel=0.01)


def test_blood_turns_more_with_every_echo(plain: tuple) -> None:
    scan, echoes = echoes_of(Effects(subvoxel=0.5, flow=100.0))
    vein = scan.truth.labels == 8
    turned = [
        np.abs(np.angle(signal(a) * np.conj(signal(b)))[vein]).max() for a, b in zip(echoes, plain[1], strict=True)
    ]
    assert turned[0] > 0.02
    assert turned[2] > 1.8 * turned[0]
    still = (scan.truth.labels == 10) & ~ndimage.binary_dilation(vein, iterations=3)
    assert np.abs(np.angle(signal(echoes[2]) * np.conj(signal(plain[1][2])))[still]).max() < 0.05


def test_poles_wind_the_phase_where_the_signal_vanishes() -> None:
    grid = grid_about(count=64, voxel=3.0)
    factor = phase_poles(1, grid, np.random.default_rng(1))
    assert np.abs(factor).min() < 0.5
    assert np.abs(factor).max() <= 1.0001
    windings = 0
    for k in range(64):
        corners = [factor[:-1, :-1, k], factor[1:, :-1, k], factor[1:, 1:, k], factor[:-1, 1:, k]]
        steps = [np.angle(corners[(i + 1) % 4] * np.conj(corners[i])) for i in range(4)]
        around = np.rint(sum(steps) / (2 * np.pi))
        windings += int(np.abs(around).sum())
        assert around.sum() in (-1, 0, 1)
    assert windings > 20


def test_noise_is_larger_in_the_middle_and_has_the_asked_level() -> None:
    grid = grid_about(count=48, voxel=4.0)
    mask = np.zeros(grid.shape, bool)
    mask[8:40, 8:40, 8:40] = True
    sd = noise_map(2.0, grid, mask, np.random.default_rng(0))
    assert np.sqrt((sd[mask] ** 2).mean()) == pytest.approx(1, rel=1e-4)
    assert sd[24, 24, 24] / sd[0, 0, 0] == pytest.approx(2.0, rel=0.1)
    protocol = Protocol(echo_times=(0.005, 0.010), snr=40.0)
    noisy = echoes_of(Effects(subvoxel=0.5, noise_map=1.5), protocol=protocol)[1]
    clean = echoes_of(PARTS, protocol=Protocol(echo_times=(0.005, 0.010), snr=np.inf))[1]
    scan = scan_of(PARTS, protocol=protocol)
    rest = (signal(noisy[0]) - signal(clean[0]))[scan.truth.brain_mask]
    assert rest.real.std() == pytest.approx(1 / 40, rel=0.05)


def test_bone_gives_the_stated_share_of_signal() -> None:
    share = {}
    for skull in (0.0, 0.1):
        scan, echoes = echoes_of(Effects(subvoxel=0.5, skull=skull), grid=grid_about(voxel=1.0, count=44))
        bone = scan.maps.smooth.head.fractions[4] > 250
        share[skull] = echoes[0].magnitude[bone].mean()
    assert share[0.1] - share[0.0] == pytest.approx(0.1 * np.exp(-0.005 * 60), rel=0.3)


def test_cut_off_k_space_rings_at_an_edge_and_a_filtered_one_does_not() -> None:
    cells = np.zeros((64, 64, 64), np.complex64)
    cells[20:45] = 1
    spectrum = voxel_spectrum(cells, (32, 32, 32))
    line = {sharp: np.fft.ifftn(spectrum * point_spread((32, 32, 32), sharp)).real[:, 5, 5] for sharp in (0.0, 1.0)}
    assert line[1.0].max() > 1.04
    assert line[0.0].max() < 1.015
    for values in line.values():
        assert values.sum() == pytest.approx(12.5, rel=1e-3)  # half of the cells along an edge
    linear = np.arange(64)[:, None, None] * np.ones((1, 64, 64)) * np.hanning(64)[:, None, None] ** 4
    image = np.fft.ifftn(voxel_spectrum(linear.astype(np.complex64), (32, 32, 32))).real[:, 3, 3]
    expected = (linear[::2, 0, 0] + linear[1::2, 0, 0]) / 2  # a voxel's centre lies between its two cells
    np.testing.assert_allclose(image, expected, atol=0.2)


def test_doubled_spline_passes_through_its_knots() -> None:
    values = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(12, 13, 14)), 1.5).astype(np.float32)
    fine = doubled(spline_coefficients(values, 3))
    np.testing.assert_allclose(fine[::2, ::2, ::2], values, atol=1e-5)
    points = np.stack(np.meshgrid(*(np.arange(2 * n - 1) / 2 for n in values.shape), indexing="ij")).reshape(3, -1)
    np.testing.assert_allclose(fine.ravel(), ndimage.map_coordinates(values, points, order=3, mode="mirror"), atol=1e-4)
