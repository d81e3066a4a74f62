"""Which array library an array belongs to, and the few bit-level questions asked of any of them.

NumPy, CuPy and array-api-strict arrays name their own library; torch tensors do through
``array_api_compat`` (extra ``torch``). The codec is written once against the array API standard.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

INVALID_LIMIT = 2.0**125  # clause 3.5: this magnitude and above is invalid
ABS_BITS = np.uint32(0x7FFFFFFF)
LIMIT_BITS = np.uint32(0x7E000000)  # the bits of 2^125
NAN_BITS = np.uint32(0x7FC00000)


def array_namespace(array: Any) -> Any:
    """Return the array-API namespace of ``array``: numpy itself for NumPy arrays."""
    if isinstance(array, np.ndarray):
        return np
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    if "torch" in sys.modules and isinstance(array, sys.modules["torch"].Tensor):
        import array_api_compat.torch  # extra "torch"

        return array_api_compat.torch
    raise TypeError(f"found {type(array).__name__}, expected a NumPy, torch or CuPy array")


def cast(array: Any, dtype: Any) -> Any:
    """Return ``array`` as ``dtype`` (NumPy's method costs a third of ``numpy.astype`` on small arrays)."""
    if isinstance(array, np.ndarray):
        return array.astype(dtype)
    return array_namespace(array).astype(array, dtype)


def block_length(array: Any, n_bytes: int, per_item: int) -> int:
    """Return how many items to work on at a time: as fit in a core's cache, or all on another device."""
    n = int(array.shape[0])
    return max(1, min(n, n_bytes // per_item)) if isinstance(array, np.ndarray) else max(1, n)


def device_of(array: Any) -> Any:
    """Return where new arrays must be made so that they can be combined with ``array``."""
    return array.device


def index_for(array: Any, index: np.ndarray) -> Any:
    """Return ``index`` as an array of the library, and on the device, of ``array``."""
    if isinstance(array, np.ndarray):
        return index
    return array_namespace(array).asarray(
        index.copy(), device=device_of(array)
    )  # torch takes no read-only one


def all_canonical_finite(array: Any) -> bool:
    """True when every value of a float32 ``array`` is finite and below 2^125 in magnitude."""
    if isinstance(array, np.ndarray):
        if array.size == 0:
            return True
        # NaN makes both comparisons false; two reductions in place of a temporary array
        return bool(array.max() < INVALID_LIMIT and array.min() > -INVALID_LIMIT)
    xp = array_namespace(array)
    return bool(xp.all(xp.abs(array) < INVALID_LIMIT))


def all_canonical(values: np.ndarray) -> bool:
    """True when every float32 of a NumPy array is canonical (clause 3.5): the one NaN, or below 2^125."""
    bits = values.view(np.uint32)
    return bool(((bits & ABS_BITS < LIMIT_BITS) | (bits == NAN_BITS)).all())


def same_bits(a: Any, b: Any) -> Any:
    """Return a boolean array: equal bit for bit, for canonical float32 or for integers."""
    xp = array_namespace(a)
    if xp is np:
        return np.equal(a.view(np.uint32), b.view(np.uint32)) if a.dtype == np.float32 else a == b
    if not xp.isdtype(a.dtype, "real floating"):
        return a == b
    return ((a == b) & (xp.signbit(a) == xp.signbit(b))) | (xp.isnan(a) & xp.isnan(b))
