"""Reference catalogues: what is written is read, cones agree with a slow search, trouble is named."""

import socket

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from reference_pipeline.catalogues import (
    FileCatalogue,
    LocalCatalogue,
    OnlineCatalogue,
    ReferenceStars,
    StarTable,
    Tycho2,
    open_catalogue,
    write_partitioned,
)
from reference_pipeline.catalogues.sphere import directions, separation, unit_vectors
from reference_pipeline.catalogues.tycho2 import DEBIAN_FOLDER, PATTERN
from reference_pipeline.errors import CatalogueError, CoverageError

needs_tycho2 = pytest.mark.skipif(
    not list(DEBIAN_FOLDER.glob(PATTERN)), reason="needs Debian's astrometry-data-tycho2"
)


def all_sky(n=40_000, seed=1):
    rng = np.random.default_rng(seed)
    ra, dec = directions(rng.normal(size=(n, 3)))
    magnitude = rng.uniform(8, 20, n)
    magnitude[::7] = np.nan
    return ReferenceStars(
        ra, dec, 2016.0, rng.normal(0, 20, n), rng.normal(0, 20, n),
        {"g": magnitude, "r": magnitude - 0.4}, {"g": np.full(n, 0.02)}, "a sky",
    )  # fmt: skip


def by_position(stars):
    return stars.select(np.lexsort([stars.dec, stars.ra]))


def assert_same_stars(found, expected):
    found, expected = by_position(found), by_position(expected)
    np.testing.assert_array_equal(found.ra, expected.ra)
    np.testing.assert_array_equal(found.dec, expected.dec)
    for band in expected.magnitudes:
        np.testing.assert_array_equal(found.magnitudes[band], expected.magnitudes[band])


@pytest.fixture(scope="module")
def sky():
    return all_sky()


@pytest.fixture(scope="module")
def folder(sky, tmp_path_factory):
    path = tmp_path_factory.mktemp("sky") / "catalogue"
    write_partitioned(path, sky)
    return path


@pytest.mark.parametrize(
    "cone",
    [(10.0, 20.0, 2.0), (0.01, -30.0, 3.0), (359.9, 0.0, 1.5), (123.0, 89.9, 4.0), (50.0, -90.0, 2.5)],
    ids=["plain", "over 0 h", "under 24 h", "north pole", "south pole"],
)
def test_a_cone_gives_the_stars_a_slow_search_gives(cone, sky, folder):
    ra, dec, radius = cone
    a, b = np.radians(sky.dec), np.radians(dec)
    cosine = np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(np.radians(sky.ra - ra))
    expected = sky.select(np.degrees(np.arccos(np.clip(cosine, -1, 1))) <= radius)
    assert len(expected) > 5
    assert_same_stars(LocalCatalogue(folder).cone(*cone), expected)
    assert_same_stars(StarTable(sky, name="sky").cone(*cone), expected)


def test_a_partitioned_catalogue_keeps_epoch_motion_errors_and_source(sky, folder):
    found = by_position(LocalCatalogue(folder).cone(200.0, -10.0, 5.0))
    expected = by_position(sky.select(separation(sky.ra, sky.dec, 200.0, -10.0) <= 5.0))
    np.testing.assert_array_equal(found.pmra, expected.pmra)
    np.testing.assert_array_equal(found.pmdec, expected.pmdec)
    np.testing.assert_array_equal(found.magnitude_errors["g"], expected.magnitude_errors["g"])
    assert (found.epoch, found.source, set(found.magnitudes)) == (2016.0, "a sky", {"g", "r"})


def test_a_cone_opens_only_the_cells_it_touches(folder, monkeypatch):
    opened = []
    read = pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda path: opened.append(path) or read(path))
    LocalCatalogue(folder).cone(100.0, 40.0, 0.5)
    assert 1 <= len(opened) <= 4 < len(list(folder.glob("cell-*.parquet")))


def test_a_catalogue_can_be_written_in_parts(sky, folder, tmp_path):
    halves = [sky.select(np.arange(0, len(sky), 2)), sky.select(np.arange(1, len(sky), 2))]
    write_partitioned(tmp_path / "parts", iter(halves))
    catalogue = LocalCatalogue(tmp_path / "parts")
    assert catalogue.metadata == LocalCatalogue(folder).metadata
    assert_same_stars(catalogue.cone(77.0, 5.0, 6.0), LocalCatalogue(folder).cone(77.0, 5.0, 6.0))


def test_parts_that_differ_are_refused_and_leave_no_catalogue(sky, tmp_path):
    other = ReferenceStars(sky.ra, sky.dec, 2000.0, source="another")
    with pytest.raises(CatalogueError, match=r"part 1 .*2000\.0.*2016\.0"):
        write_partitioned(tmp_path, [sky, other])
    with pytest.raises(CatalogueError, match="not a catalogue"):
        LocalCatalogue(tmp_path)


def test_a_catalogue_is_not_written_over(sky, folder):
    with pytest.raises(CatalogueError, match="already holds"):
        write_partitioned(folder, sky)


def test_a_star_without_position_is_refused(tmp_path):
    with pytest.raises(CatalogueError, match="1 of 2 stars have no position"):
        write_partitioned(tmp_path, ReferenceStars(np.array([1.0, np.nan]), np.array([2.0, 2.0])))
    with pytest.raises(CatalogueError, match="no position"):
        StarTable(ReferenceStars(np.array([1.0, np.nan]), np.array([2.0, 2.0])), name="two")


def test_a_cone_outside_a_regional_catalogue_is_refused(sky, tmp_path):
    region = sky.select(separation(sky.ra, sky.dec, 80.0, 30.0) < 6.0)
    write_partitioned(tmp_path / "region", region)
    with pytest.raises(CoverageError, match=r"no cell within 2° of \(170\.0000, \+30\.0000\)"):
        LocalCatalogue(tmp_path / "region").cone(170.0, 30.0, 2.0)
    with pytest.raises(CoverageError, match=r"covers [56]\.\d+° around \((79|80)\..*nothing within 2°"):
        StarTable(region, name="region").cone(170.0, 30.0, 2.0)


def test_a_damaged_cell_is_named(sky, tmp_path):
    write_partitioned(tmp_path / "sky", sky)
    for path in (tmp_path / "sky").glob("cell-*.parquet"):
        path.write_bytes(b"PAR1")
    with pytest.raises(CatalogueError, match="sky"):
        LocalCatalogue(tmp_path / "sky").cone(1.0, 1.0, 1.0)


@pytest.mark.parametrize("suffix", ["csv", "fits", "parquet"])
def test_a_table_of_any_kind_is_read(suffix, tmp_path):
    stars = all_sky(500)
    path = tmp_path / f"stars.{suffix}"
    table = Table(
        {"RAJ2000": stars.ra, "DEJ2000": stars.dec, "mag_g": stars.magnitudes["g"], "Vmag": stars.ra / 30}
    )
    if suffix == "parquet":
        import pyarrow as pa

        pq.write_table(pa.table({name: np.asarray(table[name]) for name in table.colnames}), path)
    else:
        table.write(path)
    catalogue = FileCatalogue(path, columns={"mag_V": "Vmag"}, epoch=2015.5)
    found = by_position(catalogue.cone(40.0, 10.0, 30.0))
    expected = by_position(stars.select(separation(stars.ra, stars.dec, 40.0, 10.0) <= 30.0))
    np.testing.assert_allclose(found.ra, expected.ra, atol=1e-12)
    np.testing.assert_allclose(found.magnitudes["g"], expected.magnitudes["g"], rtol=1e-12)
    np.testing.assert_allclose(found.magnitudes["V"], expected.ra / 30, rtol=1e-12)
    assert (found.epoch, found.source) == (2015.5, path.name)


def test_a_table_without_positions_says_what_it_has(tmp_path):
    path = tmp_path / "stars.csv"
    path.write_text("x,y,mag_g\n1,2,3\n")
    with pytest.raises(CatalogueError, match=r"no column for ra and dec; there are x, y, mag_g"):
        FileCatalogue(path).cone(1.0, 2.0, 3.0)
    with pytest.raises(CatalogueError, match="no column 'alpha'"):
        FileCatalogue(path, columns={"ra": "alpha"}).cone(1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("name", "content"),
    [("stars.fits", b"not FITS"), ("stars.parquet", b"PAR1"), ("stars.txt", b"1 2"), ("stars.csv", b"")],
)
def test_an_unreadable_table_is_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogueError, match=name):
        FileCatalogue(tmp_path / name).cone(1.0, 2.0, 3.0)


def test_separation_is_right_to_a_thousandth_of_a_milliarcsecond():
    mas = 1.0 / 3.6e6
    assert separation(10.0, 40.0, 10.0, 40.0 + mas) == pytest.approx(mas, rel=1e-3)
    assert separation(0.0, 0.0, 180.0, 0.0) == pytest.approx(180.0)
    ra, dec = directions(3.0 * unit_vectors([350.0, 20.0], [-80.0, 89.0]))
    np.testing.assert_allclose([ra, dec], [[350.0, 20.0], [-80.0, 89.0]], atol=1e-12)


@needs_tycho2
def test_tycho2_is_whole_and_without_duplicates():
    catalogue = Tycho2()
    whole = catalogue.cone(0.0, 0.0, 180.0)
    # 1,871,011 stars of index 07 and those that only 08 or 10 hold, each counted once
    assert len(whole) == 1_871_011 + 4_159
    assert len(np.unique(np.stack([whole.ra, whole.dec]), axis=1).T) == len(whole)
    assert catalogue.cone(5.0, 5.0, 1.0).source == "Tycho-2"


@needs_tycho2
@pytest.mark.shared_data
def test_tycho2_holds_the_stars_of_the_field_files(shared_data):
    field = FileCatalogue(
        shared_data / "catalogues" / "tycho2_hatp32.csv", columns={"mag_vt": "mag_vt"}
    ).cone(31.3, 46.8, 2.9)
    whole = Tycho2().cone(31.3, 46.8, 2.9)
    assert len(field) > 1000
    apart = separation(field.ra[:, None], field.dec[:, None], whole.ra, whole.dec)
    nearest = apart.argmin(axis=1)
    assert apart.min(axis=1).max() * 3600 < 0.005  # the file has six decimals
    np.testing.assert_allclose(whole.magnitudes["vt"][nearest], field.magnitudes["vt"], atol=6e-4)


def test_a_folder_without_index_files_says_what_to_install(tmp_path):
    with pytest.raises(CatalogueError, match="Install Debian's astrometry-data-tycho2"):
        Tycho2(tmp_path).cone(0.0, 0.0, 1.0)


def test_a_catalogue_is_opened_by_what_it_is_called(folder, tmp_path):
    (tmp_path / "stars.csv").write_text("ra,dec\n1,2\n")
    assert isinstance(open_catalogue("tycho2"), Tycho2)
    assert open_catalogue(f"tycho2:{tmp_path}").folder == tmp_path
    assert isinstance(open_catalogue(str(folder)), LocalCatalogue)
    assert isinstance(open_catalogue(str(tmp_path / "stars.csv")), FileCatalogue)
    assert isinstance(open_catalogue("gaia-online"), OnlineCatalogue)
    with pytest.raises(CatalogueError, match=r"neither a folder nor a file.*gaia-online"):
        open_catalogue("no-such-thing")


def test_without_a_network_an_online_catalogue_says_so(monkeypatch):
    pytest.importorskip("astroquery", reason="needs astroquery")

    def refuse(*args, **kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(CatalogueError, match="Gaia DR3 at VizieR"):
        OnlineCatalogue("gaia-online").cone(10.0, 10.0, 0.01)


def test_without_astroquery_an_online_catalogue_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "astroquery.vizier", None)
    with pytest.raises(CatalogueError, match="pip install astroquery"):
        OnlineCatalogue("gaia-online").cone(10.0, 10.0, 0.01)
