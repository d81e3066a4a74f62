"""From ADU as read out to electrons: overscan, bias, dark, flat, and what each pixel is good for.

    electrons = gain · (raw − overscan − bias − dark · seconds) / flat
    variance  = [gain · (bias and overscan subtracted) + read_noise² + of overscan, bias and dark] / flat²
                + electrons² · variance(flat) / flat²

The formulae are ccdproc's (``subtract_overscan``, ``subtract_bias``, ``subtract_dark``, ``flat_correct``,
``gain_correct``), which the tests compare with; why not its code: docs/decisions/0005-calibration.md.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..config import Calibrate, Camera
from ..errors import CalibrationError, PixelError
from ..frame import Decision, Frame, MaskBit
from ..raw import Areas, RawFrame, areas, claimed_wcs, header_number
from .masters import Floats, Master, Masters, overscan_level

__all__ = ["Masters", "calibrate"]

_STAGE = "calibrate"
_STRIP = 256  # rows at a time


def calibrate(raw: RawFrame, masters: Masters, *, camera: Camera, config: Calibrate) -> Frame:
    """Return the imaging area of ``raw`` in electrons, with variance and mask, and the WCS its header claims.

    Masters that are not there are left out, and the record of the step says so. Raises CalibrationError
    ("no-master", "shape", "overscan") and PixelError ("all-invalid", "saturated").
    """
    started = time.perf_counter()
    where = areas(raw.id, raw.header, (raw.data.shape[0], raw.data.shape[1]), camera)
    bias, dark, flat = _fitting(raw, masters, where, config)
    try:
        level = overscan_level(raw.data, where, config.overscan, pedestal=camera.pedestal)
    except ValueError as error:
        raise CalibrationError(raw.id, _STAGE, "overscan", str(error)) from error
    gain = header_number(raw.header, camera.keywords.gain, camera.gain)
    read_noise = header_number(raw.header, camera.keywords.read_noise, camera.read_noise)
    data, variance = np.empty(where.shape, np.float32), np.empty(where.shape, np.float32)
    mask = np.zeros(where.shape, np.uint16)
    seconds = raw.exposure.exposure_time
    constant = read_noise**2 + gain**2 * _overscan_variance(where, config, read_noise / gain)

    def strip(first: int) -> None:
        rows = slice(first, min(len(data), first + _STRIP))
        adu = raw.data[where.imaging][rows]
        signal = adu.astype(np.float32)
        signal -= level[rows] if len(level) > 1 else level
        noise = np.float32(constant)
        if bias is not None:
            signal -= bias.data[rows]
            noise = noise + np.float32(gain**2 * bias.noise)
        # shot noise is of what was collected: dark current is in it
        total = np.float32(gain) * np.maximum(signal, 0) + noise
        if dark is not None:
            rate = dark.data[rows]
            signal -= np.float32(seconds) * rate
            total += np.float32((gain * seconds) ** 2) * _variance(dark, rate)
        signal *= np.float32(gain)
        if flat is not None:
            response = np.where(flat.data[rows] > 0, flat.data[rows], np.float32(1))
            signal /= response
            total += signal**2 * _variance(flat, response)
            total /= response**2
        data[rows], variance[rows] = signal, total
        bits = mask[rows]
        for master in (bias, dark, flat):
            if master is not None:
                bits |= master.mask[rows]
        bits[~np.isfinite(signal)] |= np.uint16(MaskBit.NO_DATA)
        bits[adu >= camera.saturation] |= np.uint16(MaskBit.SATURATED)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(strip, range(0, len(data), _STRIP)))
    decision = _judge(raw.id, mask, camera, config)
    _grow_saturation(mask, config)
    wcs, claim = claimed_wcs(raw.header, where.imaging, camera)
    decision |= {
        "overscan": config.overscan if where.overscan else "none",
        **{kind: _name(m) for kind, m in (("bias", bias), ("dark", dark), ("flat", flat))},
        "gain": gain,
        "read_noise": read_noise,
        "wcs": claim,
    }
    frame = Frame(exposure=raw.exposure, data=data, variance=variance, mask=mask, gain=gain, wcs=wcs)
    return frame.after("calibrate", started, decision)


def _fitting(
    raw: RawFrame, masters: Masters, where: Areas, config: Calibrate
) -> tuple[Master | None, Master | None, Master | None]:
    """The masters for this frame, of its shape and band."""
    found = {"bias": masters.bias, "dark": masters.dark, "flat": masters.flats.get(raw.exposure.band)}
    for kind, master in found.items():
        if master is None and kind in config.required:
            of = f" of band {raw.exposure.band}" if kind == "flat" else ""
            raise CalibrationError(raw.id, _STAGE, "no-master", f"no master {kind}{of}, and it is required")
        if master is not None and master.data.shape != where.shape:
            message = f"master {kind} is {master.data.shape}, the frame's imaging area {where.shape} (ny, nx)"
            raise CalibrationError(raw.id, _STAGE, "shape", message)
    return found["bias"], found["dark"], found["flat"]


def _variance(master: Master, value: Floats) -> Floats:
    return np.float32(master.noise) + np.float32(master.noise_slope) * np.maximum(value, 0)


def _overscan_variance(where: Areas, config: Calibrate, read_noise: float) -> float:
    """Of the median of one line's or column's overscan, ADU²."""
    if where.overscan is None or config.overscan == "none":
        return 0.0
    across = where.overscan[1 if config.overscan == "line" else 0]
    n = across.stop - across.start
    return (np.pi / 2 if n > 2 else 1.0) * read_noise**2 / n


def _judge(frame_id: str, mask: NDArray[np.uint16], camera: Camera, config: Calibrate) -> dict[str, Decision]:
    """What share of the frame is lost. Raises PixelError where it is too much."""
    invalid, saturated, bad = (_share(mask, b) for b in (MaskBit.NO_DATA, MaskBit.SATURATED, MaskBit.BAD))
    if invalid > config.max_invalid:
        raise PixelError(frame_id, _STAGE, "all-invalid", f"{invalid:.1%} of the pixels are not finite")
    if saturated > config.max_saturated:
        message = f"{saturated:.1%} of the pixels at or above {camera.saturation:g} ADU"
        raise PixelError(frame_id, _STAGE, "saturated", f"{message}, allowed {config.max_saturated:.0%}")
    return {"saturated": saturated, "invalid": invalid, "bad": bad}


def _share(mask: NDArray[np.uint16], bit: MaskBit) -> float:
    """The fraction of the pixels that have ``bit``, in strips: whole, it would be the peak of memory."""
    strips = (mask[first : first + _STRIP] for first in range(0, len(mask), _STRIP))
    return sum(int(np.count_nonzero(strip & np.uint16(bit))) for strip in strips) / mask.size


def _grow_saturation(mask: NDArray[np.uint16], config: Calibrate) -> None:
    """Add the neighbours of saturated pixels, further along the direction in which charge overflows."""
    if not config.saturation_grow:
        return
    length = 2 * config.saturation_grow + 1
    structure = np.ones((length, 3) if config.bleed_axis == "y" else (3, length), bool)
    bit = np.uint16(MaskBit.SATURATED)
    strips = (mask[first : first + _STRIP] for first in range(0, len(mask), _STRIP))
    saturated = np.flatnonzero(np.concatenate([(strip & bit).any(axis=1) for strip in strips]))
    if not len(saturated):
        return
    reach = structure.shape[0] // 2
    breaks = np.flatnonzero(np.diff(saturated) > 2 * reach + 1)  # few rows: a dilation of all is slow
    for rows in np.split(saturated, breaks + 1):
        part = mask[max(0, rows[0] - reach) : rows[-1] + reach + 1]
        part[ndimage.binary_dilation((part & bit) != 0, structure)] |= bit


def _name(master: Master | None) -> Decision:
    return None if master is None else f"median of {master.n_frames}"
