"""Which frames are templates, and deep templates from several (Sun+ 2022, 3.1).

The paper's rule, method "first": of each field and band the earliest frame that is acceptable. With "stack",
the mean of the deepest acceptable frames. Frames whose header names no field belong together where they look
at the same sky.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from ..catalogues import ReferenceCatalogue
from ..catalogues.sphere import separation
from ..config import PipelineConfig, Templates
from ..errors import SubtractionError
from ..frame import UNUSABLE, Decision, Frame, MaskBit, Quality, ZeroPoint
from ..products import Summary
from ..reduce.photometry import (
    background_rms,
    background_subtracted,
    calibrate_photometry,
    limiting_magnitude,
)
from ..reduce.psf import fit_psf
from ..reduce.quality import assess, measure, thumbnail
from ..reduce.sources import find_sources
from .align import align

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

STAGE = "template"
_CLIP_SIGMA = 4.0  # from the median of the frames
_CLIP_FRACTION = 0.3  # of the median: frames of one seeing differ by as much in a star (Gruen+ 2014)
_STAR_SIZE = 5  # pixels
_NO_FLUX = UNUSABLE | MaskBit.TRAIL
_ROWS = 256  # stacked at a time


@dataclass(frozen=True)
class TemplateCandidate:
    """What the choice needs to know of a calibrated frame."""

    exposure_id: str
    field_id: str | None
    band: str | None
    ra: float  # degrees, of the frame's centre
    dec: float
    mid_mjd: float
    quality: Quality
    path: Path
    size: tuple[float, float] | None = None  # degrees along y and x; None: not known to overlap anything


@dataclass(frozen=True)
class TemplateChoice:
    """The template of one field and band: one frame, or those to be stacked, best first."""

    field_id: str  # of the header, or the place of its first frame: "J150.00+30.00"
    band: str | None
    members: tuple[TemplateCandidate, ...]  # none: no frame is acceptable
    refused: tuple[tuple[str, str], ...]  # exposure id, why


def candidate_of(frame: Frame | Summary, path: Path) -> TemplateCandidate:
    """Return what the choice needs of ``frame``, a product at ``path``.

    Raises SubtractionError: "no-wcs"; "no-sources" where its quality was not assessed.
    """
    if frame.wcs is None:
        raise SubtractionError(frame.id, STAGE, "no-wcs", "no WCS: astrometry comes first")
    if frame.quality is None:
        raise SubtractionError(frame.id, STAGE, "no-sources", "no quality: assess comes first")
    ny, nx = frame.shape
    x, y = (nx - 1) / 2, (ny - 1) / 2
    ra, dec = frame.wcs.all_pix2world([x, -0.5, nx - 0.5, x, x], [y, y, y, -0.5, ny - 0.5], 0)
    exposure = frame.exposure
    return TemplateCandidate(
        exposure.id,
        exposure.field_id,
        exposure.band,
        float(ra[0]),
        float(dec[0]),
        exposure.mid_mjd,
        frame.quality,
        path,
        (float(separation(ra[3], dec[3], ra[4], dec[4])), float(separation(ra[1], dec[1], ra[2], dec[2]))),
    )


def is_acceptable(quality: Quality, config: Templates) -> str:
    """Return "" for a frame that may be a template, else why not: what was found, what is asked.

    A number that is not known satisfies no limit, but the cloud score: no network need have looked.
    """
    found = []
    limits = [
        ("limiting magnitude", quality.limiting_magnitude, config.min_limiting_magnitude, "at least"),
        ("pearson correlation", quality.pearson, config.min_pearson, "at least"),
        ("fwhm", quality.fwhm, config.max_fwhm, "at most"),
    ]
    if quality.cloud_score is not None:
        limits.append(("cloud score", quality.cloud_score, config.max_cloud_score, "at most"))
    for name, value, limit, sense in limits:
        if limit is None:
            continue
        is_fine = value >= limit if sense == "at least" else value <= limit
        if not is_fine:
            found.append(f"{name} {value:.4g}, {sense} {limit:g} asked")
    return "; ".join(found)


def choose(candidates: Iterable[TemplateCandidate], config: Templates) -> tuple[TemplateChoice, ...]:
    """Return a choice for every field and band that a candidate is of, in the order of their first frames.

    The order of ``candidates`` does not matter; of equals, the first by id counts.
    """
    in_time = sorted(candidates, key=lambda c: (c.mid_mjd, c.exposure_id))
    choices = []
    for field_id, members in _by_field(in_time, config):
        verdicts = [(c, is_acceptable(c.quality, config)) for c in members]
        good = [c for c, why in verdicts if not why]
        if config.method == "stack":
            good = sorted(good, key=lambda c: -_depth(c.quality))[: config.stack_size]
        refused = tuple((c.exposure_id, why) for c, why in verdicts if why)
        taken = good[:1] if config.method == "first" else good
        choices.append(TemplateChoice(field_id, members[0].band, tuple(taken), refused))
    return tuple(choices)


def find_template(
    of: TemplateCandidate, templates: Iterable[TemplateCandidate], config: Templates
) -> TemplateCandidate | None:
    """Return the template for a frame: of its field and band, the latest where several are given.

    Without a field in either header, the one that covers most of the frame, and at least ``min_overlap``.
    """
    in_band = [t for t in templates if t.band == of.band]
    named = [t for t in in_band if of.field_id is not None and t.field_id == of.field_id]
    if named:
        return max(named, key=lambda t: (t.mid_mjd, t.exposure_id))
    unnamed = [t for t in in_band if of.field_id is None or t.field_id is None]
    near = [(sky_overlap(of, t), t) for t in unnamed]
    near = [(overlap, t) for overlap, t in near if overlap >= config.min_overlap]
    return max(near, key=lambda pair: (pair[0], pair[1].mid_mjd))[1] if near else None


def sky_overlap(frame: TemplateCandidate, other: TemplateCandidate) -> float:
    """Return how much of ``frame`` the ``other`` covers, 0 to 1, both taken as unrotated rectangles."""
    if frame.size is None or other.size is None:
        return 0.0
    across = (frame.ra - other.ra + 180.0) % 360.0 - 180.0
    across *= float(np.cos(np.radians(0.5 * (frame.dec + other.dec))))
    share = 1.0
    for apart, mine, its in zip((frame.dec - other.dec, across), frame.size, other.size):
        common = min(0.5 * mine, 0.5 * its - apart) - max(-0.5 * mine, -0.5 * its - apart)
        share *= max(common, 0.0) / mine
    return share


def _by_field(
    in_time: Sequence[TemplateCandidate], config: Templates
) -> list[tuple[str, list[TemplateCandidate]]]:
    """Candidates by field and band; those without a field join the first unnamed frame that they overlap."""
    groups: list[tuple[str, list[TemplateCandidate]]] = []
    for c in in_time:
        for _, members in groups:
            first = members[0]
            if c.band != first.band:
                continue
            is_here = (
                c.field_id == first.field_id
                if c.field_id is not None or first.field_id is not None
                else sky_overlap(c, first) >= config.min_overlap
            )
            if is_here:
                members.append(c)
                break
        else:
            name = c.field_id if c.field_id is not None else f"J{c.ra:06.2f}{c.dec:+06.2f}"
            groups.append((name, [c]))
    return groups


def _depth(quality: Quality) -> float:
    return quality.limiting_magnitude if np.isfinite(quality.limiting_magnitude) else -np.inf


# ---- the stack ----


def stack(
    frames: Sequence[Frame], *, config: PipelineConfig, catalogue: ReferenceCatalogue | None = None
) -> Frame:
    """Return the mean of ``frames`` on the grid and in the electrons of the deepest of them.

    The others are aligned onto it; one that cannot be is left out, and the step says which and why. Pixels
    are weighted with the inverse variance of their frame's sky, alike for bright and faint stars, and clipped
    against cosmic rays and what moves (of two frames, the fainter is believed). A pixel that no frame has is
    a mean of all and keeps their bits; one that fewer than half have is SUSPECT.

    Sources, PSF and quality are measured anew; the zero point is the deepest frame's, or a new one where a
    ``catalogue`` is given. Raises SubtractionError "no-zero-point" where a frame has none, "no-template"
    where fewer than two frames lie on each other, and what the measuring stages raise.
    """
    started = time.perf_counter()
    for frame in frames:
        if frame.zero_point is None or frame.background is None:
            raise SubtractionError(frame.id, STAGE, "no-zero-point", "no photometry: it cannot be stacked")
    best, others = _best_first(frames)
    layers, left_out = [_layer(best, best)], {}
    for frame in others:
        try:
            layers.append(_layer(align(frame, best, config=config.align), best))
        except SubtractionError as error:
            left_out[frame.id] = error.reason
    if len(layers) < 2:
        raise SubtractionError(
            best.id, STAGE, "no-template", f"none of {len(others)} frames lies on it: {left_out}"
        )
    data, variance, mask, clipped = _combined(layers)
    assert best.background is not None
    decision: dict[str, Decision] = {
        "grid": best.id,
        "inputs": " ".join(layer.id for layer in layers),
        "n_inputs": len(layers),
        "left_out": " ".join(f"{name}:{reason}" for name, reason in left_out.items()),
        "clipped": round(clipped, 6),
    }
    exposure = replace(best.exposure, id=f"{best.id}-stack{len(layers)}")
    deep = replace(best, exposure=exposure, psf=None, sources=None, quality=None, thumbnail=None)
    deep = deep.after(STAGE, started, decision, data=data + best.background, variance=variance, mask=mask)
    deep = find_sources(deep, config=config.sources)
    if catalogue is None:
        deep = _with_known_photometry(deep, best)
    else:
        deep = assess(calibrate_photometry(deep, catalogue, config=config.photometry), config=config.quality)
    return fit_psf(deep, config=config.psf)


def _with_known_photometry(deep: Frame, best: Frame) -> Frame:
    """What can be said of a stack without a catalogue: positions on the sky; clouds as on its best frame."""
    assert deep.sources is not None
    assert deep.wcs is not None
    table = deep.sources.copy()
    table["ra"], table["dec"] = deep.wcs.all_pix2world(table["x"], table["y"], 0)
    known = best.quality
    quality = replace(
        measure(deep),
        limiting_magnitude=limiting_magnitude(deep),
        pearson=float("nan") if known is None else known.pearson,
        cloud_score=None if known is None else known.cloud_score,
    )
    return replace(deep, sources=table, quality=quality, thumbnail=thumbnail(deep))


@dataclass(frozen=True)
class _Layer:
    """One frame of a stack, background subtracted, in the best one's electrons."""

    id: str
    data: Pixels
    variance: Pixels
    mask: NDArray[np.uint16]
    weight: float
    fwhm: float  # pixels


def _best_first(frames: Sequence[Frame]) -> tuple[Frame, list[Frame]]:
    def rank(frame: Frame) -> tuple[float, float]:
        quality = frame.quality
        return (0.0, 0.0) if quality is None else (-_depth(quality), quality.fwhm)

    best, *others = sorted(frames, key=rank)
    return best, others


def _layer(aligned: Frame, best: Frame) -> _Layer:
    assert aligned.zero_point is not None
    assert best.zero_point is not None
    scale = _scale(aligned.zero_point, best.zero_point, best.shape)
    sigma = background_rms(aligned) * float(np.median(scale))
    return _Layer(
        aligned.id,
        background_subtracted(aligned) * scale,
        aligned.variance * scale**2,
        aligned.mask,
        1.0 / sigma**2,
        aligned.quality.fwhm if aligned.quality is not None else float("nan"),
    )


def _scale(of: ZeroPoint, to: ZeroPoint, shape: tuple[int, int]) -> Pixels:
    """What turns electrons of one zero point into those of another: 10^(0.4 (to − of)), at every pixel."""
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    difference = to.value - of.value + to.offset(columns, rows, shape) - of.offset(columns, rows, shape)
    return np.broadcast_to(10.0 ** (0.4 * difference), shape).astype(np.float32)


def _combined(layers: Sequence[_Layer]) -> tuple[Pixels, Pixels, NDArray[np.uint16], float]:
    """Data, variance and mask of the mean, and the fraction of usable pixels that were clipped."""
    shape = layers[0].data.shape
    data, variance, mask = (
        np.empty(shape, np.float32),
        np.empty(shape, np.float32),
        np.empty(shape, np.uint16),
    )
    widths = [layer.fwhm for layer in layers if np.isfinite(layer.fwhm)]
    # a star's peak goes with the square of its width
    share = _CLIP_FRACTION + ((max(widths) / min(widths)) ** 2 - 1.0 if widths else 0.0)
    n_usable, n_clipped = 0, 0
    for top in range(0, shape[0], _ROWS):
        # some rows more on either side, for the filters
        outer = slice(max(top - _STAR_SIZE, 0), min(top + _ROWS + _STAR_SIZE, shape[0]))
        inner = slice(top - outer.start, min(top + _ROWS, shape[0]) - outer.start)
        part = slice(top, min(top + _ROWS, shape[0]))
        values, noise2, bits = (
            np.stack([getattr(layer, name)[outer] for layer in layers])
            for name in ("data", "variance", "mask")
        )
        usable = ((bits & np.uint16(_NO_FLUX)) == 0) & np.isfinite(values) & np.isfinite(noise2)
        kept = usable & ~_outliers(values, noise2, usable, share)
        values, noise2, bits, usable, kept = (a[:, inner] for a in (values, noise2, bits, usable, kept))
        n_usable, n_clipped = n_usable + int(usable.sum()), n_clipped + int((usable & ~kept).sum())
        data[part], variance[part], mask[part] = _mean(layers, values, noise2, bits, kept)
    return data, variance, mask, n_clipped / max(n_usable, 1)


def _outliers(values: Pixels, noise2: Pixels, usable: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Pixels too far from their frames' median, and their neighbours beyond half as far.

    Of two frames the lower value stands for the median: cosmic rays and what moves only add.
    """
    known = np.where(usable, values, np.inf)
    order = np.sort(known, axis=0)
    n = usable.sum(axis=0)
    lower, upper = (
        np.take_along_axis(order, np.clip(index, 0, len(values) - 1)[None], axis=0)[0]
        for index in ((n - 1) // 2, np.where(n == 2, 0, n // 2))
    )
    middle = np.where(n > 0, 0.5 * (lower + np.where(n > 0, upper, 0)), 0)
    # where stars are, frames differ by their seeing: by a share of the light there, not of the pixel alone
    light = maximum_filter(np.abs(middle), _STAR_SIZE)
    limit = _CLIP_SIGMA * np.sqrt(noise2) + share * light
    excess = np.where(usable & (n > 1), np.abs(values - middle) / np.maximum(limit, 1e-12), 0.0)
    near = maximum_filter((excess > 1.0).astype(np.uint8), (1, 3, 3)) > 0
    return np.asarray((excess > 1.0) | (near & (excess > 0.5)))


def _mean(
    layers: Sequence[_Layer],
    values: Pixels,
    noise2: Pixels,
    bits: NDArray[np.uint16],
    kept: NDArray[np.bool_],
) -> tuple[Floats, Floats, NDArray[np.uint16]]:
    weight = np.array([layer.weight for layer in layers])[:, None, None]
    n_kept = kept.sum(axis=0)
    none = n_kept == 0
    # what no frame has is shown as the mean of those that reach there
    reached = (bits & np.uint16(MaskBit.OFF_IMAGE | MaskBit.NO_DATA)) == 0
    used = np.where(none, reached, kept) & np.isfinite(values) & np.isfinite(noise2)
    w = np.where(used, weight, 0.0)
    total = np.maximum(w.sum(axis=0), 1e-30)
    data = (w * np.where(used, values, 0.0)).sum(axis=0) / total
    variance = (w**2 * np.where(used, noise2, 0.0)).sum(axis=0) / total**2
    all_bits = np.bitwise_or.reduce(bits, axis=0)
    soft = np.bitwise_or.reduce(np.where(kept, bits, 0).astype(np.uint16), axis=0)
    few = 2 * n_kept < len(layers)
    mask = np.where(none, all_bits, soft | np.where(few, np.uint16(MaskBit.SUSPECT), np.uint16(0)))
    return data, variance, mask.astype(np.uint16)
