"""The shared residual network: parameter counts of the papers, receptive field, dropout."""

from __future__ import annotations

import pytest
import torch
from chi33.files.errors import InputError
from chi33.training.networks.backbone import ElementDropout, WideResNet
from torch import nn


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_parameters_of_the_published_networks() -> None:
    assert count(WideResNet(1, 1)) + 1 == 446_337  # LPCNN and its step
    assert count(WideResNet(2, 2)) + 2 == 447_234  # SpiNet, ISDU per unroll: lambda and p
    assert count(WideResNet(2, 2, bias="last")) + 1 == 447_235  # MoDL-QSM and its step
    millions = [round(count(WideResNet(2, 2, depth=n)) / 1e6, 4) for n in (10, 12, 14, 16, 18)]
    assert millions == [0.2255, 0.2810, 0.3364, 0.3918, 0.4472]


def test_biases_are_where_they_were_asked_for() -> None:
    def biased(network: WideResNet) -> list[bool]:
        return [m.bias is not None for m in network.modules() if isinstance(m, nn.Conv3d)]

    assert not any(biased(WideResNet(2, 2, depth=4)))
    assert all(biased(WideResNet(2, 2, depth=4, bias="all")))
    last = WideResNet(2, 2, depth=4, bias="last")
    assert sum(biased(last)) == 1
    assert last.last.bias is not None


def test_receptive_field_is_35_voxels_wide() -> None:
    network = WideResNet(1, 1, width=4).eval()
    with torch.no_grad():
        for convolution in (m for m in network.modules() if isinstance(m, nn.Conv3d)):
            convolution.weight.abs_()  # every ReLU stays open, so nothing hides the rim
    x = torch.ones(1, 1, 41, 5, 5, requires_grad=True)
    network(x)[0, 0, 20, 2, 2].backward()
    assert x.grad is not None
    reached = x.grad[0, 0].sum(dim=(1, 2)).nonzero().flatten()
    assert network.receptive_radius == 17
    assert reached.tolist() == list(range(20 - 17, 20 + 17 + 1))


@pytest.mark.parametrize("shape", [(2, 4, 8, 8, 8), (1, 3, 5, 7, 3)])
@pytest.mark.parametrize("probability", [0.5, 0.2])
def test_element_dropout_keeps_the_mean_and_drops_the_share(shape: tuple[int, ...], probability: float) -> None:
    torch.manual_seed(0)
    dropout = ElementDropout(probability)
    x = torch.ones(shape).to(memory_format=torch.channels_last_3d)
    y = torch.stack([dropout(x) for _ in range(400)])
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - probability)], rel=1e-4)
    spread = 5 * (probability / (1 - probability) / y.numel()) ** 0.5
    assert y.mean().item() == pytest.approx(1, abs=spread)
    assert (y == 0).float().mean(0).std() < 0.05  # every voxel is dropped alike
    assert torch.equal(dropout.eval()(x), x)


def test_dropped_neighbours_are_independent() -> None:
    torch.manual_seed(1)
    y = ElementDropout(0.5)(torch.ones(1, 1, 1, 1, 2**18)).flatten() - 1
    for shift in (1, 2, 3, 4, 8):
        assert abs((y[shift:] * y[:-shift]).mean().item()) < 5 / 2**9


def test_channel_dropout_drops_whole_channels() -> None:
    torch.manual_seed(0)
    block = WideResNet(1, 1, depth=4, dropout_kind="channel").layers[2].layers
    dropped = block[3](torch.ones(4, 32, 3, 3, 3)).flatten(2)
    assert torch.equal(dropped.amin(-1), dropped.amax(-1))
    assert 0 < (dropped == 0).float().mean() < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 5}, "depth must be an even number of at least 4, got 5"),
        ({"dropout": 1.0}, "dropout must be a probability from 0 to below 1, got 1.0"),
        ({"dropout_kind": "row"}, 'must be "element" or "channel"'),
        ({"bias": "first"}, 'bias must be "none", "last" or "all"'),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        WideResNet(2, 2, **arguments)
