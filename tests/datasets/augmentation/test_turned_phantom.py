"""A turned tensor of a simulated head has the labels and the field that the head has when it is simulated turned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from chi33.datasets.augmentation.rotation import magnetisation_weights, rotate_tensor_image
from chi33.datasets.store.volume import Geometry, TensorVolume
from chi33.pipeline.images.morphology import dice
from chi33.pipeline.images.spline_maps import evaluate, spline_maps
from chi33.pipeline.phantom.anatomy import ROI_LABELS
from chi33.pipeline.phantom.poses import head_orientations, scan_grid
from chi33.pipeline.phantom.truth import ScanTruth, SmoothedHead, brain_centred_grid_centre, scan_truth
from chi33.pipeline.physics.magnetisation_field import magnetisation_fields
from chi33.pipeline.physics.tensor_field import dipole_field
from chi33.pipeline.physics.tensors import eigenvalues, principal_eigenvector, rotation_of_components
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

VOXEL = 1.3  # mm, of a head at the resolution of 2 mm: what its grid can carry
WHITE = next(label for label, name in ROI_LABELS.items() if name == "white")


@dataclass(frozen=True)
class TwoScans:
    """The neutral scan of a head, another of it, and the transform (4, 4) from the first's world to the second's."""

    neutral: ScanTruth
    turned: ScanTruth
    transform: NDArray[np.float64]

    @property
    def place(self) -> tuple[NDArray[np.float64], tuple[int, int, int], NDArray[np.float64]]:
        return self.turned.grid.affine, self.turned.grid.shape, self.transform


@pytest.fixture(scope="module")
def scans(smooth_head_of_2_mm: SmoothedHead) -> TwoScans:
    smooth = smooth_head_of_2_mm
    head = smooth.head
    poses = head_orientations(2, 30.0, (77, 0))
    neutral, turned = (
        scan_truth(smooth, pose, scan_grid((VOXEL,) * 3, brain_centred_grid_centre(head, pose, np.eye(3))))
        for pose in poses
    )
    return TwoScans(neutral, turned, poses[0].transform_to(poses[1]))


def nrmse(estimate: NDArray, truth: NDArray, mask: NDArray) -> float:
    return float(np.linalg.norm((estimate - truth)[mask]) / np.linalg.norm(truth[mask]))


def test_labels_and_field_are_those_of_the_turned_head(scans: TwoScans) -> None:
    weights = magnetisation_weights(scans.transform[:3, :3])
    maps = spline_maps(scans.neutral.tensor, scans.neutral.brain_mask, scans.neutral.grid.affine)
    magnetisation, mask = evaluate(maps.mixed(weights), *scans.place)
    along, dipolar, across = magnetisation_fields(magnetisation, (VOXEL,) * 3, (0, 0, 1))
    truth = scans.turned
    assert dice(mask, truth.brain_mask) > 0.996
    both = mask & truth.brain_mask
    assert nrmse(along, truth.chi33, both) < 0.08
    assert nrmse(dipolar + across, truth.local_field, both) < 0.08
    assert nrmse(across, truth.delta_b, both) < 0.02
    inner = binary_erosion(both, iterations=2)
    assert nrmse(along, truth.chi33, inner) < 0.04
    assert nrmse(dipolar + across, truth.local_field, inner) < 0.05
    unturned, _ = evaluate(maps.mixed(magnetisation_weights(np.eye(3))), *scans.place)  # voxels only
    wrong = magnetisation_fields(unturned, (VOXEL,) * 3, (0, 0, 1))[2]
    assert nrmse(wrong, truth.delta_b, both) > 0.5


def test_a_turned_volume_is_consistent(scans: TwoScans) -> None:
    scan = scans.neutral
    geometry = Geometry(scan.grid.affine, scan.b0_direction, 3.0)
    tensor = TensorVolume("01", scan.world_tensor, scan.brain_mask.astype(np.uint8), geometry)
    volume = rotate_tensor_image(tensor, scans.transform[:3, :3], "aug-001").channels
    explained = dipole_field(volume["chi33"], (VOXEL,) * 3, (0, 0, 1)) + volume["deltab"]
    assert np.abs(volume["field"] - explained).max() < 1e-5 * np.ptp(volume["field"])
    assert np.ptp(volume["deltab"]) > 0.005


def test_white_matter_comes_back_by_the_inverse_turn(scans: TwoScans) -> None:
    scan, rotation = scans.neutral, scans.transform[:3, :3]
    maps = spline_maps(scan.world_tensor, scan.brain_mask, scan.grid.affine).mixed(rotation_of_components(rotation))
    turned, mask = evaluate(maps, *scans.place)
    again = spline_maps(turned, mask, scans.turned.grid.affine).mixed(rotation_of_components(rotation.T))
    found, _ = evaluate(again, scan.grid.affine, scan.grid.shape, np.linalg.inv(scans.transform))
    white = binary_erosion(scan.labels == WHITE, iterations=3)
    assert white.sum() > 5000
    given, returned = scan.world_tensor[:, white], found[:, white]
    assert nrmse(eigenvalues(returned), eigenvalues(given), np.ones((3, white.sum()), bool)) < 0.01
    cosine = np.abs((principal_eigenvector(given) * principal_eigenvector(returned)).sum(axis=0))
    assert np.degrees(np.arccos(np.clip(np.percentile(cosine, 1), 0, 1))) < 1
