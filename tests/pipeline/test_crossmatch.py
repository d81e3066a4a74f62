"""Cross-match: readers of the real formats, and what stands at a candidate's place."""

import gzip
import os

import ephem
import numpy as np
import pytest

from reference_pipeline.candidate import Candidate
from reference_pipeline.catalogues import ReferenceStars, StarTable
from reference_pipeline.catalogues.mpcorb import pack_epoch, read_mpcorb, readable, unpack_epoch
from reference_pipeline.catalogues.sphere import directions, separation
from reference_pipeline.config import Catalogues, CrossMatch, Site
from reference_pipeline.crossmatch import (
    Galaxies,
    MinorPlanets,
    cross_match,
    galaxies,
    galaxy_radius,
    open_galaxies,
    open_minor_planets,
    open_sky,
    planets_in_field,
)
from reference_pipeline.crossmatch.match import match_galaxies
from reference_pipeline.crossmatch.minor_planets import planets_near
from reference_pipeline.ephemeris import Orbits, apparent, eccentric_anomaly
from reference_pipeline.errors import CatalogueError, CoverageError
from reference_pipeline.frame import Exposure
from reference_pipeline.simulate.catalogue_files import write_catalogues
from reference_pipeline.simulate.scene import POINT_KINDS
from reference_pipeline.simulate.sky import Sky, SkyConfig
from reference_pipeline.simulate.solar_system import place_asteroids, write_mpcorb

MJD = 61120.3
PALOMAR = Site(longitude=-116.8630, latitude=33.3563, height=1712)
EXPOSURE = Exposure("a", "c", "science", MJD - 150 / 86400, 300.0)
CERES = (
    "00001    3.34  0.15 K239D  60.07881   73.42179   80.25496   10.58688  0.0789126  0.21411523"
    "   2.7672543  0 E2023-F87  7283 123 1801-2023 0.65 M-v 30k MPCLINUX   4000      (1) Ceres"
    "              20230321"
)


def candidate(ra, dec, number=0):
    return Candidate(
        number, 1.0, 2.0, ra, dec, 1e-5, 1e-5, 100.0, 10.0, 10.0, 19.0, 0.1, 2.5, 1.1, None, 12, 0, 0, 0.0,
        50.0, 0.0,
    )  # fmt: skip


def glade_line(number, ra, dec, b="null", **columns):
    """A line of GLADE+.txt; ``columns`` are numbered from 1, as c28="0.01"."""
    words = ["null"] * 40
    words[0], words[7], words[8], words[9], words[10] = str(number), "G", f"{ra:.6f}", f"{dec:.6f}", str(b)
    for column, word in columns.items():
        words[int(column[1:]) - 1] = word
    return " ".join(words) + "\n"


def glade(tmp_path, lines):
    path = tmp_path / "GLADE+.txt"
    path.write_text("".join(lines))
    return path


# GLADE+


def test_columns_of_glade_go_where_they_belong(tmp_path):
    line = (
        "42 43255 NGC4993 NGC4993 13094770-2323017 J130947.71-232302.0 null G 197.44875 -23.383831 13.32 "
        "0.11 0 -19.9 10.3 0.02 9.6 0.02 9.33 0.03 9.5 0.01 9.6 0.01 0 13.4 0.1 0.00978 0.01109 1 "
        "0.0005 0.00015 40.7 2.4 2 3.1 0.4 0 -4.2 0.5\n"
    )
    g = open_galaxies(glade(tmp_path, [line])).cone(197.45, -23.38, 0.1)
    assert len(g) == 1
    expected = {
        "glade": "42", "pgc": "43255", "gwgc": "NGC4993", "hyperleda": "NGC4993",
        "twomass": "13094770-2323017", "wise": "J130947.71-232302.0", "sdss": None, "kind": "G",
        "ra": 197.44875, "dec": -23.383831, "b": 13.32, "b_absolute": -19.9, "k": 9.33, "redshift": 0.00978,
        "redshift_cmb": 0.01109, "redshift_error": 0.00015,
        "distance": 40.7, "distance_error": 2.4, "distance_flag": 2.0, "mass": 3.1,
    }  # fmt: skip
    assert expected == {name: getattr(g, name)[0] for name in Galaxies.__dataclass_fields__}


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(galaxies, "PART", 3000)
    monkeypatch.setattr(galaxies, "ROW_GROUP", 200)
    monkeypatch.setattr(galaxies, "BLOCK", 1 << 17)


def test_cones_agree_with_a_slow_search(tmp_path, small_parts):
    rng = np.random.default_rng(3)
    ra, dec = directions(rng.normal(size=(10_000, 3)))
    path = glade(tmp_path, [glade_line(k, r, d) for k, (r, d) in enumerate(zip(ra, dec))])
    catalogue = open_galaxies(path)
    assert catalogue.metadata.n_galaxies == 10_000
    assert len(list(catalogue.folder.glob("part-*"))) > 2
    ra, dec = np.round(ra, 6), np.round(dec, 6)
    for center in [
        (0.01, 0.0, 3.0),
        (359.9, 45.0, 5.0),
        (10.0, 89.9, 4.0),
        (200.0, -89.0, 8.0),
        (83.0, 3.0, 0.2),
    ]:
        expected = np.flatnonzero(separation(ra, dec, *center[:2]) <= center[2])
        assert sorted(map(int, catalogue.cone(*center).glade)) == list(expected)
    assert len(catalogue.cone(0.01, 0.0, 3.0)) > 2


def test_the_text_is_read_once_and_again_when_it_has_changed(tmp_path):
    path = glade(tmp_path, [glade_line(1, 10.0, 20.0, 15.0)])
    part = open_galaxies(path).folder / "part-000.parquet"
    first = part.stat().st_ino
    assert open_galaxies(path).cone(10.0, 20.0, 0.1).b[0] == 15.0
    assert part.stat().st_ino == first  # the same file
    path.write_text(glade_line(1, 10.0, 20.0, 16.5))
    os.utime(path, ns=(1, 1))
    assert open_galaxies(path).cone(10.0, 20.0, 0.1).b[0] == 16.5
    assert open_galaxies(path.with_suffix(".healpix")).cone(10.0, 20.0, 0.1).b[0] == 16.5
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["GLADE+.healpix", "GLADE+.txt"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("1 2 3\n", "line 5001 has 3 columns, expected 40"),
        (glade_line(1, 10, 20, "bright"), "line 5001, column 11: 'bright' is not a number"),
        (glade_line(1, 10, 20, c28="0.0.1"), "line 5001, column 28"),
        (glade_line(1, 10, 99), "line 5001: no position on the sky"),
        (glade_line(1, 10, 20, c9="null"), "line 5001: no position on the sky"),
        ("\n", "line 5001 has 0 columns"),
    ],
)
def test_a_bad_line_of_glade_is_named(tmp_path, small_parts, bad, words):
    good = [glade_line(k, 10, 20) for k in range(5000)]
    path = glade(tmp_path, [*good, bad, *good])
    with pytest.raises(CatalogueError, match="GLADE") as error:
        open_galaxies(path)
    assert words in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["GLADE+.txt"]  # nothing half made stays


def test_what_is_no_galaxy_catalogue_is_refused(tmp_path):
    with pytest.raises(CatalogueError, match="No such file"):
        open_galaxies(tmp_path / "GLADE+.txt")
    with pytest.raises(CatalogueError, match="not a catalogue of galaxies"):
        open_galaxies(tmp_path)
    assert len(open_galaxies(glade(tmp_path, [])).cone(1, 2, 3)) == 0


def of(ra, dec, b, kind="G", k=np.nan):
    """Galaxies that have a position and a magnitude."""
    n = len(ra)
    names, numbers = np.full(n, None, object), np.full(n, np.nan)
    glade_numbers = np.array([str(i) for i in range(n)], object)
    return Galaxies(
        glade_numbers, *[names] * 6, np.full(n, kind, object), np.array(ra, float), np.array(dec, float),
        np.array(b, float), numbers, np.full(n, k), *[numbers] * 7,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("b", "d25"), [(8.31, 28.8), (9.59, 8.3), (6.27, 70.8), (7.89, 26.9), (8.98, 8.7)], ids=
    ["M101", "M87", "M33", "M81", "M104"],
)  # fmt: skip
def test_sizes_are_near_those_of_the_third_reference_catalogue(b, d25):
    assert galaxy_radius(of([0], [0], [b]))[0] == pytest.approx(d25 * 30, rel=0.65)


def test_a_galaxy_without_b_has_a_size_and_a_quasar_none():
    assert galaxy_radius(of([0], [0], [np.nan], k=12.0)) == galaxy_radius(of([0], [0], [16.0]))
    assert galaxy_radius(of([0], [0], [np.nan])) == 1.0
    assert galaxy_radius(of([0], [0], [15.0], kind="Q")) == 1.0


def test_the_nearest_galaxy_is_so_in_units_of_its_size():
    arcsec = 1 / 3600
    known = of([0.0, 0.0, 0.0, 0.0], [30 * arcsec, 6 * arcsec, -2 * arcsec, 0.5], [14.0, 20.0, 21.5, 9.0])
    (found,) = match_galaxies([candidate(0.0, 0.0)], known, config=CrossMatch())
    radius = galaxy_radius(known)
    assert [m.source_id for m in found] == ["0", "2", "1"]  # 6″ off a galaxy of 2.6″ comes last
    assert [m.properties["sizes"] for m in found] == sorted(m.properties["sizes"] for m in found)
    assert found[0].separation == pytest.approx(30.0, abs=1e-3)
    assert found[0].properties["sizes"] == pytest.approx(30 / radius[0], rel=1e-4)
    (found,) = match_galaxies([candidate(0.0, 0.0)], known, config=CrossMatch(galaxy_radius=20.0))
    assert [m.source_id for m in found] == ["2", "1"]
    (found,) = match_galaxies([candidate(0.0, 0.0)], known, config=CrossMatch(galaxy_sizes=1.0))
    assert [m.source_id for m in found] == ["0"]


# MPCORB


def row(**fields):
    """Ceres's row with other characters from a given column (from 1) on."""
    text = list(CERES)
    for column, characters in fields.items():
        start = int(column[1:]) - 1
        text[start : start + len(characters)] = characters
    return "".join(text)


def mpcorb(tmp_path, rows, *, ends="\n"):
    header = ["MINOR PLANET CENTER ORBIT DATABASE (MPCORB)", "", "Des'n     H     G   Epoch", "-" * 160]
    path = tmp_path / "MPCORB.DAT"
    path.write_bytes((ends.join([*header, *rows]) + ends).encode())
    return path


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_sections_epochs_and_missing_magnitudes_of_a_real_file(tmp_path, ends):
    path = mpcorb(
        tmp_path,
        [CERES, "", row(c1="K14A00A", c21="K2555", c9="     ", c15="     "), row(c9="-1.11")],
        ends=ends,
    )
    orbits = read_mpcorb(path)
    assert list(orbits.designation) == ["00001", "K14A00A", "00001"]
    assert list(orbits.epoch) == [60200.0, unpack_epoch("K2555"), 60200.0]
    assert orbits.h[0] == 3.34
    assert np.isnan(orbits.h[1])
    assert orbits.h[2] == -1.11
    assert list(orbits.g) == [0.15, 0.15, 0.15]
    assert (orbits.perihelion[0], orbits.node[0], orbits.inclination[0]) == (73.42179, 80.25496, 10.58688)
    assert (orbits.eccentricity[0], orbits.semimajor_axis[0]) == (0.0789126, 2.7672543)


def test_a_compressed_file_is_the_same(tmp_path):
    path = mpcorb(tmp_path, [CERES])
    packed = tmp_path / "MPCORB.DAT.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_mpcorb(packed).mean_anomaly[0] == read_mpcorb(path).mean_anomaly[0] == 60.07881
    packed.write_bytes(packed.read_bytes()[:40])
    with pytest.raises(CatalogueError, match=r"MPCORB\.DAT\.gz"):
        read_mpcorb(packed)


def test_a_changed_file_is_read_again_and_an_open_orbit_left_out(tmp_path):
    path = mpcorb(tmp_path, [CERES, row(c71="1.2000000")])
    assert len(read_mpcorb(path)) == 1
    path = mpcorb(tmp_path, [CERES, CERES, CERES])
    assert len(read_mpcorb(path)) == 3
    assert len(read_mpcorb(mpcorb(tmp_path, []))) == 0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row(c27="  6o.07881"), "line 7 is not a row of MPCORB: columns 27-35 are not a number"),
        (row(c71="     nan "), "columns 71-79 are not a number"),
        (row(c9=" x.34"), "columns 9-13 are not a number"),
        (row(c21="K23D9"), "columns 21-25 are not a packed date"),
        (CERES[:90], "ends before column 103"),
    ],
)
def test_a_bad_row_of_mpcorb_is_named(tmp_path, bad, words):
    with pytest.raises(CatalogueError, match="line 7 ") as error:
        read_mpcorb(mpcorb(tmp_path, [CERES, "", bad, CERES]))
    assert words in str(error.value)


def test_a_missing_orbit_file_is_named(tmp_path):
    with pytest.raises(CatalogueError, match=r"MPCORB\.DAT: No such file"):
        read_mpcorb(tmp_path / "MPCORB.DAT")


@pytest.mark.parametrize(
    ("packed", "name"),
    [  # the examples of the Minor Planet Center's page
        ("00001", "1"), ("03202", "3202"), ("50000", "50000"), ("A0345", "100345"), ("a0017", "360017"),
        ("K3289", "203289"), ("~0000", "620000"), ("~000z", "620061"), ("~AZaz", "3140113"),
        ("J95X00A", "1995 XA"), ("J95X01L", "1995 XL1"), ("J95F13B", "1995 FB13"), ("J98SA8Q", "1998 SQ108"),
        ("J98SC7V", "1998 SV127"), ("K99AJ3Z", "2099 AZ193"), ("PLS2040", "2040 P-L"),
        ("T1S3138", "3138 T-1"),
        ("_QC0000", "2026 CA620"), ("_QC0aEM", "2026 CZ6190"),
    ],
)  # fmt: skip
def test_packed_designations(packed, name):
    assert readable(packed) == name


@pytest.mark.parametrize(
    ("packed", "year", "month", "day"),
    [("J9611", 1996, 1, 1), ("J96AA", 1996, 10, 10), ("K01AM", 2001, 10, 22)],
)
def test_packed_dates(packed, year, month, day):
    mjd = unpack_epoch(packed)
    assert ephem.Date(mjd - 15019.5).tuple()[:3] == (year, month, day)
    assert pack_epoch(mjd) == packed


# minor planets


def test_keplers_equation_is_solved_up_to_comets():
    e = np.repeat([0.0, 0.3, 0.9, 0.99, 0.9999], 2001)
    mean = np.tile(np.linspace(-np.pi, np.pi, 2001), 5)
    found = eccentric_anomaly(mean, e)
    assert np.abs(np.remainder(found - e * np.sin(found) - mean + np.pi, 2 * np.pi) - np.pi).max() < 1e-12


def belt(n=60_000, seed=2):
    """Orbits as of the main belt and near the Earth, all around."""
    rng = np.random.default_rng(seed)
    near = rng.random(n) < 0.05
    e = np.where(near, rng.uniform(0.2, 0.7, n), rng.rayleigh(0.1, n).clip(0, 0.6))
    angles = rng.uniform(0, 360, (3, n))
    return Orbits(
        np.array([f"{k:05d}" for k in range(n)], "U7"), np.full(n, 61000.0), *angles, rng.rayleigh(8, n), e,
        np.where(near, rng.uniform(0.9, 2.2, n), rng.uniform(2.1, 3.4, n)), rng.normal(17, 1.5, n),
        np.full(n, 0.15),
    )  # fmt: skip


@pytest.mark.parametrize("days", [0.0, 40.0])
def test_the_bodies_of_a_field_are_all_found(days):
    orbits = belt()
    planets, mjd = MinorPlanets(orbits, PALOMAR, "x"), MJD + days
    ra, dec, visual = apparent(orbits, mjd, PALOMAR)
    center = (ra[7], dec[7])  # somewhere near the ecliptic
    away = separation(ra, dec, *center)
    surely = {orbits.designation[k] for k in np.flatnonzero((away < 2.99) & (visual < 20.98))}
    perhaps = {orbits.designation[k] for k in np.flatnonzero((away < 3.01) & (visual < 21.02))}
    found = planets_near(planets, mjd, *center, 3.0, limit=21.0)
    assert surely <= {p.designation for p in found} <= perhaps
    assert len(surely) > 20
    assert [p.magnitude for p in found] == sorted(p.magnitude for p in found)


def test_pyephem_and_our_own_positions_agree_for_the_site():
    rng = np.random.default_rng(5)
    fields = np.array([[150.0, 10.0], [185.0, -5.0]])
    orbits = place_asteroids(fields, 0.3, MJD, PALOMAR, rng, per_field=20, bright=15.0, faint=21.0)
    ra, dec, visual = apparent(orbits, MJD, PALOMAR)
    row_of = {name: k for k, name in enumerate(orbits.designation)}
    found = [
        p for f in fields for p in planets_near(MinorPlanets(orbits, PALOMAR, "x"), MJD, *f, 0.4, limit=25)
    ]
    assert len(found) == len(orbits)
    later = apparent(orbits, MJD + 1 / 24, PALOMAR)
    off, parallax = [], []
    for p in found:
        k = row_of[p.designation]
        off.append(3600 * separation(p.ra, p.dec, ra[k], dec[k]))
        assert off[-1] < max(1.0, 0.8 / p.earth_distance)
        assert p.magnitude == pytest.approx(visual[k], abs=0.03)
        assert p.dec_rate == pytest.approx((later[1][k] - dec[k]) * 3600, rel=0.05, abs=0.5)
        east = (later[0][k] - ra[k]) * np.cos(np.radians(dec[k])) * 3600
        assert p.ra_rate == pytest.approx(east, rel=0.05, abs=0.5)
        geocentric = planets_near(MinorPlanets(orbits, None, "x"), MJD, p.ra, p.dec, 0.05, limit=25)
        same = next(g for g in geocentric if g.designation == p.designation)
        parallax.append(3600 * separation(p.ra, p.dec, same.ra, same.dec))
    assert np.median(off) < 0.8
    assert np.median(parallax) > 1.0  # and yet they agree: the site is looked from


def test_a_body_of_unknown_brightness_is_kept_and_a_faint_one_left_out():
    orbits = belt(50)
    ra, dec, visual = apparent(orbits, MJD, None)
    lost = orbits.h.copy()
    lost[3] = np.nan
    dark = Orbits(*(lost if n == "h" else getattr(orbits, n) for n in Orbits.__dataclass_fields__))
    exposure, config = EXPOSURE, CrossMatch(planet_limit=float(visual[4]) - 1)
    found = planets_in_field(MinorPlanets(dark, None, "x"), exposure, ra[3], dec[3], 0.01, config=config)
    assert [(p.designation, p.magnitude) for p in found] == [("00003", None)]
    assert not planets_in_field(MinorPlanets(dark, None, "x"), exposure, ra[4], dec[4], 0.01, config=config)


# all of it


def test_stars_are_where_they_have_moved_to():
    stars = ReferenceStars(
        np.array([10.0, 10.01]), np.array([0.0, 0.0]), 2016.0, np.array([0.0, 1000.0]),
        np.array([2000.0, 0.0]),
        {"g": np.array([15.0, np.nan]), "r": np.array([14.5, 16.0])}, source="a sky",
    )  # fmt: skip
    years = 2000 + (MJD - 51544.5) / 365.25 - 2016.0
    there, not_there = candidate(10.0, 2.0 * years / 3600), candidate(10.0, 0.0)
    found = cross_match(
        [there, not_there], EXPOSURE, stars=StarTable(stars, name="x"), galaxies=None, planets=None,
        config=CrossMatch(),
    )  # fmt: skip
    assert found[1].matches == ()
    (match,) = found[0].matches
    assert (match.kind, match.catalog, match.magnitude) == ("star", "a sky", 15.0)
    assert match.separation < 0.01
    assert match.properties["mag_r"] == 14.5


def test_no_candidates_ask_nothing():
    nothing = StarTable(ReferenceStars(np.array([1.0]), np.array([1.0])), name="x")
    assert cross_match((), EXPOSURE, stars=nothing, galaxies=None, planets=None, config=CrossMatch()) == ()
    with pytest.raises(CoverageError):
        cross_match(
            [candidate(200, 5)], EXPOSURE, stars=nothing, galaxies=None, planets=None, config=CrossMatch()
        )


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A patch of simulated sky and its catalogues on disk."""
    folder, field = tmp_path_factory.mktemp("sky"), np.array([[150.0, 10.0]])
    rng = np.random.default_rng(8)
    orbits = place_asteroids(field, 0.15, MJD, PALOMAR, rng, per_field=12, bright=15.0, faint=20.0)
    sky = Sky(4, SkyConfig(), orbits, PALOMAR)
    write_catalogues(sky, folder, field, 0.2)
    return sky, folder


def test_what_stands_in_a_simulated_sky_is_matched(simulated):
    sky, folder = simulated
    known = open_sky(
        Catalogues(
            astrometry=str(folder / "gaia"), photometry=str(folder / "ps1"),
            galaxies=str(folder / "GLADE+.txt"),
            orbits=str(folder / "MPCORB.DAT"),
        ),
        PALOMAR,
    )  # fmt: skip
    scene = sky.scene(150.0, 10.0, 0.12, EXPOSURE.start_mjd, "r", 300.0)
    ra, dec, _ = apparent(sky.orbits, MJD, PALOMAR)
    inside = np.flatnonzero(separation(ra, dec, 150.0, 10.0) < 0.15)
    listed = known.galaxies.cone(150.0, 10.0, 0.12)
    bright = [k for k in range(len(scene.points.ra)) if POINT_KINDS[scene.points.kind[k]] == "star"][:200]
    places = [(scene.points.ra[k], scene.points.dec[k]) for k in bright]
    n_stars = len(places)
    places += [(r, d) for r, d in zip(listed.ra, listed.dec)]
    places += [(ra[k], dec[k]) for k in inside]
    candidates = [candidate(float(r), float(d), k) for k, (r, d) in enumerate(places)]
    found = cross_match(
        candidates, EXPOSURE, stars=known.stars, galaxies=known.galaxies, planets=known.planets,
        config=CrossMatch(),
    )  # fmt: skip
    assert [c.number for c in found] == [c.number for c in candidates]
    kinds = [{m.kind for m in c.matches} for c in found]
    assert n_stars > 50
    assert len(listed) > 20
    assert len(inside) > 5
    listed_stars = known.stars.cone(150.0, 10.0, 0.2)
    for (r, d), kind in zip(places[:n_stars], kinds):
        nearest = 3600 * separation(r, d, listed_stars.ra, listed_stars.dec).min()
        if abs(nearest - 2.0) > 0.3:  # motions between the epochs
            assert ("star" in kind) == (nearest < 2.0)
    for k, glade_number in enumerate(listed.glade, n_stars):
        own = [m for m in found[k].matches if m.source_id == glade_number]
        assert own[0].separation < 1e-3
        assert own[0].redshift == pytest.approx(listed.redshift[k - n_stars])
    for k, body in enumerate(inside, n_stars + len(listed)):
        planet = next(m for m in found[k].matches if m.kind == "minor_planet")
        assert planet.properties["designation"] == sky.orbits.designation[body]
        assert planet.separation < max(1.0, 0.8 / planet.properties["earth_distance"])


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CatalogueError, match="nowhere"):
        open_sky(Catalogues(astrometry=str(tmp_path / "nowhere")), None)
    with pytest.raises(CatalogueError, match=r"nothing\.DAT"):
        open_minor_planets(tmp_path / "nothing.DAT", None)
    write_mpcorb(tmp_path / "MPCORB.DAT", belt(3))
    assert len(open_minor_planets(tmp_path / "MPCORB.DAT", None).orbits) == 3
