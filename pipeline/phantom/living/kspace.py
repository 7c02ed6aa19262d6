"""From the signal of cells finer than the voxels to the image of a scan: k-space, its lines in time, its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ...computing.threads import fft_workers

Complex64Array = NDArray[np.complex64]
Float32Array = NDArray[np.float32]
_SIGMA = 0.58  # voxel edges: with the cells' own width the point spread that the ideal scan has


def voxel_spectrum(cells: Complex64Array, shape: Sequence[int]) -> Complex64Array:
    """Return the spectrum (x, y, z) on the voxels' grid of a signal on cells, a whole number of them a voxel edge.

    What lies beyond the voxels' Nyquist frequency is not read. The inverse FFT is the mean signal at voxel centres.
    """
    spectrum = fft.fftn(cells, workers=fft_workers(), overwrite_x=True)
    for axis, count in enumerate(shape):
        many = spectrum.shape[axis]
        frequency = np.rint(np.fft.fftfreq(count) * count).astype(int)
        spectrum = np.take(spectrum, frequency % many, axis=axis)
        middle = (many / count - 1) / 2  # of a voxel, in cells from its first
        ramp = np.exp(2j * np.pi * frequency * middle / many) * (count / many)
        spectrum *= _along(axis, ramp.astype(np.complex64))
    return spectrum


def point_spread(shape: Sequence[int], sharp: float) -> Float32Array:
    """Return the filter of a spectrum (x, y, z): a Gaussian where sharp is 0, none where it is 1, a mixture between."""
    gauss = np.ones(tuple(shape), np.float32)
    for axis, count in enumerate(shape):
        gauss *= _along(axis, np.exp(-2 * (np.pi * _SIGMA * np.fft.fftfreq(count)) ** 2).astype(np.float32))
    return np.float32(sharp) + np.float32(1 - sharp) * gauss


def _along(axis: int, values: NDArray[Any]) -> NDArray[Any]:
    shape = [1, 1, 1]
    shape[axis] = len(values)
    return values.reshape(shape)


def breathed(
    spectrum: Complex64Array, phase: Float32Array, breath: Float32Array, lower: Float32Array
) -> Complex64Array:
    """Return the spectrum of an image whose lines were read while the field changed.

    phase: radians of each line at the isocentre, length 1 along the readout; breath: the part of it that depends on
    the place; lower: (x, y, z) how much more of that part a voxel has than the isocentre, as a share, which is taken
    to first order.
    """
    image = fft.ifftn(spectrum, workers=fft_workers())
    image *= lower
    slope = fft.fftn(image, workers=fft_workers(), overwrite_x=True)
    slope *= np.complex64(1j) * breath
    slope += spectrum
    slope *= np.exp(1j * phase).astype(np.complex64)
    return slope


def image_of(spectrum: Complex64Array) -> Complex64Array:
    """Return the image of a spectrum, which is overwritten."""
    return fft.ifftn(spectrum, workers=fft_workers(), overwrite_x=True)
