"""A difference and what was found in it as a FITS file (Sun+ 2022, 3.3): what checking for errors needs.

    PRIMARY     no data; exposure, branch, template, every step's decisions, candidates by cut, ``RPINPUT``
    DIFF        electrons, science less template, on the template's grid, with its WCS
    ALIGNED     electrons, the science frame on that grid, with the zero point
    TEMPLATE    electrons of the template's exposure
    SCORE       S/N of a point source at each pixel; NaN where nothing is known
    FLUXERR     electrons, 1 sigma of a point source's flux: the flux itself is SCORE · FLUXERR
    MASK        uint16, the bits named in the header (``MSK0`` …)
    CANDIDATES  table: every candidate, cut or not, its matches as JSON
    DECISIONS   table: exposure, quality, names and the decisions of each step, as JSON

Images are compressed by tiles with RICE_1 (FITS 4.0, section 10). MASK is lossless. The others are quantized
with subtractive dithering, which biases no flux, seeded by the names: DIFF, ALIGNED and TEMPLATE in steps of
1/8 of their noise, SCORE of 1/16, FLUXERR of 1/256 of its median. Measured on a field of 1024² with 900
stars (rms error in units of the plane's noise; bits a pixel):

    DIFF, ALIGNED, TEMPLATE   1/4: 0.071, 5.2    1/8: 0.035, 6.2     1/16: 0.018, 7.2
    SCORE                     1/8: 0.035, 4.5    1/16: 0.018, 5.4    1/32: 0.009, 6.4
    FLUXERR                   1/256: 0.1 % of itself, 2.7            1/1024: 0.03 %, 3.6

so that an image's noise grows by 0.06 %, and a pixel of all planes takes 3.4 bytes instead of 22.

The same inputs give the same bytes: no time of writing and no time taken is in the file (the database and the
night's report have those; astropy's GZIP tiles would have the former). Each HDU has its CHECKSUM, and reading
checks it.
"""

from __future__ import annotations

import json
import math
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints
from urllib.parse import quote

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from multiscale.atomic import replacing
from multiscale.packet import CrossMatch
from multiscale.version import __version__ as multiscale_version

from .candidate import Candidate
from .errors import FileError
from .frame import Decision, Exposure, Frame, Quality, Step, ZeroPoint
from .products import INPUT_KEYWORD, mask_header, native, science_header, zero_point_of
from .version import __version__

if TYPE_CHECKING:
    from .subtract.difference import Difference

FOLDER = "differences"
_IMAGE_STEPS = 8.0  # in the noise of an image
_SCORE_STEP = 1 / 16
_ERROR_STEPS = 256.0  # in the median FLUXERR
_TILE_ROWS = 16  # rows of a whole tile: with one, Python's share of the time doubles it
_SUM_COMMENT = "of this HDU"  # astropy's own has the time in it
_NUMBERS = {float: "D", int: "J", float | None: "D"}
_UNITS = {
    "x": "pix", "y": "pix", "ra": "deg", "dec": "deg", "ra_err": "deg", "dec_err": "deg", "flux": "electron",
    "flux_err": "electron", "magnitude": "mag", "magnitude_err": "mag", "fwhm": "pix",
    "position_angle": "deg", "edge": "pix",
}  # fmt: skip
_BROKEN = (OSError, KeyError, IndexError, TypeError, ValueError, VerifyError, AstropyUserWarning)


@dataclass(frozen=True)
class StoredDifference:
    """What a difference product says; its planes are read when they are asked for."""

    path: Path
    exposure: Exposure
    branch: str
    template_id: str
    input_digest: str
    shape: tuple[int, int]  # (ny, nx)
    wcs: WCS
    zero_point: ZeroPoint | None
    quality: Quality | None  # of the science frame: its fwhm is in pixels of this grid
    candidates: tuple[Candidate, ...]
    decisions: dict[str, dict[str, Decision]]  # step -> what it decided, the last of a name
    software: dict[str, str]  # name -> version that wrote it

    @cached_property
    def pixel_scale(self) -> float:
        """Arcsec, at the reference pixel."""
        return float(np.sqrt(np.prod(proj_plane_pixel_scales(self.wcs.celestial))) * 3600.0)

    @cached_property
    def score(self) -> NDArray[np.float32]:
        """S/N of a point source at each pixel, (ny, nx); NaN where nothing is known. Raises FileError."""
        return read_plane(self.path, "SCORE")

    @cached_property
    def flux(self) -> NDArray[np.float32]:
        """Electrons of a point source at each pixel, (ny, nx). Raises FileError."""
        return self.score * read_plane(self.path, "FLUXERR")

    @cached_property
    def mask(self) -> NDArray[np.uint16]:
        """MaskBit, (ny, nx). Raises FileError."""
        return read_plane(self.path, "MASK")


def difference_path(out: Path, branch: str, exposure_id: str) -> Path:
    """Return where the difference product of an exposure lies in an output folder."""
    return out / FOLDER / branch / f"{file_stem(exposure_id)}.fits"


def file_stem(exposure_id: str) -> str:
    """Return an exposure's id as a name of a file: what a path would not take is %-quoted."""
    return quote(exposure_id, safe=" +,=@")


def write_difference(
    path: Path,
    *,
    difference: Difference,
    aligned: Frame,
    template: Frame,
    candidates: Sequence[Candidate],
    branch: str,
    template_id: str,
    input_digest: str,
    steps: Sequence[Step],
) -> None:
    """Write a difference product to ``path``, whole or not at all.

    ``aligned`` is the science frame on the grid of ``template``. ``steps`` are those taken to get here; the
    decision of the subtraction is added where they do not have it.
    """
    if not any(step.name == "subtract" for step in steps):
        steps = (*steps, Step("subtract", difference.seconds, difference.decision))
    grid = science_header(aligned)
    plain = _without_zero_point(grid)
    error = _flux_error(difference.score, difference.flux)
    seed = f"{aligned.id} {branch}"
    mask = mask_header()
    mask.extend(_without(plain, "BUNIT"))
    hdus = [
        fits.PrimaryHDU(header=_summary(aligned, branch, template_id, input_digest, candidates, steps)),
        _image("DIFF", difference.data, grid, seed, step=_noise(difference.variance) / _IMAGE_STEPS),
        _image("ALIGNED", aligned.data, grid, seed, step=_noise(aligned.variance) / _IMAGE_STEPS),
        _image("TEMPLATE", template.data, plain, seed, step=_noise(template.variance) / _IMAGE_STEPS),
        _image("SCORE", difference.score, _without(plain, "BUNIT"), seed, step=_SCORE_STEP),
        _image("FLUXERR", error, plain, seed, step=_typical(error) / _ERROR_STEPS),
        fits.CompImageHDU(
            difference.mask,
            mask,
            name="MASK",
            compression_type="RICE_1",
            tile_shape=(_TILE_ROWS, aligned.shape[1]),
        ),
        _candidate_table(candidates),
        _decision_table(aligned, {"branch": branch, "template": template_id}, steps),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        fits.HDUList(hdus).writeto(partial)
        with fits.open(partial, mode="update", disable_image_compression=True) as written:
            for hdu in written:
                hdu.add_checksum(when=_SUM_COMMENT)


def read_difference(path: Path) -> StoredDifference:
    """Return what :func:`write_difference` wrote.

    Raises FileError: "pruned" where there is no file, "not-a-difference" for another or a damaged one.
    """
    with _opened(path) as hdus:
        return _stored(path, hdus)


def read_plane(path: Path, name: str) -> NDArray[Any]:
    """Return the image in HDU ``name`` of a difference product, (ny, nx). Raises FileError."""
    with _opened(path) as hdus:
        return native(hdus[name].data)


def header_of(path: Path) -> fits.Header:
    """Return the summary of a difference product, also of one that was not written to its end.

    Raises FileError for a file that does not begin as one.
    """
    with _opened(path, check=False) as hdus:
        header = hdus[0].header
        if not {"BRANCH", "TEMPLATE", "MJD-OBS", INPUT_KEYWORD} <= set(header):
            raise KeyError(f"no difference's summary in {path.name}")
        return header.copy()


@contextmanager
def _opened(path: Path, *, check: bool = True) -> Iterator[fits.HDUList]:
    """Yield a product's HDUs; what goes wrong while they are looked at is a FileError that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            # sums that fail, a file that ends early
            warnings.simplefilter("error" if check else "ignore", AstropyUserWarning)
            with fits.open(path, memmap=False, checksum=check) as hdus:
                if check:
                    len(hdus)  # reads every HDU; else each, and its sum, is looked at when it is asked for
                yield hdus
    except FileNotFoundError as error:
        raise FileError(path.stem, "read", "pruned", f"{path.name}: no such file") from error
    except _BROKEN as error:
        text = str(error).strip().partition("\n")[0]
        raise FileError(path.stem, "read", "not-a-difference", f"{path.name}: {text}") from error


def _image(
    name: str, data: NDArray[Any], header: fits.Header, seed: str, *, step: float
) -> fits.CompImageHDU:
    """An image in steps of ``step``; the dithering's seed is of its name and place."""
    if np.isinf(data).any():
        data = np.where(np.isinf(data), np.float32(np.nan), data)  # steps cannot reach there
    return fits.CompImageHDU(
        data,
        header,
        name=name,
        compression_type="RICE_1",
        tile_shape=(_TILE_ROWS, data.shape[1]),
        quantize_method=fits.hdu.compressed.SUBTRACTIVE_DITHER_2,  # keeps an exact 0 exact
        dither_seed=1 + zlib.crc32(f"{seed} {name}".encode()) % 10000,
        quantize_level=-step,  # negative: in the image's unit, else in each tile's own noise
    )


def _noise(variance: NDArray[np.float32]) -> float:
    return math.sqrt(_typical(variance))


def _typical(values: NDArray[np.float32]) -> float:
    """The median of the positive values of about a million; 1 where there are none."""
    every = max(1, math.isqrt(values.size // 1_000_000))
    some = values[::every, ::every]
    some = some[np.isfinite(some) & (some > 0)]
    return float(np.median(some)) if some.size else 1.0


def _flux_error(score: NDArray[np.float32], flux: NDArray[np.float32]) -> NDArray[np.float32]:
    """The error of the flux at each pixel: flux / score, and where both are 0, that of a pixel beside it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.asarray(flux / score, np.float32)
    ny, nx = error.shape
    y, x = np.nonzero(np.isfinite(score) & ~np.isfinite(error))
    filled = np.full(len(y), _typical(error), np.float32)  # where no neighbour knows either
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        beside = error[np.clip(y + dy, 0, ny - 1), np.clip(x + dx, 0, nx - 1)]
        filled = np.where(np.isfinite(beside), beside, filled)
    error[y, x] = filled
    return error


def _summary(
    aligned: Frame,
    branch: str,
    template_id: str,
    input_digest: str,
    candidates: Sequence[Candidate],
    steps: Sequence[Step],
) -> fits.Header:
    """The header that tells a person what happened; programs read the table DECISIONS."""
    exposure = aligned.exposure
    header = fits.Header()
    header["CREATOR"] = f"reference-pipeline {__version__}"
    header["MSVERS"] = (multiscale_version, "of the package multiscale")
    header[INPUT_KEYWORD] = input_digest  # no room for a comment
    header["EXPOSURE"] = _ascii(exposure.id)
    header["BRANCH"] = branch
    header["TEMPLATE"] = _ascii(template_id)
    header["MJD-OBS"] = (exposure.start_mjd, "UTC, start of the exposure")
    header["EXPTIME"] = (exposure.exposure_time, "s")
    if exposure.band is not None:
        header["FILTER"] = _ascii(exposure.band)
    header["NCAND"] = (len(candidates), "candidates, cut or not")
    header["NKEPT"] = (sum(c.cut is None for c in candidates), "candidates that no cut removed")
    for cut, n in sorted(Counter(c.cut for c in candidates if c.cut is not None).items()):
        header[f"HIERARCH RP CUT {cut.upper()}"] = n
    for step in steps:
        for name, value in step.decision.items():
            if isinstance(value, str):
                value = _ascii(value)
            elif isinstance(value, float) and not math.isfinite(value):
                value = str(value)
            header[f"HIERARCH RP {step.name.upper()} {name.upper()}"] = value
    return header


def _ascii(text: str) -> str:
    """The text as a header takes it, on one card: the table DECISIONS has it whole."""
    printable = "".join(c if " " <= c <= "~" else "?" for c in text)
    return printable[:24]


def _without_zero_point(header: fits.Header) -> fits.Header:
    """The header of another image on this grid: the zero point is the science frame's."""
    return _without(header, "MAGZP", "MAGZPERR", *(name for name in header if name.startswith("ZP")))


def _without(header: fits.Header, *names: str) -> fits.Header:
    kept = header.copy()
    for name in names:
        kept.remove(name, ignore_missing=True)
    return kept


def _candidate_table(candidates: Sequence[Candidate]) -> fits.BinTableHDU:
    """A row for each candidate; NaN where there is no number."""
    kinds = get_type_hints(Candidate)
    columns = []
    for field in fields(Candidate):
        values = [getattr(candidate, field.name) for candidate in candidates]
        unit = _UNITS.get(field.name)
        if kinds[field.name] in _NUMBERS:
            numbers = [math.nan if value is None else value for value in values]
            columns.append(
                fits.Column(field.name, _NUMBERS[kinds[field.name]], unit=unit, array=np.array(numbers))
            )
        else:
            is_matches = field.name == "matches"
            columns.append(
                _text(field.name, [_json_of_matches(v) if is_matches else v or "" for v in values])
            )
    return fits.BinTableHDU.from_columns(columns, name="CANDIDATES")


def _json_of_matches(matches: tuple[CrossMatch, ...]) -> str:
    return json.dumps([match.to_record() for match in matches])


def _decision_table(frame: Frame, names: dict[str, str], steps: Sequence[Step]) -> fits.BinTableHDU:
    quality = None if frame.quality is None else asdict(frame.quality)
    rows: list[tuple[str, Any]] = [
        ("exposure", asdict(frame.exposure)),
        ("quality", quality),
        ("names", names),
        *((step.name, step.decision) for step in steps),
    ]
    columns = [_text("name", [name for name, _ in rows]), _text("value", [json.dumps(v) for _, v in rows])]
    return fits.BinTableHDU.from_columns(columns, name="DECISIONS")


def _text(name: str, values: Sequence[str]) -> fits.Column:
    """A column of ASCII as wide as its longest value: JSON escapes everything else."""
    width = max((len(value) for value in values), default=0) or 1
    return fits.Column(name, f"{width}A", array=np.array(values, f"S{width}"))


def _stored(path: Path, hdus: fits.HDUList) -> StoredDifference:
    header, image = hdus[0].header, hdus["ALIGNED"].header
    rows = {str(row["name"]): json.loads(str(row["value"])) for row in hdus["DECISIONS"].data}
    exposure, quality, names = (rows.pop(name) for name in ("exposure", "quality", "names"))
    ny, nx = hdus["ALIGNED"].shape
    creator, _, version = header["CREATOR"].rpartition(" ")
    return StoredDifference(
        path=path,
        exposure=Exposure(**exposure),
        branch=names["branch"],
        template_id=names["template"],
        input_digest=header[INPUT_KEYWORD],
        shape=(ny, nx),
        wcs=WCS(image),
        zero_point=zero_point_of(image),
        quality=None if quality is None else Quality(**quality),
        candidates=tuple(
            _candidate(row, hdus["CANDIDATES"].columns.names) for row in hdus["CANDIDATES"].data
        ),
        decisions=rows,
        software={creator: version, "multiscale": header["MSVERS"]},
    )


def _candidate(row: fits.FITS_record, names: Sequence[str]) -> Candidate:
    kinds = get_type_hints(Candidate)
    values: dict[str, Any] = {}
    for name in names:
        value = row[name]
        if name == "matches":
            values[name] = tuple(CrossMatch.from_record(match) for match in json.loads(str(value)))
        elif kinds[name] == (str | None):
            values[name] = str(value) or None
        elif kinds[name] == (float | None) and math.isnan(value):
            values[name] = None
        else:
            values[name] = int(value) if kinds[name] is int else float(value)
    return Candidate(**values)
