"""Residuals to the four parts of a RICE payload and back (specification 5.3).

Blocks of 16 residuals share a parameter p. Unary quotients and p-bit remainders are two separate
streams, so that both directions work on whole arrays: the ones of the unary stream *are* the quotients.
Every function takes many payloads at once; one payload is a batch of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import PayloadError

BLOCK = 16
MAX_PARAMETER = 26
MAX_ZIGZAG = 1 << 26
_LENGTH_BYTES = 4


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Return where each run of ``lengths`` begins when they lie end to end."""
    return np.cumsum(lengths) - lengths


def _within(lengths: np.ndarray) -> np.ndarray:
    """Return 0, 1, ... lengths[i] - 1 for each i, end to end."""
    return np.arange(int(lengths.sum())) - np.repeat(_starts(lengths), lengths)


def _block_sizes(counts: np.ndarray, n_blocks: np.ndarray) -> np.ndarray:
    """Return the number of values of each block of each payload: 16, and the rest in the last."""
    return np.minimum(BLOCK, np.repeat(counts, n_blocks) - BLOCK * _within(n_blocks))


def _write_bits(position: np.ndarray, n_bytes: int) -> np.ndarray:
    """Return ``n_bytes`` bytes whose bits at ``position`` (from the most significant of byte 0) are 1."""
    bits = np.zeros(8 * n_bytes, np.uint8)
    bits[position] = 1
    return np.packbits(bits)


def _best_parameters(u: np.ndarray, block_start: np.ndarray, block_size: np.ndarray) -> np.ndarray:
    """Return for each block the p of the smallest total, the smaller of equals (clause 5.6, step 5)."""
    # beyond the bits of the largest value every quotient is 0 and the total only grows
    last = min(MAX_PARAMETER, int(u.max()).bit_length())
    best = np.zeros(block_start.size, np.int64)
    best_bits = np.add.reduceat(u, block_start) + block_size
    quotient = u
    for p in range(1, last + 1):
        quotient = quotient >> 1
        bits = np.add.reduceat(quotient, block_start) + block_size * (1 + p)
        better = bits < best_bits
        best[better] = p
        best_bits[better] = bits[better]
    return best


def encode_residuals(residuals: np.ndarray, counts: Sequence[int] | np.ndarray) -> list[bytes]:
    """Return one payload for each run of ``counts[i]`` of the int64 ``residuals`` (|r| <= 2^25)."""
    counts = np.asarray(counts, np.int64)
    if residuals.size == 0:
        return [bytes(_LENGTH_BYTES)] * len(counts)
    u = (residuals << 1) ^ (residuals >> 63)
    n_blocks = -(-counts // BLOCK)
    block_start = np.repeat(_starts(counts), n_blocks) + BLOCK * _within(n_blocks)
    block_size = _block_sizes(counts, n_blocks)
    parameter = _best_parameters(u, block_start, block_size)
    p = np.repeat(parameter, block_size)

    parameters_bytes = -(-5 * n_blocks // 8)
    first_bit = np.repeat(8 * _starts(parameters_bytes), n_blocks) + 5 * _within(n_blocks)
    set_bits = (parameter[:, None] >> np.arange(4, -1, -1)) & 1 == 1
    parameters = _write_bits((first_bit[:, None] + np.arange(5))[set_bits], int(parameters_bytes.sum()))

    end = np.cumsum((u >> p) + 1)  # one past the one bit of each value, were there no padding
    plane_end = np.concatenate([[0], end])[np.cumsum(counts)]
    unary_bits = np.diff(plane_end, prepend=0)
    unary_bytes = -(-unary_bits // 8)
    shift = 8 * _starts(unary_bytes) - (plane_end - unary_bits)
    unary = _write_bits(end - 1 + np.repeat(shift, counts), int(unary_bytes.sum()))

    remainder_end = np.cumsum(p)
    plane_end = np.concatenate([[0], remainder_end])[np.cumsum(counts)]
    remainder_bits = np.diff(plane_end, prepend=0)
    remainder_bytes = -(-remainder_bits // 8)
    shift = 8 * _starts(remainder_bytes) - (plane_end - remainder_bits)
    bit = _within(p)
    is_set = (np.repeat(u, p) >> (np.repeat(p, p) - 1 - bit)) & 1 == 1
    position = bit + np.repeat(remainder_end - p + np.repeat(shift, counts), p)
    remainders = _write_bits(position[is_set], int(remainder_bytes.sum()))

    parts = [
        _split(parameters, parameters_bytes),
        _split(unary, unary_bytes),
        _split(remainders, remainder_bytes),
    ]
    return [a + len(b).to_bytes(_LENGTH_BYTES, "little") + b + c for a, b, c in zip(*parts, strict=True)]


def _split(data: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    """Return ``data`` cut into runs of ``lengths`` bytes."""
    whole, ends = data.tobytes(), np.cumsum(lengths).tolist()
    return [whole[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]


def decode_residuals(payloads: Sequence[bytes], counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the int64 residuals of ``payloads`` end to end, ``counts[i]`` of each.

    Raises PayloadError with the reasons rice-truncated, rice-trailing, rice-parameter, rice-padding,
    rice-unary and rice-range; with several payloads it does not say which of them is wrong.
    Memory is bounded by the length of the payloads and ``counts``.
    """
    counts = np.asarray(counts, np.int64)
    n_blocks = -(-counts // BLOCK)
    parameters_bytes = -(-5 * n_blocks // 8)
    parameters, unary, rest = _cut_parts(payloads, parameters_bytes.tolist())
    parameter = _read_parameters(parameters, parameters_bytes, n_blocks)
    p = np.repeat(parameter, _block_sizes(counts, n_blocks))
    quotient = _read_unary(unary, counts)
    if (quotient > MAX_ZIGZAG >> p).any():
        raise PayloadError("rice-range", "a quotient that gives u above 2^26", "u at most 2^26")
    u = (quotient << p) | _read_remainders(rest, p, counts)
    if (u > MAX_ZIGZAG).any():
        raise PayloadError("rice-range", "u above 2^26", "u at most 2^26")
    return (u >> 1) ^ -(u & 1)


def _cut_parts(
    payloads: Sequence[bytes], parameters_bytes: list[int]
) -> tuple[bytes, list[bytes], list[bytes]]:
    """Return all parameters end to end, the unary parts, and what follows each."""
    parameters, unary, rest = [], [], []
    for payload, n in zip(payloads, parameters_bytes, strict=True):
        begin = n + _LENGTH_BYTES
        if len(payload) < begin:
            raise PayloadError("rice-truncated", f"{len(payload)} bytes", f"at least {begin}")
        end = begin + int.from_bytes(payload[n:begin], "little")
        if end > len(payload):
            raise PayloadError(
                "rice-truncated", f"a unary part of {end - begin} bytes", f"at most {len(payload) - begin}"
            )
        parameters.append(payload[:n])
        unary.append(payload[begin:end])
        rest.append(payload[end:])
    return b"".join(parameters), unary, rest


def _read_parameters(data: bytes, n_bytes: np.ndarray, n_blocks: np.ndarray) -> np.ndarray:
    """Return the parameter of each block, after checking range and padding."""
    raw = np.frombuffer(data, np.uint8)
    bits = np.unpackbits(raw)
    first = np.repeat(8 * _starts(n_bytes), n_blocks) + 5 * _within(n_blocks)
    parameter = np.zeros(first.size, np.int64)
    for i in range(5):
        parameter = parameter << 1 | bits[first + i]
    _check_padding(raw, n_bytes, 5 * n_blocks, "parameters")
    if (parameter > MAX_PARAMETER).any():
        raise PayloadError("rice-parameter", int(parameter.max()), f"at most {MAX_PARAMETER}")
    return parameter


def _read_unary(parts: list[bytes], counts: np.ndarray) -> np.ndarray:
    """Return the quotients: the gaps between the one bits, of which each part has exactly its count."""
    lengths = np.array([len(part) for part in parts], np.int64)
    ones = np.flatnonzero(np.unpackbits(np.frombuffer(b"".join(parts), np.uint8)))
    start = 8 * _starts(lengths)
    n_ones = np.searchsorted(ones, start + 8 * lengths) - np.searchsorted(ones, start)
    if (n_ones != counts).any():
        i = int(np.argmax(n_ones != counts))
        raise PayloadError("rice-unary", f"{n_ones[i]} one bits", f"{counts[i]}, one for each value")
    filled = counts > 0
    last_one = ones[np.cumsum(counts)[filled] - 1] - start[filled]
    if (lengths[~filled] != 0).any() or (last_one // 8 != lengths[filled] - 1).any():
        raise PayloadError("rice-trailing", "bytes after the last one bit", "a unary part that ends with it")
    before = np.empty_like(ones)  # where the code of each value begins, less one
    before[1:] = ones[:-1]
    before[_starts(counts)[filled]] = start[filled] - 1
    return ones - before - 1


def _read_remainders(parts: list[bytes], p: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the remainders, p[i] bits each; each part holds exactly those of its values."""
    end = np.concatenate([[0], np.cumsum(p)])
    plane_end = end[np.cumsum(counts)]
    n_bits = np.diff(plane_end, prepend=0)
    n_bytes = -(-n_bits // 8)
    for part, expected in zip(parts, n_bytes.tolist(), strict=True):
        if len(part) != expected:
            reason = "rice-truncated" if len(part) < expected else "rice-trailing"
            raise PayloadError(reason, f"{len(part)} bytes of remainders", expected)
    raw = np.frombuffer(b"".join(parts) + bytes(5), np.uint8)
    _check_padding(raw, n_bytes, n_bits, "remainders")
    first = end[:-1] + np.repeat(8 * _starts(n_bytes) - (plane_end - n_bits), counts)
    byte, bit = first >> 3, first & 7
    n_window = (7 + int(p.max(initial=0)) + 7) // 8  # bytes that the widest remainder can touch
    window = np.zeros(p.size, np.int64)
    for i in range(n_window):
        window = window << 8 | raw[byte + i]
    return (window >> (8 * n_window - bit - p)) & ((1 << p) - 1)


def _check_padding(raw: np.ndarray, n_bytes: np.ndarray, n_bits: np.ndarray, part: str) -> None:
    """Raise PayloadError unless the bits after ``n_bits`` in the last byte of each run are 0."""
    filled = n_bytes > 0
    last = raw[np.cumsum(n_bytes)[filled] - 1]
    unused = (8 * n_bytes - n_bits)[filled]
    if (last & ((1 << unused) - 1)).any():
        raise PayloadError("rice-padding", f"ones in the padding of the {part}", "zeros")
