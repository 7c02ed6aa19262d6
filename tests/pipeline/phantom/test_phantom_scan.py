from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from chi33.files.errors import Chi33Warning, InputError
from chi33.pipeline.frames import radians_per_ppm
from chi33.pipeline.images.resample import resample
from chi33.pipeline.images.spline_maps import evaluate, spline_maps
from chi33.pipeline.phantom.acquisition import Coil, Contrast, Echo, Protocol, contrast, simulate_echoes
from chi33.pipeline.phantom.anatomy import ROI_LABELS, Head, build_head
from chi33.pipeline.phantom.background import background_field
from chi33.pipeline.phantom.poses import head_orientations, scan_grid
from chi33.pipeline.phantom.subjects import IRON_ORDER, HeadParameters
from chi33.pipeline.phantom.template import load_template
from chi33.pipeline.phantom.truth import ScanTruth, SmoothedHead, brain_centred_grid_centre, scan_truth, smooth_head
from chi33.pipeline.physics.tensor_field import delta_b_prime, dipole_field, tensor_field
from chi33.pipeline.physics.tensors import chi33, msa, rotation_of_components
from scipy import ndimage

VOXEL = (2.0, 2.0, 2.0)
POSES = head_orientations(6, 35.0, seed=11)
LABEL = {name: index for index, name in ROI_LABELS.items()}


@dataclass(frozen=True)
class Simulated:
    head: Head
    smooth: SmoothedHead
    maps: Contrast
    scans: tuple[ScanTruth, ...]  # neutral, tilted, tilted and oblique with other voxels and handedness


def truth_of(smooth: SmoothedHead, pose: int, **grid: object) -> ScanTruth:
    settings = {"voxel": VOXEL, "oblique": 12.0, "oblique_azimuth": 25.0, **grid}
    frame = scan_grid(centre=(0, 0, 0), **settings).frame
    centre = brain_centred_grid_centre(smooth.head, POSES[pose], frame)
    return scan_truth(smooth, POSES[pose], scan_grid(centre=centre, **settings))


@pytest.fixture(scope="module")
def simulated(smooth_head_of_2_mm: SmoothedHead) -> Simulated:
    smooth = smooth_head_of_2_mm
    head = smooth.head
    scans = (truth_of(smooth, 0), truth_of(smooth, 1), truth_of(smooth, 3, voxel=(2, 2, 3), axcodes="LPS"))
    return Simulated(head, smooth, contrast(smooth, Protocol()), scans)


def echoes_of(simulated: Simulated, scan: int, **protocol: object) -> list[Echo]:
    settings = Protocol(**protocol)
    rng = np.random.default_rng(0)
    return list(
        simulate_echoes(simulated.smooth, simulated.maps, simulated.scans[scan], settings, Coil.from_seed(1), rng)
    )


def test_template_is_a_brain_of_the_known_size() -> None:
    template = load_template()
    assert 1.6e6 < (template.brain > 0.5).sum() < 2.0e6  # mm^3 of MNI152
    assert template.hull[template.brain > 0.9].max() < 2
    assert np.all(template.grey + template.white < 1.001)


def test_head_holds_every_tissue_in_plausible_amounts(simulated: Simulated) -> None:
    volume = {name: int((simulated.head.labels == index).sum()) / 1000 for index, name in ROI_LABELS.items()}
    assert 300 < volume["white"] < 700  # ml, adults
    assert 450 < volume["grey"] < 950
    assert 2 < volume["pallidum"] / 0.8 < 8
    assert 5 < volume["putamen"] < 14
    assert 3 < volume["caudate"] < 12
    assert 0.15 < volume["red_nucleus"] < 0.8
    assert 2 < volume["vein"] < 25


def test_nuclei_have_their_susceptibility_and_order(simulated: Simulated) -> None:
    for truth in simulated.scans:
        means = {}
        for name in IRON_ORDER:
            core = truth.labels == LABEL[name]
            inner = ndimage.binary_erosion(core)
            means[name] = float(truth.mms[inner if inner.sum() > 8 else core].mean()) + simulated.head.reference
        ranked = [means[name] for name in IRON_ORDER]
        assert ranked == sorted(ranked, reverse=True)
        for name in ("pallidum", "putamen", "caudate"):
            assert means[name] == pytest.approx(simulated.head.parameters.chi[name], rel=0.15)


def test_texture_leaves_the_mean_of_every_nucleus_alone(simulated: Simulated) -> None:
    head = simulated.head
    start = np.rint(head.tensor_affine[:3, 3] - head.affine[:3, 3]).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, head.tensor.shape[1:], strict=True))
    chi = head.tensor[[0, 3, 5]].mean(axis=0) + head.reference
    for name in IRON_ORDER:
        inner = ndimage.binary_erosion(head.labels[box] == LABEL[name])
        assert chi[inner].mean() == pytest.approx(head.parameters.chi[name], rel=0.06)
        assert chi[inner].std() > 0.01 * chi[inner].mean()


def test_white_matter_is_anisotropic_and_diamagnetic(simulated: Simulated) -> None:
    truth = simulated.scans[0]
    deep = ndimage.binary_erosion(truth.labels == LABEL["white"], iterations=2)
    inside = truth.tensor[:, deep]
    assert np.median(msa(inside)) == pytest.approx(simulated.head.parameters.anisotropy, rel=0.25)
    assert inside[[0, 3, 5]].mean() + simulated.head.reference == pytest.approx(-0.03, abs=0.008)
    grey = truth.tensor[:, truth.labels == LABEL["pallidum"]]
    assert np.median(msa(grey)) < 0.004


def test_callosal_fibres_run_left_right_and_spinal_ones_upwards(simulated: Simulated) -> None:
    head = simulated.head
    scale = np.asarray(head.parameters.scale)

    def deviation(mni: tuple[float, float, float]) -> np.ndarray:
        voxel = np.rint(np.linalg.solve(head.tensor_affine, [*(np.asarray(mni) * scale), 1])[:3]).astype(int)
        box = tuple(slice(v - 4, v + 5) for v in voxel)
        mean = head.tensor[:, *box].mean(axis=(1, 2, 3))
        return mean[[0, 3, 5]] - mean[[0, 3, 5]].mean()

    assert deviation((0.0, 20.0, 12.0)).argmax() == 0
    assert deviation((24.0, -20.0, 20.0)).argmax() == 2


def test_reference_is_the_mean_over_the_brain(simulated: Simulated) -> None:
    for truth in simulated.scans:
        assert abs(truth.mms[truth.brain_mask].mean()) < 4e-4
        assert not truth.tensor[:, ~truth.brain_mask].any()


def test_local_field_is_that_of_the_tensor_and_of_its_labels(simulated: Simulated) -> None:
    for truth in simulated.scans:
        arguments = (truth.grid.voxel_size, truth.b0_direction)
        np.testing.assert_allclose(truth.local_field, tensor_field(truth.tensor, *arguments), atol=1e-6)
        np.testing.assert_allclose(truth.chi33, chi33(truth.tensor, truth.b0_direction), atol=1e-7)
        np.testing.assert_allclose(truth.delta_b, delta_b_prime(truth.tensor, *arguments), atol=1e-7)
        rest = truth.local_field - truth.delta_b - dipole_field(truth.chi33, *arguments)
        assert np.abs(rest).max() < 1e-6
        assert truth.delta_b[truth.brain_mask].std() > 2e-4


def test_isotropic_head_has_no_delta_b_prime(simulated: Simulated) -> None:
    box = simulated.head.tensor.copy()
    box[[1, 2, 4]] = 0
    box[[0, 3, 5]] = box[[0, 3, 5]].mean(axis=0)
    smooth = smooth_head(replace(simulated.head, tensor=box), 3.0)
    truth = truth_of(smooth, 1, voxel=(4, 4, 4))
    assert np.abs(truth.delta_b).max() < 1e-7
    np.testing.assert_allclose(truth.chi33, truth.mms, atol=1e-7)


@pytest.mark.parametrize("scan", [1, 2])
def test_chi33_of_a_tilted_scan_is_the_turned_subject_tensor_along_b0(simulated: Simulated, scan: int) -> None:
    reference, tilted = simulated.scans[0], simulated.scans[scan]
    to_scan = np.linalg.inv(tilted.pose.transform_to(reference.pose))
    maps = spline_maps(reference.world_tensor, reference.brain_mask, reference.grid.affine)
    place = (tilted.grid.affine, tilted.grid.shape, to_scan)
    turned = evaluate(maps.mixed(rotation_of_components(to_scan[:3, :3])), *place)[0]
    predicted = chi33(turned, np.array([0.0, 0.0, 1.0]))
    inside = ndimage.binary_erosion(tilted.brain_mask, iterations=2)
    error = np.linalg.norm((predicted - tilted.chi33)[inside]) / np.linalg.norm(tilted.chi33[inside])
    # components left unturned, or along the wrong axes, cost 15 % and more of the anisotropic part
    anisotropic = tilted.chi33 - tilted.mms
    turned_mms = turned[[0, 3, 5]].mean(axis=0)
    direction = np.corrcoef((predicted - turned_mms)[inside], anisotropic[inside])[0, 1]
    assert error < 0.15  # interpolation of sharp vessels
    assert direction > 0.99


def test_regions_meet_when_mapped_by_the_transform(simulated: Simulated) -> None:
    reference = simulated.scans[0]
    for truth in simulated.scans[1:]:
        transform = truth.pose.transform_to(reference.pose)
        for name in ("caudate", "putamen", "thalamus", "dentate", "white"):
            centres = []
            for scan in (reference, truth):
                voxel = np.argwhere(scan.labels == LABEL[name]).mean(axis=0)
                centres.append((scan.grid.affine @ [*voxel, 1])[:3])
            np.testing.assert_allclose((transform @ [*centres[1], 1])[:3], centres[0], atol=0.5)


def test_magnitude_lies_where_the_transform_says(simulated: Simulated) -> None:
    reference, tilted = simulated.scans[:2]
    still, moved = (echoes_of(simulated, scan, snr=np.inf)[0].magnitude for scan in (0, 1))
    transform = tilted.pose.transform_to(reference.pose)
    likeness = []
    for candidate in (transform, np.linalg.inv(transform)):
        back = resample(moved, tilted.grid.affine, reference.grid.affine, reference.grid.shape, candidate)
        likeness.append(np.corrcoef(back[reference.brain_mask], still[reference.brain_mask])[0, 1])
    assert likeness[0] > 0.75  # the coil's shading stays with the scanner
    assert likeness[1] < 0.5


def test_shimmed_background_has_realistic_size_and_no_sources_in_the_brain(simulated: Simulated) -> None:
    for truth in simulated.scans:
        background = (truth.total_field - truth.local_field)[truth.brain_mask]
        assert 0.1 < background.std() < 0.25
        assert 1 < np.abs(background).max() < 6
    truth = simulated.scans[0]
    background = background_field(simulated.head, truth.pose, truth.grid)
    axis = np.arange(-3, 4)
    ball = sum(a**2 for a in np.meshgrid(axis, axis, axis, indexing="ij")) <= 9.1
    mean = ndimage.convolve(background, ball / ball.sum())  # a harmonic function equals its mean over balls
    deep = ndimage.binary_erosion(truth.brain_mask, iterations=6)
    assert np.abs(mean - background)[deep].max() < 0.01 * np.ptp(background[deep])


def test_total_field_is_shimmed(simulated: Simulated) -> None:
    for truth in simulated.scans:
        inside = truth.total_field[truth.brain_mask]
        assert abs(inside.mean()) < 1e-4
        height = np.argwhere(truth.brain_mask)[:, 2]
        assert abs(np.corrcoef(height, inside)[0, 1]) < 0.02


def test_phase_is_wrapped_and_grows_with_echo_time_as_the_field_says(simulated: Simulated) -> None:
    truth = simulated.scans[1]
    first, second = echoes_of(simulated, 1, echo_times=(0.004, 0.006), snr=np.inf)
    for echo in (first, second):
        assert echo.phase.min() >= -np.float32(np.pi)
        assert echo.phase.max() < np.pi
    grown = np.angle(np.exp(1j * (second.phase - first.phase)))[truth.brain_mask]
    expected = radians_per_ppm(3.0, 0.002) * truth.total_field[truth.brain_mask]
    np.testing.assert_allclose(np.angle(np.exp(1j * (grown - expected))), 0, atol=1e-4)
    offset = np.angle(np.exp(1j * (first.phase - 2 * (second.phase - first.phase))))[truth.brain_mask]
    assert offset.std() > 0.05  # the coil's phase does not vanish at TE = 0


def test_phase_sign_mirrors_the_phase(simulated: Simulated) -> None:
    plus = echoes_of(simulated, 0, echo_times=(0.01,), snr=np.inf)[0].phase
    minus = echoes_of(simulated, 0, echo_times=(0.01,), snr=np.inf, phase_sign=-1)[0].phase
    np.testing.assert_allclose(np.exp(1j * plus) * np.exp(1j * minus), 1, atol=1e-5)


def test_magnitude_decays_faster_where_iron_is_and_noise_has_the_asked_level(simulated: Simulated) -> None:
    truth = simulated.scans[0]
    clean = echoes_of(simulated, 0, snr=np.inf)
    noisy = echoes_of(simulated, 0, snr=40.0)
    assert clean[0].magnitude[truth.brain_mask].mean() == pytest.approx(1, abs=1e-3)
    air = clean[0].magnitude < 1e-4
    assert air.sum() > 1000
    assert noisy[0].magnitude[air].std() == pytest.approx(np.sqrt(2 - np.pi / 2) / 40, rel=0.02)  # Rayleigh
    ratio = clean[-1].magnitude / np.maximum(clean[0].magnitude, 1e-3)
    assert ratio[truth.labels == LABEL["pallidum"]].mean() < 0.75 * ratio[truth.labels == LABEL["grey"]].mean()
    grown = ndimage.binary_dilation(truth.brain_mask, iterations=3)
    skull = grown & ~ndimage.binary_dilation(truth.brain_mask, iterations=2)
    assert np.median(clean[0].magnitude[skull]) < 0.6


def test_higher_field_has_more_phase_and_less_late_signal(simulated: Simulated) -> None:
    three, seven = (contrast(simulated.smooth, Protocol(b0=b0)) for b0 in (3.0, 7.0))
    assert seven.r2star[simulated.head.brain > 0.9].mean() > 1.5 * three.r2star[simulated.head.brain > 0.9].mean()


def test_grid_that_misses_the_brain_is_refused_and_one_that_cuts_it_warns(simulated: Simulated) -> None:
    with pytest.raises(InputError, match=r"field of view of 64 x 64 x 64 mm holds \d+% of the brain"):
        truth_of(simulated.smooth, 0, matrix=(32, 32, 32))
    with pytest.warns(Chi33Warning, match="holds .*% of the brain: give a larger matrix"):
        truth_of(simulated.smooth, 0, matrix=(106, 112, 60))


def test_second_subject_differs_in_more_than_noise(simulated: Simulated) -> None:
    other = build_head(HeadParameters.from_seed(5))
    first = simulated.head
    assert np.mean((first.brain > 0.5) ^ (other.brain > 0.5)) / np.mean(first.brain > 0.5) > 0.03
    veins = [head.labels == LABEL["vein"] for head in (first, other)]
    assert 2 * (veins[0] & veins[1]).sum() / (veins[0].sum() + veins[1].sum()) < 0.6
    whites = [head.labels == LABEL["white"] for head in (first, other)]
    assert 2 * (whites[0] & whites[1]).sum() / (whites[0].sum() + whites[1].sum()) < 0.9
    assert first.parameters.chi["pallidum"] != other.parameters.chi["pallidum"]
    assert np.mean(np.abs(first.exterior - other.exterior) > 1) > 0.02
