"""Cutouts against the images they were cut from; alerts against what they were made of; refusals."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from alert_field import SCALE, STEPS, field
from hypothesis import given
from hypothesis import strategies as st

from multiscale import Cutout, check_file, read_alerts
from multiscale.packet import Classification, ClassProbability, ForcedPhotometry, UpperLimit
from multiscale.sky import deproject
from multiscale.validate import record_faults
from reference_pipeline.alerts import cutouts as cutouts_module
from reference_pipeline.alerts.cutouts import (
    cutouts,
    cutouts_path,
    geometry_of,
    read_cutouts,
    start_mjd_of,
    to_send,
    write_cutouts,
)
from reference_pipeline.alerts.packet import (
    alert_id,
    alert_of,
    build_alert,
    candidate_id,
    detection_of,
    packet_record,
    validated_packet,
)
from reference_pipeline.alerts.provenance import processing_of, provenance_of, settings_digest
from reference_pipeline.candidate import Candidate
from reference_pipeline.config import Alerts, PipelineConfig, load_camera
from reference_pipeline.difference_products import read_difference, write_difference
from reference_pipeline.errors import ConfigError, FileError, FrameError
from reference_pipeline.frame import UNUSABLE, MaskBit
from reference_pipeline.reduce.photometry import background_rms

SPAN = 128  # pixels of four levels of 16


def make(config=None, **changes):
    made = field()
    return cutouts(
        changes.pop("candidates", made.candidates), made.difference, made.aligned, made.template,
        config=config or Alerts(**changes), pixel_scale=SCALE,
    )  # fmt: skip


def images():
    """The planes as a reader of the documentation would make them."""
    made = field()
    unusable = np.uint16(UNUSABLE)
    return {
        "science": np.where(made.aligned.mask & unusable, np.nan, made.aligned.data),
        "template": np.where(made.template.mask & unusable, np.nan, made.template.data),
        "difference": np.where(
            (made.difference.data == 0) & (made.difference.mask != 0), np.nan, made.difference.data
        ),
        "score": made.difference.score,
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    made, path = field(), tmp_path_factory.mktemp("stored") / "n1.fits"
    write_difference(
        path, difference=made.difference, aligned=made.aligned, template=made.template,
        candidates=made.candidates, branch="qip", template_id="3", input_digest="ab" * 32, steps=STEPS,
    )  # fmt: skip
    return read_difference(path)


def test_pixels_are_those_of_the_full_images():
    for candidate, cutout in zip(field().candidates, make()):
        column, row = math.floor(candidate.x) + 1, math.floor(candidate.y) + 1
        for name, image in images().items():
            padded = np.pad(image.astype(float), SPAN, constant_values=np.nan)
            near = padded[row + SPAN - 8 : row + SPAN + 8, column + SPAN - 8 : column + SPAN + 8]
            levels = cutout.levels(name)
            np.testing.assert_array_equal(levels[0], near.astype(np.float32))
            wide = padded[row + SPAN - 16 : row + SPAN + 16, column + SPAN - 16 : column + SPAN + 16]
            blocks = wide.reshape(16, 2, 16, 2)
            whole = np.isfinite(blocks).all(axis=(1, 3))
            np.testing.assert_allclose(levels[1][whole], blocks.mean(axis=(1, 3))[whole], rtol=1e-5)
        assert {plane.unit for plane in cutout.planes} == {"electron", ""}


def test_invalid_pixels_have_their_reason():
    over_column = min(field().candidates, key=lambda c: abs(c.x - 200))
    cutout = make(mask=True, variance=True)[over_column.number]
    science, mask = cutout.levels("science"), cutout.levels("mask", "difference")
    difference, variance = cutout.levels("difference"), cutout.levels("variance", "difference")
    names = cutout.plane("mask", "difference").mask_bits
    assert names[: len(MaskBit)] == tuple(bit.name for bit in MaskBit)
    assert np.isnan(difference).any()
    assert np.isnan(variance[0][np.isnan(difference[0])]).all()
    assert cutout.plane("variance", "difference").unit == "electron**2"
    bad = mask[0] & MaskBit.BAD != 0
    assert np.isnan(science[0][bad]).all()
    assert list(record_faults(cutout.to_record())) == []


def test_the_edge_of_the_detector_clips():
    at_edge = min(field().candidates, key=lambda c: c.x)
    cutout = make()[at_edge.number]
    assert cutout.clipped_by == "DETECTOR"
    assert cutout.clipped.x_low == SPAN // 2 - (math.floor(at_edge.x) + 1)
    assert np.isnan(cutout.levels("science")[3][:, 0]).all()


def test_the_sky_of_a_cutout_gives_the_candidate_s_place():
    for candidate, cutout in zip(field().candidates, make()):
        sky = cutout.sky
        xi = sky.cd11 * cutout.dx + sky.cd12 * cutout.dy
        eta = sky.cd21 * cutout.dx + sky.cd22 * cutout.dy
        ra, dec = deproject(xi, eta, sky.ra, sky.dec)
        assert abs(ra - candidate.ra) * math.cos(math.radians(dec)) * 3600 < 1e-3
        assert abs(dec - candidate.dec) * 3600 < 1e-3


def test_strips_give_what_the_whole_gives(monkeypatch):
    whole = make(mask=True, variance=True)
    monkeypatch.setattr(cutouts_module, "_ROWS", 50)
    assert make(mask=True, variance=True) == whole
    shuffled = [field().candidates[i] for i in (7, 0, 11, 3)]
    assert make(mask=True, variance=True, candidates=shuffled) == [whole[i] for i in (7, 0, 11, 3)]


def test_rice_steps_in_the_noise_of_the_frame():
    raw, rice = make(), make(encoding="rice", step_sigma=0.25)
    sigma = background_rms(field().aligned)
    for one, other in zip(raw, rice):
        plane = other.plane("science")
        assert plane.noise == pytest.approx(sigma, rel=1e-6)
        if plane.encoding == "RICE":
            assert 0.125 * sigma < 2.0**plane.step_exponent < 0.5 * sigma
            error = other.levels("science") - one.levels("science")
            assert np.nanmax(np.abs(error[0])) <= 2.0**plane.step_exponent / 2 * 1.0001
    sizes = [sum(len(p.payload) for c in made for p in c.planes) for made in (raw, rice)]
    assert sizes[1] < 0.4 * sizes[0]


def test_the_psf_is_the_difference_s_own():
    made = field()
    candidate, cutout = made.candidates[0], make(psf=True)[0]
    psf = cutout.plane("difference").psf_image()
    np.testing.assert_allclose(psf, made.difference.psf_at(candidate.x, candidate.y), atol=1e-7)
    assert cutout.plane("science").psf is None
    assert make()[0].plane("difference").psf is None
    wider = max(made.aligned.quality.fwhm, made.template.quality.fwhm)
    assert cutout.plane("difference").psf_fwhm == pytest.approx(wider * SCALE, rel=1e-6)
    assert list(record_faults(cutout.to_record())) == []


def test_the_shape_is_the_profile_s_and_the_scale_the_frame_s():
    assert geometry_of(Alerts(), 1.23).n_pixels == 4 * 16**2
    ztf = geometry_of(Alerts(profile="ZTF-4x8"), 1.23)
    assert (ztf.size, ztf.n_levels, ztf.pixel_scale) == (8, 4, 1.23)
    with pytest.raises(ConfigError, match="AST3-4x16"):
        geometry_of(Alerts(profile="AST3"), 1.23)


def test_what_a_cut_removed_is_not_sent():
    everything = field().candidates
    assert [c.cut for c in to_send(everything)] == [None] * 9
    assert any(c.cut for c in everything)


def test_the_container_gives_back_what_was_put_in(tmp_path):
    made, exposure = make(mask=True), field().aligned.exposure
    by_number = {c.number: cutout for c, cutout in zip(field().candidates, made) if c.cut is None}
    path = cutouts_path(tmp_path, "dip", exposure.id)
    digest = write_cutouts(path, by_number, exposure=exposure, branch="dip")
    assert read_cutouts(path, digest=digest) == by_number
    assert start_mjd_of(path) == exposure.start_mjd
    assert list(check_file(path)) == []
    content = path.read_bytes()
    assert write_cutouts(path, by_number, exposure=exposure, branch="dip") == digest
    assert path.read_bytes() == content
    write_cutouts(path, {}, exposure=exposure, branch="dip")
    assert read_cutouts(path) == {}
    assert start_mjd_of(path) is None


def test_a_container_that_is_damaged_or_another_is_named(tmp_path):
    exposure = field().aligned.exposure
    path = tmp_path / "n1.cutouts.avro"
    digest = write_cutouts(path, dict(enumerate(make())), exposure=exposure, branch="dip")
    content = path.read_bytes()
    for length in (0, 3, 5000, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(FileError) as caught:
            read_cutouts(path)
        assert (caught.value.reason, caught.value.frame_id) == ("not-a-difference", "n1")
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1  # in a payload: Avro sees nothing
    path.write_bytes(damaged)
    with pytest.raises(FileError, match="SHA-256"):
        read_cutouts(path, digest=digest)
    path.unlink()
    with pytest.raises(FileError) as caught:
        read_cutouts(path, digest=digest)
    assert caught.value.reason == "pruned"


def an_alert(stored, number=0, **changes):
    options = {
        "survey": "ast3", "object_id": "AST3-abc", "cutout": make()[number],
        "provenance": provenance_of(stored, settings="cd" * 32, template_digest="ef" * 32),
        "processing": processing_of(STEPS, ended_mjd=60310.5), **changes,
    }  # fmt: skip
    return build_alert(changes.pop("candidate", stored.candidates[number]), stored, **options)


def test_a_detection_says_what_the_candidate_does(stored):
    candidate = stored.candidates[4]
    found = detection_of(candidate, stored, survey="ast3")
    assert found.detection_id == "ast3-qip-n1-F17-g-0007-00004"
    assert found.time == pytest.approx(60310.25 + 30 / 86400, abs=1e-9)
    assert (found.time_scale, found.band, found.exposure_time) == ("UTC", "g", 60.0)
    assert (found.ra, found.dec, found.x, found.y) == (candidate.ra, candidate.dec, candidate.x, candidate.y)
    assert found.ra_err == pytest.approx(2e-5 * 3600)  # arcsec
    assert found.dec_err == pytest.approx(3e-5 * 3600)
    worth = 10 ** (0.4 * (31.4 - candidate.magnitude)) / candidate.flux  # of an electron, nJy
    assert (found.flux, found.flux_unit) == (pytest.approx(worth * candidate.flux), "nJy")
    assert found.flux_err == pytest.approx(worth * 130.0)
    assert found.fwhm == pytest.approx(3.4 * SCALE)
    assert found.limiting_magnitude == 20.5
    assert found.flags == ("BAD", "SUSPECT")
    faded, no_magnitude = (detection_of(stored.candidates[i], stored, survey="ast3") for i in (1, 3))
    assert (faded.is_positive, faded.flags) == (False, ())
    assert faded.snr < 0
    assert (no_magnitude.magnitude, no_magnitude.magnitude_system) == (None, None)


def test_an_alert_says_where_it_comes_from(stored):
    alert = an_alert(stored, 4)
    assert alert.cross_matches == stored.candidates[4].matches
    assert [step.step for step in alert.processing] == ["calibrate", "align"]
    gap = (alert.processing[1].time - alert.processing[0].time) * 86400
    assert gap == pytest.approx(STEPS[1].seconds, abs=1e-3)
    assert alert.processing[1].time == 60310.5
    text = " ".join(p.action for p in alert.provenance)
    for digest in ("ab" * 32, "cd" * 32, "ef" * 32):
        assert digest in text
    assert {p.software for p in alert.provenance} == {"reference-pipeline", "multiscale"}
    assert alert.properties["branch"] == "qip"
    assert alert.properties["template_id"] == "3"
    assert alert.properties["edge"] == pytest.approx(stored.candidates[4].edge)
    assert alert.properties["frame_pearson"] == 0.998


def test_settings_have_a_digest():
    camera = load_camera("ast3")
    one = settings_digest(PipelineConfig(camera=camera))
    assert one == settings_digest(PipelineConfig(camera=camera))
    assert one != settings_digest(PipelineConfig(camera=camera, alerts=Alerts(mask=True)))


def test_ids_are_of_exposure_branch_and_number():
    ids = {
        alert_id("s", b, e, n)
        for b in ("qip", "dip")
        for e in ("x", "x-1", "x-00001")
        for n in (0, 1, 100000)
    }
    assert len(ids) == 18
    assert alert_id("s", "qip", "x", 1) == alert_id("s", "qip", "x", 1)
    assert alert_id("s", "qip", "x", 1) != candidate_id("s", "qip", "x", 1)


def test_a_packet_reads_as_the_alert_it_was(stored):
    earlier = detection_of(stored.candidates[2], stored, survey="ast3")
    forced = ForcedPhotometry(
        exposure_id="n0", time=60300.0, time_scale="UTC", band="g", flux=3.0, flux_err=1.5
    )
    limit = UpperLimit(exposure_id="n0", time=60301.0, time_scale="UTC", band="g", limiting_magnitude=20.1)
    says = Classification(
        classifier="c", version="1", taxonomy="t", classes=(ClassProbability(name="real", probability=0.9),)
    )
    alert = an_alert(
        stored, 7, history=[earlier], forced_photometry=[forced], upper_limits=[limit], classifications=[says]
    )
    packet = validated_packet(alert)
    back = alert_of(packet)
    assert validated_packet(back) == packet
    for name in ("object_id", "cross_matches", "processing", "provenance", "properties", "cutout"):
        assert getattr(back, name) == getattr(alert, name)
    assert (back.detection.ra, back.detection.dec) == (alert.detection.ra, alert.detection.dec)
    assert [len(part) for part in (back.history, back.forced_photometry, back.upper_limits)] == [1, 1, 1]
    assert back.classifications[0].classes[0].probability == pytest.approx(0.9)
    assert back.cutout.levels("score").shape == (4, 16, 16)


def test_multiscale_validate_agrees(stored, tmp_path):
    good, bad = tmp_path / "good.avro", tmp_path / "bad.avro"
    good.write_bytes(validated_packet(an_alert(stored)))
    command = [sys.executable, "-m", "multiscale", "validate"]
    assert subprocess.run([*command, str(good)], capture_output=True, check=False).returncode == 0
    damaged = bytearray(good.read_bytes())
    payload = make()[0].planes[0].payload
    damaged[bytes(damaged).index(payload) + 7] ^= 1
    bad.write_bytes(damaged)
    said = subprocess.run([*command, str(bad)], capture_output=True, text=True, check=False)
    assert said.returncode != 0
    assert "crc" in said.stdout
    (alert,) = read_alerts(_container(tmp_path, good.read_bytes()))
    assert alert.alert_id == "ast3-qip-n1-F17-g-0007-00000-alert"


def _container(folder, message):
    from multiscale import write_alerts

    write_alerts(folder / "one.avro", [alert_of(message)])
    return folder / "one.avro"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("fault", ["crc", "unit", "unknown-plane", "a value that Avro cannot hold", "type"])
def test_what_the_specification_forbids_is_refused(stored, fault):
    alert = an_alert(stored)
    first, *rest = alert.cutout.planes
    planes = {
        "crc": [first.model_copy(update={"crc32": first.crc32 ^ 1}), *rest],
        "unit": [first.model_copy(update={"unit": "electron " * 20}), *rest],
        "unknown-plane": [first.model_copy(update={"kind": "UNKNOWN"}), *rest],
    }.get(fault)
    if planes is not None:
        cutout = Cutout.model_copy(alert.cutout, update={"planes": tuple(planes)})
        alert = alert.model_copy(update={"cutout": cutout})
    elif fault == "type":
        alert = alert.model_copy(update={"object_id": 7})
    else:
        alert = alert.model_copy(update={"properties": {"n": [1]}})
    with pytest.raises(FrameError) as caught:
        validated_packet(alert)
    assert caught.value.reason == "alert-refused"
    assert caught.value.frame_id == "n1-F17-g-0007"
    assert alert.alert_id in caught.value.message


def test_a_frame_without_a_band_says_that_of_its_zero_point(stored):
    nameless = replace(stored, exposure=replace(stored.exposure, band=None))
    assert an_alert(nameless).detection.band == stored.zero_point.band
    assert an_alert(replace(nameless, zero_point=None)).detection.band == "unknown"


def test_magnitudes_of_a_vega_catalogue_are_said_to_be_so(stored):
    vega = replace(stored, zero_point=replace(stored.zero_point, band="vt"))
    found = an_alert(vega).detection
    assert (found.magnitude_system, found.flux_unit, found.flux) == (
        "Vega", "electron", stored.candidates[0].flux
    )  # fmt: skip


numbers = st.floats(width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e300, 1e-300])


@given(
    values=st.fixed_dictionaries(
        dict.fromkeys(("ra_err", "dec_err", "flux", "flux_err", "snr", "fwhm", "elongation", "edge"), numbers)
    ),
    magnitude=st.none() | numbers,
    angle=st.none() | numbers,
    cut=st.none() | st.sampled_from(["edge", "fwhm"]),
    bits=st.integers(0, 127),
)
def test_whatever_was_measured_makes_a_valid_packet(stored, values, magnitude, angle, cut, bits):
    candidate = replace(
        stored.candidates[0], **values, magnitude=magnitude, magnitude_err=magnitude, position_angle=angle,
        cut=cut, mask_bits=bits,
    )  # fmt: skip
    assert isinstance(candidate, Candidate)
    alert = build_alert(candidate, stored, survey="s", object_id=None, cutout=None)
    record = packet_record(validated_packet(alert))
    for value in (*record["detection"].values(), *record["properties"].values()):
        assert not isinstance(value, float) or math.isfinite(value), record
