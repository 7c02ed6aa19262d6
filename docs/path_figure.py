"""Draws docs/path.png, the README's picture, from the output folder of `make demo`: python docs/path_figure.py demo."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

SCAN = "sub-03_acq-ori02"
PANELS = (
    ("raw/sub-03/anat/{scan}_echo-1_part-mag_MEGRE.nii.gz", "magnitude", (None, None)),
    ("raw/sub-03/anat/{scan}_echo-4_part-phase_MEGRE.nii.gz", "raw phase, rad", (-np.pi, np.pi)),
    ("labels/sub-03/anat/{scan}_desc-total_fieldmap.nii.gz", "total field, ppm", (-0.4, 0.4)),
    ("labels/sub-03/anat/{scan}_desc-local_fieldmap.nii.gz", "local field, ppm", (-0.03, 0.03)),
    ("labels/sub-03/anat/{scan}_desc-chi33_Chimap.nii.gz", "label χ33, ppm", (-0.06, 0.1)),
    ("labels/sub-03/anat/{scan}_desc-deltab_fieldmap.nii.gz", "label δB′, ppm", (-0.0015, 0.0015)),
    ("labels/sub-03/anat/{scan}_desc-cosmos_Chimap.nii.gz", "COSMOS, ppm", (-0.06, 0.1)),
    ("predictions/{scan}_modl-qsm_chi.nii.gz", "network's χ33, ppm", (-0.06, 0.1)),
)


def main(demo: Path, out: Path) -> None:
    """Draw one axial slice of each panel."""
    figure = Figure(figsize=(12, 6.2), facecolor="black", layout="constrained")
    for index, (name, title, (low, high)) in enumerate(PANELS):
        image = nib.as_closest_canonical(nib.load(demo / name.format(scan=SCAN)))
        volume = np.asarray(image.dataobj, np.float32)
        axes = figure.add_subplot(2, 4, index + 1)
        axes.imshow(volume[:, :, volume.shape[2] // 2 + 2].T, origin="lower", cmap="gray", vmin=low, vmax=high)
        axes.set_title(title, color="white", fontsize=13)
        axes.set_axis_off()
    figure.savefig(out, dpi=80, facecolor="black")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("path.png"))
