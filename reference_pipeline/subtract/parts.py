"""A frame too large for one kernel, subtracted in parts (Sun+ 2022, 3.1: parts of 3072 x 4096 pixels).

Each part has a kernel of its own, from the stamps in it, and reaches so far over its edges that no pixel it
gives knows of them. A part that is refused is masked, and its reason kept; the others live. Beside the two
frames and the difference, all in single precision, only one part is in memory at a time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..config import Subtract
from ..errors import FrameError, SubtractionError
from ..frame import Decision, Frame, MaskBit, Quality, unit_coordinates
from ..polynomials import legendre_terms
from ..psf import Psf, exponents
from .apply import Slices
from .difference import (
    BAD,
    STAGE,
    Difference,
    check_pair,
    fwhm_of,
    half_width_for,
    subtract,
)
from .kernel import Kernel
from .point_source import PartSources, PointSource, point_source

Floats = NDArray[np.float64]


def subtract_in_parts(
    science: Frame, template: Frame, *, config: Subtract, tile: tuple[int, int]
) -> Difference:
    """Return the difference of two frames of any size, in parts of at most ``tile`` (ny, nx) pixels.

    A frame that ``tile`` holds is subtracted whole. Kernels are in the coordinates of the whole frame; None
    for a part that was refused. Raises SubtractionError as ``subtract`` does, and where all parts are
    refused, with the reason that most of them have.
    """
    check_pair(science, template)
    if science.shape[0] <= tile[0] and science.shape[1] <= tile[1]:
        return subtract(science, template, config=config)
    started = time.perf_counter()
    top, left = (_first(n, most) for n, most in zip(science.shape, tile))
    cores = _cores(top, left, science.shape)
    science, template = (_with_fwhm(frame) for frame in (science, template))
    margin = _margin(science, template, config)
    out = _nothing(science, template)
    sources: list[PointSource | None] = []
    kernels: list[Kernel | None] = []
    decisions: list[dict[str, Decision]] = []
    refusals: dict[int, SubtractionError] = {}
    for number, core in enumerate(cores):
        outer, inner = _with_margin(core, margin, science.shape)
        try:
            part = subtract(crop(science, outer), crop(template, outer), config=config)
        except FrameError as error:
            refusals[number] = _as_subtraction(error)
            sources.append(None)
            kernels.append(None)
            continue
        for name in ("data", "variance", "mask", "whitened", "score", "flux"):
            getattr(out, name)[core] = getattr(part, name)[inner]
        decisions.append(part.decision)
        assert isinstance(part.kernel, Kernel)
        kernel = kernel_on_frame(part.kernel, outer, science.shape)
        kernels.append(kernel)
        sources.append(point_source(science, kernel, part.is_template_convolved))
    if not decisions:
        raise _refused(science, refusals)
    where = PartSources(top, left, tuple(sources))
    decision = _decision(decisions, where, refusals)
    return Difference(
        out.data, out.variance, template.variance, out.mask, out.whitened, out.score, out.flux,
        tuple(kernels), where, decision["convolved"] == "template", decision, time.perf_counter() - started,
    )  # fmt: skip


@dataclass(frozen=True)
class _Planes:
    data: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.uint16]
    whitened: NDArray[np.float32]
    score: NDArray[np.float32]
    flux: NDArray[np.float32]


def _nothing(science: Frame, template: Frame) -> _Planes:
    """A difference of which nothing is known yet."""
    mask = science.mask | template.mask
    mask[(mask & np.uint16(BAD)) == 0] |= np.uint16(MaskBit.NO_DATA)
    zeros, unknown = np.zeros(science.shape, np.float32), np.full(science.shape, np.nan, np.float32)
    return _Planes(zeros, zeros.copy(), mask, zeros.copy(), unknown, unknown.copy())


def _refused(science: Frame, refusals: dict[int, SubtractionError]) -> SubtractionError:
    """The refusal of all parts, for the reason that most of them have."""
    reasons = [error.reason for error in refusals.values()]
    most = max(sorted(set(reasons)), key=reasons.count)
    first = next(error for error in refusals.values() if error.reason == most)
    message = f"all {len(refusals)} parts are refused, one for: {first.message}"
    return SubtractionError(science.id, STAGE, most, message)


def _decision(
    decisions: list[dict[str, Decision]], where: PartSources, refusals: dict[int, SubtractionError]
) -> dict[str, Decision]:
    return {
        **_in_the_middle(decisions),
        "n_parts": len(where.sources),
        "n_refused": len(refusals),
        "refused": "; ".join(
            f"part {number} ({_place(where, number)}): {error.message} [{error.reason}]"
            for number, error in refusals.items()
        ),
    }


def _in_the_middle(decisions: list[dict[str, Decision]]) -> dict[str, Decision]:
    """Of the parts' decisions: sums of counts, medians of other numbers; of the rest all that was said."""
    out: dict[str, Decision] = {}
    for name in decisions[0]:
        values = [one[name] for one in decisions]
        if name.startswith("n_"):
            out[name] = sum(int(value or 0) for value in values)
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            middle = float(np.median([float(value or 0) for value in values]))
            out[name] = int(middle) if all(isinstance(value, int) for value in values) else round(middle, 5)
        elif all(isinstance(value, bool) for value in values):
            out[name] = any(values)
        else:
            out[name] = "; ".join(dict.fromkeys(str(value) for value in values if value != ""))
    return out


def _place(sources: PartSources, number: int) -> str:
    row, column = divmod(number, len(sources.left))
    return f"from row {sources.top[row]}, column {sources.left[column]}"


# ---- cutting ----


def _first(n: int, most: int) -> NDArray[np.int64]:
    """Where the parts of an axis begin, all of about the same length, ``most`` at most."""
    return np.linspace(0, n, -(-n // most) + 1).round().astype(np.int64)[:-1]


def _cores(top: NDArray[np.int64], left: NDArray[np.int64], shape: tuple[int, int]) -> list[Slices]:
    """The pixels that each part gives, row by row."""
    rows, columns = (
        [slice(int(a), int(b)) for a, b in zip(first, [*first[1:], n])]
        for first, n in zip((top, left), shape)
    )
    return [(r, c) for r in rows for c in columns]


def _with_margin(core: Slices, margin: int, shape: tuple[int, int]) -> tuple[Slices, Slices]:
    """The pixels that a part is subtracted from, in the frame, and its core in these."""
    outer = tuple(slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(core, shape))
    inner = tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(core, outer))
    return (outer[0], outer[1]), (inner[0], inner[1])


def _margin(science: Frame, template: Frame, config: Subtract) -> int:
    """Pixels that kernel, whitening and PSF reach one after the other."""
    fwhm = sorted((fwhm_of(science), fwhm_of(template)))
    w = config.half_width or half_width_for(*fwhm)
    return 4 * w + round(2.5 * (fwhm[1] + w))


def _with_fwhm(frame: Frame) -> Frame:
    """The frame with the FWHM of all of it, so that all parts convolve the same image."""
    if frame.quality is not None:
        return frame
    return replace(frame, quality=Quality(fwhm_of(frame), 0.0, 0.0, 0.0))


def crop(frame: Frame, part: Slices) -> Frame:
    """A part of a frame, which shares its pixels with it; without a WCS."""
    rows, columns = part
    table = frame.sources
    if table is not None:
        x, y = np.asarray(table["x"]), np.asarray(table["y"])
        inside = (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)
        table = table[inside]
        for name in table.colnames:
            if name in ("x", "x_barycentre", "x_psf"):
                table[name] = np.asarray(table[name]) - columns.start
            elif name in ("y", "y_barycentre", "y_psf"):
                table[name] = np.asarray(table[name]) - rows.start
    return replace(
        frame,
        data=frame.data[part],
        variance=frame.variance[part],
        mask=frame.mask[part],
        background=None if frame.background is None else frame.background[part],
        wcs=None,
        zero_point=None,
        psf=None if frame.psf is None else _crop_psf(frame.psf, part),
        sources=table,
    )


def _crop_psf(psf: Psf, part: Slices) -> Psf:
    """The same PSF as a polynomial in the coordinates of a part."""
    powers = exponents(psf.degree)

    def terms(u: Floats, v: Floats) -> Floats:
        return np.stack([u**i * v**j for i, j in powers], axis=-1)

    shape = (part[0].stop - part[0].start, part[1].stop - part[1].start)
    x, y = _places(shape, psf.degree)
    here = terms(*unit_coordinates(x, y, shape))
    there = terms(*unit_coordinates(x + part[1].start, y + part[0].start, psf.shape))
    images = np.tensordot(np.linalg.solve(here, there), psf.images, 1)
    return Psf(images, psf.degree, psf.oversampling, shape)


def kernel_on_frame(kernel: Kernel, part: Slices, shape: tuple[int, int]) -> Kernel:
    """The kernel of a part as a polynomial in the coordinates of its frame, (ny, nx) = ``shape``."""

    def changed(coefficients: Floats, degree: int) -> Floats:
        x, y = _places(kernel.shape, degree)
        here = legendre_terms(*unit_coordinates(x, y, kernel.shape), degree)
        there = legendre_terms(*unit_coordinates(x + part[1].start, y + part[0].start, shape), degree)
        return np.asarray(np.tensordot(np.linalg.solve(there, here), coefficients, 1))

    return Kernel(
        changed(kernel.images, kernel.degree),
        kernel.degree,
        changed(kernel.background, kernel.background_degree),
        kernel.background_degree,
        shape,
    )


def _places(shape: tuple[int, int], degree: int) -> tuple[Floats, Floats]:
    """As many places as a polynomial has terms, in a triangle, so that they determine it: x and y."""
    steps = np.array(exponents(degree), float) / max(degree, 1)
    return steps[:, 0] * (shape[1] - 1), steps[:, 1] * (shape[0] - 1)


def _as_subtraction(error: FrameError) -> SubtractionError:
    if isinstance(error, SubtractionError):
        return error
    return SubtractionError(error.frame_id, STAGE, error.reason, error.message)
