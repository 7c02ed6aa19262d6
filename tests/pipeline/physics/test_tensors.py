from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.physics.tensors import (
    COMPONENTS,
    check_tensor,
    chi33,
    eigenvalues,
    from_matrix,
    isotropic,
    mms,
    msa,
    principal_eigenvector,
    rotate_components,
    to_matrix,
    transverse,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

TENSORS = arrays(np.float64, (6, 2), elements=st.floats(-1, 1, width=32))
ROTATIONS = (
    st.tuples(*[st.floats(-1, 1)] * 4)
    .filter(lambda q: sum(c * c for c in q) > 0.1)
    .map(lambda q: Rotation.from_quat(q).as_matrix())
)


def uniaxial(axis: NDArray, along: float, across: float) -> NDArray[np.float64]:
    return from_matrix(across * np.eye(3) + (along - across) * np.outer(axis, axis))


@given(TENSORS, ROTATIONS)
def test_turning_back_undoes_turning(tensor: NDArray, rotation: NDArray) -> None:
    turned = rotate_components(tensor, rotation)
    np.testing.assert_allclose(rotate_components(turned, rotation.T), tensor, atol=1e-12)


@given(TENSORS, ROTATIONS)
def test_components_turn_as_r_chi_r_transposed(tensor: NDArray, rotation: NDArray) -> None:
    expected = rotation @ to_matrix(tensor) @ rotation.T
    np.testing.assert_allclose(to_matrix(rotate_components(tensor, rotation)), expected, atol=1e-12)


@given(TENSORS, ROTATIONS)
def test_invariants_do_not_turn(tensor: NDArray, rotation: NDArray) -> None:
    turned = rotate_components(tensor, rotation)
    for invariant in (eigenvalues, mms, msa):
        np.testing.assert_allclose(invariant(turned), invariant(tensor), atol=1e-10)


@given(TENSORS, ROTATIONS, ROTATIONS)
def test_susceptibility_along_b0_does_not_care_how_axes_are_named(
    tensor: NDArray, rotation: NDArray, other: NDArray
) -> None:
    h = other[:, 2]
    np.testing.assert_allclose(chi33(rotate_components(tensor, rotation), rotation @ h), chi33(tensor, h), atol=1e-12)
    np.testing.assert_allclose(
        transverse(rotate_components(tensor, rotation), rotation @ h), rotation @ transverse(tensor, h), atol=1e-12
    )


@given(TENSORS, ROTATIONS)
def test_magnetisation_splits_into_a_part_along_b0_and_one_across(tensor: NDArray, rotation: NDArray) -> None:
    h = rotation[:, 2]
    across = transverse(tensor, h)
    np.testing.assert_allclose(h @ across, 0, atol=1e-12)
    np.testing.assert_allclose(chi33(tensor, h) * h[:, None] + across, (to_matrix(tensor) @ h).T, atol=1e-12)


@given(TENSORS)
def test_six_components_and_symmetric_matrices_are_the_same_thing(tensor: NDArray) -> None:
    matrix = to_matrix(tensor)
    assert matrix.shape == (2, 3, 3)
    np.testing.assert_array_equal(matrix, np.swapaxes(matrix, -1, -2))
    np.testing.assert_array_equal(from_matrix(matrix), tensor)


def test_the_components_are_ordered_xx_xy_xz_yy_yz_zz() -> None:
    matrix = to_matrix(np.arange(6.0))
    for value, name in enumerate(COMPONENTS):
        row, column = ("xyz".index(letter) for letter in name)
        assert matrix[row, column] == matrix[column, row] == value
    assert chi33(np.arange(6.0), (0, 0, 1)) == 5
    assert chi33(np.arange(6.0), (0.6, 0, 0.8)) == pytest.approx(0.36 * 0 + 2 * 0.48 * 2 + 0.64 * 5)


@given(ROTATIONS)
def test_invariants_of_a_fibre(rotation: NDArray) -> None:
    axis = rotation[:, 0]
    fibre = uniaxial(axis, 0.03, 0.01)
    np.testing.assert_allclose(eigenvalues(fibre), [0.03, 0.01, 0.01], atol=1e-12)
    assert mms(fibre) == pytest.approx(0.05 / 3)
    assert msa(fibre) == pytest.approx(0.02)
    found = principal_eigenvector(fibre)
    assert abs(found @ axis) == pytest.approx(1, abs=1e-9)
    assert found[np.abs(found).argmax()] > 0


def test_the_principal_eigenvector_is_of_the_largest_not_the_most_negative_eigenvalue() -> None:
    np.testing.assert_allclose(principal_eigenvector(from_matrix(np.diag([0.01, -0.5, 0.0]))), [1, 0, 0], atol=1e-12)


def test_an_isotropic_tensor_has_no_anisotropy_and_the_same_value_along_every_axis(
    random_rotation: Callable[[int], NDArray],
) -> None:
    tensor = isotropic(np.full((2, 3, 4), 0.12, np.float32))
    assert tensor.dtype == np.float32
    for seed in range(5):
        np.testing.assert_allclose(chi33(tensor, random_rotation(seed)[:, 2]), 0.12, rtol=1e-6)
    np.testing.assert_allclose(msa(tensor), 0, atol=1e-7)
    np.testing.assert_allclose(mms(tensor), 0.12, rtol=1e-6)


def test_images_keep_their_shape_and_type(random_tensor: Callable[..., NDArray]) -> None:
    image = random_tensor(0, (3, 4, 5))
    assert eigenvalues(image).shape == principal_eigenvector(image).shape == (3, 3, 4, 5)
    assert chi33(image, (0, 0, 1)).shape == mms(image).shape == msa(image).shape == (3, 4, 5)
    assert rotate_components(image, np.eye(3)).dtype == chi33(image, (0, 1, 0)).dtype == np.float32
    assert (np.diff(eigenvalues(image), axis=0) <= 0).all()


@pytest.mark.parametrize("shape", [(5, 2), (3, 3), ()])
def test_what_has_not_six_components_is_no_tensor(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"six components \(xx, xy, xz, yy, yz, zz\) on its first axis, got \("):
        check_tensor(np.zeros(shape))
