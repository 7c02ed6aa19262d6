"""The head in its own coordinates (mm, RAS+, origin near the AC): tissues, tensor, exterior, labels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .exterior import AIR_TO_BONE, AIR_TO_FAT, AIR_TO_TISSUE, Compartments, coarse_exterior, compartments
from .fibres import STEP, fibre_dyad
from .nuclei import NUCLEI, nucleus_bounds, nucleus_fraction
from .sampling import THREADS, sample_grid, smooth_noise
from .subjects import HeadParameters
from .template import MAP_ORIGIN, MAP_SHAPE, Template, load_template
from .vessels import vein_fraction

Float32Array = NDArray[np.float32]
TISSUES = ("grey", "white", "csf", "vein", "bone", "muscle", "fat")
ROI_LABELS = {
    1: "caudate", 2: "putamen", 3: "pallidum", 4: "thalamus", 5: "red_nucleus", 6: "substantia_nigra", 7: "dentate",
    8: "vein", 9: "white", 10: "grey", 11: "csf",
}  # fmt: skip
# transverse relaxation rates in 1/s at 3 T; iron adds to them (Yao 2009, Langkammer 2010, Wansapura 1999)
_R2STAR = {"grey": 15.0, "white": 20.0, "csf": 2.5, "vein": 55.0, "bone": 400.0, "muscle": 32.0, "fat": 25.0}
_R2STAR_PER_PPM = 150.0
_TEXTURE = 0.1


@dataclass(frozen=True)
class Head:
    """One head on 1 mm maps; every array is indexed by head coordinates through its affine (voxel to mm, 4x4).

    fractions: uint8 (7, x, y, z), 255 for 1, in the order of TISSUES; r2star: 1/s at 3 T; brain: soft mask;
    labels: uint8 by ROI_LABELS; tensor: ppm (6, x, y, z) along head axes on its own smaller grid, relative to the
    mean over the brain; reference: that mean in ppm against CSF; exterior: ppm against air on a 2 mm grid, with the
    whole brain at the susceptibility of water.
    """

    parameters: HeadParameters
    affine: NDArray[np.float64]
    fractions: NDArray[np.uint8]
    r2star: Float32Array
    brain: Float32Array
    labels: NDArray[np.uint8]
    tensor: Float32Array
    tensor_affine: NDArray[np.float64]
    reference: float
    exterior: Float32Array
    exterior_affine: NDArray[np.float64]


def build_head(parameters: HeadParameters) -> Head:
    """Return the head of its parameters; the same parameters give the same head, bit for bit."""
    rng = np.random.default_rng([*parameters.seed, 202])
    template = load_template()
    points = _template_coordinates(parameters, rng)
    warped = _warped(template, points)
    affine = np.eye(4)
    affine[:3, 3] = MAP_ORIGIN
    parts = compartments(parameters, warped.hull, points, rng)
    veins = vein_fraction(rng, warped.hull, np.asarray(MAP_ORIGIN), np.asarray(parameters.scale))
    nuclei = _nuclei(points, parameters)
    white = warped.white * (1 - nuclei.total)
    grey = warped.grey * (1 - nuclei.total) + nuclei.total * warped.brain
    veins *= parts.inside
    fractions = _fractions(grey, white, veins, warped.brain, parts)
    chi, iron = _isotropic_chi(parameters, rng, grey, white, veins, nuclei)
    r2star = _r2star(fractions, iron)
    labels = _labels(fractions, nuclei.labels, warped.brain)
    exterior = _exterior_chi(parts, veins * (1 - warped.brain) * parameters.chi["vein"])
    coarse, coarse_affine = coarse_exterior(exterior, affine)
    tensor, tensor_affine, reference = _tensor(parameters, rng, points, chi, white * (1 - veins), warped.brain)
    return Head(
        parameters,
        affine,
        fractions,
        r2star,
        warped.brain,
        labels,
        tensor,
        tensor_affine,
        reference,
        coarse,
        coarse_affine,
    )


def _template_coordinates(parameters: HeadParameters, rng: np.random.Generator) -> Float32Array:
    """Return the MNI152 mm (3, x, y, z) of every head voxel: a smooth warp after the change of size."""
    points = np.empty((3, *MAP_SHAPE), np.float32)
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = MAP_SHAPE[axis]
        position = (np.arange(MAP_SHAPE[axis]) + MAP_ORIGIN[axis]).reshape(shape)
        displacement = smooth_noise(rng, MAP_SHAPE, 32.0) * np.float32(parameters.warp)
        points[axis] = (position + displacement) / parameters.scale[axis]
    return points


def _warped(template: Template, points: Float32Array) -> Template:
    voxels = points - np.asarray(MAP_ORIGIN, np.float32).reshape(3, 1, 1, 1)

    def sample(volume: Float32Array) -> Float32Array:
        return ndimage.map_coordinates(volume, voxels, order=1, mode="nearest", output=np.float32)

    with ThreadPoolExecutor(THREADS) as pool:
        return Template(*pool.map(sample, (template.grey, template.white, template.brain, template.hull)))


@dataclass(frozen=True)
class _Nuclei:
    total: Float32Array  # fraction of all nuclei together
    chi: Float32Array  # ppm against CSF, times the fraction
    labels: NDArray[np.uint8]


def _nuclei(points: Float32Array, parameters: HeadParameters) -> _Nuclei:
    total, chi = np.zeros(MAP_SHAPE, np.float32), np.zeros(MAP_SHAPE, np.float32)
    labels = np.zeros(MAP_SHAPE, np.uint8)
    number = {name: label for label, name in ROI_LABELS.items()}
    for name in NUCLEI:
        low, high = nucleus_bounds(name)
        box = parameters.box([-high[0], low[1], low[2]], high)
        part = nucleus_fraction(name, [axis[box] for axis in points]) * (1 - total[box])
        total[box] += part
        chi[box] += part * np.float32(parameters.chi[name])
        labels[box][part > 0.5] = number[name]
    return _Nuclei(total, chi, labels)


def _fractions(
    grey: Float32Array, white: Float32Array, veins: Float32Array, brain: Float32Array, parts: Compartments
) -> NDArray[np.uint8]:
    inside = np.maximum(parts.inside, brain)
    rest = 1 - veins
    stack = {
        "grey": grey * rest,
        "white": white * rest,
        "csf": np.clip(inside - grey - white, 0, 1) * rest,
        "vein": veins * inside,
        "bone": parts.bone * (1 - inside),
        "muscle": parts.muscle * (1 - inside),
        "fat": parts.fat * (1 - inside),
    }
    return np.stack([np.rint(255 * np.clip(stack[name], 0, 1)).astype(np.uint8) for name in TISSUES])


def _isotropic_chi(
    parameters: HeadParameters,
    rng: np.random.Generator,
    grey: Float32Array,
    white: Float32Array,
    veins: Float32Array,
    nuclei: _Nuclei,
) -> tuple[Float32Array, Float32Array]:
    """Return the susceptibility in ppm against CSF, and that of the nuclei alone (what iron explains)."""
    coarse, fine = smooth_noise(rng, MAP_SHAPE, 14.0), smooth_noise(rng, MAP_SHAPE, 4.0)
    texture = np.clip(0.8 * coarse + 0.6 * fine, -2.5, 2.5) * np.float32(_TEXTURE)
    cortex = np.clip(grey - nuclei.total, 0, 1) * (parameters.chi["grey"] + 0.06 * texture)
    shift = np.zeros(len(ROI_LABELS) + 1, np.float32)
    drawn = np.unique(nuclei.labels)[1:]
    shift[drawn] = ndimage.mean(texture, nuclei.labels, drawn)
    iron = nuclei.chi * (1 + texture - shift[nuclei.labels])  # texture within a nucleus leaves its mean alone
    tissue = cortex + iron + white * parameters.chi["white"] * (1 + texture)
    return tissue * (1 - veins) + veins * np.float32(parameters.chi["vein"]) * (1 + 0.3 * texture), iron


def _r2star(fractions: NDArray[np.uint8], iron: Float32Array) -> Float32Array:
    total = np.zeros(MAP_SHAPE, np.float32)
    weight = np.zeros(MAP_SHAPE, np.float32)
    for index, name in enumerate(TISSUES):
        total += fractions[index] * np.float32(_R2STAR[name] / 255)
        weight += fractions[index] * np.float32(1 / 255)
    return total / np.maximum(weight, 0.05) + np.float32(_R2STAR_PER_PPM) * np.clip(iron, 0, None)


def _labels(fractions: NDArray[np.uint8], nuclei: NDArray[np.uint8], brain: Float32Array) -> NDArray[np.uint8]:
    labels = np.zeros(MAP_SHAPE, np.uint8)
    pure = {"white": 9, "grey": 10, "csf": 11}
    for name, label in pure.items():
        labels[fractions[TISSUES.index(name)] > 0.7 * 255] = label
    labels = np.where(nuclei > 0, nuclei, labels)
    labels[fractions[TISSUES.index("vein")] > 0.5 * 255] = 8
    return np.where(brain > 0.5, labels, 0).astype(np.uint8)


def _exterior_chi(parts: Compartments, veins: Float32Array) -> Float32Array:
    other = np.clip(1 - parts.inside, 0, 1)
    soft = parts.inside + parts.muscle * other
    return soft * AIR_TO_TISSUE + parts.bone * other * AIR_TO_BONE + parts.fat * other * AIR_TO_FAT + veins


def _tensor(
    parameters: HeadParameters,
    rng: np.random.Generator,
    points: Float32Array,
    chi: Float32Array,
    white: Float32Array,
    brain: Float32Array,
) -> tuple[Float32Array, NDArray[np.float64], float]:
    """Return the tensor on the box of the brain, its affine, and the mean that was taken off its diagonal."""
    reference = float(chi[brain > 0.5].mean(dtype=np.float64))
    occupied = np.argwhere(brain > 0.01)
    low, high = occupied.min(axis=0) - 3, occupied.max(axis=0) + 4
    box = tuple(slice(max(int(a), 0), int(b)) for a, b in zip(low, high, strict=True))
    affine = np.eye(4)
    affine[:3, 3] = [origin + s.start for origin, s in zip(MAP_ORIGIN, box, strict=True)]
    shape = chi[box].shape
    knots = fibre_dyad(rng, [points[axis][::STEP, ::STEP, ::STEP] for axis in range(3)])
    mapping = np.diag([1 / STEP, 1 / STEP, 1 / STEP, 1.0])
    mapping[:3, 3] = [s.start / STEP for s in box]
    strength = white[box] * np.float32(parameters.anisotropy)
    tensor = np.empty((6, *shape), np.float32)
    for component in range(6):
        smooth = ndimage.gaussian_filter(knots[component], 0.8)
        tensor[component] = sample_grid(smooth, mapping, shape, order=1)
        if component in (0, 3, 5):
            tensor[component] = strength * (tensor[component] - np.float32(1 / 3)) + (chi[box] - np.float32(reference))
        else:
            tensor[component] *= strength
    return tensor, affine, reference
