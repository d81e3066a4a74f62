"""What a study compares: a star of cells around one reference, and the published networks; a TOML file."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from reference_pipeline.classify.networks.published import TABLE_2
from reference_pipeline.config import Config, load_toml, parse_model
from reference_pipeline.errors import ConfigError
from reference_pipeline.taxonomy import STAMP_CLASSES

from .layouts import Layout, encoding_of, layout_of

Position = Literal["with", "without", "shuffled"]
PLANES = ("science", "template", "difference", "score")  # in the order of the arrays on disk
PUBLISHED_LAYOUTS = {
    "full": "full-63",
    "cropped": "crop-16",
    "low-resolution": "low-16",
    "multi-scale": "4x8",
}
#: Class rates of a stream: how often the model of Reyes-Jainaga+ 2023 (3.2) called the new objects of a year
#: of ZTF so. Nature's own rates are not known better.
YEAR_OF_PAPER = {
    "AGN": 2338.0, "asteroid": 54160.0, "bogus": 49312.0, "satellite": 843.0, "SN": 1441.0, "VS": 36612.0,
}  # fmt: skip
Vary = Literal[
    "layout", "planes", "encoding", "network", "position", "fraction", "label_noise", "dropped_level", "fft",
    "normalization",
]  # fmt: skip


class CellSpec(Config):
    """What is sent, and what is trained on it."""

    layout: str = "4x8"
    planes: tuple[str, ...] = ("science", "template", "difference")
    encoding: str = "raw"
    network: str = "parameters"  # "parameters" and "mflop": one family (family.py); "published-NAME"
    normalization: Literal["noise", "paper"] = "noise"
    position: Position = "without"
    fraction: float = Field(default=1.0, gt=0, le=1)  # of the training stamps
    label_noise: float = Field(default=0.0, ge=0, lt=1)  # of the training labels
    dropped_level: int | None = None  # blanked, in training and test
    fft: bool = False  # |FFT|^2 of the wide difference as another plane (sent.py)

    @model_validator(mode="after")
    def _holds(self) -> CellSpec:
        try:
            layout, encoding = layout_of(self.layout), encoding_of(self.encoding)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if unknown := set(self.planes) - set(PLANES):
            raise ValueError(f"planes: unknown {', '.join(sorted(unknown))}")
        if self.planes != tuple(plane for plane in PLANES if plane in self.planes) or not self.planes:
            raise ValueError(f"planes: expected some, in the order {', '.join(PLANES)}")
        if encoding.kind == "fits" and layout.n_levels > 1:
            raise ValueError(f"{self.layout}: FITS stamps have one level")
        if encoding.kind != "fits" and not layout.in_codec:
            raise ValueError(f'{self.layout}: too large for a cutout; encoding = "fits"')
        if self.dropped_level is not None and not 0 <= self.dropped_level < layout.n_levels:
            raise ValueError(f"dropped_level {self.dropped_level}: {self.layout} has {layout.n_levels}")
        if self.network.startswith("published-"):
            if self.network.removeprefix("published-") not in TABLE_2:
                raise ValueError(f"network {self.network}: not in the paper's Table 2")
        elif self.network not in ("parameters", "mflop"):
            raise ValueError(f"network {self.network}: expected parameters, mflop or published-...")
        return self

    @property
    def id(self) -> str:
        """Name of the cell, the same in every study; what is as usual is not in it."""
        planes = "".join("c" if plane == "score" else plane[0] for plane in self.planes)
        words = [self.layout, self.encoding.replace("/", "")]
        words += [planes] if planes != "std" else []
        words += [self.network] if self.network != "parameters" else []
        words += [self.normalization] if self.normalization != "noise" else []
        words += [f"position-{self.position}"] if self.position != "without" else []
        words += [f"data-{self.fraction:g}"] if self.fraction != 1 else []
        words += [f"wrong-{self.label_noise:g}"] if self.label_noise else []
        words += [f"less-{self.dropped_level}"] if self.dropped_level is not None else []
        words += ["fft"] if self.fft else []
        return "_".join(words)

    @property
    def sending(self) -> tuple[str, str, str, bool]:
        """What arrays on disk it is trained on; planes are chosen from them."""
        return self.layout, self.encoding, self.normalization, self.fft

    @property
    def stamp(self) -> Layout:
        """Its layout."""
        return layout_of(self.layout)


class Arm(Config):
    """A ray of the star: one thing varied, the rest as in the reference or in ``base``."""

    name: str
    vary: Vary
    values: tuple[Any, ...] = Field(min_length=1)
    base: dict[str, Any] = Field(default={})  # in place of the reference's
    #: value (as text) -> what goes with it, e.g. FITS for a layout
    with_each: dict[str, dict[str, Any]] = Field(default={})
    against: tuple[Any, ...] = ()  # values that the others are compared with, beside the reference
    n_seeds: int | None = Field(default=None, ge=1)


class Simulated(Config):
    """Data that the study makes where it is given none."""

    set: str = "ztf"
    seed: int = 5
    number: int = Field(ge=1)


class DataSpec(Config):
    """Which stamps."""

    label: str
    survey: str = "ztf"
    folders: tuple[str, ...] = ()
    simulate: Simulated | None = None
    without_subtypes: tuple[str, ...] = ("injected",)
    with_weak: bool = False  # labels that are hints
    places: Literal["position", "pixel"] = "position"  # classify/recipe.py: Places
    most: int | None = Field(default=None, ge=1)  # stamps, the first of the files
    split_seed: int = 0


class Budget(Config):
    """How long a network is trained, and how."""

    iterations: int = Field(ge=1)
    batch_size: int = Field(default=128, ge=2)
    evaluate_every: int = Field(default=50, ge=1)
    patience: int = Field(default=1000, ge=1)


class Training(Budget):
    """Of the family of networks; the defaults are those of the shipped recipe stamps-ztf-4x8."""

    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    noise: float = Field(default=0.2, ge=0)
    widths: tuple[int, ...] = (4, 6, 8)  # of the reference's network: all others match it
    n_dense: int = 32
    device: str = "cpu"


class Paper(Config):
    """The four layouts with the networks of Table 2; both readings where there are two."""

    networks: tuple[str, ...] = tuple(TABLE_2)
    normalizations: tuple[Literal["paper", "noise"], ...] = ("paper",)
    encoding: str = "raw"
    full_encoding: str = "fits"
    budget: dict[str, Budget] = Field(default={})  # network -> budget; others: as the recipe says
    n_seeds: int | None = Field(default=None, ge=1)


class YearSpec(Config):
    """A stream of a year; the rates are of DataSpec's classes."""

    objects_a_day: int = 500
    n_days: int = 365


class RealSpec(Config):
    """Cross-validation on the real labelled stamps, where they are beside the checkout."""

    layouts: tuple[str, ...]
    encodings: tuple[str, ...] = ("raw",)
    n_folds: int = Field(default=5, ge=3)  # one is tested, one validates
    n_seeds: int = Field(default=1, ge=1)
    budget: Budget


class Study(Config):
    """A study, whole."""

    name: str
    note: str = ""
    data: DataSpec
    seeds: tuple[int, ...] = Field(min_length=1)
    training: Training
    reference: CellSpec = CellSpec()
    arms: tuple[Arm, ...] = ()
    paper: Paper | None = None
    stream_rates: dict[str, float] = Field(default=YEAR_OF_PAPER)
    n_draws: int = Field(default=1000, ge=10)  # of the bootstrap
    n_packets: int = Field(default=300, ge=10)  # whose bytes are measured
    year: YearSpec | None = YearSpec()
    real: RealSpec | None = None
    wide_view: int | None = None  # arcsec, round two satellites of simulated frames; None: not made

    @model_validator(mode="after")
    def _holds(self) -> Study:
        if set(self.stream_rates) != set(STAMP_CLASSES):
            raise ValueError(f"stream_rates: expected one for each of {', '.join(STAMP_CLASSES)}")
        if len({arm.name for arm in self.arms}) < len(self.arms):
            raise ValueError("arms: each needs a name of its own")
        return self


class Planned(Config):
    """A cell, the arms that it belongs to, and its seeds."""

    cell: CellSpec
    arms: tuple[str, ...]
    seeds: tuple[int, ...]


def plan(study: Study) -> list[Planned]:
    """Return every cell once, the reference first. Raises ConfigError for a value that does not hold."""
    found: dict[str, Planned] = {}
    for arm, cell, n_seeds in _cells(study):
        seeds = study.seeds if n_seeds is None else study.seeds[:n_seeds]
        known = found.get(cell.id)
        if known is None:
            found[cell.id] = Planned(cell=cell, arms=(arm,), seeds=seeds)
        else:
            longer = max(known.seeds, seeds, key=len)
            arms = known.arms if arm in known.arms else (*known.arms, arm)
            found[cell.id] = Planned(cell=known.cell, arms=arms, seeds=longer)
    return list(found.values())


def cell_of(arm: Arm, reference: CellSpec, value: Any) -> CellSpec:
    """Return the cell of one value of an arm. Raises ConfigError."""
    values = {**reference.model_dump(), **arm.base, arm.vary: value, **arm.with_each.get(str(value), {})}
    return parse_model(CellSpec, values, f"arm {arm.name}")


def _cells(study: Study) -> Iterator[tuple[str, CellSpec, int | None]]:
    yield "reference", study.reference, None
    for arm in study.arms:
        for value in dict.fromkeys(map(_hashable, arm.values)):
            yield arm.name, cell_of(arm, study.reference, value), arm.n_seeds
    if study.paper is not None:
        for normalization in study.paper.normalizations:
            for name in study.paper.networks:
                layout = PUBLISHED_LAYOUTS[name.removesuffix("-a").removesuffix("-b")]
                encoding = study.paper.full_encoding if layout.startswith("full") else study.paper.encoding
                values = {
                    "layout": layout, "encoding": encoding, "network": f"published-{name}",
                    "normalization": normalization, "position": "with",
                }  # fmt: skip
                arm = "paper" if normalization == "paper" else "paper, normalised by noise"
                yield arm, parse_model(CellSpec, values, "paper"), study.paper.n_seeds


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def load_study(name: str) -> Study:
    """Return the study of a TOML file, or the one shipped under that name. Raises ConfigError."""
    path = Path(name) if name.endswith(".toml") else studies_folder() / f"{name}.toml"
    if path.parent == studies_folder() and not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in studies_folder().glob("*.toml")))
        raise ConfigError(f"study {name!r} is not known; shipped: {shipped}; or name a .toml")
    study = parse_model(Study, load_toml(path), str(path))
    plan(study)  # every cell must hold before anything is run
    return study


def studies_folder() -> Path:
    """Where the shipped studies lie."""
    return Path(str(files(__package__) / "studies"))
