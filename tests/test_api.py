"""What `import chi33` gives: lazily, with one order of arguments, and with the right values."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

import chi33
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

SHAPE, SIZE = (20, 22, 18), (2.0, 2.0, 2.0)
TILTS = ((0, 0), (25, 0), (-25, 0), (0, 25), (0, -25), (18, 18), (-18, 18))
DIRECTIONS = [Rotation.from_euler("xy", tilt, degrees=True).inv().apply([0, 0, 1]) for tilt in TILTS]
FUNCTIONS = [name for name in chi33.__all__ if inspect.isfunction(getattr(chi33, name))]
ARRAYS = ("cosmos", "sti", "single_step", "vsharp", "resharp", "ismv", "pdf", "lbv", "tkd", "unwrap", "total_field")


@pytest.fixture(scope="module")
def head() -> tuple[NDArray[np.float32], NDArray[np.bool_], list[NDArray[np.float32]]]:
    """A tensor, its mask, and its local fields in all directions."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.7
    tensor = np.zeros((6, *SHAPE), np.float32)
    tensor[[0, 3, 5]] = 0.1 * ((x - 0.2) ** 2 + y**2 + z**2 < 0.1) - 0.03 * (mask & (x < -0.2))
    tensor[0] += 0.01 * (mask & (y > 0))
    rng = np.random.default_rng(0)
    fields = [
        ((chi33.tensor_field(tensor, SIZE, h) + 1e-4 * rng.standard_normal(SHAPE)) * mask).astype(np.float32)
        for h in DIRECTIONS
    ]
    return tensor, mask, fields


def test_importing_chi33_loads_nothing_and_names_load_on_first_use() -> None:
    script = (
        "import json, sys\n"
        "import chi33\n"
        "before = [name for name in sys.modules if name.startswith('chi33.') or name in ('numpy', 'torch')]\n"
        "chi33.vsharp\n"
        "print(json.dumps([before, 'torch' in sys.modules, sorted(set(chi33.__all__) - set(dir(chi33)))]))\n"
    )
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) == [[], False, []]


def test_every_public_name_is_there_and_another_is_not() -> None:
    assert all(getattr(chi33, name) is not None for name in chi33.__all__)
    assert list(chi33.__all__) == sorted(chi33.__all__)
    with pytest.raises(AttributeError, match="no attribute 'dipol'"):
        _ = chi33.dipol


@pytest.mark.parametrize("name", ARRAYS)
def test_the_order_is_field_mask_voxel_size_direction_then_keywords(name: str) -> None:
    parameters = inspect.signature(getattr(chi33, name)).parameters
    places = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert places[0] in ("field", "fields", "total_field", "total_fields", "phase")
    assert places[1] in ("mask", "masks")
    assert places[2] == "voxel_size"
    assert places[3:] in ([], ["b0_direction"], ["b0_directions"])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_of_a_public_function_is_documented(name: str) -> None:
    function = getattr(chi33, name)
    said = inspect.getdoc(function) or ""
    assert "Parameters\n----------" in said, name
    assert "Returns\n-------" in said, name
    section = said.split("Parameters\n----------")[1].split("\n\nReturns")[0]
    heads = {word.strip(" *") for line in section.splitlines() if line and line[0] != " " for word in line.split(",")}
    assert heads == set(inspect.signature(function).parameters), name


def test_cosmos_alone_is_the_cosmos_of_the_fit(head: tuple) -> None:
    tensor, mask, fields = head
    alone = chi33.cosmos(fields, [mask] * len(fields), SIZE, DIRECTIONS, noise=1e-3)
    fit = chi33.sti(fields, [mask] * len(fields), SIZE, DIRECTIONS, noise=1e-3, white_matter="none")
    assert alone.shape == SHAPE
    assert np.corrcoef(alone[mask], fit.cosmos[mask])[0, 1] > 0.995
    free = chi33.cosmos(fields, [mask] * len(fields), SIZE, DIRECTIONS)
    truth = tensor[[0, 3, 5]].mean(axis=0)
    assert np.corrcoef(free[mask], truth[mask])[0, 1] > 0.95


def test_a_fit_has_its_invariants_and_labels(head: tuple) -> None:
    tensor, mask, fields = head
    for method in ("masked", "closed"):
        fit = chi33.sti(fields, [mask] * len(fields), SIZE, DIRECTIONS, method=method)
        assert fit.mms.shape == fit.msa.shape == SHAPE
        assert fit.pev.shape == (3, *SHAPE)
        found, truth = (chi33.chi33_map(one, DIRECTIONS[3])[mask] for one in (fit.tensor, tensor))
        assert np.corrcoef(found, truth)[0, 1] > 0.9


def test_the_single_step_fit_takes_total_fields(head: tuple) -> None:
    tensor, mask, fields = head
    shim = 0.4 + 0.02 * np.arange(SHAPE[0], dtype=np.float32)[:, None, None]
    total = [(field + shim) * mask for field in fields]
    fit = chi33.single_step(total, [mask] * len(fields), SIZE, DIRECTIONS, radii=(8.0, 4.0))
    found, truth = (chi33.chi33_map(one, DIRECTIONS[1])[mask] for one in (fit.tensor, tensor))
    assert np.corrcoef(found, truth)[0, 1] > 0.7  # the kernels see half of so small a head


def test_a_rotated_tensor_moves_its_voxels_and_its_components() -> None:
    tensor = np.zeros((6, 21, 21, 11), np.float32)
    tensor[0, 15:18, 9:12, 4:7] = 1.0  # xx, on the +x side
    quarter = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    rotated, inside = chi33.rotate_tensor(tensor, np.ones(tensor.shape[1:], bool), SIZE, quarter)
    assert inside[10, 16, 5]
    assert rotated[3, 10, 16, 5] == pytest.approx(1.0, abs=0.05)  # yy, on the +y side
    assert abs(rotated[0, 10, 16, 5]) < 0.05
    assert np.abs(rotated[:, 16, 10, 5]).max() < 0.05
    with pytest.raises(chi33.InputError, match="rotation must be a rotation matrix"):
        chi33.rotate_tensor(tensor, inside, SIZE, -quarter)


def test_what_is_stated_of_b0_wins_over_the_affine() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", 30, degrees=True).as_matrix()
    np.testing.assert_allclose(chi33.b0_direction(affine), [0, 0.5, np.sqrt(0.75)], atol=1e-12)
    np.testing.assert_allclose(chi33.b0_direction(affine, (0, 0, 1)), [0, 0, 1])
    with pytest.raises(chi33.InputError, match="unit vector"):
        chi33.b0_direction(affine, (0, 0, 2))


def test_an_unwrapping_that_does_not_exist_is_refused() -> None:
    phase = np.zeros((2, 4, 4, 4), np.float32)
    with pytest.raises(chi33.InputError, match="there is no unwrapping 'best': choose romeo or laplacian"):
        chi33.unwrap(phase, phase[0], SIZE, magnitude=phase, echo_times=(0.01, 0.02), method="best")  # type: ignore[arg-type]
