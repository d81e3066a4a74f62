"""What Reyes-Jainaga+ 2023 (the paper) published: its tables, and what its text says of its figures.

The text that is at hand has lost the images: of Figure 2 only the fractions that the text names are known.
Scores are percent, as printed. All of it was measured on real ZTF alerts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "Reyes-Jainaga et al. 2023"

#: The paper's four layouts, as it orders them, by the names that studies use.
LAYOUTS: tuple[str, ...] = ("full", "cropped", "low-resolution", "multi-scale")
SPELLED: dict[str, str] = {
    "full": "Full, 63 × 63",
    "cropped": "Cropped, 16 × 16",
    "low-resolution": "Low resolution, 16 × 16",
    "multi-scale": "Multi-scale, 4 × 8 × 8",
}
N_NUMBERS: dict[str, int] = {"full": 3969, "cropped": 256, "low-resolution": 256, "multi-scale": 256}


@dataclass(frozen=True)
class Score:
    """A mean over five trainings and their standard deviation, percent."""

    mean: float
    std: float


@dataclass(frozen=True)
class Row:
    """One layout in one block of Table 1: macro averages."""

    f1: Score
    precision: Score
    recall: Score


def _row(*numbers: float) -> Row:
    f1, precision, recall = (Score(*numbers[i : i + 2]) for i in (0, 2, 4))
    return Row(f1, precision, recall)


#: Table 1, block -> layout. Our "random" test is its "Test set", our "first" its "Test set (first stamp)".
TABLE_1: dict[str, dict[str, Row]] = {
    "validation": {
        "full": _row(86.98, 0.51, 84.91, 0.57, 89.90, 0.67),
        "cropped": _row(85.05, 0.41, 85.50, 0.74, 84.75, 0.65),
        "low-resolution": _row(82.29, 0.21, 80.89, 0.41, 84.18, 0.49),
        "multi-scale": _row(87.20, 0.22, 86.07, 0.32, 88.54, 0.30),
    },
    "random": {
        "full": _row(86.68, 0.42, 84.34, 0.48, 90.48, 0.40),
        "cropped": _row(86.19, 0.42, 85.62, 0.83, 86.88, 0.51),
        "low-resolution": _row(82.69, 0.40, 80.70, 0.71, 85.55, 0.30),
        "multi-scale": _row(87.39, 0.25, 85.99, 0.43, 89.18, 0.37),
    },
    "first": {
        "full": _row(86.65, 0.39, 84.36, 0.56, 90.43, 0.35),
        "cropped": _row(86.10, 0.67, 85.58, 1.01, 86.79, 0.71),
        "low-resolution": _row(82.65, 0.46, 80.61, 0.76, 85.63, 0.20),
        "multi-scale": _row(87.30, 0.34, 85.92, 0.55, 89.09, 0.23),
    },
}


@dataclass(frozen=True)
class Network:
    """A column of Table 2. ``n_parameters``: counted by us, both readings where the table allows two."""

    input: str
    layers: tuple[str, ...]
    dropout: float
    hidden: int
    learning_rate: float
    n_parameters: tuple[int, ...]


#: Table 2. The text of the table lost its columns; its last "conv3-14" can belong to either of two networks.
TABLE_2: dict[str, Network] = {
    "full": Network(
        "63 × 63 × 6", ("conv3-37", "maxpool", "conv3-60", "maxpool", "conv3-29", "maxpool", "conv3-26"),
        0.71726, 31, 7.589e-4, (96_476,),
    ),
    "cropped": Network(
        "16 × 16 × 6", ("conv3-112", "conv3-27", "maxpool", "conv3-92", "conv3-121"),
        0.866799, 133, 3.4627e-4, (1_187_448,),
    ),
    "low-resolution": Network(
        "16 × 16 × 6", ("conv3-63", "conv3-31", "maxpool", "conv3-108", "(conv3-14)"),
        0.73065, 22, 1.125e-3, (84_873, 203_603),
    ),
    "multi-scale": Network(
        "8 × 8 × 24", ("conv3-76", "conv3-18", "conv3-54", "conv3-28", "(conv3-14)"),
        0.8478, 69, 7.445e-4, (175_604, 117_322),
    ),
}  # fmt: skip
BATCH_SIZE, EVALUATED_EVERY, PATIENCE, N_SEEDS = 256, 500, 5, 5

#: What the text says of Figure 2: (true class, said class) -> layout -> percent of the true class.
CONFUSION: dict[tuple[str, str], dict[str, float]] = {
    ("satellite", "satellite"): {"full": 88.1, "cropped": 65.9, "low-resolution": 80.0, "multi-scale": 76.9},
    ("satellite", "SN"): {"cropped": 5.5, "multi-scale": 1.7},
    ("SN", "SN"): {"full": 84.5, "cropped": 82.2, "low-resolution": 76.1, "multi-scale": 85.1},
    ("AGN", "AGN"): {"low-resolution": 86.9},
    ("asteroid", "asteroid"): {"low-resolution": 94.3},
    ("bogus", "bogus"): {"cropped": 94.1, "multi-scale": 94.1},
    ("VS", "VS"): {"cropped": 92.1, "multi-scale": 92.0},
}
#: Ranges that the text gives for several layouts at once.
CONFUSION_RANGES: dict[tuple[str, str], tuple[float, float]] = {
    ("AGN", "AGN"): (89.7, 90.4),  # full, cropped, multi-scale
    ("asteroid", "asteroid"): (97.3, 97.8),
}
#: Satellites that are taken for something astrophysical, percent.
SATELLITE_AS_ASTROPHYSICAL: dict[str, float] = {"cropped": 13.8, "multi-scale": 4.8}

#: Labelled objects (2.1), split 60/20/20 %.
LABELLED: dict[str, int] = {
    "AGN": 9_774, "asteroid": 9_180, "bogus": 15_950, "satellite": 580, "SN": 3_615, "VS": 10_211,
}  # fmt: skip

#: One year from 2020-08-01, at most 500 new objects a day, unlabelled (3.2): what they were called.
YEAR: dict[str, int] = {
    "AGN": 2_338,
    "asteroid": 54_160,
    "bogus": 49_312,
    "satellite": 843,
    "SN": 1_441,
    "VS": 36_612,
}
N_YEAR_SELECTED = 136_398  # before some were left out; yet YEAR adds to 144,706

#: What the paper says of its pictures.
FIGURES: dict[int, str] = {
    1: "A ZTF stamp of 63″, the 6″ of an LSST stamp in it, and the same stamp as four images of 8 × 8 pixels "
    "with views of 8″, 16″, 32″ and 63″.",
    2: "Confusion matrices of the four layouts on one test set, each the mean of 5 trainings, rows of 100 %.",
    3: "The year's objects on the sky by predicted class. AGN are everywhere but behind the Milky Way, "
    "asteroids near the ecliptic, bogus ones everywhere, satellites to the south, supernovae outside the "
    "galactic plane, variable stars near it.",
    4: "The 36 stamps with the highest satellite probability: 99.9 to 100.0 %. Many look like a pearl "
    "necklace; some hold straight lines, which are bogus.",
    5: "The same objects in altitude and azimuth at Palomar, the zenith in the middle. Most asteroids and "
    "most satellites are to the south.",
    6: "500″ round two of the satellites: ZTF21abklvrx is a pearl necklace, ZTF20achpliw has vertical lines "
    "all over the image, by the ZTF team's word a readout error.",
}


def year_share(counts: Mapping[str, int]) -> dict[str, float]:
    """Return the percent of all that each class has."""
    total = sum(counts.values())
    return {name: 100 * n / total for name, n in counts.items()}
