"""Reference stars as every stage sees them, wherever they were read from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

MAS_PER_DEGREE = 3.6e6


@dataclass(frozen=True)
class ReferenceStars:
    """Stars of a catalogue, one row each; positions ICRS in degrees at ``epoch``.

    ``magnitudes`` and ``magnitude_errors`` go by band; NaN where a star has none. Proper motions are in
    mas per year (pmra includes cos Dec); zero where the catalogue has none.
    """

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    epoch: float = 2000.0  # Julian year
    pmra: NDArray[np.float64] | None = None
    pmdec: NDArray[np.float64] | None = None
    magnitudes: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    magnitude_errors: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    source: str = ""  # which catalogue, for provenance

    def __len__(self) -> int:
        return len(self.ra)

    def select(self, rows: NDArray[Any]) -> ReferenceStars:
        """The stars of ``rows`` (a boolean mask or indices)."""

        def pick(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
            return None if values is None else values[rows]

        return ReferenceStars(
            self.ra[rows], self.dec[rows], self.epoch, pick(self.pmra), pick(self.pmdec),
            {band: m[rows] for band, m in self.magnitudes.items()},
            {band: e[rows] for band, e in self.magnitude_errors.items()},
            self.source,
        )  # fmt: skip

    def at_epoch(self, epoch: float) -> ReferenceStars:
        """The stars moved to ``epoch`` (Julian year) by their proper motions, where there are any.

        First order in the motion: good to 1 mas for 1″ of motion outside 1° around the poles.
        """
        if self.pmra is None or self.pmdec is None:
            return self
        years = epoch - self.epoch
        dec = self.dec + self.pmdec * years / MAS_PER_DEGREE
        ra = self.ra + self.pmra * years / MAS_PER_DEGREE / np.cos(np.radians(self.dec))
        return replace(self, ra=ra % 360.0, dec=dec, epoch=epoch)


class ReferenceCatalogue(Protocol):
    """Where reference stars come from: the one call every stage makes."""

    def cone(self, ra: float, dec: float, radius: float) -> ReferenceStars:
        """Return the stars within ``radius`` degrees of (ra, dec).

        Raises CatalogueError where the catalogue cannot be read or does not cover the cone.
        """
        ...
