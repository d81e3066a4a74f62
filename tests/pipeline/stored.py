"""Exposures and candidates as run.py stores them, for the tests of the database and what stands on it."""

import numpy as np

from reference_pipeline.associate.match import associate
from reference_pipeline.candidate import Candidate
from reference_pipeline.config import Association
from reference_pipeline.store import tables
from reference_pipeline.store.queries import candidate_rows

ZERO_POINT = 26.0
FLUX_ERR = 50.0  # electrons, of what a sky-limited exposure measures
LIMIT = ZERO_POINT - 2.5 * np.log10(5.0 * FLUX_ERR)


def exposure(id_="e1", mjd=60000.0, *, ra=150.0, dec=20.0, band="r", half=0.5, **changes):
    """An exposure of 86.4 s, square on the sky, ``half`` a side in degrees."""
    wide = half / np.cos(np.deg2rad(dec))
    corners = [
        [ra - wide, dec - half],
        [ra + wide, dec - half],
        [ra + wide, dec + half],
        [ra - wide, dec + half],
    ]
    values = {
        "id": id_,
        "camera": "ast3",
        "band": band,
        "field_id": "f1",
        "start_mjd": mjd,
        "exposure_time": 86.4,
        "ra": ra,
        "dec": dec,
        "fwhm": 3.0,
        "limiting_magnitude": LIMIT,
        "pearson": 0.99,
        "zero_point": ZERO_POINT,
        "zero_point_error": 0.01,
        "zero_point_band": band,
        "product": f"calibrated/{id_}.fits",
        "input_digest": "0" * 64,
        "footprint": corners,
        "radius": half * np.sqrt(2.0) * 1.01,
    }
    return tables.Exposure(**values | changes)


def candidate(number=0, ra=150.0, dec=20.0, *, flux=5000.0, err=0.1, **changes):
    """A kept candidate with errors of ``err`` arcsec a side."""
    values = {
        "number": number,
        "x": 10.0,
        "y": 20.0,
        "ra": ra,
        "dec": dec,
        "ra_err": err / 3600.0,
        "dec_err": err / 3600.0,
        "flux": flux,
        "flux_err": FLUX_ERR,
        "snr": flux / FLUX_ERR,
        "magnitude": ZERO_POINT - 2.5 * np.log10(abs(flux)),
        "magnitude_err": 1.0857 * FLUX_ERR / abs(flux),
        "fwhm": 3.1,
        "elongation": 1.1,
        "position_angle": 30.0,
        "n_pixels": 12,
        "flags": 0,
        "mask_bits": 0,
        "mask_fraction": 0.0,
        "edge": 100.0,
        "dipole": 0.0,
    }
    return Candidate(**values | changes)


def subtracted(session, row, candidates=(), *, branch="dip", status="done"):
    """Store an exposure (once), its subtraction and its candidates; the subtraction."""
    if session.get(tables.Exposure, row.id) is None:
        session.add(row)
    subtraction = tables.Subtraction(exposure_id=row.id, branch=branch, status=status, pixel_scale=0.4)
    session.add(subtraction)
    session.flush()
    ids = [f"{row.id}-{branch}-{c.number}" for c in candidates]
    session.add_all(candidate_rows(subtraction.id, candidates, ids))
    session.flush()
    return subtraction


def seen(session, row, candidates, *, branch="dip", config=None):
    """Store an exposure with its candidates and associate them; the assignments."""
    subtracted(session, row, candidates, branch=branch)
    return associate(
        session, branch=branch, exposure=row, candidates=candidates, config=config or Association()
    )
