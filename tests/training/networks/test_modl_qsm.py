"""MoDL-QSM: its size, its equation, its normalisation and its loss."""

from __future__ import annotations

import pytest
import torch
from chi33.files.errors import InputError
from chi33.training.networks.modl_qsm import MODL_QSM_PUBLISHED, ModlQsm, Normalisation, channelwise_l1
from chi33.training.physics.patches import Chi33DeltaBPhysics, DipolePhysicsFactory, FullGrid
from torch import nn

SHAPE = (6, 5, 7)
GRID = FullGrid.of((16, 14, 18), (1, 1, 1.5), (0, 0.6, 0.8))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return 0.05 * torch.randn(2, 1, *SHAPE), (torch.rand(2, 1, *SHAPE) > 0.3).float()


def dipole():
    return DipolePhysicsFactory("pad-crop")([GRID], SHAPE, torch.device("cpu"))


def test_trainable_parameters() -> None:
    def count(**options) -> int:
        return sum(p.numel() for p in ModlQsm(MODL_QSM_PUBLISHED, **options).parameters() if p.requires_grad)

    assert count() == 447_235
    assert count(step_per_iteration=True) == 447_237
    assert count(iterations=5) == 447_235  # one shared network


@pytest.mark.parametrize("step_per_iteration", [False, True])
def test_forward_is_the_equation_with_the_network_taken_out(step_per_iteration: bool) -> None:
    field, mask = batch()
    model = ModlQsm(MODL_QSM_PUBLISHED, step_per_iteration=step_per_iteration)
    model.cnn = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        model.step += torch.arange(model.step.numel())
    steps = [4.0, 5.0, 6.0] if step_per_iteration else [4.0] * 3
    physics = Chi33DeltaBPhysics(dipole())
    mean = torch.tensor(MODL_QSM_PUBLISHED.mean).view(1, 2, 1, 1, 1)
    # With the identity, an iteration steps down the gradient and sets the background to the channel means.
    x = torch.zeros(2, 2, *SHAPE)
    for t in steps:
        field_of_x = dipole().forward(x[:, :1]) + x[:, 1:]
        back = field_of_x - field
        x = x - t * torch.cat([physics.dipole.adjoint(back), back], 1)
        x = torch.where(mask > 0, x, mean)
    torch.testing.assert_close(model.denormalise(model(field, mask, dipole())), x, atol=1e-5, rtol=1e-4)


def test_output_is_normalised_and_masked() -> None:
    field, mask = batch()
    model = ModlQsm(MODL_QSM_PUBLISHED, depth=4, start_at_mean=False).eval()
    with torch.no_grad():
        output = model(field, mask, dipole())
    assert output.shape == (2, 2, *SHAPE)
    assert output[(mask == 0).expand_as(output)].abs().max() == 0
    assert output.abs().max() > 0
    truth = torch.randn(2, 2, *SHAPE)
    inside = mask.expand_as(truth) > 0
    torch.testing.assert_close(model.denormalise(model.normalise(truth, mask))[inside], truth[inside])


def test_untrained_network_predicts_the_means_unless_started_at_random() -> None:
    field, mask = batch()
    assert ModlQsm(MODL_QSM_PUBLISHED, depth=4).eval()(field, mask, dipole()).abs().max() == 0
    assert ModlQsm(MODL_QSM_PUBLISHED, depth=4, start_at_mean=False).eval()(field, mask, dipole()).abs().max() > 0


def test_every_parameter_learns() -> None:
    field, mask = batch()
    model = ModlQsm(MODL_QSM_PUBLISHED, depth=6, start_at_mean=False, step_per_iteration=True)
    channelwise_l1(model(field, mask, dipole()), torch.randn(2, 2, *SHAPE)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_loss_is_the_sum_of_the_mean_errors_of_the_channels() -> None:
    target = torch.zeros(1, 2, 2, 2, 2)
    output = target.clone()
    output[0, 0, 0, 0, 0] = -8.0  # |error| 8 over 8 voxels
    output[0, 1] = 0.25
    assert channelwise_l1(output, target).item() == pytest.approx(1.25)


def test_wrong_normalisation_or_iterations_are_named() -> None:
    with pytest.raises(InputError, match="finite means and positive deviations"):
        Normalisation((0.0, 0.0), (0.1, 0.0))
    with pytest.raises(InputError, match="finite means and positive deviations"):
        Normalisation((float("nan"), 0.0), (0.1, 0.1))
    with pytest.raises(InputError, match="two means and two deviations"):
        Normalisation((0.0,), (0.1, 0.1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="iterations must be at least 1, got 0"):
        ModlQsm(MODL_QSM_PUBLISHED, iterations=0)
