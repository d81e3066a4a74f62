"""What can go wrong in the pipeline, and how far the trouble reaches.

    PipelineError              the one class a caller needs to catch
    ├── ConfigError            a configuration or a camera description: nothing can start
    ├── CatalogueError         a reference catalogue cannot be read
    │   └── CoverageError      or does not cover the sky asked for
    └── FrameError             one frame is lost, the night goes on
        ├── FileError          the file: truncated, not FITS, a keyword missing, an unexpected shape
        ├── CalibrationError   no fitting master, or a calibration frame that cannot be used
        ├── PixelError         the pixels: all invalid, saturated, no signal
        ├── SourceError        too few stars
        ├── AstrometryError    no position on the sky can be trusted
        └── PhotometryError    no zero point or PSF can be trusted

A FrameError names the frame, the stage and a ``reason``: one word that reports and databases count by.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of everything the pipeline raises on purpose."""


class ConfigError(PipelineError):
    """A configuration or camera description that cannot be used."""


class CatalogueError(PipelineError):
    """A reference catalogue that cannot be read or does not cover the field."""


class CoverageError(CatalogueError):
    """A reference catalogue that is sound, but has nothing where the frame looks."""


class FrameError(PipelineError):
    """One frame cannot be processed further; says which, where and why."""

    def __init__(self, frame_id: str, stage: str, reason: str, message: str) -> None:
        super().__init__(frame_id, stage, reason, message)  # the same arguments, so that it pickles
        self.frame_id, self.stage, self.reason, self.message = frame_id, stage, reason, message

    def __str__(self) -> str:
        return f"{self.frame_id}: {self.stage}: {self.message} [{self.reason}]"


class FileError(FrameError):
    """The file: truncated, not FITS, a keyword missing, an unexpected shape."""


class CalibrationError(FrameError):
    """No fitting master, or a calibration frame that cannot be used."""


class PixelError(FrameError):
    """The pixels: all invalid, saturated, without signal."""


class SourceError(FrameError):
    """Too few stars to go on."""


class AstrometryError(FrameError):
    """No position on the sky that can be trusted."""


class PhotometryError(FrameError):
    """No zero point or PSF that can be trusted."""
