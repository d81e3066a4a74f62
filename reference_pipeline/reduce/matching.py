"""Find where a frame looks from the pattern of its stars.

The pixel scale is known to a few per cent and the pointing to a few degrees; rotation and parity may be
anything. Triangles of neighbouring stars in the frame are compared with triangles of neighbouring stars of
the catalogue by size and shape. Every pair that agrees says how the camera would be turned; true pairs agree
with one another, and the turns with the most votes are verified on all stars. A turn is believed only when
so many stars fall on catalogue stars that chance, over all turns looked at, is excluded.
"""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy_healpix import HEALPix
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import binom

from ..catalogues.sphere import directions, unit_vectors
from .plate import Floats, Plate, fit_plate, tangent_basis

Rows = NDArray[np.intp]

RATIO_TOLERANCE = 0.01  # of side ratios: centroids of bright stars, and distortion across one triangle
MIN_RATIO = 0.1  # flatter triangles say little
N_NEIGHBOURS = 10  # triangles are made of a star and two of these
N_VERIFIED = 40  # turns looked at closely, those with the most votes
MAX_TRIANGLE_PAIRS = 1.0e9  # compared in one attempt: about 1 s; deeper attempts wait for a smaller cone
DEPTHS = (None, 10, 3)  # sources for each catalogue star, when a plate is given; None: all
MAX_LOG10_CHANCE = -9.0  # one wrong field in a billion


@dataclass(frozen=True)
class Candidate:
    """A plate that was verified: how many stars agree, and how probable that is by chance."""

    plate: Plate
    rows: Rows  # of the frame's stars
    reference: Rows  # of the catalogue, the same length
    n_expected: int  # catalogue stars inside the frame
    log10_chance: float


@dataclass(frozen=True)
class _Triangles:
    codes: Floats  # (n, 3): log of the longest side (radians), middle and shortest over longest
    corners: Rows  # (n, 3): opposite the longest, middle, shortest side
    turns_left: NDArray[np.bool_]  # (n,): handedness seen from outside the sphere


def sweep_order(cells: NDArray[np.integer], brightness: Floats) -> tuple[Rows, Rows]:
    """Return rows so that each cell gives its brightest first, then its second brightest, …, and each rank.

    Taking the first of them thins a list evenly over the sky. NaN counts as faintest.
    """
    bright = np.nan_to_num(brightness, nan=-np.inf)
    by_cell = np.lexsort([-bright, cells])
    _, first, counts = np.unique(cells[by_cell], return_index=True, return_counts=True)
    rank = np.empty(len(cells), np.intp)
    rank[by_cell] = np.arange(len(cells)) - np.repeat(first, counts)
    order = np.lexsort([-bright, rank])
    return order, rank[order]


def camera_vectors(x: Floats, y: Floats, shape: tuple[int, int], pixel_scale: float) -> Floats:
    """(n, 3): directions of pixels for a camera that looks along z, the frame's axes along x and y."""
    ny, nx = shape
    s = np.radians(pixel_scale / 3600.0)
    v = np.stack([(x - (nx - 1) / 2.0) * s, (y - (ny - 1) / 2.0) * s, np.ones_like(x)], axis=1)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def _triangles(vectors: Floats, n_neighbours: int, max_side: float) -> _Triangles:
    n_neighbours = min(n_neighbours, len(vectors) - 1)
    _, near = cKDTree(vectors).query(vectors, k=n_neighbours + 1)
    first, second = np.triu_indices(n_neighbours, k=1)
    corners = np.stack(
        [
            np.repeat(np.arange(len(vectors)), len(first)),
            near[:, 1:][:, first].ravel(),
            near[:, 1:][:, second].ravel(),
        ],
        axis=1,
    )
    corners = np.sort(corners, axis=1)
    n = np.int64(len(vectors))
    _, once = np.unique((corners[:, 0] * n + corners[:, 1]) * n + corners[:, 2], return_index=True)
    corners = corners[once]
    a, b, c = (vectors[corners[:, k]] for k in range(3))
    opposite = np.stack([np.linalg.norm(p - q, axis=1) for p, q in ((b, c), (c, a), (a, b))], axis=1)
    by_length = np.argsort(-opposite, axis=1)
    corners = np.take_along_axis(corners, by_length, axis=1)
    sides = np.take_along_axis(opposite, by_length, axis=1)
    keep = (sides[:, 0] <= max_side) & (sides[:, 2] >= MIN_RATIO * sides[:, 0]) & (sides[:, 0] > 0)
    corners, sides = corners[keep], sides[keep]
    a, b, c = (vectors[corners[:, k]] for k in range(3))
    turns_left = np.einsum("ij,ij->i", a, np.cross(b, c)) > 0
    longest = sides[:, 0]
    codes = np.stack([np.log(longest), sides[:, 1] / longest, sides[:, 2] / longest], axis=1)
    return _Triangles(codes, corners, turns_left)


def _frames(vectors: Floats, corners: Rows) -> Floats:
    """(n, 3, 3): a right-handed basis tied to each triangle, as columns."""
    a, b, c = (vectors[corners[:, k]] for k in range(3))
    out = a + b + c
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    along = b - c  # the longest side
    along -= np.einsum("ij,ij->i", along, out)[:, None] * out
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return np.stack([along, np.cross(out, along), out], axis=2)


def find_turns(
    image: Floats,
    reference: Floats,
    *,
    field: float,
    scale_tolerance: float,
    n_neighbours: tuple[int, int],
    parities: tuple[int, ...],
) -> tuple[list[tuple[int, Floats, float]], int]:
    """Return the most voted (parity, rotation (3, 3), scale), and how many pairs of triangles agreed.

    ``image`` are camera vectors, ``reference`` sky vectors, ``field`` the frame's diagonal (radians). Parity
    is −1 when x of the camera must be turned over, which is the sky with north up and east left.
    """
    if len(image) < 3 or len(reference) < 3:
        return [], 0
    ours = _triangles(image, n_neighbours[0], field)
    theirs = _triangles(reference, n_neighbours[1], field * (1 + scale_tolerance))
    if len(ours.codes) == 0 or len(theirs.codes) == 0:
        return [], 0
    unit = np.array([np.log1p(scale_tolerance), RATIO_TOLERANCE, RATIO_TOLERANCE])
    near = cKDTree(theirs.codes / unit).query_ball_point(ours.codes / unit, 1.0, p=np.inf)
    n_near = np.array([len(rows) for rows in near])
    i = np.repeat(np.arange(len(near)), n_near)
    if len(i) == 0:
        return [], 0
    j = np.concatenate([np.asarray(rows, np.intp) for rows in near if rows])
    parity = np.where(ours.turns_left[i] == theirs.turns_left[j], 1, -1)
    keep = np.isin(parity, parities)
    i, j, parity = i[keep], j[keep], parity[keep]
    if len(i) == 0:
        return [], 0
    mirror = np.stack([parity, np.ones_like(parity), np.ones_like(parity)], axis=1)
    corners = image[ours.corners[i]] * mirror[:, None, :]
    flat = corners.reshape(-1, 3)
    camera = _frames(flat, np.arange(len(flat)).reshape(-1, 3))
    rotation = _frames(reference, theirs.corners[j]) @ camera.transpose(0, 2, 1)
    log_scale = theirs.codes[j, 0] - ours.codes[i, 0]
    # two turns are one when they put the frame's centre within 2 % of its diagonal, and its axes within 1.5°
    where = np.concatenate(
        [rotation[:, :, 2] / (0.02 * field), rotation[:, :, 0] / 0.026, log_scale[:, None] / 0.01,
         10.0 * parity[:, None]], axis=1,
    )  # fmt: skip
    votes = cKDTree(where).query_ball_point(where, 1.0, return_length=True)
    turns: list[tuple[int, Floats, float]] = []
    taken = np.zeros(len(i), bool)
    for row in np.argsort(-votes, kind="stable"):
        if len(turns) == N_VERIFIED:
            break
        if taken[row]:
            continue
        taken |= ((where - where[row]) ** 2).sum(axis=1) < 1.0
        turns.append((int(parity[row]), rotation[row], float(np.exp(log_scale[row]))))
    return turns, len(i)


def plate_of_turn(turn: tuple[int, Floats, float], shape: tuple[int, int], pixel_scale: float) -> Plate:
    """The plain TAN plate of a camera turned by ``turn``."""
    parity, rotation, scale = turn
    ny, nx = shape
    ra0, dec0 = (float(angle) for angle in directions(rotation[:, 2]))
    from_camera = rotation * [parity, 1.0, 1.0]  # its columns: where the frame's x, y and centre point
    basis = tangent_basis(ra0, dec0)
    h = max(shape) / 2.0
    linear = basis[:2] @ from_camera[:, :2] * (scale * pixel_scale / 3600.0)
    return Plate(ra0, dec0, (nx - 1) / 2.0, (ny - 1) / 2.0, h, linear * h)


def mutual_matches(seen: Floats, reference: cKDTree, radius: float) -> tuple[Rows, Rows, Floats]:
    """Return rows of ``seen`` (n, 3) and of ``reference`` that are each other's nearest within ``radius``.

    Radius and the distances that come back are radians. A reference star serves one star of the frame.
    """
    distance, star = reference.query(seen, distance_upper_bound=radius)
    rows = np.flatnonzero(np.isfinite(distance))
    rows = rows[np.argsort(distance[rows], kind="stable")]
    _, first = np.unique(star[rows], return_index=True)
    rows = rows[np.sort(first)]
    return rows, star[rows], distance[rows]


def verify(
    plate: Plate,
    x: Floats,
    y: Floats,
    reference: Floats,
    tree: cKDTree,
    *,
    shape: tuple[int, int],
    pixel_scale: float,
    scale_tolerance: float,
    n_turns: int,
    tolerance: float,
) -> Candidate | None:
    """Tighten ``plate`` on all stars and return it with its probability by chance; None if it falls apart.

    ``tolerance`` is in pixels. A catalogue star in the frame has a star of the frame nearer than r with
    probability p = 1 − exp(−π r² n / A) if nothing is related; s stars, half as many as the plate has
    parameters, are spent on fitting it, so the chance is n_turns · P(at least m − s of N − s), binomial,
    for m of N matched.
    """
    ny, nx = shape
    first = max(tolerance, 0.01 * float(np.hypot(ny, nx)))
    # the wider the radius, the more pairs are false: a stiff plate first, its false pairs dropped
    for radius, most in (
        (first, 1),
        (max(tolerance, first / 2.0), 2),
        (tolerance, 2),
        (tolerance, 3),
        (tolerance, 3),
    ):
        rows, star = matches(plate, x, y, tree, radius)
        for _ in range(3):
            if len(rows) < 4:
                return None
            order = min(most, 1 if len(rows) < 24 else 2 if len(rows) < 80 else 3)
            plate = fit_plate(x[rows], y[rows], reference[star], np.ones(len(rows)), order=order, near=plate)
            if not _is_a_camera(plate, pixel_scale, scale_tolerance):
                return None
            apart = np.linalg.norm(plate.vectors(x[rows], y[rows]) - reference[star], axis=1)
            near = apart <= max(3.0 * float(np.median(apart)), 0.3 * np.radians(plate.pixel_scale / 3600.0))
            rows, star = rows[near], star[near]
    rows, star = matches(plate, x, y, tree, tolerance)
    spent = plate.coefficients.shape[1] + 1
    if len(rows) <= spent:
        return None
    px, py = plate.pixels(reference[_cap(reference, plate, shape)])
    n_inside = int(((px > -0.5) & (px < nx - 0.5) & (py > -0.5) & (py < ny - 0.5)).sum())
    n_expected = max(n_inside, len(rows))
    p = -np.expm1(-np.pi * tolerance**2 * len(x) / (nx * ny))
    log10_chance = binom.logsf(len(rows) - spent - 1, n_expected - spent, p) / np.log(10.0)
    return Candidate(plate, rows, star, n_expected, float(log10_chance + np.log10(max(n_turns, 1))))


def verify_as_given(
    plate: Plate,
    x: Floats,
    y: Floats,
    brightness: Floats,
    reference: Floats,
    tree: cKDTree,
    *,
    shape: tuple[int, int],
    tolerance: float,
) -> Candidate | None:
    """Return ``plate`` as it is, with the probability that its matches are chance; None without any.

    No parameter was fitted and no turn tried, so that m of N stars matched by chance with probability
    P(at least m of N), binomial, p as in :func:`verify`. Where the catalogue is shallow its stars are the
    brightest of the frame: fewer sources, the brightest N · d, make p smaller. The best of the depths d
    counts, times the number of depths.
    """
    ny, nx = shape
    px, py = plate.pixels(reference[_cap(reference, plate, shape)])
    n_inside = int(((px > -0.5) & (px < nx - 0.5) & (py > -0.5) & (py < ny - 0.5)).sum())
    by_brightness = np.argsort(-brightness, kind="stable")
    best: Candidate | None = None
    for depth in DEPTHS:
        among = by_brightness if depth is None else by_brightness[: depth * n_inside]
        rows, star = matches(plate, x[among], y[among], tree, tolerance)
        if len(rows) == 0:
            continue
        n_expected = max(n_inside, len(rows))
        p = -np.expm1(-np.pi * tolerance**2 * len(among) / (nx * ny))
        chance = float(binom.logsf(len(rows) - 1, n_expected, p) / np.log(10.0) + np.log10(len(DEPTHS)))
        if best is None or chance < best.log10_chance:
            best = Candidate(plate, among[rows], star, n_expected, chance)
    return best


def matches(plate: Plate, x: Floats, y: Floats, tree: cKDTree, radius: float) -> tuple[Rows, Rows]:
    """Rows of the frame and of the catalogue that agree within ``radius`` pixels."""
    rows, star, _ = mutual_matches(
        plate.vectors(x, y), tree, float(np.radians(plate.pixel_scale * radius / 3600.0))
    )
    return rows, star


def _is_a_camera(plate: Plate, pixel_scale: float, scale_tolerance: float) -> bool:
    """Whether the pixels are of the size they should be, and nearly square."""
    if not np.isfinite(plate.coefficients).all():
        return False
    sizes = np.linalg.svd(plate.linear, compute_uv=False) * 3600.0 / pixel_scale
    allowed = 1.0 + 1.5 * scale_tolerance
    return bool(sizes[0] < allowed and sizes[1] > 1.0 / allowed)


def _cap(reference: Floats, plate: Plate, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which stars can be in the frame at all."""
    half = np.radians(plate.pixel_scale * np.hypot(*shape) / 3600.0) * 0.6
    return reference @ unit_vectors(plate.ra0, plate.dec0) > np.cos(min(half, np.pi / 2))


@dataclass(frozen=True)
class Attempt:
    """How deep to look: rows of the frame's stars to use, and how many catalogue stars per frame."""

    rows: Rows  # evenly over the frame, brightest first
    n_reference: float
    n_neighbours: tuple[int, int]  # of the frame's stars, of the catalogue's


def attempts(
    brightness: Floats, is_star: NDArray[np.bool_], cells: NDArray[np.integer], n_reference: float
) -> list[Attempt]:
    """The depths to try in turn, for a catalogue with ``n_reference`` stars in a frame.

    The two lists need common stars among the neighbours of a star. They have when both are the brightest;
    not when hot pixels lead the frame's list (then those that look like stars are taken), when the brightest
    are saturated and lost (then the catalogue is taken deeper), or when the catalogue is much shallower than
    the frame (then more neighbours are looked at).
    """
    every = np.arange(len(brightness))
    stars = np.flatnonzero(is_star)
    found = []
    for rows, depth, per_frame in (
        (every, 1.0, 50.0), (stars, 1.0, 50.0), (every, 2.0, 50.0), (stars, 2.5, 50.0), (stars, 1.0, 150.0),
    ):  # fmt: skip
        n_common = min(n_reference, per_frame)
        n_ours = int(np.clip(depth * min(n_common, 50.0), 12, 125))
        order, _ = sweep_order(cells[rows], brightness[rows])
        chosen = rows[order[:n_ours]]
        if len(chosen) < 4:
            continue
        ours, theirs = (
            int(np.clip(round(N_NEIGHBOURS * ratio), N_NEIGHBOURS, 24))
            for ratio in (len(chosen) / max(n_common, 1.0), n_common / len(chosen))
        )
        found.append(Attempt(chosen, n_common, (ours, theirs)))
    return found


def search(
    x: Floats,
    y: Floats,
    brightness: Floats,
    is_star: NDArray[np.bool_],
    reference: Floats,
    magnitude: Floats,
    *,
    shape: tuple[int, int],
    pixel_scale: float,
    area: float,
    scale_tolerance: float = 0.03,
    parities: tuple[int, ...] = (-1, 1),
    tolerance: float = 3.0,
) -> tuple[Candidate | None, int]:
    """Return the plate that the stars prove, or the best that was seen; and how many turns were looked at.

    ``reference`` are unit vectors (n, 3) of the catalogue's stars, spread over ``area`` square degrees. The
    candidate that comes back is proven if its ``log10_chance`` is below MAX_LOG10_CHANCE.
    """
    ny, nx = shape
    frame_area = nx * ny * (pixel_scale / 3600.0) ** 2
    field = float(np.radians(np.hypot(nx, ny) * pixel_scale / 3600.0))
    tree = cKDTree(reference)
    cells = (np.minimum(y * 3 // ny, 2) * 3 + np.minimum(x * 3 // nx, 2)).astype(np.intp)
    sky_cells = _sky_cells(reference, frame_area / 9.0)
    order, rank = sweep_order(sky_cells, -magnitude)
    vectors = camera_vectors(x, y, shape, pixel_scale)
    best: Candidate | None = None
    n_turns = 0
    for attempt in attempts(brightness, is_star, cells, len(reference) * frame_area / area):
        thin = order[rank < np.ceil(attempt.n_reference / 9.0)] if attempt.n_reference >= 9 else order
        if n_turns and _n_pairs(attempt, len(thin)) > MAX_TRIANGLE_PAIRS:
            continue
        turns, n_seen = find_turns(
            vectors[attempt.rows], reference[thin], field=field, scale_tolerance=scale_tolerance,
            n_neighbours=attempt.n_neighbours, parities=parities,
        )  # fmt: skip
        n_turns += n_seen
        for turn in turns:
            candidate = verify(
                plate_of_turn(turn, shape, pixel_scale), x, y, reference, tree,
                shape=shape, pixel_scale=pixel_scale, scale_tolerance=scale_tolerance,
                n_turns=n_turns, tolerance=tolerance,
            )  # fmt: skip
            if candidate is None or (best is not None and candidate.log10_chance >= best.log10_chance):
                continue
            best = candidate
            if best.log10_chance < MAX_LOG10_CHANCE:
                return best, n_turns
    return best, n_turns


def _n_pairs(attempt: Attempt, n_reference: int) -> float:
    """How many pairs of triangles there are to compare; a triangle is met from two of its corners or so."""
    ours, theirs = (0.25 * n * (n - 1) for n in attempt.n_neighbours)
    return ours * len(attempt.rows) * theirs * n_reference


def _sky_cells(vectors: Floats, area: float) -> NDArray[np.integer]:
    """Which patch of about ``area`` square degrees each direction is in."""
    n_side = int(np.clip(2 ** np.round(np.log2(np.sqrt(41253.0 / 12.0 / area))), 1, 2**14))
    ra, dec = directions(vectors)
    return HEALPix(nside=n_side, order="nested").lonlat_to_healpix(ra * u.deg, dec * u.deg)
