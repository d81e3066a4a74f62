"""How like real ZTF stamps the simulated ones are: `python -m benchmarks.realism`.

Single frames only: science and template planes of stamps of asteroids beside frames simulated at the places
of some of them, in their bands, with their sky (so that background and science noise are given, not found),
and beside the trivial simulation: an even sky with its noise. The middle of every real stamp holds the
alert, so peaks are counted outside of it. How wide stars are is asked of the stamps of all labelled alerts,
because those of asteroids hold few.
"""

import time

import numpy as np
from astropy.coordinates import SkyCoord

from benchmarks.common import SEED, RealAlert, Requirement, at_most, is_full, labelled_alerts, save
from benchmarks.realism.figure import draw
from benchmarks.realism.pixels import StampPixels, measure
from benchmarks.realism.simulated import STAMP, Field, field, make_scene
from reference_pipeline.config import load_camera

PLANES = ("science", "template")
#: What is compared, and by how much the medians may differ: a fraction of the real one, or absolute.
LIMITS = {
    "background": (0.05, True),
    "noise": (0.15, True),
    "correlation": (0.05, False),
    "brightest": (0.5, True),
    "n_peaks": (0.35, True),
    "width": (0.10, True),
    "sharpness": (0.15, True),
}
SMALL, FULL = 20, 80  # fields
SEEDS = (1, 2, 3)  # of the sky; the fields are divided among them
SATURATION = 50_000.0  # ADU above which neither has a star's width measured


def usable(alerts: list[RealAlert]) -> list[RealAlert]:
    """Return the alerts of asteroids whose planes are whole, of an ordinary sky.

    An asteroid stands anywhere among the stars; other alerts stand on stars and galaxies, and the rest of
    such a stamp is fuller than the sky is.
    """
    out = []
    for alert in alerts:
        planes = alert.alert.cutout.planes
        if alert.record["label_hint"] != "asteroid" or not set(PLANES) <= planes.keys():
            continue
        levels = [np.median(planes[name]) for name in PLANES]  # NaN where a pixel is missing
        if np.isfinite(levels).all() and min(levels) > 40 and max(levels) < 400:
            out.append(alert)
    return out


def others_of(alerts: list[RealAlert]) -> list[RealAlert]:
    """Return the labelled alerts with both planes that are not among ``alerts``."""
    known = {id(alert) for alert in alerts}
    return [
        a for a in labelled_alerts() if id(a) not in known and set(PLANES) <= a.alert.cutout.planes.keys()
    ]


def drawn(alerts: list[RealAlert], n: int) -> list[RealAlert]:
    """Return ``n`` of the alerts, evenly through their galactic latitudes: few as mixed as all."""
    places = SkyCoord([a.record["ra"] for a in alerts], [a.record["dec"] for a in alerts], unit="deg")
    order = np.argsort(np.abs(places.galactic.b.deg), kind="stable")
    n = min(n, len(alerts))
    chosen = order[((np.arange(n) + 0.5) * len(alerts) / n).astype(int)]
    return [alerts[i] for i in np.random.default_rng(SEED).permutation(chosen)]  # the seeds of skies in turn


def real_pixels(alert: RealAlert, plane: str) -> StampPixels | None:
    """Return the statistics of a plane of a real stamp."""
    return measure(np.asarray(alert.alert.cutout.planes[plane], float), saturation=SATURATION)


def science_sky(alert: RealAlert) -> float:
    """Return the sky (ADU) whose shot noise, with the read noise, is the noise of the real science stamp."""
    camera, pixels = load_camera("ztf"), real_pixels(alert, "science")
    noise = 0.0 if pixels is None else pixels.noise
    return max(((noise * camera.gain) ** 2 - camera.read_noise**2) / camera.gain, 30.0)


def even_sky(background: float, n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return ``n`` stamps of a sky without sources: shot noise and read noise, the trivial simulation."""
    camera = load_camera("ztf")
    electrons = rng.poisson(background * camera.gain, (n, STAMP, STAMP))
    return list((electrons + camera.read_noise * rng.standard_normal(electrons.shape)) / camera.gain)


def columns(pixels: list[StampPixels], *, stars: list[StampPixels] | None = None) -> dict[str, list[float]]:
    """Return the statistics of many stamps by name; of widths, one value a star, of ``stars`` where given."""
    stars = pixels if stars is None else stars
    out: dict[str, list[float]] = {
        name: [float(getattr(p, name)) for p in pixels]
        for name in LIMITS
        if name not in ("width", "sharpness")
    }
    out["width"] = [w for p in stars for w in p.widths]
    out["sharpness"] = [s for p in stars for s in p.sharpness]
    return {name: [round(v, 5) for v in values] for name, values in out.items()}


def quantiles(values: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return the 0, 5, … 100 % quantiles of each statistic, to four digits: what is kept of a run."""
    steps = np.linspace(0, 1, 21)
    return {
        name: [float(f"{q:.4g}") for q in np.quantile(v, steps)] if v else [] for name, v in values.items()
    }


def judge(real: dict, simulated: dict, plane: str) -> list[Requirement]:
    """Return whether the medians of each statistic agree."""
    out = []
    for name, (limit, is_relative) in LIMITS.items():
        if name == "background" or (name, plane) == ("noise", "science"):
            continue  # given, not found
        a, b = np.median(real[name]), np.median(simulated[name])
        gap = abs(b - a) / (abs(a) if is_relative else 1.0)
        out.append(at_most(f"{plane}: {name}, gap of the medians", float(gap), limit))
    return out


def print_table(plane: str, sets: dict[str, dict[str, list[float]]], by_seed: list[dict]) -> None:
    """Print percentiles of each statistic, and how far the simulated median wanders between skies."""
    print(f"\n{plane}\n{'':12} {'':10} {'n':>6} {'10 %':>9} {'median':>9} {'90 %':>9}   medians by sky")
    for name in LIMITS:
        for label, values in sets.items():
            v = values[name]
            if not v:
                print(f"{name:12} {label:10} {0:6}")
                continue
            low, middle, high = np.percentile(v, (10, 50, 90))
            line = f"{name:12} {label:10} {len(v):6} {low:9.3f} {middle:9.3f} {high:9.3f}"
            if label == "simulated":
                line += "   " + " ".join(f"{np.median(s[name]):.3f}" for s in by_seed if s[name])
            print(line)


def measure_realism(*, full: bool = False) -> list[Requirement]:
    """Measure, print, save and draw; return the requirements. The small setting takes fewer fields."""
    started = time.perf_counter()
    everything = usable(labelled_alerts())
    alerts = drawn(everything, FULL if full else SMALL)
    fields: list[Field] = []
    for i, alert in enumerate(alerts):
        background = float(np.median(alert.alert.cutout.planes["science"]))
        scene = make_scene(alert, SEEDS[i % len(SEEDS)])
        fields.append(field(alert, scene, background, science_sky(alert), [SEED, i]))
    rng = np.random.default_rng(SEED)
    requirements: list[Requirement] = []
    pixels: dict[str, dict] = {}
    for plane in PLANES:
        measured = [[measure(s, saturation=SATURATION) for s in getattr(f, plane)] for f in fields]
        whole = [[p for p in stamps if p is not None] for stamps in measured]
        of_real = [p for p in (real_pixels(alert, plane) for alert in everything) if p is not None]
        others = [p for p in (real_pixels(alert, plane) for alert in others_of(everything)) if p is not None]
        level = [p.background for p in of_real]
        trivial = [measure(s, saturation=SATURATION) for b in level for s in even_sky(b, 1, rng)]
        sets = {
            "real": columns(of_real, stars=[*of_real, *others]),
            "simulated": columns([p for stamps in whole for p in stamps]),
            "even sky": columns([p for p in trivial if p is not None]),
        }
        by_seed = [columns([p for s in whole[k :: len(SEEDS)] for p in s]) for k in range(len(SEEDS))]
        print_table(plane, sets, by_seed)
        requirements += judge(sets["real"], sets["simulated"], plane)
        pixels[plane] = {kind: quantiles(values) for kind, values in sets.items()}
    seconds = time.perf_counter() - started
    results = {
        "n_fields": len(alerts),
        "seconds": round(seconds, 1),
        "pixels": pixels,
    }
    save("realism", results, requirements, full=full)
    draw()
    return requirements


if __name__ == "__main__":
    measure_realism(full=is_full(__doc__))
