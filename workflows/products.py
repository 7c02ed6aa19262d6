"""What a run writes of a subject: where each file comes from, its name, and what its sidecar says."""

from __future__ import annotations

from dataclasses import dataclass

from .config import RunConfig


@dataclass(frozen=True)
class Product:
    """One exported file: where it comes from, its name, and what its sidecar says."""

    output: str
    suffix: str
    desc: str | None = None
    units: str | None = "ppm"
    description: str = ""
    depends: bool = False  # on the data, whether it is made


SCAN_PRODUCTS = (
    Product("magnitude", "MEGRE", "magnitude", "arbitrary", "Magnitude of the first echo"),
    Product("brain_mask", "mask", "brain", None, "Brain"),
    Product("reliable_mask", "mask", "reliable", None, "Where the total field can be trusted, around the brain too"),
    Product("local_mask", "mask", "local", None, "Where the local field is valid"),
    Product("total_field", "fieldmap", "total", "ppm", "Total field, ppm of B0, paramagnetic positive"),
    Product("local_field", "fieldmap", "local", "ppm", "Local field, ppm of B0"),
    Product("residual", "fieldmap", "echoes", "rad", "Departure of the echoes' phase from a line, weighted rms"),
)
ECHO_PICTURE = Product("echo", "MEGRE", "phase", None, "Picture of one echo: phase, phase unwrapped, and weight")
LABEL_PRODUCTS = (
    Product("chi33_file", "Chimap", "chi33", "ppm", "Apparent susceptibility along B0 of this scan, h'chi h"),
    Product(
        "deltab_file", "fieldmap", "deltab", "ppm", "Field of the tensor components across B0 (delta B'), ppm of B0"
    ),
    Product("cosmos_file", "Chimap", "cosmos", "ppm", "COSMOS susceptibility on this scan's grid"),
    Product("residual_file", "fieldmap", "residual", "ppm", "What chi33 and delta B' leave of the field of the fit"),
)
FIELD_OF_FIT = Product(
    "fitfield_file", "fieldmap", "fit", "ppm", "Local field, its background told from what the fit leaves, ppm of B0"
)
DEVIATION_PRODUCTS = (
    Product("chi33sd_file", "Chimap", "chi33sd", "ppm", "Standard deviation of chi33 of this scan"),
    Product("deltabsd_file", "fieldmap", "deltabsd", "ppm", "Standard deviation of delta B' of this scan, ppm of B0"),
    Product("cosmossd_file", "Chimap", "cosmossd", "ppm", "Standard deviation of COSMOS on this scan's grid"),
)
SUBJECT_PRODUCTS = (
    Product("tensor_file", "Chimap", "tensor", "ppm", "Susceptibility tensor: xx, xy, xz, yy, yz, zz"),
    Product("cosmos_file", "Chimap", "cosmos", "ppm", "COSMOS susceptibility"),
    Product("mms_file", "Chimap", "mms", "ppm", "Mean magnetic susceptibility"),
    Product("msa_file", "Chimap", "msa", "ppm", "Magnetic susceptibility anisotropy"),
    Product("pev_file", "Chimap", "pev", None, "Principal eigenvector of the tensor: x, y, z"),
    Product(
        "mask_file",
        "mask",
        "local",
        None,
        "Where at least one scan has a field for the fit",
    ),
)
FREQUENCY = Product(
    "frequency_file", "fieldmap", "frequency", "ppm", "Frequency that all scans share, fitted beside the tensor, of B0",
    depends=True,
)  # fmt: skip
SINGLE_STEP = "single-step (SMV of total fields)"
MEAN_PRODUCT = Product("mean_file", "MEGRE", "mean", "arbitrary", "Mean of all scans' magnitudes")
# (suffix, desc) of every file that a run may write of a subject, beside the transforms
PRODUCT_NAMES = frozenset(
    (product.suffix, str(product.desc))
    for product in (
        *SCAN_PRODUCTS,
        *LABEL_PRODUCTS,
        FIELD_OF_FIT,
        *DEVIATION_PRODUCTS,
        *SUBJECT_PRODUCTS,
        FREQUENCY,
        MEAN_PRODUCT,
    )
)


def subject_products(config: RunConfig) -> tuple[Product, ...]:
    """Return what is written of a subject's fit."""
    return (*SUBJECT_PRODUCTS, *((FREQUENCY,) if config.isotropic_frequency != 0 else ()))


def label_products(config: RunConfig) -> tuple[Product, ...]:
    """Return what is written of each scan's labels."""
    of_fit = (FIELD_OF_FIT,) if config.fit == "single-step" else ()
    return (*LABEL_PRODUCTS, *of_fit, *(DEVIATION_PRODUCTS if config.draws or config.jackknife else ()))
