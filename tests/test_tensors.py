"""What networks see: planes in order, normalised from the packet alone, invalid pixels told."""

import numpy as np
import pytest

from multiscale import Cutout, Geometry, RecordError, decode_batch
from multiscale.tensors import as_in_paper, in_noise, tensors_of

GEOMETRY = Geometry(8, 4, 1.0)
KINDS = ("science", "template", "difference")


def images(seed=0, *, star=0.0):
    rng = np.random.default_rng(seed)
    sky = {"science": 200.0, "template": 100.0, "difference": 0.0}
    planes = {k: rng.normal(level, 5.0, (63, 63)).astype("f4") for k, level in sky.items()}
    planes["science"][31, 31] += star
    planes["difference"][31, 31] += star
    return planes


def group_of(*stacks, **options):
    cutouts = [Cutout.from_images(planes, GEOMETRY, center=(31, 31), **options) for planes in stacks]
    [group] = decode_batch([cutout.to_record() for cutout in cutouts])
    return group


@pytest.mark.parametrize("encoding", ["raw", "rice"])
def test_noise_is_one_on_every_level(encoding):
    group = group_of(*(images(seed) for seed in range(40)), encoding=encoding)
    values = np.sinh(tensors_of(group, KINDS).values)
    for level in range(4):
        spread = 1.4826 * np.median(np.abs(values[:, :, level]))
        assert spread == pytest.approx(1.0, abs=0.08), level
    assert abs(np.median(values)) < 0.05


def test_a_source_is_its_signal_to_noise():
    group = group_of(images(star=500.0))
    values = tensors_of(group, ("difference",)).values
    # pixel 31 is the one before the shared corner: index 3 of 8
    assert np.sinh(values[0, 0, 0, 3, 3]) == pytest.approx(100, abs=5)
    # one level up it is a fourth of the flux per pixel, of noise half as large
    assert np.sinh(values[0, 0, 1, 3, 3]) == pytest.approx(50, abs=4)


def test_planes_come_in_the_order_asked_for():
    group = group_of(images())
    some = tensors_of(group, ("difference", "science"))
    assert some.values.shape == (1, 2, 4, 8, 8)
    assert np.array_equal(some.values[:, 1], tensors_of(group, ("science",)).values[:, 0])
    channels = some.channels()
    assert channels.shape == (1, 4, 4, 8, 8)
    assert channels.dtype == np.float32
    assert np.array_equal(channels[:, 2:], some.valid.astype("f4"))


def test_invalid_pixels_are_zero_and_told():
    planes = images()
    planes["template"][:, :32] = np.nan
    found = tensors_of(group_of(planes), KINDS)
    assert not found.valid[0, 1, 0, :, :4].any()
    assert found.valid[0, 0, 0].all()
    assert (found.values[~found.valid] == 0).all()
    assert np.isfinite(found.values).all()
    # 63 pixels were given of 64: the coarsest level has its last row and column from what is there
    assert found.valid[0, 0, 3].all()


@pytest.mark.parametrize("normalization", ["noise", "paper"])
def test_nothing_beyond_the_packet_is_used(normalization):
    """Encoded, decoded and encoded again: the same tensors, whatever image it came from."""
    cutout = Cutout.from_images(images(star=300.0), GEOMETRY, center=(31, 31), encoding="rice")
    again = Cutout.from_levels({k: cutout.levels(k) for k in KINDS}, GEOMETRY, like=cutout)
    one, two = (
        tensors_of(decode_batch([c.to_record()]).groups[0], KINDS, normalization=normalization)
        for c in (cutout, again)
    )
    assert np.array_equal(one.values, two.values)


def test_without_background_and_noise_the_levels_tell():
    group = group_of(*(images(seed, star=1e4) for seed in range(20)))
    unknown = np.full(20, np.nan, np.float32)
    measured = in_noise(group.levels["science"], unknown, unknown)
    given = in_noise(group.levels["science"], group.background["science"], group.noise["science"])
    ratio = np.sinh(measured[:, 0, 3, 3]) / np.sinh(given[:, 0, 3, 3])
    assert np.median(ratio) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_a_plane_without_noise_gives_finite_numbers(value):
    levels = np.full((2, 4, 8, 8), value, np.float32)
    nothing = np.zeros(2, np.float32)
    assert np.isfinite(in_noise(levels, nothing, nothing)).all()
    assert (as_in_paper(levels)[np.isnan(levels)] == 0).all()


def test_the_papers_normalization():
    levels = np.zeros((1, 1, 8, 8), np.float32)
    levels.ravel()[:] = np.arange(1, 65)
    levels[0, 0, 0, 0] = -1e11  # beyond 1e10: invalid, becomes 0, which is then the smallest
    high = np.percentile(np.abs(np.where(levels < 0, 0, levels)), 99)
    found = as_in_paper(levels)
    assert found[0, 0, 0, 0] == 0
    assert found[0, 0, 0, 1] == pytest.approx(2 / high, rel=1e-6)
    assert np.abs(as_in_paper(levels * np.float32(-1))[0, 0, 7, 7]) == pytest.approx(64 / high, rel=1e-6)
    spike = levels.copy()
    spike[0, 0, 7, 7] = 1e6
    assert as_in_paper(spike).max() == 2.0


def test_a_missing_plane_is_named():
    group = group_of({"science": images()["science"]})
    with pytest.raises(RecordError, match="template"):
        tensors_of(group, KINDS)


def test_an_unknown_normalization_is_named():
    with pytest.raises(ValueError, match=r"zscale.*noise, paper"):
        tensors_of(group_of(images()), KINDS, normalization="zscale")
