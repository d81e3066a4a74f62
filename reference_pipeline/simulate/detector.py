"""The chip: what a camera is beyond what the reduction has to know of it, and chips of other sizes.

One :class:`~reference_pipeline.config.Camera` describes a chip to simulation and reduction alike. A chip is
read through one amplifier: the segments of a real LSSTCam or AST3 chip differ in gain and bias, which is
left out.
"""

from __future__ import annotations

from pydantic import Field

from ..config import Camera, Config
from ..errors import ConfigError
from ..raw import parse_section


class Detector(Config):
    """A chip. Fractions are of one; ADU are raw; what is fixed in a chip follows from ``seed`` alone."""

    camera: Camera
    seed: int = Field(default=0, ge=0)
    full_well: float = Field(default=100_000.0, gt=0)  # electrons; what is above bleeds along its column

    bias_level: float = 1000.0  # ADU
    bias_column_noise: float = Field(default=1.5, ge=0)  # ADU, rms over columns, fixed
    bias_ramp: float = 4.0  # ADU from the first to the last row, fixed
    bias_frame_drift: float = Field(default=3.0, ge=0)  # ADU, rms from exposure to exposure
    bias_line_drift: float = Field(default=1.5, ge=0)  # ADU, rms of a slow drift from line to line
    bias_drift_length: float = Field(default=150.0, gt=0)  # lines over which that drift forgets itself

    vignetting: float = Field(default=0.12, ge=0, lt=1)  # light lost in the corners
    illumination_tilt: float = Field(default=0.01, ge=0)  # gradient of the response, different in each band
    pixel_response: float = Field(default=0.006, ge=0)  # rms of the pixel-to-pixel response
    n_dust: int = Field(default=12, ge=0)  # shadows of dust: rings
    dust_radius: tuple[float, float] = (12.0, 55.0)  # pixels
    dust_depth: tuple[float, float] = (0.01, 0.05)

    glow: float = Field(default=0.3, ge=0)  # of the dark current, more in the corner of the amplifier
    hot_fraction: float = Field(default=2e-5, ge=0, le=1)  # of the pixels
    hot_rate: float = Field(default=12.0, gt=0)  # electrons per second, median; a dex of rms 0.6
    dead_fraction: float = Field(default=2e-5, ge=0, le=1)  # of the pixels
    bad_columns: float = Field(default=1.5e-3, ge=0, le=1)  # of the columns, from some row to the far end

    cosmic_ray_rate: float = Field(default=0.05, ge=0)  # per second and million pixels
    pixel_size: float = Field(default=15.0, gt=0)  # micrometres
    thickness: float = Field(default=40.0, gt=0)  # micrometres of silicon that a particle crosses

    readout_faults: float = Field(default=0.3, ge=0)  # per frame: jumps within a line, bursts of pickup
    pickup: float = Field(default=0.3, ge=0)  # ADU, amplitude of the pickup that every frame has

    @property
    def raw_shape(self) -> tuple[int, int]:
        """(ny, nx) of a raw file. Raises ConfigError where the camera leaves it open."""
        if self.camera.raw_shape is None:
            raise ConfigError(f"camera {self.camera.name}: raw_shape is missing: a chip has a size")
        return self.camera.raw_shape

    @property
    def imaging(self) -> tuple[slice, slice]:
        """(rows, columns) of the raw file that see light: the trim section, or everything."""
        if self.camera.trim is None:
            ny, nx = self.raw_shape
            return slice(0, ny), slice(0, nx)
        return section(self.camera.trim, self.raw_shape)

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the part that sees light."""
        rows, columns = self.imaging
        return rows.stop - rows.start, columns.stop - columns.start


def section(text: str, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the (rows, columns) of a FITS section "[x1:x2,y1:y2]" in an array of ``shape``.

    Raises ConfigError if it is not written so or does not lie within the array.
    """
    try:
        return parse_section(text, shape)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def camera_of_size(camera: Camera, shape: tuple[int, int]) -> Camera:
    """Return ``camera`` with a chip whose imaging area is ``shape`` (ny, nx), its margins and overscan kept.

    What lies beyond the imaging area in the raw file stays as wide as it was; sections move accordingly.
    Raises ConfigError where the camera has no raw_shape, or an overscan that is not beside the imaging area.
    """
    if camera.raw_shape is None:
        raise ConfigError(f"camera {camera.name}: raw_shape is missing, there is nothing to resize")
    ny, nx = camera.raw_shape
    rows, columns = section(camera.trim, (ny, nx)) if camera.trim else (slice(0, ny), slice(0, nx))
    dy, dx = shape[0] - (rows.stop - rows.start), shape[1] - (columns.stop - columns.start)
    if min(shape) < 1:
        raise ConfigError(f"camera {camera.name}: a chip of {shape} pixels")

    def moved(text: str | None) -> str | None:
        if text is None:
            return None
        r, c = section(text, (ny, nx))
        y1, y2 = _moved_edge(r.start, rows, dy), _moved_edge(r.stop, rows, dy)
        x1, x2 = _moved_edge(c.start, columns, dx), _moved_edge(c.stop, columns, dx)
        if y2 <= y1 or x2 <= x1:
            raise ConfigError(f"camera {camera.name}: section {text} does not survive a chip of {shape}")
        return f"[{x1 + 1}:{x2},{y1 + 1}:{y2}]"

    return camera.model_copy(
        update={
            "raw_shape": (ny + dy, nx + dx),
            "overscan": moved(camera.overscan),
            "trim": moved(camera.trim),
        }
    )


def _moved_edge(edge: int, area: slice, growth: int) -> int:
    return edge if edge <= area.start else edge + growth
