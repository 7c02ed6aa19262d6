"""The Lightning module: one training step of an unrolled network on patches of a store."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .config import TrainConfig
from .inference.weights import CHI33_AND_DELTAB, weights_entry
from .networks.modl_qsm import Normalisation, channelwise_l1
from .networks.registry import find_model
from .physics.patches import DipolePhysics, DipolePhysicsFactory, FullGrid

Batch = dict[str, Any]


class UnrolledModule(LightningModule):
    """An unrolled network with its loss, its physics and Adam.

    config: how it trains; normalisation: of the labels in ppm, kept with the weights; targets: the labels of its first
    channels, chi33 and deltab, or one alone. A batch is what PatchDataset gives, collated: field, the targets, mask
    (batch, 1, x, y, z) in ppm, volume_shape, voxel_size and b0_direction.
    """

    def __init__(
        self, config: TrainConfig, normalisation: Normalisation, targets: tuple[str, ...] = CHI33_AND_DELTAB
    ) -> None:
        super().__init__()
        self.config = config
        self.targets = targets
        self.network = find_model(config.model).build(config.network, normalisation)
        self.physics = DipolePhysicsFactory(config.patch_rule)
        self.plateau: ReduceLROnPlateau | None = None

    def batch_physics(self, batch: Batch) -> DipolePhysics:
        """Return the dipole of a batch, by each patch's own volume grid, voxel size and B0 direction."""
        columns = (batch[name].tolist() for name in ("volume_shape", "voxel_size", "b0_direction"))
        grids = [FullGrid.of(shape, size, h) for shape, size, h in zip(*columns, strict=True)]
        return self.physics(grids, batch["field"].shape[-3:], batch["field"].device)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean absolute errors of the normalised, masked targets, summed (section 2.2)."""
        output = self.network(batch["field"], batch["mask"], self.batch_physics(batch))
        return channelwise_l1(output, self.target(batch))

    def target(self, batch: Batch) -> Tensor:
        """Return the normalised, masked labels (batch, targets, x, y, z)."""
        return self.network.normalise(torch.cat([batch[name] for name in self.targets], dim=1), batch["mask"])

    def weights(self) -> dict[str, Any]:
        """Return what a weights file holds of the network."""
        return weights_entry(self.config.model, self.config.network, self.network, self.targets)

    def zero_map_loss(self, batch: Batch) -> Tensor:
        """Return the loss of predicting 0 ppm everywhere."""
        target = self.target(batch)
        return channelwise_l1(self.network.normalise(torch.zeros_like(target), batch["mask"]), target)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, with the L2 penalty of the published code where it is asked for."""
        loss = self.loss(batch)
        if self.config.l2 > 0:
            kernels = (m.weight for m in self.network.modules() if isinstance(m, nn.Conv3d))
            loss = loss + self.config.l2 * torch.stack([kernel.square().sum() for kernel in kernels]).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam; the learning rate falls by `plateau`, which the recorder steps once an epoch."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate)
        self.plateau = ReduceLROnPlateau(
            optimizer, factor=self.config.plateau_factor, patience=self.config.plateau_patience
        )
        return optimizer
