"""A split held on the device that trains: batches are cropped there, without a file and without a copy to the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import default_collate

from ..augmentation.torch_rotation import RotatedPatchDataset
from .patch_dataset import Patches, PatchKey, check_room, physical_memory


class DevicePatches:
    """The volumes of a split on a device, float32, and the batches cropped from them.

    patches: which patches there are, and of which channels; device: cpu too. Raises InputError where the volumes are
    larger than the free memory of the device.
    """

    def __init__(self, patches: Patches, device: torch.device | str) -> None:
        self.patches = patches
        self.device = torch.device(device)
        store, channels = patches.store, patches.channels
        check_room(store, patches.volumes, len(channels), free_bytes(self.device), str(self.device))
        self._volumes = {
            volume.id: torch.from_numpy(patches.reader.stack(volume.id, channels)).to(self.device)
            for volume in patches.volumes
        }

    def batch(self, keys: Sequence[PatchKey]) -> dict[str, Any]:
        """Return the patches of some keys as a DataLoader would collate them, the voxels on the device."""
        size = self.patches.patch_size
        places = [self.patches.place(key) for key in keys]
        crops = []
        for place in places:
            box = tuple(slice(start, start + size) for start in place.corner)
            crops.append(self._volumes[place.volume.id][(slice(None), *box)])
        stack = torch.stack(crops)
        return {
            **{name: stack[:, number : number + 1] for number, name in enumerate(self.patches.channels)},
            **default_collate([self.patches.describe(place) for place in places]),
        }


class DeviceLoader:
    """Takes the place of a DataLoader: yields a batch for every list of keys that `batches` gives.

    held: what makes the batches on the device, DevicePatches or a RotatedPatchDataset; sampler: told the epoch by
    whoever trains, where it has set_epoch.
    """

    def __init__(
        self, held: DevicePatches | RotatedPatchDataset, batches: Iterable[Sequence[PatchKey]], sampler: Any = None
    ) -> None:
        self.held = held
        self.dataset = held.patches if isinstance(held, DevicePatches) else held
        self.batch_sampler = batches
        self.sampler = sampler

    def __len__(self) -> int:
        assert isinstance(self.batch_sampler, Sized)
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.held.batch, self.batch_sampler)


def free_bytes(device: torch.device) -> int:
    """Return the bytes free on a GPU, or those of this machine's memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else physical_memory()
