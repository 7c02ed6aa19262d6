"""The 3-D residual network shared by LPCNN, MoDL-QSM, SpiNet-QSM and ISDU-QSMNet: "WideResNet-N"."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...files.errors import InputError

DropoutKind = Literal["element", "channel"]
BiasKind = Literal["none", "last", "all"]


class ElementDropout(nn.Module):
    """Dropout of single elements, as nn.Dropout; on a CPU the draws come as 16-bit words, about ten times faster.

    The probability is then rounded to a multiple of 2^-16 (0.5 stays exact).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Return x (*, any shape) with elements dropped and the others scaled by 1 / (1 - p) while training."""
        if not self.training or self.probability == 0:
            return x
        if x.device.type != "cpu" or x.numel() % 4:
            return functional.dropout(x, self.probability)
        threshold = min(round(self.probability * 2**16), 2**16 - 1)
        words = torch.empty_like(x, dtype=torch.int16)  # the layout of x in memory, dense
        words.as_strided((x.numel(),), (1,)).view(torch.int64).random_(-(2**63), None)
        keep = words >= threshold - 2**15
        return x * keep.to(x.dtype).mul_(2**16 / (2**16 - threshold))

    def extra_repr(self) -> str:
        """Return the probability, for printing."""
        return f"p={self.probability}"


class ResidualBlock(nn.Module):
    """conv 3x3x3, BN, ReLU, dropout, conv 3x3x3, BN, plus the identity, ReLU."""

    def __init__(self, width: int, *, bias: bool, dropout: float, dropout_kind: DropoutKind, bn_eps: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(width, width, 3, padding=1, bias=bias),
            nn.BatchNorm3d(width, eps=bn_eps),
            nn.ReLU(inplace=True),
            ElementDropout(dropout) if dropout_kind == "element" else nn.Dropout3d(dropout),
            nn.Conv3d(width, width, 3, padding=1, bias=bias),
            nn.BatchNorm3d(width, eps=bn_eps),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, x, y, z) to the same shape."""
        return functional.relu(self.layers(x) + x, inplace=True)


class WideResNet(nn.Module):
    """WideResNet-N: conv 3^3 and ReLU, (N - 2) / 2 residual blocks, two 1^3 convs with ReLU, a last 1^3 conv.

    Every convolution has stride 1 and zero "same" padding; there is no skip from input to output. The receptive field
    is
    4 B + 3 voxels wide for B blocks (35 for N = 18).

    Parameters
    ----------
    in_channels, out_channels
        Channels of input and output.
    depth
        N, an even number of at least 4 (18 in MoDL-QSM: 8 blocks).
    width
        Channels inside (32).
    bias
        Convolutions with a bias: "none" (LPCNN, SpiNet, ISDU), "last" (MoDL-QSM) or "all".
    dropout
        Probability, 0 to below 1.
    dropout_kind
        "element" (MoDL-QSM) or "channel" (LPCNN, SpiNet, ISDU).
    bn_eps
        Batch normalisation's epsilon: 1e-5 (torch), 1e-3 for imported Keras weights.

    Source: Feng 2021, fig. 1b; Lai 2020.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        depth: int = 18,
        width: int = 32,
        bias: BiasKind = "none",
        dropout: float = 0.5,
        dropout_kind: DropoutKind = "element",
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if depth < 4 or depth % 2:
            raise InputError(f"depth must be an even number of at least 4, got {depth}: MoDL-QSM uses 18.")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be a probability from 0 to below 1, got {dropout}.")
        if dropout_kind not in ("element", "channel"):
            raise InputError(f'dropout_kind must be "element" or "channel", got {dropout_kind!r}.')
        if bias not in ("none", "last", "all"):
            raise InputError(f'bias must be "none", "last" or "all", got {bias!r}.')
        every = bias == "all"
        blocks = [
            ResidualBlock(width, bias=every, dropout=dropout, dropout_kind=dropout_kind, bn_eps=bn_eps)
            for _ in range((depth - 2) // 2)
        ]
        self.last = nn.Conv3d(width, out_channels, 1, bias=bias != "none")
        self.layers = nn.Sequential(
            nn.Conv3d(in_channels, width, 3, padding=1, bias=every),
            nn.ReLU(inplace=True),
            *blocks,
            nn.Conv3d(width, width, 1, bias=every),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, width, 1, bias=every),
            nn.ReLU(inplace=True),
        )
        self.receptive_radius = 2 * len(blocks) + 1

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, x, y, z) to (batch, out_channels, x, y, z); any size."""
        return self.last(self.layers(x))
