"""Figures 3, 4 and 5 of Sun+ 2022, drawn of simulated nights from the raw results alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.common import save_figure

PAPER_SCATTER = (100, 200)  # mas: the range of its standard deviations against Gaia DR2 (Figure 3)
PAPER_PEARSON = {0.95: 0.98, 0.99: 0.84}  # fraction of its exposures with a PCC above (Figure 5)


def draw(frames: list[dict], folder: Path) -> list[Path]:
    """Draw what ``frames`` (results of accuracy.py, one a frame) tell; return the files."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    return [_positions(frames, folder), _magnitudes(frames, folder), _pearson(frames, folder)]


def _positions(frames: list[dict], folder: Path) -> Path:
    """Figure 3: the median offset of each frame along both axes, with histograms."""
    import matplotlib.pyplot as plt

    positions = [frame["positions"] for frame in frames]
    ra = np.array([p["median_ra_20"] for p in positions])
    dec = np.array([p["median_dec_20"] for p in positions])
    figure, axes = plt.subplot_mosaic(
        [["top", "."], ["main", "right"]],
        figsize=(6, 6),
        width_ratios=(4, 1),
        height_ratios=(1, 4),
        layout="constrained",
    )
    limit = max(25.0, 1.1 * np.nanmax(np.abs([ra, dec])))
    bins = np.linspace(-limit, limit, 26)
    axes["main"].plot(ra, dec, ".", alpha=0.6)
    axes["main"].axhline(0, color="0.7", lw=0.8)
    axes["main"].axvline(0, color="0.7", lw=0.8)
    axes["main"].set(
        xlabel="median ΔRA cos Dec, mas",
        ylabel="median ΔDec, mas",
        xlim=(-limit, limit),
        ylim=(-limit, limit),
    )
    axes["top"].hist(ra, bins)
    axes["right"].hist(dec, bins, orientation="horizontal")
    for name in ("top", "right"):
        axes[name].set_axis_off()
    scatter = np.nanmedian([(p["scatter_ra_20"], p["scatter_dec_20"]) for p in positions])
    figure.suptitle(
        f"{len(frames)} simulated frames against truth; scatter per axis {scatter:.0f} mas, S/N > 20\n"
        f"(the paper, against Gaia DR2: {PAPER_SCATTER[0]} to {PAPER_SCATTER[1]} mas)",
        fontsize=10,
    )
    return _save(figure, folder / "positions.png")


def _magnitudes(frames: list[dict], folder: Path) -> Path:
    """Figure 4: magnitude error against magnitude, and its scatter in bins."""
    import matplotlib.pyplot as plt

    clear = [f["magnitudes"] for f in frames if f["cloud"] == "none"]
    magnitude = np.concatenate([m["true_magnitude"] for m in clear])
    error = np.concatenate([m["magnitude_error"] for m in clear])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.hexbin(
        magnitude,
        np.clip(error, -0.5, 0.5),
        gridsize=(80, 50),
        bins="log",
        mincnt=1,
        extent=(*_range(magnitude), -0.5, 0.5),
    )
    left.set(xlabel="true magnitude", ylabel="measured − true, mag")
    edges = np.arange(np.floor(magnitude.min()), np.ceil(magnitude.max()) + 0.5, 0.5)
    middle, deviation = [], []
    for low, high in zip(edges, edges[1:]):
        inside = error[(magnitude >= low) & (magnitude < high)]
        if inside.size >= 10:
            middle.append((low + high) / 2)
            deviation.append(1.4826 * np.median(np.abs(inside - np.median(inside))))
    right.semilogy(middle, deviation, "o-")
    right.set(xlabel="true magnitude", ylabel="robust scatter, mag")
    right.grid(alpha=0.3)
    figure.suptitle(f"{magnitude.size:,} stars of {len(clear)} clear simulated frames", fontsize=10)
    return _save(figure, folder / "magnitudes.png")


def _pearson(frames: list[dict], folder: Path) -> Path:
    """Figure 5: the distribution of PCC, by what was in the sky."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    values = {
        cloud: np.array([f["pearson"] for f in frames if f["cloud"] == cloud])
        for cloud in ("none", "thin", "patchy")
    }
    lowest = min((v.min() for v in values.values() if v.size), default=0.9)
    bins = np.linspace(min(0.9, np.floor(20 * lowest) / 20), 1, 41)
    axes.hist(list(values.values()), bins, stacked=True, label=[f"{c} ({v.size})" for c, v in values.items()])
    every = np.concatenate(list(values.values()))
    words = ", ".join(
        f"{np.mean(every > least):.0%} above {least} (paper {share:.0%})"
        for least, share in PAPER_PEARSON.items()
    )
    axes.set(xlabel="Pearson correlation of magnitudes (Eq. 4)", ylabel="frames", title=words)
    axes.title.set_fontsize(10)
    axes.legend(title="cloud")
    return _save(figure, folder / "pearson.png")


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _save(figure, path: Path) -> Path:
    import matplotlib.pyplot as plt

    save_figure(figure, path, dpi=75)
    plt.close(figure)
    return path
