"""A telescope: optics, a chip, and how much light it gathers. Three are shipped: ast3, ztf, lsst."""

from __future__ import annotations

from pydantic import Field

from ..config import Config, find_description, load_camera, load_toml, parse_model
from ..errors import ConfigError
from .detector import Detector, camera_of_size
from .optics import Optics


class Telescope(Config):
    """What turns a scene into a raw frame, whatever the night."""

    name: str
    optics: Optics
    detector: Detector
    zero_points: dict[str, float]  # band -> AB magnitude of one electron per second above the atmosphere
    pointing_error: float = Field(default=8.0, ge=0)  # arcsec, rms per axis, of the mount
    rotation_error: float = Field(default=0.02, ge=0)  # degrees, rms
    flat_fault_rate: float = Field(default=0.06, ge=0, le=1)  # twilight flats that cannot be used

    def zero_point(self, band: str | None) -> float:
        """The magnitude of one electron per second in ``band``. Raises ConfigError for an unknown band."""
        if band is None or band not in self.zero_points:
            raise ConfigError(
                f"telescope {self.name}: no zero point for band {band!r}; has {', '.join(self.zero_points)}"
            )
        return self.zero_points[band]

    def of_size(self, shape: tuple[int, int]) -> Telescope:
        """The telescope with a chip whose imaging area is ``shape`` (ny, nx)."""
        camera = camera_of_size(self.detector.camera, shape)
        return self.model_copy(update={"detector": self.detector.model_copy(update={"camera": camera})})


def load_telescope(name: str, shape: tuple[int, int] | None = None) -> Telescope:
    """Return the telescope described in the TOML file ``name``, or the one shipped under that name.

    Its ``camera`` names one of :func:`~reference_pipeline.config.load_camera`; ``shape`` (ny, nx) gives
    the chip another imaging area. Raises ConfigError when there is no such file or it does not hold.
    """
    path = find_description(name, "telescopes", package=__package__)
    values = load_toml(path)
    camera = load_camera(str(values.pop("camera", name)))
    detector = {**dict(values.pop("detector", {})), "camera": camera}  # type: ignore[call-overload]
    optics = {"pixel_scale": camera.pixel_scale, **dict(values.pop("optics", {}))}  # type: ignore[call-overload]
    telescope = parse_model(Telescope, {**values, "detector": detector, "optics": optics}, str(path))
    return telescope if shape is None else telescope.of_size(shape)
