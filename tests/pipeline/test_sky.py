"""The simulated sky: the same in any order, with the counts and the kinds it says it has."""

import numpy as np
import pytest

from reference_pipeline.catalogues.local import LocalCatalogue
from reference_pipeline.catalogues.sphere import separation
from reference_pipeline.errors import ConfigError
from reference_pipeline.simulate import sky as sky_module
from reference_pipeline.simulate.catalogue_files import write_catalogues
from reference_pipeline.simulate.satellites import SatelliteConfig, passage
from reference_pipeline.simulate.scene import POINT_KINDS
from reference_pipeline.simulate.sky import Sky, SkyConfig, cell_stars, cells, moved, star_counts
from reference_pipeline.simulate.solar_system import place_asteroids
from reference_pipeline.simulate.variables import SUBTYPES, Variables, magnitudes

MJD = 61120.3
RICH = SkyConfig(supernova_rate=2000, supernova_faint=20, variable_density=1500)


def arrays(value):
    return [getattr(value, name) for name in value.__dataclass_fields__]


def assert_same(a, b):
    for x, y in zip(arrays(a), arrays(b)):
        assert x.tobytes() == y.tobytes()


def test_a_field_is_the_same_in_any_order():
    first = Sky(4, RICH).scene(150.0, 30.0, 0.1, MJD, "r", 60.0)
    for cached in (sky_module.cell_stars, sky_module.cell_galaxies, sky_module.cell_variable_stars,
                   sky_module.cell_agn, sky_module.cell_supernovae):  # fmt: skip
        cached.cache_clear()
    other = Sky(4, RICH)
    other.scene(210.0, -5.0, 0.1, MJD + 1, "g", 60.0)
    again = other.scene(150.0, 30.0, 0.1, MJD, "r", 60.0)
    assert_same(first.points, again.points)
    assert_same(first.galaxies, again.galaxies)
    assert_same(first.trails, again.trails)


def test_overlapping_fields_share_their_stars():
    sky = Sky(4)
    a, b = sky.stars(150.0, 30.0, 0.2), sky.stars(150.2, 30.0, 0.2)
    both = separation(a.ra, a.dec, 150.2, 30.0) <= 0.2
    assert both.sum() > 50
    assert np.isin(a.id[both], b.id).all()


def test_another_seed_is_another_sky():
    assert not np.array_equal(Sky(4).stars(150.0, 30.0, 0.1).ra, Sky(5).stars(150.0, 30.0, 0.1).ra)


@pytest.mark.parametrize(("ra", "dec"), [(150.0, 30.0), (0.01, -45.0), (90.0, -89.95)])
def test_ids_are_unique_and_everything_is_in_the_cone(ra, dec):
    scene = Sky(4, RICH).scene(ra, dec, 0.15, MJD, "g", 60.0)
    ids = np.concatenate([scene.points.id, scene.galaxies.id])
    assert len(np.unique(ids)) == len(ids) > 100
    still = scene.points.kind != POINT_KINDS.index("satellite_glint")
    assert separation(scene.points.ra, scene.points.dec, ra, dec)[still].max() < 0.15 + 1 / 60
    assert np.isfinite(scene.points.magnitude).all()


def test_star_counts_are_those_observed():
    """At the pole, V < 20: about 1500–2500 a square degree; several times more at 30°."""
    pole = star_counts(np.array([14.7, 19.7]), 0.0, 90.0)
    assert 1200 < pole[1] < 2600
    assert 80 < pole[0] < 300
    assert 2 * pole[1] < star_counts(np.array([19.7]), 90.0, 30.0)[0] < 6 * pole[1]


def test_stars_are_as_many_as_the_law_says_and_uniform():
    config = SkyConfig(faint_limit=20)
    touched = cells(192.86, 27.13, 1.5)  # the galactic pole
    r = np.concatenate([cell_stars(1, config, cell).r for cell in touched])
    expected = len(touched) * 41252.96 / 786432 * np.diff(star_counts(np.array([8.0, 20.0]), 0, 90.0))[0]
    assert abs(len(r) - expected) < 5 * np.sqrt(expected) + 0.02 * expected  # latitude changes over the field
    stars = Sky(1, config).stars(192.86, 27.13, 1.0)
    inner = (separation(stars.ra, stars.dec, 192.86, 27.13) < np.sqrt(0.5)).mean()
    assert abs(inner - 0.5) < 4 * 0.5 / np.sqrt(len(stars.ra))


def test_stars_move_by_their_proper_motion():
    stars = Sky(1).stars(150.0, 30.0, 0.2)
    ra, dec = moved(stars, 51544.5 + 365.25 * 26)  # ten years after the epoch
    shift = separation(stars.ra, stars.dec, ra, dec) * 3.6e6
    assert np.allclose(shift, 10 * np.hypot(stars.pmra, stars.pmdec), rtol=1e-4, atol=1e-3)


def test_every_kind_of_variable_is_there_and_in_the_truth():
    sky = Sky(4, RICH)
    table = sky.variable_truth(150.0, 30.0, 1.0, MJD, "r")
    assert set(table["subtype"]) == set(SUBTYPES)
    seen = table[table["magnitude"] < 20]
    scene = sky.scene(150.0, 30.0, 1.0, MJD, "r", 60.0)
    at = {int(i): m for i, m in zip(scene.points.id, scene.points.magnitude)}
    assert len(seen) > 100
    assert all(at[int(row["id"])] == row["magnitude"] for row in seen)


def test_one_supernova_in_six_has_no_host_and_the_others_lie_in_one():
    sky = Sky(4, RICH)
    v = sky.variables(150.0, 30.0, 1.0, MJD)
    supernovae = v.select(v.subtype <= 3)
    assert len(supernovae) > 300
    assert 0.10 < (supernovae.host < 0).mean() < 0.20
    galaxies = sky.galaxies(150.0, 30.0, 1.2)
    row = {int(i): k for k, i in enumerate(galaxies.id)}
    hosted = supernovae.select(supernovae.host >= 0)
    rows = np.array([row[int(h)] for h in hosted.host])
    away = separation(hosted.ra, hosted.dec, galaxies.ra[rows], galaxies.dec[rows]) * 3600
    assert np.median(away / galaxies.half_light_radius[rows]) == pytest.approx(0.75, abs=0.25)


def source(subtype, **values):
    defaults = {"id": 9, "ra": 0, "dec": 0, "host": -1, "r": 18.0, "color": 0.0, "a": 0.0, "b": 0.0,
                "period": 1.0, "phase": 0.0} | values  # fmt: skip
    columns = {k: np.array([v], np.int64 if k in ("id", "host") else float) for k, v in defaults.items()}
    return Variables(subtype=np.array([SUBTYPES.index(subtype)], np.int8), **columns)


def test_a_type_ia_rises_in_18_days_and_falls_a_magnitude_in_g_faster_than_in_r():
    sn = source("SN Ia", a=60000.0)
    r = np.array([magnitudes(sn, 60000.0 + t)[0][0] for t in range(-2, 150)])
    assert np.isinf(r[:3]).all()
    assert np.argmin(r) == 20
    after_15 = magnitudes(sn, 60033.0)
    assert 0.9 < after_15[1][0] - 18.0 < 1.7  # Δm15 in g
    assert after_15[0][0] - 18.0 < after_15[1][0] - 18.0


def test_an_agn_walks_with_its_rms_and_damping_time():
    changes, lagged = [], []
    for k in range(400):
        agn = source("AGN", id=1000 + k, a=0.2, period=100.0)
        now, later = (magnitudes(agn, 60000.0 + t)[0][0] - 18.0 for t in (0.0, 100.0))
        changes.append(now)
        lagged.append(now * later)
    assert np.std(changes) == pytest.approx(0.2, rel=0.12)  # 3.5 σ of 400 draws
    assert np.mean(lagged) / np.var(changes) == pytest.approx(np.exp(-1), abs=0.17)


@pytest.mark.parametrize(
    ("name", "values", "low", "high"),
    [
        ("RR Lyrae", {"a": 1.0, "period": 0.55}, 0.6, 0.8),
        ("eclipsing", {"a": 0.8, "b": 0.03, "period": 1.7}, 0.7, 0.85),
        ("Mira", {"a": 4.0, "period": 300.0}, 3.8, 4.5),
        ("delta Scuti", {"a": 0.2, "period": 0.07}, 0.18, 0.21),
        ("flare star", {"a": 2.5, "b": 0.02, "period": 1.0}, 0.3, 2.6),
        ("cataclysmic", {"a": 4.0, "period": 20.0}, 3.0, 4.1),
    ],
)
def test_each_variable_star_has_its_amplitude(name, values, low, high):
    star = source(name, **values)
    times = 60000.0 + np.linspace(0, 2 * values["period"] + 3, 4000)
    r = np.array([magnitudes(star, t)[0][0] for t in times])
    assert low < np.ptp(r) < high


def test_glints_come_at_their_rate_on_lines_5_to_25_arcsec_apart():
    config = SatelliteConfig()
    drawn = [passage(config, 150.0, 30.0, 0.1, np.random.default_rng([1, k])) for k in range(4000)]
    with_glint = [p for p in drawn if len(p.glint_ra)]
    assert len(with_glint) / 4000 == pytest.approx(0.036, abs=0.012)  # 4 σ
    assert any(len(p.glint_ra) == 1 for p in with_glint)
    assert any(p.glint_defocus.max() > 0 for p in with_glint)
    for p in (p for p in with_glint if len(p.glint_ra) > 2):
        assert 3 <= len(p.glint_ra) <= 20
        x, y = (p.glint_ra - 150.0) * np.cos(np.radians(30.0)) * 3600, (p.glint_dec - 30.0) * 3600
        centred = np.stack([x - x.mean(), y - y.mean()])
        across = np.linalg.svd(centred, compute_uv=False)[1] / np.sqrt(len(x))
        assert across < 0.5  # arcsec: a straight line, but for the curvature of the sky's coordinates
        assert 4 < np.median(np.hypot(np.diff(x), np.diff(y))) < 27


def test_trails_cross_the_field():
    config = SatelliteConfig(trail_rate=1.0, glint_rate=0.0)
    for k in range(50):
        p = passage(config, 150.0, 30.0, 0.1, np.random.default_rng([2, k]))
        x = (p.trail_ra[0] - 150.0) * np.cos(np.radians(30.0))
        y = p.trail_dec[0] - 30.0
        distance = abs(x[0] * y[1] - x[1] * y[0]) / np.hypot(x[1] - x[0], y[1] - y[0])
        assert distance < 0.07
        assert np.hypot(x[1] - x[0], y[1] - y[0]) > 0.4


def test_asteroids_move_through_the_scene():
    fields = np.array([[150.0, 10.0]])
    orbits = place_asteroids(
        fields, 0.1, MJD, None, np.random.default_rng(1), per_field=10.0, bright=15.0, faint=20.0
    )
    scene = Sky(1, SkyConfig(), orbits).scene(150.0, 10.0, 0.12, MJD, "r", 300.0)
    rows = scene.points.kind == POINT_KINDS.index("asteroid")
    moved_by = np.hypot(scene.points.motion_ra, scene.points.motion_dec)
    assert rows.sum() == len(orbits)
    assert (moved_by[rows] < 10).all()  # arcsec in five minutes; the main belt does 2 to 3
    assert np.median(moved_by[rows]) > 0.5
    assert (moved_by[~rows & (scene.points.kind != POINT_KINDS.index("satellite_glint"))] == 0).all()


def test_an_unknown_band_is_refused():
    with pytest.raises(ConfigError, match="not 'V'"):
        Sky(1).scene(150.0, 30.0, 0.05, MJD, "V", 60.0)


def test_catalogues_hold_the_stars_of_the_sky(tmp_path):
    sky = Sky(4, RICH)
    write_catalogues(sky, tmp_path, np.array([[150.0, 30.0]]), 0.15)
    stars = sky.stars(150.0, 30.0, 0.1)
    bright = stars.r < 19
    ra, dec = moved(stars, 51544.5 + 365.25 * 26)  # 2026
    for name, tolerance in (("gaia", 0.005), ("ps1", 0.6)):
        found = LocalCatalogue(tmp_path / name).cone(150.0, 30.0, 0.12).at_epoch(2026.0)
        nearest = np.array([
            separation(found.ra, found.dec, a, d).min() * 3600 for a, d in zip(ra[bright], dec[bright])
        ])  # fmt: skip
        assert np.median(nearest) < tolerance
    ps1 = LocalCatalogue(tmp_path / "ps1").cone(150.0, 30.0, 0.1)
    order = [int(np.argmin(separation(ps1.ra, ps1.dec, a, d))) for a, d in zip(ra[bright], dec[bright])]
    off = ps1.magnitudes["r"][order] - stars.r[bright]
    assert np.median(np.abs(off)) < 0.02


def test_a_star_has_the_same_errors_in_the_catalogues_of_any_fields(tmp_path):
    sky, here, there = Sky(4, RICH), [150.0, 30.0], [148.0, 29.0]
    cones = []
    for name, fields in (("one", [here]), ("two", [there, here])):
        write_catalogues(sky, tmp_path / name, np.array(fields), 0.3)
        cones.append([LocalCatalogue(tmp_path / name / kind).cone(*here, 0.2) for kind in ("gaia", "ps1")])
    for one, two in zip(*cones):
        assert len(one.ra) > 100
        for band in one.magnitudes:
            found = dict(zip(zip(two.ra, two.dec), two.magnitudes[band]))
            assert dict(zip(zip(one.ra, one.dec), one.magnitudes[band])).items() <= found.items()
    lines = [(tmp_path / name / "GLADE+.txt").read_text().splitlines() for name in ("one", "two")]
    assert lines[0]
    assert set(lines[0]) < set(lines[1])


def test_glade_has_forty_columns_and_the_galaxies_of_the_sky(tmp_path):
    sky = Sky(4)
    write_catalogues(sky, tmp_path, np.array([[150.0, 30.0]]), 0.15, galaxy_limit=20.0)
    rows = [line.split(" ") for line in (tmp_path / "GLADE+.txt").read_text().splitlines()]
    assert {len(row) for row in rows} == {40}
    assert {row[7] for row in rows} == {"G"}
    galaxies = sky.galaxies(150.0, 30.0, 0.15)
    listed = np.array([[float(row[8]), float(row[9])] for row in rows])
    for ra, dec in zip(galaxies.ra[galaxies.r < 20], galaxies.dec[galaxies.r < 20]):
        assert separation(listed[:, 0], listed[:, 1], ra, dec).min() * 3600 < 0.001
    distance = np.array([float(row[32]) for row in rows])
    redshift = np.array([float(row[27]) for row in rows])
    assert np.allclose(redshift * 299792.458 / 70, distance, rtol=1e-2, atol=0.1)
