"""Which library an array belongs to."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def namespace(array: Any) -> Any:
    """Return the module whose functions take ``array``: cupy for an array of a GPU, else numpy.

    cupy is not imported here: who holds one of its arrays has imported it.
    """
    cupy = sys.modules.get("cupy")
    return np if cupy is None else cupy.get_array_module(array)


def to_host(array: Any) -> Any:
    """Return ``array`` as numpy's: itself, or a copy of what lies on a GPU."""
    return array if namespace(array) is np else array.get()
