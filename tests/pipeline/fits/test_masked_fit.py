"""The masked fit: its linear problem, its solution against the closed form and the truth, stopping, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.background import smv_kernel
from chi33.pipeline.fits.closed_form import fit_susceptibility
from chi33.pipeline.fits.execution import Execution
from chi33.pipeline.fits.masked import Stopping, fit_masked
from chi33.pipeline.fits.model.field_model import FieldModel, Observation
from chi33.pipeline.fits.model.grid import FitGrid, make_grid
from chi33.pipeline.fits.noise import effective_parameters
from chi33.pipeline.fits.result import Fit
from chi33.pipeline.fits.solver import conjugate_gradients
from chi33.pipeline.physics.dipole import DipoleOperator, Shape
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensor_field import TensorFieldOperator, tensor_field
from chi33.pipeline.physics.tensors import chi33, isotropic
from fit_checks import directions, relative
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Tensors = Callable[..., NDArray[np.float32]]
Array = NDArray[np.float32]
SIZE = (2.0, 2.0, 2.0)


def inner(a: NDArray, b: NDArray) -> float:
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


# The linear problem


@pytest.fixture(scope="module")
def running() -> Execution:
    return Execution(workers=2)


PROBLEMS = [
    pytest.param(((12, 14, 10), 0.0, False), id="even, circular"),
    pytest.param(((12, 15, 10), 6.0, False), id="padded"),
    pytest.param(((14, 12, 16), 0.0, True), id="even, circular, filtered"),
    pytest.param(((13, 12, 11), 8.0, True), id="padded, filtered"),
]


@pytest.fixture(params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> tuple[FitGrid, list[Observation], NDArray[np.bool_], Array | None]:
    """Grid, observations with masks and weights of their own (and shells), a support, and the shells' filters."""
    shape, padding, filtered = request.param
    rng = np.random.default_rng(4)
    inside = np.zeros(shape, bool)
    inside[1:-1, 2:, :-1] = True
    grid = make_grid(inside, (1.0, 1.2, 1.5), directions(3), padding)
    observations = []
    for _ in range(3):
        weight = rng.uniform(0.2, 2, grid.box_shape) * (rng.random(grid.box_shape) < 0.7)
        radius_index = rng.integers(0, 4, grid.box_shape).astype(np.uint8) if filtered else None
        observations.append(Observation(weight.astype(np.float32), radius_index))
    support = rng.random(grid.box_shape) < 0.8
    radii = (5.0, 3.5, 2.0)
    filters = np.stack([1 - smv_kernel(grid.padded, grid.voxel_size, r) for r in radii]) if filtered else None
    return grid, observations, support, filters


@pytest.mark.parametrize("components", [6, 1])
def test_the_forward_model_and_its_adjoint_are_adjoint(problem: tuple, components: int, running: Execution) -> None:
    grid, observations, support, filters = problem
    model = FieldModel(grid, observations, support, running, components=components, filters=filters)
    rng = np.random.default_rng(9)
    for scan in range(3):
        x = (rng.standard_normal((components, *grid.box_shape)) * support).astype(np.float32)
        y = rng.standard_normal(grid.box_shape).astype(np.float32)
        ax, aty = model.field(x, scan), model.field_adjoint(y, scan)
        assert ax.shape == grid.box_shape
        assert aty.shape == x.shape
        assert abs(inner(ax, y) - inner(x, aty)) < 1e-5 * np.linalg.norm(ax) * np.linalg.norm(y)
        np.testing.assert_array_equal(aty[:, ~support], 0)
        unseen = observations[scan].weight == 0
        if filters is not None:
            unseen |= observations[scan].radius_index == 0
        np.testing.assert_array_equal(ax[unseen], 0)
        assert np.count_nonzero(ax[~unseen]) > 0.99 * np.count_nonzero(~unseen)


@pytest.mark.parametrize("components", [6, 1])
@pytest.mark.parametrize("scans", [None, [0, 2]])
def test_the_normal_operator_and_the_data_side_are_sums_of_the_scans_adjoints(
    problem: tuple, components: int, scans: list[int] | None, running: Execution
) -> None:
    grid, observations, support, filters = problem
    model = FieldModel(grid, observations, support, running, components=components, filters=filters, scans=scans)
    used = scans or [0, 1, 2]
    rng = np.random.default_rng(10)
    x = (rng.standard_normal((components, *grid.box_shape)) * support).astype(np.float32)
    assert relative(model.normal(x), sum(model.field_adjoint(model.field(x, s), s) for s in used)) < 1e-5
    fields = [rng.standard_normal(grid.box_shape).astype(np.float32) for _ in range(3)]
    expected = 0
    for scan in used:
        one = observations[scan]
        seen = one.forward(grid.forward(fields[scan]), grid, filters)
        expected = expected + model.field_adjoint(seen * one.weight, scan)
    assert relative(model.right_hand_side(fields), expected) < 1e-5


def test_without_masks_the_model_is_the_operator_of_the_physics(running: Execution) -> None:
    shape, size, h = (12, 10, 14), (1.0, 1.5, 0.8), directions(3)
    grid = make_grid(np.ones(shape, bool), size, h, 0.0)
    seen = [Observation(np.ones(shape, np.float32)) for _ in h]
    x = np.random.default_rng(1).standard_normal((6, *shape)).astype(np.float32)
    model = FieldModel(grid, seen, np.ones(shape, bool), running)
    scalar = FieldModel(grid, seen, np.ones(shape, bool), running, components=1)
    for scan, one in enumerate(h):
        assert relative(model.field(x, scan), TensorFieldOperator(shape, size, one).forward(x)) < 1e-5
        assert relative(scalar.field(x[:1], scan), DipoleOperator(shape, size, one).forward(x[0])) < 1e-5


@pytest.mark.parametrize("components", [6, 1])
def test_inner_products_of_a_model_are_summed_in_float64(components: int, running: Execution) -> None:
    shape, h = (40, 42, 38), directions(3)
    grid = make_grid(np.ones(shape, bool), SIZE, h, 0.0)
    seen = [Observation(np.ones(shape, np.float32)) for _ in h]
    model = FieldModel(grid, seen, np.ones(shape, bool), running, components=components)
    x = np.random.default_rng(3).standard_normal((components, *shape)).astype(np.float32) + np.float32(0.5)
    assert model.inner(x, x[::-1]) == pytest.approx(inner(x, x[::-1]), rel=1e-12)
    exact = x.astype(np.float64)
    size = np.mean([chi33(exact, one) ** 2 for one in grid.directions]) if components == 6 else np.mean(exact**2)
    assert model.label_size(x) == pytest.approx(np.sqrt(size), rel=1e-7)


def test_a_filtered_field_is_that_of_the_shells_filter_at_each_voxel(running: Execution) -> None:
    shape, size = (16, 14, 15), (1.0, 1.0, 1.0)
    grid = make_grid(np.ones(shape, bool), size, directions(2), 0.0)
    radius_index = np.random.default_rng(2).integers(0, 3, shape).astype(np.uint8)
    filters = np.stack([1 - smv_kernel(shape, size, r) for r in (4.0, 2.0)])
    field = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    seen = Observation(np.ones(shape, np.float32), radius_index).forward(grid.forward(field), grid, filters)
    np.testing.assert_array_equal(seen[radius_index == 0], 0)
    for number in (1, 2):
        expected = np.fft.irfftn(filters[number - 1] * np.fft.rfftn(field), s=shape, axes=(0, 1, 2))
        np.testing.assert_allclose(seen[radius_index == number], expected[radius_index == number], atol=1e-5)


@pytest.mark.parametrize("components", [6, 1])
def test_residuals_are_what_the_model_leaves_where_a_scan_is_known(
    problem: tuple, components: int, running: Execution
) -> None:
    grid, observations, support, filters = problem
    flat = [Observation((one.weight > 0).astype(np.float32), one.radius_index) for one in observations]
    model = FieldModel(grid, flat, support, running, components=components, filters=filters)
    rng = np.random.default_rng(12)
    x = (rng.standard_normal((components, *grid.box_shape)) * support).astype(np.float32)
    fields = [rng.standard_normal(grid.box_shape).astype(np.float32) for _ in range(3)]
    for scan, left in enumerate(model.residuals(x, fields)):
        known = flat[scan].weight > 0
        if filters is not None:
            known &= flat[scan].radius_index > 0
        data = flat[scan].forward(grid.forward(fields[scan]), grid, filters)
        if filters is None:
            data = data - data[known].mean()
        assert left.shape == (np.count_nonzero(known),)
        assert relative(left, (data - model.field(x, scan))[known]) < 1e-5


@pytest.mark.parametrize("components", [6, 1])
def test_the_preconditioner_is_the_inverse_where_everything_is_seen(components: int, running: Execution) -> None:
    shape, prior, noise = (12, 11, 14), Prior(0.05, 0.01), 2e-3
    grid = make_grid(np.ones(shape, bool), (1.0, 1.2, 1.5), directions(4), 0.0)
    seen = [Observation(np.ones(shape, np.float32)) for _ in range(4)]
    model = FieldModel(grid, seen, np.ones(shape, bool), running, components=components)
    x = np.random.default_rng(5).standard_normal((components, *shape)).astype(np.float32)
    x -= x.mean(axis=(1, 2, 3), keepdims=True)
    applied = model.normal(x) + model.penalise(x, noise, prior)
    assert relative(model.precondition(applied, noise, prior), x) < 1e-4


def test_conjugate_gradients_solve_the_regularised_problem(problem: tuple, running: Execution) -> None:
    grid, observations, support, filters = problem
    model = FieldModel(grid, observations, support, running, filters=filters)
    noise, prior = 2e-3, Prior()
    fields = [1e-2 * np.random.default_rng(i).standard_normal(grid.box_shape).astype(np.float32) for i in range(3)]
    right = model.right_hand_side(fields)
    solved = conjugate_gradients(model, right, noise=noise, prior=prior, iterations=60, tolerance=0.0)
    x = solved.maps
    left = right - (model.normal(x) + model.penalise(x, noise, prior)) * support
    assert np.linalg.norm(left) < 1e-3 * np.linalg.norm(right)
    np.testing.assert_array_equal(x[:, ~support], 0)
    again = conjugate_gradients(model, right, noise=noise, prior=prior, iterations=5, tolerance=1e-2, start=x)
    assert again.iterations == 1
    assert again.converged
    assert relative(again.maps, x) < 1e-2


# Against the closed form


def circular(shape: Shape, h: list[NDArray], random_tensor: Tensors, noise: float = 1e-3) -> list[Array]:
    tensor = 0.05 * random_tensor(2, shape, 1.0)
    rng = np.random.default_rng(0)
    fields = [TensorFieldOperator(shape, SIZE, one).forward(tensor) for one in h]
    return [one + noise * rng.standard_normal(shape).astype(np.float32) for one in fields]


@pytest.mark.parametrize("shape", [(16, 18, 20), (15, 17, 13), (16, 15, 12)])
def test_with_full_masks_it_is_the_closed_form(shape: Shape, random_tensor: Tensors) -> None:
    h = directions(6)
    fields = circular(shape, h, random_tensor)
    closed = fit_susceptibility(fields, SIZE, h, noise=1e-3, padding=0)
    masked = fit_masked(fields, [np.ones(shape)] * 6, SIZE, h, noise=1e-3, padding=0, stopping=Stopping(20, 1e-5))
    assert relative(masked.tensor, closed.tensor) < 1e-4
    assert relative(masked.cosmos, closed.cosmos) < 1e-4
    assert masked.record["Iterations"] <= 3
    assert masked.method == "masked"


@pytest.mark.parametrize("aniso", [
    pytest.param(2e-5, id="small"),
    pytest.param(3e-6, id="vanishing"),  # below, float32 carries no smaller ratio of the two widths
])  # fmt: skip
def test_cosmos_is_its_limit_without_anisotropy(aniso: float, random_tensor: Tensors) -> None:
    h, shape = directions(6), (16, 17, 13)
    fields = circular(shape, h, random_tensor)
    masks = [np.random.default_rng(i).random(shape) < 0.9 for i in range(6)]
    fit = fit_masked(fields, masks, SIZE, h, noise=2e-4, prior=Prior(aniso=aniso), stopping=Stopping(30, 1e-4))
    assert np.isfinite(fit.tensor).all()
    assert relative(fit.mms, fit.cosmos) < 5e-3
    assert np.abs(fit.msa).max() < 1e-2 * np.abs(fit.cosmos).max()
    free = fit_masked(fields, masks, SIZE, h, noise=2e-4, stopping=Stopping(5, 0.0))
    assert relative(free.mms, free.cosmos) > 2e-2


# Against the truth


@dataclass(frozen=True)
class Head:
    """A small head: a smooth random tensor (ppm) in an ellipsoid, its fields and masks at several orientations."""

    tensor: Array
    brain: NDArray[np.bool_]
    fields: list[Array]
    masks: list[NDArray[np.bool_]]
    directions: list[NDArray[np.float64]]

    def fit(self, stopping: Stopping | None = None, **options: Any) -> Fit:
        """The masked fit of these fields, or of others given."""
        given = {"fields": self.fields, "weights": self.masks, "support": self.brain, **options}
        return fit_masked(voxel_size=SIZE, b0_directions=self.directions, stopping=stopping, **given)

    @property
    def common(self) -> NDArray[np.bool_]:
        """Where every scan is known."""
        return np.logical_and.reduce(self.masks)

    def error(self, fit: Fit, cosmos: bool = False) -> float:
        """The mean relative error of chi33 (or of COSMOS as chi33) over scans, constants aside."""
        found = []
        for h in self.directions:
            truth = chi33(self.tensor, h)[self.common]
            label = (fit.cosmos if cosmos else chi33(fit.tensor, h))[self.common]
            found.append(relative(label - label.mean(), truth - truth.mean()))
        return float(np.mean(found))


def make_head(noise: float = 1e-3, shape: Shape = (22, 26, 20), scans: int = 9) -> Head:
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / (0.46 * n) for n in shape), indexing="ij")
    brain = sum(axis**2 for axis in axes) < 1
    iso = gaussian_filter(rng.standard_normal(shape), 1.2)
    traceless = gaussian_filter(rng.standard_normal((6, *shape)), (0, 1.2, 1.2, 1.2))
    traceless[[0, 3, 5]] -= traceless[[0, 3, 5]].mean(axis=0)
    tensor = (isotropic(0.05 * iso / iso[brain].std()) + 0.003 * traceless / traceless[:, brain].std()) * brain
    tensor[[0, 3, 5]] -= tensor[[0, 3, 5]].mean(axis=0)[brain].mean() * brain
    h, fields, masks = directions(scans), [], []
    for one in h:
        centre = rng.uniform(-0.12, 0.12, 3)
        mask = brain & (sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)) < 0.85)
        field = tensor_field(tensor.astype(np.float32), SIZE, one) + noise * rng.standard_normal(shape)
        fields.append((field * mask).astype(np.float32))
        masks.append(mask)
    return Head(tensor.astype(np.float32), brain, fields, masks, h)


@pytest.fixture(scope="module")
def head() -> Head:
    return make_head()


@pytest.fixture(scope="module")
def default_fit(head: Head) -> Fit:
    """The fit as a user gets it."""
    return head.fit()


def test_it_beats_the_closed_form_and_cosmos_where_masks_differ(head: Head, default_fit: Fit) -> None:
    closed = fit_susceptibility(head.fields, SIZE, head.directions)
    assert head.error(default_fit) <= 0.75 * head.error(closed)
    assert head.error(default_fit) <= 0.75 * head.error(closed, cosmos=True)
    assert head.error(default_fit) <= head.error(default_fit, cosmos=True)
    assert head.error(default_fit) < 0.12
    np.testing.assert_array_equal(default_fit.tensor[:, ~head.brain], 0)
    np.testing.assert_array_equal(default_fit.cosmos[~head.brain], 0)
    assert default_fit.tensor.dtype == default_fit.cosmos.dtype == np.float32


def test_ten_iterations_are_enough() -> None:
    head = make_head(noise=2e-3, shape=(18, 20, 16), scans=7)
    ten, forty = (head.fit(Stopping(iterations, 0.0), noise=2e-3) for iterations in (10, 40))
    assert head.error(ten) <= 1.02 * head.error(forty)
    assert relative(ten.tensor[:, head.common], forty.tensor[:, head.common]) < 0.12
    assert ten.record["Iterations"] == 10
    assert forty.record["Iterations"] == 40


def voxel_noise(fit: Fit) -> float:
    return fit.noise / float(fit.record["NoiseCorrelation"])


def test_the_noise_is_estimated_from_what_is_left(default_fit: Fit) -> None:
    assert voxel_noise(default_fit) == pytest.approx(1e-3, rel=0.15)
    assert voxel_noise(make_head(noise=3e-3).fit(Stopping(4, 0.0))) == pytest.approx(3e-3, rel=0.15)


def test_of_noise_alone_the_noise_is_found_though_the_fit_takes_part_of_it(head: Head) -> None:
    rng = np.random.default_rng(14)
    fields = [2.5e-3 * rng.standard_normal(mask.shape) * mask for mask in head.masks]
    assert head.fit(Stopping(6, 0.0), fields=fields).noise == pytest.approx(2.5e-3, rel=0.08)


def test_a_fit_uses_up_the_parameters_that_the_noise_leaves_it() -> None:
    free, h = Prior(1e3, 1e3), directions(9, 60.0)
    assert effective_parameters(h, free, 1e-3) == pytest.approx(6, abs=1e-3)
    assert effective_parameters(h[:3], free, 1e-3) == pytest.approx(3, abs=1e-3)
    assert effective_parameters(h, Prior(1e3, 1e-6), 1e-3) == pytest.approx(1, abs=1e-2)
    assert effective_parameters(h, Prior(), 100.0) == pytest.approx(0, abs=1e-3)
    falling = [effective_parameters(h, Prior(), noise) for noise in (1e-4, 1e-3, 1e-2)]
    assert falling == sorted(falling, reverse=True)


def test_a_few_wrong_voxels_hardly_change_the_noise() -> None:
    head = make_head(noise=3e-3)
    fields = [field.copy() for field in head.fields]
    for field, mask in zip(fields, head.masks, strict=True):
        field[tuple(np.argwhere(mask)[::300].T)] += 0.1  # 6.5e-3 ppm root mean square in all
    assert voxel_noise(head.fit(Stopping(4, 0.0), fields=fields)) == pytest.approx(3e-3, rel=0.3)


def test_the_noise_is_that_of_weight_one() -> None:
    head = make_head(noise=3e-3)
    fit = head.fit(Stopping(8, 0.0), weights=[0.5 * mask for mask in head.masks])
    assert voxel_noise(fit) == pytest.approx(1.5e-3, rel=0.15)


# Weights, masks, support


def test_weights_say_how_much_a_voxel_counts(head: Head) -> None:
    rng = np.random.default_rng(8)
    spread = [np.where(rng.random(mask.shape) < 0.3, 40.0, 1.0) for mask in head.masks]
    fields = [f + 1e-3 * s * rng.standard_normal(f.shape) for f, s in zip(head.fields, spread, strict=True)]
    weights = [mask / s for mask, s in zip(head.masks, spread, strict=True)]
    known = head.fit(Stopping(8, 0.0), fields=fields, weights=weights, noise=1.4e-3)
    alike = head.fit(Stopping(8, 0.0), fields=fields, noise=1.4e-3)
    assert head.error(known) < 0.5 * head.error(alike)


def test_weights_and_noise_twice_as_large_say_the_same(head: Head) -> None:
    once = head.fit(Stopping(9, 0.0), noise=3e-3)
    twice = head.fit(Stopping(9, 0.0), noise=6e-3, weights=[2 * mask for mask in head.masks])
    assert relative(twice.tensor, once.tensor) < 3e-2
    assert head.error(twice) == pytest.approx(head.error(once), rel=0.05)


def test_values_outside_the_masks_do_not_count(head: Head) -> None:
    outside = [np.where(mask, field, np.float32(3.0)) for field, mask in zip(head.fields, head.masks, strict=True)]
    there, nothing = (head.fit(Stopping(2, 0.0), fields=fields, noise=1e-3) for fields in (outside, head.fields))
    assert relative(there.tensor, nothing.tensor) < 1e-4
    assert relative(there.cosmos, nothing.cosmos) < 1e-4


def test_where_the_head_lies_in_the_grid_changes_nothing(head: Head) -> None:
    around = ((2, 5), (4, 0), (1, 3))
    moved = {"fields": head.fields, "weights": head.masks, "support": [head.brain]}
    moved = {name: [np.pad(one, around) for one in volumes] for name, volumes in moved.items()}
    moved["support"] = moved["support"][0]
    there, here = head.fit(Stopping(2, 0.0), noise=1e-3, **moved), head.fit(Stopping(2, 0.0), noise=1e-3)
    np.testing.assert_array_equal(there.tensor, np.pad(here.tensor, ((0, 0), *around)))
    np.testing.assert_array_equal(there.cosmos, np.pad(here.cosmos, around))


def test_the_support_is_where_susceptibility_lies(head: Head) -> None:
    known = np.logical_or.reduce(head.masks)
    held = head.fit(Stopping(8, 0.0), noise=1e-3, support=None)
    np.testing.assert_array_equal(held.tensor[:, ~known], 0)
    assert np.count_nonzero(held.cosmos) == np.count_nonzero(known)
    wide = head.fit(Stopping(8, 0.0), noise=1e-3)
    np.testing.assert_array_equal(wide.tensor[:, ~head.brain], 0)
    assert np.abs(wide.tensor[:, head.brain & ~known]).max() > 1e-2
    # Part of the brain lies outside all masks: with it in the support, the label is better.
    assert head.error(wide) < 0.95 * head.error(held)


def test_zero_fields_give_zero_maps(head: Head) -> None:
    fit = head.fit(fields=[np.zeros_like(field) for field in head.fields])
    np.testing.assert_array_equal(fit.tensor, 0)
    np.testing.assert_array_equal(fit.cosmos, 0)
    assert fit.record["Iterations"] == fit.record["IterationsCosmos"] == 0


# Stopping


def test_it_stops_when_the_label_changes_by_less_than_the_tolerance(head: Head) -> None:
    changes: dict[str, list[float]] = {"tensor": [], "COSMOS": []}

    def note(name: str, iteration: int, change: float) -> None:
        changes[name].append(change)
        assert iteration == len(changes[name])

    fit = head.fit(Stopping(40, 0.03), noise=1e-3, progress=note)
    for name, key in (("tensor", "Iterations"), ("COSMOS", "IterationsCosmos")):
        assert len(changes[name]) == fit.record[key] > 1
        assert changes[name][-1] < 0.03
        assert min(changes[name][:-1]) >= 0.03
    assert fit.record["LastRelativeChange"] == changes["tensor"][-1]
    assert fit.record["RelativeChanges"] == pytest.approx(changes["tensor"], rel=5e-3)
    assert fit.record["RelativeChangesCosmos"] == pytest.approx(changes["COSMOS"], rel=5e-3)
    assert fit.record["StoppedBy"] == "tolerance"
    assert (fit.record["IterationLimit"], fit.record["StoppingTolerance"]) == (40, 0.03)
    assert fit.record["PaddingMm"] == 32.0


def test_it_stops_at_the_iteration_limit(head: Head) -> None:
    fit = head.fit(Stopping(3, 0.0), noise=1e-3)
    assert fit.record["Iterations"] == fit.record["IterationsCosmos"] == fit.record["IterationLimit"] == 3
    assert fit.record["StoppedBy"] == "iteration limit"
    assert fit.record["LastRelativeChange"] > 0


def test_the_iteration_limit_holds_where_the_noise_is_estimated_too(head: Head) -> None:
    fit = head.fit(Stopping(3, 0.0))
    assert fit.record["Iterations"] <= fit.record["IterationLimit"]


# What is refused

RING = [np.array([0.5 * np.cos(a), 0.5 * np.sin(a), np.sqrt(0.75)]) for a in np.arange(7)]
ONE_AXIS = [np.array([np.sin(a), 0, np.cos(a)]) for a in np.radians(np.arange(-40, 41, 10))]


@pytest.mark.parametrize(("h", "shape"), [(RING, "the ring"), (ONE_AXIS, "one axis")])
def test_singular_sets_need_a_prior_on_anisotropy(h: list[NDArray], shape: str, random_tensor: Tensors) -> None:
    fields = circular((10, 12, 11), h, random_tensor)
    masks = [np.ones((10, 12, 11))] * len(h)
    with pytest.raises(
        InputError, match=r"leave the tensor singular .*, or fit with a prior on the tensor's anisotropy"
    ):
        fit_masked(fields, masks, SIZE, h, prior=Prior(aniso=np.inf))
    fit = fit_masked(fields, masks, SIZE, h, noise=1e-3, stopping=Stopping(5, 0.0))
    assert any("the prior supplies the rest" in message for message in fit.orientations.messages)
    assert np.isfinite(fit.tensor).all()


def test_without_priors_it_is_the_closed_form_without_priors(random_tensor: Tensors) -> None:
    h, shape, prior = directions(8, 60.0), (12, 11, 13), Prior(np.inf, np.inf)
    fields = circular(shape, h, random_tensor)
    closed = fit_susceptibility(fields, SIZE, h, prior=prior, noise=1e-3, padding=0)
    fit = fit_masked(
        fields, [np.ones(shape)] * 8, SIZE, h, prior=prior, noise=1e-3, padding=0, stopping=Stopping(9, 1e-5)
    )
    assert relative(fit.tensor, closed.tensor) < 1e-3
    assert relative(fit.cosmos, closed.cosmos) < 1e-3


FIELDS = [np.zeros((8, 9, 7), np.float32) for _ in range(3)]
ONES = [np.ones((8, 9, 7), np.float32) for _ in range(3)]
CORNER, REST = np.zeros((8, 9, 7)), np.ones((8, 9, 7))
CORNER[:2, :2, :2] = 1
REST[:2, :2, :2] = 0
H = directions(3)
NAMES = ("ori01", "ori02", "ori03")


@pytest.mark.parametrize(("call", "message"), [
    (lambda: fit_masked(FIELDS[:2], ONES, SIZE, H), "2 fields but 3 B0 directions were given"),
    (lambda: fit_masked(FIELDS, ONES[:2], SIZE, H), "3 fields but 2 weights were given: give one of each a scan"),
    (lambda: fit_masked([*FIELDS[:2], FIELDS[2] * np.nan], ONES, SIZE, H), r"fields\[2\] holds NaN or infinity"),
    (lambda: fit_masked(FIELDS, [*ONES[:2], ONES[2][:4]], SIZE, H),
     r"weights\[2\] has weights of shape \(4, 9, 7\), but the fields have \(8, 9, 7\)"),
    (lambda: fit_masked(FIELDS, [*ONES[:2], -ONES[2]], SIZE, H), r"weights\[2\] has weights that are negative or not"),
    (lambda: fit_masked(FIELDS, [*ONES[:2], np.nan * ONES[2]], SIZE, H, names=NAMES),
     "ori03 has weights that are negative or not finite: weights are 0 or larger"),
    (lambda: fit_masked(FIELDS, [ONES[0], 0 * ONES[1], ONES[2]], SIZE, H, names=NAMES),
     "ori02 has weights that are all zero: give its mask, or leave the scan out"),
    (lambda: fit_masked(FIELDS, [REST, CORNER, REST], SIZE, H, names=NAMES),
     "the mask of ori02 touches no other scan's mask: check its transform and mask"),
    (lambda: fit_masked(FIELDS, [REST, REST, CORNER], SIZE, H), r"the mask of weights\[2\] touches no other"),
    (lambda: fit_masked(FIELDS, ONES, SIZE, H, support=np.ones((8, 9, 6))),
     r"support has shape \(8, 9, 6\), but the fields have \(8, 9, 7\)"),
    (lambda: fit_masked(FIELDS, [REST] * 3, SIZE, H, support=CORNER), "support and the scans' masks share no voxel"),
    (lambda: fit_masked(FIELDS, ONES, SIZE, [(0, 0, 1), (0, 1, 1), (1, 0, 0)]), r"b0_directions\[1\] must be a unit"),
    (lambda: fit_masked(FIELDS[:1], ONES[:1], SIZE, H[:1]), "only one orientation was given"),
    (lambda: fit_masked(FIELDS, ONES, SIZE, directions(3, 2.0)), "All B0 directions lie within"),
    (lambda: fit_masked(FIELDS, ONES, (1, 1, -1), H), "voxel_size must be three positive"),
    (lambda: fit_masked(FIELDS, ONES, SIZE, H, padding=-2), "padding must be at least 0 mm, got -2"),
    (lambda: fit_masked(FIELDS, ONES, SIZE, H, noise=0.0), "noise must be a positive .* got 0.0"),
    (lambda: fit_masked(FIELDS, ONES, SIZE, H, noise=np.nan), "noise must be a positive .* got nan"),
    (lambda: fit_masked(FIELDS, ONES, SIZE, H, noise=-1e-3), "noise must be a positive .* got -0.001"),
    (lambda: fit_masked(FIELDS, ONES, SIZE, H, prior=Prior(aniso=np.inf)), "3 scans cannot determine the six tensor"),
    (lambda: Stopping(iterations=0), "iterations must be at least 1, got 0"),
    (lambda: Stopping(tolerance=-0.1), "tolerance must not be negative, got -0.1"),
    (lambda: Stopping(tolerance=float("nan")), "tolerance must not be negative, got nan"),
])  # fmt: skip
def test_what_cannot_be_fitted_is_refused_in_a_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
