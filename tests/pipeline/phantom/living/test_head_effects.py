"""Effects that change the head or its pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.orientations.conditioning import assess_orientations
from chi33.pipeline.phantom.living.flow import venous_flow
from chi33.pipeline.phantom.living.layers import faint_layers
from chi33.pipeline.phantom.living.lesions import with_lesions
from chi33.pipeline.phantom.living.myelin import myelin_table, pool_frequencies
from chi33.pipeline.phantom.living.subject import varied
from chi33.pipeline.phantom.living.tilts import managed_orientations
from chi33.pipeline.phantom.living.tracts import sine_squared_to, with_uneven_tracts
from chi33.pipeline.phantom.subjects import HeadParameters
from chi33.pipeline.physics.tensors import msa
from living_scene import MIDDLE, plain_head
from scipy.spatial.transform import Rotation


@pytest.mark.parametrize("seed", range(4))
def test_people_tilt_unevenly_and_twist(seed: int) -> None:
    poses = managed_orientations(12, 25.0, 8.0, seed)
    up = np.array([pose.rotation[:, 2] for pose in poses])  # where the head's axis points
    tilts = np.degrees(np.arccos(np.clip(up[1:, 2], -1, 1)))
    assert tilts.min() >= 9.99
    assert tilts.max() <= 25.01
    assert tilts.std() > 2
    assert 0 < np.degrees(Rotation.from_matrix(poses[0].rotation).magnitude()) < 6
    twists = [np.degrees(Rotation.from_matrix(pose.rotation).as_euler("ZYX")[0]) for pose in poses[1:]]
    assert np.std(twists) > 3
    gaps = np.diff(np.sort(np.arctan2(up[1:, 1], up[1:, 0])))
    assert gaps.max() > 1.3 * gaps.min()  # no even ring
    assessment = assess_orientations(np.array([pose.b0_direction_in_head for pose in poses]))
    assert assessment.sti_determined


def test_impossible_tilts_are_refused() -> None:
    with pytest.raises(InputError, match="at most 60 degrees"):
        managed_orientations(4, 70.0, 8.0, 0)


def test_no_two_subjects_are_alike() -> None:
    heads = [varied(HeadParameters.from_seed((seed, 0)), 0.2) for seed in range(30)]
    assert varied(heads[0], 0.0) == heads[0]
    for values, spread in (([h.chi["white"] for h in heads], 0.15), ([h.anisotropy for h in heads], 0.12)):
        assert np.std(np.log(np.abs(values))) > spread
    rims = [h.csf_rim for h in heads]
    assert 1.5 <= min(rims) < 2.2
    assert 3.0 < max(rims) <= 4.5
    assert min(h.skull for h in heads) >= 4
    assert varied(HeadParameters.from_seed((3, 0)), 0.2) == heads[3]


def test_tracts_differ_in_anisotropy_and_not_in_mean() -> None:
    head = plain_head()
    uneven = with_uneven_tracts(head, 0.35)
    white = head.labels == 9
    np.testing.assert_allclose(uneven.tensor[[0, 3, 5]].mean(0), head.tensor[[0, 3, 5]].mean(0), atol=1e-7)
    ratio = msa(uneven.tensor[:, white]) / msa(head.tensor[:, white])
    assert 0.1 < ratio.std() < 0.7


def test_lesions_have_their_sign_and_the_mean_over_the_brain_stays_zero() -> None:
    head = plain_head()
    sick = with_lesions(head, 0.0, 1.2)
    spot = sick.labels == 13
    chi = sick.tensor[[0, 3, 5]].mean(axis=0)
    assert 0.7 < chi[spot].max() < 1.3
    assert sick.r2star[spot].mean() > head.r2star[spot].mean() + 30
    assert abs(chi[head.brain > 0.5].mean()) < 1e-6
    assert sick.reference > head.reference
    hard = with_lesions(head, 0.8, 0.0)
    spot = hard.labels == 12
    assert -0.9 < hard.tensor[[0, 3, 5]].mean(axis=0)[spot].min() < -0.4
    assert hard.fractions[:, spot].sum() < 0.8 * head.fractions[:, spot].sum()


@pytest.mark.parametrize("seed", range(6))
def test_lesions_at_the_edge_stay_within_the_brain(seed: int) -> None:
    head = plain_head()
    cropped = replace(head, parameters=replace(head.parameters, seed=(seed,)), tensor=head.tensor[:, 6:-6, 6:-6, 6:-6])
    affine = head.affine.copy()
    affine[:3, 3] += 6
    sick = with_lesions(replace(cropped, tensor_affine=affine), 1.0, 1.0)
    assert {12, 13} <= set(np.unique(sick.labels))
    assert not (sick.labels[head.brain < 0.5] >= 12).any()


def test_faint_bone_is_uneven_and_dura_lines_the_skull() -> None:
    head = plain_head()
    layers = faint_layers(head, 1.0)
    bone = head.fractions[4] > 250
    assert 0.7 < layers.bone[bone].mean() < 1.5
    assert layers.bone[bone].std() > 0.1
    x, y, z = np.meshgrid(*3 * [np.arange(44) - MIDDLE], indexing="ij")
    radius = np.sqrt(x * x + y * y + z * z)
    inner = (radius > 15.2) & (radius < 16) & (np.abs(x) > 3)
    assert layers.dura[inner].mean() > 0.3
    assert not layers.dura[radius < 13].any()
    assert not faint_layers(head, 0.0).dura.any()


def test_veins_flow_along_themselves_to_the_back() -> None:
    flow = venous_flow(plain_head(), 10.0)
    core = np.abs(flow.index[1] - MIDDLE) < 8
    velocity = flow.velocity[:, core]
    speed = np.linalg.norm(velocity, axis=0)
    assert (velocity[1] < -0.95 * speed).all()  # the tube lies along y, the confluence far behind
    assert 0.5 < speed.max() < 10


def test_pools_follow_the_hollow_cylinder() -> None:
    parallel, across = pool_frequencies(0.0), pool_frequencies(1.0)
    assert parallel["axon"] == 0
    assert across["axon"] == pytest.approx(-0.75 * 0.1 * np.log(1 / 0.8))
    assert parallel["sheath"] == pytest.approx(-0.1 / 3 + 0.1 / 6 + 0.02)
    assert across["sheath"] > 0.05
    assert pool_frequencies(0.5)["axon"] == pytest.approx(across["axon"] / 2)
    doubled = pool_frequencies(1.0, 2.0)
    assert doubled["axon"] == pytest.approx(2 * across["axon"])


def test_frequency_of_white_matter_falls_with_the_angle_and_is_not_linear_in_time() -> None:
    table = myelin_table(3.0, (0.004, 0.012, 0.02, 0.028))
    assert abs(table.frequency[0]) < 0.001
    assert -0.025 < table.frequency[-1] < -0.006
    assert (np.diff(table.frequency) < 0).all()
    phase = np.angle(table.factor[:, -1])
    rates = phase / np.array([0.004, 0.012, 0.02, 0.028])
    assert (np.diff(rates) < -0.2).all()  # rad/s: the sheath's water leads while it lasts
    assert np.abs(table.factor[0]).min() < 1


def test_fibre_angle_is_read_from_the_tensor() -> None:
    directions = np.array([[0, 0, 1.0], [1, 0, 0], [0.6, 0, 0.8], [0, 0.8, 0.6]])
    tensor = np.zeros((6, 4, 1, 1), np.float32)
    for n, v in enumerate(directions):
        outer = 0.02 * (np.outer(v, v) - np.eye(3) / 3) - 0.03 * np.eye(3)
        tensor[:, n, 0, 0] = outer[[0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    sine = sine_squared_to(tensor, np.array([0.0, 0.0, 1.0])).ravel()
    np.testing.assert_allclose(sine, 1 - directions[:, 2] ** 2, atol=1e-3)
