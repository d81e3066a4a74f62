"""From a survey's cutout fields to image planes: which field is which, pixels, grid, unit, sign."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ..errors import SurveyError
from . import fitsio
from .model import Missing, PlaneKey

NO_DATA: Final = 2.0**125  # at least this in magnitude is invalid (specification 3.5)
MAX_SIDE: Final = 4096  # pixels of a plane
IMAGES: Final = ("science", "template", "difference")

# VOUnit has neither "DN" nor "electron"; what is not here or below goes through as it is written.
UNITS: Final = {
    **dict.fromkeys(("DN", "ADU", "COUNTS", "COUNT", "CT"), "adu"),
    **dict.fromkeys(("DN/S", "ADU/S", "COUNTS/S", "COUNT/S", "CT/S"), "adu/s"),
}
VOUNITS: Final = frozenset(("adu", "adu/s", "nJy", "uJy", "mJy", "Jy", "MJy/sr", "ph", "ct", "ct/s"))


def stamp_bytes(field: object) -> bytes | None:
    """Return the bytes of a cutout field: plain, or in a record's ``stampData``; None where null or empty.

    Raises SurveyError for anything else.
    """
    if isinstance(field, Mapping):
        field = field.get("stampData")
    if field is None or field == b"":
        return None
    if isinstance(field, bytes | bytearray | memoryview):
        return bytes(field)
    raise SurveyError("cutout-image", type(field).__name__, "bytes, or a record with stampData")


def cutout_fields(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the record's own cutout fields: name → "science", "template" or "difference".

    A field counts if its name has "cutout" or "stamp" in it and its value is a cutout or null. Reference
    images are templates. Raises SurveyError where two fields hold the same image.
    """
    found: dict[str, str] = {}
    for name, value in record.items():
        image = _image_of_name(name)
        is_cutout = value is None or isinstance(value, bytes) or _has_stamp_data(value)
        if image is None or not is_cutout:
            continue
        if image in found.values():
            raise SurveyError("survey", f"a second {image} cutout", "one", name)
        found[name] = image
    return found


def _has_stamp_data(value: object) -> bool:
    return isinstance(value, Mapping) and "stampData" in value


def _image_of_name(name: str) -> str | None:
    words = name.lower()
    if ("cutout" not in words and "stamp" not in words) or "multiscale" in words:
        return None
    if re.search(r"diff|sub", words):
        return "difference"
    if re.search(r"templ|ref", words):
        return "template"
    return "science" if re.search(r"sci|new|target|image", words) else None


def read_images(
    record: Mapping[str, Any], fields: Mapping[str, str]
) -> tuple[dict[PlaneKey, np.ndarray], dict[str, fitsio.Header], list[str]]:
    """Return the planes of one-image FITS cutouts as float32, their headers by plane, and what was changed.

    Raises SurveyError that names the field where a cutout cannot be read, and where all are null.
    """
    planes: dict[PlaneKey, np.ndarray] = {}
    headers: dict[str, fitsio.Header] = {}
    notes: list[str] = []
    for name, image in fields.items():
        try:
            content = stamp_bytes(record[name])
            if content is None:
                continue
            headers[image], pixels = fitsio.read_image(content)
            check_shape(pixels)
        except SurveyError as error:
            raise error.within(name) from error
        planes[image], changed = as_float32(pixels)
        if changed:
            notes.append(f"{image}: {pixels.dtype} rounded to float32")
    if not planes:
        raise SurveyError("survey", "no cutout", "at least one of science, template and difference")
    return planes, headers, notes + no_data_notes(planes)


def as_float32(image: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the image as float32 and whether a value changed by that (beyond the range: ±Inf)."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = np.ascontiguousarray(image, dtype=np.float32)
        changed = image.dtype.itemsize > 4 and not np.array_equal(narrow, image, equal_nan=True)
    return narrow, changed


def check_shape(image: np.ndarray) -> None:
    """Raise SurveyError unless the image has sides of 1 to 4096 pixels."""
    if image.ndim != 2 or not all(1 <= side <= MAX_SIDE for side in image.shape):
        raise SurveyError("cutout-image", f"shape {image.shape}", f"two sides of 1 to {MAX_SIDE} pixels")


def no_data_notes(planes: Mapping[PlaneKey, np.ndarray]) -> list[str]:
    """Return a sentence per plane that marks missing pixels with a huge number (they become invalid)."""
    notes = []
    for key, plane in planes.items():
        if plane.dtype.kind != "f":
            continue
        n_huge = int(np.count_nonzero(np.abs(plane) >= NO_DATA))  # NaN compares false
        if n_huge:
            worst = plane[np.abs(plane) >= NO_DATA][0]
            notes.append(f"{key_name(key)}: {n_huge} pixels of {worst:.3g} hold no data")
    return notes


def key_name(key: PlaneKey) -> str:
    """Return the key as people read it: "science", "variance of difference"."""
    return key if isinstance(key, str) else f"{key[0]} of {key[1]}"


def missing_planes(
    fields: Mapping[str, str], planes: Mapping[PlaneKey, np.ndarray], *, known: Sequence[Missing] = ()
) -> list[Missing]:
    """Return an entry for each of science, template and difference that is neither a plane nor ``known``."""
    explained = {entry.kind for entry in known}
    names = {image: name for name, image in fields.items()}
    return [
        Missing(
            kind=image.upper(),
            of="NONE",
            reason="UNKNOWN",
            detail=f"{names[image]} is null" if image in names else f"the packet has no {image} cutout",
        )
        for image in IMAGES
        if image not in planes and image.upper() not in explained
    ]


def unit_of(bunit: object) -> str:
    """Return a FITS BUNIT as a VOUnit string; "unknown" where it is absent or no unit this knows."""
    text = str(bunit).strip() if isinstance(bunit, str) else ""
    unit = UNITS.get(text.upper(), text)
    return unit if unit in VOUNITS else "unknown"


def squared(unit: str) -> str:
    """Return the VOUnit string of a variance."""
    if unit == "unknown":
        return unit
    return f"{unit}**2" if "/" not in unit else f"({unit})**2"


def on_grid(image: np.ndarray, *, x_shift: int, y_shift: int, shape: tuple[int, int]) -> np.ndarray:
    """Return ``image`` on a grid of ``shape`` where its pixel (0, 0) is at (x_shift, y_shift).

    What sticks out is cut off; what is not covered is NaN (integers: 0).
    """
    empty = np.nan if image.dtype.kind == "f" else 0
    result = np.full(shape, empty, image.dtype)
    (y0, y1), (x0, x1) = (
        (min(max(shift, 0), side), min(max(shift + own, 0), side))
        for shift, own, side in zip((y_shift, x_shift), image.shape, shape)
    )
    result[y0:y1, x0:x1] = image[y0 - y_shift : y1 - y_shift, x0 - x_shift : x1 - x_shift]
    return result


def noise_sign(science: np.ndarray, template: np.ndarray | None, difference: np.ndarray) -> float:
    """Return r(science, difference) − r(template, difference) over the sky: above 0 for science − template.

    The sky noise of the science image enters the difference with its own sign, the template's with the
    opposite one, whatever the object did. The correlations are over pixels within 4 robust σ of the median
    in each image. 0 where fewer than 100 pixels remain.

    Measured on 219 ZTF alerts against isdiffpos: the sign is right in all; |value| is below 0.2 in one
    (0.08), 0.30 and more elsewhere.
    """
    images = [science, difference] if template is None else [science, difference, template]
    usable = np.logical_and.reduce([np.isfinite(image) & (np.abs(image) < NO_DATA) for image in images])
    if usable.sum() < 100:
        return 0.0
    values = [image[usable].astype(np.float64) for image in images]
    sky = np.logical_and.reduce([_is_sky(value) for value in values])
    if sky.sum() < 100:
        return 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(np.corrcoef([value[sky] for value in values]))
    return float(correlation[0, 1] - (correlation[1, 2] if template is not None else 0.0))


def _is_sky(values: np.ndarray) -> np.ndarray:
    offsets = np.abs(values - np.median(values))
    return offsets < 4 * 1.4826 * np.median(offsets)


def center_excess(image: np.ndarray, x: int, y: int) -> float:
    """Return the mean of 3×3 pixels at (x, y), less the image's median, over its robust σ; NaN if empty."""
    box = image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    good, core = image[_is_data(image)], box[_is_data(box)]
    if good.size == 0 or core.size == 0:
        return float("nan")
    median = np.median(good)
    sigma = 1.4826 * np.median(np.abs(good - median))
    return float((core.mean() - median) / (sigma or 1.0))


def _is_data(image: np.ndarray) -> np.ndarray:
    return np.isfinite(image) & (np.abs(image) < NO_DATA)
