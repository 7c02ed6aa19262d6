"""Projection onto dipole fields: its operator, its priors, its margins, what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from background_scene import TILTED, UPRIGHT, relative_error, scene
from chi33.files.errors import InputError
from chi33.pipeline.background import pdf
from chi33.pipeline.background.pdf import WeightedDipoles
from chi33.pipeline.images.morphology import depth_inside
from chi33.pipeline.physics.dipole import DipoleOperator


@pytest.mark.parametrize(("shape", "grid", "size"), [
    ((12, 10, 9), (18, 16, 15), (1.0, 1.0, 1.0)), ((7, 8, 6), (12, 15, 10), (0.9, 1.2, 2.5)),
])  # fmt: skip
@pytest.mark.parametrize("h", [UPRIGHT, TILTED])
def test_the_operator_and_its_adjoint_agree(
    check_operator: Callable[..., None], shape: tuple, grid: tuple, size: tuple, h: np.ndarray
) -> None:
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.03, 1, grid).astype(np.float32)
    check_operator(WeightedDipoles(rng.uniform(size=shape) > 0.3, scale, size, h), grid, shape)


def test_the_operator_is_the_dipole_field_of_what_is_scaled() -> None:
    rng = np.random.default_rng(1)
    u, scale = rng.standard_normal((2, 12, 14, 10)).astype(np.float32)
    dipoles = WeightedDipoles(np.ones((12, 14, 10), bool), scale, (1, 1, 2), TILTED)
    np.testing.assert_allclose(
        dipoles.forward(u), DipoleOperator((12, 14, 10), (1, 1, 2), TILTED).forward(scale * u), atol=1e-5
    )


def test_sources_inside_make_it_more_accurate_than_liu_s_projection() -> None:
    head = scene()
    errors = {}
    for interior in (0.0, 0.03):
        found = pdf(head.total, head.mask, head.size, b0_direction=UPRIGHT, interior=interior)
        errors[interior] = relative_error(found.field, head.local, found.mask)
    assert errors[0.03] < errors[0.0]


def test_without_a_margin_the_mask_is_kept_whole() -> None:
    head = scene()
    whole = pdf(head.total, head.mask, head.size, b0_direction=UPRIGHT, margin=0, iterations=3)
    np.testing.assert_array_equal(whole.mask, head.mask)
    part = pdf(head.total, head.mask, head.size, b0_direction=UPRIGHT, margin=6, iterations=3)
    np.testing.assert_array_equal(part.mask, depth_inside(head.mask, head.size) > 6)
    np.testing.assert_array_equal(part.field[part.mask], whole.field[part.mask])


def test_the_edge_of_the_mask_is_not_believed() -> None:
    head = scene()
    spoiled = head.total + np.where(depth_inside(head.mask, head.size) <= 2, np.float32(0.3), np.float32(0))
    kept = pdf(head.total, head.mask, head.size, b0_direction=UPRIGHT, iterations=5)
    np.testing.assert_array_equal(
        pdf(spoiled, head.mask, head.size, b0_direction=UPRIGHT, iterations=5).field, kept.field
    )
    trusting = pdf(spoiled, head.mask, head.size, b0_direction=UPRIGHT, iterations=5, edge=0)
    assert relative_error(trusting.field, kept.field, kept.mask) > 0.1


def test_the_b0_direction_counts() -> None:
    head = scene(h=TILTED)
    right = pdf(head.total, head.mask, head.size, b0_direction=TILTED)
    wrong = pdf(head.total, head.mask, head.size, b0_direction=UPRIGHT)
    error = relative_error(right.field, head.local, right.mask)
    assert relative_error(wrong.field, head.local, wrong.mask) > 1.05 * error


def test_the_residual_falls_and_is_reported() -> None:
    head, seen = scene(), []
    pdf(head.total, head.mask, head.size, b0_direction=UPRIGHT, progress=lambda i, r: seen.append((i, r)))
    assert [i for i, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][1] < 0.3 * seen[0][1]


HEAD = scene()
ARGS = (HEAD.total, HEAD.mask, HEAD.size)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: pdf(*ARGS, b0_direction=(0, 0, 2)), "b0_direction must be a unit vector"),
    (lambda: pdf(*ARGS, b0_direction=UPRIGHT, exterior=0), "exterior must be a positive number of ppm, got 0"),
    (lambda: pdf(*ARGS, b0_direction=UPRIGHT, interior=-1), "interior must be at least 0 ppm, got -1"),
    (lambda: pdf(*ARGS, b0_direction=UPRIGHT, noise=np.inf), "noise must be a positive number of ppm, got inf"),
    (lambda: pdf(*ARGS, b0_direction=UPRIGHT, edge=np.nan), "edge must be at least 0 mm, got nan"),
    (lambda: pdf(*ARGS, b0_direction=UPRIGHT, iterations=0), "iterations must be at least 1, got 0"),
    (lambda: pdf(*ARGS, b0_direction=UPRIGHT, tolerance=0), "tolerance must be a positive number, got 0"),
    (lambda: pdf(*ARGS, b0_direction=UPRIGHT, margin=90), "nothing of the mask .* margin of 90 mm: use smaller ones"),
])  # fmt: skip
def test_bad_settings_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
