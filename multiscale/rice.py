"""Residuals to the four parts of a RICE payload and back (specification 5.3).

Blocks of 16 residuals share a parameter p. Unary quotients and p-bit remainders are two separate
streams, so that both directions work on whole arrays: the ones of the unary stream *are* the quotients.
Every function takes many payloads at once, end to end in one array; one payload is a batch of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import PayloadError

BLOCK = 16
MAX_PARAMETER = 26
MAX_ZIGZAG = 1 << 26
_PARAMETER_BITS = 5
_LENGTH_BYTES = 4
_WINDOW_BYTES = 5  # that 26 bits can touch
_LOW_BITS = (1 << np.arange(MAX_PARAMETER + 1)) - 1  # a mask of p bits


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Return where each run of ``lengths`` begins when they lie end to end."""
    return np.cumsum(lengths) - lengths


def _within(lengths: np.ndarray) -> np.ndarray:
    """Return 0, 1, ... lengths[i] - 1 for each i, end to end."""
    return np.arange(int(lengths.sum())) - np.repeat(_starts(lengths), lengths)


def _totals(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the sums of runs of ``counts`` values, given the cumulative sum of all."""
    if values.size == 0:
        return np.zeros(len(counts), np.int64)
    end = np.cumsum(counts)
    return np.diff(np.where(end > 0, values[np.maximum(end, 1) - 1], 0), prepend=0)


def _n_bytes(n_bits: np.ndarray) -> np.ndarray:
    return -(-n_bits // 8)


def _block_sizes(counts: np.ndarray, n_blocks: np.ndarray) -> np.ndarray:
    """Return the number of values of each block of each payload: 16, and the rest in the last."""
    size = np.full(int(n_blocks.sum()), BLOCK)
    filled = counts > 0
    size[np.cumsum(n_blocks)[filled] - 1] -= -counts[filled] % BLOCK
    return size


def _best_parameters(u: np.ndarray, counts: np.ndarray, n_blocks: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return for each block the p of the smallest total, the smaller of equals (clause 5.6, step 5)."""
    if u.size == BLOCK * size.size:
        filled = u.astype(np.uint32)
    else:
        filled = np.zeros(BLOCK * size.size, np.uint32)  # short blocks filled up with zeros
        filled[np.arange(u.size) + np.repeat(BLOCK * _starts(n_blocks) - _starts(counts), counts)] = u
    quotient = filled.reshape(-1, BLOCK).T.copy()  # blocks along the last axis, which NumPy adds fastest
    best = np.zeros(size.size, np.int64)
    best_bits = np.add.reduce(quotient, axis=0, dtype=np.int64) + size
    # beyond the bits of the largest value every quotient is 0 and the total only grows
    for p in range(1, min(MAX_PARAMETER, int(u.max()).bit_length()) + 1):
        quotient >>= 1
        bits = np.add.reduce(quotient, axis=0, dtype=np.uint32) + size * (1 + p)
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
    size = _block_sizes(counts, n_blocks)
    parameter = _best_parameters(u, counts, n_blocks, size)
    p = np.repeat(parameter, size)
    quotient = u >> p
    unary_end = np.cumsum(quotient + 1)  # one past the one bit of each value, were there no padding
    remainder_end = np.cumsum(p)
    unary_bits, remainder_bits = _totals(unary_end, counts), _totals(remainder_end, counts)

    parameters_bytes, unary_bytes = _n_bytes(_PARAMETER_BITS * n_blocks), _n_bytes(unary_bits)
    length = parameters_bytes + _LENGTH_BYTES + unary_bytes + _n_bytes(remainder_bits)
    start = _starts(length)  # of each payload, bytes
    unary_start = start + parameters_bytes + _LENGTH_BYTES
    bits = np.zeros(8 * int(length.sum()), bool)
    place = np.repeat(8 * start, n_blocks) + _PARAMETER_BITS * _within(n_blocks)
    for i in range(_PARAMETER_BITS):
        bits[place + i] = parameter >> (_PARAMETER_BITS - 1 - i) & 1
    bits[unary_end - 1 + np.repeat(8 * unary_start - _starts(unary_bits), counts)] = True
    data = np.packbits(bits)
    for i in range(_LENGTH_BYTES):
        data[start + parameters_bytes + i] = unary_bytes >> 8 * i & 255
    shift = 8 * (unary_start + unary_bytes) - _starts(remainder_bits)
    _write_remainders(data, u - (quotient << p), p, remainder_end - p + np.repeat(shift, counts))
    whole = data.tobytes()
    return [whole[begin : begin + n] for begin, n in zip(start.tolist(), length.tolist(), strict=True)]


def _write_remainders(data: np.ndarray, remainder: np.ndarray, p: np.ndarray, position: np.ndarray) -> None:
    """Write p[i] bits at bit ``position`` (ascending) of ``data``, which is 0 there."""
    byte = position >> 3
    n_window = _n_window(p)
    window = remainder << (8 * n_window - (position & 7) - p)
    first = np.flatnonzero(np.concatenate([[True], byte[1:] != byte[:-1]]))  # that begins in its byte
    window = np.bitwise_or.reduceat(window, first)
    byte = byte[first]
    for i in range(n_window):
        part = window >> 8 * (n_window - 1 - i) & 255
        used = np.flatnonzero(part != 0)
        data[byte[used] + i] |= part[used].astype(np.uint8)


def _n_window(p: np.ndarray) -> int:
    """Return how many bytes the widest remainder can touch."""
    return (7 + int(p.max(initial=0)) + 7) // 8


def decode_residuals(payloads: Sequence[bytes], counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the int64 residuals of ``payloads`` end to end, ``counts[i]`` of each.

    Raises PayloadError with the reasons rice-truncated, rice-trailing, rice-parameter, rice-padding,
    rice-unary and rice-range; with several payloads it does not say which of them is wrong.
    Memory is bounded by the length of the payloads and ``counts``.
    """
    counts = np.asarray(counts, np.int64)
    data = np.frombuffer(b"".join(payloads) + bytes(_WINDOW_BYTES), np.uint8)
    length = np.array([len(payload) for payload in payloads], np.int64)
    start = _starts(length)
    n_blocks = -(-counts // BLOCK)
    parameters_bytes = _n_bytes(_PARAMETER_BITS * n_blocks)
    unary_start = parameters_bytes + _LENGTH_BYTES  # from here on relative to start
    _check_lengths(length, unary_start, "")
    unary_bytes = np.zeros(counts.size, np.int64)
    for i in range(_LENGTH_BYTES):
        unary_bytes |= data[start + parameters_bytes + i].astype(np.int64) << 8 * i
    remainder_start = unary_start + unary_bytes
    _check_lengths(length, remainder_start, "a unary part that ends with ")
    p = np.repeat(_read_parameters(data, start, n_blocks), _block_sizes(counts, n_blocks))
    quotient = _read_unary(data, start + unary_start, unary_bytes, counts)
    if quotient.size and quotient.max() > MAX_ZIGZAG >> int(p.max()) and (quotient > MAX_ZIGZAG >> p).any():
        raise PayloadError("rice-range", "a quotient that gives u above 2^26", "u at most 2^26")
    u = quotient << p
    u |= _read_remainders(data, start + remainder_start, length - remainder_start, p, counts)
    if u.size and u.max() > MAX_ZIGZAG:
        raise PayloadError("rice-range", "u above 2^26", "u at most 2^26")
    return (u >> 1) ^ -(u & 1)


def _check_lengths(length: np.ndarray, needed: np.ndarray, what: str) -> None:
    """Raise PayloadError unless every payload is at least as long as its first parts say."""
    short = length < needed
    if short.any():
        i = int(np.argmax(short))
        raise PayloadError("rice-truncated", f"{length[i]} bytes", f"{what}at least {needed[i]}")


def _read_parameters(data: np.ndarray, start: np.ndarray, n_blocks: np.ndarray) -> np.ndarray:
    """Return the parameter of each block, after checking range and padding."""
    first = np.repeat(8 * start, n_blocks) + _PARAMETER_BITS * _within(n_blocks)
    byte = first >> 3
    window = data[byte].astype(np.int64) << 8 | data[byte + 1]
    parameter = window >> (16 - _PARAMETER_BITS - (first & 7)) & 31
    _check_padding(data, start, _PARAMETER_BITS * n_blocks, "parameters")
    if (parameter > MAX_PARAMETER).any():
        raise PayloadError("rice-parameter", int(parameter.max()), f"at most {MAX_PARAMETER}")
    return parameter


def _read_unary(data: np.ndarray, start: np.ndarray, n_bytes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the quotients: the gaps between the one bits, of which each part has exactly its count."""
    begin = _starts(n_bytes)
    stream = data[np.arange(int(n_bytes.sum())) + np.repeat(start - begin, n_bytes)]
    ones = np.flatnonzero(np.unpackbits(stream).view(bool))
    n_ones = np.searchsorted(ones, 8 * (begin + n_bytes)) - np.searchsorted(ones, 8 * begin)
    if (n_ones != counts).any():
        i = int(np.argmax(n_ones != counts))
        raise PayloadError("rice-unary", f"{n_ones[i]} one bits", f"{counts[i]}, one for each value")
    filled = counts > 0
    last_one = ones[np.cumsum(counts)[filled] - 1] - 8 * begin[filled]
    if (n_bytes[~filled] != 0).any() or (last_one // 8 != n_bytes[filled] - 1).any():
        raise PayloadError("rice-unary", "bytes after the last one bit", "a unary part that ends with it")
    quotient = ones - 1
    quotient[1:] -= ones[:-1]
    first = _starts(counts)[filled]
    quotient[first] = ones[first] - 8 * begin[filled]
    return quotient


def _read_remainders(
    data: np.ndarray, start: np.ndarray, n_bytes: np.ndarray, p: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Return the remainders, p[i] bits each; each part holds exactly those of its values."""
    end = np.cumsum(p)
    n_bits = _totals(end, counts)
    expected = _n_bytes(n_bits)
    if (n_bytes != expected).any():
        i = int(np.argmax(n_bytes != expected))
        reason = "rice-truncated" if n_bytes[i] < expected[i] else "rice-trailing"
        raise PayloadError(reason, f"{n_bytes[i]} bytes of remainders", int(expected[i]))
    _check_padding(data, start, n_bits, "remainders")
    position = end - p
    position += np.repeat(8 * start - _starts(n_bits), counts)
    n_window = _n_window(p)
    windows = np.zeros(data.size - _WINDOW_BYTES + 1, np.int64)  # those bytes, from each byte on
    for i in range(n_window):
        windows <<= 8
        windows |= data[i : i + windows.size]
    window = windows[position >> 3]
    window >>= 8 * n_window - (position & 7) - p
    return window & _LOW_BITS[p]


def _check_padding(data: np.ndarray, start: np.ndarray, n_bits: np.ndarray, part: str) -> None:
    """Raise PayloadError unless the bits after ``n_bits`` in the last byte of each part are 0."""
    filled = n_bits > 0
    n_bytes = _n_bytes(n_bits)
    last = data[(start + n_bytes - 1)[filled]]
    if (last & _LOW_BITS[(8 * n_bytes - n_bits)[filled]]).any():
        raise PayloadError("rice-padding", f"ones in the padding of the {part}", "zeros")
