"""What each effect costs the labels, and whether the held-out score knows: python benchmarks/conditions.py FOLDER.

One head of `chi33 simulate` is scanned under each condition (an effect alone, all together, noise, lower or higher
tilts), run from raw phase with default settings and `--score`, and held against its truth. A row a condition: error,
slope of chi33 and r of delta B' (demeaned, where the local field is valid; means over the scans), the held-out score
of the tensor, of COSMOS and its floor (medians of the scans, as the report has them). At the end Spearman's rank
correlation of score and error, over all conditions and over those with the same tilts, and their plot in
FOLDER/conditions.png. FOLDER keeps the rows: repeated, the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from chi33.files.sidecars import read_sidecar
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH
from accuracy import agreement, load

TILTED = ["--with", "subvoxel,tilts"]
EFFECTS = (
    "myelin", "gibbs", "distortion", "gradients", "breathing", "drift", "movement", "flow", "skull", "dura",
    "fat-shift", "bipolar", "poles", "noise-map", "calcification", "bleeds",
)  # fmt: skip
STRONG = {"movement": 3, "breathing": 1.6, "drift": 3.2}  # several times the usual strength
CONDITIONS: dict[str, list[str]] = {
    "parts of a voxel alone": TILTED,
    **{name: ["--with", f"subvoxel,tilts,{name}"] for name in EFFECTS},
    **{f"{name}={value}": ["--with", f"subvoxel,tilts,{name}={value}"] for name, value in STRONG.items()},
    "SNR 20": [*TILTED, "--snr", "20"],
    "SNR 10": [*TILTED, "--snr", "10"],
    "all (vivo)": ["--preset", "vivo"],
    "all, SNR 20": ["--preset", "vivo", "--snr", "20"],
}
OTHER_TILTS: dict[str, list[str]] = {
    "tilts within 12 degrees": [*TILTED, "--max-angle", "12"],
    "tilts within 35 degrees": [*TILTED, "--max-angle", "35"],
}


def chi33(*arguments: str) -> None:
    """Run a command of the installed chi33."""
    subprocess.run([Path(sys.executable).with_name("chi33"), *arguments], check=True, stdout=subprocess.DEVNULL)


def measured(folder: Path, options: list[str], asked: argparse.Namespace) -> dict[str, Any]:
    """Return the row of a condition: simulated, run and compared in a folder that is removed."""
    raw, out = folder / "raw", folder / "out"
    chi33(
        "simulate", str(raw), "--orientations", str(asked.orientations), "--voxel", str(asked.voxel), "--seed",
        str(asked.seed), *options,
    )  # fmt: skip
    chi33("run", str(raw), str(out), "--score", str(asked.groups), "--n-procs", "2")
    anat, truth = out / "sub-01" / "anat", raw / "derivatives" / "truth" / "sub-01" / "anat"
    rows = []
    for mask in sorted(anat.glob("*_acq-*_desc-local_mask.nii.gz")):
        scan = mask.name.removesuffix("_desc-local_mask.nii.gz")
        valid = (load(mask) > 0) & (load(truth / f"{scan}_desc-brain_mask.nii.gz") > 0)
        pairs = [
            agreement(load(anat / f"{scan}_{name}.nii.gz")[valid], load(truth / f"{scan}_{name}.nii.gz")[valid])
            for name in ("desc-chi33_Chimap", "desc-deltab_fieldmap", "desc-cosmos_Chimap")
        ]
        rows.append((pairs[0][2], pairs[0][1], pairs[1][0], pairs[2][2]))
    (tensor,) = anat.glob("*_space-subject_desc-tensor_Chimap.json")
    record = read_sidecar(tensor)
    error, slope, r, cosmos = np.mean(rows, axis=0)
    score = {key: float(np.median(record[f"Score{key.capitalize()}"])) for key in ("tensor", "cosmos", "noise")}
    shutil.rmtree(folder)
    return {"error": error, "slope": slope, "r": r, "cosmos_error": cosmos, **score}


def shown(name: str, row: dict[str, Any]) -> str:
    """Return a row of the table."""
    return (
        f"| {name} | {row['error']:.3f}, {row['slope']:.2f} | {row['cosmos_error']:.3f} | {row['r']:.2f} | "
        f"{row['tensor']:.3f} | {row['cosmos']:.3f} | {row['noise']:.3f} |"
    )


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw score against error."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5))
    for name, row in rows.items():
        axes.plot(row["tensor"], row["error"], "o", color="tab:orange" if name in OTHER_TILTS else "tab:blue", ms=4)
        axes.annotate(name, (row["tensor"], row["error"]), fontsize=6, xytext=(3, 2), textcoords="offset points")
    axes.set_xlabel("held-out score of the tensor (share of the field missed)")
    axes.set_ylabel("true error of χ33")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run all conditions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folder", type=Path)
    parser.add_argument("--voxel", type=float, default=2.5)
    parser.add_argument("--orientations", type=int, default=8)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--conditions", nargs="+", help="of those in the table; all by default")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    kept = asked.folder / "conditions.json"
    rows = json.loads(kept.read_text()) if kept.exists() else {}
    every = {**CONDITIONS, **OTHER_TILTS}
    print("| condition | χ33: error, slope | COSMOS | δB′: r | score: tensor | COSMOS | floor |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in asked.conditions or every:
        if name not in rows:
            shutil.rmtree(asked.folder / "now", ignore_errors=True)
            rows[name] = measured(asked.folder / "now", every[name], asked)
            kept.write_text(json.dumps(rows, indent=1))
        print(shown(name, rows[name]), flush=True)
    same = [name for name in rows if name in CONDITIONS]
    for words, names in {"all conditions": list(rows), "the same tilts": same}.items():
        for key, true in (("tensor", "error"), ("cosmos", "cosmos_error")):
            rank = spearmanr([rows[n][key] for n in names], [rows[n][true] for n in names]).statistic
            print(f"Spearman of {key}'s score and error, {words} ({len(names)}): {rank:.2f}")
    plot(rows, asked.folder / "conditions.png")


if __name__ == "__main__":
    main()
