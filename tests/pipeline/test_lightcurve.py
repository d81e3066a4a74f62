"""What was seen of an object before, its light curve, and what an alert says of it."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from matplotlib.image import imread
from stored import FLUX_ERR, LIMIT, ZERO_POINT, candidate, exposure, seen, subtracted

from multiscale.packet import CrossMatch
from reference_pipeline.alerts.records import flux_of
from reference_pipeline.associate.lightcurve import (
    SCHEMA,
    changed_objects,
    light_curve,
    plot_light_curve,
    write_light_curves,
)
from reference_pipeline.associate.limits import history_of
from reference_pipeline.errors import StoreError
from reference_pipeline.frame import MaskBit
from reference_pipeline.store import tables

NJY = 10.0 ** (0.4 * (31.4 - ZERO_POINT))  # of one electron


def forced(session, object_id, exposure_id, flux, *, branch="dip", limit=LIMIT, err=FLUX_ERR):
    session.add(
        tables.ForcedPhotometry(
            object_id=object_id,
            exposure_id=exposure_id,
            branch=branch,
            flux=flux,
            flux_err=err if flux is not None else None,
            limiting_magnitude=limit,
            flags=["masked"] if flux is None else [],
        )
    )
    session.flush()


@pytest.fixture
def history(store):
    """One object seen on nights 4, 6 and 7; what the other nights were is in their ids."""
    with store.begin() as session:
        subtracted(session, exposure("0-covers", 60000.0))
        subtracted(session, exposure("1-other-band", 60001.0, band="g"))
        subtracted(session, exposure("2-elsewhere", 60002.0, ra=153.0))
        subtracted(session, exposure("3-failed", 60003.0), status="failed")
        [one] = seen(session, exposure("4-seen", 60004.0), [candidate(flux=2000.0)])
        subtracted(session, exposure("5-covers", 60005.0, limiting_magnitude=19.5))
        given = [candidate(0, flux=-4000.0, mask_bits=int(MaskBit.TRAIL | MaskBit.SUSPECT))]
        seen(session, exposure("6-seen", 60006.0), given)
        seen(session, exposure("7-seen", 60007.0, band="g"), [candidate()])
        subtracted(session, exposure("8-later", 60008.0))
        own = session.get(tables.Object, one.object_id)
        assert own.n_detections == 3
    return own.id


def test_history_is_what_was_exposed_before(store, history):
    with store.read() as session:
        before, forced_fluxes, limits = history_of(session, history, before_candidate="6-seen-dip-0")
    assert [d.detection_id for d in before] == ["4-seen-dip-0"]
    assert forced_fluxes == ()
    assert [limit.exposure_id for limit in limits] == ["0-covers", "5-covers"]
    assert [limit.limiting_magnitude for limit in limits] == [pytest.approx(LIMIT), 19.5]
    assert {(limit.sigma, limit.band, limit.time_scale) for limit in limits} == {(5.0, "r", "UTC")}
    [seen_before] = before
    assert seen_before.time == pytest.approx(60004.0005, abs=1e-9)
    assert (seen_before.ra_err, seen_before.is_positive) == (pytest.approx(0.1), True)
    assert (seen_before.flux, seen_before.flux_unit) == (pytest.approx(2000.0 * NJY), "nJy")
    assert seen_before.flux_err == pytest.approx(FLUX_ERR * NJY)


def test_history_is_of_the_bands_that_were_used(store, history):
    with store.read() as session:
        before, _, limits = history_of(session, history, before_candidate="7-seen-dip-0")
    assert [(d.detection_id, d.band) for d in before] == [("4-seen-dip-0", "r"), ("6-seen-dip-0", "r")]
    assert (before[1].is_positive, before[1].flags) == (False, ("TRAIL", "SUSPECT"))
    assert before[1].flux == pytest.approx(-4000.0 * NJY)
    assert [limit.exposure_id for limit in limits] == ["1-other-band"]


def test_history_does_not_go_back_for_ever(store, history):
    with store.read() as session:
        before, _, limits = history_of(session, history, before_candidate="6-seen-dip-0", days=1.5)
    assert before == ()
    assert [limit.exposure_id for limit in limits] == ["5-covers"]


@pytest.mark.parametrize(
    ("flux", "limit", "want"),
    [
        (120.0, 18.25, 18.25),  # below 5 sigma: its own limit
        (120.0, None, 19.5),  # none of its own: the exposure's
        (-240.0, 18.25, 18.25),
        (300.0, 18.25, None),  # 6 sigma: something is there
        (-300.0, 18.25, None),
        (None, None, None),  # nothing could be measured there
    ],
)
def test_a_forced_flux_says_what_the_limit_is(store, history, flux, limit, want):
    with store.begin() as session:
        forced(session, history, "5-covers", flux, limit=limit)
        forced(session, history, "8-later", 10.0)
        _, fluxes, limits = history_of(session, history, before_candidate="6-seen-dip-0")
    got = {one.exposure_id: one.limiting_magnitude for one in limits}
    assert got.pop("5-covers", None) == want
    assert list(got) == ["0-covers"]
    [flux_then] = fluxes
    assert flux_then.exposure_id == "5-covers"
    assert flux_then.flags == (("masked",) if flux is None else ())
    if flux is not None and limit is not None:  # an electron is worth what the local limit says
        scale = 10.0 ** (0.4 * (31.4 - limit)) / (5.0 * FLUX_ERR)
        assert (flux_then.flux, flux_then.flux_unit) == (pytest.approx(flux * scale), "nJy")
    elif flux is not None:
        assert (flux_then.flux, flux_then.flux_unit) == (flux, "electron")


def test_a_candidate_that_was_cut_is_no_upper_limit(store, history):
    with store.begin() as session:
        row = exposure("5b", 60005.5)
        subtracted(session, row, [candidate(0, 150.0 + 0.5 / 3600.0, 20.0, cut="dipole")])
        subtracted(session, exposure("5c", 60005.6), [candidate(0, 150.01, 20.0)])
        _, _, limits = history_of(session, history, before_candidate="6-seen-dip-0")
    assert [limit.exposure_id for limit in limits] == ["0-covers", "5-covers", "5c"]


def test_branches_have_their_own_history(store, history):
    with store.begin() as session:
        row = session.get(tables.Exposure, "6-seen")
        [quick] = seen(session, row, [candidate()], branch="qip")
        subtracted(session, session.get(tables.Exposure, "5-covers"), branch="qip")
        forced(session, quick.object_id, "5-covers", 1.0, branch="qip", limit=17.5)
        before, fluxes, limits = history_of(session, quick.object_id, before_candidate="6-seen-qip-0")
    assert (before, len(fluxes)) == ((), 1)
    assert [(one.exposure_id, one.limiting_magnitude) for one in limits] == [("5-covers", 17.5)]


def test_an_exposure_of_unknown_coverage_gives_no_limit(store, history):
    with store.begin() as session:
        subtracted(session, exposure("5d", 60005.5, footprint=None, radius=None))
        subtracted(session, exposure("5e", 60005.6, limiting_magnitude=None))
        _, _, limits = history_of(session, history, before_candidate="6-seen-dip-0")
    assert [limit.exposure_id for limit in limits] == ["0-covers", "5-covers"]


def test_a_minor_planet_has_limits_only_where_it_was_looked_for(store):
    def at(night, ra):
        match = CrossMatch(catalog="MPCORB", source_id="433", kind="minor_planet", separation=0.5)
        return exposure(f"e{night}", 60000.0 + night), [candidate(0, ra, 20.0, matches=(match,))]

    with store.begin() as session:
        [one] = seen(session, *at(0, 150.0))
        subtracted(session, exposure("e1", 60001.0))
        subtracted(session, exposure("e2", 60002.0))
        forced(session, one.object_id, "e2", 20.0, limit=18.0)
        seen(session, *at(3, 150.1))
        before, _, limits = history_of(session, one.object_id, before_candidate="e3-dip-0")
    assert [d.exposure_id for d in before] == ["e0"]
    assert [limit.exposure_id for limit in limits] == ["e2"]


def test_an_unknown_object_or_candidate_is_refused(store, history):
    with store.read() as session:
        with pytest.raises(StoreError, match="nobody"):
            history_of(session, "nobody", before_candidate="6-seen-dip-0")
        with pytest.raises(StoreError, match="nothing"):
            history_of(session, history, before_candidate="nothing")
        with pytest.raises(StoreError, match="nobody"):
            light_curve(session, "nobody")


@pytest.mark.parametrize("zero_point", [22.0, 26.0, 31.4])
def test_fluxes_of_two_exposures_can_be_compared(zero_point):
    """The same source through two zero points: other electrons, the same nanojansky."""
    electrons = 10.0 ** (0.4 * (zero_point - 19.0))
    from_magnitude = flux_of(-electrons, 0.1 * electrons, magnitude=19.0)
    limit = zero_point - 2.5 * np.log10(5.0 * 0.1 * electrons)
    from_limit = flux_of(-electrons, 0.1 * electrons, limit=limit)
    assert from_magnitude.value == pytest.approx(-(10.0 ** (0.4 * 12.4)), rel=1e-12)  # -91.2 µJy, 19 mag AB
    assert from_limit.value == pytest.approx(from_magnitude.value, rel=1e-12)
    assert from_limit.error == pytest.approx(from_magnitude.error, rel=1e-12)
    assert flux_of(10.0, 1.0).unit == "electron"
    assert flux_of(0.0, 0.0, magnitude=19.0, limit=19.0).unit == "electron"


# --- the light curve


def test_a_light_curve_has_everything_by_time(store, history):
    with store.begin() as session:
        forced(session, history, "5-covers", 120.0)
        forced(session, history, "6-seen", -3900.0)
        curve = light_curve(session, history)
    assert curve.schema.equals(SCHEMA, check_metadata=True)
    rows = curve.to_pylist()
    assert [(row["exposure_id"], row["what"]) for row in rows] == [
        ("0-covers", "limit"),
        ("1-other-band", "limit"),
        ("4-seen", "detection"),
        ("5-covers", "forced"),
        ("5-covers", "limit"),
        ("6-seen", "detection"),
        ("6-seen", "forced"),
        ("7-seen", "detection"),
        ("8-later", "limit"),
    ]
    assert [row["snr"] for row in rows if row["what"] == "forced"] == [
        pytest.approx(2.4),
        pytest.approx(-78.0),
    ]
    assert {row["flux_unit"] for row in rows} == {"nJy", None}
    assert all(np.isfinite(row["limiting_magnitude"]) for row in rows)


def test_a_nights_light_curves_are_one_file(store, history, tmp_path):
    with store.begin() as session:
        [other] = seen(session, exposure("9", 60009.0), [candidate(0, 150.2, 20.1)])
        assert changed_objects(session, ["9"]) == [other.object_id]
        forced(session, history, "9", 3.0)
        changed = changed_objects(session, ["9", "9"])
        assert changed == sorted([history, other.object_id])
        path = write_light_curves(session, tmp_path / "curves", night="2023-03-06", object_ids=changed)
        first = path.read_bytes()
        write_light_curves(session, tmp_path / "curves", night="2023-03-06", object_ids=reversed(changed))
        alone = light_curve(session, history)
    assert path == tmp_path / "curves" / "2023-03-06.parquet"
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert pq.read_table(path, filters=[("object_id", "==", history)]).to_pylist() == alone.to_pylist()
    ids = table["object_id"].to_pylist()
    assert ids == sorted(ids)


def test_a_night_without_changes_is_an_empty_table(store, tmp_path):
    with store.read() as session:
        assert changed_objects(session, []) == []
        path = write_light_curves(session, tmp_path, night="n", object_ids=[])
    assert pq.read_table(path).num_rows == 0


def test_the_picture_shows_detections_and_limits(store, history, tmp_path):
    with store.begin() as session:
        forced(session, history, "5-covers", 120.0)
        full = light_curve(session, history)
        session.execute(
            sa.update(tables.Candidate).where(tables.Candidate.id == "4-seen-dip-0").values(magnitude=None)
        )
        session.expire_all()
        without = light_curve(session, history)
    pictures = {}
    for name, curve in (("full", full), ("without", without), ("empty", full.slice(0, 0))):
        plot_light_curve(curve, tmp_path / f"{name}.png")
        pictures[name] = imread(tmp_path / f"{name}.png")[..., :3]
    assert {picture.shape for picture in pictures.values()} == {(540, 960, 3)}
    green, red = np.array([0, 158, 115]) / 255, np.array([213, 94, 0]) / 255  # g, r

    def n_pixels(name, color):
        return int((np.abs(pictures[name] - color).max(axis=-1) < 0.02).sum())

    assert n_pixels("full", green) > 50
    assert n_pixels("full", red) > n_pixels("without", red) + 20  # one point fewer
    assert n_pixels("empty", red) == n_pixels("empty", green) == 0
