"""Which object each candidate of an exposure is of.

A known minor planet is known by its designation. Anything else is matched by position: with the offset
(dx, dy) of a candidate from an object and s = sqrt(err_object² + err_candidate² + floor²) on each axis,

    L = [(1 − ε) exp(−½ (dx²/s_x² + dy²/s_y²)) / (2π s_x s_y) + ε / (π radius²)] / n

is how much likelier the candidate is this object than something unrelated, of which there are n per area: the
likelihood ratio of de Ruiter+ (1977, A&AS 28, 211) and Sutherland & Saunders (1992, MNRAS 259, 413), and the
Bayes factor of Budavári & Szalay (2008, ApJ 679, 301) for a small area, when half of all candidates are taken
to be of known objects. The fraction ε of positions is off by more than its error says (a host's residual, a
blend): in the empty sky such a one is still this object, in a crowd it is not. An object has one candidate
of an exposure, a candidate one object: the assignment with the largest product of L, being new counting 1.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree
from sqlalchemy import select
from sqlalchemy.orm import Session

from ..candidate import Candidate
from ..config import Association
from ..errors import StoreError
from ..store import tables
from ..store.queries import in_cone, mid_mjd, subtraction_of
from ..store.sky import cells_of, moved, offsets, position_of, separations, vectors_of

PLANET = "minor_planet"  # CrossMatch.kind and Object.kind
_DENSITY_RADIUS = 300.0  # arcsec, in which objects are counted for n
_LEAST_ERROR = 1e-3  # arcsec: better than any position here is


@dataclass(frozen=True)
class Assignment:
    """Which object a candidate is of."""

    number: int  # the candidate's
    object_id: str
    probability: float
    is_new: bool  # the object begins with this candidate


@dataclass(frozen=True)
class _Known:
    """The objects near an exposure's candidates, in the order of their ids; and their positions now."""

    ids: list[str]
    vectors: NDArray[np.float64]  # (n, 3)
    errors: NDArray[np.float64]  # degrees, (n, 2): east, north


def associate(
    session: Session,
    *,
    branch: str,
    exposure: tables.Exposure,
    candidates: Sequence[Candidate],
    config: Association,
) -> list[Assignment]:
    """Give each candidate that no cut removed its object, and store that; assignments by number.

    The candidates' rows have to be in the session or the database. What has been associated before comes
    back as it was. Raises StoreError for a candidate or a subtraction that is not stored.
    """
    subtraction = subtraction_of(session, exposure.id, branch)
    if subtraction is None:
        raise StoreError(f"{exposure.id}: no subtraction in branch {branch} is stored")
    if before := _stored(session, subtraction):
        return before
    kept = sorted((c for c in candidates if c.cut is None), key=lambda c: c.number)
    if not kept:
        return []
    ids = dict(
        session.execute(
            select(tables.Candidate.number, tables.Candidate.id).where(
                tables.Candidate.subtraction_id == subtraction.id
            )
        ).all()
    )
    if missing := [c.number for c in kept if c.number not in ids]:
        raise StoreError(f"{exposure.id}: {branch}: candidates {missing[:5]} are not stored")
    known = _known_objects(session, branch, kept, config)
    pairs = _pairs(kept, known, config)
    planets = _planets(kept, nearest=pairs.nearest(len(kept)))
    places = _by_position(pairs.without(planets), len(kept), len(known.ids))
    rows = _rows(session, [known.ids[j] for j, _ in places.values() if j is not None])
    made: dict[int, Assignment] = {}
    for i, designation in planets.items():
        made[i] = _of_planet(session, ids[kept[i].number], branch, exposure, kept[i], designation, config)
    for i, (j, probability) in places.items():
        if i in made:
            continue
        if j is None:
            row = _new_object(object_id(branch, ids[kept[i].number]), branch, exposure, kept[i], config)
            session.add(row)
        else:
            row = rows[known.ids[j]]
            _take(row, exposure, kept[i], config)
        made[i] = Assignment(kept[i].number, row.id, probability, j is None)
    session.add_all(
        tables.Detection(candidate_id=ids[a.number], object_id=a.object_id, probability=a.probability)
        for a in made.values()
    )
    session.flush()
    return [made[i] for i in sorted(made)]


def object_id(branch: str, first: str) -> str:
    """Return the id of the object that begins with the candidate ``first``: the same whenever it is asked."""
    digest = hashlib.sha256(f"{branch}\n{first}".encode()).digest()
    return base64.b32encode(digest[:10]).decode().lower()


@dataclass(frozen=True)
class _Pairs:
    """Candidates (rows) and objects (columns) that may be one, with ln L and how far apart they are."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    log_ratio: NDArray[np.float64]
    separation: NDArray[np.float64]  # degrees

    def nearest(self, n_rows: int) -> NDArray[np.float64]:
        """Of each candidate, how far the nearest object is that it more likely is than not; else inf."""
        nearest = np.full(n_rows, np.inf)
        likely = self.log_ratio > 0
        np.minimum.at(nearest, self.row[likely], self.separation[likely])
        return nearest

    def without(self, rows: dict[int, str]) -> _Pairs:
        """The pairs of other candidates than these."""
        keep = ~np.isin(self.row, list(rows))
        return _Pairs(self.row[keep], self.column[keep], self.log_ratio[keep], self.separation[keep])


def _stored(session: Session, subtraction: tables.Subtraction) -> list[Assignment]:
    found = session.execute(
        select(tables.Candidate.number, tables.Detection, tables.Object)
        .join(tables.Detection, tables.Detection.candidate_id == tables.Candidate.id)
        .join(tables.Object, tables.Object.id == tables.Detection.object_id)
        .where(tables.Candidate.subtraction_id == subtraction.id)
        .order_by(tables.Candidate.number)
    )
    return [
        Assignment(
            number, own.id, detection.probability, own.id == object_id(own.branch, detection.candidate_id)
        )
        for number, detection, own in found
    ]


def _rows(session: Session, ids: list[str]) -> dict[str, tables.Object]:
    return {row.id: row for row in session.scalars(select(tables.Object).where(tables.Object.id.in_(ids)))}


def _known_objects(session: Session, branch: str, candidates: list[Candidate], config: Association) -> _Known:
    vectors = vectors_of([c.ra for c in candidates], [c.dec for c in candidates])
    center = vectors.sum(axis=0)
    center /= np.linalg.norm(center)
    reach = float(separations(vectors, center).max()) + max(_DENSITY_RADIUS, config.radius) / 3600.0
    ra, dec = position_of(center)
    of = tables.Object
    found = session.execute(
        select(of.id, of.ra, of.dec, of.ra_err, of.dec_err)
        .where(of.branch == branch, of.kind.is_(None), in_cone(of.healpix, float(ra), float(dec), reach))
        .order_by(of.id)
    ).all()
    numbers = np.array([row[1:] for row in found], float).reshape(len(found), 4)
    return _Known([row[0] for row in found], vectors_of(numbers[:, 0], numbers[:, 1]), numbers[:, 2:])


def _pairs(candidates: list[Candidate], known: _Known, config: Association) -> _Pairs:
    """The pairs within ``config.radius``, in the order of rows, then columns."""
    if not known.ids:
        nothing = np.empty(0, np.int64)
        return _Pairs(nothing, nothing, np.empty(0), np.empty(0))
    vectors = vectors_of([c.ra for c in candidates], [c.dec for c in candidates])
    tree = cKDTree(known.vectors)
    near = tree.query_ball_point(vectors, _chord(config.radius), return_sorted=True)
    row = np.repeat(np.arange(len(candidates)), [len(n) for n in near])
    column = np.array([j for n in near for j in n], np.int64)
    dx, dy = offsets(known.vectors[column], vectors[row])
    own = np.array([(c.ra_err, c.dec_err) for c in candidates]) ** 2 + (config.position_floor / 3600.0) ** 2
    sx, sy = np.sqrt(np.maximum(known.errors[column] ** 2 + own[row], (_LEAST_ERROR / 3600.0) ** 2)).T
    chi2 = (dx / sx) ** 2 + (dy / sy) ** 2
    around = tree.query_ball_point(vectors, _chord(_DENSITY_RADIUS), return_length=True)
    density = np.maximum(around, 1) / (np.pi * (_DENSITY_RADIUS / 3600.0) ** 2)  # per square degree
    inner = np.log1p(-config.outliers) - 0.5 * chi2 - np.log(2.0 * np.pi * sx * sy)
    outer = np.log(max(config.outliers, 1e-300) / (np.pi * (config.radius / 3600.0) ** 2))
    log_ratio = np.logaddexp(inner, outer) - np.log(density[row])
    return _Pairs(row, column, log_ratio, np.hypot(dx, dy))


def _chord(arcsec: float) -> float:
    return float(2.0 * np.sin(0.5 * np.deg2rad(arcsec / 3600.0)))


def _by_position(pairs: _Pairs, n_candidates: int, n_objects: int) -> dict[int, tuple[int | None, float]]:
    """Of each candidate, its object (None: new) and the probability of that."""
    # Each candidate has a column of its own for being new. Costs are kept above zero by a constant, which
    # changes no assignment, as each row has one: scipy takes a zero for no edge.
    top = float(np.abs(pairs.log_ratio).max(initial=0.0)) + 1.0
    everyone = np.arange(n_candidates)
    weights = np.concatenate([top - pairs.log_ratio, np.full(n_candidates, top)])
    rows = np.concatenate([pairs.row, everyone])
    columns = np.concatenate([pairs.column, n_objects + everyone])
    costs = coo_array((weights, (rows, columns)), shape=(n_candidates, n_objects + n_candidates)).tocsr()
    matched, chosen = min_weight_full_bipartite_matching(costs)
    total = np.zeros(n_candidates)  # ln of 1 + the sum of L
    np.logaddexp.at(total, pairs.row, pairs.log_ratio)
    ratios = dict(zip(zip(pairs.row.tolist(), pairs.column.tolist()), pairs.log_ratio.tolist()))
    return {
        i: (j, float(np.exp(ratios[i, j] - total[i]))) if j < n_objects else (None, float(np.exp(-total[i])))
        for i, j in zip(matched.tolist(), chosen.tolist())
    }


def _planets(candidates: list[Candidate], *, nearest: NDArray[np.float64]) -> dict[int, str]:
    """Which candidates are known minor planets: index -> designation, each once, the nearest pairs first.

    Where an object that does not move is known and nearer than the planet's predicted place, the candidate
    is more likely that object: the planet only passes by.
    """
    claims = sorted(
        (match.separation, c.number, i, match.source_id)
        for i, c in enumerate(candidates)
        for match in c.matches
        if match.kind == PLANET and match.separation is not None and match.separation / 3600.0 <= nearest[i]
    )
    taken: dict[int, str] = {}
    for _, _, i, designation in claims:
        if i not in taken and designation not in taken.values():
            taken[i] = designation
    return taken


def _of_planet(
    session: Session,
    candidate_id: str,
    branch: str,
    exposure: tables.Exposure,
    candidate: Candidate,
    designation: str,
    config: Association,
) -> Assignment:
    row = session.scalar(
        select(tables.Object).where(tables.Object.branch == branch, tables.Object.designation == designation)
    )
    is_new = row is None
    if row is None:
        row = _new_object(object_id(branch, candidate_id), branch, exposure, candidate, config)
        row.kind, row.designation = PLANET, designation
        session.add(row)
    else:
        _count(row, exposure)
        if row.last_mjd == mid_mjd(exposure):  # the latest: it is where it was seen last
            row.ra, row.dec = candidate.ra, candidate.dec
            row.ra_err, row.dec_err = _errors(candidate, config)
            row.healpix = int(cells_of(candidate.ra, candidate.dec))
    return Assignment(candidate.number, row.id, 1.0, is_new)


def _new_object(
    id_: str, branch: str, exposure: tables.Exposure, candidate: Candidate, config: Association
) -> tables.Object:
    ra_err, dec_err = _errors(candidate, config)
    time = mid_mjd(exposure)
    return tables.Object(
        id=id_,
        branch=branch,
        ra=candidate.ra,
        dec=candidate.dec,
        ra_err=ra_err,
        dec_err=dec_err,
        n_detections=1,
        first_mjd=time,
        last_mjd=time,
        healpix=int(cells_of(candidate.ra, candidate.dec)),
    )


def _errors(candidate: Candidate, config: Association) -> tuple[float, float]:
    """A detection's errors, degrees; the floor is of each exposure's plate, and so averages down."""
    floor = max(config.position_floor, _LEAST_ERROR) / 3600.0
    return float(np.hypot(candidate.ra_err, floor)), float(np.hypot(candidate.dec_err, floor))


def _take(row: tables.Object, exposure: tables.Exposure, candidate: Candidate, config: Association) -> None:
    """Let a detection count in its object: the position is the mean weighted by 1/err² on each axis."""
    before = np.array([row.ra_err, row.dec_err]) ** -2.0
    weight = np.array(_errors(candidate, config)) ** -2.0
    origin = vectors_of(row.ra, row.dec)
    dx, dy = offsets(origin, vectors_of(candidate.ra, candidate.dec))
    share = weight / (before + weight)
    ra, dec = position_of(moved(origin, share[0] * dx, share[1] * dy))
    row.ra, row.dec = float(ra), float(dec)
    row.ra_err, row.dec_err = (float(e) for e in (before + weight) ** -0.5)
    row.healpix = int(cells_of(row.ra, row.dec))
    _count(row, exposure)


def _count(row: tables.Object, exposure: tables.Exposure) -> None:
    time = mid_mjd(exposure)
    row.n_detections += 1
    row.first_mjd, row.last_mjd = min(row.first_mjd, time), max(row.last_mjd, time)
