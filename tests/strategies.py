"""What hypothesis draws, and how tests compare arrays."""

import importlib.util
import math
import struct
import sys
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from multiscale import Geometry

FLUX = ("science", "template", "difference", "score")
NAN = struct.unpack("<f", bytes.fromhex("0000c07f"))[0]


def round32(value):
    """The binary32 nearest to a binary64, as a binary64."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def float32(hexadecimal):
    """The binary32 of eight hexadecimal digits, most significant first."""
    return np.frombuffer(bytes.fromhex(hexadecimal)[::-1], "<f4")[0]


SPECIAL = [
    0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 1.1754942e-38,
    2.0**125, -(2.0**125), float(float32("7dffffff")), -float(float32("7dffffff")), 3.4e38,
    -3.4e38, 1.6777217e7, 2.0**60, -(2.0**60),
    0.1, -0.3,
]  # fmt: skip


@st.composite
def geometries(draw, max_size=16, max_levels=5):
    size = draw(st.sampled_from(range(4, max_size + 1, 4)))
    return Geometry(size, draw(st.integers(1, max_levels)), draw(st.sampled_from([0.2, 1.01])))


@st.composite
def images(draw, shape, kind="science", special=None):
    """Noise around a level, sown with special values (float32), or random bits (uint16 for a mask)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "mask":
        return rng.integers(0, draw(st.sampled_from([1, 2, 256, 65536])), shape, np.uint16)
    scale = draw(st.sampled_from([0.0, 1e-40, 1.0, 1e4, 1e37]))
    image = rng.normal(draw(st.sampled_from([0.0, 100.0, -1e5])), 1.0, shape) * scale
    if kind == "variance":
        image = np.abs(image)
    fraction = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    values = np.array(
        draw(st.sampled_from([SPECIAL, [math.nan], [-0.0], [1e-45]])) if special is None else special
    )
    with np.errstate(over="ignore"):
        return np.where(rng.random(shape) < fraction, rng.choice(values, shape), image).astype(np.float32)


def bits(array):
    """Shape, type and bytes, in the byte order of the format: what two equal results share."""
    array = np.asarray(array)
    return array.shape, array.dtype.newbyteorder("="), array.astype(array.dtype.newbyteorder("<")).tobytes()


def load_reference():
    """The slow codec of the vectors: the standard library alone, and never this package."""
    path = Path(__file__).parents[1] / "spec" / "v1" / "vectors" / "reference.py"
    spec = importlib.util.spec_from_file_location("vectors_reference", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reference = load_reference()
