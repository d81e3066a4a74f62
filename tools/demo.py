"""The main job: alerts as surveys send them -> multi-scale packets -> validated, pictures, a size table;
and a simulated night: raw frames -> calibrated -> subtracted -> validated alerts, light curves, a report.

Runs every step through the commands `multiscale` and `reference-pipeline`, as a user would, and leaves the
results in demo/. Uses simulated alerts, and the real ones of ../shared/data where that is present.
"""

import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from multiscale import read_alerts

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "demo"
SHARED = ROOT.parent / "shared" / "data" / "alerts"
REAL = {
    "ztf_real": SHARED / "ztf",
    "lsst_real": SHARED / "lsst",
}
N_SIMULATED = 12


def run(program: str, *arguments: object, expected: tuple[int, ...] = (0,), is_chatty: bool = False) -> str:
    """Run one command and return what it printed; stop the demo when it fails.

    ``is_chatty``: what it says of its progress is not shown.
    """
    module = program.replace("-", "_")
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    shown = " ".join(str(a).replace(f"{ROOT}/", "").replace(f"{ROOT.parent}/", "../") for a in arguments)
    print(f"$ {program} {shown}")
    if done.stderr and (done.returncode not in expected or not is_chatty):
        print("  " + done.stderr.strip().replace("\n", "\n  "))
    if done.returncode not in expected:
        print(done.stdout)
        sys.exit(f"demo: that command ended with status {done.returncode}, expected {expected}")
    return done.stdout


def multiscale(*arguments: object, expected: tuple[int, ...] = (0,)) -> str:
    """Run the codec's command."""
    return run("multiscale", *arguments, expected=expected)


def pipeline(*arguments: object) -> str:
    """Run the pipeline's command."""
    return run("reference-pipeline", *arguments, is_chatty=True)


def night() -> None:
    """Raw frames of a simulated night, all the way to validated alerts; in demo/night."""
    folder = OUT / "night"
    print(pipeline(
        "simulate", "--survey", "ast3", "--seed", 1, "--size", 1024, "--field", "F005", "--bands", "g",
        "--frames", 4, "--bias", 7, "--flats", 7, "--template-night", "2026-04-16", "-o", folder,
    ).strip())  # fmt: skip
    out = folder / "out"
    print(pipeline("run", folder / "reduce.toml", "-o", out).strip())
    findings = multiscale("validate", out / "alerts")
    assert findings == "", findings
    print(classes(out / "alerts"))
    pictures = OUT / "pictures"
    for path in sorted((out / "alerts" / "dip").glob("*.avro"))[:2]:
        for packet in (0, 1):
            multiscale("show", path, "--packet", packet, "-o", pictures / f"night_{path.stem}_{packet}.png")
    print(pipeline("light-curve", out, "--brightest", 3, "-o", pictures).strip())
    print(f"  the report: {(out / 'report.html').relative_to(ROOT)}")


def classes(folder: Path) -> str:
    """Return a table of what the alerts say they are; every one has to say it."""
    lines = [f"{'branch':8}{'alerts':>8}{'real':>8}{'unsure':>8}   likeliest class"]
    for branch in sorted(path for path in folder.iterdir() if path.is_dir()):
        tops: Counter[str] = Counter()
        n_real = n_unsure = 0
        for alert in (alert for path in sorted(branch.glob("*.avro")) for alert in read_alerts(path)):
            said = {c.taxonomy: {p.name: p.probability for p in c.classes} for c in alert.classifications}
            assert {"real-bogus", "stamps-6"} <= set(said), f"{alert.alert_id} is not classified"
            assert len(said["stamps-6"]) == 6
            assert abs(sum(said["stamps-6"].values()) - 1) < 1e-4
            tops[max(said["stamps-6"], key=lambda name: said["stamps-6"][name])] += 1
            n_real += said["real-bogus"]["real"] >= 0.5
            of_stamps = [c for c in alert.classifications if c.classifier.endswith("-confidence")][-1]
            n_unsure += next(p.probability for p in of_stamps.classes if p.name == "confident") < 1
        counts = ", ".join(f"{n} {name}" for name, n in tops.most_common())
        lines.append(f"{branch.name:8}{tops.total():8}{n_real:8}{n_unsure:8}   {counts}")
    return "\n".join(lines) + "\n(by models that were trained on simulated data)"


def main() -> None:
    """Run the demo."""
    started = time.perf_counter()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    inputs = {}
    for survey in ("ztf", "lsst"):
        inputs[f"{survey}_simulated"] = OUT / "alerts" / f"{survey}_simulated.avro"
        inputs[f"{survey}_simulated"].parent.mkdir(exist_ok=True)
        multiscale("sample", "--survey", survey, "-n", N_SIMULATED, "-o", inputs[f"{survey}_simulated"])
    for name, folder in REAL.items():
        if folder.is_dir():
            inputs[name] = folder
        else:
            print(f"(no ../shared/data here: {name} is left out)")

    reports = []
    for name, source in inputs.items():
        real = name.endswith("_real")
        status = (0, 1) if real else (0,)  # among the real files some are damaged on purpose, or framed
        for encoding in ("raw", "rice"):
            target = OUT / "packets" / f"{name}_{encoding}.avro"
            target.parent.mkdir(exist_ok=True)
            reports.append(
                multiscale("convert", source, "-o", target, "--encoding", encoding, expected=status)
            )
        # surveys' schemas differ from file to file: one output for each
        reports.append(
            multiscale("convert", source, "-o", OUT / "embedded" / name, "--as", "embed", expected=status)
        )
        findings = multiscale(
            "validate",
            OUT / "packets" / f"{name}_raw.avro",
            OUT / "packets" / f"{name}_rice.avro",
            OUT / "embedded" / name,
        )
        assert findings == "", findings
        pictures = OUT / "pictures"
        pictures.mkdir(exist_ok=True)
        for packet in (0, 2):
            multiscale("show", OUT / "packets" / f"{name}_raw.avro", "--packet", packet, "-o",
                       pictures / f"{name}_{packet}.png")  # fmt: skip
        views = OUT / "fits"
        views.mkdir(exist_ok=True)
        for kind in ("fits", "mosaic"):
            multiscale("export", OUT / "packets" / f"{name}_raw.avro", "--packet", 0, "--format", kind, "-o",
                       views / f"{name}_0_{kind}.fits")  # fmt: skip

    (OUT / "not_converted.txt").write_text("".join(dict.fromkeys("".join(reports).splitlines(keepends=True))))
    table = "\n".join(
        [
            multiscale("size", "--survey", "ztf"),
            multiscale("size", "--survey", "lsst"),
            multiscale("inspect", OUT / "packets" / "ztf_simulated_rice.avro", "--packet", 2),
        ]
    )
    (OUT / "sizes.txt").write_text(table)
    print(table)
    night()
    print(
        f"demo: done in {time.perf_counter() - started:.0f} s; "
        "look into demo/: pictures, fits, packets, sizes.txt, night/out/report.html, night/out/alerts"
    )


if __name__ == "__main__":
    main()
