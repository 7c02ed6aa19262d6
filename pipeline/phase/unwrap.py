"""Phase unwrapping of multi-echo gradient-echo data: ROMEO (through niimath) and Laplacian."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from ...files.errors import InputError, StepError
from ..computing.threads import fft_workers
from ..physics.dipole import check_finite, check_grid


def check_echoes(
    phase: ArrayLike, magnitude: ArrayLike, echo_times: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Return phase and magnitude as float32 (echo, x, y, z) and the echo times (echo,) in s, after checking them."""
    waves, sizes = np.asarray(phase, np.float32), np.asarray(magnitude, np.float32)
    times = np.asarray(echo_times, np.float64)
    check_finite(waves, "phase")
    check_finite(sizes, "magnitude")
    if waves.ndim != 4 or waves.shape != sizes.shape:
        raise InputError(f"phase {waves.shape} and magnitude {sizes.shape} must both be (echo, x, y, z).")
    if times.shape != (len(waves),):
        raise InputError(f"{len(waves)} echoes but {times.size} echo times were given: give one a echo, in seconds.")
    if not np.isfinite(times).all() or times.min() <= 0 or (np.diff(times) <= 0).any():
        raise InputError(f"echo times must be positive and ascending seconds, got {times.tolist()}.")
    if times.max() > 1:
        raise InputError(f"echo times must be in seconds, got {times.max():g}: divide milliseconds by 1000.")
    return waves, sizes, times


def unwrap(
    phase: ArrayLike,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    *,
    magnitude: ArrayLike,
    echo_times: Sequence[float],
    method: Literal["romeo", "laplacian"] = "romeo",
) -> NDArray[np.float32]:
    """Unwrap the phase of all echoes of a scan.

    Parameters
    ----------
    phase
        Wrapped, in radians, (echo, x, y, z).
    mask
        (x, y, z), non-zero in the brain.
    voxel_size
        (3,) in mm.
    magnitude
        (echo, x, y, z).
    echo_times
        In s, rising, one of each echo.
    method
        "romeo" (spatially, then from echo to echo) or "laplacian" (each echo by itself, up to a constant).

    Returns
    -------
        Phase in radians (echo, x, y, z), 0 outside the mask.

    Raises
    ------
    InputError
        Where shapes and echo times do not fit, or there is no such method.
    StepError
        Where ROMEO cannot be run.

    References
    ----------
    Dymerska 2021, Magn Reson Med 85:2294 (ROMEO); Schofield and Zhu 2003, Opt Lett 28:1194 (Laplacian).
    """
    if method not in ("romeo", "laplacian"):
        raise InputError(f"there is no unwrapping {method!r}: choose romeo or laplacian.")
    if method == "romeo":
        return unwrap_romeo(phase, magnitude, echo_times, mask)
    waves, _, _ = check_echoes(phase, magnitude, echo_times)
    return unwrap_laplacian(waves, voxel_size) * np.asarray(mask, bool)


def unwrap_romeo(
    phase: ArrayLike,
    magnitude: ArrayLike,
    echo_times: Sequence[float],
    mask: ArrayLike,
    *,
    template: int | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Return the unwrapped phase (echo, x, y, z) in radians inside a mask, by ROMEO; 0 outside.

    phase: wrapped, radians, (echo, x, y, z); magnitude: same shape; echo_times in s; mask: (x, y, z);
    template: the echo (from 0) unwrapped in space, the others follow it in time: the first by default.
    Source: Dymerska 2021, as ported in niimath. Raises StepError where niimath fails.
    """
    waves, sizes, times = check_echoes(phase, magnitude, echo_times)
    inside = np.asarray(mask, bool)
    if inside.shape != waves.shape[1:]:
        raise InputError(f"mask has shape {inside.shape}, but the phase has {waves.shape[1:]}.")
    if not inside.any():
        raise InputError("the mask is empty, so there is nothing to unwrap: check the brain mask.")
    if template is not None and not 0 <= template < len(times):
        raise InputError(f"template must be an echo from 0 to {len(times) - 1}, got {template}.")
    with tempfile.TemporaryDirectory(prefix="chi33-romeo-") as folder:
        names = {key: Path(folder) / f"{key}.nii" for key in ("phase", "mag", "mask", "out")}
        for key, array in (("phase", waves), ("mag", sizes), ("mask", inside.astype(np.float32))):
            volume = np.moveaxis(array, 0, -1) if array.ndim == 4 else array
            if volume.shape[-1] == 1 and volume.ndim == 4:
                volume = volume[..., 0]
            nib.save(nib.Nifti1Image(volume, np.eye(4)), names[key])
        options = ["-k", str(names["mask"]), "-no-phase-rescale", "-no-mask-out"]
        if len(times) > 1:
            options += ["-t", ",".join(f"{1e3 * t:.6g}" for t in times), "-template", str((template or 0) + 1)]
        _niimath([str(names["phase"]), "-romeo", str(names["mag"]), *options, str(names["out"])], threads)
        result = nib.Nifti1Image.from_filename(names["out"]).get_fdata(dtype=np.float32)
    result = np.moveaxis(result.reshape(*inside.shape, -1), -1, 0)
    return np.ascontiguousarray(result) * inside


def _niimath(arguments: list[str], threads: int) -> None:
    import niimath

    environment = {**os.environ, "FSLOUTPUTTYPE": "NIFTI", "OMP_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run([niimath.bin, *arguments], capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        raise StepError(
            f"ROMEO unwrapping failed, niimath cannot be run ({error}): reinstall niimath, or try --unwrap laplacian."
        ) from error
    if done.returncode != 0 or not Path(arguments[-1]).exists():
        detail = (done.stderr or done.stdout).strip().splitlines()
        raise StepError(
            f"ROMEO unwrapping failed (niimath exit code {done.returncode}): "
            f"{detail[-1] if detail else 'no message'}; try --unwrap laplacian."
        )


def unwrap_laplacian(phase: ArrayLike, voxel_size: ArrayLike) -> NDArray[np.float32]:
    """Return the phase (..., x, y, z) in radians unwrapped by its Laplacian, up to a constant.

    phase: wrapped, radians; voxel_size: (3,) mm. The Laplacian is the divergence of the wrapped differences
    of neighbours; it is inverted by a cosine transform (no flux through the edges), so that phase without residues
    comes back exactly. Source: Schofield and Zhu 2003, in its least-squares form (Ghiglia and Romero 1994).
    """
    waves = np.asarray(phase, np.float32)
    check_finite(waves, "phase")
    shape, size = check_grid(waves.shape[-3:], voxel_size)
    eigenvalues = np.zeros(shape)
    for axis in range(3):
        angle = np.pi * np.arange(shape[axis]) / shape[axis]
        term = (2 * np.cos(angle) - 2) / size[axis] ** 2
        eigenvalues = eigenvalues + term.reshape([-1 if a == axis else 1 for a in range(3)])
    eigenvalues[0, 0, 0] = 1
    result = np.empty_like(waves)
    for index in np.ndindex(waves.shape[:-3]):
        spectrum = fft.dctn(_wrapped_laplacian(waves[index], size), type=2, workers=fft_workers()) / eigenvalues
        spectrum[0, 0, 0] = 0
        result[index] = fft.idctn(spectrum, type=2, workers=fft_workers())
    return result


def _wrapped_laplacian(wave: NDArray[np.float32], size: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the divergence of the wrapped phase differences, zero flux through the edges."""
    out = np.zeros(wave.shape, np.float32)
    for axis in range(3):
        step = np.diff(wave, axis=axis)
        step -= (2 * np.pi) * np.round(step / (2 * np.pi))
        step /= size[axis] ** 2
        before = [slice(None)] * 3
        after = [slice(None)] * 3
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        out[tuple(before)] += step
        out[tuple(after)] -= step
    return out
