"""The catalogues that a survey would have of the simulated sky, each with the errors of its kind.

Errors are drawn by HEALPix cell, as the sky is: a star has the same ones in the catalogues of every night.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multiscale.atomic import replacing

from ..catalogues.local import write_partitioned
from ..catalogues.stars import MAS_PER_DEGREE, ReferenceStars
from .sky import EPOCH, CellGalaxies, Sky, cell_galaxies, cell_stars, cell_variable_stars, cells, in_band
from .solar_system import write_mpcorb

Floats = NDArray[np.float64]

_GAIA, _PS1, _GLADE = 20, 21, 22  # random streams
SPEED_OF_LIGHT = 299792.458  # km/s
HUBBLE = 70.0  # km/s/Mpc


def write_catalogues(
    sky: Sky, folder: str | Path, fields: Floats, radius: float, *, galaxy_limit: float = 20.0
) -> None:
    """Write what is known of ``sky`` within ``radius`` degrees of ``fields`` (n, 2: RA, Dec) to ``folder``.

    gaia/ (astrometry: G, BP, RP, epoch 2016, motions) and ps1/ (photometry: g, r, i, epoch 2014.5) are
    catalogues for LocalCatalogue; GLADE+.txt holds galaxies brighter than r = ``galaxy_limit``; MPCORB.DAT
    the asteroids. Stars whose light varies are in all of them with their mean magnitude. Raises
    CatalogueError if the folder already holds a catalogue.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    touched = sorted({cell for ra, dec in fields for cell in cells(float(ra), float(dec), radius)})
    write_partitioned(folder / "gaia", astrometric_catalogue(sky, touched), order=6)
    write_partitioned(folder / "ps1", photometric_catalogue(sky, touched), order=6)
    write_glade(folder / "GLADE+.txt", sky, touched, limit=galaxy_limit)
    write_mpcorb(folder / "MPCORB.DAT", sky.orbits)


def astrometric_catalogue(sky: Sky, touched: list[int], *, limit: float = 20.7) -> ReferenceStars:
    """Return stars of HEALPix cells as Gaia would list them: G < ``limit``, epoch 2016.

    Errors grow from 0.02 mas at G = 15 to 1 mas at G = 20.7 (Lindegren+ 2021, table 4).
    """
    (ra, dec, r, color, pmra, pmdec), noise = _stars(sky, touched, _GAIA, 7)
    g_mag = r - 0.05 - 0.10 * (color - 0.5)  # G lies near r, bluewards for red stars (Jordi+ 2010)
    rows = g_mag < limit
    ra, dec, r, color, pmra, pmdec, g_mag = (v[rows] for v in (ra, dec, r, color, pmra, pmdec, g_mag))
    noise = noise[:, rows]
    error = 0.02 * 10 ** (0.30 * np.maximum(g_mag - 15, 0))  # mas
    moved_ra, moved_dec = _jitter(ra, dec, error * noise[5:])
    errors = dict.fromkeys(("G", "BP", "RP"), 0.002 + 0.02 * 10 ** (0.4 * (g_mag - 20)))
    magnitudes = {"G": g_mag, "BP": r + 0.1 + 0.65 * color, "RP": r - 0.35 - 0.35 * color}
    return ReferenceStars(
        moved_ra, moved_dec, EPOCH, pmra + error * noise[0], pmdec + error * noise[1],
        {band: m + errors[band] * noise[2 + k] for k, (band, m) in enumerate(magnitudes.items())},
        errors, "simulated Gaia",
    )  # fmt: skip


def photometric_catalogue(sky: Sky, touched: list[int], *, limit: float = 22.0) -> ReferenceStars:
    """Return stars of HEALPix cells as Pan-STARRS1 would list them: g, r, i, r < ``limit``, epoch 2014.5.

    Positions are good to 10 mas and more when faint; magnitudes to 3 mmag, 0.2 mag at the limit.
    """
    columns, noise = _stars(sky, touched, _PS1, 5)
    rows = columns[2] < limit
    ra, dec, r, color, pmra, pmdec = columns[:, rows]
    noise = noise[:, rows]
    stars = ReferenceStars(ra, dec, EPOCH, pmra, pmdec).at_epoch(2014.5)
    moved_ra, moved_dec = _jitter(stars.ra, stars.dec, (10 + 60 * 10 ** (0.4 * (r - limit))) * noise[3:])
    magnitudes, errors = {}, {}
    for k, band in enumerate(("g", "r", "i")):
        true = in_band(r, color, band)
        errors[band] = np.hypot(0.003, 0.2 * 10 ** (0.4 * (true - limit)))
        errors[band] = np.minimum(errors[band], 0.5)
        magnitudes[band] = true + errors[band] * noise[k]
    return ReferenceStars(
        moved_ra, moved_dec, 2014.5, magnitudes=magnitudes, magnitude_errors=errors, source="simulated PS1"
    )


def write_glade(path: str | Path, sky: Sky, touched: list[int], *, limit: float) -> None:
    """Write the galaxies of HEALPix cells brighter than r = ``limit`` as in GLADE+.txt (Dálya+ 2022).

    Forty columns separated by blanks, "null" where nothing is known. Filled are 1 (the sky's id), 8 (G), 9
    and 10 (RA, Dec), 11–14 (B, its error, flag, B absolute), 28–30 (z heliocentric, CMB, flag), 32 (z error),
    33–35 (luminosity distance in Mpc, error, flag 1: photometric redshift), 36–38 (stellar mass).
    Distances have an error of 6 %: they are photometric.
    """
    parts = [cell_galaxies(sky.seed, sky.config, cell) for cell in touched]
    galaxies = CellGalaxies(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in CellGalaxies.__dataclass_fields__)
    )
    noise = np.concatenate(
        [_noise(sky.seed, _GLADE, cell, 2, len(part.id)) for cell, part in zip(touched, parts)], axis=1
    )
    rows = np.flatnonzero(galaxies.r < limit)
    noise = noise[:, rows]
    distance = 10 ** ((galaxies.modulus[rows] + 5) / 5) / 1e6 * np.exp(0.06 * noise[0])
    redshift = HUBBLE * distance / SPEED_OF_LIGHT
    r, color = galaxies.r[rows], galaxies.color[rows]
    blue = r + color + 0.2 + 0.3 * color + 0.1 * noise[1]  # B from g and r (Jester+ 2005)
    absolute = blue - 5 * np.log10(distance * 1e5)
    mass = 10 ** (-0.4 * (r - galaxies.modulus[rows] - 4.65)) * 10 ** (-0.3 + 1.1 * color) / 1e10
    with replacing(path) as partial, partial.open("w", encoding="ascii", newline="\n") as file:
        for k, row in enumerate(rows):
            columns = ["null"] * 40
            columns[0], columns[7] = str(galaxies.id[row]), "G"
            columns[8], columns[9] = f"{galaxies.ra[row]:.7f}", f"{galaxies.dec[row]:.7f}"
            columns[10:14] = [f"{blue[k]:.3f}", "0.100", "0", f"{absolute[k]:.3f}"]
            columns[27:30] = [f"{redshift[k]:.6f}", f"{redshift[k]:.6f}", "0"]
            columns[31:35] = [
                f"{0.06 * redshift[k]:.6f}",
                f"{distance[k]:.4f}",
                f"{0.06 * distance[k]:.4f}",
                "1",
            ]
            columns[35:38] = [f"{mass[k]:.4f}", f"{0.3 * mass[k]:.4f}", "0"]
            file.write(" ".join(columns) + "\n")


def _stars(sky: Sky, touched: list[int], stream: int, n_errors: int) -> tuple[Floats, Floats]:
    """RA, Dec, r, g − r and motions of constant and variable stars of cells, at EPOCH, (6, n); and as many
    standard normal numbers for each star as its catalogue has errors, (n_errors, n).
    """
    columns, noise = [], []
    for cell in touched:
        s = cell_stars(sky.seed, sky.config, cell)
        v = cell_variable_stars(sky.seed, sky.config, cell)
        still = np.zeros((2, len(v)))
        constant = np.stack([s.ra, s.dec, s.r, s.color, s.pmra, s.pmdec])
        columns.append(np.concatenate([constant, [v.ra, v.dec, v.r, v.color, *still]], axis=1))
        noise.append(_noise(sky.seed, stream, cell, n_errors, columns[-1].shape[1]))
    return np.concatenate(columns, axis=1), np.concatenate(noise, axis=1)


def _noise(seed: int, stream: int, cell: int, n_errors: int, n: int) -> Floats:
    """Standard normal numbers of a cell's ``n`` objects, (n_errors, n)."""
    return np.random.default_rng([seed, stream, cell]).standard_normal((n_errors, n))


def _jitter(ra: Floats, dec: Floats, error: Floats) -> tuple[Floats, Floats]:
    """Positions with errors (2, n: east, north) in mas."""
    east, north = error / MAS_PER_DEGREE
    return (ra + east / np.cos(np.radians(dec))) % 360.0, np.clip(dec + north, -90, 90)
