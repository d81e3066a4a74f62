"""What a study found: the models of evaluation.json, which `evaluate` writes and `report` reads.

A number that does not exist (a recall of a class without members, an interval of no draws) is null. Rates and
scores are fractions, 0 to 1. Intervals are of 95 %: percentiles of a bootstrap over ``n_groups`` groups.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from multiscale.atomic import replacing


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_known)]
Metric = Literal["macro_f1", "satellite_recall"]


class Result(BaseModel):
    """A part of an evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(Result):
    """A number and its interval."""

    value: Number
    low: Number = None
    high: Number = None


class Score(Value):
    """The mean over seeds, its interval over what was tested, and how much the seeds differ."""

    std_seeds: Number = None  # null with one seed


class Matrix(Result):
    """Fractions of each row (truth) by column (what was said), K x K, mean over seeds."""

    value: list[list[Number]]
    low: list[list[Number]]
    high: list[list[Number]]


class Bin(Result):
    """Predictions of like confidence."""

    confidence: float
    accuracy: float
    n: int  # of all seeds


class Det(Result):
    """Errors of each cut on one class's probability, all seeds together, at most 200 points."""

    false_positive_rate: list[float]  # others that pass, of all others
    miss_rate: list[float]  # of the class


class StreamRates(Result):
    """Scores where classes are as frequent as in the stream, by the stream's priors."""

    rates: dict[str, float]  # of classes, adding to 1
    macro_f1: Score
    precision: dict[str, Value]
    recall: dict[str, Value]


class Tested(Result):
    """What the networks of a cell said of one test set."""

    classes: list[str]  # of this test, the order of confusion
    n: int
    n_objects: int
    n_groups: int  # drawn by the bootstrap
    grouped_by: str  # "cell": of sky; "object"
    counts: dict[str, int]  # stamps by class
    macro_f1: Score
    accuracy: Score
    ece: Score  # expected calibration error before temperature scaling
    ece_calibrated: Score
    brier: Score  # calibrated, 0 to 2
    recall: dict[str, Value]
    precision: dict[str, Value]
    average_precision: dict[str, Value]
    confusion: Matrix
    satellite_to_sn: Value | None  # of true satellites, those called SN; null where a class is missing
    satellite_to_asteroid: Value | None
    recall_at_contamination: dict[str, dict[str, Number]]  # class -> "0.01", "0.1" -> recall
    at_stream_rates: StreamRates | None
    reliability: list[Bin]  # before temperature scaling
    reliability_calibrated: list[Bin]
    det: dict[str, Det]  # "satellite", "bogus", where they are


class LayoutFacts(Result):
    """What is sent of a detection."""

    name: str  # "4x8", "full-63", "crop-16", "low-16"
    kind: Literal["multi-scale", "crop", "full", "low-resolution"]
    size: int  # pixels a side of a level
    n_levels: int
    pixel_scale: float  # arcsec, of the finest level (low resolution: of its blocks)
    field_of_view: float  # arcsec


class Spread(Result):
    """Bytes of an alert: median and range of 90 % of them."""

    median: float
    low: float  # 5th percentile
    high: float  # 95th


class Bytes(Result):
    """Measured of real packets. Those of a batch are an alert's share of it."""

    pixels: Spread  # payloads and bitmaps of invalid pixels
    cutout: Spread  # the multiscale.Cutout record, bare (encoding "fits": three gzip files as ZTF sends them)
    alert: Spread  # the multiscale.Alert record with the cutout in it
    alert_without: float  # the same alert without a cutout, median
    snappy: Number  # an alert's share of a Kafka batch so compressed; null: not measured
    zstd: Number
    n: int  # alerts measured


class Cell(Result):
    """One place in the grid: what was sent, what was trained on it, and how good it was."""

    id: str
    arms: list[str]  # of the study, that it belongs to; "reference" is the middle of the star
    layout: LayoutFacts
    planes: list[str]
    encoding: str  # "raw", "rice/4" (a step of a quarter of sigma), "rice/1"
    normalization: Literal["noise", "paper"]
    network: str  # "parameters" (one family, equal parameters), "mflop" (equal work), "published-..."
    n_parameters: int
    mflop: float  # of one stamp, inference
    position: Literal["with", "without", "shuffled"]
    fraction: float  # of the training data
    label_noise: float  # of training labels that are another class's
    dropped_level: int | None
    fft: bool  # |FFT|^2 of the wide difference beside it
    seeds: list[int]
    training_seconds: float  # mean of a trial
    bytes: Bytes | None
    tests: dict[str, Tested]  # "random", "first": a detection of each object; real: see RealCells


class Difference(Result):
    """Cell ``a`` minus cell ``b`` on the same stamps: paired bootstrap, seeds averaged."""

    a: str
    b: str
    arm: str
    test: str
    metric: Metric
    difference: Number
    low: Number
    high: Number
    mcnemar_p: Number  # exact, of the seeds' mean probabilities, one stamp of an object each
    n_objects: int
    adjusted_p: Number  # Holm, over the differences of one arm, test and metric


class Learning(Result):
    """A point of a learning curve."""

    cell: str
    fraction: float
    n_training: int
    macro_f1: Score  # test "random"


class LabelNoise(Result):
    """What wrong training labels cost."""

    cell: str
    rate: float
    macro_f1: Score


class Dropped(Result):
    """What a level or plane contributes: the cell without it minus the reference."""

    cell: str
    dropped: str  # "level 0", "science"
    macro_f1: Value  # the difference
    satellite_recall: Value


class Cost(Result):
    """Of one layout, on one core here, without GPU."""

    encode_us: float  # of an alert, three planes
    decode_us: float
    classify_us: Number  # the network of the family, torch, one thread; null: none trained
    encode_copies: float  # times a memory copy of its input pixels
    decode_copies: float  # times a memory copy of its levels
    alert_bytes: float  # that rates are made of
    gbit_s_ztf: float  # mean over a night at the survey's rate
    gbit_s_lsst: float  # the peak: a visit's alerts within the time between visits
    tb_night_ztf: float
    tb_night_lsst: float
    visit_latency_s: float  # encode, send at LSST's reserved rate, decode, classify 40,000 alerts on one core


class Year(Result):
    """A simulated stream at real class rates, a year of it, classified with the stream's priors."""

    cell: str
    n_days: int
    objects_a_day: int
    rates: dict[str, float]  # of the stream
    true: dict[str, int]  # objects of each class in the year
    found: dict[str, Value]  # called so; interval: of the stamps that were drawn from
    correct: dict[str, Value]  # of those called so, the fraction that is
    per_day_satellites: Value


class RealCells(Result):
    """Cross-validation on real stamps; each cell's tests are named by which labels they hold.

    "catalogue": labels of catalogues alone; "weak": hints alone; "all": both; "glints": all and satellites as
    a fifth class, trained and tested, where exposures enough hold them.
    """

    classes: list[str]
    n_folds: int
    counts: dict[str, dict[str, int]]  # test -> class -> stamps
    note: str
    cells: list[Cell]
    differences: list[Difference]


class Data(Result):
    """What was trained and tested on."""

    label: str
    simulated: bool
    survey: str
    sets: list[dict[str, Any]]  # as their own set.json tells, or a folder's name
    counts: dict[str, dict[str, int]]  # part ("train", "validation", "test random", "test first") -> class
    left_out: dict[str, int]
    n_cells_of_sky: int
    grouped_by: str


class Answer(Result):
    """One of the six questions of the study."""

    question: int
    text: str
    numbers: dict[str, Any]


class Evaluation(Result):
    """All that a report needs, besides example stamps (examples.npz)."""

    study: dict[str, Any]  # as resolved
    environment: dict[str, Any]
    commit: str
    data: Data
    classes: list[str]
    reference: str  # id of the cell in the middle of the star
    arms: dict[str, list[str]]  # arm -> ids of its cells
    cells: list[Cell]
    differences: list[Difference]
    learning: list[Learning]
    label_noise: list[LabelNoise]
    levels_dropped: list[Dropped]
    planes_dropped: list[Dropped]
    cost: dict[str, Cost]
    real: RealCells | None
    year: Year | None
    answers: list[Answer]


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write ``evaluation`` to ``path``, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(evaluation.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_evaluation(path: Path) -> Evaluation:
    """Return the evaluation in a file. Raises OSError, or pydantic's ValidationError for another file."""
    return Evaluation.model_validate_json(path.read_text(encoding="utf-8"))


#: Arrays of examples.npz; n stamps, P planes (names in ``planes``), L levels of S pixels, classes by their
#: number in ``classes``. What a study lacks has length 0.
EXAMPLES: dict[str, str] = {
    "classes": "(K,) names",
    "planes": "(P,) names",
    "pixel_scale": "arcsec",
    "example_label": "(n,) class",
    "example_said": "(n,) class, by the reference cell, first seed",
    "example_probability": "(n,) of what was said",
    "example_id": "(n,) stamp ids",
    "example_original": "(n, P, H, W) float32, as the survey cut it; NaN invalid",
    "example_sent": "(n, P, L, S, S) float32, decoded from the packet of the reference layout",
    "example_seen": "(n, P, L, S, S) float32, normalised, as the network sees it",
    "satellite_label": "(n,) true class of the stamps with the largest satellite probability, largest first",
    "satellite_probability": "(n,)",
    "satellite_id": "(n,)",
    "satellite_original": "(n, H, W) float32, the difference",
    "sky_ra": "(n,) degrees, of every stamp of test first, by the reference cell, first seed",
    "sky_dec": "(n,)",
    "sky_mjd": "(n,) UTC",
    "sky_label": "(n,) class",
    "sky_said": "(n,) class",
    "site": "(3,) longitude, latitude (degrees, east positive) and height (m) of the simulated telescope",
    "wide_id": "(w,) ids of two satellites",
    "wide_image": "(w, H, W) float32, the difference round them, NaN beyond the frame",
    "wide_pixel_scale": "arcsec",
}
