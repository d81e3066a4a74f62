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
from benchmarks.bandwidth_accuracy.report.figures import curves, pareto, sky, stamps
from benchmarks.bandwidth_accuracy.report.given import Compared, of_count, read_given
from benchmarks.bandwidth_accuracy.report.page import page
from benchmarks.bandwidth_accuracy.report.parts import order, size, year
from benchmarks.bandwidth_accuracy.report.parts.summary import sentences
from benchmarks.bandwidth_accuracy.report.pdf import BrowserError, browser, print_page
from benchmarks.bandwidth_accuracy.report.text import number, points, verdict
from benchmarks.bandwidth_accuracy.report.write import report_of
from reference_pipeline.taxonomy import STAMP_CLASSES

CLASSES = list(STAMP_CLASSES)
REFERENCE = ("4x8", "rice/4")
PLANES = ["science", "template", "difference"]
F1 = {"full-63": 0.864, "crop-16": 0.843, "low-16": 0.801, "4x8": 0.861, "3x16": 0.872}
SIZES = {
    ("full-63", "fits"): 21_000,
    ("crop-16", "raw"): 3_200,
    ("low-16", "raw"): 3_200,
    ("4x8", "raw"): 2_600,
    ("4x8", "rice/4"): 590,
    ("4x8", "rice/1"): 430,
    ("3x16", "rice/4"): 1_420,
    ("3x16", "rice/1"): 960,
}


def value(x, half=0.02, **more):
    return dict(value=x, low=x - half, high=x + half, **more)


def score(x, half=0.02):
    return value(x, half, std_seeds=0.004)


def said_of_a_test(f1, *, rng):
    """What a network of that macro F1 may have said: a confusion matrix whose rows add to one."""
    n = 1200
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
        classes=CLASSES,
        n=n,
        n_objects=n,
        n_groups=40,
        grouped_by="cell",
        counts=dict.fromkeys(CLASSES, n // 6),
        macro_f1=score(f1),
        accuracy=score(f1 + 0.01),
        ece=score(0.06, 0.01),
        ece_calibrated=score(0.02, 0.005),
        brier=score(0.2),
        recall=of_class,
        precision=of_class,
        average_precision=of_class,
        confusion={
            "value": matrix.tolist(),
            "low": np.maximum(matrix - 0.02, 0).tolist(),
            "high": np.minimum(matrix + 0.02, 1).tolist(),
        },
        satellite_to_sn=value(float(matrix[3, 4]), 0.01),
        satellite_to_asteroid=value(float(matrix[3, 1]), 0.01),
        recall_at_contamination={c: {"0.01": 0.5, "0.1": 0.8} for c in CLASSES},
        at_stream_rates={
            "rates": rates,
            "macro_f1": score(f1 - 0.1),
            "precision": of_class,
            "recall": of_class,
        },
        reliability=bins,
        reliability_calibrated=calibrated,
        det={"satellite": det, "bogus": det},
    )


def cell(layout="4x8", encoding="rice/4", *, f1=None, rng, arms=("layout",), **changed):
    facts = layout_of(layout).facts(1.0, 63)
    f1 = F1[layout] if f1 is None else f1
    median = SIZES.get((layout, encoding))
    spread = lambda m: {"median": m, "low": 0.8 * m, "high": 1.3 * m}  # noqa: E731
    sizes = (
        None
        if median is None
        else {
            "pixels": spread(median - 110),
            "cutout": spread(median),
            "alert": spread(median + 700),
            "alert_without": 700,
            "snappy": median + 500,
            "zstd": median + 300,
            "n": 300,
        }
    )
    changed = {
        "planes": PLANES,
        "normalization": "noise",
        "network": "parameters",
        "position": "without",
        "fraction": 1.0,
        "label_noise": 0.0,
        "dropped_level": None,
        "fft": False,
        **changed,
    }
    words = [layout, encoding.replace("/", "")]
    words += [
        str(v)
        for k, v in changed.items()
        if k != "planes" and str(v) not in ("noise", "parameters", "without", "1.0", "0.0", "None", "False")
    ]
    words += ["-".join(p[0] for p in changed["planes"])] if changed["planes"] != PLANES else []
    return r.Cell(
        id="_".join(words),
        arms=list(arms),
        layout=facts,
        encoding=encoding,
        n_parameters=12_345,
        mflop=3.2,
        seeds=[0, 1, 2],
        training_seconds=61.0,
        bytes=sizes,
        tests={"random": said_of_a_test(f1, rng=rng), "first": said_of_a_test(f1 - 0.005, rng=rng)},
        **changed,
    )


def difference(a, b, x, half=0.01, *, arm="layout", adjusted_p=0.2):
    return [
        r.Difference(a=a.id, b=b.id, arm=arm, test=test, metric=metric, difference=x,
                     low=x - half, high=x + half, mcnemar_p=0.03, n_objects=1200, adjusted_p=adjusted_p)
        for test, metric in product(("random", "first"), ("macro_f1", "satellite_recall"))
    ]  # fmt: skip


def small_evaluation(*, gain=-0.003, half=0.01, adjusted_p=0.2, is_simulated=True, is_whole=False):
    """The full stamp and the reference, which is ``gain`` better; or whole: all that a study has."""
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
        environment={"python": "3.11", "cores": 2},
        commit="abc1234",
        data={
            "label": "ZTF-like, seed 5",
            "simulated": is_simulated,
            "survey": "ztf",
            "sets": [{"name": "ztf", "seed": 5}],
            "counts": {
                p: dict.fromkeys(CLASSES, n)
                for p, n in (("train", 600), ("validation", 200), ("test random", 200))
            },
            "left_out": {"too near the edge": 3},
            "n_cells_of_sky": 40,
            "grouped_by": "cell",
        },
        classes=CLASSES,
        reference=reference.id,
        arms={"layout": [c.id for c in cells]},
        cells=cells,
        differences=found,
        **{
            "learning": [],
            "label_noise": [],
            "levels_dropped": [],
            "planes_dropped": [],
            "cost": {},
            "real": None,
            "year": None,
            "answers": [],
            **more,
        },
    )


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
    found += (
        difference(three, crop, 0.029) + difference(three, four, 0.011, 0.012) + difference(full, crop, 0.021)
    )
    low = next(c for c in cells if c.layout.kind == "low-resolution")
    found += difference(crop, low, 0.042)
    theirs = {}
    for name, layout, encoding in (
        ("full", "full-63", "fits"),
        ("cropped", "crop-16", "raw"),
        ("low-resolution-a", "low-16", "raw"),
        ("low-resolution-b", "low-16", "raw"),
        ("multi-scale-a", "4x8", "raw"),
        ("multi-scale-b", "4x8", "raw"),
    ):
        new = cell(
            layout,
            encoding,
            f1=F1[layout] - 0.03,
            rng=rng,
            arms=("paper",),
            network=f"published-{name}",
            normalization="paper",
            position="with",
        )
        theirs[name] = new
        cells.append(new)
    found += difference(theirs["multi-scale-a"], theirs["full"], -0.003, arm="paper")
    found += difference(theirs["full"], theirs["cropped"], 0.021, arm="paper")
    found += difference(theirs["cropped"], theirs["multi-scale-a"], 0.008, arm="paper")
    for changed in (
        {"position": "with"},
        {"position": "shuffled"},
        {"planes": ["difference"]},
        {"network": "mflop"},
        {"normalization": "paper"},
        {"fft": True},
    ):
        new = cell(f1=0.85, rng=rng, arms=tuple(changed), **changed)
        cells.append(new)
        found += difference(new, reference, -0.011, 0.008, arm=next(iter(changed)))
    learning, noise = [], []
    for fraction in (0.1, 0.25, 0.5, 1.0):
        new = (
            reference
            if fraction == 1
            else cell(f1=0.861 + 0.1 * np.log10(fraction), rng=rng, fraction=fraction)
        )
        cells += [] if fraction == 1 else [new]
        learning.append(
            {
                "cell": new.id,
                "fraction": fraction,
                "n_training": int(3600 * fraction),
                "macro_f1": score(0.861 + 0.1 * float(np.log10(fraction))),
            }
        )
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
    planes = [
        {
            "cell": cells[-1].id,
            "dropped": p,
            "macro_f1": value(-0.02, 0.009),
            "satellite_recall": value(-0.01, 0.03),
        }
        for p in PLANES
    ]
    cost = {
        n: r.Cost(
            encode_us=90,
            decode_us=40,
            classify_us=300,
            encode_copies=20,
            decode_copies=9,
            alert_bytes=b,
            gbit_s_ztf=0.0003,
            gbit_s_lsst=b * 8e-6,
            tb_night_ztf=0.001,
            tb_night_lsst=b * 1e-5,
            visit_latency_s=12.3,
        )
        for n, b in (("4x8", 1290), ("full-63", 21_700))
    }
    real = r.RealCells(
        classes=CLASSES, n_folds=5, counts={"all": dict.fromkeys(CLASSES[:4], 500)}, note="Four classes.",
        cells=[c.model_copy(update={"tests": {"all": c.tests["random"]}}) for c in (full, reference)],
        differences=[d.model_copy(update={"test": "all"}) for d in difference(reference, full, -0.004, 0.02)],
    )  # fmt: skip
    true = {c: n // 10 for c, n in published.YEAR.items()}
    found_so = {c: value(n * (1.5 if c == "satellite" else 1.0), 0.1 * n) for c, n in true.items()}
    a_year = {
        "cell": reference.id,
        "n_days": 365,
        "objects_a_day": 500,
        "rates": dict.fromkeys(CLASSES, 1 / 6),
        "true": true,
        "found": found_so,
        "correct": {c: value(0.8) for c in CLASSES},
        "per_day_satellites": value(2.4, 0.4),
    }
    return {
        "learning": learning,
        "label_noise": noise,
        "levels_dropped": levels,
        "planes_dropped": planes,
        "cost": cost,
        "real": real,
        "year": a_year,
        "answers": [{"question": 2, "text": "As said.", "numbers": {}}],
    }


def small_examples(n=6, seed=2):
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
        "classes": np.array(CLASSES),
        "planes": np.array(PLANES),
        "pixel_scale": np.array(1.0),
        "example_label": label,
        "example_said": label,
        "example_probability": rng.uniform(0.5, 1, n),
        "example_id": np.array([f"s{i}" for i in range(n)]),
        "example_original": original,
        "example_sent": sent,
        "example_seen": np.arcsinh(np.nan_to_num(sent)),
        "satellite_label": np.array(["satellite"] * 10 + ["SN"] * 2),
        "satellite_probability": np.linspace(0.999, 0.9, 12),
        "satellite_id": np.array([f"s{i}" for i in range(12)]),
        "satellite_original": original[np.arange(12) % n, 2],
        "sky_ra": rng.uniform(0, 360, m),
        "sky_dec": np.degrees(np.arcsin(rng.uniform(-0.4, 1, m))),
        "sky_mjd": 60_000 + rng.uniform(0, 300, m),
        "sky_label": np.where(rng.uniform(size=m) < 0.9, said, "bogus"),
        "sky_said": said,
        "site": np.array([-116.865, 33.356, 1712.0]),
        "wide_id": np.array(["s3", "s9"]),
        "wide_image": rng.normal(0, 1, (2, 250, 250)).astype("f4"),
        "wide_pixel_scale": np.array(2.0),
    }


def write(folder, evaluation, examples=None):
    folder.mkdir(parents=True, exist_ok=True)
    r.write_evaluation(folder / "evaluation.json", evaluation)
    (folder / "study.json").write_text(
        json.dumps({"simulated": evaluation.data.simulated, "commit": evaluation.commit})
    )
    if examples is not None:
        np.savez_compressed(folder / "examples.npz", **examples)
    return folder


def given_of(folder, evaluation, examples=None):
    return read_given(write(folder, evaluation, examples))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with every part, and its page."""
    given = given_of(tmp_path_factory.mktemp("whole"), small_evaluation(is_whole=True), small_examples())
    made = report_of(given)
    return made, page(made)  # every drawing is drawn


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A report of a study that ran nothing but two layouts, without example stamps."""
    made = report_of(given_of(tmp_path_factory.mktemp("bare"), small_evaluation()))
    return made, page(made)


class Reader(HTMLParser):
    """Reads a page: tags that are not closed, ids, links, tables, words."""

    VOID = ("meta", "img", "br", "link", "hr", "input")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.words, self.alts, self.tags = [], [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href", "data", "action")]
        if tag == "img" or given.get("role") == "img":
            self.alts.append(given.get("alt") or given.get("aria-labelledby"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


@pytest.mark.parametrize("which", ["report", "bare"])
def test_a_page_is_whole_and_asks_nothing_of_others(which, request):
    text = request.getfixturevalue(which)[1]
    reader = read(text)
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    ids = set(reader.ids)
    for link in reader.links:
        assert link.startswith("data:image/png;base64,") or (link[0] == "#" and link[1:] in ids), link
    assert all(url[:1] == "#" and url[1:] in ids for url in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    assert "FOOT" not in text
    assert "script" not in reader.tags
    assert len(reader.alts) == sum(tag in ("svg", "img") for tag in reader.tags)
    assert all(reader.alts)


def test_every_section_and_every_part_is_there(report):
    made, text = report
    anchors = [s.anchor for s in made.sections]
    assert anchors == ["summary", *[f"question-{i}" for i in range(1, 7)], "behaviour", "paper", "methods"]
    assert set(anchors) <= set(read(text).ids)
    for part in (
        "Table 1",
        "Table 2",
        *[f"Figure {i}" for i in range(1, 7)],
        "Every cell",
        "Every difference",
        "What is simulated",
        "abc1234",
        "Reliability",
        "Detection error",
        "Learning curves",
    ):
        assert part in text
    names = {p.name for p in made.panels()}
    assert {
        "pareto-macro-f1",
        "pareto-satellite-recall",
        "det-satellite",
        "reliability",
        "learning",
        "figure-1",
        "figure-2-full",
        "figure-3-all",
        "figure-4-1",
        "figure-5-SN",
        "figure-6-2",
        "example-satellite-1",
        "dropped-level-macro-f1",
        "dropped-plane-macro-f1",
        "label-noise",
    } <= names
    assert len(names) == len(made.panels())


def test_what_a_study_did_not_run_is_said(report, bare):
    said = [b.text for s in bare[0].sections for b in s.blocks if isinstance(b, Text) and b.kind == "missing"]
    for part in (
        "real stamps",
        "a stream of a year",
        "without one level",
        "without one plane",
        "learning curves",
        "example stamps",
        "the paper's networks",
        "0.2″",
        "positions of predictions",
        "wide view",
        "times and rates",
        "wrong labels",
    ):
        assert any(part in words for words in said), part
    of_whole = [
        b.text for s in report[0].sections for b in s.blocks if isinstance(b, Text) and b.kind == "missing"
    ]
    assert len(of_whole) < len(said) / 3
    assert not any("example stamps" in words or "real stamps" in words for words in of_whole)


@pytest.mark.parametrize(
    ("gain", "half", "words"),
    [
        (0.05, 0.01, "better by 5.0 points (4.0 to 6.0"),
        (-0.05, 0.01, "worse by 5.0 points (4.0 to 6.0"),
        (0.002, 0.01, "no difference found: −0.8 to +1.2 points"),
        (0.01, 0.01, "no difference found: +0.0 to +2.0 points"),
    ],
)
def test_a_sentence_follows_the_sign_and_the_interval(tmp_path, gain, half, words):
    given = given_of(tmp_path, small_evaluation(gain=gain, half=half, adjusted_p=0.01))
    assert words in sentences(given)[0]
    # the full stamp is the base: the reference, which is smaller, is recommended unless it is worse
    fourth = sentences(given)[3]
    assert ("every smaller one that was tried is worse" in fourth) == (gain == -0.05)
    assert ("is not excluded" in fourth) == words.startswith("no difference")


def test_nothing_larger_is_called_the_smallest(tmp_path):
    """The reference is the smallest that was tried; the crop is better, and larger."""
    evaluation = small_evaluation()
    reference = evaluation.cells[0]
    crop = cell("crop-16", "raw", rng=np.random.default_rng(3))
    better = difference(crop, reference, 0.05)
    alone = evaluation.model_copy(update={"cells": [reference, crop], "differences": better})
    fourth = sentences(given_of(tmp_path, alone))[3]
    assert "RICE σ/4 (590 bytes); nothing smaller was tried" in fourth


def test_a_difference_that_mcnemar_does_not_confirm_is_doubted():
    assert "does not confirm" in verdict(Compared(0.02, 0.01, 0.03, 0.4, 100))
    assert "confirm" not in verdict(Compared(0.02, 0.01, 0.03, 0.04, 100))
    assert "confirm" not in verdict(Compared(0.02, -0.01, 0.03, 0.4, 100))
    assert verdict(None) == "not compared in this study"
    assert points(Compared(0.02, -0.01, 0.05, None, 1).turned()) == "−2.0 (−5.0 to +1.0)"


def test_numbers_of_the_summary_are_those_of_the_file(tmp_path):
    evaluation = small_evaluation()
    reference = evaluation.cells[0]
    odd = reference.tests["random"].model_copy(
        update={"macro_f1": r.Score(value=0.7123, low=0.7011, high=0.7204)}
    )
    changed = reference.model_copy(update={"tests": {"random": odd}})
    evaluation = evaluation.model_copy(update={"cells": [changed, evaluation.cells[1]]})
    made = report_of(given_of(tmp_path, evaluation))
    first = made.sections[0]
    assert "macro F1 71.2 % (70.1 to 72.0)" in first.blocks[0].items[0]
    assert "(590 bytes)" in first.blocks[0].items[0]
    rows = next(b for b in first.blocks if isinstance(b, Table)).rows
    assert any("71.2 (70.1 to 72.0)" in row and "590" in row for row in rows)
    assert "86.1" not in first.blocks[0].items[0]


def test_simulated_is_said_wherever_a_number_is(report, tmp_path):
    made, text = report
    assert "SIMULATED DATA" in text
    for section in made.sections[1:]:
        for block in section.blocks:
            caption = getattr(block, "caption", "")
            if caption.startswith(
                ("Macro F1", "By class", "Every cell", "Confusion", "Pareto", "Figure", "Table 1")
            ):
                assert "simulated" in caption.lower(), caption
    made = report_of(given_of(tmp_path, small_evaluation(is_simulated=False)))
    real = page(replace(made, sections=made.sections[:1]))
    assert "SIMULATED DATA" not in real
    assert "The stamps are real" in real


def test_the_same_results_give_the_same_page(bare, tmp_path):
    again = report_of(given_of(tmp_path, small_evaluation()))
    few = [replace(made, sections=made.sections[:1] + made.sections[-1:]) for made in (bare[0], again)]
    assert page(few[0]) == page(few[1])


def test_claims_are_judged_by_their_numbers(tmp_path):
    given = given_of(tmp_path, small_evaluation(is_whole=True))
    claims = {c.words: c for c in size.claims_of(given)}
    assert claims["4 × 8, RICE σ: 320 bytes of pixel data"].holds == "holds"  # 430 - 110
    ratio = next(c for words, c in claims.items() if "60 times" in words)
    assert ratio.measured.startswith("36 times")  # 21,000 / 590
    assert ratio.holds == "does not hold"
    assert claims["3 × 16, RICE σ: ahead of the crop"].holds == "holds"  # +2.9 ± 1.0
    assert claims["3 × 16, RICE σ: ahead of 4 × 8"].holds == "undecided"  # +1.1 ± 1.2
    bare = {c.words: c for c in size.claims_of(given_of(tmp_path / "bare", small_evaluation()))}
    assert bare["3 × 16, RICE σ: ahead of the crop"].holds == "not in this study"


def test_a_claim_may_hold_in_two_steps(tmp_path):
    evaluation = small_evaluation(is_whole=True)
    name = "4x8_rice4"
    apart = [d for d in evaluation.differences if not (name in (d.a, d.b) and "full-63_fits" in (d.a, d.b))]
    given = given_of(tmp_path, evaluation.model_copy(update={"differences": apart}))
    found = next(c for c in size.claims_of(given) if "no loss" in c.words)
    assert found.holds == "holds in two steps"
    assert "against 4×8" in found.measured


def test_a_year_counts_too_many_and_too_few(tmp_path):
    evaluation = small_evaluation(is_whole=True)
    words = year.answer(given_of(tmp_path, evaluation))[0].text
    assert "more are called than there are: satellite (126 for 84)" in words.replace("More", "more")
    assert "AGN" in words.partition("agrees")[2]


def test_shortened_training_of_the_papers_networks_is_said(tmp_path):
    evaluation = small_evaluation(is_whole=True)
    assert order.shortened(given_of(tmp_path, evaluation)) == ""
    budget = {"cropped": {"iterations": 200, "batch_size": 64}}
    changed = evaluation.model_copy(update={"study": {**evaluation.study, "paper": {"budget": budget}}})
    made = report_of(given_of(tmp_path, changed))
    said = [b.text for s in made.sections for b in s.blocks if isinstance(b, Text) and "SHORTENED" in b.text]
    assert len(said) == 2  # by question 1 and by Table 1
    assert "cropped 200 of 64" in said[0]


def test_none_of_a_few_may_be_some_of_many():
    found = of_count(r.Value(value=0.0, low=0.0, high=0.0), 56)
    assert (found.low, found.value) == (0, 0)
    assert (1 - found.high) ** 56 == pytest.approx(0.025)  # none of 56 is then as unlikely as that
    assert of_count(r.Value(value=1.0, low=1.0, high=1.0), 56).low == pytest.approx(1 - found.high)
    some = r.Value(value=0.1, low=0.05, high=0.15)
    assert of_count(some, 56) is some


def test_the_front_is_what_nothing_beats():
    def point(label, n, value):
        return pareto.Point(label, "full", True, n, value, value, value)

    found = pareto.front([point("a", 100, 80), point("b", 200, 79), point("c", 300, 85), point("d", 300, 84)])
    assert [p.label for p in found] == ["a", "c"]


def test_levels_lie_one_in_the_other():
    levels = np.stack([np.full((4, 4), 1.0), np.full((4, 4), 2.0), np.full((4, 4), 3.0)])
    image = stamps.mosaic(levels)
    assert image.shape == (16, 16)
    assert [(image == v).sum() for v in (1, 2, 3)] == [16, 64 - 16, 256 - 64]
    assert (image[6:10, 6:10] == 1).all()


def test_altitude_and_azimuth_are_astropys():
    from astropy import units as u
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers

    rng = np.random.default_rng(0)
    ra, dec, mjd = rng.uniform(0, 360, 50), rng.uniform(-90, 90, 50), rng.uniform(55_000, 61_000, 50)
    altitude, azimuth = sky.horizontal(ra, dec, mjd, longitude=-116.9, latitude=33.4)
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("iers_degraded_accuracy", "warn"):
        place = EarthLocation(lon=-116.9 * u.deg, lat=33.4 * u.deg)
        frame = AltAz(obstime=Time(mjd, format="mjd"), location=place)
        true = SkyCoord(ra * u.deg, dec * u.deg).transform_to(frame)
    apart = SkyCoord(azimuth * u.deg, altitude * u.deg).separation(
        SkyCoord(true.az.deg * u.deg, true.alt.deg * u.deg)
    )
    assert apart.deg.max() < 0.5


def test_great_circles_pass_where_they_should():
    ra, dec = sky.great_circle(sky.NORTH_GALACTIC_POLE)
    assert np.min(np.hypot((ra - 266.4) * np.cos(np.radians(29)), dec + 28.94)) < 1  # the galactic centre
    ra, dec = sky.great_circle((270.0, 90 - sky.OBLIQUITY))
    assert dec[np.argmin(abs(ra - 90))] == pytest.approx(sky.OBLIQUITY, abs=0.1)  # the summer solstice


def test_what_is_published_is_what_the_pipeline_builds():
    pytest.importorskip("torch")
    from reference_pipeline.classify.networks.published import TABLE_2

    for name, net in published.TABLE_2.items():
        built = [a for key, a in TABLE_2.items() if key == name or key.startswith(f"{name}-")]
        assert {a.n_parameters for a in built} == set(net.n_parameters)
        assert {(a.dropout, a.hidden, a.learning_rate) for a in built} == {
            (net.dropout, net.hidden, net.learning_rate)
        }
    assert sum(published.LABELLED.values()) == 49_310


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="row 1"):
        Table("t", ("a", "b"), (("1", "2"), ("3",)))


def test_numbers_have_true_signs():
    assert number(-0.04) == "0.0"
    assert number(-3.25, 2) == "−3.25"
    assert number(None) == "–"


def test_a_report_is_set_without_a_browser(bare, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    write(tmp_path, small_evaluation())
    said = []
    write_report(tmp_path, say=said.append)
    assert "ReportLab" in said[0]
    made = (tmp_path / "report" / "report.pdf").read_bytes()
    assert made.startswith(b"%PDF")
    assert made.count(b"/Type /Page\n") >= 8
    names = {p.name for p in bare[0].panels()}
    assert {p.stem for p in (tmp_path / "report" / "figures").iterdir()} == names
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["figures", "index.html", "report.pdf"]


def test_a_browser_that_fails_is_told_and_leaves_nothing(tmp_path):
    (tmp_path / "index.html").write_text("<p>x</p>")
    with pytest.raises(BrowserError):
        print_page("false", tmp_path / "index.html", tmp_path / "report.pdf")
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]


needs_browser = pytest.mark.skipif(browser() is None, reason="no browser: chromium or google-chrome")


def overflow(text, width, tmp_path):
    """Return how far a page is wider than a frame of ``width``, by what a browser says."""
    script = "<script>onload = () => parent.postMessage(document.documentElement.scrollWidth, '*')</script>"
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    probe = tmp_path / "probe.html"  # a frame, because a browser's window has a least width
    probe.write_text(
        "<!doctype html><title>?</title><script>onmessage = (m) => document.title = m.data</script>"
        f"<iframe src='page.html' style='border: 0; width: {width}px; height: 900px'></iframe>"
    )
    done = subprocess.run(
        [browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=3000", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return int(re.search(r"<title>(\d+)</title>", done.stdout)[1]) - width


@needs_browser
def test_a_phone_need_not_scroll_sideways(report, tmp_path):
    assert overflow(report[1], 390, tmp_path) <= 0
    wide = "<!doctype html><body><p style='width: 600px'>wide</p></body>"
    assert overflow(wide, 390, tmp_path) > 0  # so that it would be seen


@needs_browser
def test_a_browser_prints(bare, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(bare[1], encoding="utf-8")
    print_page(browser(), path, tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_a_class_that_is_told_without_an_error_has_a_figure_that_says_so():
    perfect = curves.Line("4x8", [0.0, 0.0, 1.0], [1.0, 0.0, 0.0])
    assert b"no errors" in curves.draw_det([perfect], "det", of="satellite").draw("svg")
    usual = curves.Line("3x16", [0.0, 0.1, 1.0], [1.0, 0.2, 0.0])
    assert b"no errors" not in curves.draw_det([perfect, usual], "det", of="satellite").draw("svg")
