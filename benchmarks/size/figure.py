"""Draw the sizes that the last run wrote: `python -m benchmarks.size.figure`. Needs the extra `plot`."""

from benchmarks.common import RESULTS, load, save_figure, summary

ROWS = {  # as drawn: what the results call it
    "ZTF": {
        "ZTF today, whole file": ("ztf_originals_files", None),
        "ZTF today, packet without schema": ("ztf_originals_packets", None),
        "ZTF today, three gzip FITS": ("ztf", "ZTF's own: gzip FITS"),
        "3×16 RAW": ("ztf", "ZTF-3x16 RAW"),
        "3×16 RICE σ/4": ("ztf", "ZTF-3x16 RICE sigma*0.25"),
        "4×8 RAW": ("ztf", "ZTF-4x8 RAW"),
        "4×8 RICE σ/4": ("ztf", "ZTF-4x8 RICE sigma*0.25"),
        "4×8 RICE σ/1": ("ztf", "ZTF-4x8 RICE sigma*1"),
    },
    "LSST": {
        "LSST today: FITS, variance, PSF": ("lsst", "LSST's own: FITS, variance, PSF"),
        "4×16 RAW, variance, sky, PSF": ("lsst", "LSST-4x16 RAW, variance, sky, PSF"),
        "4×16 RAW, variance, sky": ("lsst", "LSST-4x16 RAW, variance, sky"),
        "4×16 RAW": ("lsst", "LSST-4x16 RAW"),
        "4×16 RICE, variance, sky": ("lsst", "LSST-4x16 RICE, variance, sky"),
        "4×16 RICE": ("lsst", "LSST-4x16 RICE"),
        "fewest levels, RICE": ("lsst", "16xL that covers RICE"),
    },
}


def draw() -> None:
    """Write size.png beside the results: medians, with a line from the smallest to the largest alert."""
    try:
        import matplotlib
    except ImportError:
        print("no figure: matplotlib is not installed (extra `plot`)")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    sizes = load("size")["bytes"]
    figure, axes = plt.subplots(2, 1, figsize=(7.5, 5.6), layout="constrained")
    for ax, (survey, rows) in zip(axes, ROWS.items(), strict=True):
        for y, (label, (group, row)) in enumerate(rows.items()):
            s = summary(sizes[group] if row is None else sizes[group][row])
            color = "0.45" if "today" in label else "tab:blue"
            ax.axhline(y, color="0.9", linewidth=0.8, zorder=0)
            ax.plot([s["min"], s["max"]], [y, y], color=color, linewidth=1.5)
            ax.plot(s["median"], y, "o", color=color, markersize=6)
            ax.text(s["max"] * 1.12, y, f"{s['median']:,.0f}", va="center", fontsize=8)
        ax.set(xscale="log", xlim=(250, 600_000), title=f"{survey}: bytes of one alert")
        ax.set_yticks(range(len(rows)), list(rows), fontsize=8)
        ax.tick_params(axis="x", labelsize=8)
        ax.tick_params(axis="y", length=0)
        ax.title.set_fontsize(9)
        ax.invert_yaxis()
        for side in ("top", "right", "left"):
            ax.spines[side].set_visible(False)
    axes[-1].set_xlabel("median, and from the smallest to the largest", fontsize=8)
    save_figure(figure, RESULTS / "size" / "size.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw()
