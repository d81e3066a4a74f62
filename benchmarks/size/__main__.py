"""Bytes of the whole multiscale.Cutout record on real alerts: `python -m benchmarks.size`."""

import gzip
from dataclasses import replace

import numpy as np

from benchmarks.common import (
    PLANES,
    RealAlert,
    Requirement,
    at_most,
    cutout_bytes,
    real_alerts,
    save,
    summary,
)
from multiscale import Cutout, Geometry, profile
from multiscale.convert import Options, encode_survey_cutout
from multiscale.cutout import Sky
from multiscale.inspection import avro_size, cutout_parts
from multiscale.schema import parsed_schema

STEPS = (0.25, 0.5, 1.0)


def three_planes(real: RealAlert, geometry: Geometry | None, encoding: str, step: float = 0.25) -> Cutout:
    """Return the cutout of science, template and difference alone, background and noise included."""
    cutout = real.alert.cutout
    planes = {name: cutout.planes[name] for name in PLANES}
    only = replace(cutout, planes=planes, psf={}, psf_fwhm=None, mask_bits={}, wcs=None, missing=[])
    return encode_survey_cutout(only, real.alert.survey, Options(geometry, encoding, step))


def with_sky(cutout: Cutout) -> Cutout:
    """Return the cutout with a sky position: ZTF cutouts have none, and its size does not depend on it."""
    scale = cutout.pixel_scale / 3600
    sky = Sky(ra=123.456789, dec=-12.345678, cd11=-scale, cd12=0.0, cd21=0.0, cd22=scale, max_error=0.01)
    return cutout.model_copy(update={"sky": sky})


def record_size(cutout: Cutout) -> int:
    """Return the bytes of the record as Avro."""
    return avro_size(parsed_schema("multiscale.Cutout"), cutout.to_record())


def ztf_rows(alerts: list[RealAlert]) -> dict[str, list[float]]:
    """Return the sizes in each layout, for every alert."""
    rows: dict[str, list[float]] = {
        "gzip FITS, as sent": [sum(map(len, cutout_bytes(a.record))) for a in alerts],
        "raw FITS": [sum(len(gzip.decompress(c)) for c in cutout_bytes(a.record)) for a in alerts],
    }
    for name in ("ZTF-4x8", "ZTF-3x16"):
        geometry = profile(name)
        rows[f"{name} RAW"] = [record_size(three_planes(a, geometry, "raw")) for a in alerts]
        for step in STEPS:
            cutouts = [three_planes(a, geometry, "rice", step) for a in alerts]
            rows[f"{name} RICE sigma*{step:g}"] = [record_size(c) for c in cutouts]
            if step == 0.25:
                rows[f"{name} RICE sigma*{step:g}, sky"] = [record_size(with_sky(c)) for c in cutouts]
            rows[f"{name} RICE sigma*{step:g}, pixels"] = [
                sum(len(p.payload) + len(p.invalid or b"") for p in c.planes) for c in cutouts
            ]
    return rows


def lsst_rows(alerts: list[RealAlert]) -> dict[str, list[float]]:
    """Return the sizes in each layout, for every alert; all cutouts of LSST have variance and PSF."""
    rows: dict[str, list[float]] = {
        "three FITS with variance and PSF, as sent": [sum(map(len, cutout_bytes(a.record))) for a in alerts]
    }
    layouts = {"16xL covering": None, "LSST-4x16": profile("LSST-4x16")}
    for name, geometry in layouts.items():
        for encoding in ("raw", "rice"):
            label = f"{name} {encoding.upper()}"
            rows[f"{label}, three planes"] = [
                record_size(three_planes(a, geometry, encoding)) for a in alerts
            ]
            options = Options(geometry, encoding)
            whole = [encode_survey_cutout(a.alert.cutout, "LSST", options) for a in alerts]
            rows[f"{label}, with variance, PSF, sky"] = [record_size(c) for c in whole]
            no_psf = [
                c.model_copy(update={"planes": tuple(p.model_copy(update={"psf": None}) for p in c.planes)})
                for c in whole
            ]
            rows[f"{label}, with variance, sky"] = [record_size(c) for c in no_psf]
    return rows


def print_rows(title: str, rows: dict[str, list[float]]) -> None:
    """Print a table of bytes."""
    print(
        f"\n{title}\n{'bytes of the cutouts of one alert':46} {'median':>9} {'p90':>9} {'min':>9} {'max':>9}"
    )
    for name, sizes in rows.items():
        s = summary(sizes)
        print(f"{name:46} {s['median']:>9,.0f} {s['p90']:>9,.0f} {s['min']:>9,.0f} {s['max']:>9,.0f}")


def measure() -> list[Requirement]:
    """Measure, print and save; return the requirements."""
    ztf = [a for a in real_alerts("ztf") if a.has_three_planes]
    lsst = [a for a in real_alerts("lsst") if a.has_three_planes]
    originals = [a for a in ztf if a.is_original]
    ztf_sizes, lsst_sizes = ztf_rows(ztf), lsst_rows(lsst)
    print_rows(f"ZTF, {len(ztf)} alerts, three planes", ztf_sizes)
    print_rows(f"LSST, {len(lsst)} alerts", lsst_sizes)
    whole = [avro_size(a.schema, a.record) for a in originals]
    print(f"\nwhole ZTF packets (body), {len(whole)} originals: median {np.median(whole):,.0f} bytes")
    one = three_planes(ztf[0], profile("ZTF-4x8"), "rice")
    print(f"\nwhere the bytes of {ztf[0].file} go, ZTF-4x8 RICE:")
    for part in cutout_parts(one):
        print(f"  {part.n_bytes:5} {part.name:24} {part.note}")

    def median(name: str) -> float:
        return float(np.median(ztf_sizes[name]))

    requirements = [
        at_most("Cutout record, 3 planes, 4x8, RAW: median", median("ZTF-4x8 RAW"), 2660, " B"),
        at_most("  RICE at sigma/4, sky null: median", median("ZTF-4x8 RICE sigma*0.25"), 630, " B"),
        at_most("  RICE at sigma/4, with sky: median", median("ZTF-4x8 RICE sigma*0.25, sky"), 670, " B"),
    ]
    results = {
        "ztf": {name: summary(sizes) for name, sizes in ztf_sizes.items()},
        "lsst": {name: summary(sizes) for name, sizes in lsst_sizes.items()},
        "ztf_whole_packets": summary(whole),
    }
    save("size", results, requirements)
    return requirements


if __name__ == "__main__":
    measure()
