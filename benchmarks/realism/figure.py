"""Draw what the last run measured: `python -m benchmarks.realism.figure`. Needs the extra `plot`."""

import numpy as np

from benchmarks.common import RESULTS, labelled_alerts, load

NAMES = {
    "noise": "noise, ADU",
    "correlation": "correlation of neighbours",
    "brightest": "brightest pixel, noise",
    "n_peaks": "peaks above 5σ",
    "width": "FWHM, pixels",
}
LOG = ("noise", "brightest", "n_peaks")
COLORS = {"real": "0.15", "simulated": "tab:orange", "even sky": "tab:blue"}
N_STAMPS = 6


def draw() -> None:
    """Write realism.png: stamps of both kinds, and the distributions of their statistics."""
    try:
        import matplotlib
    except ImportError:
        print("no figure: matplotlib is not installed (extra `plot`)")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    results = load("realism")
    figure = plt.figure(figsize=(12, 8.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.25))
    by_id = {a.record["candid"]: a for a in labelled_alerts()}
    real = [by_id[c].alert.cutout.planes["science"] for c in results["alerts"][:N_STAMPS]]
    simulated = [np.array(s) for s in results["examples"]["simulated"][:N_STAMPS]]
    for row, (label, stamps) in zip(
        top.subplots(2, N_STAMPS), (("real", real), ("simulated", simulated)), strict=True
    ):
        for ax, stamp in zip(row, stamps):
            level, noise = np.median(stamp), 1.4826 * np.median(np.abs(stamp - np.median(stamp)))
            ax.imshow(stamp, vmin=level - 2 * noise, vmax=level + 10 * noise, cmap="gray", origin="lower")
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{label}, science", fontsize=8)
    for row, plane in zip(bottom.subplots(2, len(NAMES)), ("science", "template")):
        for ax, (name, label) in zip(row, NAMES.items()):
            for kind, color in COLORS.items():
                v = np.sort(results["pixels"][plane][kind][name])
                if len(v):
                    ax.step(v, (np.arange(len(v)) + 1) / len(v), color=color, label=kind, linewidth=1.3)
            ax.set_xlabel(label, fontsize=8)
            if name in LOG:
                ax.set_xscale("log" if name != "n_peaks" else "symlog")
            ax.tick_params(labelsize=7)
        row[0].set_ylabel(f"{plane}: fraction below", fontsize=8)
        row[0].legend(fontsize=7, frameon=False)
    figure.savefig(RESULTS / "realism" / "realism.png", dpi=100, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw()
