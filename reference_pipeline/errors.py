"""What can go wrong in the pipeline, and how far the trouble reaches.

    PipelineError              the one class a caller needs to catch
    ├── ConfigError            a configuration or a camera description: nothing can start
    ├── StoreError             the database: not reachable, of another version, against what is known
    ├── DeliveryError          a sink did not confirm alerts; they stay in the outbox
    ├── CatalogueError         a reference catalogue cannot be read
    │   └── CoverageError      or does not cover the sky asked for
    └── FrameError             one frame is lost, the night goes on
        ├── FileError          the file: truncated, not FITS, a keyword missing, an unexpected shape
        ├── CalibrationError   no fitting master, or a calibration frame that cannot be used
        ├── PixelError         the pixels: all invalid, saturated, no signal
        ├── SourceError        too few stars
        ├── AstrometryError    no position on the sky can be trusted
        ├── PhotometryError    no zero point or PSF can be trusted
        ├── SubtractionError   no template, no alignment, or no difference can be trusted
        └── DetectionError     what is found in a difference cannot be used

A FrameError names the frame, the stage and a ``reason``: one word that reports and databases count by.
Every reason is in REASONS, or in REJECTIONS where it is of a calibration frame that no master is made of.
"""

from __future__ import annotations

REASONS: dict[str, str] = {  # word -> what it means, and what can be done
    "unreadable": "The system does not give the file: permissions, or a disk.",
    "not-fits": "The file does not begin as FITS does, or astropy cannot read it.",
    "truncated": "The file ends before the data that its header announces. Copy it again.",
    "no-image": "No extension holds an image of two axes.",
    "shape": "The image, or a master, is not of the camera's shape. Is it of this camera, unbinned? "
    "`raw_shape` and the sections say what is expected.",
    "section": "`trim`, `overscan`, TRIMSEC or BIASSEC is not written [x1:x2,y1:y2], or lies outside.",
    "keyword-missing": "The header has none of the keywords named. Add this camera's to `[keywords]`.",
    "keyword-value": "A keyword is there and its value is not understood; for a kind of frame, add it to "
    "`[kinds]`.",
    "kind": "The header says another kind of frame than the caller expected.",
    "not-a-master": "The file is not a master written by this pipeline.",
    "not-a-product": "The file is not a calibrated frame written by this pipeline.",
    "not-a-difference": "The file is not a difference product, container of cutouts or file of classes, of "
    "this pipeline, or it is damaged. Subtract again.",
    "pruned": "The difference product is not there: `prune --keep-days` takes it away. Subtract again.",
    "not-a-truth": "The file is not the truth of a simulated frame.",
    "twice": "Two masters of one kind and band were given.",
    "no-frames": "Of all the calibration frames of a kind, none could be used; the message says why.",
    "overscan": "The overscan does not run along the whole imaging area.",
    "no-master": "`calibrate.required` names a master that the night does not have.",
    "all-invalid": "Too many pixels are not finite (`calibrate.max_invalid`).",
    "saturated": "Too many pixels are saturated (`calibrate.max_saturated`): twilight, a lamp.",
    "no-pixels": "No pixel is left that can be used, or too few.",
    "no-stars": "Too few stars: clouds, a closed dome, bad focus, a small field. `sources.min_stars` and "
    "`sources.star_min_snr` decide for the frame, four sources are the least for astrometry.",
    "no-pointing": "The header has no approximate RA and Dec. Add their keywords to `[keywords]`.",
    "no-reference-stars": "The catalogue has no stars here, or none with a magnitude in the band: another "
    "catalogue, or `photometry.reference_band`.",
    "no-match": "No position within `astrometry.search_radius` fits the stars, or the best could be chance. "
    "Check pointing, `pixel_scale` (within `scale_tolerance`) and `parity`; a small field needs a deeper "
    "catalogue.",
    "bad-residuals": "A position was found, but the stars do not agree with one plate "
    "(`astrometry.max_scatter`): wrong stars, trailed images.",
    "no-sources": "A stage was called before find_sources.",
    "no-wcs": "A stage was called before the astrometry.",
    "no-band": "The header names no band. Set `default_band` of the camera or `photometry.reference_band`.",
    "too-few-matches": "Too few stars have a counterpart in the photometric catalogue "
    "(`photometry.min_matches`, `photometry.match_radius`).",
    "bad-scatter": "The stars do not agree on a zero point (`photometry.max_scatter`): patchy cloud, or the "
    "wrong band.",
    "no-zero-point": "A stage was called before the photometry.",
    "too-few-psf-stars": "Too few good stars away from the edges for a PSF (`psf.min_stars`). The frame "
    "stays calibrated.",
    "no-psf": "PSF photometry was called before fit_psf.",
    "exposure-id": "The database has another exposure of this id. Rename the file, or use another output "
    "folder.",
    "no-template": "No frame of this field and band is fit to be a template yet (`templates`).",
    "other-field": "The template is of another part of the sky: they overlap by less than "
    "`align.min_overlap`.",
    "other-band": "The template is of another band.",
    "misaligned": "Stars of the aligned frame and of the template are apart (`align.max_offset`, "
    "`align.max_scatter`): one of the two WCS is off.",
    "too-many": "More candidates than any sky has (`detect.max_candidates`): the subtraction failed.",
    "alert-refused": "An alert does not hold against the specification; a defect of this software.",
    "not-labelled": "The file is not a container of labelled stamps written by this pipeline, it is damaged, "
    "or a folder holds none. `simulate stamps` and `label` make them.",
    "not-solvable": "The stamps do not determine the matching kernel (`subtract.degree`).",
    "not-trusted": "Stamps that the kernel was not fitted to do not subtract well (`subtract.max_chi2`), or "
    "fewer than `subtract.min_stamps` agree: a misaligned template, or another band.",
}

REJECTIONS: dict[str, str] = {  # of calibration frames, beside the reasons above
    "no-exposure-time": "A dark of 0 s.",
    "too-faint": "The flat's median is below `calibrate.flat_min` of saturation.",
    "too-bright": "The flat's median is above `calibrate.flat_max` of saturation.",
    "gradient": "The flat differs from the median of all by a slope (`calibrate.flat_gradient`).",
    "structure": "The flat differs from the median of all in many blocks (`calibrate.flat_structure`): star "
    "trails, clouds.",
    "band": "The flat is of another band.",
}


class PipelineError(Exception):
    """Base of everything the pipeline raises on purpose."""


class ConfigError(PipelineError):
    """A configuration or camera description that cannot be used."""


class StoreError(PipelineError):
    """A database that cannot be reached, is of another version, or contradicts what is to be stored."""


class DeliveryError(PipelineError):
    """A sink that did not confirm alerts; they stay in the outbox."""


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


class SubtractionError(FrameError):
    """No template, no alignment with it, or no difference from it, that can be trusted."""


class DetectionError(FrameError):
    """What is found in a difference cannot be used."""
