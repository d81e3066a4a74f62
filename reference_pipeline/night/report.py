"""What became of a night: one line a frame, for machines (report.json) and for people (report.html)."""

from __future__ import annotations

import base64
import html
import io
import statistics
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from multiscale.atomic import replacing

from ..frame import Decision, Frame
from ..products import Summary

Status = Literal["calibrated", "failed", "crashed", "rejected", "master", "unchanged"]


class StepReport(BaseModel):
    """One step of one frame."""

    model_config = ConfigDict(frozen=True)
    name: str
    seconds: float
    decision: dict[str, Decision]


class FrameReport(BaseModel):
    """What became of one file of the night.

    calibrated: a product is written. failed: a named error ended it; where there is a product, it holds what
    was reached. crashed: a defect of the software; ``message`` is its trace. rejected: a calibration frame
    that no master was made of. master: a calibration frame that one was. unchanged: the product of an
    earlier run has the same inputs and settings.
    """

    model_config = ConfigDict(frozen=True)
    file: str
    id: str
    kind: str = ""
    band: str = ""
    status: Status
    stage: str = ""
    reason: str = ""
    message: str = ""
    product: str | None = None
    seconds: float = 0.0
    steps: tuple[StepReport, ...] = ()
    quality: dict[str, float] = {}
    zero_point: float | None = None
    zero_point_scatter: float | None = None
    thumbnail: str | None = None  # PNG, base64

    @classmethod
    def of_frame(
        cls, file: str, frame: Frame | Summary, *, status: Status, product: str | None, **more: str
    ) -> FrameReport:
        """Return the report of a frame as far as it came."""
        quality = {} if frame.quality is None else {
            name: float(value) for name, value in vars(frame.quality).items() if value is not None
        }  # fmt: skip
        zero_point = frame.zero_point
        return cls(
            file=file,
            id=frame.id,
            kind=frame.exposure.kind,
            band=frame.exposure.band or "",
            status=status,
            product=product,
            seconds=sum(step.seconds for step in frame.steps),
            steps=tuple(StepReport(name=s.name, seconds=s.seconds, decision=s.decision) for s in frame.steps),
            quality={name: value for name, value in quality.items() if np.isfinite(value)},
            zero_point=None if zero_point is None else zero_point.value,
            zero_point_scatter=None if zero_point is None else _finite(zero_point.scatter),
            thumbnail=None if frame.thumbnail is None else _png(frame.thumbnail),
            **more,
        )

    @property
    def complaint(self) -> str:
        """What the quality check says against a frame; empty where it is good, or was not looked at."""
        decisions = [step.decision for step in self.steps if step.name == "quality"]
        return "" if not decisions or decisions[-1].get("is_good") else str(decisions[-1].get("verdict", ""))

    def line(self) -> str:
        """What a person watching reads of it."""
        what = f"{self.stage}: {_first_line(self.message)} [{self.reason}]" if self.reason else self.complaint
        return f"{self.file}: {self.status} {what}".rstrip() + f" ({self.seconds:.1f} s)"


class DifferenceReport(BaseModel):
    """What became of one exposure in one branch.

    done: its alerts are in the database. unchanged: they were before. template: it is the template of its
    field. failed: a named error ended it. crashed: a defect of the software; ``message`` is its trace.
    """

    model_config = ConfigDict(frozen=True)
    exposure: str
    branch: str
    status: Literal["done", "unchanged", "template", "failed", "crashed"]
    template: str = ""
    stage: str = ""
    reason: str = ""
    message: str = ""
    product: str | None = None
    seconds: float = 0.0
    steps: tuple[StepReport, ...] = ()
    n_candidates: int = 0
    cuts: dict[str, int] = {}  # cut -> how many it removed
    models: tuple[str, ...] = ()  # that its candidates were classified with, and what those were trained on
    classes: dict[str, int] = {}  # class -> how many candidates that passed the cuts it is likeliest for
    n_real: int | None = None  # of them, those with a real/bogus score of 0.5 or more
    unsaid: tuple[str, ...] = ()  # what could not be classified, and why
    dropped: str = ""  # why none of its candidates is sent
    n_alerts: int = 0
    n_new: int = 0  # of the alerts, those of objects not seen before
    picture: str | None = None  # science, template and difference side by side; PNG, base64

    def decision(self, step: str, name: str) -> Decision:
        """What a step decided; None where it was not taken."""
        return next((s.decision.get(name) for s in self.steps if s.name == step), None)

    def line(self) -> str:
        """What a person watching reads of it."""
        if self.reason:
            what = f"{self.stage}: {_first_line(self.message)} [{self.reason}]"
        elif self.status == "template":
            what = ""
        else:
            what = f"{self.n_candidates} candidates, {self.n_alerts} alerts"
            what += f"; {self.dropped}" if self.dropped else ""
        return f"{self.exposure} {self.branch}: {self.status} {what}".rstrip() + f" ({self.seconds:.1f} s)"


class NightReport(BaseModel):
    """A night, frame by frame, in the order of the files' names."""

    model_config = ConfigDict(frozen=True)
    frames: tuple[FrameReport, ...]
    seconds: float
    settings: dict[str, object]
    differences: tuple[DifferenceReport, ...] = ()
    n_delivered: int = 0  # alerts that left in this run
    not_delivered: str = ""  # why some could not leave; they wait in the outbox

    @property
    def counts(self) -> dict[str, int]:
        """How many files of each status."""
        return dict(Counter(frame.status for frame in self.frames))

    @property
    def is_complete(self) -> bool:
        """Every file could be read, every science frame is calibrated, and subtracted if that was asked."""
        ended = {*self.counts, *(d.status for d in self.differences)}
        return not {"failed", "crashed"} & ended and not self.not_delivered

    def lines(self) -> list[str]:
        """What the command prints: one line for each file that did not become what it should, and the sum."""
        troubled = [f for f in self.frames if f.status in ("failed", "crashed", "rejected")]
        out = [f.line() for f in troubled]
        out += [d.line() for d in self.differences if d.status in ("failed", "crashed") or d.dropped]
        counts = ", ".join(f"{n} {status}" for status, n in sorted(self.counts.items()))
        out.append(f"{len(self.frames)} files in {self.seconds:.0f} s: {counts or 'nothing'}")
        if self.differences:
            ways = Counter(d.status for d in self.differences)
            counts = ", ".join(f"{n} {status}" for status, n in sorted(ways.items()))
            n_alerts = sum(d.n_alerts for d in self.differences)
            out.append(f"subtractions: {counts}; {n_alerts} alerts, {self.n_delivered} delivered")
        out += self.models
        out += self.unsaid
        if self.not_delivered:
            out.append(f"alerts wait in the outbox: {self.not_delivered}")
        return out

    @property
    def models(self) -> list[str]:
        """What candidates were classified with, a line each."""
        names = dict.fromkeys(name for d in self.differences for name in d.models)
        return [f"classified by {name}" for name in names]

    @property
    def unsaid(self) -> list[str]:
        """What could not be classified, each reason once."""
        reasons = dict.fromkeys(reason for d in self.differences for reason in d.unsaid)
        return [f"not classified: {reason}" for reason in reasons]

    def step_seconds(self) -> dict[str, float]:
        """The median seconds of each step over the frames that took it, in the order of the steps."""
        seconds: dict[str, list[float]] = {}
        for frame in self.frames:
            for step in frame.steps:
                seconds.setdefault(step.name, []).append(step.seconds)
        return {name: statistics.median(values) for name, values in seconds.items()}

    def write(self, folder: Path) -> None:
        """Write report.json and report.html into ``folder``, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "report.json") as partial:
            partial.write_text(
                self.model_dump_json(
                    indent=1,
                    exclude={"frames": {"__all__": {"thumbnail"}}, "differences": {"__all__": {"picture"}}},
                )
            )
        with replacing(folder / "report.html") as partial:
            partial.write_text(_page(self), encoding="utf-8")


_COLUMNS = (  # heading, of the quality or decision, digits
    ("FWHM, px", "fwhm", 2),
    ("ellipticity", "ellipticity", 3),
    ("sky, e⁻", "background", 0),
    ("sky rms", "background_rms", 1),
    ("limit, mag", "limiting_magnitude", 2),
    ("PCC", "pearson", 4),
    ("cloud", "cloud_score", 2),
)
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; color: #222; }
table { border-collapse: collapse; } th, td { padding: 3px 9px; text-align: right; vertical-align: middle; }
th { border-bottom: 1px solid #888; font-weight: 600; } tr:nth-child(even) { background: #f4f4f4; }
td.text, th.text { text-align: left; } img { display: block; width: 96px; image-rendering: pixelated; }
img.wide { width: 216px; } .failed, .crashed { color: #a00; } .rejected { color: #a60; }
"""


def _page(night: NightReport) -> str:
    science = [
        f for f in night.frames if f.kind in ("science", "") and f.status not in ("master", "rejected")
    ]
    others = [f for f in night.frames if f not in science]
    counts = ", ".join(f"{n} {status}" for status, n in sorted(night.counts.items()))
    heads = "".join(f"<th>{heading}</th>" for heading, _, _ in _COLUMNS)
    rows = "\n".join(_row(frame) for frame in science)
    steps = "".join(
        f"<tr><td class=text>{html.escape(name)}</td><td>{seconds:.2f}</td></tr>"
        for name, seconds in night.step_seconds().items()
    )
    calibration = "".join(
        f"<tr class={f.status}><td class=text>{html.escape(f.file)}</td><td class=text>{f.kind}</td>"
        f"<td class=text>{f.band}</td><td class=text>{f.status}</td>"
        f"<td class=text>{html.escape(f.message)}</td></tr>"
        for f in others
    )
    return f"""<!doctype html><html lang=en><meta charset=utf-8><title>Night report</title>
<style>{_STYLE}</style>
<h1>Night report</h1><p>{len(night.frames)} files in {night.seconds:.0f} s: {counts}.</p>
<table><tr><th></th><th class=text>frame</th><th class=text>band</th><th class=text>status</th>{heads}
<th>zero point</th><th>scatter</th><th>s</th></tr>
{rows}</table>
{_subtractions(night)}
<h2>Seconds of each step (median)</h2><table><tr><th class=text>step</th><th>s</th></tr>{steps}</table>
<h2>Calibration frames</h2><table><tr><th class=text>file</th><th class=text>kind</th><th class=text>band</th>
<th class=text>status</th><th class=text></th></tr>{calibration}</table></html>
"""


_OF_DIFFERENCE = (  # heading, step, names of the decisions, digits
    ("offset x y, px", "align", ("dx", "dy"), 3),
    ("scatter x y, px", "align", ("scatter_x", "scatter_y"), 3),
    ("stamps", "subtract", ("n_used",), 0),
    ("held-out χ²", "subtract", ("held_out_chi2",), 2),
    ("flux ratio", "subtract", ("photometric_ratio",), 4),
)


def _subtractions(night: NightReport) -> str:
    """What became of each exposure in each branch; the picture is of its strongest candidate."""
    if not night.differences:
        return ""
    heads = "".join(f"<th>{heading}</th>" for heading, _, _, _ in _OF_DIFFERENCE)
    rows = "\n".join(_difference_row(d) for d in night.differences)
    waiting = f" <b class=failed>{html.escape(night.not_delivered)}</b>" if night.not_delivered else ""
    n_alerts = sum(d.n_alerts for d in night.differences)
    models = "".join(f"<p>{html.escape(line)}</p>" for line in night.models)
    models += "".join(f"<p class=rejected>{html.escape(line)}</p>" for line in night.unsaid)
    return f"""<h2>Subtractions</h2>
<p>{n_alerts} alerts of this run, {night.n_delivered} delivered.{waiting} Pictures: science, template and
difference about the strongest candidate. Classes are of the candidates that passed the cuts, real those with
a real/bogus score of 0.5 or more.</p>
{models}
<table><tr><th></th><th class=text>exposure</th><th class=text>status</th>{heads}<th>candidates</th>
<th class=text>cut</th><th>real</th><th class=text>classes</th><th>alerts</th><th>s</th></tr>
{rows}</table>"""


def _difference_row(d: DifferenceReport) -> str:
    picture = f'<img class=wide alt="" src="data:image/png;base64,{d.picture}">' if d.picture else ""
    status = d.status if not d.reason else f"{d.status}: {d.stage} [{d.reason}]"
    if d.message:
        status += f"<br><small>{html.escape(_first_line(d.message))}</small>"
    if d.dropped:
        status += f"<br><small class=rejected>{html.escape(d.dropped)}</small>"
    if d.template:
        status += f"<br><small>template {html.escape(d.template)}</small>"
    cells = ""
    for _, step, names, digits in _OF_DIFFERENCE:
        values = [d.decision(step, name) for name in names]
        known = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        cells += f"<td>{'<br>'.join(_number(float(value), digits) for value in known)}</td>"
    cuts = ", ".join(f"{n} {name}" for name, n in sorted(d.cuts.items()))
    classes = ", ".join(f"{n} {name}" for name, n in d.classes.items())
    real = "" if d.n_real is None else str(d.n_real)
    return (
        f"<tr><td>{picture}</td><td class=text>{html.escape(d.exposure)}<br>{d.branch}</td>"
        f"<td class='text {d.status}'>{status}</td>{cells}<td>{d.n_candidates}</td>"
        f"<td class=text>{html.escape(cuts)}</td><td>{real}</td><td class=text>{html.escape(classes)}</td>"
        f"<td>{d.n_alerts}</td><td>{d.seconds:.1f}</td></tr>"
    )


def _row(frame: FrameReport) -> str:
    picture = f'<img alt="" src="data:image/png;base64,{frame.thumbnail}">' if frame.thumbnail else ""
    status = frame.status if not frame.reason else f"{frame.status}: {frame.stage} [{frame.reason}]"
    if frame.complaint:
        status += f"<br><small class=rejected>{html.escape(frame.complaint)}</small>"
    if frame.message:
        status += f"<br><small>{html.escape(_first_line(frame.message))}</small>"
    cells = "".join(f"<td>{_number(frame.quality.get(name), digits)}</td>" for _, name, digits in _COLUMNS)
    return (
        f"<tr><td>{picture}</td><td class=text>{html.escape(frame.id)}</td><td class=text>{frame.band}</td>"
        f"<td class='text {frame.status}'>{status}</td>{cells}<td>{_number(frame.zero_point, 3)}</td>"
        f"<td>{_number(frame.zero_point_scatter, 3)}</td><td>{frame.seconds:.1f}</td></tr>"
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _first_line(message: str) -> str:
    """The line that says most: of a trace, the last."""
    lines = message.strip().splitlines()
    return (lines[-1] if message.startswith("Traceback") else lines[0]) if lines else ""


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _png(thumbnail: np.ndarray) -> str:
    """The thumbnail as a PNG, north or whatever is up as in ds9: row 0 at the bottom."""
    from matplotlib.image import imsave  # matplotlib takes half a second, and not every process draws

    out = io.BytesIO()
    imsave(out, thumbnail[::-1], cmap="gray", vmin=0, vmax=255, format="png")
    return base64.b64encode(out.getvalue()).decode()
