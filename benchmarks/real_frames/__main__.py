"""Real raw frames through the whole reduction: `python -m benchmarks.real_frames`.

The 15 frames of the HAT-P-32 series and the QHY163M frame, with Tycho-2. There is no truth: positions are
compared with the catalogue, from frame to frame, with Astrometry.net's solve-field where it is installed, and
for the QHY163M frame with the solution that another program left in its header.
"""

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.common import DATA, Requirement, all_of, at_most, save
from reference_pipeline.catalogues.sphere import unit_vectors
from reference_pipeline.catalogues.tycho2 import DEBIAN_FOLDER, PATTERN
from reference_pipeline.config import PipelineConfig, load_settings
from reference_pipeline.errors import AstrometryError
from reference_pipeline.frame import Frame
from reference_pipeline.night.reduce import find_files, reduce_night
from reference_pipeline.products import read_product
from reference_pipeline.raw import claimed_wcs, read_raw
from reference_pipeline.reduce.astrometry import solve_field, usable_stars

SETTINGS = Path(__file__).parent
HATP32 = DATA / "images" / "rzellem+EXOTIC_sampledata" / "HatP32Dec202017"
QHY163M = DATA / "images" / "Stavrosch+Asteroid-Detection" / "demo-fits" / "272_mpc_1.1_00001.fits"
PAIR_SNR = 50.0  # of the stars that are followed from frame to frame


def measure() -> list[Requirement]:
    """Reduce, measure, print and save; return the requirements."""
    with tempfile.TemporaryDirectory() as name:
        series = reduced(HATP32, "hatp32", Path(name))
        (qhy,) = reduced(QHY163M, "qhy163m", Path(name))
    config = settings("hatp32")
    has_solve_field = shutil.which("solve-field") is not None and bool(list(DEBIAN_FOLDER.glob(PATTERN)))
    rows = []
    for frame in series:
        row = described(frame)
        if has_solve_field and frame.wcs is not None:
            row["corners_solve_field_pixels"] = corners_of_solve_field(frame, config)
        if frame is not series[0]:
            row |= between(series[0], frame, config.camera.pixel_scale)
        rows.append(row)
    header = read_raw(QHY163M, settings("qhy163m").camera)
    claimed, _ = claimed_wcs(header.header, qhy_area(qhy), settings("qhy163m").camera)
    lonely = described(qhy) | {"corners_header_pixels": corner_difference(qhy, claimed)}
    rows.append(lonely)
    print_rows(rows)
    requirements = required(rows[:-1], lonely, has_solve_field=has_solve_field)
    save("real_frames", {"frames": rows}, requirements, full=False)
    return requirements


def settings(series: str) -> PipelineConfig:
    """Return the settings that a series is reduced with, Tycho-2 cut out around it as the catalogue."""
    catalogue = str(DATA / "catalogues" / f"tycho2_{series}.csv")
    return load_settings(SETTINGS / f"{series}.toml", camera=None, astrometry=catalogue, photometry=None)


def reduced(source: Path, series: str, folder: Path) -> list[Frame]:
    """Return the frames of ``source`` as far as the reduction took them, in the order of time."""
    out = folder / series
    night = reduce_night(find_files([source]), out, config=settings(series))
    for line in night.lines():
        print(line)
    products = sorted([*out.glob("calibrated/*.fits"), *out.glob("failed/*.fits")])
    return sorted((read_product(path) for path in products), key=lambda frame: frame.exposure.start_mjd)


def qhy_area(frame: Frame) -> tuple[slice, slice]:
    """The imaging area of the QHY163M frame in its raw pixels: all but the first row."""
    ny, nx = frame.shape
    return slice(1, ny + 1), slice(0, nx)


def described(frame: Frame) -> dict:
    """Return what the frame's own record says of its astrometry and photometry."""
    decision = next((step.decision for step in frame.steps if step.name == "astrometry"), {})
    row = {
        "id": frame.id,
        "start": decision.get("start"),
        "n_matched": decision.get("n_matched", 0),
        "n_expected": decision.get("n_expected", 0),
        "order": decision.get("order"),
        "floor_pixels": decision.get("floor_pixels"),
    }
    if decision:
        scale = 1000.0 * float(decision["pixel_scale"])
        for axis in ("ra", "dec"):
            mas = float(decision[f"scatter_{axis}_mas"])
            row |= {f"scatter_{axis}_mas": mas, f"scatter_{axis}_pixels": mas / scale}
    if frame.zero_point is not None:
        z = frame.zero_point
        row |= {"zero_point": z.value, "zero_point_scatter": z.scatter, "n_zero_point": z.n_stars}
    if frame.quality is not None:
        row |= {"fwhm": frame.quality.fwhm, "limiting_magnitude": frame.quality.limiting_magnitude}
    return row | {"has_psf": frame.psf is not None}


def corner_difference(frame: Frame, other) -> float:
    """Return how far ``other`` is from the frame's WCS, pixels: the most at the corners and the middle."""
    ny, nx = frame.shape
    x, y = np.array([0, nx - 1, 0, nx - 1, (nx - 1) / 2]), np.array([0, 0, ny - 1, ny - 1, (ny - 1) / 2])
    back = frame.wcs.all_world2pix(*other.all_pix2world(x, y, 0), 0)
    return float(np.hypot(back[0] - x, back[1] - y).max())


def corners_of_solve_field(frame: Frame, config: PipelineConfig) -> float | None:
    """Return the corner difference from what solve-field alone says of the same sources; None if nothing."""
    stars = usable_stars(replace(frame, wcs=None), config.astrometry)
    try:
        wcs = solve_field(frame, stars, pixel_scale=config.camera.pixel_scale, config=config.astrometry)
    except AstrometryError as error:
        print(error)
        return None
    return corner_difference(frame, wcs)


def between(first: Frame, frame: Frame, pixel_scale: float) -> dict:
    """Return how far the same stars are apart on the sky as two frames have them, in pixels."""
    here, there = (f.sources[np.asarray(f.sources["snr"]) > PAIR_SNR] for f in (first, frame))
    ra, dec = first.wcs.all_pix2world(here["x"], here["y"], 0)
    other_ra, other_dec = frame.wcs.all_pix2world(there["x"], there["y"], 0)
    tree = cKDTree(unit_vectors(other_ra, other_dec))
    pixel = np.radians(pixel_scale / 3600.0)
    distance, row = tree.query(unit_vectors(ra, dec), distance_upper_bound=pixel)
    near = np.isfinite(distance)
    cos = np.cos(np.radians(dec[near]))
    out = {"n_pairs": int(near.sum())}
    for axis, apart in (
        ("ra", (other_ra[row[near]] - ra[near]) * cos),
        ("dec", other_dec[row[near]] - dec[near]),
    ):
        middle = np.median(apart)
        out[f"pairs_offset_{axis}_pixels"] = float(middle * 3600.0 / pixel_scale)
        scatter = 1.4826 * np.median(np.abs(apart - middle))
        out[f"pairs_scatter_{axis}_pixels"] = float(scatter * 3600.0 / pixel_scale)
    return out


def required(rows: list[dict], lonely: dict, *, has_solve_field: bool) -> list[Requirement]:
    """Return what is asked of the real frames."""
    solved = [r for r in rows if r["n_matched"]]
    scatter = [r[f"pairs_scatter_{axis}_pixels"] for r in rows[1:] for axis in ("ra", "dec")]
    out = [
        all_of("HAT-P-32: solved without a binary", len(solved), len(rows)),
        all_of("HAT-P-32: with a zero point", sum("zero_point" in r for r in rows), len(rows)),
        at_most("HAT-P-32: scatter from frame to frame, largest", max(scatter), 0.3, " px"),
        all_of("QHY163M: solved from its header", int(lonely["start"] == "header"), 1),
        at_most("QHY163M: corners, from the header's WCS", lonely["corners_header_pixels"], 1.0, " px"),
    ]
    if has_solve_field:
        corners = [r["corners_solve_field_pixels"] for r in rows]
        out.append(at_most(
            "HAT-P-32: corners, from solve-field, largest",
            max(np.inf if c is None else c for c in corners), 1.0, " px",
        ))  # fmt: skip
    return out


def print_rows(rows: list[dict]) -> None:
    """Print one line a frame."""
    columns = (
        ("start", "start", 7, ""), ("stars", "n_matched", 6, "d"), ("mas RA", "scatter_ra_mas", 7, ".0f"),
        ("Dec", "scatter_dec_mas", 6, ".0f"), ("px RA", "scatter_ra_pixels", 6, ".3f"),
        ("Dec", "scatter_dec_pixels", 6, ".3f"), ("corner", "corners_solve_field_pixels", 7, ".2f"),
        ("header", "corners_header_pixels", 7, ".2f"), ("pairs", "n_pairs", 6, "d"),
        ("RA", "pairs_scatter_ra_pixels", 6, ".3f"), ("Dec", "pairs_scatter_dec_pixels", 6, ".3f"),
        ("ZP", "zero_point", 7, ".2f"), ("scatter", "zero_point_scatter", 8, ".2f"),
        ("limit", "limiting_magnitude", 6, ".2f"),
    )  # fmt: skip
    print("\n" + f"{'frame':24}" + "".join(f"{name:>{width}}" for name, _, width, _ in columns))
    for row in rows:
        cells = (
            f"{'' if row.get(key) is None else format(row[key], digits):>{width}}"
            for _, key, width, digits in columns
        )
        print(f"{row['id']:24}" + "".join(cells))


if __name__ == "__main__":
    if not HATP32.is_dir() or not QHY163M.is_file():
        print("this reduces real frames: put them into ../shared/data beside the checkout")
        sys.exit(2)
    sys.exit(0 if all(r.is_met for r in measure()) else 1)
