"""MoDL-QSM: chi33 and delta B' from one local field map by unrolled proximal gradient descent (Feng 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...files.errors import InputError
from ..physics.patches import Chi33DeltaBPhysics, DipolePhysics
from .backbone import BiasKind, DropoutKind, WideResNet


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation in ppm of the channels (chi33, delta B') over the training masks."""

    mean: tuple[float, float]
    std: tuple[float, float]

    def __post_init__(self) -> None:
        """Check the numbers."""
        if len(self.mean) != 2 or len(self.std) != 2:
            raise InputError(f"the normalisation needs two means and two deviations, got {self.mean} and {self.std}.")
        if not all(abs(m) < float("inf") for m in self.mean) or not all(0 < s < float("inf") for s in self.std):
            raise InputError(
                f"the normalisation needs finite means and positive deviations, got {self.mean} and {self.std}: "
                "rebuild the store from label maps that are not constant."
            )


MODL_QSM_PUBLISHED = Normalisation((-0.00225653, -0.00048529), (0.026075, 0.00408228))


class ModlQsm(nn.Module):
    """The unrolled network X^k = CNN(X^{k-1} - t A^H (A X^{k-1} - field)), X^0 = 0 (MoDL-QSM eqs. 11-13, fig. 1a).

    447,235 trainable parameters by default: the shared CNN, the biases of its last convolution and one step t.

    Parameters
    ----------
    normalisation
        Statistics in ppm of the two channels, kept with the weights.
    iterations
        K, the number of unrolled iterations (3).
    step
        Start of the step t (4.0).
    step_per_iteration
        One learnable t_k per iteration, as the paper writes, instead of one for all, as its code does.
    depth, dropout, dropout_kind, bias, bn_eps
        Of the CNN, see WideResNet.
    start_at_mean
        Start the last convolution at 0, so that the untrained network predicts the channel means; learning is faster
        then. The paper does not say how it starts; False draws it at random as the others.
    """

    def __init__(
        self,
        normalisation: Normalisation,
        *,
        iterations: int = 3,
        step: float = 4.0,
        step_per_iteration: bool = False,
        depth: int = 18,
        dropout: float = 0.5,
        dropout_kind: DropoutKind = "element",
        bias: BiasKind = "last",
        bn_eps: float = 1e-5,
        start_at_mean: bool = True,
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise InputError(f"iterations must be at least 1, got {iterations}: MoDL-QSM uses 3.")
        self.iterations = iterations
        self.cnn = WideResNet(2, 2, depth=depth, bias=bias, dropout=dropout, dropout_kind=dropout_kind, bn_eps=bn_eps)
        if start_at_mean:
            nn.init.zeros_(self.cnn.last.weight)
            if self.cnn.last.bias is not None:
                nn.init.zeros_(self.cnn.last.bias)
        self.step = nn.Parameter(torch.full((iterations if step_per_iteration else 1,), float(step)))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(normalisation.mean, dtype=torch.float32).view(1, 2, 1, 1, 1))
        self.register_buffer("std", torch.tensor(normalisation.std, dtype=torch.float32).view(1, 2, 1, 1, 1))
        # The layout that oneDNN and cuDNN convolve fastest.
        self.cnn.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def normalise(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (x - mean) / std inside the mask and 0 outside, (batch, 1 or 2, x, y, z), for x in ppm.

        One channel is the first.
        """
        channels = x.shape[1]
        return (x - self.mean[:, :channels]) / self.std[:, :channels] * mask

    def denormalise(self, x: Tensor) -> Tensor:
        """Return x * std + mean in ppm, (batch, 2, x, y, z)."""
        return x * self.std + self.mean

    def forward(self, field: Tensor, mask: Tensor, dipole: DipolePhysics) -> Tensor:
        """Return the normalised, masked [chi33, delta B'], (batch, 2, x, y, z).

        field: local field in ppm of B0, (batch, 1, x, y, z), not normalised; mask: the same shape, 0 or 1; dipole: the
        physics of the batch. `denormalise` gives ppm; outside the mask that is the channel mean.
        """
        physics = Chi33DeltaBPhysics(dipole)
        steps = self.step.expand(self.iterations)
        x = torch.zeros_like(field).expand(-1, 2, -1, -1, -1)  # X^0
        for t in steps:
            z = x - t * physics.gradient(x, field)  # eq. 13
            output = self.cnn(self.normalise(z, mask)).float() * mask
            x = self.denormalise(output)
        return output


def channelwise_l1(output: Tensor, target: Tensor) -> Tensor:
    """Return the sum of the mean absolute errors of chi33 and of delta B', each over its own channel (section 2.2).

    output: (batch, 2, x, y, z), target: the same or (batch, 1, x, y, z) where the second channel has no target; both
    normalised and masked.
    """
    channels = target.shape[1]
    error = (output[:, :channels] - target).abs()
    return torch.stack([error[:, channel].mean() for channel in range(channels)]).sum()
