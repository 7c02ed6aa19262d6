"""Nipype interfaces of a scan and a registration: files in, files out, and the numbers of the functions they wrap."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chi33.files.derivatives import read_image, read_json, read_transform, write_image, write_transform
from chi33.files.errors import StepError
from chi33.pipeline.frames import radians_per_ppm
from chi33.pipeline.phase.echoes import RESIDUAL_LIMIT
from chi33.workflows.interfaces import registration as registration_interfaces
from chi33.workflows.interfaces import scan as interfaces
from chi33.workflows.interfaces.flirt import world_to_flirt
from nipype.interfaces.base import SimpleInterface
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

SHAPE, SIZE = (26, 24, 22), (3.0, 3.0, 4.0)
AFFINE = np.diag([-SIZE[0], SIZE[1], SIZE[2], 1.0])
TIMES = (0.005, 0.010, 0.016)
Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes an input image and returns its path."""

    def write(name: str, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
        return str(write_image(tmp_path / "in" / f"{name}.nii.gz", array, affine, {}))

    return write


@pytest.fixture
def run(tmp_path: Path) -> Callable[[SimpleInterface], dict[str, Path]]:
    """Runs an interface in a folder of its own and returns its output files."""

    def start(interface: SimpleInterface) -> dict[str, Path]:
        folder = tmp_path / "node"
        folder.mkdir(exist_ok=True)
        outputs = interface.run(cwd=str(folder)).outputs.get()
        files = {key: Path(value) for key, value in outputs.items()}
        assert all(path.parent == folder and path.is_file() for path in files.values())
        return files

    return start


def _ball(radius: float) -> np.ndarray:
    grid = np.meshgrid(*((np.arange(n) - n / 2) * d for n, d in zip(SHAPE, SIZE, strict=True)), indexing="ij")
    return np.sqrt(sum(axis**2 for axis in grid)) < radius


def test_mask_of_another_program_loses_islands_and_holes(save: Save, run: Callable) -> None:
    ball = _ball(25)
    spoilt = ball.astype(np.float32)
    spoilt[13, 12, 11] = 0
    spoilt[1, 1, 1] = 1
    files = run(interfaces.CleanMask(in_file=save("mask", spoilt)))
    mask, affine = read_image(files["mask_file"])
    assert set(np.unique(mask)) == {0, 1}
    assert mask[13, 12, 11] == 1
    assert mask[1, 1, 1] == 0
    assert (mask > 0).sum() > 0.9 * ball.sum()
    np.testing.assert_allclose(affine, AFFINE)


def test_builtin_brain_mask_hands_over_image_and_threshold(
    save: Save, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def found(magnitude: np.ndarray, affine: np.ndarray, *, fractional_threshold: float) -> np.ndarray:
        seen.update(magnitude=magnitude, affine=affine, threshold=fractional_threshold)
        return magnitude > 0.5

    monkeypatch.setattr(interfaces, "brain_mask", found)
    files = run(interfaces.BrainMask(in_file=save("magnitude", _ball(25)), frac=0.3))
    np.testing.assert_array_equal(read_image(files["mask_file"])[0] > 0, _ball(25))
    np.testing.assert_allclose(seen["affine"], AFFINE)
    assert seen["threshold"] == 0.3


def test_learned_brain_mask_is_written_on_the_grid_of_the_image(
    save: Save, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interfaces, "learned_brain_mask", lambda magnitude, affine: magnitude * affine[1, 1] > 1.5)
    files = run(interfaces.LearnedMask(in_file=save("magnitude", _ball(25)), version="1.0.2"))
    mask, affine = read_image(files["mask_file"])
    np.testing.assert_array_equal(mask > 0, _ball(25))
    np.testing.assert_allclose(affine, AFFINE)


@pytest.mark.parametrize("unwrap", ["romeo", "laplacian"])
@pytest.mark.parametrize(("sign", "top"), [(1, np.pi), (-1, 4096.0)])
def test_total_field_of_wrapped_echoes(save: Save, run: Callable, unwrap: str, sign: int, top: float) -> None:
    """Stored units, the sign of phase and the wraps are taken out; the field of the scan remains."""
    mask = _ball(27)
    rng = np.random.default_rng(5)
    field = gaussian_filter(rng.standard_normal(SHAPE), 4)
    field *= (1.0 if unwrap == "romeo" else 0.05) / np.abs(field).max()
    phases = [np.angle(np.exp(1j * (0.3 + radians_per_ppm(3.0, t) * field))) for t in TIMES]
    if unwrap == "romeo":
        assert max(np.abs(np.diff(phase, axis=0)).max() for phase in phases) > 3
    bright = np.where(np.indices(SHAPE)[0] < 13, 2.0, 1.0)
    files = run(
        interfaces.TotalField(
            magnitude_files=[save(f"mag{i}", np.exp(-t / 0.03) * bright * (mask + 0.01)) for i, t in enumerate(TIMES)],
            phase_files=[save(f"phase{i}", sign * phase * top / np.pi) for i, phase in enumerate(phases)],
            phase_ranges=[(-top, top)] * 3, phase_sign=sign, echo_times=list(TIMES), field_strength=3.0,
            mask_file=save("mask", mask), unwrap=unwrap, residual_limit=RESIDUAL_LIMIT,
        )
    )  # fmt: skip
    found, _ = read_image(files["field_file"])
    reliable = read_image(files["reliable_file"])[0] > 0
    error = (found - field)[reliable]
    assert reliable.sum() > 0.9 * mask.sum()
    if unwrap == "romeo":
        np.testing.assert_allclose(error, 0, atol=2e-3)
        assert read_image(files["residual_file"])[0][reliable].max() < 0.01
    else:  # harmonic phase is lost to the Laplacian: the field's detail remains
        assert np.corrcoef(found[reliable], field[reliable])[0, 1] > 0.9
    assert not found[~mask].any()
    weight, _ = read_image(files["weight_file"])
    assert (weight[reliable] > 0).all()
    assert not weight[~mask].any()
    halves = [float(np.median(weight[reliable & (bright == factor)])) for factor in (2, 1)]
    assert halves[0] == pytest.approx(2 * halves[1], rel=0.01)  # the field's noise is as the inverse magnitude
    assert files["echo_file"].read_bytes()[:3] == b"\xff\xd8\xff"  # a JPEG


def test_local_field_is_free_of_the_background(save: Save, run: Callable) -> None:
    mask = _ball(30)
    x, y, z = np.meshgrid(*((np.arange(n) - n / 2) * d for n, d in zip(SHAPE, SIZE, strict=True)), indexing="ij")
    background = 0.3 + 0.004 * x - 0.002 * z + 2e-4 * (x * y + x**2 - z**2)
    files = run(
        interfaces.LocalFieldMap(
            field_file=save("field", background * mask), mask_file=save("mask", mask), largest_radius=12.0,
            smallest_radius=6.0, threshold=0.05,
        )
    )  # fmt: skip
    local, _ = read_image(files["field_file"])
    valid = read_image(files["mask_file"])[0] > 0
    assert valid.sum() > 0.4 * mask.sum()
    assert not (valid & ~mask).any()
    assert local[valid].std() < 0.06 * background[valid].std()


def test_reference_is_registered_to_itself_by_the_identity(save: Save, run: Callable) -> None:
    image = save("image", _ball(20))
    files = run(registration_interfaces.IdentityTransform(in_file=image, reference=image))
    np.testing.assert_array_equal(read_transform(files["transform_file"]), np.eye(4))
    quality = json.loads(files["quality_file"].read_text())
    assert quality["RotationDegrees"] == 0
    assert quality["Scale"] == 1
    assert quality["TranslationMillimetres"] == [0, 0, 0]


def _world() -> np.ndarray:
    world = np.eye(4)
    world[:3, :3] = Rotation.from_euler("xyz", [12, -5, 8], degrees=True).as_matrix() * 1.004
    world[:3, 3] = [3.0, -2.0, 5.0]
    return world


def test_flirt_matrix_becomes_a_world_transform(save: Save, run: Callable, tmp_path: Path) -> None:
    oblique = np.eye(4)
    oblique[:3, :3] = Rotation.from_euler("x", 12, degrees=True).as_matrix() * SIZE
    moving, reference = save("moving", _ball(20), oblique), save("reference", _ball(20))
    matrix = write_transform(tmp_path / "flirt.mat", world_to_flirt(_world(), moving, reference))
    files = run(registration_interfaces.FlirtToWorld(in_file=moving, reference=reference, matrix_file=str(matrix)))
    np.testing.assert_allclose(read_transform(files["transform_file"]), _world(), atol=1e-5)
    motion = registration_interfaces.motion(_world())
    angle = np.degrees(Rotation.from_euler("xyz", [12, -5, 8], degrees=True).magnitude())
    assert motion["RotationDegrees"] == pytest.approx(angle, abs=1e-3)
    assert motion["Scale"] == pytest.approx(1.004, abs=1e-5)


@pytest.fixture
def turned_pair(save: Save) -> tuple[dict, np.ndarray]:
    """The same voxels under a turned affine, with decay: what registers them takes, and the true transform."""
    rng = np.random.default_rng(2)
    image = (gaussian_filter(rng.standard_normal(SHAPE), 1.5) + 0.3) * _ball(30)
    decay = 0.02 + 0.02 * np.arange(SHAPE[0])[:, None, None] / SHAPE[0]
    turned = np.linalg.inv(_world())
    turned[:3, :3] *= 1.004  # a rotation alone
    times = [0.004, 0.008, 0.012]
    inputs = {
        "in_files": [save(f"moving{i}", image * np.exp(-t / decay), turned @ AFFINE) for i, t in enumerate(times)],
        "reference_files": [save(f"reference{i}", image * np.exp(-t / decay[::-1])) for i, t in enumerate(times)],
        "in_echo_times": times,
        "reference_echo_times": times,
        "reference_mask": save("mask", _ball(30)),
        "in_mask": save("own", _ball(30), turned @ AFFINE),
    }
    return inputs, np.linalg.inv(turned)


def test_builtin_registration_recovers_a_turn(turned_pair: tuple, run: Callable) -> None:
    """The transform is known exactly. Decay of the signal plays no part."""
    inputs, true = turned_pair
    files = run(registration_interfaces.RegisterSimilarity(**inputs))
    error = read_transform(files["transform_file"]) @ np.linalg.inv(true)
    angle = np.degrees(Rotation.from_matrix(error[:3, :3] / np.cbrt(np.linalg.det(error[:3, :3]))).magnitude())
    assert angle < 0.5
    assert np.abs(error[:3, 3]).max() < 1.0
    quality = json.loads(files["quality_file"].read_text())
    assert quality["Correlation"] > 0.9
    assert quality["Quality"] > 0.9
    assert {"MutualInformation", "RotationDegrees", "Scale", "TranslationMillimetres"} <= quality.keys()


def test_a_transform_from_elsewhere_is_measured_like_our_own(turned_pair: tuple, run: Callable, tmp_path: Path) -> None:
    inputs, true = turned_pair
    own = json.loads(run(registration_interfaces.RegisterSimilarity(**inputs))["quality_file"].read_text())
    path = write_transform(tmp_path / "flirt.txt", true)
    files = run(registration_interfaces.AssessRegistration(transform_file=str(path), **inputs))
    np.testing.assert_allclose(read_transform(files["transform_file"]), true, atol=1e-6)
    found = json.loads(files["quality_file"].read_text())
    assert found.keys() == own.keys()
    assert found["Quality"] == pytest.approx(own["Quality"], abs=0.02)
    assert found["MutualInformation"] == pytest.approx(own["MutualInformation"], rel=0.1)


@pytest.mark.parametrize(("wrong", "why"), [(20, "agree with a correlation of"), (None, "scales by 1.1")])
def test_a_wrong_transform_from_elsewhere_is_refused_with_a_picture(
    turned_pair: tuple, run: Callable, tmp_path: Path, wrong: int | None, why: str
) -> None:
    inputs, true = turned_pair
    off = np.eye(4)
    off[:3, :3] = 1.1 * np.eye(3) if wrong is None else Rotation.from_euler("x", wrong, degrees=True).as_matrix()
    path = write_transform(tmp_path / "flirt.txt", off @ true)
    with pytest.raises(StepError, match=rf"registration failed: .*{why}.*\(picture: .*refused\.png\)\.$"):
        run(registration_interfaces.AssessRegistration(transform_file=str(path), **inputs))


def test_export_copies_only_what_differs(save: Save, tmp_path: Path) -> None:
    source, target = save("image", _ball(20)), tmp_path / "out" / "map.nii.gz"
    more = tmp_path / "more.json"
    more.write_text('{"FieldNoisePpm": 0.001}')
    sidecar = target.with_name("map.json")

    def export(**keys: object) -> tuple[int, int]:
        interfaces.Export(
            in_file=source, out_file=str(target), sidecar={"Units": "ppm", **keys}, sidecar_file=str(more)
        ).run(cwd=str(tmp_path))
        return target.stat().st_mtime_ns, sidecar.stat().st_mtime_ns

    first = export()
    assert read_json(sidecar) == {"Units": "ppm", "FieldNoisePpm": 0.001}
    assert target.read_bytes() == Path(source).read_bytes()
    assert export() == first
    image_time, sidecar_time = export(Frame="subject")
    assert image_time == first[0]
    assert sidecar_time > first[1]
    target.unlink()
    assert export(Frame="subject")[0] > first[0]
    save("image", _ball(15))
    assert export(Frame="subject")[0] > image_time
    assert target.read_bytes() == Path(source).read_bytes()
    assert sorted(path.name for path in target.parent.iterdir()) == ["map.json", "map.nii.gz"]


def test_a_result_that_was_not_made_leaves_nothing_of_an_earlier_run(save: Save, tmp_path: Path) -> None:
    source, target = save("image", _ball(20)), tmp_path / "out" / "map.nii.gz"
    interfaces.ExportIfMade(in_file=source, out_file=str(target), sidecar={"Units": "ppm"}).run(cwd=str(tmp_path))
    assert sorted(path.name for path in target.parent.iterdir()) == ["map.json", "map.nii.gz"]
    interfaces.ExportIfMade(out_file=str(target), sidecar={"Units": "ppm"}).run(cwd=str(tmp_path))
    assert list(target.parent.iterdir()) == []
