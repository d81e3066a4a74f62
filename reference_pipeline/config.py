"""What a user may set: one frozen model per stage, one TOML file for all.

Every default here is the one that the measurements in benchmarks/ were made with.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from multiscale.atomic import replacing

from .errors import ConfigError
from .frame import FrameKind

M = TypeVar("M", bound=BaseModel)


class Config(BaseModel):
    """A part of the configuration: unknown names are refused, values cannot be changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Site(Config):
    """Where the telescope stands."""

    longitude: float  # degrees, east positive
    latitude: float  # degrees
    height: float = 0.0  # metres
    mpc_code: str | None = None


class Keywords(Config):
    """In which FITS keywords this camera says what; the first one present counts."""

    kind: tuple[str, ...] = ("IMAGETYP", "OBSTYPE")
    exposure_time: tuple[str, ...] = ("EXPTIME", "EXPOSURE")
    start: tuple[str, ...] = ("DATE-OBS",)  # ISO 8601; UTC unless it carries an offset
    start_time: tuple[str, ...] = ("UT", "TIME-OBS", "UTSTART")  # where ``start`` is a date alone
    band: tuple[str, ...] = ("FILTER",)
    ra: tuple[str, ...] = ("OBJCTRA", "RA", "CRVAL1")  # degrees, or hours where written with separators
    dec: tuple[str, ...] = ("OBJCTDEC", "DEC", "CRVAL2")
    airmass: tuple[str, ...] = ("AIRMASS",)
    object_name: tuple[str, ...] = ("OBJECT",)
    field_id: tuple[str, ...] = ("FIELDID",)
    gain: tuple[str, ...] = ()  # where the header knows better than the camera's description
    read_noise: tuple[str, ...] = ()


class Camera(Config):
    """A camera as the reduction has to know it. Sections are written as in FITS: "[x1:x2,y1:y2]", from 1."""

    name: str
    pixel_scale: float = Field(gt=0)  # arcsec
    gain: float = Field(gt=0)  # electrons per ADU
    read_noise: float = Field(ge=0)  # electrons
    saturation: float = Field(gt=0)  # ADU, raw
    pedestal: float = 0.0  # ADU that no light made, in a frame without overscan
    raw_shape: tuple[int, int] | None = None  # (ny, nx); None: any
    overscan: str | None = None
    trim: str | None = None
    sections_from_header: bool = False  # BIASSEC and TRIMSEC of each file instead
    dark_current: float = Field(default=0.0, ge=0)  # electrons per second and pixel; for the simulation
    keywords: Keywords = Keywords()
    kinds: dict[str, FrameKind] = {}  # what the header calls it -> what it is; case does not count
    bands: dict[str, str] = {}  # what the header calls it -> band of the reference catalogue
    default_kind: FrameKind | None = None  # for a header without
    default_band: str | None = None
    parity: Literal["normal", "flipped"] | None = None  # normal: north up, east left; None: try both
    site: Site | None = None


class Calibrate(Config):
    """Overscan, bias, dark, flat (reduce/calibrate.py)."""

    overscan: Literal["line", "column", "none"] = "line"  # one median for each line, or for each column
    required: tuple[Literal["bias", "dark", "flat"], ...] = ()  # a frame without these masters is refused
    clip: float = Field(default=3.0, gt=0)  # sigmas, of the frames a master is made of
    flat_min: float = Field(default=0.1, ge=0)  # of the camera's saturation: a fainter flat is not used
    flat_max: float = Field(default=0.8, gt=0)
    flat_gradient: float = Field(default=0.03, gt=0)  # edge to edge, against the median of all flats
    flat_structure: float = Field(default=0.01, gt=0)  # largest deviation of a block, star trails for example
    hot: float = Field(default=8.0, gt=0)  # sigmas above the neighbourhood, in the master bias or dark
    dead: float = Field(default=0.5, ge=0, lt=1)  # of the neighbourhood, in the master flat
    low_flat: float = Field(default=0.2, ge=0, lt=1)  # below: SUSPECT, the flat is mostly its own noise
    bleed_axis: Literal["y", "x"] = "y"  # along which saturated pixels overflow
    saturation_grow: int = Field(default=2, ge=0)  # pixels along bleed_axis; one across it
    max_saturated: float = Field(default=0.25, gt=0, le=1)  # fraction of the frame
    max_invalid: float = Field(default=0.9, gt=0, le=1)  # fraction of the frame that is not finite


class CosmicRays(Config):
    """reduce/cosmic_rays.py."""

    sigma: float = Field(default=5.0, gt=0)  # of the Laplacian, L.A.Cosmic's sigclip
    neighbour: float = Field(default=0.2, gt=0, le=1)  # sigfrac: neighbours count from this fraction of sigma
    contrast: float = Field(default=2.0, gt=0)  # objlim: Laplacian over fine structure, below it is a star
    iterations: int = Field(default=4, ge=1)
    grow: int = Field(default=1, ge=0)  # times that flagged areas take in neighbours above 3 sigmas
    tile: int = Field(default=1024, ge=64)  # pixels, side of what is searched at a time


class Trails(Config):
    """reduce/trails.py."""

    max_cells: int = Field(
        default=1024, ge=64
    )  # longer side of the binned image that lines are looked for in
    threshold: float = Field(default=7.0, gt=0)  # sigmas of a line's sum
    min_length: float = Field(default=0.15, gt=0, le=1)  # of the frame's shorter side
    max_trails: int = Field(default=10, ge=1)
    margin: float = Field(default=1.0, ge=0)  # pixels added on both sides of the measured width


class Sources(Config):
    """reduce/sources.py."""

    threshold: float = Field(default=5.0, gt=0)  # S/N of the image smoothed with the detection kernel
    kernel_fwhm: float | None = Field(default=None, gt=0)  # pixels; None: the frame's own
    min_area: int = Field(default=1, ge=1)  # pixels above the threshold; more would lose what is at it
    background_size: int = Field(default=64, ge=8)  # pixels, side of a mesh cell
    background_filter: int = Field(default=3, ge=1)  # cells, median filter
    deblend_levels: int = Field(default=32, ge=1)
    deblend_contrast: float = Field(default=0.005, ge=0, le=1)  # 1: no deblending
    kron_factor: float = Field(default=2.5, gt=0)
    kron_minimum: float = Field(default=3.5, ge=0)  # smallest Kron aperture, in units of a and b
    kron_subpixels: int = Field(default=5, ge=0)  # 0: exact, 1: whole pixels as SExtractor
    star_min_snr: float = Field(default=20.0, ge=0)
    star_clip: float = Field(default=3.0, gt=0)  # sigmas of FWHM and elongation
    psf_star_clip: float = Field(default=1.0, gt=0)
    drop_least_stellar: float = Field(default=0.2, ge=0, lt=1)  # fraction
    min_stars: int = Field(default=3, ge=1)


class Astrometry(Config):
    """reduce/astrometry.py."""

    solver: Literal["own", "solve-field"] = "own"  # how the first solution is found
    search_radius: float = Field(default=4.0, gt=0, le=20)  # degrees the pointing may be off
    scale_tolerance: float = Field(default=0.03, gt=0, le=0.2)  # the camera's pixel_scale may be off by this
    match_tolerance: float = Field(default=3.0, gt=0)  # pixels between a source and its catalogue star
    band: str | None = None  # of the catalogue, to take the brightest by; None: the one most stars have
    min_snr: float = Field(default=5.0, ge=0)
    max_order: int = Field(default=4, ge=1, le=5)  # of SIP; 1: plain TAN
    stars_per_term: float = Field(default=3.0, ge=1)  # a higher order needs this many stars for each term
    clip: float = Field(default=4.0, gt=1)  # sigmas, per axis
    max_scatter: float = Field(default=0.75, gt=0)  # pixels per axis; more is refused
    solve_field_seconds: int = Field(default=60, ge=1)  # CPU time that solve-field may use


class Photometry(Config):
    """reduce/photometry.py."""

    aperture_factor: float = Field(default=6.0, gt=0)  # diameter in units of the stars' median a (Eq. 1)
    total_factor: float = Field(default=3.0, gt=1)  # radius taken to hold all the flux, in aperture radii
    local_background: bool = False  # mean of an annulus instead of the mesh of the frame
    reference_band: str | None = None  # None: the exposure's band
    color: tuple[str, str] | None = None  # bands of the catalogue; None: no color term
    match_radius: float = Field(default=1.0, gt=0)  # FWHM
    min_matches: int = Field(default=5, ge=1)
    linear_from: int = Field(default=25, ge=3)  # stars for a plane instead of a constant
    quadratic_from: int = Field(default=60, ge=6)  # stars for Eq. 3 in full
    clip: float = Field(default=3.0, gt=0)  # sigmas
    max_scatter: float = Field(default=0.7, gt=0)  # mag, of the stars kept; heavy patchy cloud has 0.5


class PsfFit(Config):
    """reduce/psf.py."""

    max_degree: int = Field(default=3, ge=0, le=5)  # of the polynomial over the frame
    half_size: float = Field(default=4.0, gt=1)  # FWHM, half the side of the model
    max_stars: int = Field(default=400, ge=1)  # the brightest
    min_stars: int = Field(default=3, ge=1)
    stars_per_term: float = Field(default=4.0, ge=1)  # of the polynomial
    fit_radius: float = Field(default=1.5, gt=0)  # FWHM, pixels that a flux is measured on
    iterations: int = Field(default=4, ge=1)  # of fluxes and positions


class QualityCheck(Config):
    """reduce/quality.py. A frame beyond a limit is named so, and kept."""

    min_pearson: float = Field(default=0.98, ge=-1, le=1)  # below it, clouds (Sun+ 2022, 2.4)
    min_limiting_magnitude: float | None = None
    max_ellipticity: float | None = None
    max_fwhm: float | None = None  # pixels


class Templates(Config):
    """subtract/templates.py: which calibrated frames may be templates (Sun+ 2022, 3.1)."""

    method: Literal["first", "stack"] = "first"  # the earliest acceptable frame, or the best ones' mean
    min_limiting_magnitude: float | None = None  # the paper: 18.5
    min_pearson: float | None = 0.98  # None: also frames without a reference to be held against
    max_cloud_score: float = Field(default=0.5, ge=0, le=1)
    max_fwhm: float | None = None  # pixels
    stack_size: int = Field(default=5, ge=2)  # frames at most
    min_overlap: float = Field(default=0.5, gt=0, le=1)  # of a frame by its template, where no field is named


class Align(Config):
    """subtract/align.py."""

    tile: int = Field(default=1024, ge=64)  # pixels a side, what is resampled at a time
    min_overlap: float = Field(default=0.1, gt=0, le=1)  # of the template's grid; less is refused
    max_offset: float = Field(default=0.3, gt=0)  # pixels, median over matched stars; more is refused
    max_scatter: float = Field(default=0.6, gt=0)  # pixels per axis, robust, of stars with S/N > 20
    match_radius: float = Field(default=3.0, gt=0)  # pixels between the two images of a star
    min_stars: int = Field(default=5, ge=3)


class Subtract(Config):
    """subtract/difference.py."""

    solver: Literal["stamps", "fourier"] = "stamps"
    half_width: int | None = Field(default=None, ge=2, le=20)  # of the kernel, pixels; None: by the two FWHM
    degree: int = Field(default=2, ge=0, le=4)  # of the kernel's variation over the frame
    ratio_degree: int = Field(default=0, ge=0, le=4)  # of the photometric ratio
    background_degree: int = Field(default=2, ge=0, le=4)
    n_stamps: int = Field(default=200, ge=4)  # at most
    min_stamps: int = Field(default=5, ge=3)
    stamps_per_term: float = Field(default=5.0, ge=1)  # fewer lower the kernel's degree
    min_snr: float = Field(default=30.0, gt=0)  # of a stamp's star
    clip: float = Field(default=3.0, gt=0)  # sigmas of the logarithm of a stamp's chi-square
    first_noise: float = Field(default=0.3, ge=0)  # the convolved image's variance counts so much in weights
    max_chi2: float = Field(default=3.0, gt=0)  # of held-out stamps; more is refused


class Detect(Config):
    """detect/candidates.py."""

    threshold: float = Field(default=5.0, gt=0)  # of the score, S/N of a point source
    method: Literal["score", "sep"] = "score"  # sep: as the paper, on the difference
    sep_threshold: float = Field(default=2.0, gt=0)  # sigmas of a pixel
    max_candidates: int = Field(
        default=20000, ge=1
    )  # of a frame; more is refused: the subtraction is no good


class Cuts(Config):
    """detect/cuts.py: what of the detections is kept (Sun+ 2022, 3.3)."""

    min_fwhm: float = Field(default=1.0, ge=0)  # pixels
    max_fwhm: float = Field(default=2.0, gt=0)  # in units of the frame's
    max_elongation: float = Field(default=6.0, ge=1)
    min_pixels: int = Field(default=4, ge=1)
    edge: int = Field(default=16, ge=0)  # pixels from the edge of what both images cover
    max_mask_fraction: float = Field(default=0.2, ge=0, le=1)  # of the pixels within one FWHM
    max_dipole: float = Field(default=0.6, ge=0)  # flux of the other sign beside it, in units of its own


class CrossMatch(Config):
    """crossmatch/: what is known at a candidate's place."""

    star_radius: float = Field(default=2.0, gt=0)  # arcsec
    galaxy_radius: float = Field(default=60.0, gt=0)  # arcsec, however large the galaxy
    galaxy_sizes: float = Field(default=3.0, gt=0)  # in units of a galaxy's size
    planet_radius: float = Field(default=10.0, gt=0)  # arcsec
    planet_limit: float = 22.0  # V magnitude; fainter ones are not computed


class Association(Config):
    """associate/: which detections are one object."""

    radius: float = Field(default=2.0, gt=0)  # arcsec, at most
    outliers: float = Field(default=0.05, ge=0, lt=1)  # of positions: off by more than their errors say
    position_floor: float = Field(default=0.1, ge=0)  # arcsec, systematic error of a position


class Alerts(Config):
    """alerts/: what an alert carries."""

    survey: str | None = None  # None: the camera's name
    profile: str | None = None  # "AST3-4x16"; None: four levels of 16 pixels at the frame's pixel scale
    encoding: Literal["raw", "rice"] = "raw"
    step_sigma: float = Field(default=0.25, gt=0)  # RICE: step in units of the noise
    planes: tuple[Literal["science", "template", "difference", "score"], ...] = (
        "science", "template", "difference", "score"
    )  # fmt: skip
    variance: bool = False
    mask: bool = False
    psf: bool = False  # of the difference, at the candidate: an eighth more bytes


class Classify(Config):
    """classify/: what is said of candidates and frames. A model is a shipped one's name, or a card (.json);
    "auto" takes the shipped one that fits camera, stamps and pixel scale, and none where none does; "none" is
    for no answer at all.
    """

    real_bogus: str = "auto"
    stamps: str = "auto"
    clouds: str = "auto"
    min_real_bogus: float = Field(
        default=0.0, ge=0, le=1
    )  # candidates below are cut ("real-bogus"), not sent
    priors: Literal["training", "stream"] = "training"  # class rates that probabilities are given for
    cloud_score: float = Field(default=0.5, ge=0, le=1)  # from here on a frame is marked cloudy
    burst: int = Field(default=300, ge=1)  # candidates per square degree that pass the cuts; more of a cloudy
    # frame's (and more than 100 in all) and all of them are dropped


class NightRun(Config):
    """night/: the whole night. Paths are taken from where the settings lie."""

    raw: tuple[str, ...] = ("raw",)  # files and folders of raw frames
    output: str = "out"
    branches: tuple[Literal["qip", "dip"], ...] = ("dip",)
    binning: int = Field(default=3, ge=2, le=8)  # of the quick branch
    dip_tile: tuple[int, int] = (3072, 4096)  # (ny, nx): larger frames are subtracted in such parts
    database: str | None = None  # SQLAlchemy URL; None: night.sqlite in the output folder
    kafka: str | None = None  # bootstrap servers; None: files alone
    topic: str = "alerts"  # followed by the branch


class Catalogues(Config):
    """Where what is known of the sky comes from; all of it local files (catalogues/, crossmatch/)."""

    astrometry: str = "tycho2"
    photometry: str | None = None  # None: the same
    galaxies: str | None = None  # GLADE+.txt
    orbits: str | None = None  # MPCORB.DAT


class PipelineConfig(Config):
    """Everything, with the defaults of a survey whose frames are like AST3-3's."""

    camera: Camera
    catalogues: Catalogues = Catalogues()
    calibrate: Calibrate = Calibrate()
    cosmic_rays: CosmicRays = CosmicRays()
    trails: Trails = Trails()
    sources: Sources = Sources()
    astrometry: Astrometry = Astrometry()
    photometry: Photometry = Photometry()
    psf: PsfFit = PsfFit()
    quality: QualityCheck = QualityCheck()
    templates: Templates = Templates()
    align: Align = Align()
    subtract: Subtract = Subtract()
    detect: Detect = Detect()
    cuts: Cuts = Cuts()
    crossmatch: CrossMatch = CrossMatch()
    association: Association = Association()
    alerts: Alerts = Alerts()
    classify: Classify = Classify()
    night: NightRun = NightRun()


def load_toml(path: Path) -> dict[str, object]:
    """Return what ``path`` holds. Raises ConfigError when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def find_description(name: str, folder: str, *, package: str | None = __package__) -> Path:
    """Return the file ``name``.toml, or the one shipped under that name in a ``package``'s ``folder``.

    Raises ConfigError for a name that is neither; it lists what is shipped.
    """
    if Path(name).suffix == ".toml":
        return Path(name)
    shipped = files(package or __name__) / folder
    known = sorted(p.name[:-5] for p in shipped.iterdir() if p.name.endswith(".toml"))
    if name not in known:
        what = folder.removesuffix("s")
        raise ConfigError(f"{what} {name!r} is not known; shipped: {', '.join(known)}; or name a .toml file")
    return Path(str(shipped / f"{name}.toml"))


def load_camera(name: str) -> Camera:
    """Return the camera described in the TOML file ``name``, or the one shipped under that name.

    Raises ConfigError when there is neither, or the description does not hold.
    """
    path = find_description(name, "cameras")
    return parse_model(Camera, load_toml(path), str(path))


def load_config(path: Path) -> PipelineConfig:
    """Return the configuration of a TOML file; ``camera`` may be a table or the name of a shipped one.

    Names of files and folders are taken from where the TOML file lies, if they are there.
    """
    return load_settings(path, camera=None, astrometry=None, photometry=None)


def write_config(path: Path, config: PipelineConfig) -> None:
    """Write what of ``config`` is not the default as a TOML file that ``load_config`` reads."""
    import tomli_w

    with replacing(path) as partial:
        partial.write_text(
            tomli_w.dumps(config.model_dump(mode="json", exclude_defaults=True, exclude_none=True))
        )


def load_settings(
    path: Path | None, *, camera: str | None, astrometry: str | None, photometry: str | None
) -> PipelineConfig:
    """Return the configuration of ``path``, what else is given (by a command) in place of its own.

    Raises ConfigError, also where neither names a camera.
    """
    values = {} if path is None else load_toml(path)
    if camera is not None:
        values["camera"] = camera
    if "camera" not in values:
        raise ConfigError('no camera: name one with --camera, or in the settings as camera = "NAME"')
    if isinstance(values["camera"], str):
        name = values["camera"]
        beside = None if path is None or camera is not None else path.parent / name
        found = name if beside is None or not beside.is_file() else str(beside)
        values["camera"] = load_camera(found).model_dump()
    given = {"astrometry": astrometry, "photometry": photometry}
    catalogues = values.get("catalogues", {})
    if not isinstance(catalogues, dict):
        raise ConfigError(f"{path}: catalogues: expected a table, found {catalogues!r:.60}")
    if path is not None:  # a folder beside the settings
        catalogues = {
            name: str(path.parent / spec) if (path.parent / str(spec)).exists() else spec
            for name, spec in catalogues.items()
        }
    models = values.get("classify")
    if path is not None and isinstance(models, dict):  # cards beside the settings
        values["classify"] = {
            name: str(path.parent / spec) if str(spec).endswith(".json") else spec
            for name, spec in models.items()
        }
    values["catalogues"] = catalogues | {name: spec for name, spec in given.items() if spec is not None}
    return parse_model(PipelineConfig, values, str(path or "settings"))


def parse_model(model: type[M], values: object, where: str) -> M:
    """Return ``values`` as a model. Raises ConfigError, which names ``where`` and every wrong field."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from error
