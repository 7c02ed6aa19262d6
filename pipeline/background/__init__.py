"""Background field removal, one family a file: method(total_field, mask, voxel_size, *, settings) -> LocalField.

| method | takes | of simulated brains |
| --- | --- | --- |
| vsharp | a field without sources is its spherical mean | fast, sound at the depth of the sphere |
| resharp | the same with one radius, and the smallest local field | valid nearer to the edge |
| pdf | dipoles outside and inside the mask | the most accurate, the slowest |
| lbv | the local field is nothing at the edge | the fastest, at the mercy of the edge |
| ismv | the same in a rim, by spherical means | between lbv and resharp |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from numpy.typing import ArrayLike

from ...files.errors import InputError
from ..physics.smv_kernels import check_radii, smv_kernel
from .ismv import ismv
from .lbv import lbv
from .local_field import LocalField
from .of_fit import field_of_fit
from .pdf import pdf
from .resharp import resharp, resharp_radius
from .vsharp import LARGEST_RADIUS, RADIUS_STEP, SMALLEST_RADIUS, THRESHOLD, vsharp, vsharp_radii

__all__ = [
    "BACKGROUND_METHODS",
    "LARGEST_RADIUS",
    "RADIUS_STEP",
    "SMALLEST_RADIUS",
    "THRESHOLD",
    "LocalField",
    "check_radii",
    "field_of_fit",
    "ismv",
    "lbv",
    "pdf",
    "remove_background",
    "resharp",
    "resharp_radius",
    "smv_kernel",
    "vsharp",
    "vsharp_radii",
]

BACKGROUND_METHODS = ("vsharp", "resharp", "ismv", "pdf", "lbv")
_METHODS: dict[str, Callable[..., LocalField]] = {
    "vsharp": vsharp, "resharp": resharp, "ismv": ismv, "pdf": pdf, "lbv": lbv,
}  # fmt: skip


def remove_background(
    method: str,
    total_field: ArrayLike,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    *,
    b0_direction: ArrayLike,
    **settings: Any,
) -> LocalField:
    """Remove the background by a method of BACKGROUND_METHODS.

    Parameters
    ----------
    method
        vsharp, resharp, ismv, pdf or lbv.
    total_field
        (x, y, z) in ppm of B0.
    mask
        (x, y, z), non-zero where the field is known.
    voxel_size
        (3,) in mm.
    b0_direction
        Unit vector (3,) along the axes of the grid, which pdf alone uses.
    **settings
        The method's own keywords.

    Returns
    -------
        A `LocalField`: `.field` (x, y, z) in ppm of B0, `.mask` where it is valid.

    Raises
    ------
    InputError
        Where there is no such method or setting, and where the method raises it.
    """
    if method not in _METHODS:
        raise InputError(f"there is no background removal {method!r}: choose one of {', '.join(BACKGROUND_METHODS)}.")
    parameters = inspect.signature(_METHODS[method]).parameters
    known = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in settings:
        if name not in known:
            raise InputError(f"{method} has no setting {name!r}: it has {', '.join(known)}.")
    if "b0_direction" in parameters:
        settings["b0_direction"] = b0_direction
    return _METHODS[method](total_field, mask, voxel_size, **settings)
