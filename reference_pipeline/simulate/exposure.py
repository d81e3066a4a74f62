"""Raw frames with their truth: a scene through air, telescope and chip; bias, dark and twilight flats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..frame import Exposure, ZeroPoint, unit_coordinates
from . import chip
from .atmosphere import Conditions, at_rows, sky_gradient, transmission, twilight_gradient
from .cosmic_rays import cosmic_rays
from .detector import Detector
from .optics import make_wcs, psf_at, psf_fwhm
from .readout import Readout, bleed, collect, read_out, strips
from .render import render
from .scene import Scene
from .telescope import Telescope
from .truth import FrameTruth, TruthBit

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS

FlatFault = Literal["too-bright", "too-faint", "star-trail"]

FLAT_FAULTS: tuple[FlatFault, ...] = ("too-bright", "too-faint", "star-trail")


def expose(
    scene: Scene,
    telescope: Telescope,
    exposure: Exposure,
    conditions: Conditions,
    rng: np.random.Generator,
    *,
    rotation: float = 0.0,
) -> tuple[NDArray[np.uint16], FrameTruth]:
    """Return the raw frame (ADU, the whole raw file) of ``scene`` and what is true of it.

    ``exposure`` says where the mount means to point and in which band; the frame is off by the telescope's
    pointing error. ``rotation`` is that of the field in degrees. The same arguments give the same bytes.
    Raises ConfigError for a band without a zero point or an exposure without a pointing.
    """
    detector, shape = telescope.detector, telescope.detector.shape
    band = exposure.band
    zero_point = telescope.zero_point(band)
    assert band is not None  # zero_point refuses
    wcs = _true_wcs(telescope, exposure, rotation, rng)
    airmass = exposure.airmass or 1.0
    scale = detector.camera.pixel_scale
    field = (shape[0] * scale / 3600, shape[1] * scale / 3600)
    clear = transmission(conditions, airmass, field, rng)
    sky = exposure.exposure_time * scale**2 * 10 ** (-0.4 * (conditions.sky_brightness - zero_point))
    noise = np.hypot(np.sqrt(sky), detector.camera.read_noise)
    drawn = render(
        scene,
        wcs,
        telescope.optics,
        shape,
        zero_point=zero_point + 2.5 * np.log10(exposure.exposure_time),
        seeing_fwhm=conditions.seeing_fwhm,
        jitter=conditions.jitter,
        jitter_angle=conditions.jitter_angle,
        transmission=clear,
        visible=0.5 * noise,
    )
    middle = np.array([0.5 * (shape[1] - 1)]), np.array([0.5 * (shape[0] - 1)])
    psf = psf_at(
        telescope.optics,
        *middle,
        shape,
        seeing_fwhm=conditions.seeing_fwhm,
        jitter=conditions.jitter,
        jitter_angle=conditions.jitter_angle,
    )
    fwhm = float(psf_fwhm(psf)[0])
    brightness = sky * sky_gradient(conditions)
    if conditions.cloud_light != 1.0:
        passing = clear / transmission(conditions.model_copy(update={"cloud": "none"}), airmass, field, rng)
        brightness = brightness * (passing + (1 - passing) * conditions.cloud_light)
    light = drawn.image
    for rows in strips(shape[0]):
        light[rows] += at_rows(brightness, shape, rows)
    readout, mask, particles = _detect(light, detector, band, exposure.exposure_time, rng)
    mask |= drawn.mask
    return readout.raw, FrameTruth(
        exposure=exposure,
        shape=shape,
        mask=mask,
        cosmic_rays=particles,
        sky=sky,
        conditions=conditions,
        wcs=wcs,
        zero_point=_true_zero_point(clear, zero_point, exposure.exposure_time, band),
        transmission=clear,
        fwhm=fwhm,
        sources=drawn.sources,
        trails=drawn.trails,
    )


def calibration_frame(
    kind: Literal["bias", "dark", "flat"],
    telescope: Telescope,
    exposure: Exposure,
    rng: np.random.Generator,
    *,
    level: float | None = None,
    fault: FlatFault | None = None,
) -> tuple[NDArray[np.uint16], FrameTruth]:
    """Return a raw calibration frame (ADU, the whole raw file) and what is true of it.

    ``level`` is what a twilight flat has above the bias, in ADU; by default it varies about half of the
    camera's saturation. ``fault`` spoils a flat; by default one is drawn at the telescope's rate.
    """
    detector = telescope.detector
    seconds = 0.0 if kind == "bias" else exposure.exposure_time
    light = None
    band = exposure.band or ""
    if kind == "flat":
        level, fault = _flat_level(telescope, rng, level, fault)
        light = _twilight(detector, level * detector.camera.gain, rng)
        if fault == "star-trail":
            _trail_stars(light, rng)
    readout, mask, particles = _detect(light, detector, band, seconds, rng)
    sky = float(level or 0.0) * detector.camera.gain
    return readout.raw, FrameTruth(exposure, detector.shape, mask, particles, sky=sky, fault=fault)


def _detect(
    light: NDArray[np.float32] | None,
    detector: Detector,
    band: str,
    exposure_time: float,
    rng: np.random.Generator,
) -> tuple[Readout, NDArray[np.uint16], Table]:
    """Light on the chip to a raw frame, the mask of what the chip did to it, and the particles' electrons."""
    from astropy.table import Table

    charge = collect(light, detector, band=band, exposure_time=exposure_time, rng=rng)
    y, x, electrons = cosmic_rays(detector, exposure_time, rng)
    charge[y, x] += electrons
    saturated = bleed(charge, detector.full_well)
    readout = read_out(charge, detector, rng)
    mask = chip.defects(detector).mask(detector.shape).astype(np.uint16)
    mask *= np.uint16(TruthBit.BAD)
    mask[saturated] |= np.uint16(TruthBit.SATURATED)
    mask[y, x] |= np.uint16(TruthBit.COSMIC_RAY)
    mask[readout.faults] |= np.uint16(TruthBit.FAULT)
    return readout, mask, Table({"y": y.astype(np.int32), "x": x.astype(np.int32), "electrons": electrons})


def _flat_level(
    telescope: Telescope, rng: np.random.Generator, level: float | None, fault: FlatFault | None
) -> tuple[float, FlatFault | None]:
    camera = telescope.detector.camera
    if fault is None and rng.random() < telescope.flat_fault_rate:
        fault = FLAT_FAULTS[int(rng.integers(len(FLAT_FAULTS)))]
    half = 0.5 * (camera.saturation - telescope.detector.bias_level)
    usual = half * rng.uniform(0.75, 1.25)  # twilight fades or grows between exposures
    spoiled = {"too-bright": 2.6 * half, "too-faint": half * rng.uniform(0.005, 0.05)}
    return (spoiled.get(fault or "", usual) if level is None else level), fault


def _twilight(detector: Detector, electrons: float, rng: np.random.Generator) -> NDArray[np.float32]:
    light = np.empty(detector.shape, np.float32)
    nodes = electrons * twilight_gradient(rng)
    for rows in strips(len(light)):
        light[rows] = at_rows(nodes, detector.shape, rows)
    return light


def _trail_stars(light: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Add to a flat the lines that stars draw while the telescope does not track."""
    ny, nx = light.shape
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.4) * max(ny, nx)
    level = float(np.median(light[:: max(1, ny // 64)]))
    along = np.arange(0, length, 0.5)
    for _ in range(3 + rng.poisson(5)):
        y = rng.uniform(-0.3, 1) * ny + along * np.sin(angle)
        x = rng.uniform(-0.3, 1) * nx + along * np.cos(angle)
        peak = level * 10 ** rng.uniform(-2, -0.7)
        for dy in range(-4, 5):
            for dx in range(-4, 5):
                iy, ix = np.rint(y).astype(int) + dy, np.rint(x).astype(int) + dx
                inside = (iy >= 0) & (iy < ny) & (ix >= 0) & (ix < nx)
                r2 = (iy - y) ** 2 + (ix - x) ** 2
                np.add.at(light, (iy[inside], ix[inside]), (0.2 * peak * np.exp(-0.5 * r2 / 1.5**2))[inside])


def _true_wcs(telescope: Telescope, exposure: Exposure, rotation: float, rng: np.random.Generator) -> WCS:
    from ..errors import ConfigError

    if exposure.ra is None or exposure.dec is None:
        raise ConfigError(f"exposure {exposure.id}: a science frame needs ra and dec")
    off_ra, off_dec = telescope.pointing_error / 3600 * rng.standard_normal(2)
    turned = rotation + telescope.rotation_error * rng.standard_normal()
    dec = float(np.clip(exposure.dec + off_dec, -90, 90))
    ra = (exposure.ra + off_ra / max(np.cos(np.radians(dec)), 1e-3)) % 360.0
    return make_wcs(telescope.optics, ra, dec, turned, telescope.detector.shape)


def _true_zero_point(
    clear: NDArray[np.float64], zero_point: float, exposure_time: float, band: str
) -> ZeroPoint:
    """The zero point and its spatial term that the air gives: a least-squares fit of Eq. 3 to the map.

    An electron of a source at transmission t stands for zp + 2.5 log10(T t) − 2.5 log10(electrons).
    """
    n = len(clear)
    at = np.linspace(-0.5, n - 0.5, n)  # pixels of an n × n frame: nodes lie on its edges
    u, v = (w.ravel() for w in np.meshgrid(*unit_coordinates(at, at, (n, n))))
    terms = np.stack([np.ones_like(u), u, v, u * v, u**2, v**2], axis=1)
    c, *_ = np.linalg.lstsq(terms, 2.5 * np.log10(clear).ravel(), rcond=None)
    value = zero_point + 2.5 * np.log10(exposure_time) + c[0]
    spatial = (0.0, float(c[1]), float(c[2]), float(c[3]), float(c[4]), float(c[5]))
    return ZeroPoint(value=float(value), error=0.0, band=band, spatial=spatial, scatter=0.0)
