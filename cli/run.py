"""`chi33 run`: raw scans to label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from .print_config import needed, print_settings
from .progress import announcements
from .store_options import bounds

_Words = list[str] | None
_Labels = Parameter(consume_multiple=True, negative=())
_Flag = Parameter(negative="")


def run(
    bids_dir: Path | None = None,
    out_dir: Path | None = None,
    level: Literal["participant"] = "participant",
    /,
    *,
    participant_label: Annotated[
        _Words, _Labels, Parameter(name=["--participant-label", "--participant_label"])
    ] = None,
    session_label: Annotated[_Words, _Labels, Parameter(name=["--session-label", "--session_label"])] = None,
    scan: Annotated[_Words, _Labels] = None,
    work_dir: Annotated[Path | None, Parameter(name=["--work-dir", "-w"])] = None,
    n_procs: Annotated[int | None, Parameter(name=["--n-procs", "--nprocs", "--n_procs", "--n-cpus"])] = None,
    mem: float | None = None,
    config: Path | None = None,
    print_config: Annotated[bool, _Flag] = False,
    backend: Literal["auto", "fsl", "builtin"] | None = None,
    mask_method: Literal["auto", "bet", "deepbet"] | None = None,
    unwrap: Literal["romeo", "laplacian"] | None = None,
    combination: Literal["fit", "average"] | None = None,
    background: Literal["vsharp", "resharp", "ismv", "pdf", "lbv"] | None = None,
    fit: Literal["closed", "masked", "single-step", "none"] | None = None,
    phase_sign: Literal["1", "-1"] | None = None,
    phase_range: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    b0_directions: Path | None = None,
    reference: str | None = None,
    masks: Path | None = None,
    mask_consensus: bool | None = None,
    rois: Path | None = None,
    te: str | None = None,
    b0: float | None = None,
    prior_iso: float | None = None,
    prior_aniso: float | None = None,
    prior_correlation: float | None = None,
    isotropic_frequency: Literal["auto"] | float | None = None,
    white_matter: str | None = None,
    fibre: Path | None = None,
    noise: float | None = None,
    iterations: int | None = None,
    weights: Literal["magnitude", "mask"] | None = None,
    draws: int | None = None,
    jackknife: int | None = None,
    score: int | None = None,
    dask: str | None = None,
    fit_memory: float | None = None,
    device: str | None = None,
    dry_run: Annotated[bool, _Flag] = False,
    write_graph: Annotated[bool, _Flag] = False,
) -> None:
    r"""Turn raw multi-orientation scans into labels: brain mask, unwrapping, background, registration, fit.

    Writes BIDS derivatives and a report a subject. A run that died, or was stopped with Ctrl-C, goes on when the
    command is repeated; finished steps are kept and only what changed is done again.

    Parameters
    ----------
    bids_dir
        Raw BIDS data set (sub-01/anat/sub-01_acq-ori01_echo-1_part-mag_MEGRE.nii.gz and part-phase).
    out_dir
        Folder of the derivatives.
    level
        BIDS-App analysis level.
    participant_label
        Subjects to run, with or without sub-; all by default.
    session_label
        Sessions to take, with or without ses-; all by default.
    scan
        Scans to take, such as acq-ori03, or with ! before them those to leave out ('!acq-ori03', in quotes); all by
        default.
    work_dir
        Working folder of intermediate results; OUT_DIR-work by default.
    n_procs
        Steps run at a time; by default the processors that are granted.
    mem
        GB of memory that the steps may take together; by default what the machine grants.
    config
        TOML file of the parameters; options given here win over it.
    print_config
        Print all parameters as such a file, with what they mean, and end; with --config and options, as they set them.
    backend
        Which tools estimate masks and transforms: fsl, builtin, or auto (FSL where installed).
    mask_method
        Brain masks: deepbet (learned; needs pip install 'chi33[deepbet]'), bet, or auto (the default: deepbet where
        installed, BET with --backend fsl).
    unwrap
        Phase unwrapping.
    combination
        Of the echoes: fit (a weighted line, the default) or average (the plain mean of their fields).
    background
        Removal of the background field from the local fields: V-SHARP (the default), RESHARP, iSMV, PDF or LBV.
    fit
        Susceptibility fit: single-step (of total fields, the default), masked (of local fields, each in its mask),
        closed (of local fields, closed form), or none: masks, fields and transforms alone, also of a single scan.
    phase_sign
        -1 where the scanner's phase falls with a rising field and paramagnetic tissue comes out dark.
    phase_range
        The two stored values that mean -pi and +pi, joined by a comma (0,4095), of phase images that state no units.
    b0_directions
        Text file of the unit vector of B0 along the array axes of each scan, for scans whose affines do not tell it
        (resampled to one grid): three numbers a line in the order of the scans' names, or a scan's name (acq-ori01) and
        three numbers. Wins over B0_dir of the sidecars; by default these, else the affines.
    reference
        Scan whose world is the subject frame, e.g. ori02 or acq-ori02; the first by default; mean: the mean of all
        scans.
    masks
        Folder of your own brain masks, named sub-01_acq-ori01_desc-brain_mask.nii.gz, instead of those that
        are made.
    mask_consensus
        Repair brain masks that disagree with those of the other scans (on by default, from three scans on).
    rois
        Label map in the subject frame (with names in a TSV beside it: index, name), or a folder with one of each scan
        (sub-01_acq-ori01_desc-rois_dseg.nii.gz): the report lists the means of its regions.
    te
        Echo times in ms, joined by commas (4,9,14), of scans whose sidecars do not state EchoTime.
    b0
        Field strength in tesla, of scans whose sidecars do not state MagneticFieldStrength.
    prior_iso
        Prior standard deviation of the isotropic susceptibility, ppm.
    prior_aniso
        Prior standard deviation of the traceless part of the tensor, ppm.
    prior_correlation
        Distance over which the traceless parts of neighbours are alike before the data, mm; 3 by default, 0 for none.
    isotropic_frequency
        Prior standard deviation in white matter, ppm, of a frequency that is the same in all scans and that no
        susceptibility makes, as myelin's: it is fitted beside the tensor and written. auto, the default: 0.005 where
        the data show one, else none; 0: none.
    white_matter
        Where the tensor is anisotropic: auto (found in the data; the default), none (the same prior everywhere), or a
        map of probabilities from 0 to 1 in the world of the reference scan, on any grid. Outside, prior_aniso is
        halved.
    fibre
        Map of unit vectors along the fibres (such as V1 of a DTI; along the world's axes RAS+, 0 where unknown) on the
        grid of the reference scan: the tensor is then held to be nearly symmetric about them. For few scans.
    noise
        Standard deviation of the fields, ppm; estimated from the data by default.
    iterations
        Most iterations of the fit; by default 24 (masked) or 32 (single-step). It stops sooner when chi33 stands still.
    weights
        How voxels count in the fit: by the noise that the magnitude tells (magnitude), or all the same (mask).
    draws
        Perturb-and-solve draws of the uncertainty (2 or more, each as long as a fit); 0 by default: none.
    jackknife
        Groups of scans left out in turn for the uncertainty; 0 by default: none.
    score
        Groups of scans held out in turn: how much of a scan's field a fit without it misses, for the tensor and for
        COSMOS, in the report and the sidecars (each group takes as long as a fit); 0 by default: none.
    dask
        Where the fit runs: threads, local (processes), or the address of a Dask scheduler, tcp://host:8786.
    fit_memory
        GB that the scans may take in the fit before they go to temporary files; no limit by default.
    device
        cpu, or cuda for the fit on a GPU.
    dry_run
        Check the input and print what would be done; write nothing.
    write_graph
        Draw the workflow into OUT_DIR/logs.

    Examples
    --------
    All subjects of a data set, four steps at a time::

        chi33 run raw labels --n-procs 4

    Check the input and show what would be done::

        chi33 run raw labels --dry-run

    One subject without its third scan, in the frame of the second::

        chi33 run raw labels --participant-label 01 \
            --scan '!acq-ori03' --reference ori02

    The parameters in a file, to change and to keep::

        chi33 run --print-config > run.toml
        chi33 run raw labels --config run.toml
    """
    from ..files.toml_reader import override, read_config
    from ..workflows.config import RunConfig
    from ..workflows.tissue_files import absolute_map

    base = read_config(RunConfig, config) if config else RunConfig()
    options = {
        "backend": backend, "mask_method": mask_method, "unwrap": unwrap, "combination": combination,
        "background": background, "fit": fit,
        "phase_sign": int(phase_sign) if phase_sign else None, "phase_range": bounds("--phase-range", phase_range),
        "b0_directions": str(b0_directions.absolute()) if b0_directions else None,
        "reference": reference, "masks": str(masks.absolute()) if masks else None, "mask_consensus": mask_consensus,
        "rois": str(rois.absolute()) if rois else None,
        "echo_times": _seconds(te) if te else None, "field_strength": b0,
        "prior_iso": prior_iso, "prior_aniso": prior_aniso, "noise": noise,
        "prior_correlation": prior_correlation, "isotropic_frequency": isotropic_frequency,
        "white_matter": absolute_map(white_matter),
        "fibre": str(fibre.absolute()) if fibre else None,
        "iterations": iterations, "weights": weights, "draws": draws, "jackknife": jackknife, "score": score,
        "dask": dask, "fit_memory": fit_memory, "device": device,
    }  # fmt: skip
    settings = override(base, options)
    if print_config:
        print_settings(settings, "run")
        return
    raw, out = needed("run", bids_dir=bids_dir, out_dir=out_dir)
    from ..workflows.run import run_participants

    with announcements("run") as announce:
        run_participants(
            raw,
            out,
            config=settings,
            participant_labels=_labels(participant_label),
            session_labels=_labels(session_label),
            scans=_labels(scan),
            work_dir=work_dir,
            n_procs=n_procs,
            mem_gb=mem,
            dry_run=dry_run,
            write_graph=write_graph,
            announce=announce,
        )


def _labels(words: list[str] | None) -> list[str] | None:
    """`01 02` and `01,02` alike; None for all."""
    return [label for word in words or () for one in word.split(",") if (label := one.strip())] or None


def _seconds(text: str) -> list[float]:
    """Return echo times in s of milliseconds joined by commas; raises InputError."""
    from ..files.errors import InputError

    try:
        times = [float(one) / 1000 for one in text.split(",")]
    except ValueError:
        raise InputError(f"--te must be numbers in ms joined by commas, such as 4,9,14, got {text!r}.") from None
    if max(times) < 1e-4:
        raise InputError(f"--te {text} looks like seconds: give milliseconds, such as 4,9,14.")
    return [round(time, 9) for time in times]
