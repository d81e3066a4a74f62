"""Draw what the last run measured: `python -m benchmarks.realism.figure`. Needs the extra `plot`."""

import numpy as np

from benchmarks.common import RESULTS, load, save_figure

NAMES = {
    "noise": "noise, ADU",
    "correlation": "correlation of neighbours",
    "brightest": "brightest pixel, noise",
    "n_peaks": "peaks above 5σ",
    "width": "FWHM, pixels",
}
LOG = ("brightest", "n_peaks")
COLORS = {"real": "0.15", "simulated": "tab:orange", "even sky": "tab:blue"}


def draw() -> None:
    """Write realism.png: the distributions of what stamps of each kind say."""
    try:
        import matplotlib
    except ImportError:
        print("no figure: matplotlib is not installed (extra `plot`)")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    results = load("realism")
    figure, axes = plt.subplots(2, len(NAMES), figsize=(12, 5), layout="constrained")
    for row, plane in zip(axes, ("science", "template")):
        for ax, (name, label) in zip(row, NAMES.items()):
            for kind, color in COLORS.items():
                v = np.array(results["pixels"][plane][kind][name])
                if len(v):
                    ax.step(v, np.linspace(0, 1, len(v)), color=color, label=kind, linewidth=1.3)
            ax.set_xlabel(label, fontsize=8)
            if name in LOG:
                ax.set_xscale("log" if name != "n_peaks" else "symlog")
            ax.tick_params(labelsize=7)
        row[0].set_ylabel(f"{plane}: fraction below", fontsize=8)
        row[0].legend(fontsize=7, frameon=False)
    save_figure(figure, RESULTS / "realism" / "realism.png", dpi=65, n_colors=16)
    plt.close(figure)


if __name__ == "__main__":
    draw()
