"""The fits in torch give what the compiled kernels give, and refuse a device that is not there."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from chi33.files.errors import InputError
from chi33.pipeline.fits.closed_form import Fit, fit_susceptibility
from chi33.pipeline.fits.execution import Execution
from chi33.pipeline.fits.masked import Problem, Stopping, fit_masked, masked_problem, solve_problem
from chi33.pipeline.fits.model import torch_closed_form, torch_model
from chi33.pipeline.fits.model.field_model import FieldModel
from chi33.pipeline.fits.model.torch_model import TorchFieldModel
from chi33.pipeline.fits.single_step import fit_single_step, single_step_problem
from chi33.pipeline.fits.tissue.prior import FrequencyPrior, TissuePrior
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensor_field import TensorFieldOperator
from fit_checks import relative
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

AGREEMENT = 3e-4  # rounding moves medians of residuals, and with them the weights of voxels
NOISE = 1e-3  # ppm
GRIDS = [  # shape, voxel size (mm), padding (mm)
    pytest.param((18, 20, 16), (1.0, 1.0, 1.0), 0.0, id="even-circular"),
    pytest.param((17, 15, 19), (1.0, 1.0, 1.0), 0.0, id="odd-circular"),
    pytest.param((16, 19, 14), (1.0, 0.8, 1.7), 6.0, id="anisotropic-padded"),
]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
Scans = tuple[list[NDArray[np.float32]], list[NDArray[np.float32]], list[NDArray[np.float64]]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Torch's threads wait for one another; on arrays this small, beside other work, they only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scans(shape: tuple[int, int, int], size: tuple[float, float, float], count: int = 7) -> Scans:
    """Noisy fields of a smooth random tensor, weights that differ between scans, and tilts up to 40 degrees."""
    rng = np.random.default_rng(sum(shape))
    tilts, azimuth = np.radians(40) * np.sqrt(np.arange(count) / (count - 1)), np.pi * (1 + 5**0.5) * np.arange(count)
    h = list(np.stack([np.sin(tilts) * np.cos(azimuth), np.sin(tilts) * np.sin(azimuth), np.cos(tilts)], axis=1))
    inside = np.zeros(shape, np.float32)
    inside[2:-2, 2:-3, 2:-2] = 1
    chi = gaussian_filter(rng.standard_normal((6, *shape)), (0, 1.2, 1.2, 1.2))
    chi = (chi * np.array([0.3, 0.05, 0.05, 0.3, 0.05, 0.3])[:, None, None, None] * inside).astype(np.float32)
    fields, weights = [], []
    for number, one in enumerate(h):
        noise = NOISE * rng.standard_normal(shape)
        fields.append((TensorFieldOperator(shape, size, one).forward(chi) + noise).astype(np.float32) * inside)
        weights.append((inside * rng.uniform(0.5, 1, shape)).astype(np.float32))
        weights[-1][: 2 + number % 3] = 0
    return fields, weights, h


def problem_of(kind: str, shape: tuple[int, int, int] = (15, 18, 14)) -> Problem:
    size = (1.0, 1.0, 1.3)
    fields, weights, h = scans(shape, size, 6)
    if kind == "masked":
        return masked_problem(fields, weights, size, h, padding=5)
    return single_step_problem(fields, weights, size, h, radii=(4.0, 3.0), padding=5)


def check_equal(found: Fit, truth: Fit) -> None:
    assert relative(found.tensor, truth.tensor) < AGREEMENT
    assert relative(found.cosmos, truth.cosmos) < AGREEMENT
    assert found.noise == pytest.approx(truth.noise, rel=AGREEMENT)
    assert found.method == truth.method
    assert found.record.get("Iterations") == truth.record.get("Iterations")


def models(problem: Problem, components: int, chosen: list[int] | None = None) -> tuple[FieldModel, TorchFieldModel]:
    arguments = {"components": components, "filters": problem.filters, "scans": chosen, "tissue": problem.tissue}
    parts = (problem.grid, problem.observations, problem.support)
    return FieldModel(*parts, Execution(workers=1), **arguments), TorchFieldModel(*parts, "torch-cpu", **arguments)


@pytest.fixture
def maps() -> Callable[[Problem, int], NDArray[np.float32]]:
    """A function from a problem and a number of components to random maps within the support."""

    def make(problem: Problem, components: int) -> NDArray[np.float32]:
        rng = np.random.default_rng(components)
        return rng.standard_normal((components, *problem.grid.box_shape)).astype(np.float32) * problem.support

    return make


@pytest.mark.parametrize(("shape", "size", "padding"), GRIDS)
def test_closed_form_equals_the_compiled_one(shape: tuple, size: tuple, padding: float) -> None:
    fields, _, h = scans(shape, size)
    noise = NOISE if padding == 0 else None  # estimating it takes a second
    truth = fit_susceptibility(fields, size, h, noise=noise, padding=padding)
    check_equal(fit_susceptibility(fields, size, h, noise=noise, padding=padding, device="torch-cpu"), truth)


@pytest.mark.parametrize("noise", [None, 4 * NOISE])
@pytest.mark.parametrize(("shape", "size", "padding"), GRIDS)
def test_masked_fit_equals_the_compiled_one(shape: tuple, size: tuple, padding: float, noise: float | None) -> None:
    fields, weights, h = scans(shape, size)
    truth = fit_masked(fields, weights, size, h, noise=noise, padding=padding)
    check_equal(fit_masked(fields, weights, size, h, noise=noise, padding=padding, device="torch-cpu"), truth)


@pytest.mark.parametrize(("shape", "size", "padding"), GRIDS)
def test_single_step_fit_equals_the_compiled_one(shape: tuple, size: tuple, padding: float) -> None:
    fields, weights, h = scans(shape, size)
    arguments = {"radii": (4.0, 3.0), "padding": padding}
    truth = fit_single_step(fields, weights, size, h, **arguments)
    check_equal(fit_single_step(fields, weights, size, h, **arguments, device="torch-cpu"), truth)


def test_without_a_prior_and_with_one_scalar_map_the_origin_stays_finite() -> None:
    fields, _, h = scans((17, 15, 19), (1.0, 1.0, 1.0))
    prior = Prior(iso=np.inf, aniso=np.inf)
    fit = fit_susceptibility(fields, (1, 1, 1), h, prior=prior, noise=NOISE, padding=0, device="torch-cpu")
    assert np.isfinite(fit.tensor).all()
    assert abs(fit.cosmos.mean()) < 1e-6


def tissue_of(problem: Problem) -> TissuePrior:
    """A prior with all its parts: two tissues, a correlation, fibres in one half."""
    shape, fibre = problem.grid.box_shape, np.zeros((3, *problem.grid.box_shape), np.float32)
    fibre[:, : shape[0] // 2] = np.array([0.6, 0, 0.8])[:, None, None, None]
    spread = np.random.default_rng(3).uniform(0.5, 1, shape).astype(np.float32)
    return TissuePrior(spread, 2.0, fibre, across=0.4)


def shared_of(problem: Problem) -> TissuePrior:
    """The same, and the prior of a frequency that all scans share."""
    tissue = tissue_of(problem)
    return replace(tissue, frequency=FrequencyPrior(0.004 * tissue.spread, 2.0))


@pytest.mark.parametrize("kind", ["masked", "single-step"])
@pytest.mark.parametrize(
    ("components", "tissue"), [(6, None), (1, None), (6, tissue_of), (6, shared_of), (1, shared_of)]
)
def test_every_operation_equals_the_compiled_one(
    kind: str, components: int, tissue: Callable | None, maps: Callable
) -> None:
    problem, prior = problem_of(kind), Prior()
    problem = replace(problem, tissue=tissue(problem) if tissue else None)
    x = maps(problem, components + (tissue is shared_of))
    for chosen in (None, [4, 0, 3]):
        truth, found = models(problem, components, chosen)
        for one, other in (
            (found.right_hand_side(problem.fields), truth.right_hand_side(problem.fields)),
            (found.normal(x), truth.normal(x)),
            (found.precondition(x, NOISE, prior), truth.precondition(x, NOISE, prior)),
            (found.precondition(x, 5 * NOISE, prior), truth.precondition(x, 5 * NOISE, prior)),
            (found.penalise(x, NOISE, prior), truth.penalise(x, NOISE, prior)),
            (found.field(x, 3), truth.field(x, 3)),
        ):
            assert relative(other, one.numpy()) < 5e-5
        assert found.label_size(x) == pytest.approx(truth.label_size(x), rel=1e-5)
        assert found.inner(found.own(x), found.own(x)) == pytest.approx(truth.inner(x, x), rel=1e-5)
        residuals = found.residuals(x, problem.fields)
        assert len(residuals) == len(truth.scans)
        for one, other in zip(residuals, truth.residuals(x, problem.fields), strict=True):
            assert relative(one, other) < 2e-5


@pytest.mark.parametrize("kind", ["masked", "single-step"])
@pytest.mark.parametrize("components", [6, 1])
@pytest.mark.parametrize("shared", [False, True])
def test_the_field_and_its_adjoint_are_adjoint(kind: str, components: int, shared: bool, maps: Callable) -> None:
    problem = problem_of(kind)
    problem = replace(problem, tissue=shared_of(problem)) if shared else problem
    _, model = models(problem, components)
    x, y = maps(problem, components + shared), np.random.default_rng(0).standard_normal(problem.grid.box_shape)
    for scan in (0, 3):
        seen = model.field(x, scan).numpy().astype(np.float64)
        back = model.field_adjoint(y, scan).numpy().astype(np.float64)
        assert abs(np.vdot(seen, y) - np.vdot(x, back)) < 1e-5 * np.linalg.norm(seen) * np.linalg.norm(y)


def test_results_depend_on_neither_slabs_nor_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of("single-step")
    fields, _, h = scans((17, 15, 19), (1.0, 1.0, 1.0))
    stopping = Stopping(4, 0.0)
    problem = replace(problem, device="torch-cpu")
    with Execution(workers=1) as running:
        whole = solve_problem(problem, Prior(), NOISE, stopping, running)
    closed = fit_susceptibility(fields, (1, 1, 1), h, noise=NOISE, device="torch-cpu")
    monkeypatch.setattr(torch_closed_form, "_SLAB_POINTS", 900)
    with torch.autocast("cpu", dtype=torch.bfloat16), Execution(workers=1) as running:
        parts = solve_problem(problem, Prior(), NOISE, stopping, running)
        closed_parts = fit_susceptibility(fields, (1, 1, 1), h, noise=NOISE, device="torch-cpu")
    np.testing.assert_allclose(parts.tensor.maps, whole.tensor.maps, atol=1e-7)
    np.testing.assert_allclose(parts.cosmos.maps, whole.cosmos.maps, atol=1e-7)
    np.testing.assert_allclose(closed_parts.tensor, closed.tensor, atol=1e-7)


def test_solving_on_torch_gives_numpy_maps_and_reports_progress() -> None:
    problem, stopping = problem_of("masked"), Stopping(5, 0.0)
    seen: list[tuple[str, int]] = []
    moved = replace(problem, device="torch-cpu")
    with Execution(workers=1) as running:
        found = solve_problem(
            moved, Prior(), None, stopping, running, lambda name, iteration, change: seen.append((name, iteration))
        )
        truth = solve_problem(problem, Prior(), None, stopping, running)
    assert isinstance(found.tensor.maps, np.ndarray)
    assert relative(found.tensor.maps, truth.tensor.maps) < AGREEMENT
    assert found.tensor.iterations == truth.tensor.iterations
    assert seen[-1] == ("COSMOS", 5)
    assert ("tensor", 1) in seen


def test_read_only_and_flipped_arrays_are_taken() -> None:
    shape, size = (15, 18, 14), (1.0, 1.0, 1.3)
    fields, weights, h = scans(shape, size, 4)
    flipped = [np.ascontiguousarray(one[::-1])[::-1] for one in fields]
    for one in flipped:
        one.flags.writeable = False
    found = fit_masked(flipped, weights, size, h, noise=NOISE, stopping=Stopping(2), device="torch-cpu")
    same = fit_masked(fields, weights, size, h, noise=NOISE, stopping=Stopping(2), device="torch-cpu")
    np.testing.assert_array_equal(found.tensor, same.tensor)


@pytest.mark.parametrize("fit", [fit_susceptibility, fit_masked, fit_single_step])
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "device 'cuda' was asked for, but torch finds 0 CUDA GPUs here: use 'cpu'"),
        ("cuda:1", "device 'cuda:1' was asked for, but torch finds 0 CUDA GPUs"),
        ("gpu", "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
        ("cuda:x", "device must be 'cpu', 'cuda' or 'cuda:N', got 'cuda:x'"),
    ],
)
def test_an_absent_device_is_refused(fit: Callable, device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fields, weights, h = scans((12, 12, 12), (1.0, 1.0, 1.0), 4)
    arguments = (fields, (1, 1, 1), h) if fit is fit_susceptibility else (fields, weights, (1, 1, 1), h)
    with pytest.raises(InputError, match=message):
        fit(*arguments, device=device)


def test_a_gpu_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_closed_form.torch_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="torch finds 2 CUDA GPUs"):
        torch_closed_form.torch_device("cuda:2")


def test_the_fits_do_not_load_torch_before_it_is_asked_for() -> None:
    code = "import sys, chi33.pipeline.fits.single_step; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@CUDA
@pytest.mark.parametrize(("shape", "size", "padding"), GRIDS)
def test_a_gpu_gives_the_same(shape: tuple, size: tuple, padding: float) -> None:
    fields, weights, h = scans(shape, size)
    check_equal(
        fit_susceptibility(fields, size, h, padding=padding, device="cuda"),
        fit_susceptibility(fields, size, h, padding=padding),
    )
    check_equal(
        fit_masked(fields, weights, size, h, padding=padding, device="cuda:0"),
        fit_masked(fields, weights, size, h, padding=padding),
    )
    check_equal(
        fit_single_step(fields, weights, size, h, radii=(4.0, 3.0), padding=padding, device="cuda"),
        fit_single_step(fields, weights, size, h, radii=(4.0, 3.0), padding=padding),
    )


@pytest.mark.parametrize("kind", ["masked", "single-step"])
@pytest.mark.parametrize("components", [6, 1])
def test_nothing_is_left_in_main_memory(kind: str, components: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes and devices alone, on torch's "meta" device: an operation that mixes devices raises there as on a GPU."""
    problem, prior, meta = problem_of(kind), Prior(), torch.device("meta")
    with pytest.raises(RuntimeError):
        torch.zeros(2, device=meta) + torch.zeros(2)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch_model, "torch_device", lambda _: meta)
    power = None if problem.filters is None else torch.ones(problem.grid.half, device=meta)
    monkeypatch.setattr(TorchFieldModel, "_filter_power", lambda *_: power)
    _, model = models(problem, components)
    x = torch.zeros((components, *problem.grid.box_shape), device=meta)
    found = [model.right_hand_side(problem.fields), model.normal(x), model.precondition(x, NOISE, prior), model.own(x),
             model.penalise(x, NOISE, prior), model.field_adjoint(model.field(x, 1), 1)]  # fmt: skip
    assert {(one.device, one.dtype, one.shape) for one in found} == {(meta, torch.float32, x.shape)}
    place = torch_closed_form.TorchGrid(problem.grid, meta)
    spectra = torch.zeros((6, *problem.grid.half), dtype=torch.complex64, device=meta)
    solved = torch_closed_form._solve_slab(spectra, place, place.slabs()[0], prior.precision(), 1.0)
    assert solved.device == meta
