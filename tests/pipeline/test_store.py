"""The database: its schema and migrations, its transactions, and what is asked of it."""

import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from astropy.coordinates import SkyCoord
from astropy.units import deg as _deg
from astropy.wcs import WCS
from stored import candidate, exposure, subtracted

import reference_pipeline.store.opening as opening
from multiscale.packet import CrossMatch
from reference_pipeline.errors import PipelineError, StoreError
from reference_pipeline.frame import Exposure, Frame, Quality, ZeroPoint
from reference_pipeline.store import tables
from reference_pipeline.store.opening import open_store
from reference_pipeline.store.queries import (
    candidate_of,
    candidate_rows,
    exposure_row,
    objects_in,
    register_template,
    template_in_use,
)
from reference_pipeline.store.sky import cells_of, covers, footprint_of, vectors_of

MIGRATIONS = Path(opening.__file__).parent / "migrations"


def engine_of(url):
    """A plain engine, past the store's own settings."""
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def migrated(url, revision):
    """Make the schema of an older revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine_of(url).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


# --- the schema


def test_migrations_make_what_the_models_say(store):
    with store.read() as session:
        context = MigrationContext.configure(
            session.connection(), opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, tables.Table.metadata) == []
        inspector = sa.inspect(session.connection())
        for name, table in tables.Table.metadata.tables.items():
            checks = {c.name for c in table.constraints if isinstance(c, sa.CheckConstraint)}
            assert {c["name"] for c in inspector.get_check_constraints(name)} == checks


def test_a_model_without_its_migration_would_be_seen(store):
    with store.begin() as session:
        session.execute(sa.text("ALTER TABLE exposures DROP COLUMN pearson"))
        session.execute(sa.text("DROP INDEX ix_outbox_sent_mjd_queued_mjd"))
        context = MigrationContext.configure(session.connection())
        kinds = [difference[0] for difference in compare_metadata(context, tables.Table.metadata)]
    assert sorted(kinds) == ["add_column", "add_index"]


def test_opening_again_keeps_everything(store, store_url):
    with store.begin() as session:
        subtracted(session, exposure(), [candidate()])
    again = open_store(store_url)
    with again.read() as session:
        assert session.scalar(sa.select(tables.Candidate.id)) == "e1-dip-0"
    again.close()


def test_an_older_database_is_upgraded_with_its_data(store_url):
    migrated(store_url, "0001")
    engine = engine_of(store_url)
    assert "footprint" not in {c["name"] for c in sa.inspect(engine).get_columns("exposures")}
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO exposures (id, camera, band, start_mjd, exposure_time, product, input_digest,"
                " is_too) VALUES ('old', 'ast3', 'g', 59000.5, 60.0, 'calibrated/old.fits', 'abc', :false)"
            ),
            {"false": False},
        )
        connection.execute(
            sa.text(
                "INSERT INTO objects (id, branch, ra, dec, ra_err, dec_err, n_detections, first_mjd,"
                " last_mjd, healpix) VALUES ('o', 'dip', 1.0, 2.0, 1e-4, 1e-4, 1, 59000.5, 59000.5, :cell)"
            ),
            {"cell": int(cells_of(1.0, 2.0))},
        )
    engine.dispose()
    store = open_store(store_url)
    with store.begin() as session:
        old = session.get(tables.Exposure, "old")
        assert (old.band, old.start_mjd, old.footprint, old.radius) == ("g", 59000.5, None, None)
        assert [o.designation for o in objects_in(session, "dip", 1.0, 2.0, 0.001)] == [None]
        session.add(exposure("new"))
    with store.read() as session:
        context = MigrationContext.configure(session.connection())
        assert context.get_current_revision() == "0002"
        assert compare_metadata(context, tables.Table.metadata) == []
    store.close()


def test_a_migration_that_fails_leaves_the_older_schema(store_url, monkeypatch):
    migrated(store_url, "0001")
    engine = engine_of(store_url)
    with engine.begin() as connection:  # what the last statement of 0002 wants to make
        connection.execute(sa.text("CREATE TABLE uq_objects_branch_designation (a INTEGER)"))
    with pytest.raises(StoreError, match="already"):
        open_store(store_url)
    with engine.begin() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "0001"
        columns = {c["name"] for c in sa.inspect(connection).get_columns("exposures")}
    assert "footprint" not in columns
    engine.dispose()


def test_a_newer_database_is_refused_with_both_versions(store, store_url):
    with store.begin() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
    with pytest.raises(StoreError, match=r"version 0999.*up to 0002"):
        open_store(store_url)


def test_somebody_elses_database_is_refused_and_left_alone(store_url):
    engine = engine_of(store_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE invoices (id INTEGER)"))
    with pytest.raises(StoreError, match="invoices"):
        open_store(store_url)
    assert sa.inspect(engine).get_table_names() == ["invoices"]
    engine.dispose()


def test_many_may_open_an_empty_database_at_once(store_url):
    failures = []

    def work(number):
        try:
            opened = open_store(store_url)
            with opened.begin() as session:
                session.add(exposure(f"e{number}"))
            opened.close()
        except PipelineError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    store = open_store(store_url)
    with store.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(tables.Exposure)) == 6
    store.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("night", "not a database URL"),
        ("sqlite:////no/such/folder/night.sqlite", "unable to open"),
        ("postgresql://somebody:secret@/night?host=/no/such/folder", "/no/such/folder"),
        ("mssql+pyodbc://host/night", "mssql"),
    ],
)
def test_what_cannot_be_opened_is_named_without_its_password(url, says):
    with pytest.raises(StoreError, match=says) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "night.sqlite"
    path.write_bytes(b"SIMPLE  =                    T" * 100)
    with pytest.raises(StoreError, match="not a database"):
        open_store(f"sqlite:///{path}")


def test_sqlite_is_set_to_outlive_a_power_cut(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'night.sqlite'}")
    with store.read() as session:
        values = {
            p: session.execute(sa.text(f"PRAGMA {p}")).scalar() for p in ("journal_mode", "synchronous")
        }
    assert values == {"journal_mode": "wal", "synchronous": 2}
    store.close()


# --- transactions


def store_and_fail(store):
    with store.begin() as session:
        subtracted(session, exposure(), [candidate()])
        raise ZeroDivisionError


def test_a_transaction_is_stored_whole_or_not_at_all(store):
    with pytest.raises(ZeroDivisionError):
        store_and_fail(store)
    with store.read() as session:
        assert session.scalars(sa.select(tables.Exposure)).all() == []


def test_rows_of_a_transaction_may_come_in_any_order(store):
    with store.begin() as session:
        for row in (
            tables.Outbox(alert_id="a", topic="alerts.dip", queued_mjd=1.0),
            tables.Alert(
                id="a", candidate_id="c", object_id="o", branch="dip", packet=b"\x00\xff", created_mjd=1.0
            ),
        ):
            session.add(row)
            session.flush()
        subtracted(session, exposure())
        session.add(
            tables.Object(
                id="o", branch="dip", ra=1.0, dec=2.0, ra_err=0.1, dec_err=0.1, n_detections=1,
                first_mjd=1.0, last_mjd=1.0, healpix=3,
            )
        )  # fmt: skip
        session.add_all(candidate_rows(1, [candidate()], ["c"]))
    with store.read() as session:
        assert session.get(tables.Alert, "a").packet == b"\x00\xff"


@pytest.mark.parametrize(
    "row",
    [
        lambda: tables.Detection(candidate_id="nobody", object_id="nothing", probability=1.0),
        lambda: tables.Subtraction(exposure_id="e1", branch="dip"),  # is there already
        lambda: tables.Subtraction(exposure_id="e1", branch="qip", status="maybe"),
        lambda: exposure("e2", float("nan")),
        lambda: exposure("e2", input_digest=None),
    ],
    ids=["no such candidate", "twice", "status", "no time", "no digest"],
)
def test_what_contradicts_the_schema_is_refused(store, row):
    with store.begin() as session:
        subtracted(session, exposure())
    with pytest.raises(StoreError), store.begin() as session:
        session.add(row())
    with store.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(tables.Subtraction)) == 1
        assert session.scalar(sa.select(sa.func.count()).select_from(tables.Exposure)) == 1


def test_numbers_come_back_as_they_were(store):
    decisions = {"n_stars": np.int64(7), "chi2": np.float32(1.5), "offset": float("nan"), "why": "µ, 5σ"}
    with store.begin() as session:
        subtracted(session, exposure(pearson=np.float64("nan"), fwhm=np.float32(2.5), radius=np.inf))
        session.scalar(sa.select(tables.Subtraction)).decisions = decisions
    with store.read() as session:
        row = session.get(tables.Exposure, "e1")
        assert (row.pearson, row.fwhm, row.radius) == (None, 2.5, None)
        found = session.scalar(sa.select(tables.Subtraction.decisions))
    assert found == {"n_stars": 7, "chi2": 1.5, "offset": None, "why": "µ, 5σ"}


def test_no_update_of_two_writers_is_lost(store):
    with store.begin() as session:
        subtracted(session, exposure())

    def work():
        for _ in range(10):
            with store.begin() as session:
                row = session.scalar(sa.select(tables.Subtraction))
                row.priority = row.priority + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as session:
        assert session.scalar(sa.select(tables.Subtraction.priority)) == 40


def test_a_reader_does_not_wait_and_sees_one_state(store):
    with store.begin() as session:
        session.add(exposure("e1"))
    count = sa.select(sa.func.count()).select_from(tables.Exposure)
    with store.read() as reading:
        assert reading.scalar(count) == 1
        with store.begin() as writing:
            writing.add(exposure("e2"))
            writing.flush()
            assert reading.scalar(count) == 1
        assert reading.scalar(count) == 1
    with store.read() as reading:
        assert reading.scalar(count) == 2


def test_what_a_reader_changes_is_not_stored(store):
    refused = pytest.raises(StoreError, match="read-only")
    with refused if store.engine.dialect.name == "postgresql" else nullcontext(), store.read() as session:
        session.add(exposure())
        session.flush()
    with store.read() as session:
        assert session.get(tables.Exposure, "e1") is None


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from stored import exposure, subtracted
from reference_pipeline.store.opening import open_store
store = open_store(sys.argv[1])
for number in range(int(sys.argv[3]), 100_000):
    with store.begin() as session:
        subtracted(session, exposure(f"e{number}"), branch="dip")
        subtracted(session, exposure(f"e{number}"), branch="qip")
    print(number, flush=True)
"""


def test_a_kill_loses_nothing_that_was_committed(store_url):
    rng = np.random.default_rng(4)
    done = 0
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, store_url, str(Path(__file__).parent), str(done)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            told = [int(process.stdout.readline()) for _ in range(int(rng.integers(2, 15)))]
            threading.Event().wait(float(rng.uniform(0.0, 0.02)))
        finally:
            process.kill()
        told += [int(line) for line in process.communicate()[0].split()]
        store = open_store(store_url)
        with store.read() as session:
            halves = session.execute(
                sa.select(tables.Subtraction.exposure_id, sa.func.count()).group_by(
                    tables.Subtraction.exposure_id
                )
            ).all()
            n = session.scalar(sa.select(sa.func.count()).select_from(tables.Exposure))
        store.close()
        assert {count for _, count in halves} == {2}
        assert len(halves) == n
        assert max(told) + 1 <= n <= max(told) + 2  # the last may be committed and not yet told
        done = n


# --- values and rows


def test_candidates_come_back_equal(store):
    match = CrossMatch(
        catalog="GLADE+", source_id="1", kind="galaxy", separation=1.5, redshift=0.01, properties={"b": True}
    )
    given = [
        candidate(0, matches=(match, match)),
        candidate(1, 359.9999999, -89.5, flux=-300.0, magnitude=None, magnitude_err=None, cut="edge"),
        candidate(2, ra_err=np.float64(1e-5), flags=np.int32(3), position_angle=None),
    ]
    with store.begin() as session:
        subtracted(session, exposure(), given)
    with store.read() as session:
        rows = session.scalars(sa.select(tables.Candidate).order_by(tables.Candidate.number)).all()
        assert [candidate_of(row) for row in rows] == given


@pytest.mark.parametrize("name", ["ra", "flux_err", "fwhm", "dipole"])
def test_a_candidate_that_is_not_finite_is_named(name):
    with pytest.raises(StoreError, match=f"c7: {name} is nan"):
        candidate_rows(1, [replace(candidate(), **{name: float("nan")})], ["c7"])


def test_an_exposure_row_says_what_the_frame_knows(store):
    wcs = tangent(10.0, -70.0)
    frame = Frame(
        Exposure("f", "ast3", "science", 60000.0, 60.0, band="i", field_id="f9", ra=9.0, dec=-69.0),
        np.zeros((300, 400), np.float32),
        np.ones((300, 400), np.float32),
        np.zeros((300, 400), np.uint16),
        wcs=wcs,
        zero_point=ZeroPoint(25.5, 0.01, "i"),
        quality=Quality(2.5, 0.1, 100.0, 10.0),
    )
    with store.begin() as session:
        session.add(exposure_row(frame, product="calibrated/f.fits", input_digest="d", is_too=True))
    with store.read() as session:
        row = session.get(tables.Exposure, "f")
        assert (row.fwhm, row.limiting_magnitude, row.zero_point, row.is_too) == (2.5, None, 25.5, True)
        assert (
            SkyCoord(row.ra, row.dec, unit="deg").separation(wcs.pixel_to_world(199.5, 149.5)).arcsec < 1e-6
        )
    with pytest.raises(StoreError, match=r"f: .*WCS"):
        exposure_row(replace(frame, wcs=None), product="", input_digest="")


def test_replacing_a_template_is_recorded(store):
    def template(digest, reason="the earliest acceptable frame", **changes):
        values = {
            "field_id": "f1",
            "band": "r",
            "branch": "dip",
            "exposure_ids": ["e1"],
            "path": "t.fits",
            "digest": digest,
        }
        return tables.Template(**values | changes, registered_mjd=60000.0, reason=reason)

    with store.begin() as session:
        first = register_template(session, template("a"))
        assert register_template(session, template("a")).id == first.id  # nothing new
        other = register_template(session, template("a", field_id="f2"))
        with pytest.raises(StoreError, match="without a reason"):
            register_template(session, template("b", ""))
        second = register_template(session, template("b", "deeper by 0.8 mag"))
    with store.read() as session:
        use = template_in_use(session, field_id="f1", band="r", branch="dip")
        assert (use.id, use.reason) == (second.id, "deeper by 0.8 mag")
        assert session.get(tables.Template, first.id).replaced_by == second.id
        assert template_in_use(session, field_id="f2", band="r", branch="dip").id == other.id
        assert template_in_use(session, field_id="f1", band="r", branch="qip") is None


# --- the sky


def add_objects(session, ra, dec, branch="dip"):
    session.add_all(
        tables.Object(
            id=f"{branch}{i:05d}", branch=branch, ra=a, dec=d, ra_err=1e-5, dec_err=1e-5, n_detections=1,
            first_mjd=1.0, last_mjd=1.0, healpix=cell,
        )
        for i, (a, d, cell) in enumerate(zip(ra, dec, cells_of(ra, dec)))
    )  # fmt: skip


def around(rng, ra, dec, radius, n):
    """Positions uniform in a cap of ``radius`` degrees."""
    center = SkyCoord(ra, dec, unit="deg")
    apart = np.degrees(np.arccos(1.0 - rng.uniform(0, 1, n) * (1.0 - np.cos(np.radians(radius)))))
    found = center.directional_offset_by(rng.uniform(0, 360, n) * _deg, apart * _deg)
    return found.ra.deg, found.dec.deg


@pytest.mark.parametrize(
    ("ra", "dec"),
    [(0.0, 0.0), (359.99999, 10.0), (123.0, 41.81031489577), (45.0, 90.0), (200.0, -90.0), (77.0, -89.9999)],
)
def test_a_cone_holds_what_is_near_and_nothing_else(store, ra, dec):
    rng = np.random.default_rng(1)
    center = SkyCoord(ra, dec, unit="deg")
    with store.begin() as session:
        parts = [around(rng, ra, dec, radius, 300) for radius in (180.0, 5.0, 0.01, 1e-4)]
        a, d = np.concatenate(parts, axis=1)
        add_objects(session, a, d)
        add_objects(session, a, d, branch="qip")
        apart = SkyCoord(a, d, unit="deg").separation(center).deg
        for radius in (2e-5, 5e-5, 0.004, 3.0, 40.0, 120.0, 180.0):
            found = [o.id for o in objects_in(session, "dip", ra, dec, radius)]
            want = [f"dip{i:05d}" for i in np.argsort(apart, kind="stable") if apart[i] <= radius]
            assert len(want) > 0
            assert sorted(found) == sorted(want)
            assert np.all(np.diff([apart[int(name[3:])] for name in found]) >= -1e-12)
        assert objects_in(session, "nip", ra, dec, 180.0) == []


def tangent(ra, dec, scale=1.0, shape=(300, 400)):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [shape[1] / 2 + 20.0, shape[0] / 2 - 10.0]
    wcs.wcs.cd = scale / 3600.0 * np.array([[-np.cos(0.3), np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    wcs.array_shape = shape
    return wcs


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (359.999, 60.0), (30.0, 89.99), (0.0, -90.0)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_footprint_covers_what_the_image_does(ra, dec, scale):
    wcs, shape = tangent(ra, dec, scale), (300, 400)
    corners, center_ra, center_dec, radius = footprint_of(wcs, shape)
    a, d = around(np.random.default_rng(2), ra, dec, 1.2 * radius, 2000)
    x, y = wcs.all_world2pix(a, d, 0)
    ahead = vectors_of(a, d) @ vectors_of(ra, dec) > 0
    inside = (x > -0.5) & (x < 399.5) & (y > -0.5) & (y < 299.5) & ahead
    got = np.array([covers(corners, float(p), float(q)) for p, q in zip(a, d)])
    assert 300 < inside.sum() < 1900
    assert np.array_equal(got, inside)  # in a plain TAN projection edges are great circles
    assert not covers(corners, (center_ra + 180.0) % 360.0, -center_dec)
