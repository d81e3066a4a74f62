"""Which library an array belongs to."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def namespace(array: Any) -> Any:
    """Return the module whose functions take ``array``: numpy, cupy for a GPU's, or what the array names.

    cupy is not imported here: who holds one of its arrays has imported it.
    """
    if isinstance(array, np.ndarray):
        return np
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        return cupy
    return array.__array_namespace__() if hasattr(array, "__array_namespace__") else np


def to_host(array: Any) -> Any:
    """Return ``array`` as numpy's: itself, or a copy of what lies on a GPU."""
    if namespace(array) is np:
        return array
    return array.get() if hasattr(array, "get") else np.from_dlpack(array)
