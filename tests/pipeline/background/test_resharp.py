"""RESHARP: its operator, its regularisation, what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from background_scene import exterior_dipoles, positions, scene
from chi33.files.errors import InputError
from chi33.pipeline.background import resharp, resharp_radius
from chi33.pipeline.background.resharp import SphereHighPass
from chi33.pipeline.images.morphology import depth_inside
from chi33.pipeline.physics.conjugate_gradients import conjugate_gradients

HEAD = scene()
ARGS = (HEAD.total, HEAD.mask, HEAD.size)


@pytest.mark.parametrize(
    ("shape", "size", "radius"), [((14, 12, 13), (1, 1, 1), 3.0), ((12, 11, 9), (0.9, 1.2, 2.5), 5.0)]
)
def test_the_operator_and_its_adjoint_agree(
    check_operator: Callable[..., None], shape: tuple, size: tuple, radius: float
) -> None:
    valid = np.random.default_rng(0).uniform(size=shape) > 0.4
    check_operator(SphereHighPass(valid, size, radius), shape, shape)


def test_a_field_without_sources_does_not_pass_the_operator() -> None:
    valid = depth_inside(HEAD.mask, HEAD.size) > 6
    field = exterior_dipoles(positions(HEAD.mask.shape, HEAD.size), np.array([0.0, 0.6, 0.8]))
    passed = SphereHighPass(valid, HEAD.size, 6.0).forward(field)[valid]
    assert passed.std() < 0.01 * field[valid].std()


def test_the_mask_shrinks_by_the_radius() -> None:
    for radius in (4.0, 7.0):
        found = resharp(*ARGS, radius=radius, iterations=2).mask
        np.testing.assert_array_equal(found, depth_inside(HEAD.mask, HEAD.size) > radius)
    assert resharp_radius((1, 1, 1)) == 4.0
    assert resharp_radius((1, 1, 3.0)) == 6.0


def test_more_regularisation_leaves_a_smaller_field_that_explains_less() -> None:
    valid = depth_inside(HEAD.mask, HEAD.size) > 4
    high_pass = SphereHighPass(valid, HEAD.size, 4.0)
    norms, misfits = [], []
    for weight in (1e-4, 1e-2, 1.0):
        found = resharp(*ARGS, regularisation=weight)
        norms.append(np.linalg.norm(found.field))
        misfits.append(np.linalg.norm(high_pass.forward(HEAD.total - found.field)[depth_inside(valid, HEAD.size) > 4]))
    assert norms == sorted(norms, reverse=True)
    assert misfits == sorted(misfits)


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("started", [False, True])
def test_conjugate_gradients_solve_what_a_direct_solver_solves(preconditioned: bool, started: bool) -> None:
    rng = np.random.default_rng(0)
    root = rng.standard_normal((30, 30))
    matrix, right = root @ root.T + np.diag(rng.uniform(1, 100, 30)), rng.standard_normal(30)
    seen: list[float] = []
    found = conjugate_gradients(
        lambda x: matrix @ x, right, iterations=60, tolerance=1e-9,
        start=rng.standard_normal(30) if started else None,
        precondition=(lambda x: x / np.diag(matrix)) if preconditioned else None,
        progress=lambda i, r: seen.append(r),
    )  # fmt: skip
    np.testing.assert_allclose(found.volume, np.linalg.solve(matrix, right), atol=1e-7)
    assert len(seen) == found.iterations
    assert seen[-1] == found.residual < 1e-9


@pytest.mark.parametrize(("call", "message"), [
    (lambda: resharp(*ARGS, radius=0), "radius must be a positive number of mm, got 0"),
    (lambda: resharp(*ARGS, radius=40), r"no sphere of 40 mm fits the mask \(\d+ voxels\): use a smaller radius or a"),
    (lambda: resharp(*ARGS, regularisation=0), "regularisation must be a positive number, got 0"),
    (lambda: resharp(*ARGS, tolerance=-1), "tolerance must be a positive number, got -1"),
    (lambda: resharp(*ARGS, iterations=0), "iterations must be at least 1, got 0"),
])  # fmt: skip
def test_bad_settings_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
