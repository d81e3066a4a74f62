"""placeholder"""

from .results import RealCells


def real_of(out, study) -> RealCells | None:
    return None
