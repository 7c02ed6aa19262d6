"""The field of chi h in its two parts is the field of chi, in NumPy and in torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from chi33.files.errors import InputError
from chi33.pipeline.physics import magnetisation_field, torch_field
from chi33.pipeline.physics.magnetisation_field import magnetisation_fields
from chi33.pipeline.physics.tensor_field import delta_b_prime, dipole_field, tensor_field
from chi33.pipeline.physics.tensors import chi33, to_matrix
from chi33.pipeline.physics.torch_field import fields_along_z
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SIZE = (1.0, 1.3, 2.0)
SHAPE = (18, 15, 20)


def magnetisation(tensor: NDArray, h: NDArray) -> NDArray:
    return np.moveaxis(to_matrix(tensor) @ h, -1, 0).astype(np.float32)


def assert_same(found: NDArray, expected: NDArray, share: float = 2e-6) -> None:
    assert np.abs(found - expected).max() < share * np.ptp(expected)


@pytest.mark.parametrize("h", [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.48, -0.6, 0.64)])
def test_both_parts_are_those_of_the_tensor(
    h: tuple[float, float, float], random_tensor: Callable[..., NDArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(magnetisation_field, "_SLAB_POINTS", 5000)  # several slabs
    tensor = random_tensor(0, SHAPE, 1.0)
    along, dipolar, across = magnetisation_fields(magnetisation(tensor, np.array(h)), SIZE, h)
    assert_same(along, chi33(tensor, h))
    assert_same(dipolar, dipole_field(chi33(tensor, h), SIZE, h))
    assert_same(across, delta_b_prime(tensor, SIZE, h))
    assert_same(dipolar + across, tensor_field(tensor, SIZE, h))


def test_torch_has_the_same_fields(random_tensor: Callable[..., NDArray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_field, "_SLAB_POINTS", 5000)
    given = magnetisation(random_tensor(1, SHAPE, 1.0), np.array([0.0, 0, 1]))
    _, dipolar, across = magnetisation_fields(given, SIZE, (0, 0, 1))
    found, found_across = fields_along_z(torch.from_numpy(given), SIZE)
    assert found_across is not None
    assert_same(found.numpy(), dipolar)
    assert_same(found_across.numpy(), across)
    scalar, none = fields_along_z(torch.from_numpy(given[2:]), SIZE)
    assert none is None
    np.testing.assert_array_equal(scalar.numpy(), found.numpy())


def test_nothing_wraps_around() -> None:
    source = np.zeros((3, 20, 20, 20), np.float32)
    source[0, 10, 10, 16] = source[2, 10, 10, 16] = 100
    source = gaussian_filter(source, (0, 1.5, 1.5, 1.5), mode="constant")
    wide = np.zeros((3, 20, 20, 60), np.float32)
    wide[..., 20:40] = source
    _, along, across = magnetisation_fields(source, (2, 2, 2), (0, 0, 1))
    _, along_wide, across_wide = magnetisation_fields(wide, (2, 2, 2), (0, 0, 1), padding=200)
    assert_same(along, along_wide[..., 20:40], 2e-3)
    assert_same(across, across_wide[..., 20:40], 2e-3)
    _, circular, _ = magnetisation_fields(source, (2, 2, 2), (0, 0, 1), padding=0)
    assert np.abs(circular - along).max() > 0.05 * np.ptp(along)


def test_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"magnetisation must have the shape \(3, x, y, z\), got \(6, 4, 4, 4\)"):
        magnetisation_fields(np.zeros((6, 4, 4, 4)), SIZE, (0, 0, 1))
    with pytest.raises(InputError, match=r"shape \(3, x, y, z\) or \(1, x, y, z\), got \(2, 4, 4, 4\)"):
        fields_along_z(torch.zeros(2, 4, 4, 4), SIZE)
