"""Training patches of heads that are turned while training, on the device that trains.

A turned head costs far more than a patch of it (a spline over the head and five Fourier transforms), so several
patches of one may be taken. Everything a patch depends on is drawn from (seed, epoch, index) alone. At 210 x 224 x 160
a tensor takes 0.13 GB, its turn 0.5 GB more while it lasts (benchmarks/augmentation.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from ...files.errors import InputError
from ...pipeline.fits.model.torch_closed_form import torch_device
from ..loading.patch_dataset import TRAINING_CHANNELS, PatchKey
from ..loading.patches import brain_counts, no_patch_message
from ..store.schema import Store, open_store
from ..store.volume import FIELD, MASK
from .rotated_head import RotatableHead, RotatedHead, read_sources
from .rotation import Bounds, draw_rotation, draw_scale, draw_snr

_TURN, _PATCH, _NOISE = 1, 2, 3  # what a random sequence is for
_MADE = {"tensor": (FIELD, "chi33", "deltab", MASK), "cosmos": (FIELD, "chi33", "deltab", "cosmos", MASK)}


class RotatedPatchDataset(Dataset[dict[str, Any]]):
    """Random patches of the randomly turned heads of a split, with labels and field computed anew on a device.

    kind: "tensor" turns the subjects' tensors, "cosmos" the COSMOS maps of the scans (chi33 = COSMOS, deltab = 0).
    A head is chosen with equal odds over subjects, turned about a random axis by an angle within ±max_angle degrees
    and placed with B0 along z; its field is that of the whole head in free space. Items are those of PatchDataset, on
    the device: per channel a float32 tensor (1, p, p, p) in ppm (mask 0 or 1; the field 0 outside the mask), `volume`,
    `corner`, `volume_shape`, `voxel_size`, `b0_direction`. No voxel is copied to the host.

    patch_size in voxels and min_brain (0 to 1): by default those of the store's index; a corner is any with so much
    brain, each as likely, or of those with most where a turned head has none. length: items an epoch, by default as
    many as the index has. patches_per_turn: successive indices that share one turned head; the last turned head is
    kept. snr, scale: bounds of the field's signal-to-noise ratio (root mean square inside the mask over the standard
    deviation of white noise inside it) and of the susceptibility scale, logarithms uniform; None for none.

    Item n depends on the seed, the epoch and n alone, whichever process makes it; a key (epoch, n), which EpochSampler
    gives with with_epoch, says the epoch itself. Only the noise also depends on the kind of the device. With a CUDA
    device use it without worker processes, best through `batch`; on the CPU workers may be forked or spawned, and
    HeadLoader has each head rotated by one of them.

    Raises InputError for options out of range, a split with nothing to turn, or no patch with so much brain.
    """

    def __init__(
        self,
        store: Store | str | Path,
        split: str = "train",
        *,
        kind: str = "tensor",
        channels: Sequence[str] = TRAINING_CHANNELS,
        patch_size: int | None = None,
        min_brain: float | None = None,
        length: int | None = None,
        max_angle: float = 30.0,
        patches_per_turn: int = 1,
        snr: Bounds | None = None,
        scale: Bounds | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        opened = store if isinstance(store, Store) else open_store(store)
        sources = read_sources(opened, split, kind)
        table = opened.patches.get(split)
        self.patch_size = _given("patch_size", patch_size, table and table.patch_size)
        self.min_brain = _given("min_brain", min_brain, table and table.min_brain)
        self.length = _given("length", length, table and len(table))
        self.channels = tuple(channels)
        self.max_angle, self.patches_per_turn = max_angle, patches_per_turn
        self.snr, self.scale, self.seed, self.epoch = snr, scale, seed, 0
        self.device = torch_device(device)
        self._check_options(kind)
        for source in sources:
            best = float(brain_counts(source.mask, self.patch_size).max() / self.patch_size**3)
            if best < self.min_brain:
                name = getattr(source, "id", f"sub-{source.subject}")
                raise InputError(no_patch_message(name, self.patch_size, self.min_brain, best))
        heads = [RotatableHead.of(source, self.device) for source in sources]
        self._heads = [[head for head in heads if head.subject == one] for one in sorted({h.subject for h in heads})]
        self._last: tuple[tuple[int, int], RotatedHead, Tensor] | None = None

    def _check_options(self, kind: str) -> None:
        if unknown := [name for name in self.channels if name not in _MADE[kind]]:
            raise InputError(
                f"turning by {kind!r} makes {', '.join(_MADE[kind])}, but {', '.join(unknown)} was asked for: choose "
                "other channels."
            )
        for name, number in (("length", self.length), ("patches_per_turn", self.patches_per_turn)):
            if number < 1:
                raise InputError(f"{name} must be at least 1, got {number}.")
        if not 0 < self.min_brain <= 1:
            raise InputError(f"min_brain must be above 0 and at most 1, got {self.min_brain:g}.")
        rng = np.random.default_rng(0)
        draw_rotation(self.max_angle, rng)
        for draw, bounds in ((draw_snr, self.snr), (draw_scale, self.scale)):
            if bounds is not None:
                draw(bounds, rng)

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose patches plain indices stand for."""
        self.epoch = epoch

    def __getitem__(self, key: PatchKey) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        if not -self.length <= index < self.length:
            raise IndexError(f"index {index} is out of range for {self.length} patches")
        if self.device.type == "cuda" and get_worker_info() is not None:
            raise InputError(
                f"heads on {self.device} cannot be turned in worker processes: use num_workers=0, or device='cpu'."
            )
        index %= self.length
        with torch.no_grad():
            return self._item(epoch, index)

    def batch(self, keys: Sequence[PatchKey]) -> dict[str, Any]:
        """Return the items of some keys as a DataLoader would collate them, all on the device."""
        return default_collate([self[key] for key in keys])

    def turned(self, key: PatchKey) -> RotatedHead:
        """Return the whole turned head that an item is cropped from, scaled but without noise."""
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        return self._turned(epoch, index // self.patches_per_turn)[0]

    def rotation(self, key: PatchKey) -> tuple[str, NDArray[np.float64], float]:
        """Return what is turned for an item (sub-01, or the volume of a COSMOS map), its rotation (3, 3), the scale."""
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        head, rotation, scale = self._drawn(epoch, index // self.patches_per_turn)
        return head.id, rotation, scale

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def _drawn(self, epoch: int, turn: int) -> tuple[RotatableHead, NDArray[np.float64], float]:
        rng = np.random.default_rng([self.seed, epoch, turn, _TURN])
        of_subject = self._heads[int(rng.integers(len(self._heads)))]
        head = of_subject[int(rng.integers(len(of_subject)))]
        rotation = draw_rotation(self.max_angle, rng)
        return head, rotation, 1.0 if self.scale is None else draw_scale(self.scale, rng)

    def _turned(self, epoch: int, turn: int) -> tuple[RotatedHead, Tensor]:
        """Return a turned head, and how many of its corners are admissible up to each, in order."""
        if self._last is None or self._last[0] != (epoch, turn):
            self._last = None  # frees it before the next is made
            head, rotation, scale = self._drawn(epoch, turn)
            found = head.turn(rotation)
            if scale != 1:
                for one in {id(values): values for values in found.maps.values()}.values():
                    one.mul_(scale)
            self._last = ((epoch, turn), found, admissible_before(found.mask, self.patch_size, self.min_brain))
        return self._last[1:]

    def _item(self, epoch: int, index: int) -> dict[str, Any]:
        turn = index // self.patches_per_turn
        head, before = self._turned(epoch, turn)
        shape = head.mask.shape
        rng = np.random.default_rng([self.seed, epoch, index, _PATCH])
        corner = draw_corner(before, [n - self.patch_size + 1 for n in shape], float(rng.random()))
        voxels = corner[:, None] + torch.arange(self.patch_size, device=self.device)
        box = voxels[0][:, None, None], voxels[1][:, None], voxels[2]
        mask = head.mask[box].float()[None]
        patches = {MASK: mask}
        for name in self.channels:
            if name != MASK:
                patches[name] = head.maps[name][box][None] if name in head.maps else torch.zeros_like(mask)
        if FIELD in patches:
            patches[FIELD] = self._with_noise(patches[FIELD], head, (epoch, index), rng) * mask
        source = self._drawn(epoch, turn)[0].id
        return {
            **{name: patches[name] for name in self.channels},
            "volume": f"{source}/turned-{epoch}-{turn}",
            "corner": corner,
            "volume_shape": torch.tensor(shape, device=self.device),
            "voxel_size": torch.tensor(head.geometry.voxel_size, dtype=torch.float32, device=self.device),
            "b0_direction": torch.tensor(head.geometry.b0_direction, dtype=torch.float32, device=self.device),
        }

    def _with_noise(self, field: Tensor, head: RotatedHead, key: tuple[int, int], rng: np.random.Generator) -> Tensor:
        if self.snr is None:
            return field
        level = head.field_rms / draw_snr(self.snr, rng)
        words = np.random.SeedSequence([self.seed, *key, _NOISE]).generate_state(1, np.uint64)
        generator = torch.Generator(self.device).manual_seed(int(words[0] >> np.uint64(1)))
        return field + level * torch.randn(field.shape, generator=generator, device=self.device)


def admissible_before(mask: Tensor, patch_size: int, min_brain: float) -> Tensor:
    """Return how many admissible corners there are up to each corner, (x-p+1) * (y-p+1) * (z-p+1) int32, in order.

    Admissible: at least the fraction min_brain of the patch lies in the mask (x, y, z), or as much as in any patch.
    """
    counts = mask.to(torch.int32)
    for axis in range(3):
        running = torch.cumsum(counts, axis, dtype=torch.int32)
        n = mask.shape[axis] - patch_size + 1
        counts = running.narrow(axis, patch_size - 1, n).clone()
        counts.narrow(axis, 1, n - 1).sub_(running.narrow(axis, 0, n - 1))
    wanted = int(np.ceil(min_brain * patch_size**3 - 1e-6))
    return torch.cumsum((counts >= counts.max().clamp(max=wanted)).flatten(), 0, dtype=torch.int32)


def draw_corner(before: Tensor, corners: Sequence[int], share: float) -> Tensor:
    """Return one admissible corner (3,) int64 for a number from 0 up to 1; before: from admissible_before.

    corners: the number of corners along each axis. Stays on the device of `before`.
    """
    number = (before[-1].double() * share).to(torch.int32).clamp(max=before[-1] - 1)
    flat = torch.searchsorted(before, number + 1)
    return torch.stack([flat // (corners[1] * corners[2]), flat // corners[2] % corners[1], flat % corners[2]])


def _given(name: str, given: Any, of_index: Any) -> Any:
    if given is None and of_index is None:
        raise InputError(f"{name} must be given, as the store has no patch index for this split.")
    return of_index if given is None else given
