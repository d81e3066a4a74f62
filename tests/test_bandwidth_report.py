"""The report of benchmarks/bandwidth_accuracy, from an evaluation made here: every part in its place."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("reportlab")

from benchmarks.bandwidth_accuracy import results as r
from benchmarks.bandwidth_accuracy.layouts import layout_of
from benchmarks.bandwidth_accuracy.report import published, write_report
from benchmarks.bandwidth_accuracy.report.document import Table, Text
from benchmarks.bandwidth_accuracy.report.figures import pareto, sky, stamps
from benchmarks.bandwidth_accuracy.report.given import Compared, Given, read_given
from benchmarks.bandwidth_accuracy.report.page import page
from benchmarks.bandwidth_accuracy.report.parts import size, year
from benchmarks.bandwidth_accuracy.report.parts.summary import sentences
from benchmarks.bandwidth_accuracy.report.pdf import BrowserError, browser, print_page, set_pages
from benchmarks.bandwidth_accuracy.report.text import number, points, verdict
from benchmarks.bandwidth_accuracy.report.write import report_of
from reference_pipeline.taxonomy import STAMP_CLASSES

CLASSES = list(STAMP_CLASSES)
REFERENCE = ("4x8", "rice/4")
PLANES = ["science", "template", "difference"]
F1 = {"full-63": 0.864, "crop-16": 0.843, "low-16": 0.801, "4x8": 0.861, "3x16": 0.872}
SIZES = {("full-63", "fits"): 21_000, ("crop-16", "raw"): 3_200, ("low-16", "raw"): 3_200, ("4x8", "raw"): 2_600,
         ("4x8", "rice/4"): 590, ("4x8", "rice/1"): 430, ("3x16", "rice/4"): 1_420, ("3x16", "rice/1"): 960}  # fmt: skip


def value(x, half=0.02, **more):
    return dict(value=x, low=x - half, high=x + half, **more)


def score(x, half=0.02):
    return value(x, half, std_seeds=0.004)


def tested(f1, *, rng, n=1200):
    """What a network of that macro F1 may have said: a confusion matrix whose rows add to one."""
    diagonal = np.clip(f1 + rng.normal(0, 0.04, 6), 0.4, 0.99)
    matrix = rng.dirichlet(np.ones(6), 6) * (1 - diagonal[:, None])
    matrix[np.diag_indices(6)] = 0
    matrix *= ((1 - diagonal) / matrix.sum(axis=1))[:, None]
    matrix[np.diag_indices(6)] = diagonal
    of_class = {c: value(float(d)) for c, d in zip(CLASSES, diagonal)}
    bins = [{"confidence": c, "accuracy": c - 0.05, "n": 200} for c in (0.45, 0.6, 0.75, 0.9, 0.98)]
    calibrated = [{"confidence": c, "accuracy": c - 0.01, "n": 200} for c in (0.45, 0.6, 0.75, 0.9, 0.98)]
    x = np.geomspace(0.001, 1, 40)
    det = {"false_positive_rate": x.tolist(), "miss_rate": ((1 - f1) * x**-0.4 * (1 - x)).tolist()}
    rates = {c: n / sum(published.YEAR.values()) for c, n in published.YEAR.items()}
    return r.Tested(
        classes=CLASSES, n=n, n_objects=n, n_groups=40, grouped_by="cell", counts=dict.fromkeys(CLASSES, n // 6),
        macro_f1=score(f1), accuracy=score(f1 + 0.01), ece=score(0.06, 0.01), ece_calibrated=score(0.02, 0.005),
        brier=score(0.2), recall=of_class, precision=of_class, average_precision=of_class,
        confusion={"value": matrix.tolist(), "low": np.maximum(matrix - 0.02, 0).tolist(),
                   "high": np.minimum(matrix + 0.02, 1).tolist()},
        satellite_to_sn=value(float(matrix[3, 4]), 0.01), satellite_to_asteroid=value(float(matrix[3, 1]), 0.01),
        recall_at_contamination={c: {"0.01": 0.5, "0.1": 0.8} for c in CLASSES},
        at_stream_rates={"rates": rates, "macro_f1": score(f1 - 0.1), "precision": of_class, "recall": of_class},
        reliability=bins, reliability_calibrated=calibrated, det={"satellite": det, "bogus": det},
    )  # fmt: skip


def cell(layout="4x8", encoding="rice/4", *, f1=None, rng, arms=("layout",), **changed):
    facts = layout_of(layout).facts(1.0, 63)
    f1 = F1[layout] if f1 is None else f1
    median = SIZES.get((layout, encoding))
    spread = lambda m: {"median": m, "low": 0.8 * m, "high": 1.3 * m}  # noqa: E731
    sizes = None if median is None else {
        "pixels": spread(median - 110), "cutout": spread(median), "alert": spread(median + 700), "alert_without": 700,
        "snappy": median + 500, "zstd": median + 300, "n": 300,
    }  # fmt: skip
    changed = {
        "planes": PLANES, "normalization": "noise", "network": "parameters", "position": "without", "fraction": 1.0,
        "label_noise": 0.0, "dropped_level": None, "fft": False, **changed,
    }  # fmt: skip
    words = [layout, encoding.replace("/", "")]
    words += [str(v) for k, v in changed.items() if k != "planes" and v not in ("noise", "parameters", "without", 1.0, 0.0, None, False)]
    words += ["-".join(p[0] for p in changed["planes"])] if changed["planes"] != PLANES else []
    return r.Cell(
        id="_".join(words), arms=list(arms), layout=facts, encoding=encoding, n_parameters=12_345, mflop=3.2,
        seeds=[0, 1, 2], training_seconds=61.0, bytes=sizes,
        tests={"random": tested(f1, rng=rng), "first": tested(f1 - 0.005, rng=rng)}, **changed,
    )  # fmt: skip


def difference(a, b, x, half=0.01, *, arm="layout", adjusted_p=0.2):
    return [
        r.Difference(a=a.id, b=b.id, arm=arm, test=test, metric=metric, difference=x, low=x - half, high=x + half,
                     mcnemar_p=0.03, n_objects=1200, adjusted_p=adjusted_p)
        for test, metric in product(("random", "first"), ("macro_f1", "satellite_recall"))
    ]  # fmt: skip


def small_evaluation(*, gain=-0.003, half=0.01, adjusted_p=0.2, is_simulated=True, is_whole=False):
    """Two layouts, the full stamp and the reference, which is ``gain`` better; or whole: all that a study has."""
    rng = np.random.default_rng(1)
    reference = cell(*REFERENCE, rng=rng, arms=("reference", "layout"))
    full = cell("full-63", "fits", rng=rng)
    cells = [reference, full]
    found = difference(reference, full, gain, half, adjusted_p=adjusted_p)
    more = {}
    if is_whole:
        more = whole(cells, found, rng)
    return r.Evaluation(
        study={"name": "tiny", "note": "", "seeds": [0, 1, 2], "training": {"iterations": 200}},
        environment={"python": "3.11", "cores": 2}, commit="abc1234",
        data={
            "label": "ZTF-like, seed 5", "simulated": is_simulated, "survey": "ztf", "sets": [{"name": "ztf", "seed": 5}],
            "counts": {p: dict.fromkeys(CLASSES, n) for p, n in (("train", 600), ("validation", 200), ("test random", 200))},
            "left_out": {"too near the edge": 3}, "n_cells_of_sky": 40, "grouped_by": "cell",
        },
        classes=CLASSES, reference=reference.id, arms={"layout": [c.id for c in cells]}, cells=cells, differences=found,
        **{"learning": [], "label_noise": [], "levels_dropped": [], "planes_dropped": [], "cost": {}, "real": None,
           "year": None, "answers": [], **more},
    )  # fmt: skip


def whole(cells, found, rng):
    """Add every arm that a study can have to ``cells`` and ``found``; return the rest of an evaluation."""
    reference, full = cells
    for layout, encoding in [s for s in SIZES if s not in ((REFERENCE), ("full-63", "fits"))]:
        new = cell(layout, encoding, f1=F1[layout] - 0.004 * ("rice" in encoding), rng=rng)
        cells.append(new)
        found += difference(reference, new, F1["4x8"] - F1[layout], 0.012)
        found += difference(new, full, F1[layout] - F1["full-63"], 0.015)
    three = next(c for c in cells if c.layout.name == "3x16" and c.encoding == "rice/1")
    crop = next(c for c in cells if c.layout.kind == "crop")
    four = next(c for c in cells if c.layout.name == "4x8" and c.encoding == "rice/1")
    found += difference(three, crop, 0.029) + difference(three, four, 0.011, 0.012) + difference(full, crop, 0.021)
    low = next(c for c in cells if c.layout.kind == "low-resolution")
    found += difference(crop, low, 0.042)
    theirs = {}
    for name, layout, encoding in (
        ("full", "full-63", "fits"), ("cropped", "crop-16", "raw"), ("low-resolution-a", "low-16", "raw"),
        ("low-resolution-b", "low-16", "raw"), ("multi-scale-a", "4x8", "raw"), ("multi-scale-b", "4x8", "raw"),
    ):  # fmt: skip
        new = cell(layout, encoding, f1=F1[layout] - 0.03, rng=rng, arms=("paper",), network=f"published-{name}",
                   normalization="paper", position="with")  # fmt: skip
        theirs[name] = new
        cells.append(new)
    found += difference(theirs["multi-scale-a"], theirs["full"], -0.003, arm="paper")
    found += difference(theirs["full"], theirs["cropped"], 0.021, arm="paper")
    found += difference(theirs["cropped"], theirs["multi-scale-a"], 0.008, arm="paper")
    for changed in ({"position": "with"}, {"position": "shuffled"}, {"planes": ["difference"]}, {"network": "mflop"},
                    {"normalization": "paper"}, {"fft": True}):  # fmt: skip
        new = cell(f1=0.85, rng=rng, arms=tuple(changed), **changed)
        cells.append(new)
        found += difference(new, reference, -0.011, 0.008, arm=next(iter(changed)))
    learning, noise = [], []
    for fraction in (0.1, 0.25, 0.5, 1.0):
        new = reference if fraction == 1 else cell(f1=0.861 + 0.1 * np.log10(fraction), rng=rng, fraction=fraction)
        cells += [] if fraction == 1 else [new]
        learning.append({"cell": new.id, "fraction": fraction, "n_training": int(3600 * fraction),
                         "macro_f1": score(0.861 + 0.1 * float(np.log10(fraction)))})  # fmt: skip
    for rate in (0.0, 0.02, 0.05, 0.1):
        new = reference if rate == 0 else cell(f1=0.861 - rate, rng=rng, label_noise=rate)
        cells += [] if rate == 0 else [new]
        noise.append({"cell": new.id, "rate": rate, "macro_f1": score(0.861 - rate)})
    levels = []
    for k, loss in enumerate((-0.08, -0.012, -0.003, 0.004)):
        new = cell(f1=0.861 + loss, rng=rng, dropped_level=k)
        cells.append(new)
        levels.append({"cell": new.id, "dropped": f"level {k}", "macro_f1": value(loss, 0.009),
                       "satellite_recall": value(2 * loss, 0.03)})  # fmt: skip
    planes = [{"cell": cells[-1].id, "dropped": p, "macro_f1": value(-0.02, 0.009), "satellite_recall": value(-0.01, 0.03)}
              for p in PLANES]  # fmt: skip
    cost = {n: r.Cost(encode_us=90, decode_us=40, classify_us=300, encode_copies=20, decode_copies=9, alert_bytes=b,
                      gbit_s_ztf=0.0003, gbit_s_lsst=b * 8e-6, tb_night_ztf=0.001, tb_night_lsst=b * 1e-5,
                      visit_latency_s=12.3) for n, b in (("4x8", 1290), ("full-63", 21_700))}  # fmt: skip
    real = r.RealCells(
        classes=CLASSES, n_folds=5, counts={"all": dict.fromkeys(CLASSES[:4], 500)}, note="Four classes.",
        cells=[c.model_copy(update={"tests": {"all": c.tests["random"]}}) for c in (full, reference)],
        differences=[d.model_copy(update={"test": "all"}) for d in difference(reference, full, -0.004, 0.02)],
    )  # fmt: skip
    true = {c: n // 10 for c, n in published.YEAR.items()}
    found_so = {c: value(n * (1.5 if c == "satellite" else 1.0), 0.1 * n) for c, n in true.items()}
    a_year = {"cell": reference.id, "n_days": 365, "objects_a_day": 500, "rates": {c: 1 / 6 for c in CLASSES}, "true": true,
              "found": found_so, "correct": {c: value(0.8) for c in CLASSES}, "per_day_satellites": value(2.4, 0.4)}  # fmt: skip
    return {"learning": learning, "label_noise": noise, "levels_dropped": levels, "planes_dropped": planes, "cost": cost,
            "real": real, "year": a_year, "answers": [{"question": 2, "text": "As said.", "numbers": {}}]}  # fmt: skip


def small_examples(n=12, seed=2):
    """Arrays of examples.npz: gaussian stars on noise, rows of glints for satellites, levels by averages."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:63, :63] - 31.0

    def star(dx=0.0, dy=0.0, flux=60.0):
        return flux * np.exp(-((x - dx) ** 2 + (y - dy) ** 2) / 4)

    label = np.array([CLASSES[i % 6] for i in range(n)])
    original = rng.normal(0, 1, (n, 3, 63, 63)).astype("f4")
    for i, name in enumerate(label):
        original[i] += sum(star(9 * k, 4 * k) for k in range(-3, 4)) if name == "satellite" else star()
    original[0, :, :, :5] = np.nan
    whole = np.pad(original, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    sent = np.stack([
        whole.reshape(n, 3, 64 // 2**k, 2**k, 64 // 2**k, 2**k).mean((3, 5))[..., s, :][..., s]
        for k in range(4) for s in [slice(32 // 2**k - 4, 32 // 2**k + 4)]
    ], axis=2).astype("f4")  # fmt: skip
    m = 400
    said = rng.choice(CLASSES, m)
    return {
        "classes": np.array(CLASSES), "planes": np.array(PLANES), "pixel_scale": np.array(1.0), "example_label": label,
        "example_said": label, "example_probability": rng.uniform(0.5, 1, n), "example_id": np.array([f"s{i}" for i in range(n)]),
        "example_original": original, "example_sent": sent, "example_seen": np.arcsinh(np.nan_to_num(sent)),
        "satellite_label": np.array(["satellite"] * 10 + ["SN"] * 2), "satellite_probability": np.linspace(0.999, 0.9, 12),
        "satellite_id": np.array([f"s{i}" for i in range(12)]), "satellite_original": original[:12, 2],
        "sky_ra": rng.uniform(0, 360, m), "sky_dec": np.degrees(np.arcsin(rng.uniform(-0.4, 1, m))),
        "sky_mjd": 60_000 + rng.uniform(0, 300, m), "sky_label": np.where(rng.uniform(size=m) < 0.9, said, "bogus"),
        "sky_said": said, "site": np.array([-116.865, 33.356, 1712.0]), "wide_id": np.array(["s3", "s9"]),
        "wide_image": rng.normal(0, 1, (2, 250, 250)).astype("f4"), "wide_pixel_scale": np.array(2.0),
    }  # fmt: skip


def write(folder, evaluation, examples=None):
    folder.mkdir(parents=True, exist_ok=True)
    r.write_evaluation(folder / "evaluation.json", evaluation)
    (folder / "study.json").write_text(json.dumps({"simulated": evaluation.data.simulated, "commit": evaluation.commit}))
    if examples is not None:
        np.savez_compressed(folder / "examples.npz", **examples)
    return folder
