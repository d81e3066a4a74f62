"""What it costs to take background and noise of a large footprint from some of its rows (decision 0012).

On every real image of ../shared/data/images that shows a sky, 128 x 128 footprints at random places: the
median and the robust sigma of all pixels beside those of the rows that the encoder looks at, and the time of
both.

    python -m benchmarks.speed.noise
"""

import time

import numpy as np

from benchmarks.common import DATA
from multiscale import noise

SIDE, N_PLACES, SEED = 128, 60, 0
NO_SKY = ("dark", "flat", "back", "rms")  # what of the folder is no picture of the sky


def main() -> None:
    """Print one line an image, and the time."""
    from astropy.io import fits

    ratios, offsets, seconds = [], [], [0.0, 0.0]
    for path in sorted((DATA / "images").rglob("*.fits*")):
        if path.name.startswith(NO_SKY):
            continue
        with fits.open(path) as hdus:
            found = [hdu.data for hdu in hdus if hdu.is_image and hdu.data is not None]
        image = next((a for a in found if a.ndim == 2 and min(a.shape) >= 200), None)
        if image is None:
            continue
        all_rows, some_rows = (
            np.array(measured(image.astype(np.float32), enough, seconds, i))
            for i, enough in enumerate((10**9, 4096))
        )
        ok = all_rows[:, 1] > 0  # 0: the noise is less than one ADU
        if not ok.any():
            continue
        ratio = some_rows[ok, 1] / all_rows[ok, 1]
        offset = (some_rows[ok, 0] - all_rows[ok, 0]) / all_rows[ok, 1]
        print(f"{path.name[:44]:44} sigma {described(ratio)}   background, in sigma {described(offset)}")
        ratios.append(ratio)
        offsets.append(offset)
    ratio, offset = np.concatenate(ratios), np.concatenate(offsets)
    changed = np.mean(np.abs(np.log2(ratio)) > 0.5)
    print(f"\n{len(ratio)} footprints: sigma {described(ratio)}; background {described(offset)}")
    print(f"sigma off by more than a factor sqrt(2), so that e changes for certain: {changed:.1%}")
    n = len(ratio)
    print(f"{1e6 * seconds[0] / n:.0f} us a footprint from all rows, {1e6 * seconds[1] / n:.0f} us from some")


def measured(image: np.ndarray, enough: int, seconds: list[float], slot: int) -> list[tuple[float, float]]:
    """Return background and noise at the same random places, all rows or some; adds the time they took."""
    rng = np.random.default_rng(SEED)
    places = rng.integers(0, np.array(image.shape) - SIDE + 1, (N_PLACES, 2))
    footprints = [image[y : y + SIDE, x : x + SIDE].copy() for y, x in places]
    before, noise.ENOUGH = noise.ENOUGH, enough
    started = time.perf_counter()
    found = noise.backgrounds_and_noises(footprints)
    seconds[slot] += time.perf_counter() - started
    noise.ENOUGH = before
    return found


def described(values: np.ndarray) -> str:
    """Return the median and the range of the middle 98 %."""
    low, middle, high = np.percentile(values, (1, 50, 99))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
