"""RAW against the rule, RICE against RAW, on every real alert: `python -m benchmarks.fidelity`.

The oracle shares nothing with the package: astropy reads the FITS, and the slow codec of the conformance
vectors (standard library alone) makes the levels from the clauses. The sign of ZTF's differences is taken
from isdiffpos; labelled stamps (full setting) came without it, so there the reader's own decision counts.
"""

import gzip
import io
import sys
import warnings

import numpy as np

from benchmarks.common import (
    PLANES,
    ROOT,
    RealAlert,
    Requirement,
    all_of,
    at_most,
    is_full,
    labelled_alerts,
    real_alerts,
    save,
    summary,
)
from multiscale import Cutout, decode_batch
from multiscale.convert import Options, encode_survey_cutout
from multiscale.packing import sent_index

sys.path.insert(0, str(ROOT / "spec" / "v1" / "vectors"))
import reference

INVALID = 2.0**125


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
    if "candidate" in real.record:
        is_flipped = str(real.record["candidate"]["isdiffpos"]) in ("f", "0")
    else:
        is_flipped = any("multiplied by -1" in note for note in real.alert.cutout.notes)
    if is_flipped and "difference" in out:
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
    """Return how far a RICE plane is from RAW: in half steps where sent and in shared centres, and in sigma.

    The noise falls by two from level to level, and so does the step: an error counts in the noise of its
    own level.
    """
    plane = rice.plane(name)
    if plane.encoding == "RAW":
        return {"is_rice": False}
    truth, found = raw.levels(name).astype(float), rice.levels(name).astype(float)
    error = np.abs(found - truth).reshape(-1)
    level = np.arange(rice.n_levels).repeat(rice.size**2)
    sent = np.zeros(error.size, bool)
    sent[sent_index(rice.size, rice.n_levels, plane.shared_center)] = True
    valid = np.isfinite(error)
    sent_error = (error / 2.0 ** (plane.step_exponent - level - 1))[sent & valid]
    shared_error = (error / 2.0 ** (plane.step_exponent - 1))[~sent & valid]
    in_sigma = error * 2.0**level / plane.noise
    return {
        "is_rice": True,
        "same_validity": np.array_equal(np.isnan(found), np.isnan(truth)),
        "sent": float(sent_error.max(initial=0)),
        "shared": float(shared_error.max(initial=0)),
        "rms_sigma": float(np.sqrt(np.mean(in_sigma[sent & valid] ** 2))),
        "rms_level_0": float(np.sqrt(np.mean(in_sigma[valid & (level == 0)] ** 2))),
    }


def encodes_to_itself(cutout: Cutout) -> bool:
    """True when the decoded packet encodes to the same record."""
    record = cutout.to_record()
    decoded = Cutout.from_record(record)
    again = Cutout.from_levels(all_levels(decoded), decoded.geometry, like=decoded)
    return again.to_record() == record


def all_levels(cutout: Cutout) -> dict:
    """Return the levels of every plane, decoded one packet at a time."""
    return {key: cutout.levels(*([key] if isinstance(key, str) else key)) for key in cutout.keys}


def decodes_alike_in_a_batch(cutout: Cutout) -> bool:
    """True when ``decode_batch`` gives the same bits."""
    [group] = decode_batch([cutout.to_record()])
    return all(group.levels[key][0].tobytes() == array.tobytes() for key, array in all_levels(cutout).items())


def measure(*, full: bool = False, alerts: tuple[RealAlert, ...] | None = None) -> list[Requirement]:
    """Measure, print and save; return the requirements. The small setting leaves the labelled stamps out.

    ``alerts``: these instead, and nothing is saved.
    """
    chosen = alerts or (*real_alerts("ztf"), *real_alerts("lsst"), *(labelled_alerts() if full else ()))
    warnings.simplefilter("ignore")  # astropy's, about the headers of survey cutouts
    names = ("alerts", "clipped", "planes", "with_invalid", "identical", "again", "batch")
    counts = dict.fromkeys(names, 0)
    errors: list[dict] = []
    for real in chosen:
        source, survey = real.alert.cutout, real.alert.survey
        raw, rice = (encode_survey_cutout(source, survey, Options(encoding=e)) for e in ("raw", "rice"))
        counts["alerts"] += 1
        counts["clipped"] += raw.clipped_by == "DETECTOR"
        counts["again"] += encodes_to_itself(raw) and encodes_to_itself(rice)
        counts["batch"] += decodes_alike_in_a_batch(raw) and decodes_alike_in_a_batch(rice)
        for name, pixels in original_pixels(real).items():
            if name not in source.planes:
                continue
            counts["planes"] += 1
            counts["with_invalid"] += not bool((np.abs(pixels) < INVALID).all())  # NaN compares false
            expected = oracle_levels(pixels, raw, source.center)
            counts["identical"] += raw.levels(name).tobytes() == expected.tobytes()
            errors.append(rice_errors(raw, rice, name))
    in_rice = [e for e in errors if e["is_rice"]]
    columns = {
        key: [round(e[key], 5) for e in in_rice] for key in ("sent", "shared", "rms_sigma", "rms_level_0")
    }
    rms, level_0 = summary(columns["rms_sigma"]), summary(columns["rms_level_0"])
    print(f"\n{counts['alerts']} alerts, {counts['clipped']} of them at the edge of the chip;")
    print(f"{counts['planes']} planes, {counts['with_invalid']} of them with invalid pixels;")
    print(f"{len(in_rice)} planes in RICE, the others RAW; rms error of level 0 alone:")
    print(f"median {level_0['median']:.3f}, largest {level_0['max']:.3f} sigma")
    same = sum(e["same_validity"] for e in in_rice)
    requirements = [
        all_of("RAW: planes bit-identical to the rule", counts["identical"], counts["planes"]),
        at_most("RICE: error of sent values, half steps of their level", max(columns["sent"]), 1),
        at_most("RICE: error of shared centres, half level-0 steps", max(columns["shared"]), 1),
        all_of("RICE: planes whose invalid pixels are RAW's", same, len(in_rice)),
        at_most("RICE at sigma/4: rms error of a plane, median", rms["median"], 0.08, " sigma"),
        at_most("RICE at sigma/4: rms error of a plane, largest", rms["max"], 0.11, " sigma"),
        all_of("packets that encode to the same bytes once decoded", counts["again"], counts["alerts"]),
        all_of("packets that decode alike alone and in a batch", counts["batch"], counts["alerts"]),
    ]
    if alerts is None:
        save("fidelity", {"counts": counts, "rice_planes": columns}, requirements, full=full)
    return requirements


if __name__ == "__main__":
    measure(full=is_full(__doc__))
