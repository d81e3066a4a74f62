"""The figure of an alert: what is drawn is what the cutout holds, where it is, and all of it can be read."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import geometries, images

import multiscale as ms
from multiscale.convert import Options, open_packets
from multiscale.cutout import Clipped, Missing, Sky
from multiscale.packet import alert_title
from multiscale.sky import deproject

pytest.importorskip("matplotlib", reason="the figures need matplotlib (extra plot)")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.image import imread
from matplotlib.text import Text

from multiscale.plot import (
    bar_length,
    clip_lines,
    mask_colors,
    plot_alert,
    save_png,
    sky_directions,
    stretch,
)

NAMES = ["CR", "BAD_COLUMN", "", "A_VERY_LONG_NAME_OF_A_BIT_THAT_NOBODY_READS"]


def make_cutout(kinds=("science", "difference"), owners=(), geometry=None, **options):
    rng = np.random.default_rng(3)
    image = rng.normal(100, 3, (200, 200)).astype(np.float32)
    image[98:103, 100:104] += 200
    image[86:92, 86:96] = np.nan  # within level 2 alone
    mask = np.zeros((200, 200), np.uint16)
    mask[:, 99] = 1
    mask[100, 99:101] |= 2
    mask[100, 103] = 8
    planes = {kind: image - (100 if kind == "difference" else 0) for kind in kinds}
    planes |= {("variance", of): np.abs(image) for of in owners} | {("mask", of): mask for of in owners}
    bits = {("mask", of): NAMES for of in owners}
    options = {"x": 100.3, "y": 99.6, "units": "nJy", "mask_bits": bits, **options}
    return ms.Cutout.from_images(planes, geometry or ms.Geometry(8, 3, 0.2), **options)


def panels(figure):
    """The axes with pixels, by column title: a list of one panel for each plane."""
    return [axes for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"]


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()), canvas.get_renderer()


# What is drawn


def test_every_plane_has_a_panel_for_each_level_with_its_pixels_and_then_the_mosaic():
    cutout = make_cutout(("science", "template", "difference"))
    drawn = panels(plot_alert(cutout))
    assert len(drawn) == 3 * 4
    for i, key in enumerate(("science", "template", "difference")):
        for k in range(3):
            image = drawn[4 * i + k].images[0]
            np.testing.assert_array_equal(image.get_array().filled(np.nan), cutout.levels(key)[k])
            half = 4 << k  # level-0 pixels from the shared corner
            assert image.get_extent() == [-half, half, -half, half]
            assert image.origin == "lower"
        mosaic = [
            image.get_array().filled(np.nan) for image in drawn[4 * i + 3].images if image.norm.vmax != 1
        ]
        assert [len(image) for image in mosaic] == [8, 8, 8]
        np.testing.assert_array_equal(mosaic[0], cutout.levels(key)[2])  # the finest is drawn last
        np.testing.assert_array_equal(mosaic[2], cutout.levels(key)[0])


def test_a_variance_is_shown_times_4_per_level_and_says_so():
    cutout = make_cutout(("science",), ("science",))
    figure = plot_alert(cutout)
    for k, panel in enumerate(panels(figure)[4:7]):
        shown = panel.images[0].get_array().filled(np.nan)
        np.testing.assert_array_equal(shown, cutout.levels("variance", "science")[k] * 4.0**k)
    assert any("shown × 4^level" in text for text in texts(figure))


def test_all_levels_of_a_plane_share_one_stretch():
    drawn = panels(plot_alert(make_cutout()))
    assert len({id(panel.images[0].norm) for panel in drawn[:4]}) == 1
    assert drawn[0].images[0].norm is not drawn[4].images[0].norm


def test_the_object_is_marked_at_dx_dy_in_every_panel_and_nowhere_when_unknown():
    cutout = make_cutout()
    for panel in panels(plot_alert(cutout)):
        [mark] = [line for line in panel.lines if len(line.get_xdata()) == 1]
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (cutout.dx, cutout.dy)
    unknown = plot_alert(cutout.model_copy(update={"dx": None, "dy": None}))
    assert not any(len(line.get_xdata()) == 1 for panel in panels(unknown) for line in panel.lines)
    assert "object" not in texts(unknown)


def test_the_footprint_of_the_next_finer_level_is_a_box_half_as_wide_and_the_mosaic_has_them_all():
    boxes = [
        [patch.get_bbox().bounds for patch in panel.patches]
        for panel in panels(plot_alert(make_cutout()))[:4]
    ]
    assert boxes == [[], [(-4, -4, 8, 8)], [(-8, -8, 16, 16)], [(-4, -4, 8, 8), (-8, -8, 16, 16)]]


def test_invalid_pixels_are_covered_by_a_hatching_and_no_others():
    cutout = make_cutout()
    [shown, hatching] = panels(plot_alert(cutout))[2].images
    invalid = np.isnan(cutout.levels("science")[2])
    assert invalid.any()
    covered = np.asarray(hatching.get_array())[..., 3] > 0
    repeat = len(covered) // len(invalid)
    np.testing.assert_array_equal(covered, np.kron(invalid, np.ones((repeat, repeat), bool)))
    assert hatching.get_extent() == shown.get_extent()
    colors = np.unique(np.asarray(hatching.get_array())[covered], axis=0)
    assert len(colors) == 2  # ground and lines


def test_without_invalid_pixels_nothing_is_hatched_and_the_legend_does_not_speak_of_it():
    figure = plot_alert(make_cutout(x=30.2, y=150.1))
    assert all(len(panel.images) == 1 for panel in panels(figure)[:3])
    assert "no valid pixel" not in texts(figure)


def test_labels_name_level_pixel_scale_unit_statistics_and_what_is_missing():
    missing = [Missing(kind="TEMPLATE", of="NONE", reason="NO_TEMPLATE")]
    cutout = make_cutout(missing=missing, psf_fwhm={"science": 0.83})
    shown = "\n".join(texts(plot_alert(cutout, title="SN $2026$a"))).replace("\N{NO-BREAK SPACE}", " ")
    plane = cutout.plane("science")
    for part in (
        "SN $2026$a", "level 0\n0.2″ pixels", "level 2\n0.8″ pixels", "mosaic\n6.4″ wide", "science", "nJy",
        f"median {plane.background:.3g}", f"noise {plane.noise:.3g}", "FWHM 0.83″", "RAW",
        "orientation not known", "template missing (no template)",
    ):  # fmt: skip
        assert part in shown, part


# Masks


def test_a_mask_pixel_has_the_colour_of_its_rarest_bit_and_the_names_stand_beside():
    cutout = make_cutout(("science",), ("science",))
    plane, levels = cutout.plane("mask", "science"), cutout.levels("mask", "science")
    colors = mask_colors(plane, levels)
    assert list(colors) == [0, 1, 3] or list(colors) == [0, 3, 1]  # the most frequent first
    figure = plot_alert(cutout)
    drawn = np.asarray(panels(figure)[8].images[0].get_array())  # level 0: y 96 to 103, x 97 to 104
    np.testing.assert_allclose(drawn[0, 2], to_rgba(colors[0]))  # CR
    np.testing.assert_allclose(drawn[4, 2], to_rgba(colors[1]))  # CR and BAD_COLUMN
    np.testing.assert_allclose(drawn[0, 0], 1)  # none
    assert {"CR", "BAD_COLUMN"} <= set(texts(figure))
    assert any(text.startswith("A_VERY_LONG") and text.endswith("…") for text in texts(figure))


def test_a_bit_without_a_name_is_called_by_its_number_and_a_clear_mask_says_so():
    cutout = make_cutout(("science",), ("science",))
    levels = np.full((3, 8, 8), 4, np.uint16)
    unnamed = ms.Cutout.from_levels({("mask", "science"): levels}, cutout.geometry)
    assert "bit 2" in texts(plot_alert(unnamed))
    clear = ms.Cutout.from_levels({("mask", "science"): levels * 0}, cutout.geometry)
    assert "no bit set" in texts(plot_alert(clear))


def test_sixteen_bits_are_listed_as_far_as_there_is_room():
    levels = np.full((8, 4, 4), 0xFFFF, np.uint16)
    names = {("mask", "science"): [f"BIT_{bit}" for bit in range(16)]}
    cutout = ms.Cutout.from_levels({("mask", "science"): levels}, ms.Geometry(4, 8, 1), mask_bits=names)
    shown = texts(plot_alert(cutout))
    listed = [text for text in shown if text.startswith("BIT_")]
    assert any(text == f"and {16 - len(listed)} more" for text in shown)


# Stretch


def test_the_stretch_shows_the_noise_and_the_brightest_pixel():
    cutout = make_cutout()
    plane, levels = cutout.plane("science"), cutout.levels("science")
    norm = stretch(plane, levels)
    at = lambda sigmas: float(norm(plane.background + sigmas * plane.noise))  # noqa: E731
    assert 0 < at(-2) < at(0) < at(2) < 1
    assert at(1) - at(-1) > 0.1  # of the range of grey, though the source is 70 sigma above
    assert float(norm(np.nanmax(levels))) == 1


@pytest.mark.parametrize("kind", ["difference", "score"])
def test_a_signed_plane_has_the_middle_of_its_colours_at_0(kind):
    cutout = make_cutout((kind,))
    norm = stretch(cutout.plane(kind), cutout.levels(kind) + 7)
    assert float(norm(0.0)) == pytest.approx(0.5)
    assert norm.vmin == -norm.vmax


def test_coarse_pixels_at_an_edge_do_not_set_the_stretch_of_a_variance():
    levels = np.full((3, 8, 8), 5.0, np.float32)
    levels[0, 4, 4] = 9
    levels[2, 0] = 300  # one of sixteen pixels was given
    cutout = make_cutout(("science",), ("science",))
    norm = stretch(cutout.plane("variance", "science"), levels)
    assert norm.vmax < 30


# Where


@pytest.mark.parametrize(("rotation", "mirrored"), [(0, True), (30, True), (200, False), (300, False)])
def test_the_compass_points_to_where_dec_and_ra_grow(rotation, mirrored):
    angle = np.radians(rotation)
    cd = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 5e-5
    cd = cd @ np.diag([-1 if mirrored else 1, 1])
    sky = Sky(ra=30, dec=60, cd11=cd[0, 0], cd12=cd[0, 1], cd21=cd[1, 0], cd22=cd[1, 1])
    directions = sky_directions(make_cutout().model_copy(update={"sky": sky}))
    for name, moved in (("N", 1), ("E", 0)):
        step = np.array(directions[name])
        assert np.hypot(*step) == pytest.approx(1)
        place = [float(v) for v in deproject(*(cd @ step), sky.ra, sky.dec)]
        change = np.subtract(place, [sky.ra, sky.dec]) * [np.cos(np.radians(sky.dec)), 1]
        assert change[moved] == pytest.approx(5e-5, rel=1e-3)
        assert abs(change[1 - moved]) < 1e-8
    (north_x, north_y), (east_x, east_y) = directions["N"], directions["E"]
    is_sky_parity = north_x * east_y - north_y * east_x > 0  # east is left of north
    assert is_sky_parity == mirrored


def test_the_compass_is_drawn_when_the_sky_is_known_only():
    sky = Sky(ra=30, dec=60, cd11=-5e-5, cd12=0, cd21=0, cd22=5e-5)
    cutout = make_cutout()
    assert not {"N", "E"} & set(texts(plot_alert(cutout)))
    known = texts(plot_alert(cutout.model_copy(update={"sky": sky})))
    assert {"N", "E"} <= set(known)
    assert not any("orientation" in text for text in known)


def test_lines_stand_where_the_given_image_ended():
    sides = Clipped(x_low=0, x_high=3, y_low=14, y_high=0)
    cutout = make_cutout().model_copy(update={"clipped": sides, "clipped_by": "DETECTOR"})
    assert list(clip_lines(cutout, 32)) == [((13, 13), (-2, 16)), ((-16, 13), (-2, -2))]
    assert list(clip_lines(cutout, 16)) == [((-8, 8), (-2, -2))]
    assert list(clip_lines(cutout, 4)) == []
    assert "the detector ends" in texts(plot_alert(cutout))
    assert list(clip_lines(make_cutout(), 32)) == []


def test_a_footprint_beside_the_image_has_no_lines_beyond_its_frame():
    sides = Clipped(x_low=32, x_high=0, y_low=0, y_high=32)
    cutout = make_cutout().model_copy(update={"clipped": sides})
    assert list(clip_lines(cutout, 32)) == []


@given(st.floats(1e-6, 1e6))
def test_a_scale_bar_is_round_and_from_a_fifth_to_half_of_the_panel(width):
    length = bar_length(width)
    assert 0.199 * width <= length <= 0.5 * width
    assert f"{length:.0e}"[0] in "125"
    assert float(f"{length:.0e}") == pytest.approx(length)


def test_scale_bars_have_the_length_they_say():
    cutout = make_cutout()
    for k, panel in enumerate(panels(plot_alert(cutout))[4:]):  # under the last plane
        [bar] = [line for line in panel.lines if line.get_transform() == panel.transAxes]
        width = 8 * 2 ** min(k, 2) * cutout.pixel_scale
        [label] = [text.get_text() for text in panel.texts]
        assert bar.get_xdata()[1] * width == pytest.approx(float(label.rstrip("″")))


# It can be read


def cases():
    yield "one level", make_cutout(("science",), geometry=ms.Geometry(4, 1, 0.2))
    yield (
        "many planes",
        make_cutout(
            ("science", "template", "difference", "score"),
            ("science", "template", "difference"),
            ms.Geometry(16, 4, 0.2),
            x=195.0,
            clipped_by="CUTOUT",
        ),
    )
    yield "eight levels", make_cutout(("science",), geometry=ms.Geometry(64, 8, 0.2))
    yield (
        "long words",
        make_cutout(
            ("difference",),
            ("difference",),
            units="10**-17 erg / (s cm**2 Angstrom arcsec**2)",
            missing=[
                Missing(kind=kind, of="NONE", reason="NO_TEMPLATE")
                for kind in ("SCIENCE", "TEMPLATE", "SCORE")
            ],
        ),
    )


@pytest.mark.parametrize(("name", "cutout"), list(cases()), ids=[name for name, _ in cases()])
def test_all_text_lies_inside_the_figure_and_no_two_texts_overlap(name, cutout):
    figure = plot_alert(cutout, title="A title that says rather a lot about an alert " * 3)
    image, renderer = pixels(figure)
    height, width, _ = image.shape
    assert width <= 17 * figure.dpi
    drawn = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in drawn]
    for text, box in boxes:
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -0.5, text
    for i, (text, box) in enumerate(boxes):
        for other, beside in boxes[i + 1 :]:
            across = min(box.x1, beside.x1) - max(box.x0, beside.x0)
            up = min(box.y1, beside.y1) - max(box.y0, beside.y0)
            assert across < 1.5 or up < 3, (text, other)  # pixels; lines of text may touch


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(geometries(max_size=8, max_levels=3), st.data())
def test_any_pixels_can_be_drawn_without_a_warning(geometry, data):
    shape = (geometry.span_px, geometry.span_px)
    planes = {kind: data.draw(images(shape)) for kind in ("science", "difference")}
    planes["variance", "science"] = data.draw(images(shape, "variance"))
    cutout = ms.Cutout.from_images(planes, geometry, x=2.2, y=3.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(plot_alert(cutout))


@pytest.mark.parametrize("value", [np.nan, 0.0, 7e-30, -4e37])
def test_a_plane_without_contrast_can_be_drawn(value):
    planes = {kind: np.full((20, 20), value) for kind in ("science", "difference", "score")}
    cutout = ms.Cutout.from_images(planes, ms.Geometry(4, 2, 1.0), center=(10, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(plot_alert(cutout))


def test_a_cutout_without_planes_is_refused():
    with pytest.raises(ms.ViewError, match="no planes"):
        plot_alert(make_cutout().model_copy(update={"planes": ()}))


# Files


def test_save_png_writes_a_whole_picture_or_nothing(tmp_path, monkeypatch):
    save_png(make_cutout(), tmp_path / "a.png", title="Title")
    image = imread(tmp_path / "a.png")
    assert image.shape[1] > 800
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

    def half(self, path, **_):
        Path(path).write_bytes(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(OSError, match="No space"):
        save_png(make_cutout(), tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def run(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_no_pyplot_is_loaded_and_no_figure_is_kept():
    assert run("import sys, multiscale.plot; print('matplotlib.pyplot' in sys.modules)") == "False\n"


def test_without_matplotlib_the_error_names_the_extra():
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import multiscale as ms\n"
        "try:\n import multiscale.plot\nexcept ms.ViewError as error:\n print(error)"
    )
    assert 'pip install "multiscale-stamps[plot]"' in run(script)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("path", "n_panels", "words"),
    [
        ("ztf/2659307100115010008.avro", 3 * 5, {"the detector ends", "no valid pixel"}),
        ("lsst/170112044513099796.avro", 6 * 4, {"N", "E", "the survey's cutout ends"}),
    ],
)
def test_real_alerts_are_drawn_with_what_is_known_of_them(path, n_panels, words, shared_data):
    [(_, alert)] = open_packets(shared_data / "alerts" / path, Options())
    figure = plot_alert(alert.cutout, title=alert_title(alert))
    assert len(panels(figure)) == n_panels
    assert words <= set(texts(figure))
    assert alert_title(alert) in texts(figure)
