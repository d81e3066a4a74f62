"""Nights of simulated surveys: plans that the sky allows, the same bytes from any number of processes."""

import hashlib
import json
from importlib.resources import files

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from typer.testing import CliRunner

from reference_pipeline.cli import app
from reference_pipeline.errors import ConfigError
from reference_pipeline.simulate.survey import load_survey, night_sky, plan_night, simulate_night
from reference_pipeline.simulate.truth import read_truth

SURVEYS = ("ast3", "ztf", "lsst")


def small(name="ztf", **changes):
    values = {"size": (128, 128), "n_bias": 1, "n_flats": 1, "n_science": 2} | changes
    return load_survey(name).model_copy(update=values)


@pytest.mark.parametrize("name", SURVEYS)
def test_shipped_surveys_plan_a_night(name):
    config = load_survey(name)
    plan = plan_night(config, 1, config.default_night)
    science = [p for p in plan if p.exposure.kind == "science"]
    assert len(science) == config.n_science
    assert len({p.exposure.id for p in plan}) == len(plan)
    starts = np.array([p.exposure.start_mjd for p in plan])
    assert (np.diff(starts) > 0).all()
    assert all(1 <= p.exposure.airmass <= config.max_airmass for p in science)
    assert {p.exposure.band for p in science} == set(config.bands)
    assert len({p.exposure.field_id for p in science}) == config.n_fields


def test_airmass_and_darkness_are_those_of_astropy():
    import astropy.units as u
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord, get_body
    from astropy.time import Time

    config = load_survey("ztf")
    plan = [p.exposure for p in plan_night(config, 1, "2021-03-12") if p.exposure.kind == "science"]
    place = EarthLocation(-116.8630, 33.3563, 1712)
    for e in plan[::10]:
        frame = AltAz(obstime=Time(e.mid_mjd, format="mjd"), location=place)
        altitude = SkyCoord(e.ra, e.dec, unit="deg").transform_to(frame).alt.to_value(u.deg)
        assert e.airmass == pytest.approx(1 / np.sin(np.radians(altitude)), abs=2e-3)
        assert get_body("sun", frame.obstime, place).transform_to(frame).alt.to_value(u.deg) < -18


def test_the_moon_brightens_the_sky():
    config = load_survey("ztf").model_copy(update={"bands": ("r",)})

    def brightness(night):
        plan = plan_night(config, 1, night)
        return np.mean([p.conditions.sky_brightness for p in plan if p.conditions])

    new, full = brightness("2021-03-12"), brightness("2021-03-28")
    assert new == pytest.approx(config.weather.dark_sky, abs=0.05)
    assert 1.5 < new - full < 5.0


def test_a_night_without_darkness_is_refused(tmp_path):
    """Of a camera that is brought from Yunnan to Dome A."""
    shipped = files("reference_pipeline")
    camera = (shipped / "cameras" / "ast3.toml").read_text().replace("latitude = 25.53", "latitude = -80.37")
    (tmp_path / "camera.toml").write_text(camera)
    telescope = (shipped / "simulate" / "telescopes" / "ast3.toml").read_text()
    path = tmp_path / "telescope.toml"
    path.write_text(telescope.replace('camera = "ast3"', f"camera = '{tmp_path / 'camera.toml'}'"))
    config = load_survey("ast3").model_copy(update={"telescope": str(path)})
    with pytest.raises(ConfigError, match="the Sun stays above"):
        plan_night(config, 1, "2026-12-20")


@pytest.mark.parametrize("name", ["ast3", "ztf"])
def test_a_northern_survey_has_fields_for_every_night(name):
    config = load_survey(name).model_copy(update={"n_bias": 0, "n_flats": 0, "n_science": 3})
    for month in range(1, 13, 2):
        plan = plan_night(config, 1, f"2026-{month:02d}-15")
        seen = {p.exposure.field_id for p in plan if p.exposure.kind == "science"}
        assert len(seen) == config.n_fields


def test_the_fields_of_ast3_lie_outside_the_milky_way():
    fields = load_survey("ast3").fields
    places = SkyCoord([f.ra for f in fields], [f.dec for f in fields], unit="deg").galactic
    assert np.abs(places.b.deg).min() > 15
    by_id = {f.id: b for f, b in zip(fields, np.abs(places.b.deg))}
    assert 20 < by_id["F005"] < 25  # rich, for those who want a rich one


def test_a_date_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="expected YYYY-MM-DD"):
        plan_night(load_survey("ztf"), 1, "2026-02-30")


def test_an_unknown_survey_is_refused():
    with pytest.raises(ConfigError, match="shipped: ast3, lsst, ztf"):
        load_survey("nothing")


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bytes(tmp_path):
    config = small()
    for name, workers in (("one", 1), ("two", 2)):
        simulate_night(config, 7, config.default_night, tmp_path / name, workers=workers)
    one, two = digest(tmp_path / "one"), digest(tmp_path / "two")
    assert len(one) > 10
    assert one == two


def test_a_night_holds_frames_truth_and_catalogues(tmp_path):
    config = small()
    told = []
    summary = simulate_night(config, 7, config.default_night, tmp_path, progress=told.append)
    assert (summary.n_bias, summary.n_flats, summary.n_science) == (1, 1, 2)
    assert sorted(told) == sorted(path.stem for path in (tmp_path / "raw").glob("*.fits"))
    record = json.loads((tmp_path / "survey.json").read_text())
    science = [e for e in record["exposures"] if e["kind"] == "science"]
    truth = read_truth(tmp_path / "truth" / f"{science[0]['id']}.fits")
    assert truth.exposure.ra == science[0]["ra"]
    for name in ("GLADE+.txt", "MPCORB.DAT", "gaia/catalogue.json", "ps1/catalogue.json"):
        assert (tmp_path / "catalogues" / name).stat().st_size > 0
    with pytest.raises(ConfigError, match="already holds a night"):
        simulate_night(config, 7, config.default_night, tmp_path)
    assert not list(tmp_path.rglob("*.partial"))


def test_asteroids_of_a_night_cross_its_fields():
    config = load_survey("ztf")
    sky = night_sky(config.model_dump_json(), 7, config.default_night)
    first = next(p.exposure for p in plan_night(config, 7, config.default_night) if p.conditions)
    scene = sky.scene(first.ra, first.dec, 0.7, first.mid_mjd, "r", 30.0)
    assert (scene.points.kind == 4).sum() >= 1


def test_the_command_writes_a_night_and_refuses_an_unknown_survey(tmp_path):
    runner = CliRunner()
    options = ["--frames", "1", "--bias", "1", "--flats", "0", "--size", "128", "--workers", "1"]
    done = runner.invoke(app, ["simulate", "--survey", "lsst", "-o", str(tmp_path / "night"), *options])
    assert done.exit_code == 0, done.output
    assert "1 bias, 0 flats, 1 science frames" in done.output
    refused = runner.invoke(app, ["simulate", "--survey", "nothing", "-o", str(tmp_path / "no")])
    assert refused.exit_code == 2
    assert "not known" in refused.output
    assert not (tmp_path / "no").exists()
