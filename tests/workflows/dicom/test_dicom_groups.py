"""Which images of a DICOM folder make a scan: every case as images without files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.workflows.dicom.conversion import DicomImage, Grouping, Part
from chi33.workflows.dicom.groups import group_scans

TIMES = (0.005, 0.0125)
LETTERS: dict[Part, str] = {"mag": "M", "phase": "P", "real": "R", "imag": "I"}


def image(
    series: int,
    part: Part = "mag",
    echo: int = 1,
    *,
    seconds: float | None = None,
    name: str = "gre",
    kind: Iterable[str] = ("ND",),
    angle: float = 0.0,
    shape: tuple[int, ...] = (12, 10, 8),
    **sidecar: Any,
) -> DicomImage:
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    affine = np.array([[2, 0, 0, -12], [0, 2 * c, -2 * s, -10], [0, 2 * s, 2 * c, -8], [0, 0, 0, 1.0]])
    stated = {
        "SeriesNumber": series,
        "SeriesDescription": name,
        "SeriesInstanceUID": f"1.2.{series}",
        "EchoTime": TIMES[echo - 1],
        "EchoNumber": echo,
        "MagneticFieldStrength": 3,
        "Manufacturer": "Siemens",
        "ImageType": ["ORIGINAL", "PRIMARY", LETTERS[part], *kind],
    }
    ending = {"mag": "", "phase": "_ph", "real": "_real", "imag": "_imaginary"}[part]
    path = Path(f"s{series}_e{echo}{ending}.nii")
    return DicomImage(path, stated | sidecar, part, shape, affine, seconds)


def both(mag: int, phase: int, echoes: Iterable[int] = (1, 2), **stated: Any) -> list[DicomImage]:
    """Magnitude in one series, phase in another."""
    return [image(s, part, e, **stated) for s, part in ((mag, "mag"), (phase, "phase")) for e in echoes]


def without(images: Iterable[DicomImage], *series: int) -> list[DicomImage]:
    return [one for one in images if one.series not in series]


def scans(images: Iterable[DicomImage]) -> list[tuple[int, ...]]:
    """The series of each scan; every image is in a scan or has its reason."""
    images = list(images)
    found = group_scans(images)
    placed = [one.name for scan in found.scans for one in scan.images]
    assert sorted([*placed, *found.reasons]) == sorted(one.name for one in images)
    return [tuple(sorted({one.series for one in scan.images})) for scan in found.scans]


def reasons(found: Grouping) -> dict[int, str]:
    return {int(name[1 : name.index("_")]): str(reason) for name, reason in found.reasons.items()}


TWO = [*both(2, 3, name="GRE orientation 1"), *both(4, 5, name="GRE orientation 2")]
TWO_OF_ONE_NAME = [*both(2, 3), *both(4, 5)]
PART_BY_PART = [*both(2, 4), *both(3, 5)]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (both(2, 3), [(2, 3)]),
        (both(2, 3, name="ori1"), [(2, 3)]),
        (TWO, [(2, 3), (4, 5)]),
        (TWO_OF_ONE_NAME, [(2, 3), (4, 5)]),
        (PART_BY_PART, [(2, 4), (3, 5)]),
        ([*both(2, 5, name="a"), *both(3, 6, name="b"), *both(4, 7, name="c")], [(2, 5), (3, 6), (4, 7)]),
        ([*both(3, 2, Manufacturer="Canon"), *both(5, 4, Manufacturer="Canon")], [(2, 3), (4, 5)]),
        ([*both(2, 3), *both(7, 8)], [(2, 3), (7, 8)]),
        (both(4, 400), [(4, 400)]),
        (both(201, 301), [(201, 301)]),
        ([*both(5, 7), image(6, kind=("SWI",))], [(5, 7)]),
        ([*both(5, 7, name="swi"), image(6, name="localiser", shape=(64, 64, 3))], [(5, 7)]),
        ([image(1), image(2, echo=2), image(3, "phase"), image(4, "phase", 2)], [(1, 2, 3, 4)]),
        ([image(1), image(2, "phase"), image(3, echo=2), image(4, "phase", 2)], [(1, 2, 3, 4)]),
        (
            [
                image(s, part, e, name=f"gre_{part}_e{e}")
                for s, part, e in ((1, "mag", 1), (2, "mag", 2), (3, "phase", 1), (4, "phase", 2))
            ],
            [(1, 2, 3, 4)],
        ),
        ([image(6, part, e) for part in ("mag", "real", "imag") for e in (1, 2)], [(6,)]),
        ([image(s, part, e) for s in (6, 9) for part in ("mag", "phase") for e in (1, 2)], [(6,), (9,)]),
        ([image(s, part, e) for s, part in ((7, "real"), (8, "imag")) for e in (1, 2)], [(7, 8)]),
        ([*both(2, 3), *both(4, 5, angle=10)], [(2, 3), (4, 5)]),
        ([*both(2, 3, (1,))], [(2, 3)]),
    ],
)  # fmt: skip
def test_whole_scans_without_times_are_paired(images: list[DicomImage], expected: list[tuple[int, ...]]) -> None:
    assert scans(images) == expected
    assert scans(reversed(images)) == expected


def test_names_of_the_parts_do_not_matter() -> None:
    for mag, phase in (
        ("gre", "gre_Pha"),
        ("t2s_Mag_Images", "t2s_Pha_Images"),
        ("gre_ND", "gre_ph"),
        ("greMag", "grePhase"),
    ):
        images = [one for one in both(2, 3)]
        named = [
            replace(o, sidecar={**o.sidecar, "SeriesDescription": mag if o.part == "mag" else phase}) for o in images
        ]
        assert scans(named) == [(2, 3)], (mag, phase)


LAYOUTS = {
    "named": (TWO, [(2, 3), (4, 5)]),
    "scan by scan": (TWO_OF_ONE_NAME, [(2, 3), (4, 5)]),
    "part by part": (PART_BY_PART, [(2, 4), (3, 5)]),
    "phase first": ([*both(3, 2), *both(5, 4)], [(2, 3), (4, 5)]),
}


LOST = [(2,), (3,), (4,), (5,), (2, 3), (3, 4), (4, 5)]
# Of the other layouts a magnitude and the next series, a phase, are left, of one name: nothing tells them from a scan.
CASES = [*((layout, lost) for layout in LAYOUTS for lost in LOST), ("named", (2, 5)), ("scan by scan", (2, 5))]


@pytest.mark.parametrize(("layout", "lost"), CASES)
def test_a_lost_series_makes_no_wrong_pair(layout: str, lost: tuple[int, ...]) -> None:
    images, pairs = LAYOUTS[layout]
    assert set(scans(without(images, *lost))) <= set(pairs)


def test_a_series_lost_from_a_named_scan_leaves_the_other() -> None:
    for lost, left in ((2, (4, 5)), (3, (4, 5)), (4, (2, 3)), (5, (2, 3))):
        assert scans(without(TWO, lost)) == [left]


def test_what_is_not_certain_asks_for_a_map() -> None:
    found = group_scans(without(TWO_OF_ONE_NAME, 3))
    assert found.scans == ()
    told = reasons(found)
    assert told[5] == (
        "has the voxels of series 2, 4, and neither starts, names nor series numbers tell for certain whether they "
        "belong together: place it with --plan --map FILE"
    )
    assert "series 5," in told[2]
    assert told[2] == told[4]


@pytest.mark.parametrize("gap", [0.0, 0.4])
def test_times_pair_what_numbers_do_not(gap: float) -> None:
    images = [
        *both(2, 9, (1,), seconds=100, name="a"),
        *both(2, 9, (2,), seconds=100 + gap, name="a"),
        *both(3, 8, seconds=700, name="a"),
    ]
    unique = [replace(one, path=Path(f"{one.name}_{index}.nii")) for index, one in enumerate(images)]
    assert scans(unique) == [(2, 9), (3, 8)]


def test_a_series_lost_with_times_makes_no_wrong_pair() -> None:
    images = [*both(2, 3, seconds=100), *both(4, 5, seconds=700)]
    for lost, left in ((2, (4, 5)), (3, (4, 5)), (4, (2, 3)), (5, (2, 3))):
        assert scans(without(images, lost)) == [left]
    quick = [*both(2, 3, seconds=100), *both(4, 5, seconds=110)]
    assert scans(quick) == [(2, 3), (4, 5)]
    for lost, left in ((2, (4, 5)), (3, (4, 5)), (4, (2, 3)), (5, (2, 3))):
        assert scans(without(quick, lost)) in ([], [left])
    named = [*both(2, 3, seconds=100, name="one"), *both(4, 5, seconds=110, name="two")]
    assert scans(without(named, 3, 4)) == []


def test_times_made_equal_are_no_times() -> None:
    images = [*both(2, 3, seconds=43200), *both(4, 5, seconds=43200, angle=8), *both(6, 7, seconds=43200, angle=-8)]
    assert scans(images) == [(2, 3), (4, 5), (6, 7)]
    assert scans(without(images, 3)) == [(4, 5), (6, 7)]
    assert scans([*images, *both(8, 9, seconds=43200)]) == [(2, 3), (4, 5), (6, 7), (8, 9)]


def test_one_time_of_day_in_two_studies_is_two_scans() -> None:
    images = [
        *both(2, 3, seconds=100, StudyInstanceUID="1.1"),
        *both(2, 3, seconds=100, StudyInstanceUID="1.2", SeriesInstanceUID="1.5"),
        *both(8, 9, seconds=100, StudyInstanceUID="1.3", angle=5),
    ]
    unique = [replace(one, path=Path(f"{one.name[:2]}_{i}{one.name[2:]}.nii")) for i, one in enumerate(images)]
    assert scans(unique) == [(2, 3), (2, 3), (8, 9)]
    assert scans([replace(one, seconds=None) for one in unique]) == [(2, 3), (2, 3), (8, 9)]


def test_one_second_and_one_grid_is_one_acquisition() -> None:
    found = group_scans([*both(2, 3, seconds=100), *both(4, 5, seconds=100.2)])
    assert found.scans == ()
    assert set(reasons(found).values()) == {
        f"starts in the same second as series {n}: one acquisition exported twice, or times made equal, and which to "
        "take is not clear: choose with --plan --map FILE"
        for n in (2, 3, 4, 5)
    }
    assert scans([*both(2, 3, seconds=100, name="gre"), *both(4, 5, seconds=100, name="gre_aspire")]) == []
    combined = ["ND", "ASPIRE"]
    assert scans([*both(2, 3, seconds=100), *both(4, 5, seconds=100, kind=combined)]) == []
    assert scans([*both(2, 3, seconds=100), *without(both(4, 5, seconds=100, kind=combined), 5)]) == [(2, 3)]


@pytest.mark.parametrize("seconds", [100.0, None])
@pytest.mark.parametrize("kind", ["DIS2D", "DIS3D"])
def test_the_export_without_distortion_correction_is_taken(seconds: float | None, kind: str) -> None:
    images = [*both(2, 3, seconds=seconds, kind=[kind]), *both(4, 5, seconds=seconds)]
    found = group_scans(images)
    assert scans(images) == [(4, 5)]
    assert reasons(found)[2] == (
        f"is the acquisition of series 4 with distortion correction ({kind}), of which magnitude and phase were taken"
    )
    assert scans(without(images, 2)) == scans(without(images, 3)) == [(4, 5)]
    assert scans(without(images, 5)) == [(2, 3)]  # whole with correction only
    assert scans(without(images, 2, 5)) == scans(without(images, 3, 4)) == []
    if seconds is not None:
        assert "is corrected for distortion in part only (series 2)" in reasons(group_scans(without(images, 3, 4)))[5]


def test_a_correction_that_only_the_name_or_the_sidecar_tells() -> None:
    for stated in ({"name": "gre_DIS2D"}, {"NonlinearGradientCorrection": True}):
        images = [*both(2, 3, seconds=100, kind=(), **stated), *both(4, 5, seconds=100, kind=())]
        assert scans(images) == [(4, 5)]


def test_an_export_on_other_voxels_is_no_second_orientation() -> None:
    fine = [replace(o, shape=(24, 20, 16), affine=_halved(o)) for o in both(4, 5, seconds=100, kind=("DIS3D",))]
    assert scans([*both(2, 3, seconds=100), *fine]) == [(2, 3)]
    plain = [replace(o, sidecar={**o.sidecar, "ImageType": ["ORIGINAL", "PRIMARY"]}) for o in fine]
    assert scans([*both(2, 3, seconds=100), *plain]) == []
    assert scans([*both(2, 3, seconds=100), *(replace(o, seconds=700.0) for o in plain)]) == [(2, 3), (4, 5)]


def _halved(one: DicomImage) -> np.ndarray:
    affine = one.affine.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= affine[:3, :3].sum(axis=1) / 2
    return affine


def test_the_magnitude_without_filter_is_taken() -> None:
    images = [*both(2, 3, seconds=100), *(image(4, echo=e, seconds=100, kind=("ND", "NORM")) for e in (1, 2))]
    assert scans(images) == [(2, 3)]
    assert reasons(group_scans(images))[4] == "starts in the same second as series 2, which was taken, filtered (NORM)"
    assert scans(without(images, 2)) == [(3, 4)]
    assert scans([*both(2, 3, seconds=100, kind=("ND", "NORM")), *both(4, 5, seconds=100)]) == [(4, 5)]


def test_an_image_of_one_echo_beside_whole_series_is_left() -> None:
    images = [*both(2, 3, seconds=100), image(6, seconds=100)]
    assert scans(images) == [(2, 3)]


@pytest.mark.parametrize("seconds", [100.0, None])
@pytest.mark.parametrize(
    "stated",
    [
        {"EchoTime1": 0.005, "EchoTime2": 0.0125},
        {"SequenceName": "*fm2d2r"},
        {"PulseSequenceDetails": r"%SiemensSeq%\gre_field_mapping"},
        {"kind": ("ND", "PHASE DIFFERENCE")},
        {"kind": ("PHASE_DIFF",)},
        {"kind": ("FIELD_MAP",)},
        {"name": "gre_phasediff"},
        {"name": "Phase Difference"},
        {"name": "B0 map"},
        {"name": "gre_FieldMap"},
        {"Units": "Hz"},
        {},
    ],
)
def test_a_phase_difference_is_no_echo(stated: dict[str, Any], seconds: float | None) -> None:
    for magnitudes in ((1, 2), (2,)):  # with both magnitudes, and with that of the first echo lost
        images = [image(2, echo=e, seconds=seconds) for e in magnitudes]
        difference = image(3, "phase", 2, seconds=seconds, **stated)
        assert scans([*images, difference]) == []
    if stated:
        alone = image(3, "phase", 1, seconds=seconds, **stated)
        assert scans([image(2, seconds=seconds), alone]) == []


def test_the_phase_of_every_echo_is_no_difference_whatever_it_is_called() -> None:
    for name in ("gre_field_mapping", "FieldMap", "B0map_phasediff", "me_FieldMap_GRE"):
        assert scans(both(2, 3, name=name, EchoTime1=0.005, EchoTime2=0.0125)) == [(2, 3)]
    assert scans(both(2, 3, (1,), name="gre_field_mapping")) == [(2, 3)]


@pytest.mark.parametrize(
    "stated",
    [
        {"kind": ("B0", "B0", "UNSPECIFIED")},
        {"kind": ("B0 MAP",)},
        {"kind": ("T2_STAR MAP",)},
        {"kind": ("R2* MAP",)},
        {"kind": ("ND", "MEAN")},
        {"kind": ("SWI",)},
        {"kind": ("MNIP",)},
        {"kind": ("WATER",)},
        {"kind": ("IN_PHASE",)},
        {"kind": ("QSM",)},
        {"name": "T2Star_Images"},
        {"name": "R2* map"},
        {"name": "gre_sum_of_echoes"},
        {"name": "gre echo average"},
        {"name": "SWI_Images"},
        {"name": "mIP_Images(SW)"},
    ],
)
def test_what_is_made_of_echoes_is_no_magnitude(stated: dict[str, Any]) -> None:
    made = image(4, seconds=100, **stated)
    assert scans([image(3, "phase", seconds=100), made]) == []
    assert scans([*both(2, 3, (1,), seconds=100), made]) == [(2, 3)]


@pytest.mark.parametrize("name", ["3D_SWI_QSM_gre", "t2star_qsm", "gre_mean_b0", "Sum_Mapping", "fcMRI Field Mapping"])
def test_scans_named_after_their_purpose_are_scans(name: str) -> None:
    assert scans(both(2, 3, (1,), name=name)) == [(2, 3)]
    assert scans(both(2, 3, name=name)) == [(2, 3)]


def test_a_part_lost_from_a_series_that_held_all_is_named() -> None:
    images = [image(s, part, e) for s in (6, 9) for part in ("mag", "phase") for e in (1, 2)]
    left = [one for one in images if (one.series, one.part) != (6, "phase")]
    assert scans(left) == [(9,)]
    assert reasons(group_scans(left))[6].startswith("has no phase image of the same grid and acquisition time: export")


def test_echoes_in_series_of_their_own_may_be_called_a_map() -> None:
    series = ((1, "mag", 1), (2, "mag", 2), (3, "phase", 1), (4, "phase", 2))
    assert scans([image(*one, name=f"T2*map e{one[-1]}") for one in series]) == [(1, 2, 3, 4)]


def test_philips_phase_maps_are_phase() -> None:
    images = [
        image(s, part, kind=kind) for s, part, kind in ((5, "mag", ("M_FFE",)), (5, "phase", ("PHASE MAP", "FFE")))
    ]
    assert scans(images) == [(5,)]


def test_coil_elements_are_named() -> None:
    coils = [
        image(s, part, seconds=100, CoilString=f"H{1 + s // 2}", name=f"gre_{part}")
        for s, part in ((2, "mag"), (3, "phase"), (4, "mag"), (5, "phase"))
    ]
    found = group_scans(coils)
    assert found.scans == ()
    assert reasons(found)[2] == (
        "is of one coil element (H2): combine the coils on the scanner (adaptive combine), or export the combined "
        "images"
    )
    assert scans([*coils, *both(6, 7, (1,), seconds=100, CoilString="HEA;HEP")]) == [(6, 7)]
    assert scans(both(6, 7, seconds=100, CoilString="H1")) == [(6, 7)]  # a coil of one element
    assert scans(both(6, 7, seconds=100, CoilString="HeadNeck_64")) == [(6, 7)]


def test_images_of_several_volumes_are_explained() -> None:
    named = replace(image(2, shape=(12, 10, 8, 3)), path=Path("s2_cH1.nii"))
    assert "holds 3 images of single coil elements: combine the coils" in str(group_scans([named]).reasons["s2_cH1"])
    ge = image(2, shape=(12, 10, 8, 3), Manufacturer="GE")
    assert "as GE stores magnitude, phase, real and imaginary" in reasons(group_scans([ge]))[2]
    assert "(0043,102F) was taken out: export it again with private tags kept" in reasons(group_scans([ge]))[2]
    other = image(2, shape=(12, 10, 8, 20))
    assert "holds 20 volumes of one echo (repetitions, coils apart" in reasons(group_scans([other]))[2]


def test_missing_slices_are_said_to_lie_at_an_end() -> None:
    short = [replace(o, shape=(12, 10, 7)) for o in both(2, 3, (2,), seconds=100)]
    found = group_scans([*both(2, 3, (1,), seconds=100), *short])
    assert [scan.echo_times for scan in found.scans] == [TIMES[:1]]
    assert reasons(found)[2] == (
        "has 12x10x7 voxels where series 2 has 12x10x8: 1 slice at the superior end is missing: copy the missing "
        "files from the scanner"
    )


def test_fewer_slices_without_times_are_another_scan_if_whole() -> None:
    fewer = [replace(o, shape=(12, 10, 6)) for o in both(4, 5)]
    assert scans([*both(2, 3), *fewer]) == [(2, 3), (4, 5)]
    assert scans([*both(2, 3), *without(fewer, 5)]) == [(2, 3)]
