"""Straight lines of light, convolved with the PSF: trails of satellites, rays of bright stars."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .profiles import line_nodes, moffat_cumulative
from .truth import TruthBit

Floats = NDArray[np.float64]

#: Distance in r0 from the end of a line where T is one to 1e-7 (β = 3.5; 1e-4 where β = 2).
END = 12.0

#: Pixels drawn at once, as in :mod:`.render`.
CHUNK = 1 << 18


def draw_line(
    image: NDArray[np.float32],
    mask: NDArray[np.uint16],
    start: tuple[float, float],
    end: tuple[float, float],
    moffat: Floats,
    beta: float,
    along: Callable[[Floats], Floats],
    width: float,
    visible: float,
    bit: TruthBit,
    reach: float = 8.0,
) -> bool:
    """Add a line, ``width`` pixels wide, of ``along``(s) electrons per pixel of length; False if it missed.

    Where the Moffat is round (after a linear map that makes it so), the integral of it along a line at
    distance d from s1 to s2 is (1 + d²)^(½ − β) [T(s2 / √(1 + d²)) − T(s1 / √(1 + d²))], T being the
    cumulative distribution of ∝ (1 + t²)^(−β). Its mean over a pixel is taken at 2×2 Gauss-Legendre
    nodes; light further than ``reach`` r0 from the line is left out (β = 3.5: 3e-5 of it).
    """
    p0, p1 = np.array(start), np.array(end)
    length = float(np.hypot(*(p1 - p0)))
    far = reach * np.sqrt(np.linalg.eigvalsh(moffat)[-1]) + 0.5 * width
    pixels = _pixels_along(p0, p1, far, image.shape)
    if length == 0 or pixels is None:
        return False
    lower = np.linalg.cholesky(moffat)
    white = np.linalg.inv(lower)
    direction = (p1 - p0) / length
    normal = np.array([-direction[1], direction[0]])
    towards = white @ direction
    stretch = float(np.hypot(*towards))  # whitened length of one pixel of line
    towards /= stretch
    # λ · ∫ Moffat ds, the Moffat of unit flux being (β − 1) / (π √det M) · (1 + |wp|²)^(−β)
    norm = (beta - 1) / (np.pi * np.sqrt(np.linalg.det(moffat))) / stretch
    t, w, total = moffat_cumulative(beta)
    strips, strip_weights = line_nodes(width, float(np.linalg.det(moffat) ** 0.25))
    node = 0.5 / np.sqrt(3.0)
    for at in range(0, len(pixels[0]), CHUNK):
        py, px = (axis[at : at + CHUNK] for axis in pixels)
        own = np.zeros(len(px))
        for ox, oy in ((-node, -node), (-node, node), (node, -node), (node, node)):
            for strip, weight in zip(strips * width, strip_weights):
                dx, dy = px + ox - p0[0] - strip * normal[0], py + oy - p0[1] - strip * normal[1]
                wx, wy = white[0, 0] * dx + white[0, 1] * dy, white[1, 0] * dx + white[1, 1] * dy
                s = wx * towards[0] + wy * towards[1]
                spread = np.sqrt(1.0 + (wx * towards[1] - wy * towards[0]) ** 2)
                ends = np.ones(len(s))
                for inside in (s, stretch * length - s):  # of either end; far inside, T is one
                    near = np.flatnonzero(inside < END * spread)
                    ends[near] -= np.interp(-inside[near] / spread[near], t, w)
                own += (0.25 * weight * norm * total) * spread ** (1.0 - 2.0 * beta) * ends
        s = (px - p0[0]) * direction[0] + (py - p0[1]) * direction[1]
        own *= along(np.clip(s, 0, length))
        image[py, px] += own.astype(np.float32)  # every pixel of a line comes once
        seen = own > visible
        mask[py[seen], px[seen]] |= np.uint16(bit)
    return True


def _pixels_along(
    p0: Floats, p1: Floats, far: float, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """(y, x) of the frame's pixels about ``far`` or less from a line; None when there are none."""
    flat = abs(p1[0] - p0[0]) >= abs(p1[1] - p0[1])
    major, minor = (0, 1) if flat else (1, 0)
    n_major, n_minor = shape[1 - major], shape[1 - minor]
    d = p1 - p0
    if d[major] == 0:
        return None
    lo, hi = sorted((p0[major], p1[major]))
    first, last = max(0, int(np.floor(lo - far))), min(n_major - 1, int(np.ceil(hi + far)))
    if first > last:
        return None
    slope = d[minor] / d[major]
    half = int(np.ceil(far * np.hypot(1.0, slope)))
    along = np.arange(first, last + 1)
    centre = np.rint(p0[minor] + slope * (along - p0[major])).astype(int)
    across = centre[:, None] + np.arange(-half, half + 1)
    on = (across >= 0) & (across < n_minor)
    if not on.any():
        return None
    first_axis = np.broadcast_to(along[:, None], across.shape)[on]
    return (across[on], first_axis) if flat else (first_axis, across[on])
