"""`chi33 run`: raw scans to label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

_Labels = Annotated[list[str] | None, Parameter(consume_multiple=True)]
_Flag = Parameter(negative="")


def run(
    bids_dir: Path,
    out_dir: Path,
    level: Literal["participant"] = "participant",
    /,
    *,
    participant_label: _Labels = None,
    work_dir: Annotated[Path | None, Parameter(name=["--work-dir", "-w"])] = None,
    n_procs: int | None = None,
    config: Path | None = None,
    backend: Literal["auto", "fsl", "builtin"] | None = None,
    unwrap: Literal["romeo", "laplacian"] | None = None,
    combination: Literal["fit", "average"] | None = None,
    background: Literal["vsharp", "resharp", "pdf", "lbv"] | None = None,
    fit: Literal["closed", "masked", "single-step", "none"] | None = None,
    phase_sign: Literal["1", "-1"] | None = None,
    reference: str | None = None,
    masks: Path | None = None,
    mask_consensus: bool | None = None,
    rois: Path | None = None,
    te: str | None = None,
    b0: float | None = None,
    prior_iso: float | None = None,
    prior_aniso: float | None = None,
    noise: float | None = None,
    iterations: int | None = None,
    weights: Literal["magnitude", "mask"] | None = None,
    draws: int | None = None,
    jackknife: int | None = None,
    dask: str | None = None,
    fit_memory: float | None = None,
    device: str | None = None,
    dry_run: Annotated[bool, _Flag] = False,
    write_graph: Annotated[bool, _Flag] = False,
) -> None:
    """Turn raw multi-orientation scans into labels: brain mask, unwrapping, background, registration, fit.

    Writes BIDS derivatives and a report a subject. A run that died goes on when the command is repeated; finished
    steps are kept and only what changed is done again.

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
    work_dir
        Working folder of intermediate results; OUT_DIR-work by default.
    n_procs
        Steps run at a time; the number of cores by default.
    config
        TOML file of the parameters; options given here win over it.
    backend
        Which tools estimate masks and transforms: fsl, builtin, or auto (FSL where installed).
    unwrap
        Phase unwrapping.
    combination
        Of the echoes: fit (a weighted line, the default) or average (the plain mean of their fields).
    background
        Removal of the background field from the local fields: V-SHARP (the default), RESHARP, PDF or LBV.
    fit
        Susceptibility fit: single-step (of total fields, the default), masked (of local fields, each in its mask),
        closed (of local fields, closed form), or none: masks, fields and transforms alone, also of a single scan.
    phase_sign
        -1 where the scanner's phase falls with a rising field and paramagnetic tissue comes out dark.
    reference
        Scan whose world is the subject frame, e.g. acq-ori02; the first by default; mean: the mean of all scans.
    masks
        Folder of your own brain masks, named sub-01_acq-ori01_desc-brain_mask.nii.gz, instead of BET's.
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
    """
    from ..pipeline.config import override, read_config
    from ..workflows.config import RunConfig
    from ..workflows.run import run_participants

    base = read_config(RunConfig, config) if config else RunConfig()
    options = {
        "backend": backend, "unwrap": unwrap, "combination": combination, "background": background, "fit": fit,
        "phase_sign": int(phase_sign) if phase_sign else None,
        "reference": reference, "masks": str(masks.absolute()) if masks else None, "mask_consensus": mask_consensus,
        "rois": str(rois.absolute()) if rois else None,
        "echo_times": _seconds(te) if te else None, "field_strength": b0,
        "prior_iso": prior_iso, "prior_aniso": prior_aniso, "noise": noise,
        "iterations": iterations, "weights": weights, "draws": draws, "jackknife": jackknife, "dask": dask,
        "fit_memory": fit_memory, "device": device,
    }  # fmt: skip
    labels = [one for text in participant_label or () for one in text.split(",") if one]
    run_participants(
        bids_dir,
        out_dir,
        config=override(base, options),
        participant_labels=labels or None,
        work_dir=work_dir,
        n_procs=n_procs,
        dry_run=dry_run,
        write_graph=write_graph,
        announce=lambda line: print(line, flush=True),
    )


def _seconds(text: str) -> list[float]:
    """Return echo times in s of milliseconds joined by commas; raises InputError."""
    from ..pipeline.errors import InputError

    try:
        times = [float(one) / 1000 for one in text.split(",")]
    except ValueError:
        raise InputError(f"--te must be numbers in ms joined by commas, such as 4,9,14, got {text!r}.") from None
    if max(times) < 1e-4:
        raise InputError(f"--te {text} looks like seconds: give milliseconds, such as 4,9,14.")
    return [round(time, 9) for time in times]
