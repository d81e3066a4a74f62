"""Master bias, dark and flat: the sigma-clipped median of many calibration frames.

Frames are read from their files a strip of rows at a time, so that 80 flats of any size need no more than
``_STRIP_BYTES`` a thread. Masters cover the imaging area, overscan already subtracted:

    bias    ADU
    dark    ADU per second, bias subtracted
    flat    response, median one; bias and dark subtracted, each frame divided by its own median

The variance of a master is that expected of its frames, π/2 of a mean's for a median of more than two. It is
linear in the master's own value, so that two numbers say it instead of another plane:
variance = ``noise`` + ``noise_slope`` · value.
"""

from __future__ import annotations

import gzip
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from multiscale.atomic import replacing

from ..config import Calibrate, Camera
from ..errors import CalibrationError, FileError, FrameError
from ..frame import Exposure, MaskBit
from ..raw import Areas, areas, header_number, open_image, read_exposure

MasterKind = Literal["bias", "dark", "flat"]
Floats = NDArray[np.float32]
T = TypeVar("T")
R = TypeVar("R")

_STAGE = "masters"
_STRIP_BYTES = 128 * 2**20  # of one thread's stack of strips
_BLOCK = 16  # pixels, side of the blocks flats are compared by
_NEIGHBOURHOOD = 64  # pixels, side of the block a pixel's neighbours are


@dataclass(frozen=True)
class Rejection:
    """A calibration frame that a master does without."""

    frame_id: str
    reason: str
    message: str


@dataclass(frozen=True)
class Master:
    """A master frame of the imaging area; unit and variance as the module says."""

    kind: MasterKind
    data: Floats
    mask: NDArray[np.uint16]  # MaskBit: BAD, NO_DATA, SUSPECT
    camera: str
    noise: float
    noise_slope: float
    band: str | None = None  # of a flat
    used: tuple[str, ...] = ()  # ids of the frames
    rejected: tuple[Rejection, ...] = ()

    @property
    def n_frames(self) -> int:
        """How many frames it is the median of."""
        return len(self.used)


@dataclass(frozen=True)
class Masters:
    """The masters of a night: at most one bias and one dark, and a flat for each band."""

    bias: Master | None = None
    dark: Master | None = None
    flats: dict[str | None, Master] = field(default_factory=dict)


@dataclass(frozen=True)
class _Source:
    """One calibration frame on disk, and what is to be done with its pixels."""

    path: Path
    exposure: Exposure
    areas: Areas
    overscan: Floats  # ADU, broadcasts over the imaging area
    gain: float
    read_noise: float  # electrons
    scale: float = 1.0  # what its pixels are divided by: seconds, or the level of a flat


def make_master_bias(paths: Sequence[Path], *, camera: Camera, config: Calibrate) -> Master:
    """Return the master bias of the frames in ``paths``. Raises CalibrationError ("no-frames")."""
    sources, rejected = _look(paths, "bias", None, camera, config)
    with _unpacked(sources) as plain:
        data, missing = _stack(plain, (), camera, config)
    noise = _median_factor(len(sources)) * np.mean([(s.read_noise / s.gain) ** 2 for s in sources])
    mask = _mask_of_missing(missing) | _hot(data, float(noise), config)
    return Master("bias", data, mask, camera.name, _stated(noise), 0.0, None, _ids(sources), tuple(rejected))


def make_master_dark(
    paths: Sequence[Path], *, camera: Camera, config: Calibrate, bias: Master | None = None
) -> Master:
    """Return the master dark (ADU per second) of the frames in ``paths``.

    Raises CalibrationError ("no-frames"; "shape" where the bias is of another).
    """
    sources, rejected = _look(paths, "dark", None, camera, config, bias)
    kept = []
    for source in sources:
        seconds = source.exposure.exposure_time
        if seconds > 0:
            kept.append(_scaled(source, seconds))
        else:
            rejected.append(Rejection(source.exposure.id, "no-exposure-time", f"exposure of {seconds:g} s"))
    _require(kept, "dark", rejected)
    with _unpacked(kept) as plain:
        data, missing = _stack(plain, _offsets(bias), camera, config)
    factor = _median_factor(len(kept))
    noise = factor * np.mean([(s.read_noise / s.gain / s.scale) ** 2 for s in kept])
    noise += np.mean([_noise_of(bias) / s.scale**2 for s in kept])
    slope = factor * np.mean([1 / (s.gain * s.scale) for s in kept])
    mask = _mask_of_missing(missing) | _hot(data, float(noise), config)
    return Master(
        "dark", data, mask, camera.name, _stated(noise), _stated(slope), None, _ids(kept), tuple(rejected)
    )


def make_master_flat(
    paths: Sequence[Path],
    *,
    camera: Camera,
    config: Calibrate,
    band: str | None,
    bias: Master | None = None,
    dark: Master | None = None,
) -> Master:
    """Return the master flat of ``band`` from the frames in ``paths``, such as can be used.

    Rejected are "too-bright", "too-faint", "gradient", "structure" (star trails), "band", "shape", "kind" and
    files that cannot be read. Raises CalibrationError ("no-frames") if none is left.
    """
    sources, rejected = _look(paths, "flat", band, camera, config, bias, dark)
    with _unpacked(sources) as plain:
        return _flat_of(plain, rejected, camera, config, band, bias, dark)


def _flat_of(
    sources: list[_Source],
    rejected: list[Rejection],
    camera: Camera,
    config: Calibrate,
    band: str | None,
    bias: Master | None,
    dark: Master | None,
) -> Master:
    """The master of the flats that are neither too bright or faint nor of another shape than the others."""
    maps = _in_threads(lambda source: _blocks(source, _offsets(bias, dark), camera), sources)
    levels = [float(np.nanmedian(blocks)) for blocks in maps]
    verdicts = [_judge_level(level, camera, config) for level in levels]
    usable = [i for i, verdict in enumerate(verdicts) if verdict is None]
    if len(usable) > 2:  # of two, nobody knows which one is odd
        typical = np.nanmedian([maps[i] / levels[i] for i in usable], axis=0)
        for i in usable:
            verdicts[i] = _judge_shape(maps[i] / levels[i], typical, config)
    kept = []
    for source, level, verdict in zip(sources, levels, verdicts, strict=True):
        if verdict is None:
            kept.append(_scaled(source, level))
        else:
            rejected.append(Rejection(source.exposure.id, *verdict))
    _require(kept, "flat", rejected)
    data, missing = _stack(kept, _offsets(bias, dark), camera, config)
    middle = np.float32(np.nanmedian(data[:: max(1, len(data) // 512)]))
    data /= middle
    factor = _median_factor(len(kept))
    noise = factor * np.mean([(s.read_noise / (s.gain * s.scale)) ** 2 for s in kept]) / middle**2
    slope = factor * np.mean([1 / (s.gain * s.scale) for s in kept]) / middle
    mask = _mask_of_missing(missing) | _dead(data, config)
    return Master(
        "flat", data, mask, camera.name, _stated(noise), _stated(slope), band, _ids(kept), tuple(rejected)
    )


def write_master(path: str | Path, master: Master) -> None:
    """Write ``master`` to ``path`` with what it was made of, whole or not at all."""
    from astropy.io import fits

    header = fits.Header()
    header["MSTRKIND"] = master.kind, "bias, dark or flat"
    header["INSTRUME"] = master.camera
    if master.band is not None:
        header["FILTER"] = master.band
    header["BUNIT"] = {"bias": "adu", "dark": "adu/s", "flat": ""}[master.kind]
    header["NFRAMES"] = master.n_frames, "median of as many"
    header["NOISE"] = master.noise, "variance of a pixel of value 0"
    header["NOISESLP"] = master.noise_slope, "and what it grows by per unit"
    rows = [(name, "", "") for name in master.used]
    rows += [(r.frame_id, r.reason, r.message) for r in master.rejected]
    columns = [
        fits.Column(name, f"{max(1, *(len(row[i].encode()) for row in rows))}A" if rows else "1A",
                    array=np.array([row[i].encode() for row in rows]))
        for i, name in enumerate(("frame", "rejected", "message"))
    ]  # fmt: skip
    parts = [
        fits.PrimaryHDU(master.data, header),
        fits.ImageHDU(master.mask, name="MASK"),
        fits.BinTableHDU.from_columns(columns, name="FRAMES"),
    ]
    with replacing(path) as partial:
        fits.HDUList(parts).writeto(partial, output_verify="exception")


def read_master(path: str | Path) -> Master:
    """Return the master in ``path``. Raises FileError ("not-a-master") where it holds none."""
    from astropy.io import fits

    path = Path(path)
    try:
        with fits.open(path, memmap=False) as parts:
            header, table = parts[0].header, parts["FRAMES"].data
            rows = [tuple(_decoded(value) for value in row) for row in table]
            return Master(
                kind=header["MSTRKIND"],
                data=np.ascontiguousarray(parts[0].data, np.float32),
                mask=np.ascontiguousarray(parts["MASK"].data, np.uint16),
                camera=header["INSTRUME"],
                noise=header["NOISE"],
                noise_slope=header["NOISESLP"],
                band=header.get("FILTER"),
                used=tuple(name for name, reason, _ in rows if not reason),
                rejected=tuple(Rejection(*row) for row in rows if row[1]),
            )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise FileError(path.stem, _STAGE, "not-a-master", f"{path.name}: {error}") from error


def read_masters(paths: Sequence[Path]) -> Masters:
    """Return the masters in ``paths``. Raises FileError as ``read_master``; "twice" for two of one kind."""
    bias = dark = None
    flats: dict[str | None, Master] = {}
    for path in paths:
        master = read_master(path)
        taken = {"bias": bias is not None, "dark": dark is not None, "flat": master.band in flats}
        if taken[master.kind]:
            raise FileError(path.stem, _STAGE, "twice", f"a second master {master.kind} {master.band or ''}")
        if master.kind == "bias":
            bias = master
        elif master.kind == "dark":
            dark = master
        else:
            flats[master.band] = master
    return Masters(bias, dark, flats)


def overscan_level(data: Any, where: Areas, mode: str, *, pedestal: float = 0.0) -> Floats:
    """Return the overscan of a raw frame as float32 that broadcasts over its imaging area.

    ``mode`` "line": the median of each line, (ny, 1); "column": of each column, (1, nx); "none": as where
    there is no overscan, the camera's ``pedestal`` (ADU): what is left of it would count as shot noise.
    ``data`` is the raw array or anything sliced like one. Raises ValueError where the overscan does not
    run along the whole imaging area.
    """
    if where.overscan is None or mode == "none":
        return np.full((1, 1), pedestal, np.float32)
    axis = 1 if mode == "line" else 0
    span, given = where.imaging[1 - axis], where.overscan[1 - axis]
    if given.start > span.start or given.stop < span.stop:
        raise ValueError(f"overscan by {mode} covers {given.start}:{given.stop} of {span.start}:{span.stop}")
    across = where.overscan[axis]
    strip = data[span, across] if mode == "line" else data[across, span]
    return np.median(strip, axis=axis, keepdims=True).astype(np.float32)


def clipped_median(stack: Floats, clip: float) -> Floats:
    """Return the median along axis 0 of what lies within ``clip`` sigmas of the median, NaN of nothing.

    Sigma is 0.7413 of the distance between the quartiles, which up to a quarter of outliers do not move.
    ``stack`` is float32, (n, ny, nx), NaN where there is nothing; so is the result, (ny, nx).
    """
    values = np.sort(np.moveaxis(stack, 0, -1), axis=-1)  # NaN goes last
    n = np.isfinite(values).sum(axis=-1)
    middle = _quantile(values, n, 0.5)
    sigma = 0.7413 * (_quantile(values, n, 0.75) - _quantile(values, n, 0.25))
    first = (values < (middle - clip * sigma)[..., None]).sum(axis=-1)
    stop = (values <= (middle + clip * sigma)[..., None]).sum(axis=-1)
    empty = stop <= first  # nothing finite; rounding of sigma 0 never empties: the median itself is within
    low, high = (
        np.where(empty, 0, first + (stop - first - 1) // 2),
        np.where(empty, 0, first + (stop - first) // 2),
    )
    result = 0.5 * (_at(values, low) + _at(values, high))
    return np.where(n == 0, np.float32(np.nan), np.where(empty, middle, result)).astype(np.float32)


def _quantile(values: Floats, n: NDArray[np.int64], q: float) -> Floats:
    place = np.maximum(n - 1, 0) * np.float32(q)
    low = place.astype(np.intp)
    high = np.minimum(low + 1, np.maximum(n - 1, 0))
    at_low = _at(values, low)
    part: Floats = (place - low).astype(np.float32)
    return at_low + part * (_at(values, high) - at_low)


def _at(values: Floats, index: NDArray[np.intp]) -> Floats:
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def _look(
    paths: Sequence[Path],
    kind: MasterKind,
    band: str | None,
    camera: Camera,
    config: Calibrate,
    *masters: Master | None,
) -> tuple[list[_Source], list[Rejection]]:
    """The frames that fit together, and those that do not. Raises CalibrationError without any."""
    rejected: list[Rejection] = []
    found: list[_Source] = []
    for path in paths:
        try:
            found.append(_source(Path(path), kind, camera, config))
        except FrameError as error:
            rejected.append(Rejection(error.frame_id, error.reason, error.message))
    shapes = [master.data.shape for master in masters if master is not None] or [s.areas.shape for s in found]
    shape = max(set(shapes), key=shapes.count) if shapes else None  # without a master: what most have
    sources = []
    for source in found:
        exposure = source.exposure
        if source.areas.shape != shape:
            rejected.append(
                Rejection(exposure.id, "shape", f"imaging area of {source.areas.shape}, not {shape}")
            )
        elif kind == "flat" and exposure.band != band:
            rejected.append(Rejection(exposure.id, "band", f"taken in {exposure.band}, not {band}"))
        else:
            sources.append(source)
    _require(sources, kind, rejected)
    return sources, rejected


def _source(path: Path, kind: MasterKind, camera: Camera, config: Calibrate) -> _Source:
    exposure = read_exposure(path, camera, expected_kind=kind)
    with open_image(path) as image:
        shape = tuple(n for n in image.shape if n > 1)
        where = areas(exposure.id, image.header, (shape[0], shape[1]), camera)
        data = image.section if len(image.shape) == 2 else np.asarray(image.data).reshape(shape)
        try:
            level = overscan_level(data, where, config.overscan, pedestal=camera.pedestal)
        except ValueError as error:
            raise CalibrationError(exposure.id, _STAGE, "overscan", str(error)) from error
        gain = header_number(image.header, camera.keywords.gain, camera.gain)
        read_noise = header_number(image.header, camera.keywords.read_noise, camera.read_noise)
    return _Source(path, exposure, where, level, gain, read_noise)


@contextmanager
def _unpacked(sources: list[_Source]) -> Iterator[list[_Source]]:
    """The sources, gzipped files unpacked into a folder for as long: each is read strip by strip."""
    with TemporaryDirectory(prefix="masters-") as folder:
        yield [_plain(source, Path(folder) / str(i)) for i, source in enumerate(sources)]


def _plain(source: _Source, target: Path) -> _Source:
    with source.path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return source
    try:
        with gzip.open(source.path) as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 2**20)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return source  # reading it names what is wrong, or shows that the image is whole
    return replace(source, path=target)


def _rows(source: _Source, rows: slice, offsets: tuple[Master, ...], camera: Camera) -> Floats:
    """Some rows of the imaging area of a frame, ADU, overscan and masters subtracted; NaN where saturated."""
    over, across = source.areas.imaging
    with open_image(source.path) as image:
        lines = slice(over.start + rows.start, over.start + rows.stop)
        if len(image.shape) == 2:
            raw = np.asarray(image.section[lines, across])
        else:
            raw = np.asarray(image.data).reshape([n for n in image.shape if n > 1])[lines, across]
        data = raw.astype(np.float32)
    data[raw >= camera.saturation] = np.nan
    data -= source.overscan[rows] if len(source.overscan) > 1 else source.overscan
    for master in offsets:
        data -= _amount(master, source.exposure.exposure_time) * master.data[rows]
    return data


def _amount(master: Master, seconds: float) -> np.float32:
    return np.float32(seconds if master.kind == "dark" else 1.0)


def _stack(
    sources: list[_Source], offsets: tuple[Master, ...], camera: Camera, config: Calibrate
) -> tuple[Floats, NDArray[np.bool_]]:
    """The clipped median of the frames, each divided by its scale; and where there was none (data 0)."""
    ny, nx = sources[0].areas.shape
    data = np.empty((ny, nx), np.float32)
    height = max(1, _STRIP_BYTES // (4 * 4 * nx * len(sources)))  # the stack, its sorted copy, comparisons

    def combine(first: int) -> None:
        rows = slice(first, min(ny, first + height))
        stack = np.empty((len(sources), rows.stop - rows.start, nx), np.float32)
        for i, source in enumerate(sources):
            stack[i] = _rows(source, rows, offsets, camera) / np.float32(source.scale)
        data[rows] = clipped_median(stack, config.clip)

    _in_threads(combine, range(0, ny, height))
    missing = ~np.isfinite(data)
    data[missing] = 0
    return data, missing


def _blocks(source: _Source, offsets: tuple[Master, ...], camera: Camera) -> NDArray[np.float64]:
    """Means of blocks of a flat, ADU; pixels that are saturated in part of a block do not count."""
    ny, nx = source.areas.shape
    height = _BLOCK * max(1, 2**24 // (_BLOCK * nx))
    parts = []
    for first in range(0, ny - ny % _BLOCK or ny, height):
        rows = slice(first, min(ny - ny % _BLOCK or ny, first + height))
        data = _rows(source, rows, offsets, camera)
        lost = np.isnan(data)
        data[lost] = camera.saturation
        parts.append(_block_mean(data, _BLOCK))
    return np.concatenate(parts)


def _block_mean(data: Floats, size: int) -> NDArray[np.float64]:
    ny, nx = data.shape
    by, bx = max(1, ny // size), max(1, nx // size)
    data = data[: by * (ny // by), : bx * (nx // bx)]
    return data.reshape(by, ny // by, bx, nx // bx).mean(axis=(1, 3), dtype=np.float64)


def _judge_level(level: float, camera: Camera, config: Calibrate) -> tuple[str, str] | None:
    share = level / camera.saturation
    message = f"median of {level:.0f} ADU, {share:.0%} of saturation"
    if not share >= config.flat_min:
        return "too-faint", f"{message}, below {config.flat_min:.0%}"
    if share > config.flat_max:
        return "too-bright", f"{message}, above {config.flat_max:.0%}"
    return None


def _judge_shape(
    flat: NDArray[np.float64], typical: NDArray[np.float64], config: Calibrate
) -> tuple[str, str] | None:
    """Whether a flat, block by block, is like the median of all: a plane of its own, or lines of stars."""
    lit = typical > 0.1
    ratio = np.divide(flat, typical, out=np.ones_like(flat), where=lit)
    y, x = np.indices(flat.shape)
    u, v = x / max(1, flat.shape[1] - 1) - 0.5, y / max(1, flat.shape[0] - 1) - 0.5
    terms = np.stack([np.ones_like(u), u, v], axis=-1)
    inside = lit & (np.abs(ratio - np.median(ratio[lit])) < 0.2)
    plane, *_ = np.linalg.lstsq(terms[inside], ratio[inside], rcond=None)
    gradient = float(np.abs(plane[1:]).sum())
    if gradient > config.flat_gradient:
        return "gradient", f"{gradient:.1%} across the frame, more than {config.flat_gradient:.1%}"
    odd = int((np.abs(ratio - terms @ plane)[lit] > config.flat_structure).sum())
    if odd > max(4, 1e-3 * lit.sum()):
        return "structure", f"{odd} of {lit.sum()} blocks differ by more than {config.flat_structure:.1%}"
    return None


def _hot(data: Floats, noise: float, config: Calibrate) -> NDArray[np.uint16]:
    """BAD where a master stands out of its neighbourhood."""
    above = data - _neighbourhood(data)
    sample = above[:: max(1, len(above) // 256)]
    sigma = max(1.4826 * float(np.median(np.abs(sample))), float(np.sqrt(noise)))
    return np.where(np.abs(above) > config.hot * sigma, np.uint16(MaskBit.BAD), np.uint16(0))


def _dead(data: Floats, config: Calibrate) -> NDArray[np.uint16]:
    """BAD where a flat is far below, or as far above, its neighbourhood; SUSPECT where it is low."""
    ratio = data / np.maximum(_neighbourhood(data), np.float32(1e-3))
    mask = np.where((ratio < config.dead) | (ratio > 2 - config.dead), np.uint16(MaskBit.BAD), np.uint16(0))
    mask[data < config.low_flat] |= np.uint16(MaskBit.SUSPECT)
    mask[data <= 0] |= np.uint16(MaskBit.BAD)
    return mask


def _neighbourhood(data: Floats) -> Floats:
    """The median of the block of pixels that each pixel is in."""
    ny, nx = data.shape
    out = np.empty_like(data)

    def fill(first: int) -> None:
        rows = slice(first, first + _NEIGHBOURHOOD)
        for left in range(0, nx, _NEIGHBOURHOOD):
            columns = slice(left, left + _NEIGHBOURHOOD)
            out[rows, columns] = np.median(data[rows, columns])

    _in_threads(fill, range(0, ny, _NEIGHBOURHOOD))
    return out


def _mask_of_missing(missing: NDArray[np.bool_]) -> NDArray[np.uint16]:
    return np.where(missing, np.uint16(MaskBit.BAD), np.uint16(0))


def _offsets(*masters: Master | None) -> tuple[Master, ...]:
    return tuple(master for master in masters if master is not None)


def _noise_of(master: Master | None) -> float:
    return 0.0 if master is None else master.noise


def _median_factor(n: int) -> float:
    """The variance of a median of n Gaussian values, in units of one's."""
    return (np.pi / 2 if n > 2 else 1.0) / n


def _stated(value: Any) -> float:
    """A number with the digits a FITS header keeps."""
    return float(f"{float(value):.9g}")


def _scaled(source: _Source, scale: float) -> _Source:
    return replace(source, scale=scale)


def _ids(sources: list[_Source]) -> tuple[str, ...]:
    return tuple(source.exposure.id for source in sources)


def _require(sources: list[_Source], kind: str, rejected: list[Rejection]) -> None:
    if not sources:
        why = "; ".join(f"{r.frame_id}: {r.reason}" for r in rejected[:5]) or "none given"
        raise CalibrationError(f"master {kind}", _STAGE, "no-frames", f"no frame can be used ({why})")


def _decoded(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    with ThreadPoolExecutor(min(len(items), os.cpu_count() or 1) or 1) as pool:
        return list(pool.map(work, items))
