"""A notice says which exposures go first; anything else is refused in words."""

import json
from dataclasses import replace

import pytest

from reference_pipeline.errors import ConfigError
from reference_pipeline.frame import Exposure
from reference_pipeline.night.too import read_notice

JSON = {
    "$schema": "https://gcn.nasa.gov/schema/main/gcn/notices/core/Localization.schema.json",
    "id": ["S1"], "event_name": ["GRB 260516A"], "trigger_time": "2026-05-16T16:30:00.00Z",
    "ra": 210.5, "dec": -1.25, "ra_dec_error": [0.5, 0.2, 30.0],
}  # fmt: skip
XML = """<?xml version="1.0"?>
<voe:VOEvent ivorn="ivo://nasa.gsfc.gcn/Fermi#GBM_1" role="observation" version="2.0"
 xmlns:voe="http://www.ivoa.net/xml/VOEvent/v2.0"><WhereWhen><ObsDataLocation><ObservationLocation>
<AstroCoords><Time unit="s"><TimeInstant><ISOTime>2026-05-16T16:30:00.00</ISOTime></TimeInstant></Time>
<Position2D unit="deg"><Value2><C1>210.5</C1><C2>-1.25</C2></Value2><Error2Radius>0.5</Error2Radius>
</Position2D></AstroCoords></ObservationLocation></ObsDataLocation></WhereWhen></voe:VOEvent>"""
MJD = 61176.6875


def write(folder, text):
    path = folder / "notice"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [json.dumps(JSON), XML], ids=["json", "voevent"])
def test_both_forms_say_the_same(text, tmp_path):
    notice = read_notice(write(tmp_path, text), days=0.5)
    assert (notice.ra, notice.dec, notice.radius) == (210.5, -1.25, 0.5)
    assert notice.start_mjd == pytest.approx(MJD, abs=1e-6)
    assert notice.end_mjd == pytest.approx(MJD + 0.5, abs=1e-6)


def test_a_notice_concerns_its_field_in_its_window_only(tmp_path):
    notice = read_notice(write(tmp_path, json.dumps(JSON)), days=0.5)
    exposure = Exposure("a", "ast3", "science", MJD + 0.1, 60.0, "g", 210.0, -1.0)
    assert notice.concerns(exposure, 0.2)
    assert not notice.concerns(replace(exposure, ra=212.0), 0.2)
    assert not notice.concerns(replace(exposure, start_mjd=MJD - 0.1), 0.2)
    assert not notice.concerns(replace(exposure, start_mjd=MJD + 0.6), 0.2)
    assert not notice.concerns(replace(exposure, ra=None), 0.2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("GRB_RA: 210.5d", "not a GCN notice"),
        ("[1, 2]", "expected an object"),
        (json.dumps({**JSON, "ra": None}), "no ra"),
        (json.dumps({**JSON, "dec": 95.0}), "on the sky"),
        (json.dumps({**JSON, "trigger_time": "yesterday"}), "trigger time 'yesterday'"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a/>', "entities"),
        ("<a>", "not a GCN notice"),
    ],
)
def test_what_is_no_notice_is_refused(text, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        read_notice(write(tmp_path, text), days=1)
