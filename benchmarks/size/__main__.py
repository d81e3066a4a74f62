"""Bytes of the whole multiscale.Cutout record on real alerts: `python -m benchmarks.size`.

Every size is that of the record as Avro (the body, without a schema), with the median background and the
noise of each plane. ZTF's own sizes stand beside it: its cutouts in every alert, its whole packets only in
files that nobody wrote again.
"""

import gzip
from collections import defaultdict
from dataclasses import replace

import numpy as np

from benchmarks.common import (
    PLANES,
    RealAlert,
    Requirement,
    at_most,
    cutout_bytes,
    is_full,
    labelled_alerts,
    real_alerts,
    save,
    summary,
)
from benchmarks.size.figure import draw
from multiscale import Cutout, Geometry, profile
from multiscale.convert import Options, encode_survey_cutout
from multiscale.inspection import avro_size, cutout_parts
from multiscale.schema import parsed_schema
from multiscale.surveys import Wcs

STEPS = (0.25, 0.5, 1.0)  # of the RICE step, in sigma
SMALL = 60  # alerts of each kind


def three_planes(
    real: RealAlert, geometry: Geometry | None, encoding: str, step: float = 0.25, *, sky: bool = False
) -> Cutout:
    """Return the cutout of science, template and difference alone, background and noise included."""
    cutout = real.alert.cutout
    planes = {name: cutout.planes[name] for name in PLANES}
    only = replace(
        cutout,
        planes=planes,
        psf={},
        psf_fwhm=None,
        mask_bits={},
        missing=[],
        wcs=made_up_wcs(real) if sky else None,
    )
    return encode_survey_cutout(only, real.alert.survey, Options(geometry, encoding, step))


def made_up_wcs(real: RealAlert) -> Wcs:
    """Return a projection from the alert's position and pixel scale: ZTF's cutouts have none of their own.

    North up, east left. What a sky costs depends on its fields being there, not on their values.
    """
    cutout, candidate = real.alert.cutout, real.record.get("candidate", real.record)
    scale = cutout.pixel_scale / 3600
    x, y = cutout.position or cutout.center
    return Wcs((x, y), (candidate["ra"], candidate["dec"]), ((-scale, 0.0), (0.0, scale)), max_error=None)


def record_size(cutout: Cutout) -> int:
    """Return the bytes of the record as Avro."""
    return avro_size(parsed_schema("multiscale.Cutout"), cutout.to_record())


def pixel_bytes(cutout: Cutout) -> int:
    """Return the bytes of payloads and bitmaps alone."""
    return sum(len(p.payload) + len(p.invalid or b"") for p in cutout.planes)


def ztf_rows(alerts: list[RealAlert], layouts: tuple[str, ...]) -> dict[str, list[int]]:
    """Return the bytes of each layout for every alert, beside those of ZTF's own cutouts."""
    own = [cutout_bytes(a.record) for a in alerts]
    rows: dict[str, list[int]] = {
        "ZTF's own: gzip FITS": [sum(map(len, cutouts)) for cutouts in own],
        "ZTF's own: the FITS inside": [sum(len(gzip.decompress(c)) for c in cutouts) for cutouts in own],
    }
    for name in layouts:
        geometry = profile(name)
        rows[f"{name} RAW"] = [record_size(three_planes(a, geometry, "raw")) for a in alerts]
        rows[f"{name} RAW, sky"] = [record_size(three_planes(a, geometry, "raw", sky=True)) for a in alerts]
        for step in STEPS:
            cutouts = [three_planes(a, geometry, "rice", step) for a in alerts]
            rows[f"{name} RICE sigma*{step:g}"] = [record_size(c) for c in cutouts]
            rows[f"{name} RICE sigma*{step:g}, pixels alone"] = [pixel_bytes(c) for c in cutouts]
        rows[f"{name} RICE sigma*0.25, sky"] = [
            record_size(three_planes(a, geometry, "rice", sky=True)) for a in alerts
        ]
    return rows


def lsst_rows(alerts: list[RealAlert]) -> dict[str, list[int]]:
    """Return the bytes of each layout for every alert; all cutouts of LSST have variance and PSF."""
    rows: dict[str, list[int]] = {
        "LSST's own: FITS, variance, PSF": [sum(map(len, cutout_bytes(a.record))) for a in alerts]
    }
    layouts = {"16xL that covers": None, "LSST-4x16": profile("LSST-4x16")}
    for name, geometry in layouts.items():
        for encoding in ("raw", "rice"):
            label = f"{name} {encoding.upper()}"
            rows[label] = [record_size(three_planes(a, geometry, encoding)) for a in alerts]
            options = Options(geometry, encoding)
            whole = [encode_survey_cutout(a.alert.cutout, "LSST", options) for a in alerts]
            no_psf = [
                c.model_copy(update={"planes": tuple(p.model_copy(update={"psf": None}) for p in c.planes)})
                for c in whole
            ]
            rows[f"{label}, variance, sky"] = [record_size(c) for c in no_psf]
            rows[f"{label}, variance, sky, PSF"] = [record_size(c) for c in whole]
    return rows


def where_bytes_go(alerts: list[RealAlert], encoding: str) -> dict[str, float]:
    """Return the median bytes of each part of the record in ZTF-4x8."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for alert in alerts:
        parts = {p.name: p.n_bytes for p in cutout_parts(three_planes(alert, profile("ZTF-4x8"), encoding))}
        for name in ("payload", "bitmap", "fields"):
            sizes[f"three planes: {name}"].append(
                sum(n for part, n in parts.items() if part.endswith(name) and not part.startswith("cutout"))
            )
        sizes["cutout: fields"].append(parts["cutout: fields"])
    return {name: float(np.median(values)) for name, values in sizes.items()}


def print_rows(title: str, rows: dict[str, list[int]]) -> None:
    """Print a table of bytes."""
    print(f"\n{title}\n{'bytes of one alert':44} {'median':>9} {'p90':>9} {'min':>9} {'max':>9}")
    for name, sizes in rows.items():
        s = summary(sizes)
        print(f"{name:44} {s['median']:>9,.0f} {s['p90']:>9,.0f} {s['min']:>9,.0f} {s['max']:>9,.0f}")


def measure(*, full: bool = False) -> list[Requirement]:
    """Measure, print and save; return the requirements. The small setting takes fewer labelled alerts."""
    ztf = [a for a in real_alerts("ztf") if a.has_three_planes]
    lsst = [a for a in real_alerts("lsst") if a.has_three_planes]
    labelled = [a for a in labelled_alerts() if a.has_three_planes]
    labelled = labelled if full else labelled[:: len(labelled) // SMALL]
    originals = [a for a in ztf if a.is_original]

    layouts = ("ZTF-4x8", "ZTF-3x16")
    ztf_sizes, lsst_sizes = ztf_rows(ztf, layouts), lsst_rows(lsst)
    labelled_sizes = ztf_rows(labelled, layouts[:1])
    files = [a.n_file_bytes for a in originals]
    packets = [avro_size(a.schema, a.record) for a in originals]
    parts = {encoding: where_bytes_go(ztf, encoding) for encoding in ("raw", "rice")}

    print_rows(
        f"ZTF, {len(ztf)} alerts, three planes; sky made up from ra, dec and the pixel scale", ztf_sizes
    )
    is_original = [i for i, a in enumerate(ztf) if a.is_original]
    of_originals = {name: [sizes[i] for i in is_original] for name, sizes in ztf_sizes.items()}
    own = {"ZTF's own: whole file, with its schema": files, "ZTF's own: packet without schema": packets}
    print_rows(f"of these the {len(originals)} originals", {**own, **of_originals})
    print_rows(f"labelled ZTF stamps, {len(labelled)} alerts", labelled_sizes)
    print_rows(f"LSST, {len(lsst)} alerts, three planes, and what they carry beside them", lsst_sizes)
    for encoding, sizes in parts.items():
        print(f"\nwhere the bytes go, ZTF-4x8 {encoding.upper()}, medians")
        for name, n_bytes in sizes.items():
            print(f"  {name:30} {n_bytes:>7,.0f}")

    requirements = [
        at_most(f"ZTF-4x8 record, {what}, median", float(np.median(ztf_sizes[f"ZTF-4x8 {row}"])), limit, " B")
        for what, row, limit in (
            ("RAW", "RAW", 2660),
            ("RICE at sigma/4, sky null", "RICE sigma*0.25", 630),
            ("RICE at sigma/4, with sky", "RICE sigma*0.25, sky", 670),
        )
    ]
    results = {
        "is_original": [int(a.is_original) for a in ztf],
        "bytes": {
            "ztf": ztf_sizes,
            "ztf_originals_files": files,
            "ztf_originals_packets": packets,
            "ztf_labelled": labelled_sizes,
            "lsst": lsst_sizes,
        },
        "parts": parts,
    }
    save("size", results, requirements, full=full)
    draw()
    return requirements


if __name__ == "__main__":
    measure(full=is_full(__doc__))
