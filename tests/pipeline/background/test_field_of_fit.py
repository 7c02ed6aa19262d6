from __future__ import annotations

import numpy as np
from background_scene import relative_error, scene
from chi33.pipeline.background import field_of_fit, vsharp


def test_the_exact_fit_gives_the_exact_local_field() -> None:
    head = scene()
    found = field_of_fit(head.total, head.local, head.mask, head.size)
    alone = vsharp(head.total, head.mask, head.size)
    np.testing.assert_array_equal(found.mask, alone.mask)
    assert relative_error(found.field, head.local, found.mask) < 0.4 * relative_error(
        alone.field, head.local, alone.mask
    )
    assert not found.field[~found.mask].any()


def test_no_fit_leaves_vsharp_and_what_a_fit_lacks_comes_from_the_data() -> None:
    head = scene()
    alone = vsharp(head.total, head.mask, head.size)
    np.testing.assert_array_equal(field_of_fit(head.total, 0 * head.local, head.mask, head.size).field, alone.field)
    half = field_of_fit(head.total, head.local / 2, head.mask, head.size)
    error = relative_error(half.field, head.local, half.mask)
    assert error < relative_error(alone.field, head.local, alone.mask)
    assert error < relative_error(head.local / 2, head.local, half.mask)
