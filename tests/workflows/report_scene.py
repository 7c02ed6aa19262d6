"""Derivatives of an ellipsoid head for the tests of the report, and the page read back."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
from chi33.files.derivatives import Derivatives, write_image, write_transform
from chi33.workflows.figures.maps import Planes
from chi33.workflows.report.measures import ScanMeasures
from scipy import ndimage
from scipy.spatial.transform import Rotation

SHAPE, EDGE = (36, 42, 34), 5.0
HALF_AXES = (65.0, 78.0, 58.0)  # mm, 1232 ml
TILTS = ((0, 0), (25, 0), (-20, 10), (5, 25), (10, -24), (20, 20))  # degrees about x and y
PROVENANCE = {
    "backend": "builtin",
    "tools": {"SimpleITK": "2.5.2"},
    "parameters": {"unwrap": "romeo", "bet_threshold": 0.5, "vsharp_largest_radius": 12.0, "vsharp_threshold": 0.05,
                   "fit": "closed", "prior_iso": 0.03, "prior_aniso": 0.004, "phase_sign": 1},
    "stages": [{"stage": "masks", "seconds": 12.25}, {"stage": "fit", "seconds": 30.5}],
    "began": "2026-01-02T10:00:00+00:00", "ended": "2026-01-02T10:01:13+00:00",
}  # fmt: skip


def head_affine() -> np.ndarray:
    affine = np.diag([-EDGE, EDGE, EDGE, 1.0])
    affine[:3, 3] = [(SHAPE[0] - 1) / 2 * EDGE, -(SHAPE[1] - 1) / 2 * EDGE, -(SHAPE[2] - 1) / 2 * EDGE]
    return affine


def ellipsoid(shrink: float = 0.0) -> np.ndarray:
    x, y, z = (np.arange(n, dtype=float) for n in SHAPE)
    at = [(axis - (n - 1) / 2) * EDGE for axis, n in zip((x, y, z), SHAPE, strict=True)]
    a, b, c = (half - shrink for half in HALF_AXES)
    return (at[0][:, None, None] / a) ** 2 + (at[1][None, :, None] / b) ** 2 + (at[2] / c) ** 2 < 1


def smooth(seed: int, std: float, mask: np.ndarray) -> np.ndarray:
    volume = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.2)
    return volume / volume[mask].std() * std * mask


def chi_map(seed: int, mask: np.ndarray) -> np.ndarray:
    """A map with the skew of a brain: weak and diamagnetic mostly, some strong paramagnetic sources."""
    volume = smooth(seed, 1.0, mask)
    chi = np.where(volume > 1.2, 0.1 * (volume - 1.2) + 0.05, 0.02 * volume)
    return (chi - chi[mask].mean()) * mask


def tilted(tilt: tuple[float, float]) -> np.ndarray:
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_euler("xy", tilt, degrees=True).as_matrix()
    return transform


def write_scan(
    files: Derivatives, label: str, transform: np.ndarray, seed: int, *, only: tuple[str, ...] | None = None
) -> None:
    """Write masks, maps (all, or only some) and the transform of a scan."""
    brain, local = ellipsoid(), ellipsoid(3.0)
    chi = chi_map(0, local)
    for desc, mask in (("brain", brain), ("local", local)):
        write_image(files.path(label, suffix="mask", desc=desc), mask, head_affine(), {}, dtype=np.uint8)
    maps = {
        ("magnitude", "MEGRE"): 100 + smooth(seed, 20, brain),
        ("total", "fieldmap"): smooth(seed + 1, 0.1, brain),
        ("local", "fieldmap"): smooth(seed + 2, 0.02, local),
        ("chi33", "Chimap"): chi,
        ("deltab", "fieldmap"): smooth(seed + 3, 0.003, local),
        ("cosmos", "Chimap"): chi + smooth(seed + 4, 0.005, local),
        ("residual", "fieldmap"): smooth(seed + 5, 0.005, local),
    }
    for (desc, suffix), volume in maps.items():
        if only is None or desc in only:
            write_image(files.path(label, suffix=suffix, desc=desc), volume, head_affine(), {"Units": "ppm"})
    write_transform(files.transform(label), transform)


def write_subject_frame(files: Derivatives) -> None:
    mask = ellipsoid(3.0)
    chi = chi_map(0, mask)
    tensor = np.stack([chi if i in (0, 3, 5) else smooth(90 + i, 0.004, mask) for i in range(6)])
    direction = np.zeros((3, *SHAPE))
    direction[0] = mask
    volumes = {"cosmos": chi, "mms": chi, "msa": np.abs(smooth(7, 0.01, mask)), "tensor": tensor, "pev": direction}
    for desc, volume in volumes.items():
        write_image(files.path(suffix="Chimap", desc=desc, space="subject"), volume, head_affine(), {})


def measures(**numbers: float) -> ScanMeasures:
    """What is measured of a scan ori07, with some numbers."""
    mask = np.ones((2, 2), bool)
    cuts = (Planes(mask, mask, mask, (1.0, 1.0, 1.0)),)
    attributes = {key: numbers.pop(key) for key in ("brain_volume", "scale", "valid_share") if key in numbers}
    values = {"brain_volume": 1300.0} | attributes
    return ScanMeasures(
        name="ori07", raw_name="acq-ori07", voxel_size=(1.0, 1.0, 1.0), shape=(2, 2, 2), brain=cuts, numbers=numbers,
        **values,
    )  # fmt: skip


class Page(HTMLParser):
    """Tags, ids and visible text of a page; every element that must be closed is."""

    VOID = ("meta", "link", "img", "source", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())
