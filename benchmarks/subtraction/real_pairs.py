"""Two real pairs without a transient, subtracted: `python -m benchmarks.subtraction.real_pairs`.

What is left of the sky and of the sources, beside what HOTPANTS and sfft left (measured before, elsewhere, on
the same two pairs: data/README.md; their exact choice of pixels is not known, so the inputs' own scatter,
which was given too, is compared as well).

- `MAD` is 1.4826 times the median of |value - median|, in the unit of the file: a Gaussian's sigma.
- Sky: pixels with a difference, more than 4 pixels from any pixel above 2 sigma (5 connected ones) of either
  image's background.
- On source: pixels with a difference and above 5 sigma in either image (5 connected ones).

The files give neither gain nor variance. The aligned pair's noise is taken as the sky's local rms, and for
light as if all of the sky were photons (rms² / level for each ADU of light); the NIRCam pair's as the rms
alone. Constant pixels of the border (fill of the alignment) are OFF_IMAGE, those at 65535 SATURATED.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sep
from astropy.io import fits
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, label

from benchmarks.common import DATA, at_most, save
from reference_pipeline.config import PsfFit, Sources, Subtract
from reference_pipeline.frame import Exposure, Frame, MaskBit
from reference_pipeline.reduce.psf import fit_psf
from reference_pipeline.reduce.sources import find_sources
from reference_pipeline.subtract.difference import Difference, subtract

IMAGES = DATA / "images"
ESO = IMAGES / "quatrope+ProperImage" / "data"
NIRCAM = IMAGES / "thomasvrussell+sfft" / "test" / "subtract_test_nircam" / "input_data"
STAMP = "nircam_clear-f200w_i2d_stamp.fits"


@dataclass(frozen=True)
class Pair:
    """Two files on one grid, and what other programs left of them."""

    name: str
    unit: str
    science: Path
    template: Path
    saturation: float
    photon_noise: bool
    others: dict[str, dict[str, float]]  # program -> what it left


PAIRS = (
    Pair(
        "ESO 085-030", "ADU", ESO / "aligned_eso085-030-005.fit", ESO / "aligned_eso085-030-004.fit", 65535,
        True, {"HOTPANTS": {"sky": 94.5, "on_source": 118}, "sfft": {"sky": 99, "on_source": 131},
               "inputs": {"first": 75.3, "second": 71.4}},
    ),
    Pair(
        "NIRCam F200W", "MJy/sr", NIRCAM / f"jw02561001002-02561-o001_t003_{STAMP}",
        NIRCAM / f"jw01324001001-01324-o001_t001_{STAMP}", np.inf,
        False, {"HOTPANTS": {"sky": 0.00534}, "sfft": {"sky": 0.00553},
                "inputs": {"first": 0.00412, "second": 0.00455}},
    ),
)  # fmt: skip


def main() -> int:
    """Subtract both pairs, print, save; return 1 where ours leaves more than the others."""
    rows, requirements = [], []
    for pair in PAIRS:
        row = measured(pair)
        rows.append(row)
        print(table(pair, row))
        for region in ("sky", "on_source"):
            limits = [other[region] for other in pair.others.values() if region in other]
            if limits:
                name = f"{pair.name}: MAD {region} ({pair.unit})"
                requirements.append(at_most(name, row[region], min(limits)))
    save("subtraction/real_pairs", {"pairs": rows}, requirements, full=True)
    return 0 if all(r.is_met for r in requirements) else 1


def measured(pair: Pair) -> dict[str, object]:
    """Frames, difference and residuals of a pair."""
    science, template = (
        frame_of(path, saturation=pair.saturation, photon_noise=pair.photon_noise)
        for path in (pair.science, pair.template)
    )
    found = subtract(science, template, config=Subtract())
    sky, source = regions(science, template, found)
    score = found.score[sky & np.isfinite(found.score)]
    return {
        "pair": pair.name,
        "unit": pair.unit,
        "fwhm": {"science": _fwhm(science), "template": _fwhm(template)},
        "input_sky": [mad(f.data[sky] - f.background[sky]) for f in (science, template)],
        "sky": mad(found.data[sky]),
        "on_source": mad(found.data[source]),
        "n_sky": int(sky.sum()),
        "n_on_source": int(source.sum()),
        "score_sky_sigma": mad(score),
        "others": pair.others,
        "decision": found.decision,
        "seconds": round(found.seconds, 2),
    }


def frame_of(path: Path, *, saturation: float, photon_noise: bool) -> Frame:
    """A frame of an image that says nothing of its noise."""
    data = fits.getdata(path).astype(np.float32)
    mask = np.zeros(data.shape, np.uint16)
    mask[border(data)] |= np.uint16(MaskBit.OFF_IMAGE)
    mask[~np.isfinite(data)] |= np.uint16(MaskBit.NO_DATA)
    mask[binary_dilation(data >= saturation, iterations=2)] |= np.uint16(MaskBit.SATURATED)
    clean = np.where(mask == 0, data, 0).astype(np.float32)
    mesh = sep.Background(clean, mask=mask != 0, bw=64, bh=64)
    variance = np.square(mesh.rms()).astype(np.float32)
    if photon_noise:
        light = np.maximum(clean - mesh.back(), 0)
        variance += light * np.float32(mesh.globalrms**2 / mesh.globalback)
    exposure = Exposure(path.stem, "file", "science", 0.0, 60.0)
    frame = Frame(exposure, data, variance.astype(np.float32), mask)
    return fit_psf(find_sources(frame, config=Sources()), config=PsfFit())


def border(data: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels connected to the edge that all have the value of a corner."""
    out = np.zeros(data.shape, bool)
    for corner in (data[0, 0], data[0, -1], data[-1, 0], data[-1, -1]):
        same = data == corner
        numbers, _ = label(same)
        edge = np.unique(np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]]))
        sizes = np.bincount(numbers.ravel())
        out |= np.isin(numbers, [n for n in edge if n and sizes[n] >= 50])  # not by chance
    return out


def regions(
    science: Frame, template: Frame, found: Difference
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The pixels of sky and on sources, see above."""
    near, on = np.zeros(science.shape, bool), np.zeros(science.shape, bool)
    for frame in (science, template):
        pixels = np.where(frame.mask == 0, frame.data - frame.background, 0).astype(np.float32)
        sigma = np.sqrt(np.median(frame.variance))
        for threshold, region in ((2.0, near), (5.0, on)):
            numbers, _ = label(pixels > threshold * sigma)
            region |= (np.bincount(numbers.ravel()) >= 5)[numbers] & (numbers > 0)
    known = np.isfinite(found.score)
    return known & ~binary_dilation(near, iterations=4), known & on


def mad(values: NDArray[np.float32]) -> float:
    """1.4826 times the median absolute deviation from the median."""
    return float(f"{1.4826 * np.median(np.abs(values - np.median(values))):.5g}")


def _fwhm(frame: Frame) -> float:
    table = frame.sources
    return round(float(np.median(table["fwhm"][table["is_calibration"]])), 3)


def table(pair: Pair, row: dict[str, object]) -> str:
    """What a person reads."""
    lines = [f"{pair.name} ({pair.unit}), inputs' sky {row['input_sky']}, elsewhere {pair.others['inputs']}"]
    lines.append(f"{'':12} {'sky':>10} {'on source':>10}")
    lines.append(f"{'ours':12} {row['sky']:10.5g} {row['on_source']:10.5g}")
    for name, left in pair.others.items():
        if name != "inputs":
            lines.append(f"{name:12} {left['sky']:10.5g} {left.get('on_source', float('nan')):10.5g}")
    decision = row["decision"]
    lines.append(f"chi2 of held-out stamps {decision['held_out_chi2']}, {row['seconds']} s\n")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
