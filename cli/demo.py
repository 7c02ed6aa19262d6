"""`make demo`: the whole path on small simulated heads, raw scans to a trained network, a table and a report."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

VOXEL = "2.5"
ORIENTATIONS = "4,4,6"  # of each head: the unseen one has as many as determine its tensor without a prior
EPOCHS, SAMPLES = "3", "40"  # 60 steps of two patches: by number, so that a busy machine shows the same
UNSEEN = "03"


def demo(folder: Path) -> None:
    """Simulate three heads, make labels, train MoDL-QSM on two and test it on the third; everything under `folder`.

    The first head trains, the second validates; the third is in the store's test split, which no training reads.
    """
    began = time.monotonic()
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    raw, labels, store, network, table = (
        folder / name for name in ("raw", "labels", "store.h5", "network", "table.csv")
    )
    chi33(
        "simulate", raw, "--subjects", "3", "--orientations", ORIENTATIONS, "--voxel", VOXEL, "--echoes", "4",
        "--seed", "2026",
    )  # fmt: skip
    chi33("run", raw, labels)
    chi33(
        "build-dataset", labels, store, "--patch-size", "32", "--min-brain", "0.6", "--patches-per-scan", "100",
        "--val-subjects", "02", "--test-subjects", UNSEEN,
    )  # fmt: skip
    chi33(
        "train", store, network, "--epochs", EPOCHS, "--samples-per-epoch", SAMPLES, "--val-samples", "12",
        "--dropout", "0", "--device", "cpu", "--threads", "2",
    )  # fmt: skip
    predict_unseen(labels, network, folder / "predictions")
    chi33("evaluate", folder / "predictions", raw / "derivatives" / "truth", "--out", table, "--demean", "--html")
    minutes = (time.monotonic() - began) / 60
    print(f"\nThe demo took {minutes:.1f} minutes. Look at:")
    print(
        f"- {labels / f'sub-{UNSEEN}.html'}: the labels of the unseen head; nuclei and veins bright, white matter dark"
    )
    print(
        f"- {table.with_suffix('.html')}: errors of the network and of TKD there, region by region; {table}: the same"
    )
    print(f"- {network / 'log.csv'}: the loss by epoch; its first line is the untrained network")


def chi33(*words: object) -> None:
    """Run one chi33 command as a user would, and show it."""
    command = [str(word) for word in words]
    print("\n$ chi33 " + " ".join(command), flush=True)
    done = subprocess.run([sys.executable, "-m", "chi33.cli.main", *command], check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


def predict_unseen(labels: Path, network: Path, out: Path) -> None:
    """Predict every scan of the unseen head with the network, and by thresholded k-space division for comparison."""
    from ..files.derivatives import read_image, write_image
    from ..files.sidecars import read_sidecar
    from ..pipeline.frames import b0_direction, voxel_size
    from ..pipeline.inversions.tkd import tkd

    out.mkdir()
    anatomy = labels / f"sub-{UNSEEN}" / "anat"
    for field_file in sorted(anatomy.glob("*_acq-*_desc-local_fieldmap.nii.gz")):
        scan = field_file.name.removesuffix("_desc-local_fieldmap.nii.gz")
        mask_file = anatomy / f"{scan}_desc-local_mask.nii.gz"
        field, affine = read_image(field_file)
        mask, _ = read_image(mask_file)
        h = b0_direction(affine, read_sidecar(field_file).get("B0_dir"))
        inverted = tkd(field, mask, voxel_size(affine), h)
        write_image(out / f"{scan}_tkd_chi.nii.gz", inverted, affine, {"Units": "ppm", "Method": "TKD, threshold 0.2"})
        chi33("predict", network, "--field", field_file, "--mask", mask_file, "--out", out / f"{scan}_modl-qsm")


if __name__ == "__main__":
    demo(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
