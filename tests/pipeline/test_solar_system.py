"""Asteroids: placed where they were asked for, written as MPCORB, and where other software puts them."""

import erfa
import numpy as np
import pytest

from reference_pipeline.catalogues.mpcorb import read_mpcorb
from reference_pipeline.catalogues.sphere import separation
from reference_pipeline.config import Site
from reference_pipeline.ephemeris import Orbits, apparent, no_orbits, observer
from reference_pipeline.errors import CatalogueError
from reference_pipeline.simulate.solar_system import place_asteroids, write_mpcorb

MJD = 61120.3
FIELDS = np.array([[150.0, 10.0], [185.0, -5.0], [90.0, -60.0], [0.05, 45.0]])
PALOMAR = Site(longitude=-116.8630, latitude=33.3563, height=1712)


def asteroids(per_field=12.0, site=PALOMAR):
    rng = np.random.default_rng(5)
    return place_asteroids(FIELDS, 0.3, MJD, site, rng, per_field=per_field, bright=15.0, faint=21.0)


def test_asteroids_stand_in_the_fields_that_night():
    ra, dec, visual = apparent(asteroids(), MJD, PALOMAR)
    nearest = np.min([separation(ra, dec, *field) for field in FIELDS], axis=0)
    assert len(ra) > 30
    assert nearest.max() < 0.3 + 2 / 3600  # the digits of MPCORB are worth an arcsecond
    assert visual.min() > 14.9
    assert visual.max() < 21.1


def test_written_elements_read_back_exactly(tmp_path):
    orbits = asteroids()
    write_mpcorb(tmp_path / "MPCORB.DAT", orbits)
    read = read_mpcorb(tmp_path / "MPCORB.DAT")
    assert list(read.designation) == list(orbits.designation)
    for name in Orbits.__dataclass_fields__:
        assert np.array_equal(getattr(read, name), getattr(orbits, name)), name


def test_columns_are_those_of_the_minor_planet_center(tmp_path):
    write_mpcorb(tmp_path / "MPCORB.DAT", asteroids())
    rows = (tmp_path / "MPCORB.DAT").read_text().splitlines()[4:]
    ceres = (
        "00001    3.34  0.15 K239D  60.07881   73.42179   80.25496   10.58688  0.0789126  0.21411523"
        "   2.7672543  0 E2023-F87  7283 123 1801-2023 0.65 M-v 30k MPCLINUX   4000      (1) Ceres"
        "              20230321"
    )
    assert {len(row) for row in rows} == {len(ceres)} == {202}
    points = [k for k, c in enumerate(ceres[:103]) if c == "."]
    assert all([k for k, c in enumerate(row[:103]) if c == "."] == points for row in rows)


def test_a_real_row_is_read(tmp_path):
    (tmp_path / "one").write_text(
        "00001    3.34  0.15 K239D  60.07881   73.42179   80.25496   10.58688  0.0789126"
        "  0.21411523   2.7672543\n"
    )
    ceres = read_mpcorb(tmp_path / "one")
    assert ceres.epoch == 60200.0  # 2023 September 13.0
    assert ceres.daily_motion[0] == pytest.approx(
        0.21411523, abs=1e-5
    )  # n is the MPC's, with the planets' pull


def test_a_row_that_is_none_is_refused(tmp_path):
    (tmp_path / "bad").write_text("00001    3.34  0.15 K239D  not numbers at all\n")
    with pytest.raises(CatalogueError, match="not a row of MPCORB"):
        read_mpcorb(tmp_path / "bad")


@pytest.mark.parametrize("days", [0.0, 3.0, -20.0])
def test_positions_and_magnitudes_agree_with_pyephem(days):
    """PyEphem has another Kepler solver, Earth (VSOP87) and light time; it keeps elements in single
    precision, worth 0.1″ in each angle seen from the Sun, more from nearby.
    """
    ephem = pytest.importorskip("ephem")
    orbits = asteroids()
    mjd = MJD + days
    ra, dec, visual = apparent(orbits, mjd, None)
    year, month, day, _ = erfa.jd2cal(2400000.5, orbits.epoch[0])
    off = []
    for k in range(len(orbits)):
        body = ephem.readdb(
            f"x,e,{orbits.inclination[k]},{orbits.node[k]},{orbits.perihelion[k]},"
            f"{orbits.semimajor_axis[k]},{orbits.daily_motion[k]:.8f},{orbits.eccentricity[k]},"
            f"{orbits.mean_anomaly[k]},{month}/{day}/{year},2000,{orbits.h[k]},{orbits.g[k]}"
        )
        body.compute(ephem.Date(mjd - 15019.5), epoch="2000")
        a_ra, a_dec = np.degrees([body.a_ra, body.a_dec])
        off.append(separation(a_ra, a_dec, ra[k], dec[k]) * 3600)
        assert off[-1] < max(1.2, 0.8 / body.earth_distance)
        assert body.mag == pytest.approx(visual[k], abs=0.03)
    assert np.median(off) < 0.3


def test_earth_and_site_agree_with_astropy():
    coordinates = pytest.importorskip("astropy.coordinates")
    import astropy.units as u
    from astropy.time import Time

    time = Time(60000.3, format="mjd", scale="utc")
    earth, sun = (
        coordinates.get_body_barycentric(body, time, ephemeris="builtin").xyz.to_value(u.au)
        for body in ("earth", "sun")
    )
    assert np.abs(observer(60000.3, None) - (earth - sun)).max() < 1e-9
    place = coordinates.EarthLocation(PALOMAR.longitude, PALOMAR.latitude, PALOMAR.height)
    offset = place.get_gcrs_posvel(time)[0].xyz.to_value(u.km)
    ours = (observer(60000.3, PALOMAR) - observer(60000.3, None)) * 149597870.7
    assert np.abs(ours - offset).max() < 0.5  # km: UT1 − UTC of up to 0.9 s


def test_parallax_of_the_site_is_seen():
    orbits = asteroids()
    here, there = apparent(orbits, MJD, PALOMAR), apparent(orbits, MJD, None)
    shift = separation(here[0], here[1], there[0], there[1]) * 3600
    assert 0.5 < shift.max() < 40  # 8.8″ / Δ, at most
    assert shift.max() > 1.0


def test_no_asteroids_is_no_trouble(tmp_path):
    assert len(asteroids(per_field=0.0)) == 0
    ra, _, _ = apparent(no_orbits(), MJD, PALOMAR)
    assert len(ra) == 0
