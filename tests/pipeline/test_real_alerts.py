"""Five real raw frames through the whole night, and again with sources put into one: nothing is dropped."""

import shutil

import pytest

from benchmarks.real_frames import night as real_night
from reference_pipeline.config import Templates
from reference_pipeline.night.whole import run_night

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning"),
]

N_FILES, N_STACK, N_SOURCES = 5, 3, 18


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Both nights, of five frames of which three make the template, and what was found of the sources."""
    if not real_night.HATP32.is_dir():
        pytest.skip("needs the HAT-P-32 series in ../shared/data")
    folder = tmp_path_factory.mktemp("hatp32")
    files = sorted(real_night.HATP32.glob("*.FITS"))[1 : 1 + N_FILES]
    config = real_night.night_settings()
    config = config.model_copy(
        update={"templates": Templates(method="stack", min_pearson=0.85, stack_size=N_STACK)}
    )
    plain = run_night(files, folder / "plain", config=config)
    sources, raw = real_night.inject(files, plain, folder, config, N_SOURCES)
    night = run_night(raw, folder / "injected", config=config)
    events = real_night.found_again(sources, plain, night, folder)
    yield folder, plain, night, sources, events
    shutil.rmtree(folder)


def test_every_frame_candidate_and_alert_is_accounted_for(nights):
    folder, plain, night, _, _ = nights
    for run, name in ((plain, "plain"), (night, "injected")):
        a = real_night.account(run, folder / name)
        assert a["reported"] == N_FILES
        assert a["frames"] == {"calibrated": N_FILES}
        assert a["differences"] == {"template": N_STACK, "done": N_FILES - N_STACK}
        assert a["candidates"] == a["cut"] + a["kept"]
        assert a["kept"] == a["alerts"] == a["delivered"] == a["packets"]
        assert a["findings"] == 0


def test_the_noise_of_real_frames_is_known(nights):
    _, plain, _, _, _ = nights
    for d in plain.differences:
        if d.status == "done":
            assert 0.8 < d.decision("subtract", "score_sigma") < 1.25
            assert 0.8 < d.decision("subtract", "held_out_chi2") < 3.0


def test_sources_put_into_raw_frames_become_alerts_with_their_flux(nights):
    _, _, _, _, events = nights
    clean = [e for e in events if e["is_clean"] and e["snr"] >= 10]
    assert len(clean) >= 8
    assert sum(e["is_kept"] for e in clean) >= 0.85 * len(clean)  # of a dozen, one may be missed
    ratios = sorted(e["ratio"] for e in clean if e["is_found"])
    assert ratios[len(ratios) // 2] == pytest.approx(1.0, abs=0.08)


def test_a_source_of_two_frames_is_one_object(nights):
    _, _, _, sources, events = nights
    found = real_night.associations(events, sources)
    assert found["n_objects_of_two_sources"] == 0
    assert found["n_one_object"] == found["n_kept_more_than_once"] > 0
