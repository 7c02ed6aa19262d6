"""`chi33 simulate`: raw multi-orientation scans of simulated heads, with their truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def simulate(
    out: Path,
    /,
    *,
    subjects: int = 1,
    orientations: str = "6",
    voxel: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False)] = ("1",),
    max_angle: float | None = None,
    oblique: float = 0.0,
    matrix: str | None = None,
    axcodes: str = "RAS",
    field_strength: float = 3.0,
    echoes: int = 6,
    echo_times: str | None = None,
    snr: float = 60.0,
    phase_sign: int | None = None,
    isotropic: bool = False,
    seed: int = 0,
    format: Literal["nifti", "dicom", "both"] = "nifti",
    vendor: Literal["siemens", "ge", "philips", "philips-enhanced"] | None = None,
    preset: Literal["ideal", "vivo"] | None = None,
    on: Annotated[tuple[str, ...], Parameter(name="--with", negative=(), consume_multiple=False)] = (),
    off: Annotated[tuple[str, ...], Parameter(name="--without", negative=(), consume_multiple=False)] = (),
    config: Path | None = None,
    overwrite: bool = False,
) -> None:
    r"""Simulate multi-orientation gradient-echo scans of heads as a raw BIDS data set, with the truth beside it.

    The truth (tensor, chi33, deltaB', fields, masks, regions, transforms) lies in OUT/derivatives/truth. OUT is there
    whole or not at all: an interrupted simulation leaves nothing and starts again when the command is repeated.

    Parameters
    ----------
    out
        Folder of the data set; it must be new or empty.
    subjects
        Number of heads; each differs in size, shape, susceptibilities, vessels and fibres.
    orientations
        Number of scans of each head, the first one neutral; or a number for each head, joined by commas: 4,4,6.
    voxel
        Voxel size in mm: 1.5, or 1,1,2 (right-left, posterior-anterior, inferior-superior). Several sizes, repeated or
        joined by semicolons, are taken in turn by the scans.
    max_angle
        Largest rotation of the head in degrees, at most 60. By default 35, and 25 where tilts are uneven (vivo).
    oblique
        Angle of the slice normal with B0 in degrees, the same in all scans.
    matrix
        Voxels along the three axes, e.g. 210,224,160; by default a field of view of 210 x 224 x 160 mm.
    axcodes
        Directions of the array axes, e.g. RAS, LAS or PSR.
    field_strength
        B0 in tesla.
    echoes
        Number of echoes where echo_times is not given: the first at 7.7 ms (4 ms above 5 T), then every 5 ms.
    echo_times
        Echo times in ms, joined by commas, e.g. 5,10,15.
    snr
        Mean signal of the brain in the first echo over the noise's standard deviation; inf for no noise.
    phase_sign
        1, or -1 for a vendor whose phase falls with a rising field; recorded in the sidecars. By default 1, and -1
        for GE.
    isotropic
        Leave out the anisotropy of white matter, so that deltaB' is zero.
    seed
        Seed of everything; the same seed gives the same data set.
    format
        Of the raw scans: BIDS NIfTI, DICOM as a scanner exports it (OUT/sourcedata/sub-01, for chi33 convert), or both.
    vendor
        Whose scanner: its digits in either format, and its DICOM: siemens (the default), ge, philips (one slice a
        file) or philips-enhanced (one file a scan).
    preset
        ideal (the default): nothing but the tensor's field, decay, a smooth coil and white noise. vivo: all effects of
        a living head and a real scanner that docs/simulator.md lists, at their usual strength.
    on
        Switch an effect on, at its usual strength (breathing) or another (breathing=2); several joined by commas:
        subvoxel, tilts, myelin, tracts, variety, calcification, bleeds, skull, dura, fat-shift, flow, breathing, drift,
        distortion, gradients, movement, bipolar, poles, gibbs, noise-map.
    off
        Switch effects off, joined by commas: bipolar,poles.
    config
        TOML file with the preset and, under [effects], true, false or a strength for each effect; options win.
    overwrite
        Replace a data set that was simulated before.

    Examples
    --------
    Two heads in six orientations each, at 2 mm::

        chi33 simulate raw --subjects 2 --voxel 2

    A head at 7 T with three echoes, as a Philips scanner exports it, to try `chi33 convert` on::

        chi33 simulate raw --field-strength 7 --echo-times 4,9,14 \
            --format dicom --vendor philips

    Three heads; the last one, on which a network is to be tested, in more orientations::

        chi33 simulate raw --subjects 3 --orientations 4,4,6 --voxel 2.5

    A head as it is in life, but for two effects, and breathing twice as strong as usual::

        chi33 simulate raw --voxel 2 --orientations 12 --preset vivo \
            --without bipolar,poles --with breathing=0.8
    """
    from ..workflows.simulate.dataset import simulate_dataset
    from ..workflows.simulate.options import simulation_from_text
    from .progress import announcements

    simulation = simulation_from_text(
        voxel=voxel,
        matrix=matrix,
        echoes=echoes,
        echo_times=echo_times,
        field_strength=field_strength,
        snr=snr,
        phase_sign=phase_sign,
        subjects=subjects,
        orientations=orientations,
        max_angle=max_angle,
        oblique=oblique,
        axcodes=axcodes,
        isotropic=isotropic,
        seed=seed,
        format=format,
        vendor=vendor,
        preset=preset,
        on=on,
        off=off,
        config=config,
    )
    with announcements("simulate") as announce:
        simulate_dataset(out, simulation, overwrite=overwrite, report=announce)
    heads = "1 simulated head" if subjects == 1 else f"{subjects} simulated heads"
    print(f"{simulation.scans} scans of {heads} written to {out}, their truth to {out / 'derivatives' / 'truth'}")
