"""What a detection on a simulated difference is: by what changed in the sky, or by what spoiled the pixels.

Everything is brought to the template's raw pixels, which are the difference's, through the true WCS of both
frames; the fluxes of the template are scaled to the science exposure by the true transmission of the air.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from ..candidate import Candidate
from ..config import Cuts
from ..frame import MaskBit
from ..simulate.atmosphere import at_points
from ..simulate.optics import sky_to_pixel
from ..simulate.scene import POINT_KINDS, Scene
from ..simulate.truth import FrameTruth, TruthBit
from ..simulate.variables import SUBTYPES
from .cells import FIRST_INJECTED, Seen

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LABELS = {
    "variable_star": "VS", "agn": "AGN", "supernova": "SN", "asteroid": "asteroid",
    "satellite_glint": "satellite",
}  # fmt: skip

_STILL = ("variable_star", "agn", "supernova")  # the same source in both frames
_EXPECTED = 2.5  # S/N that a change must be expected to have, to be what was detected
_NOTHING = 1.0  # S/N below which a change explains nothing and spoils nothing
_FACTOR = 2.0  # between the flux expected and the one found, either way
_LOOSE = 4.0  # the same for what is no point source: streaks, discs
_SIGMAS = 3.0  # or within so many of its noise
_BRIGHT = 20.0  # S/N of a change whose wings and residuals reach three FWHM
_NEIGHBOUR = 10.0  # S/N of a source that can leave a residual
_FAINT_SNR = 6.0  # of a detection that noise can make


@dataclass(frozen=True)
class Changes:
    """What differs between two scenes, one row each; pixels of the template's frame."""

    id: NDArray[np.int64]
    kind: NDArray[np.str_]  # keys of LABELS
    subtype: NDArray[np.str_]
    x: Floats
    y: Floats
    flux: Floats  # electrons of the science exposure, science minus template
    reach: Floats  # pixels that it extends beyond a point source

    def __len__(self) -> int:
        return len(self.id)


_COLUMNS = tuple(field.name for field in fields(Changes))


@dataclass(frozen=True)
class Verdict:
    """What a detection is; ``label`` None: the truth does not decide, it is left out."""

    label: str | None
    subtype: str | None = None
    cause: str | None = None
    source: int | None = None  # id of what changed
    kind: str | None = None


class Truth:
    """The truth of a difference: science frame minus template."""

    def __init__(self, science: Seen, template: Seen, cuts: Cuts, *, binning: int = 1) -> None:
        self.science, self.template, self.cuts, self.binning = science.truth, template.truth, cuts, binning
        ours = science.truth
        assert ours.sources is not None
        self.x, self.y = self.on_template(np.asarray(ours.sources["x"]), np.asarray(ours.sources["y"]))
        self.kind = np.asarray(ours.sources["kind"]).astype("U16")
        self.flux = np.asarray(ours.sources["flux"], float)
        self.changes = self._changes(science, template)
        self.size = _sizes(science.scene, np.asarray(ours.sources["id"]), self.kind, ours)

    def on_template(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Pixels of the raw template of places on the raw science frame."""
        assert self.science.wcs is not None
        assert self.template.wcs is not None
        return sky_to_pixel(self.template.wcs, *self.science.wcs.all_pix2world(x, y, 0))

    def on_science(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Pixels of the raw science frame of places on the raw template."""
        assert self.science.wcs is not None
        assert self.template.wcs is not None
        return sky_to_pixel(self.science.wcs, *self.template.wcs.all_pix2world(x, y, 0))

    def raw(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of the raw template of a place on the difference, which may be binned."""
        n = self.binning
        return n * x + 0.5 * (n - 1), n * y + 0.5 * (n - 1)

    def _changes(self, science: Seen, template: Seen) -> Changes:
        ours = _moving_or_varying(science)
        x, y = self.on_template(ours.x, ours.y)
        frames = template.stacked or (template,)
        rows = [replace(ours, x=x, y=y, flux=ours.flux.copy())]
        places = {int(i): (rows[0], k) for k, i in enumerate(ours.id) if ours.kind[k] in _STILL}
        for seen in frames:
            theirs = self._on_the_difference(seen, len(frames))
            is_new = np.ones(len(theirs), bool)
            for row in np.flatnonzero(np.isin(theirs.kind, _STILL)):
                if (place := places.get(int(theirs.id[row]))) is not None:
                    held, k = place
                    held.flux[k] += theirs.flux[row]
                    is_new[row] = False
            new = Changes(*(getattr(theirs, name)[is_new] for name in _COLUMNS))
            places |= {int(i): (new, k) for k, i in enumerate(new.id) if new.kind[k] in _STILL}
            rows.append(new)
        return Changes(*(np.concatenate([getattr(one, name) for one in rows]) for name in _COLUMNS))

    def _on_the_difference(self, seen: Seen, n: int) -> Changes:
        """What moves or varies in one of the ``n`` frames of the template, as the difference has it.

        Negative, in science electrons, on the raw pixels of the frame that the template lies on. What moves
        is in one frame of a stack, which clips it where it stands out: then nothing is detected there.
        """
        theirs = _moving_or_varying(seen)
        ours, truth = self.science, seen.truth
        assert ours.transmission is not None
        assert truth.transmission is not None
        assert ours.wcs is not None
        assert truth.wcs is not None
        assert self.template.wcs is not None
        sky = truth.wcs.all_pix2world(theirs.x, theirs.y, 0)
        x, y = sky_to_pixel(self.template.wcs, *sky)
        seconds = ours.exposure.exposure_time / truth.exposure.exposure_time
        clear = at_points(truth.transmission, truth.shape, theirs.x, theirs.y)
        ratio = seconds * at_points(ours.transmission, ours.shape, *sky_to_pixel(ours.wcs, *sky)) / clear
        return replace(theirs, x=x, y=y, flux=-ratio * theirs.flux / n)

    def verdict(self, candidate: Candidate, fwhm: float) -> Verdict:
        """Return what ``candidate`` is; ``fwhm`` in pixels of the difference."""
        x, y = self.raw(candidate.x, candidate.y)
        wide = fwhm * self.binning
        noise = abs(candidate.flux / candidate.snr)
        changes = self.changes
        apart = np.hypot(changes.x - x, changes.y - y)
        expected = changes.flux / noise
        near = apart < max(wide, 1.5) + changes.reach
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(changes.reach > 0, _LOOSE, _FACTOR)
            off = np.abs(np.log(candidate.flux / changes.flux))  # nan for another sign
            fits = (off < np.log(factor)) | (np.abs(expected - candidate.snr) < _SIGMAS)
        same = near & (np.sign(changes.flux) == np.sign(candidate.flux)) & (np.abs(expected) > _EXPECTED)
        if (good := np.flatnonzero(same & fits)).size:
            best = good[np.argmin(apart[good])]
            kind = str(changes.kind[best])
            return Verdict(LABELS[kind], str(changes.subtype[best]), source=int(changes.id[best]), kind=kind)
        beside = apart < 3 * wide + changes.reach
        if (near & (np.abs(expected) > _NOTHING)).any() or (beside & (np.abs(expected) > _BRIGHT)).any():
            return Verdict(None)
        return Verdict("bogus", cause=self._cause(candidate, x, y, wide, noise))

    def _cause(self, candidate: Candidate, x: float, y: float, wide: float, noise: float) -> str:
        """The first of BOGUS_CAUSES that explains a detection at (x, y) of the raw template."""
        sx, sy = (float(v[0]) for v in self.on_science(np.array([x]), np.array([y])))
        reach = max(2 * wide, 3.0)
        bits = [_bits(self.science, sx, sy, reach), _bits(self.template, x, y, reach)]
        present = np.bitwise_or.reduce([np.bitwise_or.reduce(b) if len(b) else 0 for b in bits])
        filled = np.bitwise_or.reduce([np.bitwise_and.reduce(b) if len(b) else 0 for b in bits])
        apart = np.hypot(self.x - x, self.y - y)
        star = self.kind != "galaxy"
        strong = self.flux / noise / _NEIGHBOUR
        bright = strong > 1  # the brighter, the farther out it leaves something
        core = apart < max(2 * wide, 3.0) + wide * np.log10(np.maximum(strong, 1)) + self.size
        saturated = bool(present & TruthBit.SATURATED or candidate.mask_bits & MaskBit.SATURATED)
        of_star = bool((star & (self.flux / noise > 100) & (apart < 3 * wide)).any())
        explains = {
            "readout": present & TruthBit.FAULT,
            "bad_pixel": present & TruthBit.BAD,
            "cosmic_ray": present & TruthBit.COSMIC_RAY,
            "trail": present & TruthBit.TRAIL,
            "bleed": saturated and not of_star,
            "saturated": saturated,
            "spike": present & TruthBit.SPIKE,
            "ghost": present & TruthBit.GHOST and not filled & TruthBit.GHOST,  # its rim, not its inside
            "edge": candidate.edge < self.cuts.edge + wide / self.binning,
            "residual": (bright & core).any(),
            "noise": abs(candidate.snr) < _FAINT_SNR,
        }
        return next((cause for cause, is_it in explains.items() if is_it), "other")


def _moving_or_varying(seen: Seen) -> Changes:
    """The sources of one frame that can differ from another's, in its own pixels and electrons."""
    table, scene = seen.truth.sources, seen.scene
    assert table is not None
    kind = np.asarray(table["kind"]).astype("U16")
    rows = np.isin(kind, list(LABELS))
    kind, ids = kind[rows], np.asarray(table["id"], np.int64)[rows]
    order = np.argsort(scene.points.id, kind="stable")
    at = order[np.searchsorted(scene.points.id, ids, sorter=order)]
    length = np.hypot(scene.points.motion_ra[at], scene.points.motion_dec[at])
    reach = (0.5 * length + scene.points.defocus[at]) / _pixel_scale(seen.truth)
    return Changes(
        ids, kind, _subtypes(seen, kind, ids), np.asarray(table["x"], float)[rows],
        np.asarray(table["y"], float)[rows], np.asarray(table["flux"], float)[rows],
        np.where(reach > 0.3, reach, 0.0),
    )  # fmt: skip


def _subtypes(seen: Seen, kind: NDArray[np.str_], ids: NDArray[np.int64]) -> NDArray[np.str_]:
    exposure = seen.frame.exposure
    assert exposure.ra is not None
    assert exposure.dec is not None
    every = seen.sky.variables(exposure.ra, exposure.dec, seen.radius, exposure.mid_mjd)
    names = dict(zip(every.id.tolist(), (SUBTYPES[k] for k in every.subtype), strict=True))
    n_glints = np.count_nonzero(seen.scene.points.kind == POINT_KINDS.index("satellite_glint"))
    glints = "glint" if n_glints == 1 else "glints"
    plain = {"asteroid": "asteroid", "satellite_glint": glints}
    return np.array(
        [
            plain.get(str(k)) or ("injected" if i >= FIRST_INJECTED else names[int(i)])
            for k, i in zip(kind, ids, strict=True)
        ],
        "U16",
    )


def _pixel_scale(truth: FrameTruth) -> float:
    from astropy.wcs.utils import proj_plane_pixel_scales

    assert truth.wcs is not None
    return float(np.mean(proj_plane_pixel_scales(truth.wcs)) * 3600)


def _sizes(scene: Scene, ids: NDArray[np.int64], kind: NDArray[np.str_], truth: FrameTruth) -> Floats:
    """Half-light radii of a frame's sources, pixels; 0 for what is no galaxy."""
    sizes = dict(zip(scene.galaxies.id.tolist(), scene.galaxies.half_light_radius.tolist(), strict=True))
    arcsec = [sizes[int(i)] if k == "galaxy" else 0.0 for i, k in zip(ids, kind, strict=True)]
    return np.array(arcsec) / _pixel_scale(truth)


def _bits(truth: FrameTruth, x: float, y: float, reach: float) -> NDArray[np.uint16]:
    """The bits of a truth's mask within ``reach`` pixels of a place."""
    r = int(np.ceil(reach))
    ix, iy = round(x), round(y)
    rows, columns = slice(max(0, iy - r), max(0, iy + r + 1)), slice(max(0, ix - r), max(0, ix + r + 1))
    part = truth.mask[rows, columns]
    py = np.arange(rows.start, rows.start + part.shape[0])[:, None] - y
    px = np.arange(columns.start, columns.start + part.shape[1])[None, :] - x
    return np.asarray(part[np.hypot(py, px) <= reach])
