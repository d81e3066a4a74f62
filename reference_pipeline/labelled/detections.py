"""Detections on a cell's differences, and the labelled stamps they become."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multiscale import Cutout, Geometry

from ..alerts.cutouts import cutouts, geometry_of, planes_of
from ..candidate import Candidate
from ..catalogues.sphere import separation
from ..config import Alerts, Subtract
from ..crossmatch import KnownSky
from ..detect.points import effective_fwhm
from ..frame import Exposure, Frame
from ..night.differences import pixel_scale_of
from ..run import find_transients
from .cells import Cell, Observer, Seen, Workshop
from .description import Options
from .stamp import LabelledStamp, Original
from .truth import Truth, Verdict

_SAME = 2.0  # arcsec, between bogus detections of one place
#: How a poor epoch is subtracted: with a kernel that is the same everywhere, in every second one a small one.
POOR = (Subtract(degree=0, background_degree=1, max_chi2=100.0),
        Subtract(degree=0, background_degree=1, max_chi2=100.0, half_width=3))  # fmt: skip
#: Of undersampled stars, more of them than in nature, every second binned difference exceeds the usual limit.
_QUICK = {"max_chi2": 6.0}
_POOR_SHIFT = (0.1, 0.5)  # pixels at the edges, that its astrometry is off by
_RANDOM, _POOR = 210, 211  # random streams


@dataclass(frozen=True)
class Detection:
    """A detection whose label is known, before it is known what else was detected of its object."""

    epoch: int
    branch: str
    exposure: Exposure
    candidate: Candidate
    verdict: Verdict
    cutout: Cutout
    original: Original


def detections_of(
    observer: Observer, seen: Seen, template: Seen, branch: str, epoch: int, options: Options,
    note: dict[str, Any],
) -> list[Detection]:  # fmt: skip
    """Subtract ``template`` from an epoch in a branch and return what is detected and can be labelled.

    What is left out is counted in ``note``. Raises FrameError.
    """
    config, n = observer.config, 1
    began = time.perf_counter()
    if epoch in observer.cell.poor:
        rng = np.random.default_rng([observer.workshop.seed, _POOR, observer.cell.number, epoch])
        seen = replace(seen, frame=misplaced(seen.frame, rng))
        config = config.model_copy(update={"subtract": POOR[int(rng.integers(len(POOR)))]})
    science, against = seen.frame, template.frame
    if branch == "qip":
        n = config.night.binning
        if epoch not in observer.cell.poor:
            config = config.model_copy(update={"subtract": config.subtract.model_copy(update=_QUICK)})
        science, against = observer.binned(seen), observer.binned(template)
        note["seconds"]["bin"] += time.perf_counter() - began
    found = find_transients(science, against, sky=KnownSky(), config=config)
    for step in found.steps:
        note["seconds"][step.name] += step.seconds
    began = time.perf_counter()
    truth = Truth(seen, template, config.cuts, binning=n)
    fwhm = effective_fwhm(found.difference, found.aligned)
    kept: list[tuple[Candidate, Verdict]] = []
    for candidate in found.candidates:
        if candidate.cut is not None and not options.with_cut:
            note["left_out"][f"cut: {candidate.cut}"] += 1
            continue
        verdict = truth.verdict(candidate, fwhm)
        if verdict.label is None:
            note["left_out"]["ambiguous"] += 1
            continue
        kept.append((candidate, verdict))
    note["seconds"]["label"] += time.perf_counter() - began
    began = time.perf_counter()
    scale = pixel_scale_of(found.aligned)
    alerts = Alerts(profile=observer.workshop.config.profile, encoding=options.encoding)
    if branch == "qip":
        alerts = alerts.model_copy(update={"profile": None})
    made = cutouts(
        [candidate for candidate, _ in kept], found.difference, found.aligned, against,
        config=alerts, pixel_scale=scale, geometry=_geometry(alerts, scale, options),
    )  # fmt: skip
    planes = planes_of(slice(None), found.difference, found.aligned, against, alerts)
    side = observer.workshop.config.originals[branch]
    out = [
        Detection(epoch, branch, science.exposure, c, v, one, original(planes, c.x, c.y, side))
        for (c, v), one in zip(kept, made, strict=True)
    ]
    note["seconds"]["cutouts"] += time.perf_counter() - began
    return out


def misplaced(frame: Frame, rng: np.random.Generator) -> Frame:
    """Return ``frame`` with a WCS that is turned and sheared a little, so that stars leave dipoles.

    The kernel makes up for a shift of all stars, not for one that differs over the frame.
    """
    assert frame.wcs is not None  # a calibrated frame has one
    wcs = frame.wcs.deepcopy()
    off = rng.uniform(*_POOR_SHIFT) / (0.5 * max(frame.shape))
    turned = np.eye(2) + off * rng.uniform(-1, 1, (2, 2))
    if wcs.wcs.has_cd():
        wcs.wcs.cd = wcs.wcs.cd @ turned
    else:
        wcs.wcs.pc = wcs.wcs.get_pc() @ turned
    return replace(frame, wcs=wcs)


def _geometry(alerts: Alerts, scale: float, options: Options) -> Geometry:
    shape = geometry_of(alerts, scale)
    return replace(shape, size=options.size or shape.size, n_levels=options.levels or shape.n_levels)


def original(planes: dict[Any, NDArray[Any]], x: float, y: float, side: int) -> Original:
    """Cut ``side`` pixels around a position out of whole images; NaN beyond them.

    An odd side has the object in its central pixel, as ZTF's stamps; an even one in one of the four around
    its centre, where the multi-scale grid has it.
    """
    first_x, first_y = (_first(at, side) for at in (x, y))
    cut = {}
    for kind, image in planes.items():
        out = np.full((side, side), np.nan, np.float32)
        ny, nx = image.shape
        rows, columns = _inside(first_y, side, ny), _inside(first_x, side, nx)
        out[rows.start - first_y : rows.stop - first_y, columns.start - first_x : columns.stop - first_x] = (
            image[rows, columns]
        )
        cut[kind] = out
    return Original(cut, x - first_x, y - first_y)


def _first(at: float, side: int) -> int:
    return int(np.floor(at + 0.5)) - side // 2 if side % 2 else int(np.floor(at + 1)) - side // 2


def _inside(first: int, side: int, length: int) -> slice:
    start = min(max(first, 0), length)
    return slice(start, min(max(first + side, start), length))


def stamps_of_cell(
    workshop: Workshop, cell: Cell, found: list[Detection], options: Options
) -> list[LabelledStamp]:
    """Return the stamps of all detections of a cell, in the order of branch, epoch and number."""
    names = _objects(cell, found)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, one in enumerate(found):
        if one.candidate.cut is None:
            groups[one.branch, names[i]].append(i)
    rng = np.random.default_rng([workshop.seed, _RANDOM, cell.number])
    chosen = {members[int(rng.integers(len(members)))] for _, members in sorted(groups.items())}
    order = sorted(
        range(len(found)), key=lambda i: (found[i].branch, found[i].epoch, found[i].candidate.number)
    )
    survey = workshop.survey.name
    return [
        _stamp(found[i], survey, cell.name, names[i], groups[found[i].branch, names[i]], i, i in chosen)
        for i in order
    ]


def _stamp(
    one: Detection, survey: str, field: str, name: str, members: list[int], i: int, is_random: bool
) -> LabelledStamp:
    candidate, verdict = one.candidate, one.verdict
    assert verdict.label is not None  # others are left out
    return LabelledStamp(
        stamp_id=f"{one.exposure.id}-{one.branch}-{candidate.number:04d}",
        label=verdict.label, object_id=name, exposure_id=one.exposure.id, field_id=field, survey=survey,
        branch=one.branch, band=one.exposure.band or "", mjd=one.exposure.mid_mjd, ra=candidate.ra,
        dec=candidate.dec, snr=candidate.snr, cutout=one.cutout, original=one.original,
        magnitude=candidate.magnitude, subtype=verdict.subtype, cause=verdict.cause,
        n_detections=max(len(members), 1), is_first=not members or members[0] == i,
        is_random=is_random or not members, is_simulated=True, cut=candidate.cut,
    )  # fmt: skip


def _objects(cell: Cell, found: list[Detection]) -> list[str]:
    """The name of each detection's object: its source's, or for bogus ones that of their place.

    What is seen once (asteroids, glints, injected sources) is an object of its exposure alone; what the
    template saw is one object in all exposures.
    """
    names: list[str] = []
    places: list[tuple[float, float]] = []
    for one in found:
        verdict, candidate = one.verdict, one.candidate
        if verdict.source is None:
            near = [
                k for k, (ra, dec) in enumerate(places)
                if float(separation(ra, dec, candidate.ra, candidate.dec)) * 3600 < _SAME
            ]  # fmt: skip
            if not near:
                places.append((candidate.ra, candidate.dec))
                near = [len(places) - 1]
            names.append(f"{cell.name}-bogus-{near[0]}")
        else:
            once = verdict.kind in ("asteroid", "satellite_glint") or verdict.subtype == "injected"
            where = f"-{one.epoch if candidate.flux > 0 else 0:02d}" if once else ""
            names.append(f"{cell.name}-{verdict.kind}{where}-{verdict.source}")
    return names
