"""The papers of the methods that a run uses: in words, as BibTeX, and as the files that a user cites by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import __version__
from ...files.atomic import write_atomically

_NAMES_LISTED = 6  # of authors; of more, the first three


@dataclass(frozen=True)
class Reference:
    """One paper. authors: "Liu C" each, the last name first; pages: "196-204" or an article number; doi: bare."""

    authors: tuple[str, ...]
    title: str
    journal: str
    year: int
    volume: str = ""
    pages: str = ""
    doi: str = ""

    @property
    def words(self) -> str:
        """The reference in words: authors, title, journal, year, volume, pages, DOI."""
        many = len(self.authors) > _NAMES_LISTED or self.authors[-1] == "others"
        named = self.authors[:3] if many else self.authors
        people = ", ".join(one for one in named if one != "others") + (", et al" if many else "")
        place = f";{self.volume}" if self.volume else ""
        place += f":{self.pages.replace('-', '–')}" if self.pages else ""
        return f"{people}. {self.title}. {self.journal} {self.year}{place}" + (f". doi:{self.doi}" if self.doi else ".")

    def bibtex(self, key: str) -> str:
        """Return the reference as a BibTeX entry of this key."""
        people = " and ".join(one if one == "others" else _last_name_first(one) for one in self.authors)
        fields = {
            "author": people, "title": f"{{{self.title}}}", "journal": self.journal, "year": str(self.year),
            "volume": self.volume, "pages": self.pages.replace("-", "--"), "doi": self.doi,
        }  # fmt: skip
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@article{{{key},", *lines, "}"])


def _last_name_first(name: str) -> str:
    """`de Rochefort L` to `de Rochefort, L.`, its initials apart."""
    last, _, initials = name.rpartition(" ")
    return f"{last}, {' '.join(f'{letter}.' for letter in initials)}"


def _people(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


_MRM, _NBM, _NEUROIMAGE = "Magn Reson Med", "NMR Biomed", "NeuroImage"
_FRONTIERS, _BRAIN_MAPPING = "Front Neuroinform", "Hum Brain Mapp"
REFERENCES = {
    "bids": Reference(
        _people("Gorgolewski KJ, Auer T, Calhoun VD, others"),
        "The brain imaging data structure, a format for organizing and describing outputs of neuroimaging experiments",
        "Sci Data", 2016, "3", "160044", "10.1038/sdata.2016.44",
    ),
    "nipype": Reference(
        _people("Gorgolewski K, Burns CD, Madison C, Clark D, Halchenko YO, Waskom ML, Ghosh SS"),
        "Nipype: a flexible, lightweight and extensible neuroimaging data processing framework in Python",
        _FRONTIERS, 2011, "5", "13", "10.3389/fninf.2011.00013",
    ),
    "bet": Reference(
        ("Smith SM",), "Fast robust automated brain extraction", _BRAIN_MAPPING, 2002, "17", "143-155",
        "10.1002/hbm.10062",
    ),
    "deepbet": Reference(
        _people("Fisch L, Zumdick S, Barkhau C, others"),
        "deepbet: Fast brain extraction of T1-weighted MRI using convolutional neural networks",
        "Comput Biol Med", 2024, "179", "108845", "10.1016/j.compbiomed.2024.108845",
    ),
    "romeo": Reference(
        _people("Dymerska B, Eckstein K, Bachrata B, others"),
        "Phase unwrapping with a rapid opensource minimum spanning tree algorithm (ROMEO)",
        _MRM, 2021, "85", "2294-2308", "10.1002/mrm.28563",
    ),
    "laplacian": Reference(
        _people("Schofield MA, Zhu Y"), "Fast phase unwrapping algorithm for interferometric applications",
        "Opt Lett", 2003, "28", "1194-1196", "10.1364/OL.28.001194",
    ),
    "sharp": Reference(
        _people("Schweser F, Deistung A, Lehr BW, Reichenbach JR"),
        "Quantitative imaging of intrinsic magnetic tissue properties using MRI signal phase",
        _NEUROIMAGE, 2011, "54", "2789-2807", "10.1016/j.neuroimage.2010.10.070",
    ),
    "spheres": Reference(
        _people("Li W, Wu B, Liu C"),
        "Quantitative susceptibility mapping of human brain reflects spatial variation in tissue composition",
        _NEUROIMAGE, 2011, "55", "1645-1656", "10.1016/j.neuroimage.2010.11.088",
    ),
    "vsharp": Reference(
        _people("Wu B, Li W, Guidon A, Liu C"), "Whole brain susceptibility mapping using compressed sensing",
        _MRM, 2012, "67", "137-147", "10.1002/mrm.23000",
    ),
    "resharp": Reference(
        _people("Sun H, Wilman AH"),
        "Background field removal using spherical mean value filtering and Tikhonov regularization",
        _MRM, 2014, "71", "1151-1157", "10.1002/mrm.24765",
    ),
    "pdf": Reference(
        _people("Liu T, Khalidov I, de Rochefort L, others"),
        "A novel background field removal method for MRI using projection onto dipole fields (PDF)",
        _NBM, 2011, "24", "1129-1136", "10.1002/nbm.1670",
    ),
    "ismv": Reference(
        _people("Wen Y, Zhou D, Liu T, Spincemaille P, Wang Y"),
        "An iterative spherical mean value method for background field removal in MRI",
        _MRM, 2014, "72", "1065-1071", "10.1002/mrm.24998",
    ),
    "lbv": Reference(
        _people("Zhou D, Liu T, Spincemaille P, Wang Y"),
        "Background field removal by solving the Laplacian boundary value problem",
        _NBM, 2014, "27", "312-319", "10.1002/nbm.3064",
    ),
    "flirt": Reference(
        _people("Jenkinson M, Bannister P, Brady M, Smith S"),
        "Improved optimization for the robust and accurate linear registration and motion correction of brain images",
        _NEUROIMAGE, 2002, "17", "825-841", "10.1006/nimg.2002.1132",
    ),
    "sitk": Reference(
        _people("Lowekamp BC, Chen DT, Ibáñez L, Blezek D"), "The design of SimpleITK",
        _FRONTIERS, 2013, "7", "45", "10.3389/fninf.2013.00045",
    ),
    "mattes": Reference(
        _people("Mattes D, Haynor DR, Vesselle H, Lewellen TK, Eubank W"),
        "PET-CT image registration in the chest using free-form deformations",
        "IEEE Trans Med Imaging", 2003, "22", "120-128", "10.1109/TMI.2003.809072",
    ),
    "cosmos": Reference(
        _people("Liu T, Spincemaille P, de Rochefort L, Kressler B, Wang Y"),
        "Calculation of susceptibility through multiple orientation sampling (COSMOS)",
        _MRM, 2009, "61", "196-204", "10.1002/mrm.21828",
    ),
    "sti": Reference(
        ("Liu C",), "Susceptibility tensor imaging", _MRM, 2010, "63", "1471-1477", "10.1002/mrm.22482"
    ),
    "single": Reference(
        _people("Chatnuntawech I, McDaniel P, Cauley SF, others"),
        "Single-step quantitative susceptibility mapping with variational penalties",
        _NBM, 2017, "30", "e3570", "10.1002/nbm.3570",
    ),
    "perturb": Reference(
        _people("Papandreou G, Yuille A"), "Gaussian sampling by local perturbations",
        "Adv Neural Inf Process Syst (NIPS)", 2010, "23", "1858-1866",
    ),
    "modl": Reference(
        _people("Feng R, Zhao J, Wang H, others"),
        "MoDL-QSM: model-based deep learning for quantitative susceptibility mapping",
        _NEUROIMAGE, 2021, "240", "118376", "10.1016/j.neuroimage.2021.118376",
    ),
}  # fmt: skip


def citation_key(name: str) -> str:
    """Return the BibTeX key of one of REFERENCES, as in `liu2009cosmos`."""
    one = REFERENCES[name]
    first = re.sub(r"[^a-z]", "", one.authors[0].rpartition(" ")[0].lower())
    return f"{first}{one.year}{name}"


def software_words() -> str:
    """Return chi33 itself as a reference."""
    return f"chi33 {__version__}: multi-orientation GRE scans to susceptibility-tensor labels and trained QSM networks."


def _software_bibtex() -> str:
    return (
        "@software{chi33,\n  author = {{The chi33 developers}},\n  title = {{chi33: multi-orientation GRE scans to "
        f"susceptibility-tensor labels and trained QSM networks}}}},\n  version = {{{__version__}}},\n}}"
    )


def write_citations(folder: Path, methods: Mapping[str, str], keys: Sequence[str]) -> tuple[Path, Path]:
    """Write CITATION.md, the methods with their references, and CITATION.bib into a folder; return their paths.

    methods: the sentences with citations by key, by whom they are of (a subject, or several); keys: of REFERENCES.
    """
    said = [part for name, text in methods.items() for part in (f"## Methods ({name})", "", text, "")]
    listed = [f"- @{citation_key(key)}: {REFERENCES[key].words}" for key in keys]
    lines = ["# How to cite", "", software_words(), "", *said, "## References", "", *listed, ""]
    entries = [_software_bibtex(), *(REFERENCES[key].bibtex(citation_key(key)) for key in keys)]
    words, bibliography = Path(folder) / "CITATION.md", Path(folder) / "CITATION.bib"
    _write(words, "\n".join(lines))
    _write(bibliography, "\n\n".join(entries) + "\n")
    return words, bibliography


def _write(path: Path, content: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))
