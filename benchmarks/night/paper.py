"""A whole frame of AST3-3 on paper: every step's cost is what two sizes say, a part fixed and a part by area.

Both sizes have the same sky, so that sources and alerts grow with the area as pixels do. Beside that stands
what other benchmarks measured at full size.
"""

from __future__ import annotations

from typing import Any

from benchmarks.common import load

FULL = 14206 * 10654  # pixels of AST3-3 (Sun+ 2022, 3.1)
BINNED = 4736 * 3552  # of its quick branch
PAPER = {"reduction": "17", "QIP": "60", "DIP": "300 to 600"}  # s: Sun+ 2022, 2.4 and 3.3, many cores, A100s
WAITING = {"reduction of the night", "wait: reduction's processes"}  # no work of their own
AFTER = {"light curves"}  # once the alerts are out
_SHARED = "main process"
PARTS = (_SHARED, "reduction", "qip", "dip")
_AT_FULL_SIZE = {  # step -> the words of reduction_fullsize
    "calibrate": "calibrate", "cosmic rays": "cosmic_rays", "trails": "trails", "sources": "sources",
    "astrometry": "astrometry", "photometry": "photometry", "quality": "quality", "PSF": "psf",
    "PSF photometry": "psf_photometry",
}  # fmt: skip


def on_paper(small: dict[str, Any], small_size: int, run: dict[str, Any], size: int) -> dict[str, Any]:
    """Return the table of a whole frame, from runs of one science frame of two sizes (pixels a side)."""
    cost = {(_part(row["of"]), row["step"]): row["cpu_s"] for row in small["steps"]}
    beyond = (FULL - size**2) / (size**2 - small_size**2)
    rows = []
    for row in run["steps"]:
        key = part, step = _part(row["of"]), row["step"]
        if step in WAITING | AFTER:
            continue
        at_small, at_size = cost.get(key, 0.0), row["cpu_s"]
        rows.append(
            {
                "part": part, "step": step, "small_cpu_s": at_small, "cpu_s": at_size,
                "cpu_s_per_megapixel": round((at_size - at_small) / ((size**2 - small_size**2) / 1e6), 4),
                "full_s": round(at_size + max(at_size - at_small, 0.0) * beyond, 2),
                "measured_full_s": _measured(part, step),
            }
        )  # fmt: skip
    rows.sort(key=lambda row: PARTS.index(row["part"]))  # in each, in the order of time
    return {
        "pixels": FULL, "pixels_binned": BINNED, "sizes": (small_size, size), "steps": rows, "paper_s": PAPER,
        "totals_s": {
            "from two sizes": _totals(rows, lambda r: r["full_s"]),
            "with what was measured at full size": _totals(
                rows, lambda r: r["full_s"] if r["measured_full_s"] is None else r["measured_full_s"]
            ),
        },
    }  # fmt: skip


def _part(of: str) -> str:
    return "reduction" if of.startswith("reduce") else of


def _measured(part: str, step: str) -> float | None:
    """Seconds at full size, where another benchmark measured them: by the clock, or of the processor."""
    if part == "reduction":
        if step in _AT_FULL_SIZE:
            return round(load("reduction_fullsize")["seconds"][_AT_FULL_SIZE[step]], 2)
        if step.startswith("write calibrated"):
            return round(2 * load("reduction_fullsize")["seconds"]["write the product"], 2)
    if step == "subtract, whiten, score":
        rows = load("subtraction/scaling")["rows"]
        pixels = {"qip": BINNED, "dip": FULL}[part]
        return next((round(r["cpu_s"], 2) for r in rows if r["shape"][0] * r["shape"][1] == pixels), None)
    return None


def _totals(rows: list[dict[str, Any]], cost: Any) -> dict[str, float]:
    """Seconds until a frame is calibrated and each branch's alerts are out, one core for each branch."""
    parts = {part: sum(cost(r) for r in rows if r["part"] == part) for part in PARTS}
    calibrated = parts[_SHARED] + parts["reduction"]
    out = {"calibrated": round(calibrated, 1)}
    return out | {f"{b}: delivered": round(calibrated + parts[b], 1) for b in ("qip", "dip")}


def table(paper: dict[str, Any]) -> str:
    """What a person reads of it."""
    small, size = paper["sizes"]
    lines = ["A frame of AST3-3, 14206 x 10654, on paper; CPU s of one core"]
    lines.append(f"  {'':46} {small:>7}² {size:>7}² {'s/Mpx':>8} {'full, s':>8} {'measured':>9}")
    for row in paper["steps"]:
        at_full = "" if row["measured_full_s"] is None else f"{row['measured_full_s']:.1f}"
        lines.append(
            f"  {row['part']:12} {row['step']:33} {row['small_cpu_s']:8.2f} {row['cpu_s']:8.2f} "
            f"{row['cpu_s_per_megapixel']:8.4f} {row['full_s']:8.1f} {at_full:>9}"
        )
    for how, totals in paper["totals_s"].items():
        lines.append(f"  {how}: " + ", ".join(f"{what} {seconds:.0f} s" for what, seconds in totals.items()))
    lines.append("  the paper: " + ", ".join(f"{what} {seconds} s" for what, seconds in PAPER.items()))
    return "\n".join(lines)
