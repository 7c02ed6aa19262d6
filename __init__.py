"""chi33: raw multi-orientation gradient-echo scans to susceptibility labels, stores and trained QSM networks.

Whatever is listed in `__all__` is loaded when it is first used. Arrays are (x, y, z), further axes come first; the
arguments are always field or fields, mask or masks, voxel size, B0 direction, then keywords. Susceptibility is in ppm,
fields are in ppm of B0, paramagnetic positive; B0 directions are unit vectors along the axes of the array.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .datasets.loading.data_module import StoreDataModule
    from .datasets.loading.loaders import LoaderConfig
    from .datasets.store.schema import open_store
    from .files.errors import Chi33Warning, InputError, StepError
    from .pipeline.background import ismv, lbv, pdf, remove_background, resharp, vsharp
    from .pipeline.fits.arrays import cosmos, single_step, sti
    from .pipeline.fits.result import Fit
    from .pipeline.frames import b0_direction, voxel_size
    from .pipeline.images.rotate import rotate_tensor
    from .pipeline.inversions.tkd import tkd
    from .pipeline.phase.echoes import total_field
    from .pipeline.phase.unwrap import unwrap
    from .pipeline.physics.prior import Prior
    from .pipeline.physics.tensor_field import delta_b_prime, dipole_field, tensor_field
    from .pipeline.physics.tensors import chi33 as chi33_map
    from .training.config import TrainConfig
    from .training.evaluation.evaluate import evaluate
    from .training.inference.predict import predict, predict_maps
    from .training.inference.weights import load_network
    from .training.train import train

_HOMES = {
    "datasets.loading.data_module": ("StoreDataModule",),
    "datasets.loading.loaders": ("LoaderConfig",),
    "datasets.store.schema": ("open_store",),
    "files.errors": ("Chi33Warning", "InputError", "StepError"),
    "pipeline.background": ("ismv", "lbv", "pdf", "remove_background", "resharp", "vsharp"),
    "pipeline.fits.arrays": ("cosmos", "single_step", "sti"),
    "pipeline.fits.result": ("Fit",),
    "pipeline.frames": ("b0_direction", "voxel_size"),
    "pipeline.images.rotate": ("rotate_tensor",),
    "pipeline.inversions.tkd": ("tkd",),
    "pipeline.phase.echoes": ("total_field",),
    "pipeline.phase.unwrap": ("unwrap",),
    "pipeline.physics.prior": ("Prior",),
    "pipeline.physics.tensor_field": ("delta_b_prime", "dipole_field", "tensor_field"),
    "pipeline.physics.tensors": ("chi33_map",),
    "training.config": ("TrainConfig",),
    "training.evaluation.evaluate": ("evaluate",),
    "training.inference.predict": ("predict", "predict_maps"),
    "training.inference.weights": ("load_network",),
    "training.train": ("train",),
}
_OTHER_NAMES = {"chi33_map": "chi33"}  # where they live
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Chi33Warning",
    "Fit",
    "InputError",
    "LoaderConfig",
    "Prior",
    "StepError",
    "StoreDataModule",
    "TrainConfig",
    "__version__",
    "b0_direction",
    "chi33_map",
    "cosmos",
    "delta_b_prime",
    "dipole_field",
    "evaluate",
    "ismv",
    "lbv",
    "load_network",
    "open_store",
    "pdf",
    "predict",
    "predict_maps",
    "remove_background",
    "resharp",
    "rotate_tensor",
    "single_step",
    "sti",
    "tensor_field",
    "tkd",
    "total_field",
    "train",
    "unwrap",
    "voxel_size",
    "vsharp",
]


def __getattr__(name: str) -> Any:
    """Load a public name on its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{_MODULES[name]}", __name__), _OTHER_NAMES.get(name, name))
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
