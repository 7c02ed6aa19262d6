"""The single-step fit: total fields in, labels out, whatever lies outside the masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.background import vsharp
from chi33.pipeline.fits.closed_form import fit_susceptibility
from chi33.pipeline.fits.masked import Stopping
from chi33.pipeline.fits.result import Fit
from chi33.pipeline.fits.single_step import (
    SINGLE_STEP_ITERATIONS,
    SINGLE_STEP_TOLERANCE,
    fit_single_step,
    largest_radius_index,
    single_step_problem,
    single_step_radii,
)
from chi33.pipeline.physics.dipole import Shape
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensor_field import tensor_field
from chi33.pipeline.physics.tensors import chi33, isotropic
from fit_checks import directions, relative
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
SIZE = (4.0, 4.0, 4.0)
SEMI_AXES = 0.36  # of the ellipsoid, in lengths of the grid


# Spheres


@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (0.8, 1.2, 2.0), (2.0, 2.0, 2.0), (3.5, 1.0, 1.0)])
@pytest.mark.parametrize("largest", [18.0, 9.0])
def test_radii_descend_in_equal_ratios_and_hold_two_voxels(size: tuple[float, ...], largest: float) -> None:
    radii = single_step_radii(size, largest)
    assert radii[0] == pytest.approx(largest)
    assert radii[-1] == pytest.approx(max(4.0, 2 * max(size)))
    ratios = np.array(radii[1:]) / radii[:-1]
    assert (ratios < 1).all()
    np.testing.assert_allclose(ratios, ratios[0])
    assert len(radii) >= 2


def test_with_large_voxels_one_radius_is_left() -> None:
    assert single_step_radii((10.0, 1.0, 1.0)) == (20.0,)
    assert single_step_radii((1.0, 1.0, 1.0), 3.0) == (4.0,)


def fits(known: NDArray[np.bool_], size: NDArray, radius: float) -> NDArray[np.bool_]:
    """Where all voxels not farther than a radius are known, none of them outside the grid."""
    reach = [int(radius / d) for d in size]
    axes = np.meshgrid(*(np.arange(-r, r + 1) * d for r, d in zip(reach, size, strict=True)), indexing="ij")
    ball = sum(axis**2 for axis in axes) <= radius**2
    return ndimage.binary_erosion(known, ball, border_value=0)


@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (0.9, 1.3, 2.1)])
def test_each_voxel_has_the_largest_sphere_that_fits(size: tuple[float, ...]) -> None:
    rng, radii = np.random.default_rng(1), (6.3, 4.4, 2.6)
    known = ndimage.gaussian_filter(rng.standard_normal((24, 22, 20)), 5.0) > -0.01
    known[2:19, 3:20, 2:18] = True
    known[:, :, 0] = True  # at the edge of the grid, too
    radius_index = largest_radius_index(known, np.array(size), radii)
    assert radius_index.dtype == np.uint8
    expected = np.zeros(known.shape, int)
    for number in (3, 2, 1):
        expected[fits(known, np.array(size), radii[number - 1])] = number
    np.testing.assert_array_equal(radius_index, expected)
    assert set(np.unique(radius_index)) == {0, 1, 2, 3}


def test_in_a_ball_the_shells_are_balls() -> None:
    at = np.stack(np.meshgrid(*[np.arange(31) - 15.0] * 3, indexing="ij"))
    distance = np.sqrt((at**2).sum(axis=0))
    radius_index = largest_radius_index(distance <= 12, np.ones(3), (9.0, 6.0, 3.0))
    assert radius_index[15, 15, 15] == 1
    for number, radius in ((1, 9), (2, 6), (3, 3)):
        assert (radius_index[distance < 12 - radius - 1] <= number).all()
        assert ((radius_index == 0) | (radius_index > number))[distance > 12 - radius + 1].all()
    np.testing.assert_array_equal(radius_index[distance > 12], 0)


# A head with a background


@dataclass(frozen=True)
class Head:
    """A small head in an ellipsoid: its tensor (ppm), and at each orientation local field, background and mask."""

    tensor: Array
    brain: NDArray[np.bool_]
    local: list[Array]
    background: list[Array]
    shim: list[Array]
    masks: list[NDArray[np.bool_]]
    directions: list[NDArray[np.float64]]

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Where the smallest sphere fits into all masks."""
        common = np.pad(np.logical_and.reduce(self.masks), 1)
        return ndimage.distance_transform_edt(common, sampling=SIZE)[1:-1, 1:-1, 1:-1] > single_step_radii(SIZE)[-1]

    def total(self, *parts: str) -> list[Array]:
        """Sums of parts of the field, within the masks."""
        summed = [sum(one) for one in zip(*(getattr(self, part) for part in parts), strict=True)]
        return [(field * mask).astype(np.float32) for field, mask in zip(summed, self.masks, strict=True)]

    def error(self, fit: Fit, cosmos: bool = False) -> float:
        """The mean relative error of chi33 (or of COSMOS as chi33) over scans, constants aside."""
        found = []
        for h in self.directions:
            truth = chi33(self.tensor, h)[self.inside]
            label = (fit.cosmos if cosmos else chi33(fit.tensor, h))[self.inside]
            found.append(relative(label - label.mean(), truth - truth.mean()))
        return float(np.mean(found))


def point_sources(at: NDArray, places: NDArray, moments: NDArray, h: NDArray) -> NDArray[np.float64]:
    """The exact field in ppm of point sources (ppm mm^3) at places (n, 3) in mm."""
    field = np.zeros(at.shape[1:])
    for place, moment in zip(places, moments, strict=True):
        apart = at - place[:, None, None, None]
        distance = np.linalg.norm(apart, axis=0)
        field += moment / (4 * np.pi) * (3 * (np.tensordot(h, apart, axes=1) / distance) ** 2 - 1) / distance**3
    return field


@pytest.fixture(scope="module")
def head() -> Head:
    shape, scans = (24, 26, 22), 8
    rng = np.random.default_rng(0)
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, SIZE, strict=True)]
    at = np.stack(np.meshgrid(*axes, indexing="ij"))
    semi = SEMI_AXES * np.array(shape) * SIZE
    scaled = at / semi[:, None, None, None]
    brain = (scaled**2).sum(axis=0) < 1
    iso = ndimage.gaussian_filter(rng.standard_normal(shape), 1.0)
    traceless = ndimage.gaussian_filter(rng.standard_normal((6, *shape)), (0, 1, 1, 1))
    traceless[[0, 3, 5]] -= traceless[[0, 3, 5]].mean(axis=0)
    tensor = (isotropic(0.05 * iso / iso[brain].std()) + 0.004 * traceless / traceless[:, brain].std()) * brain
    tensor[[0, 3, 5]] -= tensor[[0, 3, 5]].mean(axis=0)[brain].mean() * brain
    towards = rng.standard_normal((40, 3))
    towards /= np.linalg.norm(towards, axis=1)[:, None]
    away = 1 / np.linalg.norm(towards / semi, axis=1) + 8 + rng.uniform(0, 15, 40)  # 8 to 23 mm outside
    moments = 9.0 * 10.0**3 * rng.standard_normal(40)  # air in 10 mm cubes
    local, background, shim, masks = [], [], [], []
    x, y, z = at / 50
    for h in directions(scans):
        local.append(tensor_field(tensor.astype(np.float32), SIZE, h) + 1e-3 * rng.standard_normal(shape))
        background.append(point_sources(at, towards * away[:, None], moments, h))
        terms = [np.ones(shape), x, y, z, x * y, x * z, y * z, x**2 - y**2, 2 * z**2 - x**2 - y**2]
        shim.append(0.1 * sum(w * term for w, term in zip(rng.uniform(-1, 1, 9), terms, strict=True)))
        centre = rng.uniform(-0.08, 0.08, (3, 1, 1, 1))
        masks.append(brain & (((scaled - centre) ** 2).sum(axis=0) < 0.93))
    return Head(tensor.astype(np.float32), brain, local, background, shim, masks, directions(scans))


@pytest.fixture(scope="module")
def without_background(head: Head) -> Fit:
    return fit_single_step(head.total("local"), head.masks, SIZE, head.directions)


@pytest.fixture(scope="module")
def with_background(head: Head) -> Fit:
    return fit_single_step(head.total("local", "background", "shim"), head.masks, SIZE, head.directions)


def test_the_background_is_strong(head: Head) -> None:
    for local, total, mask in zip(head.local, head.total("background", "shim"), head.masks, strict=True):
        assert total[mask].std() > 5 * local[mask].std()


def test_sources_outside_the_masks_hardly_change_the_solution(
    head: Head, without_background: Fit, with_background: Fit
) -> None:
    assert relative(with_background.tensor[:, head.inside], without_background.tensor[:, head.inside]) < 0.12
    assert relative(with_background.cosmos[head.inside], without_background.cosmos[head.inside]) < 0.12
    assert head.error(with_background) < 1.2 * head.error(without_background)


def test_it_is_far_better_than_two_steps(head: Head, with_background: Fit) -> None:
    local = [vsharp(f, m, SIZE) for f, m in zip(head.total("local", "background", "shim"), head.masks, strict=True)]
    two_steps = fit_susceptibility([one.field for one in local], SIZE, head.directions, noise=2e-3)
    assert head.error(with_background) < 0.2
    assert head.error(with_background) < 0.5 * head.error(two_steps)
    assert head.error(with_background) < 0.5 * head.error(two_steps, cosmos=True)
    assert head.error(with_background) <= 1.02 * head.error(with_background, cosmos=True)


def test_a_shim_hardly_changes_the_solution(head: Head) -> None:
    def fit(*parts: str) -> Fit:
        stopping = Stopping(8, 0.0)
        return fit_single_step(head.total(*parts), head.masks, SIZE, head.directions, noise=2e-3, stopping=stopping)

    without, shimmed = fit("local"), fit("local", "shim")
    assert relative(shimmed.tensor[:, head.inside], without.tensor[:, head.inside]) < 0.06


def test_hardly_anything_of_a_background_is_data(head: Head) -> None:
    def data(*parts: str) -> list[Array]:
        problem = single_step_problem(head.total(*parts), head.masks, SIZE, head.directions)
        return [
            one.forward(problem.grid.forward(field), problem.grid, problem.filters)[one.radius_index > 0]
            for one, field in zip(problem.observations, problem.fields, strict=True)
        ]

    for local, background, shim, whole, mask in zip(
        data("local"), data("background"), data("shim"), head.total("background"), head.masks, strict=True
    ):
        assert background.std() < 0.03 * whole[mask].std()
        assert background.std() < 0.25 * local.std()
        assert shim.std() < 0.25 * local.std()


def test_the_fit_says_how_it_was_made(head: Head, with_background: Fit) -> None:
    assert with_background.method == "single-step"
    assert with_background.prior == Prior()
    record = with_background.record
    assert record["RadiiMm"] == [round(radius, 3) for radius in single_step_radii(SIZE)]
    assert (record["IterationLimit"], record["StoppingTolerance"]) == (SINGLE_STEP_ITERATIONS, SINGLE_STEP_TOLERANCE)
    assert record["LastRelativeChange"] < 0.015
    assert (record["StoppedBy"] == "tolerance") == (record["LastRelativeChange"] < SINGLE_STEP_TOLERANCE)
    assert record["PaddingMm"] == 32.0
    assert 5e-4 < with_background.noise < 4e-3
    outside = ~np.logical_or.reduce(head.masks)
    np.testing.assert_array_equal(with_background.tensor[:, outside], 0)
    np.testing.assert_array_equal(with_background.cosmos[outside], 0)
    assert with_background.tensor.dtype == with_background.cosmos.dtype == np.float32


def test_radii_that_see_a_spoilt_edge_count_less(head: Head) -> None:
    rng = np.random.default_rng(4)
    spoilt = []
    for field, mask in zip(head.total("local"), head.masks, strict=True):
        edge = ndimage.distance_transform_edt(mask, sampling=SIZE) < 12
        spoilt.append(field + edge * 0.01 * rng.standard_normal(field.shape))
    usual = fit_single_step(head.total("local"), head.masks, SIZE, head.directions, radii=(14.0, 9.0))
    fit = fit_single_step(spoilt, head.masks, SIZE, head.directions, radii=(14.0, 9.0))
    assert usual.record["RadiiWeights"][0] == fit.record["RadiiWeights"][0] == 1
    assert fit.record["RadiiWeights"][1] < 0.5 < usual.record["RadiiWeights"][1]


def test_radii_iterations_and_support_are_those_given(head: Head) -> None:
    fit = fit_single_step(
        head.total("local"), head.masks, SIZE, head.directions, radii=(9.0, 14.0), noise=2e-3, support=head.brain,
        stopping=Stopping(2, 0.0),
    )  # fmt: skip
    assert fit.record["RadiiMm"] == [14.0, 9.0]
    assert fit.record["Iterations"] == fit.record["IterationsCosmos"] == 2
    assert fit.record["StoppedBy"] == "iteration limit"
    assert fit.noise == 2e-3
    np.testing.assert_array_equal(fit.tensor[:, ~head.brain], 0)
    assert np.abs(fit.tensor[:, head.brain & ~np.logical_or.reduce(head.masks)]).max() > 0


def test_values_outside_the_masks_do_not_count(head: Head) -> None:
    def fit(fields: list[Array]) -> Fit:
        return fit_single_step(fields, head.masks, SIZE, head.directions, noise=2e-3, stopping=Stopping(1, 0.0))

    outside = [np.where(mask, f, np.float32(50.0)) for f, mask in zip(head.total("local"), head.masks, strict=True)]
    np.testing.assert_array_equal(fit(outside).tensor, fit(head.total("local")).tensor)


# What is refused

SMALL: Shape = (12, 11, 10)
FIELDS = [np.zeros(SMALL, np.float32) for _ in range(3)]
ONES = [np.ones(SMALL, np.float32) for _ in range(3)]
THIN = np.zeros(SMALL)
THIN[4:7] = 1
CORNER, REST = np.zeros(SMALL), np.ones(SMALL)
CORNER[:2, :2, :2] = 1
REST[:2, :2, :2] = 0
H = directions(3)
NAMES = ("ori01", "ori02", "ori03")
RING = [np.array([0.5 * np.cos(a), 0.5 * np.sin(a), np.sqrt(0.75)]) for a in np.arange(7)]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: fit_single_step(FIELDS, [ONES[0], THIN, ONES[2]], SIZE, H, names=NAMES),
     r"no sphere of 8 mm fits the mask of ori02 \(330 voxels\): use smaller radii or a larger mask"),
    (lambda: fit_single_step(FIELDS, [*ONES[:2], THIN], SIZE, H, radii=(14.0, 9.0)),
     r"no sphere of 9 mm fits the mask of weights\[2\] \(330 voxels\)"),
    (lambda: fit_single_step(FIELDS, ONES, SIZE, H, radii=(9.0, -1.0)), r"radii must be positive lengths in mm"),
    (lambda: fit_single_step(FIELDS, ONES, SIZE, H, radii=()), r"radii must be positive lengths in mm"),
    (lambda: fit_single_step(FIELDS[:2], ONES, SIZE, H), "2 fields but 3 B0 directions were given"),
    (lambda: fit_single_step(FIELDS, ONES[:2], SIZE, H), "3 fields but 2 weights were given: give one of each a scan"),
    (lambda: fit_single_step([*FIELDS[:2], FIELDS[2] + np.inf], ONES, SIZE, H), r"fields\[2\] holds NaN or infinity"),
    (lambda: fit_single_step(FIELDS, [*ONES[:2], ONES[2][:4]], SIZE, H), r"weights\[2\] has weights of shape \(4, 11"),
    (lambda: fit_single_step(FIELDS, [*ONES[:2], -ONES[2]], SIZE, H, names=NAMES), "ori03 has weights that are nega"),
    (lambda: fit_single_step(FIELDS, [0 * ONES[0], *ONES[1:]], SIZE, H), r"weights\[0\] has weights that are all zero"),
    (lambda: fit_single_step(FIELDS, [REST, CORNER, REST], SIZE, H, names=NAMES),
     "the mask of ori02 touches no other scan's mask"),
    (lambda: fit_single_step(FIELDS, ONES, SIZE, H, support=np.ones((2, 2, 2))), r"support has shape \(2, 2, 2\)"),
    (lambda: fit_single_step(FIELDS, ONES, SIZE, [(0, 0, 2), *H[1:]]), r"b0_directions\[0\] must be a unit vector"),
    (lambda: fit_single_step(FIELDS, ONES, (1, 1), H), "voxel_size must be three positive"),
    (lambda: fit_single_step(FIELDS, ONES, SIZE, H, padding=-1), "padding must be at least 0 mm, got -1"),
    (lambda: fit_single_step(FIELDS, ONES, SIZE, H, padding=np.nan), "padding must be at least 0 mm, got nan"),
    (lambda: fit_single_step(FIELDS, ONES, SIZE, H, padding=0, radii=(30.0, 8.0)),
     r"a sphere of 30 mm does not fit the grid of \(12, 11, 10\) voxels"),
    (lambda: fit_single_step(FIELDS, ONES, SIZE, H, noise=0.0), "noise must be a positive .* got 0.0"),
    (lambda: fit_single_step([FIELDS[0]] * 7, [ONES[0]] * 7, SIZE, RING, prior=Prior(aniso=np.inf)),
     "These 7 directions leave the tensor singular"),
    (lambda: fit_single_step(FIELDS[:1], ONES[:1], SIZE, H[:1]), "only one orientation was given"),
])  # fmt: skip
def test_what_cannot_be_fitted_is_refused_in_a_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
