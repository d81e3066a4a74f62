"""What the cases share: vectors as dictionaries, each proved by the reference, and numbers to fill them."""

import random

from reference import (
    MAX_Q,
    RefusedError,
    base_of,
    binary32,
    decode,
    raw_plane_of,
    rice_plane_of,
    sent_positions,
    value_of,
)


class Numbers(random.Random):
    """Numbers that are the same everywhere: only `random` and `getrandbits`, and exact arithmetic."""

    def whole(self, low, high):
        """Return an integer from low to high."""
        return low + self.getrandbits(64) % (high - low + 1)

    def normal(self):
        """Return roughly a unit normal deviate: no logarithm, which differs between C libraries."""
        return sum(self.random() for _ in range(12)) - 6

    def value(self, mean=100.0, sigma=8.0):
        """Return a binary32 like a pixel of sky."""
        return binary32(mean + sigma * self.normal())

    def sky(self, n, invalid=0.0):
        """Return n binary32 like sky, with stars, a share of them invalid."""
        stars = (50000 * self.random() ** 4 if self.random() < 0.05 else 0.0 for _ in range(n))
        values = [binary32(self.value() + star) for star in stars]
        return [None if self.random() < invalid else value for value in values]


def n_sent(size, n_levels, shared=True):
    """Return n (4.2, 4.3)."""
    return len(sent_positions(size, n_levels, shared))


def raw(kind, size, n_levels, values, shared=True):
    """Return the RAW plane of sent values; too few are filled up with 0, 1, 2, ..."""
    n = n_sent(size, n_levels, shared)
    fill = range(n - len(values)) if kind == "MASK" else map(float, range(n - len(values)))
    return raw_plane_of(kind, size, n_levels, shared, [*values, *fill])


def rice(kind, size, n_levels, residuals, *, e=0, offset=0, parameters=None, shared=True):
    """Return the RICE plane of residuals, None for an invalid value; too few are filled up with 0."""
    positions = sent_positions(size, n_levels, shared)
    residuals = [*residuals, *[0] * (len(positions) - len(residuals))]
    values = [
        None if r is None else value_of(kind, base_of(kind, offset, k) + r, e, k)
        for (k, _, _), r in zip(positions, residuals, strict=True)
    ]
    return rice_plane_of(kind, size, n_levels, shared, e, offset, values, parameters)


def plane_fields(plane):
    """Return a plane as the fields of a vector."""
    fields = plane._asdict()
    fields["payload"] = plane.payload.hex()
    fields["invalid"] = None if plane.invalid is None else plane.invalid.hex()
    return fields


def valid_plane(name, clause, comment, plane):
    """Return a vector of a plane that is decoded."""
    head = {"id": name, "clause": clause, "comment": comment, "level": "payload", "operation": "decode"}
    return {**head, **plane_fields(plane), "result": "valid", "levels": decode(plane).hex()}


def refused_plane(name, clause, comment, reason, plane):
    """Return a vector of a plane that is refused, after seeing that the reference refuses it too."""
    head = {
        "id": f"refuse-{name}",
        "clause": clause,
        "comment": comment,
        "level": "payload",
        "operation": "decode",
    }
    try:
        decode(plane)
    except RefusedError as error:
        if error.args != (reason,):
            raise AssertionError(f"{name}: {error.args[0]} and not {reason}") from None
        return {**head, **plane_fields(plane), "result": "invalid", "reason": reason}
    raise AssertionError(f"{name}: decoded")


def sky_residuals(numbers, size, n_levels, offset, *, scale=6, shared=True):
    """Return residuals like those of sky: small, with outliers, within the limits of 5.2."""
    residuals = []
    for k, _, _ in sent_positions(size, n_levels, shared):
        r = round(scale * numbers.normal())
        if numbers.random() < 0.03:
            r += numbers.whole(0, 4000)
        limit = MAX_Q - abs(base_of("SCIENCE", offset, k))
        residuals.append(max(-limit, min(limit, r)))
    return residuals
