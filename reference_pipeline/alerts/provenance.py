"""What an alert says of its own making: what went in, by which software, and when each step ended."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from multiscale import SPEC_VERSION
from multiscale.packet import ProcessingStep, Provenance
from multiscale.version import __version__ as multiscale_version

from ..config import PipelineConfig
from ..difference_products import StoredDifference
from ..frame import Step
from ..version import __version__

SOFTWARE = "reference-pipeline"
_SECONDS = 86400.0  # in a day


def settings_digest(config: PipelineConfig) -> str:
    """Return the SHA-256 of the settings, in hexadecimal: every value, defaults too."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


def provenance_of(
    difference: StoredDifference, *, settings: str, template_digest: str | None = None
) -> tuple[Provenance, ...]:
    """Return what was done to an exposure up to its alerts, with the SHA-256 of what went in.

    ``settings`` is :func:`settings_digest`; ``template_digest`` that of the template's file. What the
    difference was made from is said by its own input digest.
    """
    template = f"template {difference.template_id}"
    if template_digest:
        template += f" (sha256 {template_digest})"
    written_by = difference.software.get(SOFTWARE, "unknown")
    return (
        Provenance(
            software=SOFTWARE,
            version=written_by,
            action=f"difference of {difference.exposure.id} and {template}, branch {difference.branch}; "
            f"inputs sha256 {difference.input_digest}",
        ),
        Provenance(
            software="multiscale",
            version=difference.software.get("multiscale", multiscale_version),
            action=f"cutout of specification {SPEC_VERSION}",
        ),
        Provenance(
            software=SOFTWARE,
            version=__version__,
            action=f"association and packet; settings sha256 {settings}",
        ),
    )


def processing_of(steps: Sequence[Step], *, ended_mjd: float) -> tuple[ProcessingStep, ...]:
    """Return when each of ``steps``, taken one after the other, ended (MJD, UTC); the last at ``ended_mjd``.

    Steps know how long they took. What passed between them is not known and taken for nothing.
    """
    ends: list[ProcessingStep] = []
    end = ended_mjd
    for step in reversed(steps):
        ends.append(ProcessingStep(step=step.name, time=end))
        end -= step.seconds / _SECONDS
    return tuple(reversed(ends))
