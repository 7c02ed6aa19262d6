"""One door to all fits: it gives what each fit gives, passes every option on, and refuses what cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.fits.closed_form import fit_susceptibility
from chi33.pipeline.fits.execution import Execution
from chi33.pipeline.fits.masked import MASKED_ITERATIONS, TOLERANCE, Stopping, fit_masked
from chi33.pipeline.fits.methods import METHODS, FitOptions, fit_fields
from chi33.pipeline.fits.result import Fit
from chi33.pipeline.fits.single_step import SINGLE_STEP_ITERATIONS, SINGLE_STEP_TOLERANCE, fit_single_step
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensor_field import tensor_field
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SHAPE, SIZE = (20, 21, 18), (2.0, 2.0, 2.5)
RADII = (7.0, 5.0)
PRIOR = Prior(0.05, 0.01)


@dataclass(frozen=True)
class Scans:
    """Noisy fields (ppm) of a smooth tensor in an ellipsoid, weights that differ between the scans, directions."""

    brain: NDArray[np.bool_]
    fields: list[NDArray[np.float32]]
    weights: list[NDArray[np.float32]]
    directions: list[NDArray[np.float64]]

    def fit(self, options: FitOptions | None = None, **more: Any) -> Fit:
        """The fit alone of these fields, through the door."""
        return fit_fields(self.fields, self.weights, SIZE, self.directions, options, **more)[0]


@pytest.fixture(scope="module")
def scans() -> Scans:
    rng = np.random.default_rng(3)
    tilts, azimuth = np.radians(38) * np.sqrt(np.arange(6) / 5), np.pi * (1 + 5**0.5) * np.arange(6)
    h = np.stack([np.sin(tilts) * np.cos(azimuth), np.sin(tilts) * np.sin(azimuth), np.cos(tilts)], axis=1)
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / (0.44 * n) for n in SHAPE), indexing="ij")
    brain = sum(axis**2 for axis in axes) < 1
    chi = gaussian_filter(rng.standard_normal((6, *SHAPE)), (0, 1.2, 1.2, 1.2))
    tensor = chi * np.array([0.3, 0.04, 0.04, 0.3, 0.04, 0.3])[:, None, None, None] * brain
    fields, weights = [], []
    for number, one in enumerate(h):
        field = tensor_field(tensor, SIZE, one) + 1e-3 * rng.standard_normal(SHAPE)
        weight = brain * rng.uniform(0.5, 1, SHAPE)
        weight[: 3 + number % 3] = 0  # a mask of its own
        fields.append(np.asarray(field, np.float32))
        weights.append(np.asarray(weight, np.float32))
    return Scans(brain, fields, weights, list(h))


def assert_same(found: Fit, direct: Fit) -> None:
    np.testing.assert_array_equal(found.tensor, direct.tensor)
    np.testing.assert_array_equal(found.cosmos, direct.cosmos)
    assert (found.method, found.noise, found.prior, found.record) == (
        direct.method, direct.noise, direct.prior, direct.record,
    )  # fmt: skip
    assert found.orientations == direct.orientations


def direct_fit(scans: Scans, method: str, **options: Any) -> Fit:
    if method == "closed":
        cut = [np.where(weight > 0, field, 0) for field, weight in zip(scans.fields, scans.weights, strict=True)]
        return fit_susceptibility(cut, SIZE, scans.directions, **options)
    if method == "masked":
        return fit_masked(scans.fields, scans.weights, SIZE, scans.directions, **options)
    return fit_single_step(scans.fields, scans.weights, SIZE, scans.directions, **options)


@pytest.mark.parametrize("method", METHODS)
def test_the_door_gives_what_the_fit_gives_by_default(scans: Scans, method: Any) -> None:
    found, uncertainty = fit_fields(
        scans.fields, scans.weights, SIZE, scans.directions, FitOptions(method, radii=RADII)
    )
    assert uncertainty is None
    assert found.method == method
    assert_same(found, direct_fit(scans, method, **({"radii": RADII} if method == "single-step" else {})))


@pytest.mark.parametrize("method", METHODS)
def test_every_option_arrives(scans: Scans, method: Any) -> None:
    options = FitOptions(
        method, prior=PRIOR, noise=2e-3, iterations=3, tolerance=1e-5, radii=(8.0, 6.0), padding=9.0
    )  # fmt: skip
    direct: dict[str, Any] = {"prior": PRIOR, "noise": 2e-3, "padding": 9.0}
    if method != "closed":
        direct["stopping"] = Stopping(3, 1e-5)
    if method == "single-step":
        direct["radii"] = (8.0, 6.0)
    found = scans.fit(options)
    assert_same(found, direct_fit(scans, method, **direct))
    default = scans.fit(FitOptions(method, noise=2e-3, iterations=3, radii=(8.0, 6.0)))
    assert np.abs(found.tensor - default.tensor).max() > 1e-4
    record = {"PaddingMm": 9.0}
    if method != "closed":
        record |= {"Iterations": 3, "IterationsCosmos": 3, "IterationLimit": 3, "StoppingTolerance": 1e-5}
    if method == "single-step":
        record |= {"RadiiMm": [8.0, 6.0]}
    assert found.record.items() >= record.items()


def test_the_masked_fit_is_the_default(scans: Scans) -> None:
    assert FitOptions() == FitOptions("masked")
    assert_same(scans.fit(), scans.fit(FitOptions("masked")))


def test_each_method_stops_by_its_own_rule_unless_told() -> None:
    assert FitOptions("masked").stopping() == Stopping(MASKED_ITERATIONS, TOLERANCE)
    assert FitOptions("single-step").stopping() == Stopping(SINGLE_STEP_ITERATIONS, SINGLE_STEP_TOLERANCE)
    assert FitOptions("single-step", iterations=3).stopping() == Stopping(3, SINGLE_STEP_TOLERANCE)
    assert FitOptions("masked", tolerance=0.0).stopping() == Stopping(MASKED_ITERATIONS, 0.0)


@pytest.mark.parametrize("method", ["masked", "single-step"])
def test_the_iteration_says_why_it_stopped(scans: Scans, method: Any) -> None:
    soon = scans.fit(FitOptions(method, noise=1e-3, iterations=2, tolerance=1e-9, radii=RADII)).record
    assert (soon["Iterations"], soon["StoppedBy"]) == (2, "iteration limit")
    assert soon["LastRelativeChange"] > 1e-9
    late = scans.fit(FitOptions(method, noise=1e-3, iterations=20, tolerance=0.2, radii=RADII)).record
    assert late["StoppedBy"] == "tolerance"
    assert late["Iterations"] < 20
    assert late["LastRelativeChange"] < 0.2


def test_the_closed_form_sees_of_the_weights_only_where_they_are_0(scans: Scans) -> None:
    options = FitOptions("closed", noise=1e-3)
    flat = [np.where(weight > 0, np.float32(1), np.float32(0)) for weight in scans.weights]
    np.testing.assert_array_equal(
        scans.fit(options).tensor, fit_fields(scans.fields, flat, SIZE, scans.directions, options)[0].tensor
    )
    spoilt = [np.where(weight > 0, field, np.float32(7)) for field, weight in zip(scans.fields, flat, strict=True)]
    again, _ = fit_fields(spoilt, flat, SIZE, scans.directions, options)
    np.testing.assert_array_equal(again.tensor, scans.fit(options).tensor)


@pytest.mark.parametrize("method", ["masked", "single-step"])
def test_a_support_lets_chi_be_where_no_scan_has_weight(scans: Scans, method: Any) -> None:
    options = FitOptions(method, noise=1e-3, iterations=2, radii=RADII)
    unknown = scans.brain & ~np.logical_or.reduce([weight > 0 for weight in scans.weights])
    assert unknown.any()
    assert not scans.fit(options).tensor[:, unknown].any()
    assert scans.fit(options, support=scans.brain).tensor[:, unknown].all()


def test_progress_names_what_is_solved(scans: Scans) -> None:
    lines: list[str] = []
    scans.fit(FitOptions("masked", noise=1e-3, iterations=2, tolerance=0.0), progress=lines.append)
    assert [line.partition(",")[0] for line in lines] == [
        "tensor: iteration 1", "tensor: iteration 2", "COSMOS: iteration 1", "COSMOS: iteration 2",
    ]  # fmt: skip
    assert all(line.endswith("%") for line in lines)


@pytest.mark.parametrize("method", METHODS)
def test_where_it_runs_changes_nothing(scans: Scans, method: Any) -> None:
    options = FitOptions(method, noise=1e-3, iterations=2, radii=RADII, draws=2)
    fit, uncertainty = fit_fields(scans.fields, scans.weights, SIZE, scans.directions, options)
    with Execution(workers=3, memory=1e-6) as execution:
        other, same = fit_fields(scans.fields, scans.weights, SIZE, scans.directions, options, execution=execution)
    assert_same(other, fit)
    assert uncertainty is not None
    assert same is not None
    for one, again in zip([*uncertainty.chi33, *uncertainty.delta_b], [*same.chi33, *same.delta_b], strict=True):
        np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize("method", METHODS)
def test_a_scan_is_called_by_its_name(scans: Scans, method: Any) -> None:
    names = [f"acq-ori{i:02d}" for i in range(6)]
    empty = [*scans.weights[:4], np.zeros(SHAPE, np.float32), scans.weights[5]]
    with pytest.raises(InputError, match="acq-ori04 has weights that are all zero: give its mask, or leave the scan"):
        fit_fields(scans.fields, empty, SIZE, scans.directions, FitOptions(method), names=names)


@pytest.mark.parametrize("method", METHODS)
def test_a_device_that_is_not_there_is_refused(scans: Scans, method: Any) -> None:
    with pytest.raises(InputError, match="device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"):
        scans.fit(FitOptions(method, radii=RADII), device="gpu")


@pytest.mark.parametrize("method", METHODS)
def test_fields_weights_and_directions_must_be_one_a_scan(scans: Scans, method: Any) -> None:
    options = FitOptions(method, radii=RADII)
    with pytest.raises(InputError, match="6 fields but 5 weights were given: give one of each a scan"):
        fit_fields(scans.fields, scans.weights[:5], SIZE, scans.directions, options)
    with pytest.raises(InputError, match="6 fields but 4 B0 directions were given: give one of each a scan"):
        fit_fields(scans.fields, scans.weights, SIZE, scans.directions[:4], options)


@pytest.mark.parametrize(("options", "message"), [
    ({"method": "tikhonov"}, "fit must be one of closed, masked, single-step, got 'tikhonov'"),
    ({"iterations": 0}, "iterations must be at least 1, got 0"),
    ({"tolerance": -0.1}, "tolerance must not be negative, got -0.1"),
    ({"tolerance": float("nan")}, "tolerance must not be negative, got nan"),
    ({"seed": -1}, "seed must not be negative, got -1"),
])  # fmt: skip
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FitOptions(**options)
