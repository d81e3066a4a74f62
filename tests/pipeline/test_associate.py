"""Which detections are of one object: against simulated truth, brute force, and what ZTF says of its own."""

import collections
import itertools
from pathlib import Path

import fastavro
import numpy as np
import pytest
import sqlalchemy as sa
from stored import candidate, exposure, seen, subtracted

from multiscale.packet import CrossMatch
from reference_pipeline.associate.match import associate, object_id
from reference_pipeline.config import Association
from reference_pipeline.errors import StoreError
from reference_pipeline.store import tables
from reference_pipeline.store.queries import objects_in
from reference_pipeline.store.sky import moved, position_of, separations, vectors_of

ARCSEC = 1.0 / 3600.0
ZTF = Path(__file__).parents[3] / "shared" / "data" / "alerts" / "ztf"
MADE_UP = {"ZTF23abkpnol", "ZTF23ablgiwp"}  # one packet with invented positions, thousands of arcsec apart


def beside(ra, dec, east, north):
    """The position ``east`` and ``north`` arcsec of another."""
    a, d = position_of(moved(vectors_of(ra, dec), np.asarray(east) * ARCSEC, np.asarray(north) * ARCSEC))
    return (float(a), float(d)) if np.ndim(a) == 0 else (a, d)


def objects(session, branch="dip"):
    return session.scalars(
        sa.select(tables.Object).where(tables.Object.branch == branch).order_by(tables.Object.id)
    ).all()


def groups(session):
    """The sets of candidates that are of one object."""
    found = collections.defaultdict(set)
    for row in session.scalars(sa.select(tables.Detection)):
        found[row.object_id].add(row.candidate_id)
    return found


def planet(designation, separation=1.0):
    return CrossMatch(catalog="MPCORB", source_id=designation, kind="minor_planet", separation=separation)


# --- by position


def night_of(rng, center, n_sources=40, n_exposures=7):
    """Exposures of sources 9 arcsec apart or more, each seen in 8 of 10: (id, MJD, candidates), and truth."""
    side = int(np.ceil(np.sqrt(n_sources)))
    grid = 15.0 * np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)[:n_sources]
    east, north = (grid + rng.uniform(-3, 3, grid.shape) - 7.5 * side).T
    ra, dec = beside(*center, east, north)
    night, truth = [], {}
    for e in range(n_exposures):
        there = rng.permutation(np.nonzero(rng.uniform(size=n_sources) < 0.8)[0])
        candidates = []
        for number, source in enumerate(there.tolist()):
            err = float(rng.uniform(0.05, 0.4))
            a, d = beside(ra[source], dec[source], *rng.normal(0.0, np.hypot(err, 0.1), 2))
            candidates.append(candidate(number, a, d, err=err))
            truth[f"e{e}-dip-{number}"] = source
        night.append((f"e{e}", 60000.0 + 0.01 * e, candidates))
    return night, truth, ra, dec


@pytest.mark.parametrize("center", [(150.0, 20.0), (0.0, -60.0), (10.0, 89.99), (200.0, -90.0)])
def test_objects_are_the_true_sources_whatever_the_order_of_exposures(store, center):
    rng = np.random.default_rng(3)
    night, truth, ra, dec = night_of(rng, center)
    want = collections.defaultdict(set)
    for name, source in truth.items():
        want[source].add(name)
    places = []

    def run(order):  # each order begins with an empty database
        with store.begin() as session:
            for e in order:
                name, mjd, candidates = night[e]
                seen(session, exposure(name, mjd), candidates)
            found = groups(session)
            assert sorted(map(sorted, found.values())) == sorted(map(sorted, want.values()))
            rows = {truth[min(found[row.id])]: row for row in objects(session)}
            places.append([(rows[s].ra, rows[s].dec, rows[s].ra_err) for s in sorted(want)])
            for source, row in rows.items():
                times = [60000.0 + 0.01 * int(name[1]) + 0.0005 for name in want[source]]
                assert (row.n_detections, row.first_mjd) == (len(times), pytest.approx(min(times), abs=1e-9))
                assert row.last_mjd == pytest.approx(max(times), abs=1e-9)
            raise InterruptedError

    for order in (range(7), reversed(range(7)), rng.permutation(7)):
        with pytest.raises(InterruptedError):
            run(order)
    vectors = [vectors_of(*np.array(p).T[:2]) for p in places]
    for other in vectors[1:]:
        assert separations(vectors[0], other).max() / ARCSEC < 1e-6
    error = np.array(places[0])[:, 2]
    pulls = separations(vectors[0], vectors_of(ra[sorted(want)], dec[sorted(want)])) / error
    assert 1.0 < np.mean(pulls**2) < 3.3  # 2 for two axes; 40 sources


def slow_ratio(c, o, *, variance, density, config):
    """L of the module's text, in arcsec."""
    dx = (c.ra - o.ra) * np.cos(np.deg2rad(o.dec)) * 3600.0
    dy = (c.dec - o.dec) * 3600.0
    inner = np.exp(-0.5 * (dx**2 + dy**2) / variance) / (2.0 * np.pi * variance)
    outer = 1.0 / (np.pi * config.radius**2)
    return ((1.0 - config.outliers) * inner + config.outliers * outer) / density


@pytest.mark.parametrize("trial", range(6))
def test_the_assignment_and_its_probabilities_are_those_of_brute_force(store, trial):
    """Three objects, three candidates, all within the radius: each of the 34 assignments is tried."""
    rng = np.random.default_rng(trial)
    config = Association(radius=3.0, position_floor=0.05, outliers=(0.0, 0.05, 0.5)[trial % 3])
    first = [candidate(i, *beside(150.0, 20.0, *rng.uniform(-0.6, 0.6, 2)), err=0.15) for i in range(3)]
    second = [candidate(i, *beside(150.0, 20.0, *rng.uniform(-0.6, 0.6, 2)), err=0.25) for i in range(3)]
    with store.begin() as session:
        made = seen(session, exposure("a"), first, config=config)
        assert len({a.object_id for a in made}) == 3
        assert all(a.is_new and a.probability == 1.0 for a in made)
        got = seen(session, exposure("b", 60000.1), second, config=config)
    variance = 0.15**2 + 0.05**2 + 0.25**2 + 0.05**2
    density = 3 / (np.pi * 300.0**2)
    ratio = [
        [slow_ratio(c, o, variance=variance, density=density, config=config) for o in first] for c in second
    ]
    choices = itertools.product([None, 0, 1, 2], repeat=3)
    valid = [c for c in choices if len([j for j in c if j is not None]) == len({*c} - {None})]
    assert len(valid) == 34
    best = max(valid, key=lambda c: np.prod([1.0 if j is None else ratio[i][j] for i, j in enumerate(c)]))
    for i, j in enumerate(best):
        assert got[i].is_new == (j is None)
        chosen = 1.0 if j is None else ratio[i][j]
        assert got[i].probability == pytest.approx(chosen / (1.0 + sum(ratio[i])), rel=1e-4)
        assert j is None or got[i].object_id == made[j].object_id


def test_probabilities_come_true(store):
    """In a crowd where many matches are wrong, a match of probability p is right in p of all cases."""
    rng = np.random.default_rng(5)
    n, box, err = 1600, 1100.0, 5.0  # arcsec
    config = Association(radius=25.0, position_floor=0.0, outliers=0.0)
    places = rng.uniform(-box / 2, box / 2, (n, 2))
    first = [candidate(i, *beside(150.0, 20.0, *p), err=0.01) for i, p in enumerate(places)]
    shown = rng.uniform(size=n) < 0.5
    again = np.concatenate(
        [places[shown] + rng.normal(0, err, (shown.sum(), 2)), rng.uniform(-box / 2, box / 2, (n // 2, 2))]
    )
    truth = [*np.nonzero(shown)[0].tolist(), *([None] * (n // 2))]
    second = [candidate(i, *beside(150.0, 20.0, *p), err=err) for i, p in enumerate(again)]
    with store.begin() as session:
        made = {a.object_id: a.number for a in seen(session, exposure("a"), first, config=config)}
        assert len(made) == n
        got = seen(session, exposure("b", 60000.1), second, config=config)
    inside = np.hypot(*again.T) < 400.0  # where objects are counted on nearly all sides
    p = np.array([a.probability for a in got])[inside]
    right = np.array([made.get(a.object_id) == truth[a.number] for a in got])[inside]
    matched = np.array([not a.is_new for a in got])[inside]
    assert 0.1 < 1.0 - right.mean() < 0.4  # hard enough to tell
    for low, high in ((0.4, 0.6), (0.6, 0.8), (0.8, 0.95)):
        chosen = matched & (p >= low) & (p < high)
        assert chosen.sum() > 30
        assert abs(right[chosen].mean() - p[chosen].mean()) < 0.12


@pytest.mark.parametrize(
    ("apart", "settings", "is_new"),
    [
        (0.6, {"outliers": 0.0}, False),
        (1.2, {"outliers": 0.0}, True),  # 7.6 sigma of sqrt(2) · sqrt(0.05² + 0.1²)
        (1.2, {"outliers": 0.01}, False),  # nothing else is near
        (1.2, {"radius": 1.1}, True),
        (1.5, {"outliers": 0.0, "position_floor": 0.5}, False),
        (2.1, {"position_floor": 0.5}, True),  # beyond the radius
    ],
)
def test_what_is_too_far_away_is_another_object(store, apart, settings, is_new):
    with store.begin() as session:
        config = Association(**settings)
        [one] = seen(session, exposure("a"), [candidate(err=0.05)], config=config)
        there = candidate(0, *beside(150.0, 20.0, 0.6 * apart, -0.8 * apart), err=0.05)
        [two] = seen(session, exposure("b", 60000.1), [there], config=config)
    assert two.is_new == is_new
    assert (one.object_id != two.object_id) == is_new


def test_an_object_has_one_candidate_of_an_exposure(store):
    near, far = beside(150.0, 20.0, 0.1, 0.0), beside(150.0, 20.0, -0.3, 0.0)
    with store.begin() as session:
        [one] = seen(session, exposure("a"), [candidate()])
        two = seen(session, exposure("b", 60000.1), [candidate(0, *far), candidate(1, *near, flux=-900.0)])
    assert [(a.is_new, a.object_id == one.object_id) for a in two] == [(True, False), (False, True)]


def test_what_a_cut_removed_has_no_object(store):
    with store.begin() as session:
        given = [candidate(0, cut="edge"), candidate(1, 150.01, 20.0)]
        assert [a.number for a in seen(session, exposure(), given)] == [1]
        assert len(objects(session)) == 1
        assert seen(session, exposure("b", 60000.1), [candidate(0, cut="edge")]) == []


def test_branches_do_not_share_objects(store):
    with store.begin() as session:
        [dip] = seen(session, exposure("a"), [candidate()])
        [qip] = seen(session, session.get(tables.Exposure, "a"), [candidate()], branch="qip")
        assert dip.object_id != qip.object_id
        assert [o.id for o in objects_in(session, "qip", 150.0, 20.0, ARCSEC)] == [qip.object_id]


# --- again, and after a stop


def test_associating_again_changes_nothing(store):
    given = [candidate(0), candidate(1, 150.1, 20.0, matches=(planet("433"),))]
    with store.begin() as session:
        seen(session, exposure("a"), given)
    for name in ("a", "b"):
        with store.begin() as session:
            if name == "b":
                subtracted(session, exposure("b", 60000.1), given)
            row = session.get(tables.Exposure, name)
            made = associate(session, branch="dip", exposure=row, candidates=given, config=Association())
            before = [(o.id, o.ra, o.dec, o.n_detections) for o in objects(session)]
        with store.begin() as session:
            row = session.get(tables.Exposure, name)
            again = associate(session, branch="dip", exposure=row, candidates=given, config=Association())
            assert again == made
            assert [(o.id, o.ra, o.dec, o.n_detections) for o in objects(session)] == before
    assert len(before) == 2


def test_a_stop_and_a_restart_give_the_same_ids(store):
    def work(fails):
        with store.begin() as session:
            made = seen(session, exposure("a"), [candidate(0), candidate(1, 150.1, 20.0)])
            if fails:
                raise InterruptedError(*[a.object_id for a in made])
            return made

    with pytest.raises(InterruptedError) as stopped:
        work(fails=True)
    made = work(fails=False)
    assert [a.object_id for a in made] == list(stopped.value.args)
    assert made[0].object_id == object_id("dip", "a-dip-0") == "lcx32qcaupy4qikk"


def test_what_is_not_stored_is_refused(store):
    with store.begin() as session:
        row = exposure()
        session.add(row)
        with pytest.raises(StoreError, match="e1: no subtraction in branch dip"):
            associate(session, branch="dip", exposure=row, candidates=[candidate()], config=Association())
        subtracted(session, row, [candidate()])
        given = [candidate(), candidate(5)]
        with pytest.raises(StoreError, match=r"candidates \[5\] are not stored"):
            associate(session, branch="dip", exposure=row, candidates=given, config=Association())


# --- minor planets


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_a_known_minor_planet_is_one_object_wherever_it_is(store, order):
    with store.begin() as session:
        for e in order:
            there = beside(150.0, 20.0, 40.0 * e, 5.0 * e)
            seen(session, exposure(f"e{e}", 60000.0 + e), [candidate(0, *there, matches=(planet("1875"),))])
        [row] = objects(session)
        assert (row.kind, row.designation, row.n_detections) == ("minor_planet", "1875", 4)
        assert (row.ra, row.dec) == beside(150.0, 20.0, 120.0, 15.0)
        assert row.last_mjd - row.first_mjd == 3.0
        assert [o.id for o in objects_in(session, "dip", row.ra, row.dec, ARCSEC)] == [row.id]
        # what does not move and stands where the planet was is another object
        [star] = seen(session, exposure("later", 60010.0), [candidate(0, row.ra, row.dec)])
        assert star.is_new


def test_a_planet_is_the_nearest_candidate_and_only_one(store):
    given = [
        candidate(0, 150.0, 20.0, matches=(planet("5", 4.0), planet("6", 6.0))),
        candidate(1, *beside(150.0, 20.0, 5.0, 0.0), matches=(planet("5", 1.0),)),
        candidate(2, *beside(150.0, 20.0, 9.0, 0.0), matches=(planet("5", 5.0),)),
    ]
    with store.begin() as session:
        made = seen(session, exposure(), given)
        rows = [session.get(tables.Object, a.object_id) for a in made]
        assert [row.designation for row in rows] == ["6", "5", None]


def test_a_planet_that_passes_by_does_not_take_a_known_object(store):
    with store.begin() as session:
        [one] = seen(session, exposure("a"), [candidate()])
        given = [candidate(0, *beside(150.0, 20.0, 0.1, 0.0), matches=(planet("7", 8.0),))]
        [two] = seen(session, exposure("b", 60000.1), given)
        assert two.object_id == one.object_id
        # the planet's own image, where it was predicted, is the planet's
        given = [
            candidate(0, *beside(150.0, 20.0, 0.0, 0.1), matches=(planet("7", 8.0),)),
            candidate(1, *beside(150.0, 20.0, 8.0, 0.0), matches=(planet("7", 0.3),)),
        ]
        made = seen(session, exposure("c", 60000.2), given)
        assert made[0].object_id == one.object_id
        assert session.get(tables.Object, made[1].object_id).designation == "7"


# --- real detections


def ztf_detections():
    """One detection an exposure of each object in ZTF's alerts and histories: object, jd, position, error.

    ZTF counts two detections in one exposure as one object (4 % here, of both signs); this pipeline does not.
    """
    found, candids = {}, set()
    for path in sorted(ZTF.glob("*.avro")):
        with path.open("rb") as file:
            for record in fastavro.reader(file):
                now = record["candidate"]
                if (
                    record["objectId"] in MADE_UP or -1 < (now.get("ssdistnr") or -999) < 30
                ):  # a minor planet: history is of other things
                    continue
                before = [c for c in record.get("prv_candidates") or [] if c.get("candid")]
                for c in [now, *before]:
                    if c["candid"] in candids:  # also in another alert's history
                        continue
                    candids.add(c["candid"])
                    err = c["fwhm"] * 1.01 / 2.355 / (1.0857 / c["sigmapsf"])  # arcsec, of 1.01 a pixel
                    found[record["objectId"], round(c["jd"], 5)] = (c["ra"], c["dec"], err)
    return [(name, jd, *values) for (name, jd), values in found.items()]


@pytest.mark.shared_data
def test_ztf_detections_are_the_objects_that_ztf_says(store):
    found = ztf_detections()
    exposures, count, names = collections.defaultdict(list), collections.Counter(), {}
    for name, _, *values in sorted(found, key=lambda row: row[1]):
        exposures[count[name]].append((name, *values))  # the n-th of each object: all over the sky
        count[name] += 1
    with store.begin() as session:
        for n, there in exposures.items():
            given = [candidate(i, ra, dec, err=err) for i, (_, ra, dec, err) in enumerate(there)]
            names |= {f"n{n}-dip-{i}": name for i, (name, *_) in enumerate(there)}
            seen(session, exposure(f"n{n}", 58000.0 + n), given)
        together = groups(session)
    assert len(found) > 1000
    assert all(len({names[i] for i in ids}) == 1 for ids in together.values())
    largest = collections.Counter()
    for ids in together.values():
        own = names[min(ids)]
        largest[own] = max(largest[own], len(ids))
    assert sum(largest.values()) / len(found) >= 0.99  # without `outliers`: 0.97
