"""RAW against the rule, RICE against RAW, on every real alert: `python -m benchmarks.fidelity`.

The oracle shares nothing with the package: astropy reads the FITS, and the slow codec of the conformance
vectors (standard library alone) makes the levels from the clauses.
"""

import gzip
import io
import sys

import numpy as np

from benchmarks.common import PLANES, RealAlert, Requirement, all_of, at_most, real_alerts, save, summary
from benchmarks.common import ROOT as CHECKOUT
from multiscale import Cutout, decode_batch
from multiscale.convert import Options, encode_survey_cutout
from multiscale.packing import sent_index

sys.path.insert(0, str(CHECKOUT / "spec" / "v1" / "vectors"))
import reference


def original_pixels(real: RealAlert) -> dict[str, np.ndarray]:
    """Return the planes as astropy reads them, the difference turned to science minus template."""
    from astropy.io import fits

    out = {}
    for name in PLANES:
        value = real.record.get(f"cutout{name.title()}")
        if value is None:
            continue
        content = value["stampData"] if isinstance(value, dict) else value
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        with fits.open(io.BytesIO(content)) as hdus:
            out[name] = np.array(hdus[0].data)
    flipped = real.alert.survey == "ZTF" and str(real.record["candidate"]["isdiffpos"]) in ("f", "0")
    if flipped and "difference" in out:
        out["difference"] = -out["difference"]
    return out


def oracle_levels(pixels: np.ndarray, cutout: Cutout, center: tuple[int, int]) -> np.ndarray:
    """Return the levels by the slow codec, (L, S, S) float32."""
    cx, cy = center[0] + 1, center[1] + 1
    image = [[float(value) for value in row] for row in pixels]
    levels = reference.build_levels("SCIENCE", cutout.size, cutout.n_levels, image, cx, cy)
    data = reference.levels_to_bytes("SCIENCE", levels)
    return np.frombuffer(data, "<f4").reshape(cutout.n_levels, cutout.size, cutout.size)


def rice_errors(raw: Cutout, rice: Cutout, name: str) -> dict[str, float | bool]:
    """Return how far a RICE plane is from RAW: in half steps, sent or in a shared centre, and in sigma."""
    plane = rice.plane(name)
    truth, found = raw.levels(name).astype(float), rice.levels(name).astype(float)
    if plane.encoding == "RAW":
        return {"is_rice": False}
    error = np.abs(found - truth).reshape(-1)
    step = 2.0 ** (plane.step_exponent - np.arange(rice.n_levels)).repeat(rice.size**2)
    sent = np.zeros(error.size, bool)
    sent[sent_index(rice.size, rice.n_levels, plane.shared_center)] = True
    valid = np.isfinite(error)
    both = np.array_equal(np.isnan(found), np.isnan(truth))
    in_sigma = error * 2.0 ** np.arange(rice.n_levels).repeat(rice.size**2)  # of a level's own noise
    sent_error = (error / (step / 2))[sent & valid]
    shared_error = (error / (2.0**plane.step_exponent / 2))[~sent & valid]
    return {
        "is_rice": True,
        "same_validity": both,
        "sent": float(sent_error.max(initial=0)),
        "shared": float(shared_error.max(initial=0)),
        "rms_sigma": float(np.sqrt(np.mean(in_sigma[sent & valid] ** 2)) / plane.noise),
        "rms_level_0": float(np.sqrt(np.nanmean((found - truth)[0] ** 2)) / plane.noise),
    }


def same_bytes_again(rice: Cutout) -> bool:
    """True when a decoded packet encodes to the same record."""
    record = Cutout.from_record(rice.to_record())
    levels = {name: record.levels(*([name] if isinstance(name, str) else name)) for name in record.keys}
    again = Cutout.from_levels(levels, record.geometry, like=record)
    return again.to_record() == rice.to_record()


def measure() -> list[Requirement]:
    """Measure, print and save; return the requirements."""
    counts = {"planes": 0, "identical": 0, "with_nan": 0, "clipped": 0, "alerts": 0, "again": 0, "batch": 0}
    errors: list[dict] = []
    for real in (*real_alerts("ztf"), *real_alerts("lsst")):
        source, survey = real.alert.cutout, real.alert.survey
        raw, rice = (encode_survey_cutout(source, survey, Options(encoding=e)) for e in ("raw", "rice"))
        counts["alerts"] += 1
        counts["clipped"] += raw.clipped_by == "DETECTOR"
        for name, pixels in original_pixels(real).items():
            if name not in source.planes:
                continue
            expected = oracle_levels(pixels, raw, source.center)
            counts["planes"] += 1
            counts["with_nan"] += bool((~np.isfinite(pixels)).any())
            counts["identical"] += raw.levels(name).tobytes() == expected.tobytes()
            errors.append(rice_errors(raw, rice, name))
        counts["again"] += same_bytes_again(rice) and same_bytes_again(raw)
        [group] = decode_batch([rice.to_record()])
        counts["batch"] += all(
            array[0].tobytes() == rice.levels(*([key] if isinstance(key, str) else key)).tobytes()
            for key, array in group.levels.items()
        )
    in_rice = [e for e in errors if e["is_rice"]]
    rms = summary([e["rms_sigma"] for e in in_rice])
    level0 = summary([e["rms_level_0"] for e in in_rice])
    print(
        "rms error of the 64 to 256 pixels of level 0 alone: "
        f"median {level0['median']:.3f}, at most {level0['max']:.3f}"
    )
    print(f"{counts['alerts']} alerts, {counts['planes']} planes ({counts['with_nan']} with invalid pixels,")
    print(f"{counts['clipped']} alerts at the edge of the chip); {len(in_rice)} planes in RICE, the rest RAW")
    sent, shared = (max(e[name] for e in in_rice) for name in ("sent", "shared"))
    same = sum(e["same_validity"] for e in in_rice)
    requirements = [
        all_of(
            "RAW: planes bit-identical to the rule on the original", counts["identical"], counts["planes"]
        ),
        at_most("RICE: largest error of a sent value, half steps of its level", sent, 1),
        at_most("RICE: largest error of a shared centre, half level-0 steps", shared, 1),
        all_of("RICE: planes whose invalid pixels are those of RAW", same, len(in_rice)),
        at_most("RICE at sigma/4: rms error of sent values, median", rms["median"], 0.08, " sigma"),
        at_most("RICE at sigma/4: rms error of sent values, largest", rms["max"], 0.11, " sigma"),
        all_of("decoded packets that encode to the same bytes", counts["again"], counts["alerts"]),
        all_of("packets that decode alike alone and in a batch", counts["batch"], counts["alerts"]),
    ]
    save("fidelity", {"counts": counts, "rms_sigma": rms, "rms_sigma_level_0": level0}, requirements)
    return requirements


if __name__ == "__main__":
    measure()
