"""Finds which file of a folder is to be compared with which: by subject, session, orientation and quantity."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...files.errors import InputError
from ...files.manifest import Manifest, read_manifest
from ...files.sidecars import read_sidecar

_ENTITIES = ("sub", "ses", "acq", "run")
# The end of a name -> the quantity; `predict` names its files by the first and third, `run` by the others.
_QUANTITIES = {
    "chi": "chi33",
    "desc-chi33_Chimap": "chi33",
    "deltab": "deltab",
    "desc-deltab_fieldmap": "deltab",
    "desc-cosmos_Chimap": "cosmos",
}
_COSMOS = "cosmos"
_TRUTH = {"chi33": "desc-chi33_Chimap", "deltab": "desc-deltab_fieldmap", "cosmos": "desc-cosmos_Chimap"}


@dataclass(frozen=True)
class MapName:
    """What the name of a map says: entities such as (("sub", "01"), ("acq", "ori01")), the rest as the method."""

    entities: tuple[tuple[str, str], ...]
    method: str
    ending: str

    @property
    def subject(self) -> str:
        """`sub-01`, with the session where there is one; empty where the name has none."""
        return "_".join(f"{key}-{value}" for key, value in self.entities if key in ("sub", "ses"))

    @property
    def orientation(self) -> str:
        """`acq-ori01` or `run-1`; empty where the name has none."""
        return "_".join(f"{key}-{value}" for key, value in self.entities if key in ("acq", "run"))


@dataclass(frozen=True)
class MapPair:
    """A map, the truth it is held against, the masks (intersected; none: where the truth is not 0) and the regions."""

    name: MapName
    quantity: str
    estimate: Path
    truth: Path
    masks: tuple[Path, ...]
    regions: Path | None


def parse_name(path: Path, endings: tuple[str, ...]) -> MapName | None:
    """Return what a NIfTI name says where it ends with one of the endings (`desc-x_suffix` or a suffix), else None."""
    stem = re.sub(r"\.nii(\.gz)?$", "", path.name)
    ending = next((e for e in endings if stem == e or stem.endswith(f"_{e}")), None)
    if ending is None or stem == path.name:
        return None
    tokens = [token for token in stem[: len(stem) - len(ending)].split("_") if token]
    entities, method = [], []
    for token in tokens:
        key, dash, value = token.partition("-")
        if dash and key in _ENTITIES:
            entities.append((key, value))
        else:
            method.append(token)
    return MapName(tuple(entities), "_".join(method), ending)


def find_pairs(pred_dir: Path, truth_dir: Path, rois: Path | None = None) -> tuple[list[MapPair], list[Path]]:
    """Return the pairs, sorted by quantity and name, and the maps of pred_dir without a truth.

    Names are compared by sub-, ses-, acq- and run-; maps in the subject frame (`space-`), hidden files and maps of
    `chi33 run` that its manifest does not list any more are left out. A prediction whose sidecar says that it is
    COSMOS's is held against COSMOS. rois: a folder, or one file for all, of regions (`*_dseg.nii.gz`); those in
    truth_dir are taken when not given. Raises InputError where a folder is missing, holds no map, or nothing matches,
    and where two maps would get the same line.
    """
    for folder in (pred_dir, truth_dir):
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder: give one with maps.")
    if rois is not None and not rois.exists():
        raise InputError(f"{rois} does not exist: give a *_dseg.nii.gz file, or a folder of them.")
    estimates = list(_named(pred_dir, tuple(_QUANTITIES)))
    if not estimates:
        raise InputError(
            f"{pred_dir} holds no map: names must end with _chi, _deltab, _desc-chi33_Chimap, _desc-deltab_fieldmap or "
            "_desc-cosmos_Chimap, and .nii.gz."
        )
    pairs, alone = [], []
    for path, name in estimates:
        quantity = _quantity(path, name)
        truth = _match(truth_dir, _TRUTH[quantity], name)
        if truth is None:
            alone.append(path)
            continue
        pairs.append(
            MapPair(name, quantity, path, truth, _masks(pred_dir, truth_dir, name), _regions(rois or truth_dir, name))
        )
    if not pairs:
        raise InputError(
            f"no map in {pred_dir} has its truth in {truth_dir} (such as {estimates[0][0].name}): names must "
            "share sub- and "
            "acq- or run-."
        )
    _check_distinct(pairs)
    return sorted(pairs, key=lambda pair: (pair.quantity, pair.name.method, pair.name.entities)), alone


def _quantity(path: Path, name: MapName) -> str:
    predicted = name.ending == "chi" and read_sidecar(path).get("Label") == _COSMOS
    return _COSMOS if predicted else _QUANTITIES[name.ending]


def _named(folder: Path, endings: tuple[str, ...]) -> Iterator[tuple[Path, MapName]]:
    manifests: dict[Path, Manifest | None] = {}
    for path in sorted(folder.rglob("*.nii*")):
        name = parse_name(path, endings)
        if name is None or "space-" in path.name or _is_hidden(path.relative_to(folder)):
            continue
        if not _is_stale(path, name, manifests):
            yield path, name


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_stale(path: Path, name: MapName, manifests: dict[Path, Manifest | None]) -> bool:
    """Whether a map is named as one of `chi33 run`, but its subject's last run did not make it."""
    if name.method or not name.ending.startswith("desc-"):
        return False
    subject = next((parent for parent in path.absolute().parents if parent.name.startswith("sub-")), None)
    if subject is None:
        return False
    if subject not in manifests:
        manifests[subject] = read_manifest(subject.parent, subject.name.removeprefix("sub-"))
    manifest = manifests[subject]
    return manifest is not None and not manifest.lists(path)


def _match(folder: Path, ending: str, wanted: MapName) -> Path | None:
    found = [path for path, name in _named(folder, (ending,)) if set(name.entities) == set(wanted.entities)]
    if len(found) > 1:
        raise InputError(
            f"{found[0]} and {found[1]} are both the truth of {wanted.subject} {wanted.orientation}: keep one."
        )
    return found[0] if found else None


def _masks(pred_dir: Path, truth_dir: Path, name: MapName) -> tuple[Path, ...]:
    """Return the truth's local mask, else its brain mask; and the estimate's local mask."""
    truth = _match(truth_dir, "desc-local_mask", name) or _match(truth_dir, "desc-brain_mask", name)
    own = None if pred_dir == truth_dir else _match(pred_dir, "desc-local_mask", name)
    return tuple(path for path in (truth, own) if path is not None)


def _regions(rois: Path, name: MapName) -> Path | None:
    if rois.is_file():
        return rois
    for entities in (name.entities, tuple(e for e in name.entities if e[0] in ("sub", "ses"))):
        found = [path for path, other in _named(rois, ("dseg",)) if set(other.entities) == set(entities)]
        if found:
            return found[0]
    return None


def _check_distinct(pairs: list[MapPair]) -> None:
    seen: dict[tuple[str, str, str, str], Path] = {}
    for pair in pairs:
        key = (pair.name.subject, pair.name.orientation, pair.name.method, pair.quantity)
        if key in seen:
            raise InputError(f"{seen[key]} and {pair.estimate} are the same map by name: keep one, or name the method.")
        seen[key] = pair.estimate
