"""The Tycho-2 stars in the index files of Debian's astrometry-data-tycho2: all sky, without a network.

Each index file is a FITS file of bare tables. HDU 11 holds the stars as unit vectors, three uint32 each, to
be read as value / scale + lower bound; HDU 10 the lower bounds, upper bounds (three float64 each) and the
scale; HDU 13 the magnitude V_T. Index 07 has nearly all stars; 08 and 10 hold 4,159 that 07 lacks, because
each index was thinned on cells of its own, so all that are installed are read and duplicates dropped. Equal
stars are equal to the bit. Positions are J2000 at epoch 2000.0 to 0.1 mas; there are no proper motions.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from ..errors import CatalogueError
from .local import StarTable
from .sphere import directions
from .stars import ReferenceStars

DEBIAN_FOLDER = Path("/usr/share/astrometry")
PATTERN = "index-tycho2-*.littleendian.fits"
BAND = "vt"


class Tycho2:
    """Tycho-2 as one catalogue; read at the first cone (about 2 s), then shared by the process."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """``folder`` holds the index files; None: where Debian puts them."""
        self.folder = DEBIAN_FOLDER if folder is None else Path(folder)

    def cone(self, ra: float, dec: float, radius: float) -> ReferenceStars:
        """Return the stars within ``radius`` degrees of (ra, dec), with magnitudes "vt".

        Raises CatalogueError if the index files are not there or cannot be read.
        """
        return _read(self.folder).cone(ra, dec, radius)


@lru_cache(maxsize=2)
def _read(folder: Path) -> StarTable:
    paths = sorted(folder.glob(PATTERN))
    if not paths:
        raise CatalogueError(
            f"{folder}: no file {PATTERN}. Install Debian's astrometry-data-tycho2, or name the folder"
        )
    stars = [_read_index(path) for path in paths]
    vectors = np.concatenate([v for v, _ in stars])
    magnitudes = np.concatenate([m for _, m in stars])
    _, first = np.unique(_keys(vectors), return_index=True)
    ra, dec = directions(vectors[first])
    return StarTable(
        ReferenceStars(ra, dec, 2000.0, magnitudes={BAND: magnitudes[first]}, source="Tycho-2"),
        name=f"Tycho-2 in {folder}",
    )


def _read_index(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors (n, 3) and V_T (n,) of one index file."""
    try:
        with fits.open(path) as hdus:
            bounds = np.frombuffer(hdus[10].data.tobytes(), "<f8")
            packed = np.frombuffer(hdus[11].data.tobytes(), "<u4").reshape(-1, 3)
            magnitudes = np.asarray(hdus[13].data["MAG_VT"], np.float64)
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise CatalogueError(f"{path}: not an index of astrometry-data-tycho2: {error}") from error
    if bounds.shape != (7,) or len(magnitudes) != len(packed):
        raise CatalogueError(
            f"{path}: {bounds.size} bounds, {len(packed)} stars and {len(magnitudes)} magnitudes; "
            "expected 7 bounds, and a magnitude for each star"
        )
    return packed / bounds[6] + bounds[:3], magnitudes


def _keys(vectors: NDArray[np.float64]) -> NDArray[np.uint64]:
    """One number per direction, equal for equal directions: x and y to 2⁻³⁰ (0.2 mas), and the sign of z."""
    x, y = ((vectors[:, axis] + 1.0) * 2.0**30 for axis in (0, 1))
    key = (np.rint(x).astype(np.uint64) << np.uint64(32)) | np.rint(y).astype(np.uint64)
    return (key << np.uint64(1)) | (vectors[:, 2] < 0).astype(np.uint64)
