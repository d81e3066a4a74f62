"""From a FITS header's WCS to one tangent plane that is linear over a cutout, without astropy.

Handles CD, PC·CDELT and CDELT; TAN, TAN-SIP and TPV. Distortion is dropped (specification 2.6): the
result is the tangent to the survey's solution at the middle of the array, and ``max_error`` says how far
the two are apart over the array. FITS papers I and II, the SIP convention, the TPV registry entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from ..sky import deproject, project
from .fitsio import Header, Value
from .model import Wcs

PlaneMap: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

MAX_SIP_ORDER = 9  # the convention's own limit
# Powers (of the first, of the second, of r) of the TPV terms 0 to 22; for axis 2 the first is y.
TPV_POWERS = (
    *((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
    *((2, 0, 0), (1, 1, 0), (0, 2, 0)),
    *((3, 0, 0), (2, 1, 0), (1, 2, 0), (0, 3, 0), (0, 0, 3)),
    *((4, 0, 0), (3, 1, 0), (2, 2, 0), (1, 3, 0), (0, 4, 0)),
    *((5, 0, 0), (4, 1, 0), (3, 2, 0), (2, 3, 0), (1, 4, 0), (0, 5, 0)),
)  # fmt: skip


def wcs_of(header: Header, shape: tuple[int, int]) -> tuple[Wcs | None, list[str]]:
    """Return the linear WCS of an (H, W) array from its header, and what was assumed or dropped.

    None, with the reason among the notes, where the header has no usable celestial WCS. An absent
    CTYPE beside CRVAL and a matrix is taken as RA---TAN, DEC--TAN (Rubin's packets), RADESYS as ICRS.
    """
    matrix = _matrix(header)
    center = _pair(header, "CRPIX", -1.0), _pair(header, "CRVAL", 0.0)
    if matrix is None or center[0] is None or center[1] is None:
        return None, []
    notes: list[str] = []
    ctype = header.get("CTYPE1"), header.get("CTYPE2")
    if ctype == (None, None):
        notes.append("CTYPE missing: RA---TAN, DEC--TAN assumed")
        ctype = ("RA---TAN", "DEC--TAN")
    frame = str(header.get("RADESYS") or "ICRS").strip().upper()
    if frame not in ("ICRS", "FK5"):
        return None, [*notes, f"WCS not used: RADESYS {frame}"]
    if frame == "FK5":
        notes.append("RADESYS FK5 taken as ICRS (they differ by less than 0.1 arcsec)")
    plane_map = _plane_map(header, (str(ctype[0]), str(ctype[1])), center[0], matrix)
    if plane_map is None:
        return None, [*notes, f"WCS not used: CTYPE {ctype[0]}, {ctype[1]}"]
    wcs = Wcs(center[0], center[1], matrix, 0.0)
    if str(ctype[0]) == "RA---TAN" and _is_inside(center[0], shape):
        return wcs, notes
    wcs = _tangent(plane_map, center[1], shape)
    if not np.isfinite([*wcs.crval, *wcs.cd[0], *wcs.cd[1], wcs.max_error or 0.0]).all():
        return None, [*notes, f"WCS not used: {ctype[0]} has no finite value on the cutout"]
    if str(ctype[0]) != "RA---TAN":
        notes.append(f"{ctype[0]} distortion dropped, at most {wcs.max_error:.2g} arcsec over the cutout")
    return wcs, notes


def _tangent(plane_map: PlaneMap, crval: tuple[float, float], shape: tuple[int, int]) -> Wcs:
    """Return the TAN projection that touches ``plane_map`` (seen from crval) at the middle of the array."""
    height, width = shape
    x0, y0 = (width - 1) / 2, (height - 1) / 2

    def offsets(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.array(project(*deproject(*plane_map(x, y), *crval), *middle))

    ra, dec = deproject(*plane_map(np.array(x0), np.array(y0)), *crval)
    middle = float(ra), float(dec)
    right, left, up, down = offsets(x0 + np.array([1, -1, 0, 0]), y0 + np.array([0, 0, 1, -1])).T
    (cd11, cd21), (cd12, cd22) = (right - left) / 2, (up - down) / 2
    x, y = (a.ravel() for a in np.meshgrid([-0.5, x0, width - 0.5], [-0.5, y0, height - 0.5]))
    linear = np.array([[cd11, cd12], [cd21, cd22]]) @ np.array([x - x0, y - y0])
    error = 3600 * float(np.max(np.hypot(*(offsets(x, y) - linear))))
    matrix = (float(cd11), float(cd12)), (float(cd21), float(cd22))
    return Wcs((x0, y0), middle, matrix, error)


def _plane_map(
    header: Header,
    ctype: tuple[str, str],
    crpix: tuple[float, float],
    matrix: tuple[tuple[float, float], tuple[float, float]],
) -> PlaneMap | None:
    """Return pixel → standard coordinates (degrees) as the CTYPEs say; None where they are not known here."""

    def linear(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = x - crpix[0], y - crpix[1]
        if ctype[0] == "RA---TAN-SIP":
            dx, dy = dx + _sip(header, "A", dx, dy), dy + _sip(header, "B", dx, dy)
        (a, b), (c, d) = matrix
        return a * dx + b * dy, c * dx + d * dy

    def tpv(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        xi, eta = linear(x, y)
        return _tpv(header, 1, xi, eta), _tpv(header, 2, eta, xi)

    if ctype in (("RA---TAN", "DEC--TAN"), ("RA---TAN-SIP", "DEC--TAN-SIP")):
        return linear
    return tpv if ctype == ("RA---TPV", "DEC--TPV") else None


def _sip(header: Header, name: str, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Return the SIP polynomial A or B at offsets from CRPIX, pixels."""
    order = header.get(f"{name}_ORDER")
    top = min(order, MAX_SIP_ORDER) if isinstance(order, int) else 0
    total = np.zeros_like(dx)
    for p in range(top + 1):
        for q in range(top + 1 - p):
            value = header.get(f"{name}_{p}_{q}")
            if isinstance(value, int | float):
                total = total + value * dx**p * dy**q
    return total


def _tpv(header: Header, axis: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the TPV polynomial of one axis, degrees; PVi_1 is 1 where it is absent."""
    radius = np.hypot(first, second)
    total = np.zeros_like(radius)
    for term, (p, q, r) in enumerate(TPV_POWERS):
        value = header.get(f"PV{axis}_{term}", 1.0 if term == 1 else None)
        if isinstance(value, int | float):
            total = total + value * first**p * second**q * radius**r
    return total


def _matrix(header: Header) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return the CD matrix, or PC·CDELT, degrees per pixel; None where there is none or it is singular."""
    has_cd = any(f"CD{i}_{j}" in header for i in (1, 2) for j in (1, 2))
    has_pc = any(f"PC{i}_{j}" in header for i in (1, 2) for j in (1, 2))
    if not has_cd and not has_pc and "CDELT1" not in header:
        return None
    values = []
    for i in (1, 2):
        step = 1.0 if has_cd else header.get(f"CDELT{i}", 1.0)
        row = [header.get(f"{'CD' if has_cd else 'PC'}{i}_{j}", float(i == j and not has_cd)) for j in (1, 2)]
        values += [_product(step, value) for value in row]
    a, b, c, d = values
    if not math.isfinite(a * d - b * c) or a * d - b * c == 0:
        return None
    return (a, b), (c, d)


def _product(step: Value, value: Value) -> float:
    if isinstance(step, int | float) and isinstance(value, int | float):
        return float(step) * float(value)
    return math.nan


def _pair(header: Header, key: str, shift: float) -> tuple[float, float] | None:
    """Return the keywords ``key``1 and ``key``2 plus ``shift``; None unless both are finite numbers."""
    first, second = header.get(f"{key}1"), header.get(f"{key}2")
    if not isinstance(first, int | float) or not isinstance(second, int | float):
        return None
    if not (math.isfinite(first) and math.isfinite(second)):
        return None
    return float(first) + shift, float(second) + shift


def _is_inside(crpix: tuple[float, float], shape: tuple[int, int]) -> bool:
    return -0.5 <= crpix[0] <= shape[1] - 0.5 and -0.5 <= crpix[1] <= shape[0] - 0.5
